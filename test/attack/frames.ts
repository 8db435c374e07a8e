// SPDX-License-Identifier: Apache-2.0
// Frames that somebody with every right in a pod may try to send, as data: to whom, by which means. Each holds this workload's own
// `evil` or `ghost` address, so that whoever sees it arrive knows whose it was. Knows nothing of who stops it.
import {
  addressBytes,
  arp,
  authentication,
  checksummed,
  destinationOptions,
  ethernet,
  fragment,
  fromHardware,
  hopByHop,
  icmp4,
  icmp6,
  ipv4,
  ipv6,
  mislabel,
  type Part,
  raw,
  routing,
  sctp,
  tag,
  tcp,
  udp,
} from '../packets/packet.ts';
import { type Addresses, FAMILIES, type Family, PORT } from './scene.ts';

export type Means = 'packet' | 'cooked' | 'past-the-queue' | 'ring' | 'offload' | 'raw' | 'xdp' | 'tap';

export interface View extends Addresses {
  readonly family: Family;
  readonly hardware: { readonly own: string; readonly beyond: string };
}

export interface FrameWay {
  /** Default: AF_PACKET. */
  readonly means?: Means;
  readonly families?: readonly Family[];
  readonly frames: (view: View) => readonly Buffer[];
}

interface Header {
  readonly from?: string;
  readonly to: string;
}

/** A packet of the family, between the right Ethernet addresses. */
function packet({ family, own, hardware }: View, { from = own, to }: Header, ...parts: readonly Part[]): Buffer {
  return between(hardware, (family === 'IPv4' ? ipv4 : ipv6)({ from, to }, ...parts));
}

function between({ own, beyond }: View['hardware'], frame: Buffer): Buffer {
  const copy = Buffer.from(frame);
  copy.write(beyond + own, 0, 'hex');
  // Else the address would lead to nobody afterwards.
  if (copy.readUInt16BE(12) === 0x0806 && copy.length >= 28) copy.write(own, 22, 'hex');
  const header = copy.subarray(14, 14 + 4 * ((copy[14] ?? 0) & 0xf));
  // Bridges and hosts drop IPv4 headers whose own checksum is wrong.
  if (copy.readUInt16BE(12) === 0x0800 && header.length >= 20) header.writeUInt16BE(0xffff - sum(header), 10);
  return copy;
}

const token = (address: string) => addressBytes(address);
const carrying = (address: string, bytes = 4): Part =>
  raw(17, datagram(PORT, Buffer.concat([token(address), Buffer.alloc(bytes)])));

function datagram(to: number, payload: Buffer): Buffer {
  const header = Buffer.alloc(8);
  header.writeUInt16BE(40000, 0);
  header.writeUInt16BE(to, 2);
  header.writeUInt16BE(8 + payload.length, 4);
  return Buffer.concat([header, payload]);
}

const toEvil = (view: View) => packet(view, { to: view.evil }, udp({ to: PORT, bytes: 8 }));
const tcpTo = (view: View, ...flags: ('syn' | 'ack' | 'fin' | 'rst' | 'psh')[]) =>
  packet(view, { to: view.evil }, tcp({ to: PORT, flags }));
const V4: readonly Family[] = ['IPv4'];
const V6: readonly Family[] = ['IPv6'];

/** `struct virtio_net_hdr`, little-endian: what is left to do for a frame. */
function virtio(fields: {
  gsoType?: number;
  headerBytes: number;
  gsoSize?: number;
  start: number;
  offset: number;
}): Buffer {
  const header = Buffer.alloc(10);
  header.writeUInt8(1, 0);
  header.writeUInt8(fields.gsoType ?? 0, 1);
  header.writeUInt16LE(fields.headerBytes, 2);
  header.writeUInt16LE(fields.gsoSize ?? 0, 4);
  header.writeUInt16LE(fields.start, 6);
  header.writeUInt16LE(fields.offset, 8);
  return header;
}

/** One's complement sum of 16-bit words. */
function sum(bytes: Buffer): number {
  let total = 0;
  for (let at = 0; at < bytes.length; at += 2) total += bytes.readUInt16BE(at);
  while (total > 0xffff) total = (total & 0xffff) + (total >> 16);
  return total;
}

