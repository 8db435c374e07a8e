// SPDX-License-Identifier: Apache-2.0
// What does a packet say, by the RFCs? The first defect from front to back, or its layers as they nest: each layer is cut out of the
// one around it and knows nothing of what lies outside. Knows no policy and none of the product's code.

/** Spelled as docs/reasons.md does. */
export type Defect =
  | 'bad_length'
  | 'bad_version'
  | 'fragment_tiny'
  | 'mapped_address'
  | 'source_route'
  | 'too_many_extension_headers'
  | 'truncated_header'
  | 'unknown_extension_header';

/** `bytes` of a fragment are what it carries behind the headers that each fragment repeats; `header` is the first of these bytes' protocol. */
export interface Piece {
  readonly isFirst: boolean;
  readonly offset: number;
  readonly id: number;
  readonly header: number;
}

export interface Upper {
  /** IANA's number. */
  readonly protocol: number;
  readonly message: Uint8Array;
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly isSyn: boolean;
  readonly isAck: boolean;
}

export interface Datagram {
  readonly family: 4 | 6;
  /** 4 or 16 bytes, one a character. */
  readonly source: string;
  readonly destination: string;
  readonly hopLimit: number;
  readonly piece: Piece | null;
  /** What the last header before the upper layer names; of a later fragment `piece.header`. */
  readonly protocol: number;
  /** null: a later fragment. */
  readonly upper: Upper | null;
  /** Of a first fragment: where, in what it carries, the fixed part of the upper layer's header ends. */
  readonly headerEnd: number;
}

const TCP = 6;
const UDP = 17;
const SCTP = 132;
const ICMP = { 4: 1, 6: 58 } as const;
/** RFC 8200, 4: a node need not take more than it wants to; docs/reasons.md says eight. */
const MOST_EXTENSIONS = 8;

const u16 = (bytes: Uint8Array, at: number) => ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
const u32 = (bytes: Uint8Array, at: number) => u16(bytes, at) * 0x10000 + u16(bytes, at + 2);

export function text(bytes: Uint8Array): string {
  let characters = '';
  for (const byte of bytes) characters += String.fromCharCode(byte);
  return characters;
}

/** Fixed part of the header: RFC 9293 3.1, RFC 768, RFC 9260 3.1, RFC 792 and RFC 4443 (with the four bytes that all errors and echoes have). */
function fixedHeader(family: 4 | 6, protocol: number): number {
  if (protocol === TCP) return 20;
  if (protocol === SCTP) return 12;
  return protocol === UDP || protocol === ICMP[family] ? 8 : 0;
}

/** RFC 1858 and RFC 5722: no later fragment may reach into what was judged. What has no header here is held to eight bytes. */
export function isTiny(piece: Piece): boolean {
  const least = piece.header === TCP ? 20 : piece.header === SCTP ? 12 : 8;
  return piece.offset < least;
}

/** RFC 791, 3.1: the first byte is the type; all but 0 and 1 say how long they are, type and length included. */
function optionDefect(options: Uint8Array): Defect | null {
  let rest = options;
  while (rest.length > 0 && rest[0] !== 0) {
    const [type, length = 0] = rest;
    if (type === 1) {
      rest = rest.subarray(1);
      continue;
    }
    if (rest.length < 2) return 'bad_length';
    if (type === 131 || type === 137) return 'source_route';
    if (length < 2 || length > rest.length) return 'bad_length';
    rest = rest.subarray(length);
  }
  return null;
}

function readUpper(family: 4 | 6, protocol: number, message: Uint8Array, isPiece: boolean): Upper | Defect {
  const fixed = fixedHeader(family, protocol);
  const short: Defect = isPiece ? 'fragment_tiny' : 'truncated_header';
  if (message.length < fixed) return short;
  const hasPorts = protocol === TCP || protocol === UDP || protocol === SCTP;
  const flags = protocol === TCP ? (message[13] ?? 0) : 0;
  if (protocol === TCP) {
    const header = ((message[12] ?? 0) >> 4) * 4;
    if (header < fixed) return 'bad_length';
    if (header > message.length) return isPiece ? short : 'bad_length';
  }
  if (protocol === UDP) {
    const claimed = u16(message, 4);
    if (claimed < fixed || (claimed > message.length && !isPiece)) return 'bad_length';
  }
  return {
    protocol,
    message,
    sourcePort: hasPorts ? u16(message, 0) : 0,
    destinationPort: hasPorts ? u16(message, 2) : 0,
    isSyn: (flags & 2) !== 0,
    isAck: (flags & 16) !== 0,
  };
}

