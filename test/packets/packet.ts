// SPDX-License-Identifier: Apache-2.0
// Packets as bytes, written as they read: `ipv6({ to }, hopByHop(), fragment({ more: true }), udp({ to: 53 }))`.
// Lengths and next headers are filled in unless a test lies about them. Knows nothing of verdicts.

/** A header and what it carries, told which protocol follows it. */
export interface Part {
  readonly protocol: number;
  bytes(next: number): Buffer;
}

export const LOCAL4 = '198.18.0.10';
export const LOCAL6 = 'fd00::10';
const NO_NEXT_HEADER = 59;

/** 16 bytes or 4, by family. Understands `::` once and no dotted tails. */
export function addressBytes(text: string): Buffer {
  if (!text.includes(':')) return Buffer.from(text.split('.').map(Number));
  const [head = '', tail = ''] = text.split('::');
  const groups = (part: string) => part.split(':').filter((group) => group !== '');
  const left = groups(head);
  const right = groups(tail);
  const middle = Array<string>(8 - left.length - right.length).fill('0');
  return Buffer.from([...left, ...middle, ...right].map((group) => group.padStart(4, '0')).join(''), 'hex');
}

/** As maps hold it: 32 hex digits, IPv4 v4-mapped. */
export function addressKey(text: string): string {
  const bytes = addressBytes(text);
  return bytes.length === 4 ? `00000000000000000000ffff${bytes.toString('hex')}` : bytes.toString('hex');
}

function join(parts: readonly Part[]): Buffer {
  let next = NO_NEXT_HEADER;
  let bytes = Buffer.alloc(0);
  for (const part of parts.toReversed()) {
    bytes = Buffer.concat([part.bytes(next), bytes]);
    next = part.protocol;
  }
  return bytes;
}

function frame(etherType: number, bytes: Buffer): Buffer {
  const ethernet = Buffer.from('0200000000020200000000010000', 'hex');
  ethernet.writeUInt16BE(etherType, 12);
  return Buffer.concat([ethernet, bytes]);
}

export interface Ipv4 {
  readonly to: string;
  readonly from?: string;
  readonly version?: number;
  /** In words; default: what the options take. */
  readonly headerWords?: number;
  readonly totalLength?: number;
  /** Hex; padded with zeroes (end of options) to a word. */
  readonly options?: string;
  readonly id?: number;
  /** Bytes. */
  readonly offset?: number;
  readonly more?: boolean;
  readonly dontFragment?: boolean;
  readonly ttl?: number;
  readonly protocol?: number;
  /** Bytes behind the datagram's end. */
  readonly trailer?: number;
}

export function ipv4(fields: Ipv4, ...parts: readonly Part[]): Buffer {
  const options = Buffer.from(fields.options ?? '', 'hex');
  const words = 5 + Math.ceil(options.length / 4);
  const payload = join(parts);
  const header = Buffer.alloc(words * 4);
  header.writeUInt8(((fields.version ?? 4) << 4) | (fields.headerWords ?? words), 0);
  header.writeUInt16BE(fields.totalLength ?? header.length + payload.length, 2);
  header.writeUInt16BE(fields.id ?? 0, 4);
  const flags = (fields.more ? 0x2000 : 0) | (fields.dontFragment ? 0x4000 : 0);
  header.writeUInt16BE(flags | ((fields.offset ?? 0) / 8), 6);
  header.writeUInt8(fields.ttl ?? 64, 8);
  header.writeUInt8(fields.protocol ?? parts[0]?.protocol ?? NO_NEXT_HEADER, 9);
  addressBytes(fields.from ?? LOCAL4).copy(header, 12);
  addressBytes(fields.to).copy(header, 16);
  options.copy(header, 20);
  return frame(0x0800, Buffer.concat([header, payload, Buffer.alloc(fields.trailer ?? 0)]));
}

export interface Ipv6 {
  readonly to: string;
  readonly from?: string;
  readonly version?: number;
  readonly payloadLength?: number;
  readonly hopLimit?: number;
  readonly trailer?: number;
}

