// SPDX-License-Identifier: Apache-2.0
// Who has which address now? Follows snapshots: what did not change from one to the next, by reference, is not looked at again.
// Knows no ruleset. What it says depends on the last snapshot alone: a new one that has seen nothing else says the same.

import { KIND_STRANGER } from '#build/generated/abi.ts';
import { isIPv4 } from '../model/address.ts';
import { idOf } from '../model/hash.ts';
import { changeBetween, type List } from '../model/list-change.ts';
import type { EndpointSlice, Pod, Service, Snapshot } from '../model/objects.ts';
import { ShardedMap } from '../model/sharded-map.ts';
import type { AddressKey, Id } from '../model/tables.ts';
import { entityRanges } from '../resolve/entities.ts';
import { coversAddresses, type Demand } from './demand.ts';
import {
  type Backend,
  backendsOf,
  type Facts,
  isNamed,
  movingFacts,
  nameOf,
  slicesByService,
  standingFacts,
  together,
} from './facts.ts';
import {
  type Context,
  type Endpoint,
  type FrontPort,
  type Identity,
  type Kind,
  Kinds,
  NOBODY,
  plainIdentity,
  STRANGER,
} from './identity.ts';
import { Protocol } from './numbers.ts';
import { keyOf, type Trie, trie } from './prefixes.ts';
import { type Block, block } from './ruleset.ts';

export interface Destinations {
  readonly byAddress: ShardedMap<Identity>;
  readonly identities: ReadonlyMap<Id, Identity>;
  readonly kinds: ReadonlyMap<number, Kind>;
  readonly networks: Trie;
  readonly zones: Trie;
  /** What World leaves out, whoever has the address: no name leads there. */
  readonly notWorld: Trie;
  /** Two contents with one id: nothing may be written. */
  readonly clash: boolean;
}

/** Everybody's address in a snapshot, without a past. */
export function destinations(snapshot: Snapshot, demand: Demand): Destinations {
  return new DestinationTracker().follow(snapshot, demand);
}

/** A Service as it was last looked at. */
interface Front {
  readonly service: Service;
  readonly slices: readonly EndpointSlice[];
  readonly ports: readonly {
    readonly protocol: number;
    readonly port: number;
    readonly nodePort: number | null;
    readonly backends: readonly Backend[];
  }[];
  /** Its clusterIPs, as far as they are no other Service's. */
  readonly ips: readonly AddressKey[];
}

const NO_SLICES: readonly EndpointSlice[] = [];
const NO_PODS: readonly Pod[] = [];

export class DestinationTracker {
  #snapshot: Snapshot | null = null;
  #context: Context | null = null;
  #networks: Trie = trie([]);
  #zones: Trie = trie([]);
  #notWorld: Trie = trie([]);
  /** Live pods that are not hostNetwork, by address: one, nearly always, and then without a list around it. */
  #claims = new Map<AddressKey, Pod | readonly Pod[]>();
  /** Live pods that are hostNetwork, by name. */
  #hostPods = new Map<string, Pod>();
  #standing: ReadonlyMap<AddressKey, Facts> = new Map();
  #moving: ReadonlyMap<AddressKey, Facts> = new Map();
  #slices: ReadonlyMap<string, readonly EndpointSlice[]> = new Map();
  #plain = ShardedMap.empty<Identity>();
  #fronts = new Map<string, Front>();
  #clusterIPs: ReadonlyMap<AddressKey, Identity> = new Map();
  /** Those whose endpoints are facts. */
  #named: readonly Service[] = [];
  /** Addresses of Services, of what stands behind them, and of nodes: all that a front may depend on. */
  #concerned: ReadonlySet<AddressKey> = new Set();
  #nodeFronts: ReadonlyMap<AddressKey, Identity> = new Map();
  #byAddress = ShardedMap.empty<Identity>();
  /** How many addresses have it. */
  #uses = new Map<Identity, number>();
  #result: Destinations | null = null;