/** RFC 791 and RFC 8200, 4.5: all but the last hold multiples of 8 bytes, and the whole must fit the length field. */
function pieceDefect(piece: Piece, bytes: number, repeated: number, isLast: boolean): Defect | null {
  if ((!isLast && bytes % 8 !== 0) || repeated + piece.offset + bytes > 65535) return 'bad_length';
  return !piece.isFirst && isTiny(piece) ? 'fragment_tiny' : null;
}

/** `isOffloaded`: segmentation is left to a device, and where a length field cannot say how long it is, it is 0. */
function readIpv4(bytes: Uint8Array, isOffloaded: boolean): Datagram | Defect {
  if (bytes.length < 20) return 'truncated_header';
  const first = bytes[0] ?? 0;
  if (first >> 4 !== 4) return 'bad_version';
  const header = (first & 15) * 4;
  const claimed = u16(bytes, 2) === 0 && isOffloaded ? bytes.length : u16(bytes, 2);
  if (header < 20 || claimed < header || claimed > bytes.length) return 'bad_length';
  const payload = bytes.subarray(header, claimed);
  const protocol = bytes[9] ?? 0;
  const place = u16(bytes, 6);
  const isLast = (place & 0x2000) === 0;
  const offset = (place & 0x1fff) * 8;
  const piece: Piece | null =
    isLast && offset === 0 ? null : { isFirst: offset === 0, offset, id: u16(bytes, 4), header: protocol };
  const defect =
    (piece && pieceDefect(piece, payload.length, header, isLast)) ??
    (header > 20 ? optionDefect(bytes.subarray(20, header)) : null);
  if (defect !== null) return defect;
  const upper = piece?.isFirst === false ? null : readUpper(4, protocol, payload, piece !== null);
  if (typeof upper === 'string') return upper;
  return {
    family: 4,
    source: text(bytes.subarray(12, 16)),
    destination: text(bytes.subarray(16, 20)),
    hopLimit: bytes[8] ?? 0,
    piece,
    protocol,
    upper,
    headerEnd: fixedHeader(4, protocol) || 8,
  };
}

const MAPPED = `${'\0'.repeat(10)}\xff\xff`;
/** Of IANA's list of extension headers, those that nobody here can look behind. */
const OPAQUE = new Set([135, 139, 140, 253, 254]);

interface Chain {
  readonly piece: Piece | null;
  readonly protocol: number;
  readonly rest: Uint8Array;
  /** Bytes of the chain behind the fragment header, which only the first fragment has. */
  readonly behind: number;
}

/** RFC 8200, 4; RFC 4302 for the authentication header, whose length counts words of four bytes, less two. */
function readChain(first: number, payload: Uint8Array): Chain | Defect {
  let next = first;
  let rest = payload;
  let piece: Piece | null = null;
  let behind = 0;
  let fragmentHeaders = 0;
  for (let count = 0; ; count += 1) {
    if (next === 43) return 'source_route';
    if (OPAQUE.has(next)) return 'unknown_extension_header';
    if (next !== 0 && next !== 60 && next !== 44 && next !== 51) return { piece, protocol: next, rest, behind };
    if (count === MOST_EXTENSIONS) return 'too_many_extension_headers';
    const short: Defect = piece === null ? 'truncated_header' : 'fragment_tiny';
    if (rest.length < 8) return short;
    const [following = 0, length = 0] = rest;
    if (next === 44) {
      if (fragmentHeaders > 0) return 'too_many_extension_headers';
      fragmentHeaders += 1;
      const place = u16(rest, 2);
      const id = u32(rest, 4);
      rest = rest.subarray(8);
      const offset = place & 0xfff8;
      const isLast = (place & 1) === 0;
      /* RFC 6946: one that is first and last is no fragment. */
      if (offset !== 0 || !isLast) {
        piece = { isFirst: offset === 0, offset, id, header: following };
        const defect = pieceDefect(piece, rest.length, payload.length - rest.length - 8, isLast);
        if (defect !== null) return defect;
        if (!piece.isFirst) return { piece, protocol: following, rest, behind };
      }
    } else {
      const bytes = next === 51 ? (length + 2) * 4 : (length + 1) * 8;
      if (bytes > rest.length) return short;
      rest = rest.subarray(bytes);
      if (piece !== null) behind += bytes;
    }
    next = following;
  }
}