export function ipv6(fields: Ipv6, ...parts: readonly Part[]): Buffer {
  const payload = join(parts);
  const header = Buffer.alloc(40);
  header.writeUInt8((fields.version ?? 6) << 4, 0);
  header.writeUInt16BE(fields.payloadLength ?? payload.length, 4);
  header.writeUInt8(parts[0]?.protocol ?? NO_NEXT_HEADER, 6);
  header.writeUInt8(fields.hopLimit ?? 64, 7);
  addressBytes(fields.from ?? LOCAL6).copy(header, 8);
  addressBytes(fields.to).copy(header, 24);
  return frame(0x86dd, Buffer.concat([header, payload, Buffer.alloc(fields.trailer ?? 0)]));
}

const PLAIN = Buffer.from('020000000001', 'hex');

/** Another EtherType's frame. */
export function ethernet(etherType: number, bytes: Buffer): Buffer {
  return frame(etherType, bytes);
}

export interface Arp {
  readonly from: string;
  readonly to: string;
  /** 1 asks, 2 answers. */
  readonly operation?: number;
  /** 1 is Ethernet. */
  readonly hardware?: number;
}

export function arp(fields: Arp): Buffer {
  const bytes = Buffer.alloc(28);
  bytes.writeUInt16BE(fields.hardware ?? 1, 0);
  bytes.writeUInt16BE(0x0800, 2);
  bytes.writeUInt8(6, 4);
  bytes.writeUInt8(4, 5);
  bytes.writeUInt16BE(fields.operation ?? 1, 6);
  PLAIN.copy(bytes, 8);
  addressBytes(fields.from).copy(bytes, 14);
  addressBytes(fields.to).copy(bytes, 24);
  return frame(0x0806, bytes);
}

/** The same frame behind a VLAN tag, or one more. */
export function tag(packet: Buffer, vlan: number, etherType = 0x8100): Buffer {
  const header = Buffer.alloc(4);
  header.writeUInt16BE(etherType, 0);
  header.writeUInt16BE(vlan, 2);
  return Buffer.concat([packet.subarray(0, 12), header, packet.subarray(12)]);
}

/** The same frame from another Ethernet address (hex). */
export function fromHardware(packet: Buffer, address: string): Buffer {
  const copy = Buffer.from(packet);
  copy.write(address, 6, 'hex');
  return copy;
}

function fold(...parts: readonly Buffer[]): number {
  const bytes = Buffer.concat([...parts, Buffer.alloc(1)]);
  let sum = 0;
  for (let at = 0; at + 1 < bytes.length; at += 2) sum += bytes.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return ~sum & 0xffff;
}

/** The same frame with the checksums that a kernel asks for: TCP, UDP or ICMP right behind an IP header without options. */
export function checksummed(frame: Buffer): Buffer {
  const copy = Buffer.from(frame);
  const isV6 = copy.readUInt16BE(12) === 0x86dd;
  const ip = copy.subarray(14);
  const payload = ip.subarray(isV6 ? 40 : 20);
  const protocol = ip.readUInt8(isV6 ? 6 : 9);
  const at = new Map([
    [6, 16],
    [17, 6],
    [1, 2],
    [58, 2],
  ]).get(protocol);
  if (at === undefined) throw new Error(`no checksum for protocol ${protocol}`);
  const pseudo = Buffer.alloc(4);
  pseudo.writeUInt16BE(protocol, 0);
  pseudo.writeUInt16BE(payload.length, 2);
  const addresses = isV6 ? ip.subarray(8, 40) : ip.subarray(12, 20);
  payload.writeUInt16BE(protocol === 1 ? fold(payload) : fold(addresses, pseudo, payload), at);
  if (!isV6) ip.writeUInt16BE(fold(ip.subarray(0, 20)), 10);
  return copy;
}

/** The same bytes under the other family's EtherType. */
export function mislabel(packet: Buffer): Buffer {
  const copy = Buffer.from(packet);
  copy.writeUInt16BE(copy.readUInt16BE(12) === 0x0800 ? 0x86dd : 0x0800, 12);
  return copy;
}

/** Only the first `length` bytes of a part. */
export function cut(length: number, part: Part): Part {
  return { protocol: part.protocol, bytes: (next) => part.bytes(next).subarray(0, length) };
}

export function raw(protocol: number, bytes: number | Buffer = 16): Part {
  return { protocol, bytes: () => (typeof bytes === 'number' ? Buffer.alloc(bytes) : bytes) };
}

const FLAGS = { fin: 1, syn: 2, rst: 4, psh: 8, ack: 16 };