  /** Throws nothing; pure in its last arguments. */
  follow(snapshot: Snapshot, demand: Demand): Destinations {
    const before = this.#snapshot;
    const isSame =
      this.#context !== null &&
      before !== null &&
      coversAddresses(this.#context.demand, demand) &&
      coversAddresses(demand, this.#context.demand) &&
      before.namespaces === snapshot.namespaces &&
      before.nodes === snapshot.nodes;
    if (!isSame) this.#reset(snapshot, demand);
    const old = isSame ? before : null;
    this.#snapshot = snapshot;
    if (
      old !== null &&
      this.#result !== null &&
      old.pods === snapshot.pods &&
      old.services === snapshot.services &&
      old.endpointSlices === snapshot.endpointSlices &&
      old.host === snapshot.host
    ) {
      return this.#result;
    }

    const touched = new Set<AddressKey>();
    if (old === null || old.pods !== snapshot.pods) this.#followPods(old?.pods ?? [], snapshot.pods, touched);
    if (old === null || old.services !== snapshot.services || old.host !== snapshot.host) {
      this.#standing = replaced(this.#standing, standingFacts(snapshot, demand), touched);
      this.#named = snapshot.services.filter((service) => isNamed(service, demand, snapshot.host));
    }
    if (old === null || old.endpointSlices !== snapshot.endpointSlices) {
      this.#slices = slicesByService(snapshot.endpointSlices);
    }
    const moving = movingFacts({ services: this.#named, host: snapshot.host }, demand, this.#slices, (pod, address) =>
      this.#isAt(pod, address),
    );
    this.#moving = replaced(this.#moving, moving, touched);

    this.#plain = this.#plain.with(mapped(touched, (address) => this.#identityAt(address)));
    const isSettled =
      old !== null && old.services === snapshot.services && old.endpointSlices === snapshot.endpointSlices;
    const fronted = this.#followServices(snapshot, touched, isSettled);
    this.#result = this.#settle(touched.union(fronted));
    return this.#result;
  }

  #reset(snapshot: Snapshot, demand: Demand): void {
    const { namespaces, nodes } = snapshot;
    this.#context = {
      ...{ nodes, demand, kinds: new Kinds(), byContent: new Map() },
      namespaces: new Map(namespaces.map((namespace) => [namespace.name, namespace])),
      keys: {
        pod: [...demand.podKeys].sort(),
        namespace: [...demand.namespaceKeys].sort(),
        node: [...demand.nodeKeys].sort(),
      },
    };
    this.#networks = trie(demand.blocks.values());
    this.#zones = trie(demand.zones ? zoneBlocks(snapshot, demand) : []);
    this.#notWorld = trie(demand.names.size > 0 ? [notWorldBlock(snapshot)] : []);
    this.#claims = new Map();
    this.#hostPods = new Map();
    this.#standing = new Map();
    this.#moving = new Map();
    this.#slices = new Map();
    this.#plain = ShardedMap.empty();
    this.#fronts = new Map();
    this.#clusterIPs = new Map();
    this.#named = [];
    this.#concerned = new Set();
    this.#nodeFronts = new Map();
    this.#byAddress = ShardedMap.empty();
    this.#uses = new Map();
    this.#result = null;
  }

  /** Pods that are new objects came, went or changed. */
  #followPods(before: List<Pod>, after: List<Pod>, touched: Set<AddressKey>): void {
    const { gone, come } = changeBetween(before, after);
    for (const pod of gone) {
      if (pod.ended) continue;
      if (pod.hostNetwork) {
        if (this.#hostPods.get(nameOf(pod)) === pod) this.#hostPods.delete(nameOf(pod));
        continue;
      }
      for (const address of pod.addresses.map(keyOf)) {
        this.#claim(
          address,
          this.#claimants(address).filter((other) => other !== pod),
        );
        touched.add(address);
      }
    }
    for (const pod of come) {
      if (pod.ended) continue;
      // Its address is the node's.
      if (pod.hostNetwork) {
        this.#hostPods.set(nameOf(pod), pod);
        continue;
      }
      for (const address of pod.addresses.map(keyOf)) {
        this.#claim(address, [...this.#claimants(address).filter((other) => other !== pod), pod]);
        touched.add(address);
      }
    }
  }