/** A frame to `good`, whose checksum, once somebody works it out, is written over the destination and makes it `evil`. */
function rewrittenLater(view: View): Buffer {
  const isV6 = view.family === 'IPv6';
  const frame = packet(view, { to: view.good }, udp({ to: PORT, bytes: 8 }));
  const field = isV6 ? 52 : 32;
  const start = isV6 ? 40 : 20;
  const wanted = token(view.evil).readUInt16BE(isV6 ? 14 : 2);
  const spare = frame.length - 2;
  frame.writeUInt16BE(0, spare);
  const rest = 0xffff - sum(frame.subarray(start));
  frame.writeUInt16BE(((0xffff - wanted + rest) % 0xffff) & 0xffff, spare);
  return Buffer.concat([virtio({ headerBytes: isV6 ? 62 : 42, start, offset: field - start }), frame]);
}

const icmp = (view: View, type4: number, type6: number, payload: Buffer = Buffer.alloc(8), code = 0): Part =>
  view.family === 'IPv4' ? icmp4({ type: type4, code, payload }) : icmp6({ type: type6, code, payload });

/** To the link's own: hop limit 255. */
const discovery = (view: View, header: Header, type: number, payload: Buffer, hopLimit = 255): Buffer =>
  between(view.hardware, ipv6({ from: header.from ?? view.own, to: header.to, hopLimit }, icmp6({ type, payload })));

const jumbo = (length: number) => `c204${length.toString(16).padStart(8, '0')}`;

