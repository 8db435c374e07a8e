// SPDX-License-Identifier: Apache-2.0
// What is the cluster now, as one value? Built from what has changed alone: a list, or an object, in which nothing changed is the
// very one of the snapshot before. Knows neither requests nor what objects mean.

import { type List, noteChange } from '../model/list-change.ts';

/** At most so many values are copied where one changes; a list of 50,000 has a hundred parts. */
const MAX_PART = 512;

/** Values with their keys, in the order of these. Never changed once it is made. */
interface Part<T> {
  readonly keys: readonly string[];
  readonly values: readonly T[];
}

/** One state of a list. */
class Parts<T> implements List<T> {
  readonly parts: readonly Part<T>[];
  readonly length: number;

  constructor(parts: readonly Part<T>[]) {
    this.parts = parts;
    this.length = parts.reduce((sum, { keys }) => sum + keys.length, 0);
  }

  *[Symbol.iterator](): Iterator<T> {
    for (const { values } of this.parts) yield* values;
  }

  map<U>(make: (item: T) => U): U[] {
    return this.parts.flatMap(({ values }) => values.map((value) => make(value)));
  }

  filter(keep: (item: T) => boolean): T[] {
    return this.parts.flatMap(({ values }) => values.filter((value) => keep(value)));
  }

  find(isIt: (item: T) => boolean): T | undefined {
    for (const value of this) if (isIt(value)) return value;
    return undefined;
  }

  some(isIt: (item: T) => boolean): boolean {
    return this.parts.some(({ values }) => values.some((value) => isIt(value)));
  }
}

/**
 * Values in the order of their keys. A change copies the parts that it touches: a whole copy of 50,000 pods, twenty times a second,
 * made V8 look through the heap more than once a second.
 */
export class SortedList<T extends object> {
  #state = new Parts<T>([]);

  get values(): List<T> {
    return this.#state;
  }

  /** `standsFor` gives what a key stands for now; null: it is not in the list. The same list, where nothing comes of it. */
  update(changed: Iterable<string>, standsFor: (key: string) => T | null): List<T> {
    const before = this.#state;
    const change: Change<T> = { gone: [], come: [] };
    const keys = [...changed].sort();
    const parts: Part<T>[] = [];
    let next = 0;
    // Keys before a part belong to the one before it; those before all, to the first.
    for (const [index, part] of (before.parts.length === 0 ? [NO_PART] : before.parts).entries()) {
      const end = before.parts[index + 1]?.keys[0];
      const first = next;
      while (next < keys.length && (end === undefined || (keys[next] as string) < end)) next++;
      if (first === next) parts.push(part);
      else parts.push(...changedPart(part, keys.slice(first, next), standsFor, change));
    }
    if (change.gone.length + change.come.length === 0) return before;
    this.#state = new Parts(parts);
    noteChange<T>(before, this.#state, change);
    return this.#state;
  }
}

interface Change<T> {
  readonly gone: T[];
  readonly come: T[];
}

const NO_PART: Part<never> = { keys: [], values: [] };

/** `part` with these keys, in order, as they stand now: itself, another, several, or none. Adds to `change`. */
function changedPart<T>(
  part: Part<T>,
  changed: readonly string[],
  standsFor: (key: string) => T | null,
  change: Change<T>,
): readonly Part<T>[] {
  const keys: string[] = [];
  const values: T[] = [];
  const already = change.gone.length + change.come.length;
  let taken = 0;
  const takeUntil = (end: number) => {
    for (; taken < end; taken++) {
      keys.push(part.keys[taken] as string);
      values.push(part.values[taken] as T);
    }
  };
  for (const key of changed) {
    const at = firstNotBefore(part.keys, key);
    const isThere = part.keys[at] === key;
    const value = standsFor(key);
    if (isThere ? value === part.values[at] : value === null) continue;
    takeUntil(at);
    if (value !== null) {
      keys.push(key);
      values.push(value);
      change.come.push(value);
    }
    if (isThere) {
      change.gone.push(part.values[at] as T);
      taken = at + 1;
    }
  }
  if (change.gone.length + change.come.length === already) return [part];
  takeUntil(part.keys.length);
  return split(keys, values);
}

function split<T>(keys: readonly string[], values: readonly T[]): readonly Part<T>[] {
  if (keys.length === 0) return [];
  if (keys.length <= MAX_PART) return [{ keys, values }];
  const count = Math.ceil(keys.length / (MAX_PART / 2));
  return Array.from({ length: count }, (_, index) => {
    const [from, to] = [index, index + 1].map((part) => Math.round((part * keys.length) / count));
    return { keys: keys.slice(from, to), values: values.slice(from, to) };
  });
}

/** An index in what is sorted. */
function firstNotBefore(keys: readonly string[], key: string): number {
  let low = 0;
  let high = keys.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((keys[middle] as string) < key) low = middle + 1;
    else high = middle;
  }
  return low;
}
