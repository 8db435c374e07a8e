// SPDX-License-Identifier: Apache-2.0
// From what a table holds to what it should hold, as data. Knows no map and writes nothing.

/** What must change. */
export interface Delta<K, V> {
  /** New and changed entries. */
  readonly upserts: ReadonlyMap<K, V>;
  /** Entries that are there, or were upserted as `bridge`, and should not be in the end. */
  readonly deletes: ReadonlySet<K>;
  /** How many of the upserts are new. */
  readonly inserted: number;
}

/**
 * `bridge` are further entries that must be there between the upserts and the deletions. Where both hold a key, `desired` wins.
 * Values that are one object are the same without asking `same`.
 */
export function diff<K, V>(
  actual: ReadonlyMap<K, V>,
  desired: ReadonlyMap<K, V>,
  same: (a: V, b: V) => boolean,
  bridge: ReadonlyMap<K, V> = new Map(),
): Delta<K, V> {
  const upserts = new Map<K, V>();
  const deletes = new Set<K>();
  let inserted = 0;
  const want = (key: K, value: V): void => {
    const held = actual.get(key);
    if (held === undefined) inserted++;
    else if (held === value || same(held, value)) return;
    upserts.set(key, value);
  };
  for (const [key, value] of desired) want(key, value);
  for (const key of actual.keys()) if (!desired.has(key)) deletes.add(key);
  for (const [key, value] of bridge) {
    if (desired.has(key)) continue;
    want(key, value);
    deletes.add(key);
  }
  return { upserts, deletes, inserted };
}

/** As diff, where all other keys are known to hold what is desired. */
export function diffOf<K, V>(
  keys: Iterable<K>,
  actual: ReadonlyMap<K, V>,
  desired: ReadonlyMap<K, V>,
  same: (a: V, b: V) => boolean,
): Delta<K, V> {
  const some = (map: ReadonlyMap<K, V>, wanted: readonly K[]): Map<K, V> => {
    const cut = new Map<K, V>();
    for (const key of wanted) {
      const value = map.get(key);
      if (value !== undefined) cut.set(key, value);
    }
    return cut;
  };
  const wanted = [...keys];
  return diff(some(actual, wanted), some(desired, wanted), same);
}
