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
  readonly identities: ShardedMap<Identity>;
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
  #clusterIPs = new Map<AddressKey, Identity>();
  /** Those whose endpoints are facts. */
  #named: readonly Service[] = [];
  /** Names of Services by what their fronts depend on: their own addresses and those of what stands behind them. One, nearly always. */
  #concerned: ReadonlyMap<AddressKey, string | readonly string[]> = new Map();
  #nodeFronts: ReadonlyMap<AddressKey, Identity> = new Map();
  #byAddress = ShardedMap.empty<Identity>();
  /** How many addresses have it. */
  #uses = new Map<Identity, number>();
  /** Those that some address has, by id. */
  #identities = ShardedMap.empty<Identity>();
  /** How many of them have the kind with this code. */
  #kindUses = new Map<number, { readonly kind: Kind; count: number }>();
  /** Two of them had one id since the last reset. */
  #mayClash = false;
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
    const fronted = isSettled ? this.#followBehind(touched) : this.#followServices(snapshot, touched);
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
    this.#concerned = new Map();
    this.#nodeFronts = new Map();
    this.#byAddress = ShardedMap.empty();
    this.#uses = new Map();
    this.#identities = ShardedMap.empty();
    this.#kindUses = new Map();
    this.#mayClash = false;
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

  /** Gives the addresses whose front changed. Services and slices are those of the last time: only what stands behind them may differ. */
  #followBehind(touched: ReadonlySet<AddressKey>): Set<AddressKey> {
    const changed = new Set<AddressKey>();
    const names = new Set([...touched].flatMap((address) => this.#concerned.get(address) ?? []));
    let areNodePortsSame = true;
    for (const name of names) {
      const front = this.#fronts.get(name);
      if (front === undefined) continue;
      for (const ip of front.ips) {
        const identity = this.#frontIdentity(ip, front.ports);
        if (this.#clusterIPs.get(ip) === identity) continue;
        this.#clusterIPs.set(ip, identity);
        changed.add(ip);
      }
      if (front.ports.some(({ nodePort }) => nodePort !== null)) areNodePortsSame = false;
    }
    if (!areNodePortsSame || this.#isNodeAmong(touched)) this.#followNodePorts(changed);
    return changed;
  }

  #isNodeAmong(addresses: ReadonlySet<AddressKey>): boolean {
    return [...addresses].some((address) => (this.#standing.get(address)?.nodes.length ?? 0) > 0);
  }

  /** Gives the addresses whose front came, went or changed. */
  #followServices(snapshot: Snapshot, touched: ReadonlySet<AddressKey>): Set<AddressKey> {
    const changed = new Set<AddressKey>();
    const concerned = new Map<AddressKey, string | readonly string[]>();
    const concern = (address: AddressKey, name: string): void => {
      const others = [concerned.get(address) ?? []].flat();
      if (others.length === 0) concerned.set(address, name);
      else if (!others.includes(name)) concerned.set(address, [...others, name]);
    };
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
      for (const { backends } of ports) for (const { address } of backends) concern(address, name);
      const ips: AddressKey[] = [];
      for (const ip of service.clusterIPs.map(keyOf)) {
        concern(ip, name);
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
    this.#concerned = concerned;
    this.#fronts = fronts;
    this.#clusterIPs = clusterIPs;
    if (!areNodePortsSame || this.#result === null || this.#isNodeAmong(touched)) this.#followNodePorts(changed);
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
    const changed = new Map<Id, Identity | undefined>();
    for (const address of addresses) {
      const [old, fresh] = [this.#byAddress.get(address), now(address)];
      if (old === fresh) continue;
      if (old !== undefined) this.#count(old, -1, changed);
      if (fresh !== undefined) this.#count(fresh, 1, changed);
    }
    this.#byAddress = this.#byAddress.with(mapped(addresses, now));
    const context = this.#context as Context;
    const all = (): [Id, Identity][] => [...this.#uses.keys()].map((identity) => [identity.id, identity]);
    this.#identities = this.#mayClash
      ? ShardedMap.empty<Identity>().with(all())
      : this.#identities.with(changed.entries());
    this.#forgetUnused(context);
    return {
      byAddress: this.#byAddress,
      identities: this.#identities,
      kinds: new Map([
        [KIND_STRANGER, STRANGER],
        ...[...this.#kindUses].map(([code, { kind }]) => [code, kind] as const),
      ]),
      networks: this.#networks,
      zones: this.#zones,
      notWorld: this.#notWorld,
      clash: context.kinds.clash || this.#identities.size < this.#uses.size,
    };
  }

  /** Adds to `changed`, by id, what came into use or went out of it. */
  #count(identity: Identity, by: number, changed: Map<Id, Identity | undefined>): void {
    const before = this.#uses.get(identity) ?? 0;
    const uses = before + by;
    if (uses === 0) this.#uses.delete(identity);
    else this.#uses.set(identity, uses);
    if (before !== 0 && uses !== 0) return;
    const { id, kind } = identity;
    const other = changed.has(id) ? changed.get(id) : this.#identities.get(id);
    this.#mayClash ||= other !== undefined && other !== identity;
    changed.set(id, uses === 0 ? undefined : identity);
    const kindUse = this.#kindUses.get(kind.code) ?? { kind, count: 0 };
    kindUse.count += uses === 0 ? -1 : 1;
    if (kindUse.count === 0) this.#kindUses.delete(kind.code);
    else this.#kindUses.set(kind.code, kindUse);
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
