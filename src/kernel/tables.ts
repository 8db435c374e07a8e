// SPDX-License-Identifier: Apache-2.0
// The eight maps that hold what a Step says, as tables; and what the kernel itself says they hold.

import type { Workload } from '#build/generated/abi.ts';
import type { NamePattern } from '../model/name.ts';
import type {
  AddressKey,
  Answer,
  Entry,
  Id,
  IdentityEntry,
  NetworkKey,
  PortPrefix,
  ResolverKey,
  RowKey,
} from '../model/tables.ts';
import {
  decodeEntries,
  IDENTITIES,
  type MapCodec,
  NAMES,
  NETWORKS,
  PORTS,
  type PortElementKey,
  portElements,
  portSetOf,
  RESOLVERS,
  SELVES,
  type SelfKey,
  type StoredRow,
  storedRow,
  VERDICTS,
  WORKLOADS,
} from './encode.ts';
import type { NativeObject } from './native.ts';
import { Table } from './table.ts';

/** What the kernel's maps hold, read from them. Rows are as stored: their entries are gone where they are a port set. */
export interface Contents {
  readonly workloads: ReadonlyMap<bigint, Workload>;
  readonly identities: ReadonlyMap<AddressKey, IdentityEntry>;
  readonly networks: ReadonlyMap<NetworkKey, Id>;
  readonly names: ReadonlyMap<NamePattern, Id>;
  readonly resolvers: ReadonlyMap<ResolverKey, true>;
  readonly rows: ReadonlyMap<RowKey, StoredRow>;
  readonly portSets: ReadonlyMap<Id, readonly PortPrefix[]>;
  readonly selves: ReadonlyMap<SelfKey, true>;
}

type Plain<K, V> = Table<K, V, K, V>;
export interface KernelTables {
  readonly workloads: Plain<bigint, Workload>;
  readonly identities: Plain<AddressKey, IdentityEntry>;
  readonly networks: Plain<NetworkKey, Id>;
  readonly names: Plain<NamePattern, Id>;
  readonly resolvers: Plain<ResolverKey, true>;
  readonly rows: Plain<RowKey, StoredRow>;
  readonly portSets: Table<Id, readonly PortPrefix[], PortElementKey, Answer>;
  readonly selves: Plain<SelfKey, true>;
}

export function kernelTables(object: NativeObject): KernelTables {
  return {
    workloads: plain(
      object,
      WORKLOADS,
      (a, b) => a.slot === b.slot && a.enforced === b.enforced && a.shadow === b.shadow && a.netns === b.netns,
    ),
    identities: plain(object, IDENTITIES, (a, b) => a.id === b.id && a.network === b.network && a.kind === b.kind),
    networks: plain(object, NETWORKS, (a, b) => a === b),
    names: plain(object, NAMES, (a, b) => a === b),
    resolvers: plain(object, RESOLVERS, () => true),
    rows: plain(object, VERDICTS, sameRow),
    // A port set is named by its content, so one that is there never changes.
    portSets: new Table(object, { codec: PORTS, same: () => true, elements: portElements, entryOf: portSetOf }),
    selves: plain(object, SELVES, () => true),
  };
}

function plain<K, V>(object: NativeObject, codec: MapCodec<K, V>, same: (a: V, b: V) => boolean): Plain<K, V> {
  return new Table(object, { codec, same, elements: (key, value) => [[key, value]], entryOf: (key) => key });
}

function sameRow(one: StoredRow, other: StoredRow): boolean {
  const a = storedRow(one);
  const b = storedRow(other);
  return (
    a.flags === b.flags &&
    a.limits === b.limits &&
    a.limitsSilent === b.limitsSilent &&
    a.portSet === b.portSet &&
    a.entries.length === b.entries.length &&
    a.entries.every((entry, index) => sameEntry(entry, b.entries[index]))
  );
}

function sameEntry(a: Entry, b: Entry | undefined): boolean {
  return (
    b !== undefined &&
    a.protocol === b.protocol &&
    a.first === b.first &&
    a.last === b.last &&
    a.answer.admin === b.answer.admin &&
    a.answer.policy === b.answer.policy &&
    a.answer.baseline === b.answer.baseline &&
    a.answer.limits === b.answer.limits &&
    a.answer.final === b.answer.final
  );
}

/** Asks the kernel, map by map. */
export function readBack(object: NativeObject): Contents {
  const read = <K, V>(codec: MapCodec<K, V>): Map<K, V> => decodeEntries(codec, object.dump(codec.map));
  const portSets = new Map<Id, PortPrefix[]>();
  for (const [key, answer] of read(PORTS)) {
    const [id = '', protocol, port, length] = key.split('/');
    const prefixes = portSets.get(id) ?? [];
    prefixes.push({ protocol: Number(protocol), port: Number(port), length: Number(length), answer });
    portSets.set(id, prefixes);
  }
  return {
    workloads: read(WORKLOADS),
    identities: read(IDENTITIES),
    networks: read(NETWORKS),
    names: read(NAMES),
    resolvers: read(RESOLVERS),
    rows: read(VERDICTS),
    portSets,
    selves: read(SELVES),
  };
}

export function assume(tables: KernelTables, contents: Contents): void {
  tables.workloads.assume(contents.workloads);
  tables.identities.assume(contents.identities);
  tables.networks.assume(contents.networks);
  tables.names.assume(contents.names);
  tables.resolvers.assume(contents.resolvers);
  tables.rows.assume(contents.rows);
  tables.portSets.assume(contents.portSets);
  tables.selves.assume(contents.selves);
}
