// SPDX-License-Identifier: Apache-2.0
// What rulesets ask of destinations: the label keys, names, services, ranges that can make a difference to some rule.
// Identities hold no more than that, so that fifty thousand pods are few identities. Larger demand never changes a verdict.

import type { NamePattern } from '../model/name.ts';
import { keysOf } from '../resolve/selector.ts';
import { askedPatterns } from './asking.ts';
import type { Block, Clause, OwnedEntity, Ruleset, ZoneExcept } from './ruleset.ts';

export interface Demand {
  /** Some rule selects pods; else who is a pod makes no difference. */
  readonly pods: boolean;
  readonly podKeys: ReadonlySet<string>;
  readonly namespaceKeys: ReadonlySet<string>;
  readonly nodes: boolean;
  readonly nodeKeys: ReadonlySet<string>;
  /** `TCP/http`. */
  readonly namedPorts: ReadonlySet<string>;
  /** `namespace/name`. */
  readonly services: ReadonlySet<string>;
  readonly blocks: ReadonlyMap<string, Block>;
  /** Blocks of rules with named ports, which hold only where the address is a pod's: `block` and `TCP/http`. */
  readonly namedBlocks: ReadonlyMap<string, { readonly block: Block; readonly port: string }>;
  /** Some rule speaks of World and the like, or of names: kinds and zones matter. */
  readonly zones: boolean;
  readonly zoneBlocks: ReadonlyMap<string, Block>;
  readonly owned: ReadonlySet<OwnedEntity>;
  readonly hosts: ReadonlySet<string>;
  readonly names: ReadonlySet<NamePattern>;
  /** Some ruleset says which names may be asked: it matters who is a resolver. */
  readonly queries: boolean;
}

export const NO_DEMAND: Demand = {
  pods: false,
  podKeys: new Set(),
  namespaceKeys: new Set(),
  nodes: false,
  nodeKeys: new Set(),
  namedPorts: new Set(),
  services: new Set(),
  blocks: new Map(),
  namedBlocks: new Map(),
  zones: false,
  zoneBlocks: new Map(),
  owned: new Set(),
  hosts: new Set(),
  names: new Set(),
  queries: false,
};

/** What either asks. */
export function union(a: Demand, b: Demand): Demand {
  return {
    pods: a.pods || b.pods,
    podKeys: a.podKeys.union(b.podKeys),
    namespaceKeys: a.namespaceKeys.union(b.namespaceKeys),
    nodes: a.nodes || b.nodes,
    nodeKeys: a.nodeKeys.union(b.nodeKeys),
    namedPorts: a.namedPorts.union(b.namedPorts),
    services: a.services.union(b.services),
    blocks: new Map([...a.blocks, ...b.blocks]),
    namedBlocks: new Map([...a.namedBlocks, ...b.namedBlocks]),
    zones: a.zones || b.zones,
    zoneBlocks: new Map([...a.zoneBlocks, ...b.zoneBlocks]),
    owned: a.owned.union(b.owned),
    hosts: a.hosts.union(b.hosts),
    names: a.names.union(b.names),
    queries: a.queries || b.queries,
  };
}

/** Does `a` ask all that `b` asks? */
export function covers(a: Demand, b: Demand): boolean {
  return coversAddresses(a, b) && b.names.isSubsetOf(a.names) && (a.queries || !b.queries);
}

/** The same of what depends on whose an address is: which names does not. */
export function coversAddresses(a: Demand, b: Demand): boolean {
  const keys = (map: ReadonlyMap<string, unknown>): Set<string> => new Set(map.keys());
  return (
    (a.pods || !b.pods) &&
    (a.nodes || !b.nodes) &&
    (a.zones || !b.zones) &&
    (a.names.size > 0 || b.names.size === 0) &&
    b.podKeys.isSubsetOf(a.podKeys) &&
    b.namespaceKeys.isSubsetOf(a.namespaceKeys) &&
    b.nodeKeys.isSubsetOf(a.nodeKeys) &&
    b.namedPorts.isSubsetOf(a.namedPorts) &&
    b.services.isSubsetOf(a.services) &&
    keys(b.blocks).isSubsetOf(keys(a.blocks)) &&
    keys(b.namedBlocks).isSubsetOf(keys(a.namedBlocks)) &&
    keys(b.zoneBlocks).isSubsetOf(keys(a.zoneBlocks)) &&
    b.owned.isSubsetOf(a.owned) &&
    b.hosts.isSubsetOf(a.hosts)
  );
}

const demands = new WeakMap<Ruleset, Demand>();

