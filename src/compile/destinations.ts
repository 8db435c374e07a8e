// SPDX-License-Identifier: Apache-2.0
// Who has which address? Identities of pods, nodes and services, cut to what the demand asks. Knows no ruleset.

import { KIND_STRANGER } from '#build/generated/abi.ts';
import { isIPv4, mask } from '../model/address.ts';
import { idOf, kindOf } from '../model/hash.ts';
import type { Namespace, Pod, Service, Snapshot } from '../model/objects.ts';
import type { AddressKey, Id } from '../model/tables.ts';
import { entityRanges } from '../resolve/entities.ts';
import { implicit } from '../resolve/selection.ts';
import { project } from '../resolve/selector.ts';
import type { Demand } from './demand.ts';
import type { PortPair } from './entries.ts';
import { type Backends, backendKey, backendsOf, type Facts, factsOf, type Membership } from './facts.ts';
import { Protocol } from './numbers.ts';
import { keyOf, type NetworkClass, type Trie, trie } from './prefixes.ts';
import { block } from './ruleset.ts';

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
  /** Class of the address itself; told only where there are fronts, whose direct rules need it. */
  readonly network: NetworkClass | null;
}

export interface Destinations {
  readonly byAddress: ReadonlyMap<AddressKey, Identity>;
  readonly identities: ReadonlyMap<Id, Identity>;
  readonly kinds: ReadonlyMap<number, Kind>;
  readonly networks: Trie;
  readonly zones: Trie;
  /** Two contents with one id: nothing may be written. */
  readonly clash: boolean;
}

const STRANGER: Kind = { code: KIND_STRANGER, cluster: false, hosts: [], apiServer: [], dns: [] };

export function destinations(snapshot: Snapshot, demand: Demand): Destinations {
  const networks = trie(demand.blocks.values());
  const zones = trie(demand.zones ? zoneBlocks(snapshot, demand) : []);
  const backends = backendsOf(snapshot.endpointSlices);
  const facts = factsOf(snapshot, demand, backends);
  const kinds = new Kinds();
  const byContent = new Map<string, Identity>();
  const context: Context = {
    ...{ snapshot, demand, kinds, byContent },
    namespaces: new Map(snapshot.namespaces.map((namespace) => [namespace.name, namespace])),
    keys: {
      pod: [...demand.podKeys].sort(),
      namespace: [...demand.namespaceKeys].sort(),
      node: [...demand.nodeKeys].sort(),
    },
  };
  const plain = new Map<AddressKey, Identity>();
  for (const [address, fact] of facts) {
    const identity = plainIdentity(address, fact, context);
    if (identity !== null) plain.set(address, identity);
  }

  // Fronts last: their content is the identities of what stands behind them.
  const endpoint = (address: AddressKey, port: number): Endpoint => {
    const identity = plain.get(address) ?? null;
    return {
      ...{ address, port, identity, kind: identity?.kind ?? STRANGER },
      ...{ network: networks.lookUp(address), zone: zones.lookUp(address) },
    };
  };
  const byAddress = new Map(plain);
  const addFronts = (address: AddressKey, all: readonly FrontPort[]): void => {
    const base = plain.get(address);
    // A Service's proxy never crosses from one family to the other.
    const fronts = all.map((each) => ({
      ...each,
      endpoints: each.endpoints.filter((behind) => isIPv4(behind.address) === isIPv4(address)),
    }));
    const content = JSON.stringify([
      'front',
      base?.id ?? null,
      networks.lookUp(address).id,
      fronts.map(({ protocol, port, endpoints }) => [
        protocol,
        port,
        endpoints.map((behind) => [behind.identity?.id ?? null, behind.network.id, behind.zone.id, behind.port]),
      ]),
    ]);
    let identity = byContent.get(content);
    if (identity === undefined) {
      const { kind, pod, nodes, memberships, namedBlocks } = base ?? NOBODY;
      identity = {
        id: idOf(content),
        kind,
        pod,
        nodes,
        memberships,
        namedBlocks,
        fronts,
        network: networks.lookUp(address),
      };
      byContent.set(content, identity);
    }
    byAddress.set(address, identity);
  };
  const nodeFronts: FrontPort[] = [];
  for (const service of snapshot.services) {
    const fronts = service.ports.map((port) => front(service, port, backends, endpoint));
    for (const ip of service.clusterIPs) if (facts.get(keyOf(ip))?.service === service) addFronts(keyOf(ip), fronts);
    service.ports.forEach(({ nodePort }, index) => {
      if (nodePort !== null) nodeFronts.push({ ...(fronts[index] as FrontPort), port: nodePort });
    });
  }
  if (nodeFronts.length > 0) {
    for (const [address, { nodes }] of facts) if (nodes.size > 0) addFronts(address, nodeFronts);
  }

  const identities = new Map<Id, Identity>();
  let clash = kinds.clash;
  for (const identity of byAddress.values()) {
    const other = identities.get(identity.id);
    clash ||= other !== undefined && other !== identity;
    identities.set(identity.id, identity);
  }
  return { byAddress, identities, kinds: kinds.byCode, networks, zones, clash };
}

