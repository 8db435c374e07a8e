// SPDX-License-Identifier: Apache-2.0
// What of an earlier agent's maps must go on in ours: whose slot is whose, how far epochs are, what guards know. Reads what is there; writes
// nothing, and knows no policy.
import type { Guard, Workload } from '#build/generated/abi.ts';
import { decodeEntries, GUARDS, type MapCodec, SOURCES, type SourceKey, WORKLOADS } from './encode.ts';
import type { LoadedObject, Native } from './native.ts';

/** Maps that attached programs use together, by name: where they are pinned, or, where their files are gone, by id. */
export type MapSet =
  | { readonly paths: Readonly<Record<string, string>> }
  | { readonly ids: Readonly<Record<string, number>> };

export interface Inheritance {
  /** By cgroup id, where `workloads` had a layout that is known: slots, and guarded namespaces. */
  readonly workloads: ReadonlyMap<bigint, Workload>;
  /** By slot: no record of a socket was ever written under a higher one. 0 is left out. */
  readonly epochs: ReadonlyMap<number, number>;
  /** By interface. */
  readonly guards: ReadonlyMap<number, Guard>;
  readonly sources: ReadonlyMap<SourceKey, true>;
  /** The maps are the old ones themselves: what they hold is what is enforced. */
  readonly isInPlace: boolean;
  /** Programs have written records by other epochs than those of our map: all must begin beyond. */
  readonly mustRaise: boolean;
}

/** `own`: the maps in use are ours already; `others`: sets that programs use besides. Throws KernelError. */
export function inheritance(native: Native, own: MapSet | null, others: readonly MapSet[]): Inheritance {
  const workloads = new Map<bigint, Workload>();
  const guards = new Map<number, Guard>();
  const sources = new Map<SourceKey, true>();
  const epochs = new Map<number, number>();
  for (const set of own === null ? others : [...others, own]) {
    reading(native, set, (maps) => {
      merge(workloads, contents(maps, WORKLOADS));
      merge(guards, contents(maps, GUARDS));
      merge(sources, contents(maps, SOURCES));
      for (const [slot, epoch] of epochsIn(maps)) epochs.set(slot, Math.max(epoch, epochs.get(slot) ?? 0));
    });
  }
  return { workloads, guards, sources, epochs, isInPlace: own !== null, mustRaise: own === null || others.length > 0 };
}

/** What guards know, of one set. Throws KernelError. */
export function guardsIn(native: Native, set: MapSet): ReadonlyMap<number, Guard> {
  let guards: ReadonlyMap<number, Guard> = new Map();
  reading(native, set, (maps) => {
    guards = contents(maps, GUARDS);
  });
  return guards;
}

function merge<K, V>(into: Map<K, V>, from: ReadonlyMap<K, V>): void {
  for (const [key, value] of from) into.set(key, value);
}

/** Nothing where the map is not there, or has other sizes than ours. */
function contents<K, V>(maps: LoadedObject, codec: MapCodec<K, V>): ReadonlyMap<K, V> {
  const { keySize, valueSize } = maps.maps()[codec.map] ?? {};
  if (keySize !== codec.keyBytes || valueSize !== codec.valueBytes) return new Map();
  return decodeEntries(codec, maps.dump(codec.map));
}

function epochsIn(maps: LoadedObject): ReadonlyMap<number, number> {
  const { keySize, valueSize } = maps.maps().epochs ?? {};
  if (keySize !== 4 || valueSize !== 4) throw new Error('epochs are numbers by slot in every layout');
  const { keys, values, count } = maps.dump('epochs');
  const found = new Map<number, number>();
  for (let index = 0; index < count; index++) {
    const epoch = values.readUInt32LE(index * 4);
    if (epoch !== 0) found.set(keys.readUInt32LE(index * 4), epoch);
  }
  return found;
}

const READ: readonly string[] = ['workloads', 'guards', 'sources', 'epochs'];

/** With those of the maps above that are in the set. */
function reading(native: Native, set: MapSet, read: (maps: LoadedObject) => void): void {
  const some = <V>(all: Readonly<Record<string, V>>): Record<string, V> =>
    Object.fromEntries(Object.entries(all).filter(([name]) => READ.includes(name)));
  const maps = 'paths' in set ? native.openMaps(some(set.paths)) : native.openMapsById(some(set.ids));
  try {
    read(maps);
  } finally {
    maps.close();
  }
}