  #claimants(address: AddressKey): readonly Pod[] {
    const claim = this.#claims.get(address);
    if (claim === undefined) return NO_PODS;
    return 'uid' in claim ? [claim] : claim;
  }

  #claim(address: AddressKey, pods: readonly Pod[]): void {
    const [first] = pods;
    if (first === undefined) this.#claims.delete(address);
    else this.#claims.set(address, pods.length === 1 ? first : pods);
  }

  /** Has the live pod of this name (`namespace/name`) this address? */
  #isAt(name: string, address: AddressKey): boolean {
    if (this.#claimants(address).some((pod) => nameOf(pod) === name)) return true;
    return this.#hostPods.get(name)?.addresses.some((text) => keyOf(text) === address) ?? false;
  }

  /** What is to be said of an address, Services aside. */
  #identityAt(address: AddressKey): Identity | undefined {
    const context = this.#context as Context;
    const facts = together(this.#claimants(address), this.#standing.get(address), this.#moving.get(address));
    return plainIdentity(address, facts, context) ?? undefined;
  }

  /**
   * Gives the addresses whose front came, went or changed. `isSettled`: Services and slices are those of the last time, so that only
   * what stands behind them may differ.
   */
  #followServices(snapshot: Snapshot, touched: ReadonlySet<AddressKey>, isSettled: boolean): Set<AddressKey> {
    if (isSettled && touched.isDisjointFrom(this.#concerned)) return new Set();
    const changed = new Set<AddressKey>();
    const concerned = new Set<AddressKey>();
    const fronts = new Map<string, Front>();
    const clusterIPs = new Map<AddressKey, Identity>();
    let areNodePortsSame = true;
    for (const service of snapshot.services) {
      const name = nameOf(service);
      const slices = this.#slices.get(name) ?? NO_SLICES;
      const known = this.#fronts.get(name);
      const isKnown = known !== undefined && known.service === service && isSameList(known.slices, slices);
      const ports = isKnown ? known.ports : portsOf(service, slices);
      const isTouched = ports.some(({ backends }) => backends.some(({ address }) => touched.has(address)));
      for (const { backends } of ports) for (const { address } of backends) concerned.add(address);
      const ips: AddressKey[] = [];
      for (const ip of service.clusterIPs.map(keyOf)) {
        concerned.add(ip);
        if (clusterIPs.has(ip)) continue; // two Services with one address: the first has it
        const old = known?.ips.includes(ip) ? this.#clusterIPs.get(ip) : undefined;
        const stays = isKnown && !isTouched && !touched.has(ip) ? old : undefined;
        const identity = stays ?? this.#frontIdentity(ip, ports);
        ips.push(ip);
        clusterIPs.set(ip, identity);
        if (old !== identity) changed.add(ip);
      }
      for (const ip of known?.ips ?? []) if (!ips.includes(ip)) changed.add(ip);
      if ((!isKnown || isTouched) && [...ports, ...(known?.ports ?? [])].some(({ nodePort }) => nodePort !== null)) {
        areNodePortsSame = false;
      }
      fronts.set(name, { service, slices, ports, ips });
    }
    for (const [name, { ips, ports }] of this.#fronts) {
      if (fronts.has(name)) continue;
      for (const ip of ips) changed.add(ip);
      if (ports.some(({ nodePort }) => nodePort !== null)) areNodePortsSame = false;
    }
    for (const [address, { nodes }] of this.#standing) if (nodes.length > 0) concerned.add(address);
    this.#concerned = concerned;
    this.#fronts = fronts;
    this.#clusterIPs = clusterIPs;
    const isNodeTouched = [...touched].some((address) => (this.#standing.get(address)?.nodes.length ?? 0) > 0);
    if (!areNodePortsSame || this.#result === null || isNodeTouched) this.#followNodePorts(changed);
    return changed;
  }

  /** Every node's address answers for every node port. */
  #followNodePorts(changed: Set<AddressKey>): void {
    const ports = [...this.#fronts.values()].flatMap((front) =>
      front.ports.flatMap((each) => (each.nodePort === null ? [] : [{ ...each, port: each.nodePort }])),
    );
    const fronts = new Map<AddressKey, Identity>();
    if (ports.length > 0) {
      for (const [address, { nodes }] of this.#standing) {
        if (nodes.length > 0) fronts.set(address, this.#frontIdentity(address, ports));
      }
    }
    for (const address of new Set([...fronts.keys(), ...this.#nodeFronts.keys()])) {
      if (fronts.get(address) !== this.#nodeFronts.get(address)) changed.add(address);
    }
    this.#nodeFronts = fronts;
  }

  /** An address whose ports are judged by what stands behind them: their content is the identities there. */
  #frontIdentity(address: AddressKey, ports: Front['ports']): Identity {
    const { byContent } = this.#context as Context;
    const base = this.#plain.get(address);
    const network = this.#networks.lookUp(address);
    const zone = this.#zones.lookUp(address);
    const fronts = ports.map(
      ({ protocol, port, backends }): FrontPort => ({
        protocol,
        port,
        // A Service's proxy never crosses from one family to the other.
        endpoints: backends
          .filter((backend) => isIPv4(backend.address) === isIPv4(address))
          .map((backend) => this.#endpoint(backend)),
      }),
    );
    const content = JSON.stringify([
      ...['front', base?.id ?? null, network.id, zone.id],
      fronts.map(({ protocol, port, endpoints }) => [
        ...[protocol, port],
        endpoints.map((behind) => [behind.identity?.id ?? null, behind.network.id, behind.zone.id, behind.port]),
      ]),
    ]);
    let identity = byContent.get(content);
    if (identity === undefined) {
      identity = { ...(base ?? NOBODY), id: idOf(content), fronts, network, zone };
      byContent.set(content, identity);
    }
    return identity;
  }

  #endpoint({ address, port }: Backend): Endpoint {
    const identity = this.#plain.get(address) ?? null;
    return {
      ...{ address, port, identity, kind: identity?.kind ?? STRANGER },
      ...{ network: this.#networks.lookUp(address), zone: this.#zones.lookUp(address) },
    };
  }

  #settle(addresses: ReadonlySet<AddressKey>): Destinations {
    const now = (address: AddressKey): Identity | undefined =>
      this.#nodeFronts.get(address) ?? this.#clusterIPs.get(address) ?? this.#plain.get(address);
    for (const address of addresses) {
      const [old, fresh] = [this.#byAddress.get(address), now(address)];
      if (old === fresh) continue;
      if (old !== undefined) this.#count(old, -1);
      if (fresh !== undefined) this.#count(fresh, 1);
    }
    this.#byAddress = this.#byAddress.with(mapped(addresses, now));
    const context = this.#context as Context;
    const identities = new Map<Id, Identity>();
    const kinds = new Map<number, Kind>([[KIND_STRANGER, STRANGER]]);
    let { clash } = context.kinds;
    for (const identity of this.#uses.keys()) {
      clash ||= identities.has(identity.id);
      identities.set(identity.id, identity);
      kinds.set(identity.kind.code, identity.kind);
    }
    this.#forgetUnused(context);
    return {
      byAddress: this.#byAddress,
      identities,
      kinds,
      networks: this.#networks,
      zones: this.#zones,
      notWorld: this.#notWorld,
      clash,
    };
  }

  #count(identity: Identity, by: number): void {
    const uses = (this.#uses.get(identity) ?? 0) + by;
    if (uses === 0) this.#uses.delete(identity);
    else this.#uses.set(identity, uses);
  }

  /** Contents that nobody has any more are dropped when they are the most. */
  #forgetUnused({ byContent }: Context): void {
    if (byContent.size < 1000 + 2 * this.#uses.size) return;
    const behind = new Set(
      [...this.#uses.keys()].flatMap(({ fronts }) =>
        fronts.flatMap(({ endpoints }) => endpoints.map(({ identity }) => identity)),
      ),
    );
    for (const [content, identity] of byContent) {
      if (!this.#uses.has(identity) && !behind.has(identity)) byContent.delete(content);
    }
  }
}

function portsOf(service: Service, slices: readonly EndpointSlice[]): Front['ports'] {
  return service.ports.map((port) => ({
    ...{ protocol: Protocol[port.protocol], port: port.port, nodePort: port.nodePort },
    backends: backendsOf(port, slices),
  }));
}

function isSameList<T>(a: readonly T[], b: readonly T[]): boolean {
  return a.length === b.length && a.every((item, index) => item === b[index]);
}

/** The new facts; what differs from the old ones is touched. */
function replaced(
  before: ReadonlyMap<AddressKey, Facts>,
  after: ReadonlyMap<AddressKey, Facts>,
  touched: Set<AddressKey>,
): ReadonlyMap<AddressKey, Facts> {
  for (const [address, facts] of after) {
    const old = before.get(address);
    if (old === undefined || textOf(old) !== textOf(facts)) touched.add(address);
  }
  for (const address of before.keys()) if (!after.has(address)) touched.add(address);
  return after;
}

function textOf({ nodes, cluster, hosts, apiServer, dns, memberships }: Facts): string {
  return JSON.stringify([nodes, cluster, hosts, [...apiServer.keys()].sort(), [...dns.keys()].sort(), memberships]);
}

function* mapped<V>(keys: Iterable<string>, value: (key: string) => V | undefined): Generator<[string, V | undefined]> {
  for (const key of keys) yield [key, value(key)];
}

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

function notWorldBlock(snapshot: Snapshot): Block {
  return block(entityRanges(snapshot).World.except, []);
}
