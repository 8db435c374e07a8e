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
}

/** What frames are sent from. */
export const OWN4 = '198.18.0.2';
export const OWN6 = 'fd00:18::2';
const ETHERNET_BYTES = 14;
const SOURCE_PORT = 40_000;

export function frame({ protocol, address, port, syn = false }: Frame): Buffer {
  const transport = protocol === 'TCP' ? tcp(port, syn) : udp(port);
  const ip = isIPv6(address) ? ipv6(address, protocol, transport.length) : ipv4(address, protocol, transport.length);
  const ethernet = Buffer.alloc(ETHERNET_BYTES);
  ethernet.writeUInt16BE(isIPv6(address) ? 0x86dd : 0x0800, 12);
  return Buffer.concat([ethernet, ip, transport]);
}

function tcp(port: number, syn: boolean): Buffer {
  const header = Buffer.alloc(20);
  header.writeUInt16BE(SOURCE_PORT, 0);
  header.writeUInt16BE(port, 2);
  header[12] = 5 << 4;
  header[13] = syn ? 0x02 : 0x10;
  return header;
}

function udp(port: number): Buffer {
  const header = Buffer.alloc(8);
  header.writeUInt16BE(SOURCE_PORT, 0);
  header.writeUInt16BE(port, 2);
  header.writeUInt16BE(header.length, 4);
  return header;
}

function numberOf(protocol: 'TCP' | 'UDP'): number {
  return protocol === 'TCP' ? 6 : 17;
}

function ipv4(address: string, protocol: 'TCP' | 'UDP', payload: number): Buffer {
  const header = Buffer.alloc(20);
  header[0] = 0x45;
  header.writeUInt16BE(header.length + payload, 2);
  header[8] = 64;
  header[9] = numberOf(protocol);
  bytes(OWN4).copy(header, 12, 12);
  bytes(address).copy(header, 16, 12);
  return header;
}

function ipv6(address: string, protocol: 'TCP' | 'UDP', payload: number): Buffer {
  const header = Buffer.alloc(40);
  header[0] = 0x60;
  header.writeUInt16BE(payload, 4);
  header[6] = numberOf(protocol);
  header[7] = 64;
  bytes(OWN6).copy(header, 8);
  bytes(address).copy(header, 24);
  return header;
}

/** 16 bytes; IPv4 is the last four. */
function bytes(address: string): Buffer {
  return Buffer.from(addressKey(address) ?? '', 'hex');
}
