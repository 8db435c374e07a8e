// SPDX-License-Identifier: Apache-2.0
// Which addresses must the kernel know? Those whose holder makes a difference to some ruleset here, and host prefixes of networks,
// which a hash finds faster than a trie. All others are strangers to every ruleset, and are not held.

import { KIND_STRANGER } from '#build/generated/abi.ts';
import { ShardedMap } from '../model/sharded-map.ts';
import { type AddressKey, type Id, type IdentityEntry, NO_ID } from '../model/tables.ts';
import type { Destinations } from './destinations.ts';
import type { Identity } from './identity.ts';
import type { Trie } from './prefixes.ts';

export interface IdentityTable {
  readonly entries: ShardedMap<IdentityEntry>;
  readonly destinations: Destinations;
  /** Identities that some row is about. */
  readonly reached: ReadonlySet<Id>;
  /** The network class of each host prefix. */
  readonly hosts: ReadonlyMap<AddressKey, Id>;
}

export function identityTable(
  destinations: Destinations,
  reached: ReadonlySet<Id>,
  before?: IdentityTable,
): IdentityTable {
  const { byAddress, networks, zones } = destinations;
  const from =
    before !== undefined && before.destinations.networks === networks && before.destinations.zones === zones
      ? before
      : undefined;
  const old = from?.destinations.byAddress ?? ShardedMap.empty<Identity>();
  const addresses = new Set<AddressKey>(byAddress.differences(old));
  const turned =
    from === undefined || from.reached === reached ? new Set<Id>() : reached.symmetricDifference(from.reached);
  if (turned.size > 0) for (const [address, { id }] of byAddress) if (turned.has(id)) addresses.add(address);
  const hosts = from?.hosts ?? hostsOf(networks);
  if (from === undefined) for (const address of hosts.keys()) addresses.add(address);

  const entryAt = (address: AddressKey): IdentityEntry | undefined => {
    const identity = byAddress.get(address);
    const network = hosts.get(address);
    if (identity === undefined || !(reached.has(identity.id) || isApart(destinations, address, identity))) {
      return network === undefined
        ? undefined
        : sameAs(from?.entries.get(address), { id: NO_ID, network, kind: KIND_STRANGER });
    }
    return network === undefined
      ? entryOf(identity)
      : sameAs(from?.entries.get(address), { id: identity.id, network, kind: identity.kind.code });
  };
  function* changes(): Generator<[AddressKey, IdentityEntry | undefined]> {
    for (const address of addresses) yield [address, entryAt(address)];
  }
  const entries = (from?.entries ?? ShardedMap.empty<IdentityEntry>()).with(changes());
  return { entries, destinations, reached, hosts };
}

function hostsOf({ prefixes }: Trie): Map<AddressKey, Id> {
  const hosts = new Map<AddressKey, Id>();
  for (const [at, { id }] of prefixes) if (at.endsWith('/128')) hosts.set(at.slice(0, 32), id);
  return hosts;
}

/** Would rules on entities take its address for another's if it were not held? Inside the cluster's ranges they would not. */
function isApart({ zones }: Destinations, address: AddressKey, { kind }: Identity): boolean {
  if (kind.code === KIND_STRANGER) return false;
  if (kind.hosts.length > 0 || kind.apiServer.length > 0 || kind.dns.length > 0) return true;
  return !zones.lookUp(address).blocks.has('Cluster');
}

const entries = new WeakMap<Identity, IdentityEntry>();
/** One object for each identity, so that versions of the table share it. */
function entryOf(identity: Identity): IdentityEntry {
  let entry = entries.get(identity);
  if (entry === undefined) {
    entry = { id: identity.id, network: NO_ID, kind: identity.kind.code };
    entries.set(identity, entry);
  }
  return entry;
}

function sameAs(old: IdentityEntry | undefined, entry: IdentityEntry): IdentityEntry {
  return old !== undefined && old.id === entry.id && old.network === entry.network && old.kind === entry.kind
    ? old
    : entry;
}