const NOBODY: Identity = {
  ...{ id: idOf('nobody'), kind: STRANGER, pod: null, nodes: [], memberships: [] },
  ...{ namedBlocks: [], fronts: [], network: null },
};

function zoneBlocks(
  snapshot: Snapshot,
  demand: Demand,
): { id: string; cidrs: readonly string[]; except: readonly string[] }[] {
  const ranges = entityRanges(snapshot);
  return [
    ...(['World', 'Internet', 'Cluster'] as const).map((entity) => ({
      ...block([], []),
      ...ranges[entity],
      id: entity,
    })),
    ...demand.zoneBlocks.values(),
  ];
}

function front(
  service: Service,
  port: Service['ports'][number],
  backends: Backends,
  endpoint: (address: AddressKey, port: number) => Endpoint,
): FrontPort {
  const behind = backends.get(backendKey(`${service.namespace}/${service.name}`, port.protocol, port.name)) ?? [];
  const unique = new Map(behind.map((backend) => [`${backend.address} ${backend.port}`, backend]));
  const ordered = [...unique.values()].sort((a, b) =>
    a.address < b.address ? -1 : a.address > b.address ? 1 : a.port - b.port,
  );
  return {
    protocol: Protocol[port.protocol],
    port: port.port,
    endpoints: ordered.map((backend) => endpoint(backend.address, backend.port)),
  };
}

function sortedPairs(pairs: Map<string, PortPair>): PortPair[] {
  return [...pairs.values()].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
}

interface Context {
  readonly snapshot: Snapshot;
  readonly demand: Demand;
  readonly namespaces: ReadonlyMap<string, Namespace>;
  /** Label keys that some rule looks at, sorted. */
  readonly keys: { readonly pod: string[]; readonly namespace: string[]; readonly node: string[] };
  readonly kinds: Kinds;
  readonly byContent: Map<string, Identity>;
}

/** null: nothing is to be said of it. */
function plainIdentity(address: AddressKey, fact: Facts, context: Context): Identity | null {
  const { snapshot, demand, keys, kinds, byContent } = context;
  const kind = kinds.of(fact, demand);
  // An address that two live pods claim belongs to neither.
  const [pod] = fact.pods.length === 1 && demand.pods ? fact.pods : [];
  const podFacts = pod === undefined ? null : factsOfPod(pod, context);
  const nodes = demand.nodes
    ? [...fact.nodes].map((index) => project(snapshot.nodes[index]?.labels ?? {}, keys.node))
    : [];
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
    identity = { id: idOf(content), kind, pod: podFacts, nodes, memberships, namedBlocks, fronts: [], network: null };
    byContent.set(content, identity);
  }
  return identity;
}

/** The kinds there are, each once. Kinds matter to zones, and to the entities that bring their ports with them. */
class Kinds {
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
    const code = kindOf(content);
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