export const FRAME_WAYS: Readonly<Record<string, FrameWay>> = {
  // ---- below IP ----
  'packet socket': { frames: (view) => [toEvil(view), tcpTo(view, 'syn')] },
  'packet socket, Ethernet header by the kernel': { means: 'cooked', frames: (view) => [toEvil(view)] },
  'packet socket, past the queue': { means: 'past-the-queue', frames: (view) => [toEvil(view)] },
  'packet socket, by a ring': { means: 'ring', frames: (view) => [toEvil(view)] },
  'packet socket, segments to be made later': {
    means: 'offload',
    frames: (view) => {
      const headerBytes = view.family === 'IPv4' ? 54 : 74;
      const segments = virtio({
        ...{ gsoType: view.family === 'IPv4' ? 1 : 4, headerBytes, gsoSize: 8 },
        ...{ start: headerBytes - 20, offset: 16 },
      });
      return [Buffer.concat([segments, packet(view, { to: view.evil }, tcp({ to: PORT, bytes: 3000 }))])];
    },
  },
  'checksum that is written over the destination later': { means: 'offload', frames: (view) => [rewrittenLater(view)] },
  'XDP socket': { means: 'xdp', frames: (view) => [toEvil(view)] },
  'VLAN tag': { frames: (view) => [tag(toEvil(view), 5)] },
  'VLAN priority tag': { frames: (view) => [tag(toEvil(view), 0)] },
  '802.1ad tag': { frames: (view) => [tag(toEvil(view), 5, 0x88a8)] },
  'two VLAN tags (QinQ)': { frames: (view) => [tag(tag(toEvil(view), 5), 6, 0x88a8)] },
  'VLAN tags of old switches': { frames: (view) => [0x9100, 0x9200, 0x88e7].map((type) => tag(toEvil(view), 5, type)) },
  'IP in 802.2 LLC and SNAP': {
    frames: (view) => {
      const bytes = toEvil(view).subarray(12);
      const snap = Buffer.concat([Buffer.from('aaaa03000000', 'hex'), bytes]);
      return [between(view.hardware, ethernet(snap.length, snap))];
    },
  },
  LLDP: { frames: (view) => [between(view.hardware, ethernet(0x88cc, padded(view.evil)))] },
  STP: {
    frames: (view) => [
      between(view.hardware, ethernet(46, Buffer.concat([Buffer.from('424203', 'hex'), padded(view.evil)]))),
    ],
  },
  MACsec: { frames: (view) => [between(view.hardware, ethernet(0x88e5, padded(view.evil)))] },
  'PPPoE, MPLS, EAPOL, LACP, IPX': {
    frames: (view) =>
      [0x8863, 0x8864, 0x8847, 0x8848, 0x888e, 0x8809, 0x8137].map((type) =>
        between(view.hardware, ethernet(type, padded(view.evil))),
      ),
  },
  'frames that end within a header': {
    frames: (view) => {
      const type = view.family === 'IPv4' ? 0x0800 : 0x86dd;
      const version = Buffer.from(view.family === 'IPv4' ? '45000014' : '60000000', 'hex');
      return [
        between(view.hardware, ethernet(type, token(view.evil))),
        between(view.hardware, ethernet(type, Buffer.concat([version, token(view.evil)]))),
        between(
          view.hardware,
          ethernet(0x0806, Buffer.concat([Buffer.from('0001080006040001', 'hex'), token(view.evil)])),
        ),
      ];
    },
  },
  // ---- other identities ----
  'source address of another': {
    frames: (view) => [packet(view, { from: view.ghost, to: view.good }, udp({ to: PORT }))],
  },
  'source address of another, by a raw socket': {
    means: 'raw',
    frames: (view) => [packet(view, { from: view.ghost, to: view.good }, udp({ to: PORT, bytes: 4 }))],
  },
  'source address of nobody (DHCP)': {
    frames: (view) => [
      view.family === 'IPv4'
        ? packet(view, { from: '0.0.0.0', to: '255.255.255.255' }, raw(17, datagram(67, token(view.evil))))
        : packet(view, { from: '::', to: 'ff02::1:2' }, raw(17, datagram(547, token(view.evil)))),
    ],
  },
  'Ethernet address of another': {
    frames: (view) => [fromHardware(packet(view, { to: view.good }, carrying(view.evil)), '0200000000aa')],
  },
  'ARP for another': {
    families: V4,
    frames: ({ ghost, good, hardware }) =>
      [1, 2].flatMap((operation) => [
        between(hardware, arp({ from: ghost, to: ghost, operation })),
        between(hardware, arp({ from: ghost, to: good, operation })),
      ]),
  },
  'ARP with a message behind it': {
    families: V4,
    frames: ({ own, good, evil, hardware }) => [
      between(
        hardware,
        Buffer.concat([arp({ from: own, to: good }), Buffer.alloc(200), token(evil), Buffer.alloc(800)]),
      ),
    ],
  },
  'neighbour advertisement for another': {
    families: V6,
    frames: (view) => [
      discovery(view, { to: 'ff02::1' }, 136, token(view.ghost)),
      discovery(view, { to: view.good }, 136, token(view.ghost)),
    ],
  },
  "search for a duplicate of another's address": {
    families: V6,
    frames: (view) => [discovery(view, { from: '::', to: 'ff02::1:ff00:1' }, 135, token(view.ghost))],
  },
  'neighbour discovery with a message behind it': {
    families: V6,
    frames: (view) => {
      const [about, message] = [
        token(view.own),
        Buffer.concat([Buffer.alloc(200), token(view.evil), Buffer.alloc(800)]),
      ];
      return [
        ...['fe80::99', 'ff02::99', view.evil].map((to) =>
          discovery(view, { to }, 136, Buffer.concat([about, message])),
        ),
        discovery(view, { to: 'fe80::99' }, 133, message),
        Buffer.concat([discovery(view, { to: 'ff02::1' }, 136, about), message]),
      ];
    },
  },
  'router advertisement': {
    families: V6,
    frames: (view) => [
      discovery(
        view,
        { to: 'ff02::1' },
        134,
        Buffer.concat([Buffer.alloc(8), Buffer.from('03044000', 'hex'), Buffer.alloc(12), token(view.ghost)]),
      ),
    ],
  },
  redirect: {
    frames: (view) => [
      view.family === 'IPv4'
        ? packet(view, { to: view.evil }, icmp4({ type: 5, payload: token(view.ghost) }))
        : discovery(view, { to: 'ff02::1' }, 137, Buffer.concat([token(view.ghost), token(view.ghost)])),
    ],
  },
  'multicast membership reports': {
    frames: (view) => [
      view.family === 'IPv4'
        ? between(
            view.hardware,
            ipv4(
              { from: view.own, to: '224.0.0.22', ttl: 1, options: '94040000' },
              raw(
                2,
                Buffer.concat([
                  Buffer.from('2200000000000001', 'hex'),
                  Buffer.from('04000001', 'hex'),
                  token('239.1.2.3'),
                  token(view.evil),
                ]),
              ),
            ),
          )
        : discovery(
            view,
            { to: view.evil },
            143,
            Buffer.concat([Buffer.from('04000001', 'hex'), token('ff0e::1'), token(view.evil)]),
            1,
          ),
    ],
  },
  'multicast and broadcast': {
    frames: (view) =>
      (view.family === 'IPv4'
        ? ['224.0.0.7', '239.1.2.3', '255.255.255.255', '198.18.255.255']
        : ['ff02::7', 'ff05::7', 'ff0e::7']
      ).map((to) => packet(view, { to }, carrying(view.evil))),
  },
  // ---- IP ----
  fragments: {
    frames: (view) => pieces(view, view.evil, [0, 16], 16),
  },
  'fragments in reverse order': { frames: (view) => pieces(view, view.evil, [16, 0], 16) },
  'a later fragment alone': { frames: (view) => pieces(view, view.evil, [64], 16) },
  'a later fragment to another than the first': {
    frames: (view) => [...pieces(view, view.good, [0], 16), ...pieces(view, view.evil, [16], 16)],
  },
  'fragments that overlap': {
    frames: (view) => [
      piece(view, view.good, 0, true, tcp({ to: PORT, bytes: 12 })),
      piece(view, view.good, 8, false, raw(6, Buffer.concat([Buffer.alloc(8), token(view.evil)]))),
    ],
  },
  'a first fragment without its header': { frames: (view) => [piece(view, view.evil, 0, true, raw(6, 8))] },
  'source routes': {
    frames: (view) =>
      view.family === 'IPv4'
        ? ['8307', '8907'].map((option) =>
            between(
              view.hardware,
              ipv4(
                { from: view.own, to: view.good, options: `01${option}04${token(view.evil).toString('hex')}` },
                udp({ to: PORT }),
              ),
            ),
          )
        : [0, 2, 4].map((type) => packet(view, { to: view.good }, segments(type, view.evil), udp({ to: PORT }))),
  },
  'options that cannot be read': {
    families: V4,
    frames: ({ own, evil, hardware }) =>
      ['0700', '07ff', '44'].map((options) =>
        between(hardware, ipv4({ from: own, to: evil, options: `010101${options}` }, udp({ to: PORT }))),
      ),
  },
  'extension headers': {
    families: V6,
    frames: (view) => [
      packet(
        view,
        { to: view.evil },
        hopByHop(),
        destinationOptions(),
        destinationOptions(3),
        authentication(),
        udp({ to: PORT }),
      ),
    ],
  },
  'too many extension headers': {
    families: V6,
    frames: (view) => [
      packet(view, { to: view.evil }, ...Array.from({ length: 12 }, () => destinationOptions()), udp({ to: PORT })),
    ],
  },
  'extension headers that nobody knows': {
    families: V6,
    frames: (view) =>
      [135, 139, 140, 253, 254].map((next) =>
        packet(view, { to: view.evil }, raw(next, Buffer.from('1100000000000000', 'hex'))),
      ),
  },
  'routing header, empty': {
    families: V6,
    frames: (view) => [packet(view, { to: view.evil }, routing(), udp({ to: PORT }))],
  },
  jumbogram: {
    families: V6,
    frames: (view) => [
      between(
        view.hardware,
        ipv6({ from: view.own, to: view.evil, payloadLength: 0 }, hopByHop(1, jumbo(80)), udp({ to: PORT, bytes: 64 })),
      ),
    ],
  },
  'IPv4-mapped address on the wire': {
    families: V6,
    frames: (view) => [
      packet(
        view,
        {
          to: `::ffff:${token(view.evil).toString('hex').slice(-8, -4)}:${token(view.evil).toString('hex').slice(-4)}`,
        },
        carrying(view.evil),
      ),
    ],
  },
  'one family under the name of the other': { frames: (view) => [mislabel(toEvil(view))] },
  'lengths that lie': {
    frames: (view) =>
      view.family === 'IPv4'
        ? [
            between(view.hardware, ipv4({ from: view.own, to: view.evil, totalLength: 1000 }, udp({ to: PORT }))),
            between(view.hardware, ipv4({ from: view.own, to: view.evil, totalLength: 10 }, udp({ to: PORT }))),
            between(view.hardware, ipv4({ from: view.own, to: view.evil, headerWords: 4 }, udp({ to: PORT }))),
            packet(view, { to: view.evil }, udp({ to: PORT, length: 2000 })),
          ]
        : [
            between(view.hardware, ipv6({ from: view.own, to: view.evil, payloadLength: 1000 }, udp({ to: PORT }))),
            between(view.hardware, ipv6({ from: view.own, to: view.evil, payloadLength: 0 }, udp({ to: PORT }))),
            packet(view, { to: view.evil }, udp({ to: PORT, length: 2000 })),
          ],
  },
  'a message behind an allowed datagram': {
    frames: (view) => [
      Buffer.concat([packet(view, { to: view.good }, udp({ to: PORT })), Buffer.alloc(40), token(view.evil)]),
    ],
  },
  'allowed address, Ethernet address of all': {
    frames: (view) => {
      const frame = packet(view, { to: view.good }, carrying(view.evil));
      frame.fill(0xff, 0, 6);
      return [frame];
    },
  },
  // ---- TCP without a connection ----
  'TCP segments without a SYN': {
    means: 'raw',
    frames: (view) => [
      tcpTo(view, 'ack'),
      tcpTo(view, 'fin', 'ack'),
      tcpTo(view, 'rst'),
      tcpTo(view),
      tcpTo(view, 'fin', 'psh'),
    ],
  },
  'TCP segments without a SYN, by a packet socket': {
    frames: (view) => [
      tcpTo(view, 'ack'),
      tcpTo(view, 'fin', 'ack'),
      tcpTo(view, 'rst'),
      tcpTo(view),
      tcpTo(view, 'fin', 'psh'),
    ],
  },
  'an answer to a SYN that nobody sent': { means: 'raw', frames: (view) => [tcpTo(view, 'syn', 'ack')] },
  // ---- ICMP ----
  'ICMP echo by a raw socket': {
    means: 'raw',
    frames: (view) => [checksummed(packet(view, { to: view.evil }, icmp(view, 8, 128)))],
  },
  'ICMP echo answers': { frames: (view) => [checksummed(packet(view, { to: view.evil }, icmp(view, 0, 129)))] },
  'ICMP errors about flows that there are none of': {
    frames: (view) => {
      const quoted = (part: Part) => packet({ ...view }, { from: view.evil, to: view.own }, part).subarray(14);
      return [udp({ from: PORT, to: 40000, bytes: 64 }), tcp({ from: PORT, to: 40000, bytes: 64 })].flatMap((part) => [
        packet(view, { to: view.evil }, icmp(view, 3, 1, quoted(part), 3)),
        packet(view, { to: view.evil }, icmp(view, 11, 3, quoted(part))),
        packet(view, { to: view.evil }, icmp(view, 12, 4, quoted(part))),
      ]);
    },
  },
  'ICMP of other types': {
    frames: (view) => [13, 15, 17, 42].map((type) => packet(view, { to: view.evil }, icmp(view, type, type + 126))),
  },
  // ---- tunnels of one's own ----
  'tunnel: IP in IP': {
    means: 'raw',
    frames: (view) => [
      packet(
        view,
        { to: view.evil },
        raw(4, ipv4({ from: '198.18.1.200', to: '198.18.2.1' }, udp({ to: PORT })).subarray(14)),
      ),
      packet(
        view,
        { to: view.evil },
        raw(41, ipv6({ from: 'fd00::1', to: 'fd00::2' }, udp({ to: PORT })).subarray(14)),
      ),
    ],
  },
  'tunnel: GRE': {
    means: 'raw',
    frames: (view) => [
      packet(
        view,
        { to: view.evil },
        raw(
          47,
          Buffer.concat([Buffer.from('00000800', 'hex'), ipv4({ to: '198.18.2.1' }, udp({ to: PORT })).subarray(14)]),
        ),
      ),
    ],
  },
  'tunnel: ESP, L2TP, EtherIP, DCCP, UDP-Lite, SCTP': {
    means: 'raw',
    frames: (view) => [
      ...[50, 115, 97, 33, 136].map((protocol) => packet(view, { to: view.evil }, raw(protocol, 40))),
      packet(view, { to: view.evil }, sctp({ to: PORT })),
    ],
  },
};

