// SPDX-License-Identifier: Apache-2.0
// What the words World, Internet and Cluster mean as CIDRs.

import { addressKey, isIPv4 } from '../model/address.ts';
import type { Snapshot } from '../model/objects.ts';

/** Loopback, link-local (cloud metadata among it), multicast, broadcast, unspecified: never World. */
const NOT_WORLD = [
  '0.0.0.0/32',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '224.0.0.0/4',
  '255.255.255.255/32',
  '::/128',
  '::1/128',
  'fe80::/10',
  'ff00::/8',
];

/** IANA's special-purpose registries for IPv4 (RFC 6890 and its updates), and class E. */
const SPECIAL_V4 = [
  '0.0.0.0/8',
  '10.0.0.0/8',
  '100.64.0.0/10',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '172.16.0.0/12',
  '192.0.0.0/24',
  '192.0.2.0/24',
  '192.88.99.0/24',
  '192.168.0.0/16',
  '198.18.0.0/15',
  '198.51.100.0/24',
  '203.0.113.0/24',
  '224.0.0.0/4',
  '240.0.0.0/4',
];

/** The same for IPv6. NAT64 (RFC 6052) and 6to4 (RFC 3056) are judged by the IPv4 address inside. */
const SPECIAL_V6 = [
  '::/128',
  '::1/128',
  '64:ff9b:1::/48',
  '100::/64',
  '2001::/23',
  '2001:db8::/32',
  '3fff::/20',
  '5f00::/16',
  'fc00::/7',
  'fe80::/10',
  'fec0::/10',
  'ff00::/8',
  ...SPECIAL_V4.flatMap((cidr) => [nat64(cidr), sixToFour(cidr)]),
];

function hexOf(cidr: string): { hex: string; length: number } {
  const [address = '', length = ''] = cidr.split('/');
  return { hex: (addressKey(address) as string).slice(24), length: Number(length) };
}

function nat64(cidr: string): string {
  const { hex, length } = hexOf(cidr);
  return `64:ff9b::${hex.slice(0, 4)}:${hex.slice(4)}/${96 + length}`;
}

function sixToFour(cidr: string): string {
  const { hex, length } = hexOf(cidr);
  return `2002:${hex.slice(0, 4)}:${hex.slice(4)}::/${16 + length}`;
}

const EVERY = ['0.0.0.0/0', '::/0'];

export interface Ranges {
  readonly cidrs: readonly string[];
  readonly except: readonly string[];
}

/** World, Internet and Cluster as ranges. Who has an address counts besides: an identity of the cluster is never outside. */
export function entityRanges(snapshot: Snapshot): { World: Ranges; Internet: Ranges; Cluster: Ranges } {
  const cluster = [...new Set(snapshot.nodes.flatMap(({ podCidrs }) => podCidrs))].sort();
  return {
    World: { cidrs: EVERY, except: [...NOT_WORLD, ...cluster] },
    Internet: { cidrs: EVERY, except: [...new Set([...NOT_WORLD, ...SPECIAL_V4, ...SPECIAL_V6, ...cluster])] },
    Cluster: { cidrs: cluster, except: [] },
  };
}

export function isLoopback(key: string): boolean {
  return isIPv4(key) ? key.slice(24, 26) === '7f' : key === `${'0'.repeat(31)}1`;
}
