// SPDX-License-Identifier: Apache-2.0
// What is to be said of each address, straight from the objects: whose it is, and what stands behind which Service.
// Knows of rules only what they ask for; makes no identities.

import type { EndpointSlice, Host, Pod, PortProtocol, Service, Snapshot } from '../model/objects.ts';
import type { AddressKey, ResolverKey } from '../model/tables.ts';
import { isLoopback } from '../resolve/entities.ts';
import type { Demand } from './demand.ts';
import type { PortPair } from './entries.ts';
import { Protocol } from './numbers.ts';
import { keyOf } from './prefixes.ts';

/** Being an endpoint of a Service that some rule names. */
export interface Membership {
  readonly service: string;
  readonly protocol: number;
  readonly portName: string | null;
  readonly port: number;
  readonly target: number;
}

export interface Facts {
  /** Live ones that are not hostNetwork; several where they clash. */
  readonly pods: readonly Pod[];
  /** Indexes into the snapshot's nodes. */
  readonly nodes: readonly number[];
  readonly cluster: boolean;
  /** `node/NAME`, `machine`: see `Place.hosts`. */
  readonly hosts: readonly string[];
  readonly apiServer: ReadonlyMap<string, PortPair>;
  readonly dns: ReadonlyMap<string, PortPair>;
  readonly memberships: readonly Membership[];
}

const NO_PAIRS: ReadonlyMap<string, PortPair> = new Map();
export const NO_FACTS: Facts = {
  ...{ pods: [], nodes: [], cluster: false, hosts: [] },
  ...{ apiServer: NO_PAIRS, dns: NO_PAIRS, memberships: [] },
};

/** One that is ready behind a Service's port. */
export interface Backend {
  readonly address: AddressKey;
  readonly port: number;
  /** The Pod that the slice names. */
  readonly pod: { readonly namespace: string; readonly name: string } | null;
}

/** By Service (`namespace/name`), the slices that name it. */
export function slicesByService(slices: readonly EndpointSlice[]): Map<string, EndpointSlice[]> {
  const byService = new Map<string, EndpointSlice[]>();
  for (const slice of slices) {
    if (slice.service === null) continue;
    const name = `${slice.namespace}/${slice.service}`;
    const list = byService.get(name);
    if (list === undefined) byService.set(name, [slice]);
    else list.push(slice);
  }
  return byService;
}

/** Ready backends of a Service's port, each once, in order of address and port. */
export function backendsOf(
  { name, protocol }: { readonly name: string | null; readonly protocol: PortProtocol },
  slices: readonly EndpointSlice[],
): Backend[] {
  const found = new Map<string, Backend>();
  for (const slice of slices) {
    for (const port of slice.ports) {
      if (port.port === null || port.protocol !== protocol || (port.name ?? '') !== (name ?? '')) continue;
      for (const { addresses, ready, pod } of slice.endpoints) {
        // "Addresses are fungible; clients should use the first" (discovery/v1, Endpoint.addresses).
        const [text] = addresses;
        if (!ready || text === undefined) continue;
        const address = keyOf(text);
        found.set(`${address} ${port.port}`, { address, port: port.port, pod });
      }
    }
  }
  return [...found.values()].sort((a, b) => (a.address < b.address ? -1 : a.address > b.address ? 1 : a.port - b.port));
}

type Changing = { -readonly [K in keyof Facts]: Facts[K] };

class Book {
  readonly facts = new Map<AddressKey, Changing>();

  at(address: AddressKey): Changing {
    let fact = this.facts.get(address);
    if (fact === undefined) {
      fact = { ...NO_FACTS };
      this.facts.set(address, fact);
    }
    return fact;
  }
}

/** Facts of what rarely changes: nodes, this machine, clusterIPs. */
export function standingFacts({ nodes, services, host }: Snapshot, demand: Demand): Map<AddressKey, Facts> {
  const book = new Book();
  nodes.forEach((node, index) => {
    for (const address of node.addresses) {
      const fact = book.at(keyOf(address));
      fact.cluster = true;
      if (!fact.nodes.includes(index)) fact.nodes = [...fact.nodes, index];
      const name = `node/${node.name}`;
      if (demand.hosts.has(name) && !fact.hosts.includes(name)) fact.hosts = [...fact.hosts, name];
    }
  });
  if (demand.hosts.has('machine')) {
    for (const address of host.addresses) {
      const fact = book.at(keyOf(address));
      fact.hosts = [...fact.hosts, 'machine'];
    }
  }
  for (const { clusterIPs } of services) for (const ip of clusterIPs) book.at(keyOf(ip)).cluster = true;
  return book.facts;
}

