// SPDX-License-Identifier: Apache-2.0
// May a workload ask DNS under these policies? By what rules say, for where it is not known which address a resolver has: a policy that
// names names should not look broken while the resolver is away. Where one is known, judge/dns.ts knows better.

import { MAX_LIMITS } from '#build/generated/abi.ts';
import type { Peer, Policy, Port, Rule } from '../model/objects.ts';

const DNS_PORT = 53;

/** @param policies all that hold the workload. */
export function mayAskDns(policies: readonly Policy[]): boolean {
  const admin = tierSays(policies, 'Admin');
  if (admin !== null) return admin;
  const limits = policies.filter(({ effect }) => effect === 'Limit');
  if (limits.length > MAX_LIMITS || !limits.every(({ rules }) => rules.some(opensDns))) return false;
  if (policies.some(({ effect, rules }) => (effect === 'Isolate' || effect === 'Grant') && rules.some(opensDns))) {
    return true;
  }
  return !policies.some(({ effect }) => effect === 'Isolate') && (tierSays(policies, 'Baseline') ?? true);
}

/** What the first rule of a tier that may mean a resolver does; null: it leaves it to the next tier. Only a denial of every address counts. */
function tierSays(policies: readonly Policy[], tier: 'Admin' | 'Baseline'): boolean | null {
  const ordered = policies.filter(({ effect }) => effect === tier).sort((a, b) => a.priority - b.priority);
  for (const rule of ordered.flatMap(({ rules }) => rules)) {
    if (!reachesDns(rule)) continue;
    if (rule.action === 'Accept') return true;
    if (rule.action === 'Pass') return null;
    if (rule.peers.some(isEveryAddress)) return false;
  }
  return null;
}

function isEveryAddress(peer: Peer): boolean {
  return peer.type === 'any' || (peer.type === 'networks' && peer.cidrs.some((cidr) => cidr.endsWith('/0')));
}

/** It has names whose addresses a workload would have to ask for. */
export function namesNames({ effect, rules }: Policy): boolean {
  return effect !== 'Limit' && rules.some(({ peers }) => peers.some(({ type }) => type === 'domainNames'));
}

function opensDns(rule: Rule): boolean {
  return rule.action === 'Accept' && reachesDns(rule);
}

function reachesDns({ peers, ports, notEnforced }: Rule): boolean {
  if (notEnforced !== null) return false;
  if (ports !== null) return ports.some(isDnsPort) && peers.some(({ type }) => type !== 'domainNames');
  return peers.some(
    (peer) =>
      peer.type === 'any' ||
      (peer.type === 'entities' && peer.entities.some((entity) => ['DNS', 'All', 'Cluster'].includes(entity))) ||
      (peer.type === 'services' && peer.services.some(({ name }) => /dns/.test(name))) ||
      (peer.type === 'pods' && peer.namespaceSelector !== null) ||
      peer.type === 'networks',
  );
}

function isDnsPort(port: Port): boolean {
  if (port.protocol !== 'UDP') return false;
  if (typeof port.port === 'string') return /dns/.test(port.port);
  return port.port === null || (port.port <= DNS_PORT && DNS_PORT <= (port.endPort ?? port.port));
}
