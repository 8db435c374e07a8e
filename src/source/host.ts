// SPDX-License-Identifier: Apache-2.0
// What does this machine know of itself: its addresses and its resolvers? Asks the machine, never the cluster.
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import type { Host } from '../model/objects.ts';

/**
 * Its own addresses without loopback, and the `nameserver`s of resolv.conf (resolv.conf(5): at most three are used by libc, but
 * all are the administrator's word). Zones (`fe80::1%eth0`) are left off: a policy's address has none.
 * @param resolvers trusted beside those, as `--resolver` names them.
 */
export function readHost(
  node: string | null,
  resolvers: readonly string[] = [],
  resolvConf = '/etc/resolv.conf',
): Host {
  const addresses = Object.values(networkInterfaces())
    .flatMap((list) => list ?? [])
    .filter((one) => !one.internal)
    .map((one) => withoutZone(one.address));
  return Object.freeze({
    node,
    addresses: Object.freeze([...new Set(addresses)].sort()),
    resolvers: Object.freeze([...new Set([...resolversIn(textOf(resolvConf)), ...resolvers])]),
  });
}

/** Addresses of `nameserver` lines, in order, each once. */
export function resolversIn(text: string): readonly string[] {
  const found = text
    .split('\n')
    .map((line) => /^\s*nameserver\s+(\S+)/.exec(line)?.[1])
    .filter((address) => address !== undefined)
    .map(withoutZone)
    .filter((address) => isIP(address) !== 0);
  return [...new Set(found)];
}

function withoutZone(address: string): string {
  return address.split('%')[0] ?? address;
}

function textOf(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    // No resolv.conf: no trusted resolver.
    return '';
  }
}
