// SPDX-License-Identifier: Apache-2.0
// What of an earlier agent's maps must go on in ours: whose slot is whose, how far epochs are, which flows are known? Reads the old and
// writes the new; knows no policy.
import { decodeEntries, WORKLOADS } from './encode.ts';
import type { LoadedObject, Native } from './native.ts';

/** Ids of maps, by name. */
export type MapIds = Readonly<Record<string, number>>;

export interface Inheritance {
  /** Slot by cgroup id, where `workloads` had a layout that is known. */
  readonly slots: ReadonlyMap<bigint, number>;
  /** By slot: no record of a socket was ever written under a higher one. 0 is left out. */
  readonly epochs: ReadonlyMap<number, number>;
  /** The maps are the old ones themselves: what they hold is what is enforced. */
  readonly isInPlace: boolean;
  /** Programs have written records by other epochs than those of our map: all must begin beyond. */
  readonly mustRaise: boolean;
}

/** `own`: the maps in use are ours already; `others`: sets that programs use besides. Throws KernelError. */
export function inheritance(native: Native, own: MapIds | null, others: readonly MapIds[]): Inheritance {
  const slots = new Map<bigint, number>();
  const epochs = new Map<number, number>();
  for (const ids of own === null ? others : [...others, own]) {
    for (const [cgroup, slot] of slotsIn(native, ids)) slots.set(cgroup, slot);
    for (const [slot, epoch] of epochsIn(native, ids)) epochs.set(slot, Math.max(epoch, epochs.get(slot) ?? 0));
  }
  return { slots, epochs, isInPlace: own !== null, mustRaise: own === null || others.length > 0 };
}

function slotsIn(native: Native, { workloads }: MapIds): Map<bigint, number> {
  return reading(native, { workloads }, (maps) => {
    const { keySize, valueSize } = maps.maps().workloads ?? {};
    // A workload has begun with its slot in every layout there was.
    if (keySize !== WORKLOADS.keyBytes || valueSize !== WORKLOADS.valueBytes) return new Map();
    const entries = decodeEntries(WORKLOADS, maps.dump('workloads'));
    return new Map([...entries].map(([cgroup, { slot }]) => [cgroup, slot]));
  });
}

function epochsIn(native: Native, { epochs }: MapIds): Map<number, number> {
  return reading(native, { epochs }, (maps) => {
    const { keySize, valueSize } = maps.maps().epochs ?? {};
    if (keySize !== 4 || valueSize !== 4) throw new Error('epochs are numbers by slot in every layout');
    const { keys, values, count } = maps.dump('epochs');
    const found = new Map<number, number>();
    for (let index = 0; index < count; index++) {
      const epoch = values.readUInt32LE(index * 4);
      if (epoch !== 0) found.set(keys.readUInt32LE(index * 4), epoch);
    }
    return found;
  });
}

/** Maps in which each note of a flow is kept; together, or not at all. */
const FLOWS = ['flows'] as const;

/**
 * What the programs of an older set have noted of flows, added to ours: replies to what came in before must pass afterwards. Nothing
 * where their layouts differ. Returns how many. Throws KernelError.
 */
export function carryFlows(native: Native, from: MapIds, to: LoadedObject): number {
  const ids = Object.fromEntries(FLOWS.map((name) => [name, from[name]]));
  return reading(native, ids, (old) => {
    const [theirs, ours] = [old.layouts(), to.layouts()];
    if (!FLOWS.every((name) => isSame(theirs[name], ours[name]))) return 0;
    const { keys, values, count } = old.dump('flows');
    if (count > 0) to.update('flows', keys, values, count, 0);
    return count;
  });
}

/** But for the size. */
function isSame(one: string | undefined, other: string | undefined): boolean {
  const unsized = (layout: string) => layout.replace(/ entries \d+ /, ' ');
  return one !== undefined && other !== undefined && unsized(one) === unsized(other);
}

function reading<T>(
  native: Native,
  ids: Readonly<Record<string, number | undefined>>,
  read: (maps: LoadedObject) => T,
): T {
  const known = Object.entries(ids).flatMap(([name, id]) => (id === undefined ? [] : [[name, id] as const]));
  const maps = native.openMapsById(Object.fromEntries(known));
  try {
    return read(maps);
  } finally {
    maps.close();
  }
}