export interface Tcp {
  readonly to: number;
  readonly from?: number;
  /** Default: ACK alone. */
  readonly flags?: readonly (keyof typeof FLAGS)[];
  readonly headerWords?: number;
  readonly sequence?: number;
  /** Zeroes, or what is carried. */
  readonly bytes?: number | Buffer;
}

export function tcp(fields: Tcp): Part {
  return {
    protocol: 6,
    bytes: () => {
      const payload = typeof fields.bytes === 'object' ? fields.bytes : Buffer.alloc(fields.bytes ?? 0);
      const header = Buffer.alloc(20);
      header.writeUInt16BE(fields.from ?? 40000, 0);
      header.writeUInt16BE(fields.to, 2);
      header.writeUInt32BE(fields.sequence ?? 0, 4);
      header.writeUInt8((fields.headerWords ?? 5) << 4, 12);
      header.writeUInt8(
        (fields.flags ?? ['ack']).reduce((sum, flag) => sum | FLAGS[flag], 0),
        13,
      );
      return Buffer.concat([header, payload]);
    },
  };
}

export interface Udp {
  readonly to: number;
  readonly from?: number;
  readonly length?: number;
  /** Zeroes, or what is carried. */
  readonly bytes?: number | Buffer;
}

export function udp(fields: Udp): Part {
  return {
    protocol: 17,
    bytes: () => {
      const payload = typeof fields.bytes === 'object' ? fields.bytes : Buffer.alloc(fields.bytes ?? 0);
      const header = Buffer.alloc(8);
      header.writeUInt16BE(fields.from ?? 40000, 0);
      header.writeUInt16BE(fields.to, 2);
      header.writeUInt16BE(fields.length ?? header.length + payload.length, 4);
      return Buffer.concat([header, payload]);
    },
  };
}

export function sctp(fields: { readonly to: number }): Part {
  return {
    protocol: 132,
    bytes: () => {
      const header = Buffer.alloc(12);
      header.writeUInt16BE(40000, 0);
      header.writeUInt16BE(fields.to, 2);
      return header;
    },
  };
}

export interface Icmp {
  readonly type: number;
  readonly code?: number;
  readonly id?: number;
  /** What follows the first 8 bytes. */
  readonly payload?: Buffer;
}

function icmpOf(protocol: number, fields: Icmp): Part {
  return {
    protocol,
    bytes: () => {
      const header = Buffer.alloc(8);
      header.writeUInt8(fields.type, 0);
      header.writeUInt8(fields.code ?? 0, 1);
      header.writeUInt16BE(fields.id ?? 0, 4);
      return Buffer.concat([header, fields.payload ?? Buffer.alloc(0)]);
    },
  };
}
export const icmp4 = (fields: Icmp): Part => icmpOf(1, fields);
export const icmp6 = (fields: Icmp): Part => icmpOf(58, fields);

function options(protocol: number, words: number, content: string): Part {
  return {
    protocol,
    bytes: (next) => {
      const header = Buffer.alloc(words * 8);
      header.writeUInt8(next, 0);
      header.writeUInt8(words - 1, 1);
      header.write(content, 2, 'hex');
      return header;
    },
  };
}
/** Extension headers; `words` of 8 bytes. */
export const hopByHop = (words = 1, content = ''): Part => options(0, words, content);
export const destinationOptions = (words = 1): Part => options(60, words, '');
export const routing = (): Part => options(43, 1, '');

/** An authentication header: its length counts words of 4 bytes, less 2. */
export function authentication(): Part {
  return {
    protocol: 51,
    bytes: (next) => {
      const header = Buffer.alloc(16);
      header.writeUInt8(next, 0);
      header.writeUInt8(2, 1);
      return header;
    },
  };
}

export interface Fragment {
  readonly offset?: number;
  readonly more?: boolean;
  readonly id?: number;
  /** Default: what follows. */
  readonly next?: number;
}

export function fragment(fields: Fragment): Part {
  return {
    protocol: 44,
    bytes: (next) => {
      const header = Buffer.alloc(8);
      header.writeUInt8(fields.next ?? next, 0);
      header.writeUInt16BE((fields.offset ?? 0) | (fields.more ? 1 : 0), 2);
      header.writeUInt32BE(fields.id ?? 0, 4);
      return header;
    },
  };
}
