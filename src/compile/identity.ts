// SPDX-License-Identifier: Apache-2.0
// What of an address's holder can make a difference to some rule: the identity, shared by all whom no rule can tell apart.
// Knows no ruleset, and not which addresses there are.

import { KIND_NOT_WORLD, KIND_STRANGER } from '#build/generated/abi.ts';
import { mask } from '../model/address.ts';
import { idOf, kindOf } from '../model/hash.ts';
import type { Namespace, Node, Pod } from '../model/objects.ts';
import type { AddressKey, Id } from '../model/tables.ts';
import { implicit } from '../resolve/selection.ts';
import { project } from '../resolve/selector.ts';
import type { Demand } from './demand.ts';
import type { PortPair } from './entries.ts';
import type { Facts, Membership } from './facts.ts';
import { type NetworkClass, trie } from './prefixes.ts';

type Labels = Readonly<Record<string, string>>;
/** What entity rules need to know of an address. */
export interface Kind {
  readonly code: number;
  /** Some pod, node or Service of the cluster has it. */
  readonly cluster: boolean;
  /** The nodes whose address it is: `node/NAME`, or `machine`. */
  readonly hosts: readonly string[];
  readonly apiServer: readonly PortPair[];
  readonly dns: readonly PortPair[];
}

export interface PodFacts {
  readonly namespace: string;
  readonly namespaceLabels: Labels;
  readonly labels: Labels;
  /** Named ports that some rule uses: `TCP/http` and the number. */
  readonly ports: readonly (readonly [string, number])[];
}

/** One endpoint as a subject of verdicts. */
export interface Endpoint {
  readonly address: AddressKey;
  readonly port: number;
  readonly identity: Identity | null;
  readonly kind: Kind;
  readonly network: NetworkClass;
  readonly zone: NetworkClass;
}

/** A port whose verdict is that of what stands behind it. */
export interface FrontPort {
  readonly protocol: number;
  readonly port: number;
  readonly endpoints: readonly Endpoint[];
}

export interface Identity {
  readonly id: Id;
  readonly kind: Kind;
  readonly pod: PodFacts | null;
  readonly nodes: readonly Labels[];
  readonly memberships: readonly Membership[];
  /** Blocks with named ports that cover this pod's address: key of `Demand.namedBlocks`, and the pod's port. */
  readonly namedBlocks: readonly (readonly [string, number])[];
  readonly fronts: readonly FrontPort[];
  /** Classes of the address itself; told only where there are fronts, which rules may cover by address. */
  readonly network: NetworkClass | null;
  readonly zone: NetworkClass | null;
}

export const STRANGER: Kind = { code: KIND_STRANGER, cluster: false, hosts: [], apiServer: [], dns: [] };

export const NOBODY: Identity = {
  ...{ id: idOf('nobody'), kind: STRANGER, pod: null, nodes: [], memberships: [] },
  ...{ namedBlocks: [], fronts: [], network: null, zone: null },
};

function sortedPairs(pairs: ReadonlyMap<string, PortPair>): PortPair[] {
  return [...pairs.values()].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
}

/** What identities are made under; another one makes others. */
export interface Context {
  readonly nodes: readonly Node[];
  readonly demand: Demand;
  readonly namespaces: ReadonlyMap<string, Namespace>;
  /** Label keys that some rule looks at, sorted. */
  readonly keys: { readonly pod: string[]; readonly namespace: string[]; readonly node: string[] };
  readonly kinds: Kinds;
  readonly byContent: Map<string, Identity>;
}

/** null: nothing is to be said of it. */
export function plainIdentity(address: AddressKey, fact: Facts, context: Context): Identity | null {
  const { nodes: all, demand, keys, kinds, byContent } = context;
  const kind = kinds.of(fact, demand);
  // An address that two live pods claim belongs to neither.
  const [pod] = fact.pods.length === 1 && demand.pods ? fact.pods : [];
  const podFacts = pod === undefined ? null : factsOfPod(pod, context);
  const nodes = demand.nodes ? [...fact.nodes].map((index) => project(all[index]?.labels ?? {}, keys.node)) : [];
  const memberships = fact.memberships
    .map((membership) => JSON.stringify(membership))
    .sort()
    .map((membership): Membership => JSON.parse(membership));
  const namedBlocks = fact.pods.length === 1 ? namedBlocksOf(address, fact.pods[0] as Pod, demand) : [];
  if (
    kind === STRANGER &&
    podFacts === null &&
    nodes.length === 0 &&
    memberships.length === 0 &&
    namedBlocks.length === 0
  ) {
    return null;
  }
  const content = JSON.stringify([
    podFacts,
    nodes,
    memberships,
    namedBlocks,
    [kind.cluster, kind.hosts, kind.apiServer, kind.dns],
  ]);
  let identity = byContent.get(content);
  if (identity === undefined) {
    identity = {
      id: idOf(content),
      kind,
      pod: podFacts,
      nodes,
      memberships,
      namedBlocks,
      fronts: [],
      network: null,
      zone: null,
    };
    byContent.set(content, identity);
  }
  return identity;
}

/** The kinds there are, each once. Kinds matter to zones, and to the entities that bring their ports with them. */
export class Kinds {
  readonly byCode = new Map<number, Kind>([[KIND_STRANGER, STRANGER]]);
  readonly #contents = new Map<number, string>();
  /** Two contents hashed to one code. */
  clash = false;

  of(fact: Facts, demand: Demand): Kind {
    const cluster = demand.zones && fact.cluster;
    const hosts = [...fact.hosts].sort();
    const apiServer = sortedPairs(fact.apiServer);
    const dns = sortedPairs(fact.dns);
    if (!cluster && hosts.length === 0 && apiServer.length === 0 && dns.length === 0) return STRANGER;
    const content = JSON.stringify([cluster, hosts, apiServer, dns]);
    const code = kindOf(content) | (cluster || hosts.length > 0 ? KIND_NOT_WORLD : 0);
    const known = this.byCode.get(code);
    this.clash ||= known !== undefined && this.#contents.get(code) !== content;
    if (known !== undefined) return known;
    const kind: Kind = { code, cluster, hosts, apiServer, dns };
    this.byCode.set(code, kind);
    this.#contents.set(code, content);
    return kind;
  }
}

function factsOfPod(pod: Pod, { demand, namespaces, keys }: Context): PodFacts {
  return {
    namespace: pod.namespace,
    namespaceLabels: project((namespaces.get(pod.namespace) ?? implicit(pod.namespace)).labels, keys.namespace),
    labels: project(pod.labels, keys.pod),
    ports: portsOf(pod)
      .filter(([name]) => demand.namedPorts.has(name))
      .sort(),
  };
}

function portsOf(pod: Pod): [string, number][] {
  return pod.ports.flatMap(({ name, protocol, port }): [string, number][] =>
    name === null ? [] : [[`${protocol}/${name}`, port]],
  );
}

function namedBlocksOf(address: AddressKey, pod: Pod, demand: Demand): [string, number][] {
  const found: [string, number][] = [];
  for (const [key, { block: range, port }] of demand.namedBlocks) {
    for (const [name, number] of portsOf(pod)) {
      if (name === port && covers(range, address)) found.push([key, number]);
    }
  }
  return found.sort();
}

function covers(
  range: { readonly cidrs: readonly string[]; readonly except: readonly string[] },
  address: AddressKey,
): boolean {
  const { classes, lookUp } = trie([{ ...range, id: 'it' }]);
  return classes.size > 0 && lookUp(mask(address, 128)).blocks.has('it');
}