/** 46 bytes of a frame, this address in the middle. */
function padded(address: string): Buffer {
  const bytes = Buffer.alloc(46);
  token(address).copy(bytes, 8);
  return bytes;
}

/** RFC 5095's, RFC 6275's or RFC 8754's, with one segment that is left. */
function segments(type: number, address: string): Part {
  return {
    protocol: 43,
    bytes: (next) => Buffer.concat([Buffer.from([next, 2, type, 1, 0, 0, 0, 0]), token(address)]),
  };
}

function piece({ family, own, hardware }: View, to: string, offset: number, more: boolean, part: Part): Buffer {
  const frame =
    family === 'IPv4'
      ? ipv4({ from: own, to, offset, more, id: 7 }, part)
      : ipv6({ from: own, to }, fragment({ offset, more, id: 7, next: part.protocol }), part);
  return between(hardware, frame);
}

/** Fragments of a UDP datagram, at these offsets; the first has its header. */
function pieces(view: View, to: string, offsets: readonly number[], bytes: number): Buffer[] {
  return offsets.map((offset) =>
    piece(
      view,
      to,
      offset,
      offset === 0,
      offset === 0 ? udp({ to: PORT, bytes: bytes - 8, length: 2 * bytes }) : raw(17, bytes),
    ),
  );
}

export const familiesOf = (way: FrameWay): readonly Family[] => way.families ?? FAMILIES;
