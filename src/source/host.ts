// SPDX-License-Identifier: Apache-2.0
// What does this machine know of itself: its addresses, its resolvers, what it puts behind names? Asks the machine, never the cluster.
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import { CLUSTER_DOMAIN, WILDCARD } from '../model/name.ts';
import type { Host } from '../model/objects.ts';
import { asciiName } from '../validate/domain-name.ts';

/** What the machine cannot know of DNS. */
export interface DnsSettings {
  /** Trusted beside those of resolv.conf, as `--resolver` names them. */
  readonly resolvers?: readonly string[];
  /** As in `Host`. */
  readonly clusterDomain?: string | null;
}

/**
 * Its own addresses without loopback, and the `nameserver`s of resolv.conf (resolv.conf(5): at most three are used by libc, but
 * all are the administrator's word). Zones (`fe80::1%eth0`) are left off: a policy's address has none.
 */
export function readHost(
  node: string | null,
  { resolvers = [], clusterDomain = CLUSTER_DOMAIN }: DnsSettings = {},
  resolvConf = '/etc/resolv.conf',
): Host {
  const text = textOf(resolvConf);
  const addresses = Object.values(networkInterfaces())
    .flatMap((list) => list ?? [])
    .filter((one) => !one.internal)
    .map((one) => withoutZone(one.address));
  return Object.freeze({
    node,
    addresses: Object.freeze([...new Set(addresses)].sort()),
    resolvers: Object.freeze([...new Set([...resolversIn(text), ...resolvers])]),
    searchDomains: Object.freeze(searchDomainsIn(text)),
    clusterDomain,
  });
}

/** resolv.conf(5): of several `search` lines the last counts, and `domain` is one with a single name. The root stands for nothing. */
export function searchDomainsIn(text: string): readonly string[] {
  const lines = text.split('\n').flatMap((line) => /^\s*(?:search|domain)\s+(.*)$/.exec(line)?.[1] ?? []);
  const names = (lines.at(-1) ?? '').split(/\s+/).flatMap((name) => asciiName(name) ?? []);
  return [...new Set(names)].filter((name) => !name.startsWith(WILDCARD));
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
