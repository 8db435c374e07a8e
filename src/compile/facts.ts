// SPDX-License-Identifier: Apache-2.0
// What is to be said of each address, straight from the objects: whose it is, and what stands behind which Service.
// Knows of rules only what they ask for; makes no identities.

import type { EndpointSlice, Pod, PortProtocol, Service, Snapshot } from '../model/objects.ts';
import type { AddressKey } from '../model/tables.ts';
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
  pods: Pod[];
  /** Indexes into the snapshot's nodes. */
  nodes: Set<number>;
  cluster: boolean;
  /** `node/NAME`, `machine`: see `Place.hosts`. */
  hosts: Set<string>;
  apiServer: Map<string, PortPair>;
  dns: Map<string, PortPair>;
  memberships: Membership[];
  service: Service | null;
}

/** Ready endpoints by Service, protocol and port name. */
export type Backends = ReadonlyMap<
  string,
  readonly {
    readonly address: AddressKey;
    readonly port: number;

    readonly pod: string | null;
  }[]
>;

export function backendKey(service: string, protocol: PortProtocol, name: string | null): string {
  return `${service} ${protocol} ${name ?? ''}`;
}

export function backendsOf(slices: readonly EndpointSlice[]): Backends {
  const backends = new Map<string, { address: AddressKey; port: number; pod: string | null }[]>();
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
          pod: pod === null ? null : `${pod.namespace}/${pod.name}`,
        });
      }
    }
  }
  return backends;
}

/** Every address that somebody has. */
export function factsOf(snapshot: Snapshot, demand: Demand, backends: Backends): Map<AddressKey, Facts> {
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
