// SPDX-License-Identifier: Apache-2.0
// Packets as BPF_PROG_TEST_RUN takes them: behind an Ethernet header, valid but for their checksums, which no program reads.

import { isIPv6 } from 'node:net';
import { addressKey } from '../src/model/address.ts';

export interface Frame {
  readonly protocol: 'TCP' | 'UDP';
  readonly address: string;
  readonly port: number;
  /** A TCP segment that opens a connection; else one of an open connection. */
  readonly syn?: boolean;
  /** What a datagram carries. */
  readonly payload?: Buffer;
  /** It comes from there; else it goes there. */
  readonly inbound?: boolean;
}

/** What frames are sent from. */
export const OWN4 = '198.18.0.2';
export const OWN6 = 'fd00:18::2';
const ETHERNET_BYTES = 14;
const SOURCE_PORT = 40_000;

/** Where a packet comes from and goes to: addresses, or ports. */
interface Ends<T> {
  readonly from: T;
  readonly to: T;
}

export function frame({ protocol, address, port, syn = false, payload, inbound = false }: Frame): Buffer {
  const between = <T>(own: T, other: T): Ends<T> => (inbound ? { from: other, to: own } : { from: own, to: other });
  const ports = between(SOURCE_PORT, port);
  const transport = protocol === 'TCP' ? tcp(ports, syn) : udp(ports, payload ?? Buffer.alloc(0));
  const ip = isIPv6(address)
    ? ipv6(between(OWN6, address), protocol, transport.length)
    : ipv4(between(OWN4, address), protocol, transport.length);
  const ethernet = Buffer.alloc(ETHERNET_BYTES);
  ethernet.writeUInt16BE(isIPv6(address) ? 0x86dd : 0x0800, 12);
  return Buffer.concat([ethernet, ip, transport]);
}

function tcp({ from, to }: Ends<number>, syn: boolean): Buffer {
  const header = Buffer.alloc(20);
  header.writeUInt16BE(from, 0);
  header.writeUInt16BE(to, 2);
  header[12] = 5 << 4;
  header[13] = syn ? 0x02 : 0x10;
  return header;
}

function udp({ from, to }: Ends<number>, payload: Buffer): Buffer {
  const header = Buffer.alloc(8);
  header.writeUInt16BE(from, 0);
  header.writeUInt16BE(to, 2);
  header.writeUInt16BE(header.length + payload.length, 4);
  return Buffer.concat([header, payload]);
}

function numberOf(protocol: 'TCP' | 'UDP'): number {
  return protocol === 'TCP' ? 6 : 17;
}

function ipv4({ from, to }: Ends<string>, protocol: 'TCP' | 'UDP', payload: number): Buffer {
  const header = Buffer.alloc(20);
  header[0] = 0x45;
  header.writeUInt16BE(header.length + payload, 2);
  header[8] = 64;
  header[9] = numberOf(protocol);
  bytes(from).copy(header, 12, 12);
  bytes(to).copy(header, 16, 12);
  return header;
}

function ipv6({ from, to }: Ends<string>, protocol: 'TCP' | 'UDP', payload: number): Buffer {
  const header = Buffer.alloc(40);
  header[0] = 0x60;
  header.writeUInt16BE(payload, 4);
  header[6] = numberOf(protocol);
  header[7] = 64;
  bytes(from).copy(header, 8);
  bytes(to).copy(header, 24);
  return header;
}

/** RFC 1035, 4.1: who asks for the addresses of a name, or who is told them, for an hour; records point at the question's name. */
export function message(name: string, addresses: readonly string[] | null): Buffer {
  const header = Buffer.alloc(12);
  header.writeUInt16BE(1, 0);
  header.writeUInt16BE(addresses === null ? 0x0100 : 0x8180, 2);
  header.writeUInt16BE(1, 4);
  header.writeUInt16BE(addresses?.length ?? 0, 6);
  const labels = name.split('.').map((label) => Buffer.from(`${String.fromCharCode(label.length)}${label}`, 'latin1'));
  const records = (addresses ?? []).map((address) =>
    Buffer.concat([Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4]), bytes(address).subarray(12)]),
  );
  return Buffer.concat([header, ...labels, Buffer.from([0, 0, 1, 0, 1]), ...records]);
}

/** 16 bytes; IPv4 is the last four. */
function bytes(address: string): Buffer {
  return Buffer.from(addressKey(address) ?? '', 'hex');
}
