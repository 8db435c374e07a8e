// SPDX-License-Identifier: Apache-2.0
// Who has which address? Identities of pods, nodes and services, cut to what the demand asks. Knows no ruleset.

import { KIND_STRANGER } from '#build/generated/abi.ts';
import { isIPv4, mask } from '../model/address.ts';
import { idOf, kindOf } from '../model/hash.ts';
import type { EndpointSlice, Namespace, Pod, PortProtocol, Service, Snapshot } from '../model/objects.ts';
import type { AddressKey, Id } from '../model/tables.ts';
import { entityRanges, isLoopback } from '../resolve/entities.ts';
import { implicit } from '../resolve/selection.ts';
import { project } from '../resolve/selector.ts';
import type { Demand } from './demand.ts';
import type { PortPair } from './entries.ts';
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

/** Being an endpoint of a Service that some rule names. */
export interface Membership {
  readonly service: string;
  readonly protocol: number;
  readonly portName: string | null;
  readonly port: number;
  readonly target: number;
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

interface Facts {
  pods: Pod[];
  nodes: Set<number>;
  cluster: boolean;
  hosts: Set<string>;
  apiServer: Map<string, PortPair>;
  dns: Map<string, PortPair>;
  memberships: Membership[];
  service: Service | null;
}

export function destinations(snapshot: Snapshot, demand: Demand): Destinations {
  const networks = trie(demand.blocks.values());
  const zones = trie(demand.zones ? zoneBlocks(snapshot, demand) : []);
  const namespaces = new Map(snapshot.namespaces.map((namespace) => [namespace.name, namespace]));
  const backends = backendsOf(snapshot.endpointSlices);
  const facts = gather(snapshot, demand, backends);

  const kinds = new Map<number, Kind>([[KIND_STRANGER, STRANGER]]);
  const keys = {
    pod: [...demand.podKeys].sort(),
    namespace: [...demand.namespaceKeys].sort(),
    node: [...demand.nodeKeys].sort(),
  };
  const byContent = new Map<string, Identity>();
  const plain = new Map<AddressKey, Identity>();
  for (const [address, fact] of facts) {
    const identity = plainIdentity(address, fact, snapshot, demand, namespaces, keys, kinds, byContent);
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
  let clash = kinds.size !== new Set([...kinds.values()].map((kind) => JSON.stringify(kind))).size;
  for (const identity of byAddress.values()) {
    const other = identities.get(identity.id);
    clash ||= other !== undefined && other !== identity;
    identities.set(identity.id, identity);
  }
  return { byAddress, identities, kinds, networks, zones, clash };
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

/** Ready endpoints by Service, protocol and port name. */
type Backends = ReadonlyMap<
  string,
  readonly {
    readonly address: AddressKey;
    readonly port: number;
    readonly slice: EndpointSlice;
    readonly pod: string | null;
  }[]
>;

function backendKey(service: string, protocol: PortProtocol, name: string | null): string {
  return `${service} ${protocol} ${name ?? ''}`;
}

function backendsOf(slices: readonly EndpointSlice[]): Backends {
  const backends = new Map<string, { address: AddressKey; port: number; slice: EndpointSlice; pod: string | null }[]>();
  for (const slice of slices) {
    if (slice.service === null) continue;
    for (const port of slice.ports) {
      if (port.port === null) continue;
      const key = backendKey(`${slice.namespace}/${slice.service}`, port.protocol, port.name);
      const list = backends.get(key) ?? [];
      backends.set(key, list);
      for (const { addresses, ready, pod } of slice.endpoints) {
        if (!ready) continue;
        // "Addresses are fungible; clients should use the first" (discovery/v1, Endpoint.addresses).
        const [address] = addresses;
        if (address === undefined) continue;
        list.push({
          address: keyOf(address),
          port: port.port,
          slice,
          pod: pod === null ? null : `${pod.namespace}/${pod.name}`,
        });
      }
    }
  }
  return backends;
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

function gather(snapshot: Snapshot, demand: Demand, backends: Backends): Map<AddressKey, Facts> {
  const facts = new Map<AddressKey, Facts>();
  const at = (address: AddressKey): Facts => {
    let fact = facts.get(address);
    if (fact === undefined) {
      fact = {
        ...{ pods: [], nodes: new Set(), cluster: false, hosts: new Set() },
        ...{ apiServer: new Map(), dns: new Map(), memberships: [], service: null },
      };
      facts.set(address, fact);
    }
    return fact;
  };
  const pods = new Map<string, Pod>();
  for (const pod of snapshot.pods) {
    if (pod.ended) continue;
    pods.set(`${pod.namespace}/${pod.name}`, pod);
    if (pod.hostNetwork) continue; // its address is the node's
    for (const address of pod.addresses) {
      const fact = at(keyOf(address));
      fact.cluster = true;
      fact.pods.push(pod);
    }
  }
  snapshot.nodes.forEach((node, index) => {
    for (const address of node.addresses) {
      const fact = at(keyOf(address));
      fact.cluster = true;
      fact.nodes.add(index);
      if (demand.hosts.has(`node/${node.name}`)) fact.hosts.add(`node/${node.name}`);
    }
  });
  if (demand.hosts.has('machine'))
    for (const address of snapshot.host.addresses) at(keyOf(address)).hosts.add('machine');
  for (const service of snapshot.services) {
    for (const ip of service.clusterIPs) {
      const fact = at(keyOf(ip));
      fact.cluster = true;
      fact.service ??= service;
    }
  }
  const own = (which: 'apiServer' | 'dns', namespace: string, name: string): void => {
    for (const service of snapshot.services) {
      if (service.namespace !== namespace || service.name !== name) continue;
      for (const { protocol, port, name: portName } of service.ports) {
        for (const ip of service.clusterIPs) add(at(keyOf(ip))[which], [Protocol[protocol], port]);
        for (const backend of backends.get(backendKey(`${namespace}/${name}`, protocol, portName)) ?? []) {
          add(at(backend.address)[which], [Protocol[protocol], backend.port]);
        }
      }
    }
  };
  if (demand.owned.has('KubeAPIServer')) own('apiServer', 'default', 'kubernetes');
  if (demand.owned.has('DNS')) {
    own('dns', 'kube-system', 'kube-dns');
    for (const resolver of snapshot.host.resolvers) {
      const key = keyOf(resolver);
      if (isLoopback(key)) continue; // loopback always passes
      for (const protocol of ['UDP', 'TCP'] as const) add(at(key).dns, [Protocol[protocol], 53]);
    }
  }
  for (const service of snapshot.services) {
    const name = `${service.namespace}/${service.name}`;
    if (!demand.services.has(name) || service.externalName !== null) continue;
    for (const { protocol, port, name: portName } of service.ports) {
      for (const backend of backends.get(backendKey(name, protocol, portName)) ?? []) {
        // Whoever writes endpoints that are no pods of this namespace would write policy.
        const pod = backend.pod === null ? undefined : pods.get(backend.pod);
        if (pod === undefined || pod.namespace !== service.namespace) continue;
        if (!pod.addresses.some((address) => keyOf(address) === backend.address)) continue;
        at(backend.address).memberships.push({
          ...{ service: name, protocol: Protocol[protocol], portName, port, target: backend.port },
        });
      }
    }
  }
  return facts;
}

function add(pairs: Map<string, PortPair>, pair: PortPair): void {
  pairs.set(pair.join(), pair);
}

function sortedPairs(pairs: Map<string, PortPair>): PortPair[] {
  return [...pairs.values()].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
}

function plainIdentity(
  address: AddressKey,
  fact: Facts,
  snapshot: Snapshot,
  demand: Demand,
  namespaces: ReadonlyMap<string, Namespace>,
  keys: { readonly pod: string[]; readonly namespace: string[]; readonly node: string[] },
  kinds: Map<number, Kind>,
  byContent: Map<string, Identity>,
): Identity | null {
  const kind = kindFor(fact, demand, kinds);
  // An address that two live pods claim belongs to neither.
  const [pod] = fact.pods.length === 1 && demand.pods ? fact.pods : [];
  const podFacts = pod === undefined ? null : factsOfPod(pod, demand, namespaces, keys);
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

/** Kinds matter to zones, and to the entities that identities answer for: owned ones bring their ports with them. */
function kindFor(fact: Facts, demand: Demand, kinds: Map<number, Kind>): Kind {
  const cluster = demand.zones && fact.cluster;
  const hosts = [...fact.hosts].sort();
  const apiServer = sortedPairs(fact.apiServer);
  const dns = sortedPairs(fact.dns);
  if (!cluster && hosts.length === 0 && apiServer.length === 0 && dns.length === 0) return STRANGER;
  const code = kindOf(JSON.stringify([cluster, hosts, apiServer, dns]));
  let kind = kinds.get(code);
  if (kind === undefined) {
    kind = { code, cluster, hosts, apiServer, dns };
    kinds.set(code, kind);
  }
  return kind;
}

function factsOfPod(
  pod: Pod,
  demand: Demand,
  namespaces: ReadonlyMap<string, Namespace>,
  keys: { readonly pod: string[]; readonly namespace: string[] },
): PodFacts {
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