const API_SERVER = 'default/kubernetes';
const DNS_PORT = 53;
const CLUSTER_DNS = 'kube-system/kube-dns';

/** Does it matter to some rule who stands behind this Service, by its name or as a resolver? */
export function isNamed(service: Service, { owned, services }: Demand, host: Host): boolean {
  const name = nameOf(service);
  return (
    (name === API_SERVER && owned.has('KubeAPIServer')) ||
    (owned.has('DNS') && isResolver(service, host)) ||
    services.has(name)
  );
}

/** The cluster's DNS: by the name that it has nearly everywhere, or by an address that is said to be a resolver's. */
export function isResolver(service: Service, { resolvers }: Pick<Host, 'resolvers'>): boolean {
  if (nameOf(service) === CLUSTER_DNS) return true;
  return resolvers.length > 0 && service.clusterIPs.some((ip) => resolvers.some((one) => keyOf(one) === keyOf(ip)));
}

/** Whose answers are believed: the cluster's DNS, by the Service's address and by those of what stands ready behind it, and the host's. */
export function resolversOf({ services, endpointSlices, host }: Snapshot): Set<ResolverKey> {
  const slices = slicesByService(endpointSlices);
  const found = new Set(host.resolvers.map((address): ResolverKey => `${keyOf(address)}/${DNS_PORT}`));
  for (const service of services) {
    if (!isResolver(service, host)) continue;
    for (const port of service.ports.filter(isOfDns)) {
      for (const ip of service.clusterIPs) found.add(`${keyOf(ip)}/${port.port}`);
      for (const behind of backendsOf(port, slices.get(nameOf(service)) ?? [])) {
        found.add(`${behind.address}/${behind.port}`);
      }
    }
  }
  return found;
}

/** Such a Service often has a port for metrics, too. */
function isOfDns({ port }: { readonly port: number }): boolean {
  return port === DNS_PORT;
}

/**
 * Facts of what comes and goes with endpoints: the entities that bring their ports, members of Services that rules name. `services` are
 * those that `isNamed` says.
 */
export function movingFacts(
  { services, host }: Pick<Snapshot, 'services' | 'host'>,
  demand: Demand,
  slices: ReadonlyMap<string, readonly EndpointSlice[]>,
  isThere: (pod: string, address: AddressKey) => boolean,
): Map<AddressKey, Facts> {
  const book = new Book();
  const own = (service: Service, which: 'apiServer' | 'dns'): void => {
    for (const port of service.ports) {
      for (const ip of service.clusterIPs) add(book.at(keyOf(ip)), which, [Protocol[port.protocol], port.port]);
      for (const backend of backendsOf(port, slices.get(nameOf(service)) ?? [])) {
        add(book.at(backend.address), which, [Protocol[port.protocol], backend.port]);
      }
    }
  };
  if (demand.owned.has('DNS')) {
    for (const resolver of host.resolvers) {
      const key = keyOf(resolver);
      if (isLoopback(key)) continue; // loopback always passes
      for (const protocol of ['UDP', 'TCP'] as const) add(book.at(key), 'dns', [Protocol[protocol], 53]);
    }
  }
  for (const service of services) {
    const name = nameOf(service);
    if (name === API_SERVER && demand.owned.has('KubeAPIServer')) own(service, 'apiServer');
    if (demand.owned.has('DNS') && isResolver(service, host)) own(service, 'dns');
    if (!demand.services.has(name) || service.externalName !== null) continue;
    for (const port of service.ports) {
      for (const backend of backendsOf(port, slices.get(name) ?? [])) {
        // Whoever writes endpoints that are no pods of this namespace would write policy.
        if (backend.pod?.namespace !== service.namespace || !isThere(nameOf(backend.pod), backend.address)) continue;
        const fact = book.at(backend.address);
        const protocol = Protocol[port.protocol];
        const membership = { service: name, protocol, portName: port.name, port: port.port, target: backend.port };
        fact.memberships = [...fact.memberships, membership];
      }
    }
  }
  return book.facts;
}

export function nameOf({ namespace, name }: { readonly namespace: string; readonly name: string }): string {
  return `${namespace}/${name}`;
}

/** What two kinds of facts, and the pods that claim the address, come to together. */
export function together(pods: readonly Pod[], standing: Facts = NO_FACTS, moving: Facts = NO_FACTS): Facts {
  return {
    pods,
    nodes: standing.nodes,
    cluster: pods.length > 0 || standing.cluster,
    hosts: standing.hosts,
    ...{ apiServer: moving.apiServer, dns: moving.dns, memberships: moving.memberships },
  };
}

function add(fact: Changing, which: 'apiServer' | 'dns', pair: PortPair): void {
  fact[which] = new Map([...fact[which], [pair.join(), pair]]);
}