export function demandOf(rulesets: Iterable<Ruleset>): Demand {
  const parts = [...rulesets].map((ruleset) => {
    let demand = demands.get(ruleset);
    if (demand === undefined) {
      demand = ofOne(ruleset);
      demands.set(ruleset, demand);
    }
    return demand;
  });
  return {
    pods: parts.some(({ pods }) => pods),
    podKeys: gather(parts, ({ podKeys }) => podKeys),
    namespaceKeys: gather(parts, ({ namespaceKeys }) => namespaceKeys),
    nodes: parts.some(({ nodes }) => nodes),
    nodeKeys: gather(parts, ({ nodeKeys }) => nodeKeys),
    namedPorts: gather(parts, ({ namedPorts }) => namedPorts),
    services: gather(parts, ({ services }) => services),
    blocks: new Map(parts.flatMap(({ blocks }) => [...blocks])),
    namedBlocks: new Map(parts.flatMap(({ namedBlocks }) => [...namedBlocks])),
    zones: parts.some(({ zones }) => zones),
    zoneBlocks: new Map(parts.flatMap(({ zoneBlocks }) => [...zoneBlocks])),
    owned: gather(parts, ({ owned }) => owned),
    hosts: gather(parts, ({ hosts }) => hosts),
    names: gather(parts, ({ names }) => names),
    queries: parts.some(({ queries }) => queries),
  };
}

function gather<T>(parts: readonly Demand[], of: (demand: Demand) => ReadonlySet<T>): Set<T> {
  const all = new Set<T>();
  for (const part of parts) for (const item of of(part)) all.add(item);
  return all;
}

function ofOne({ clauses, hosts, asking }: Ruleset): Demand {
  const podKeys = new Set<string>();
  const namespaceKeys = new Set<string>();
  const nodeKeys = new Set<string>();
  const namedPorts = new Set<string>();
  const services = new Set<string>();
  const blocks = new Map<string, Block>();
  const namedBlocks = new Map<string, { block: Block; port: string }>();
  const zoneBlocks = new Map<string, Block>();
  const owned = new Set<OwnedEntity>();
  const names = new Set<NamePattern>();
  let pods = false;
  let nodes = false;
  let zones = false;
  for (const clause of clauses) {
    const named = portNames(clause);
    for (const peer of clause.peers) {
      if (peer.type === 'any' || peer.type === 'pods') for (const name of named) namedPorts.add(name);
      switch (peer.type) {
        case 'any':
          pods ||= named.length > 0;
          break;
        case 'pods':
          pods = true;
          for (const key of keysOf(peer.podSelector)) podKeys.add(key);
          for (const key of peer.namespaceSelector === null ? [] : keysOf(peer.namespaceSelector))
            namespaceKeys.add(key);
          break;
        case 'nodes':
          nodes = true;
          for (const key of keysOf(peer.selector)) nodeKeys.add(key);
          break;
        case 'service':
          services.add(peer.service);
          break;
        case 'block':
          blocks.set(peer.block.id, peer.block);
          for (const port of named) namedBlocks.set(`${port} ${peer.block.id}`, { block: peer.block, port });
          break;
        case 'owned':
          if (peer.entity !== 'Host') owned.add(peer.entity);
          break;
        case 'zone':
          zones = true;
          for (const entity of zoneOwned(peer.except)) owned.add(entity);
          if (peer.entity === 'KubeAPIServer' || peer.entity === 'DNS') owned.add(peer.entity);
          if (peer.except.block !== null) zoneBlocks.set(peer.except.block.id, peer.except.block);
          break;
        case 'names':
          zones = true; // none leads out of World, nor to this machine
          for (const pattern of peer.patterns) names.add(pattern);
          break;
      }
    }
  }
  for (const pattern of asking === null ? [] : askedPatterns(asking)) names.add(pattern);
  return {
    ...{ pods, podKeys, namespaceKeys, nodes, nodeKeys, namedPorts, services },
    queries: asking !== null,
    ...{
      blocks,
      namedBlocks,
      zones,
      zoneBlocks,
      owned,
      hosts: new Set(names.size === 0 ? hosts : [...hosts, 'machine']),
      names,
    },
  };
}

function zoneOwned({ entities }: ZoneExcept): OwnedEntity[] {
  return entities.filter((entity) => entity === 'KubeAPIServer' || entity === 'DNS');
}

/** The named ports of a clause, as `TCP/http`. */
export function portNames({ ports }: Clause): string[] {
  return (ports ?? []).flatMap((port) =>
    port.protocol !== 'ICMP' && typeof port.port === 'string' ? [`${port.protocol}/${port.port}`] : [],
  );
}