function readIpv6(bytes: Uint8Array, isOffloaded: boolean): Datagram | Defect {
  if (bytes.length < 40) return 'truncated_header';
  if ((bytes[0] ?? 0) >> 4 !== 6) return 'bad_version';
  const behind = bytes.length - 40;
  const claimed = u16(bytes, 4) === 0 && isOffloaded ? behind : u16(bytes, 4);
  /* RFC 2675's jumbograms say 0, too: their length is in an option that nobody here reads. */
  if (claimed > behind || (claimed === 0 && behind > 0)) return 'bad_length';
  const source = text(bytes.subarray(8, 24));
  const destination = text(bytes.subarray(24, 40));
  if (source.startsWith(MAPPED) || destination.startsWith(MAPPED)) return 'mapped_address';
  const chain = readChain(bytes[6] ?? 0, bytes.subarray(40, 40 + claimed));
  if (typeof chain === 'string') return chain;
  const { piece, protocol, rest } = chain;
  const upper = piece?.isFirst === false ? null : readUpper(6, protocol, rest, piece !== null);
  if (typeof upper === 'string') return upper;
  return {
    family: 6,
    source,
    destination,
    hopLimit: bytes[7] ?? 0,
    piece,
    protocol,
    upper,
    headerEnd: chain.behind + (fixedHeader(6, protocol) || 8),
  };
}

/** `etherType` says which family it is sent as. */
export function readPacket(etherType: number, bytes: Uint8Array, isOffloaded = false): Datagram | Defect {
  if (etherType === 0x0800) return readIpv4(bytes, isOffloaded);
  return etherType === 0x86dd ? readIpv6(bytes, isOffloaded) : 'bad_version';
}

export const isIcmp = ({ family, protocol }: Datagram): boolean => protocol === ICMP[family];

/** As policies name them, of both families: `icmpType` of an EgressPolicy. */
export type IcmpKind =
  | 'EchoRequest'
  | 'EchoAnswer'
  | 'Unreachable'
  | 'TooBig'
  | 'TimeExceeded'
  | 'ParameterProblem'
  | 'Other';
const KINDS: Record<4 | 6, Record<number, IcmpKind>> = {
  4: { 0: 'EchoAnswer', 3: 'Unreachable', 8: 'EchoRequest', 11: 'TimeExceeded', 12: 'ParameterProblem' },
  6: {
    1: 'Unreachable',
    2: 'TooBig',
    3: 'TimeExceeded',
    4: 'ParameterProblem',
    128: 'EchoRequest',
    129: 'EchoAnswer',
  },
};

export function icmpKind(family: 4 | 6, message: Uint8Array): IcmpKind {
  const [type = 0, code] = message;
  /* RFC 1191: "fragmentation needed" is IPv4's "too big". */
  if (family === 4 && type === 3 && code === 4) return 'TooBig';
  return KINDS[family][type] ?? 'Other';
}

/** Of whatever has two ends: a question and its answer are one flow. */
export interface Ends {
  readonly source: string;
  readonly destination: string;
  readonly protocol: number;
  /** Of an ICMP echo both are its id. */
  readonly sourcePort: number;
  readonly destinationPort: number;
}

/** RFC 792 and RFC 4443: an error holds the beginning of the packet that it is about. null: nothing that has ends. */
export function quotedEnds(family: 4 | 6, message: Uint8Array): Ends | null {
  const quote = message.subarray(8);
  const [first = 0] = quote;
  const header = family === 4 ? (first & 15) * 4 : 40;
  if (first >> 4 !== family || header < 20 || quote.length < header + 8) return null;
  /* RFC 1122, 3.2.2: there is no error about a later fragment. */
  if (family === 4 && (u16(quote, 6) & 0x1fff) !== 0) return null;
  const protocol = quote[family === 4 ? 9 : 6] ?? 0;
  const addresses = family === 4 ? quote.subarray(12, 20) : quote.subarray(8, 40);
  const half = addresses.length / 2;
  const upper = quote.subarray(header);
  const ends = { source: text(addresses.subarray(0, half)), destination: text(addresses.subarray(half)), protocol };
  if (protocol === TCP || protocol === UDP)
    return { ...ends, sourcePort: u16(upper, 0), destinationPort: u16(upper, 2) };
  if (protocol !== ICMP[family] || !icmpKind(family, upper).startsWith('Echo')) return null;
  return { ...ends, sourcePort: u16(upper, 4), destinationPort: u16(upper, 4) };
}
