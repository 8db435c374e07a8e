// SPDX-License-Identifier: Apache-2.0
// What came and what went from one list of objects to the next? Whoever makes a list of what changed says so, and nobody compares
// 50,000 pods again; of any other two lists it is worked out.

/**
 * What a snapshot holds of a kind, in order. Read from its beginning, never by index: of 50,000 objects a list may then share all but
 * a few with the list before it. An array is one.
 */
export interface List<T> extends Iterable<T> {
  readonly length: number;
  map<U>(make: (item: T) => U): U[];
  filter(keep: (item: T) => boolean): T[];
  find(isIt: (item: T) => boolean): T | undefined;
  some(isIt: (item: T) => boolean): boolean;
}

/** By identity: an object that another replaced is gone, the other has come. */
export interface ListChange<T> {
  readonly gone: readonly T[];
  readonly come: readonly T[];
}

interface Noted {
  /** Weak, so that no list keeps all lists before it. */
  readonly before: WeakRef<List<object>>;
  readonly change: ListChange<object>;
}

const noted = new WeakMap<List<object>, Noted>();
const NOTHING: ListChange<never> = { gone: [], come: [] };

/** `after` is what `before` becomes by this change. Neither may be changed from now on. */
export function noteChange<T extends object>(before: List<T>, after: List<T>, change: ListChange<T>): void {
  noted.set(after, { before: new WeakRef(before), change });
}

/** Objects that only moved may be in both. */
export function changeBetween<T extends object>(before: List<T>, after: List<T>): ListChange<T> {
  if (before === after) return NOTHING;
  const known = noted.get(after);
  if (known !== undefined && known.before.deref() === before) return known.change as ListChange<T>;
  return compared(before, after);
}

/** The same, by looking at every object. */
export function compared<T extends object>(before: List<T>, after: List<T>): ListChange<T> {
  if (before.length !== after.length) {
    const [old, fresh] = [new Set(before), new Set(after)];
    return { gone: [...old.difference(fresh)], come: [...fresh.difference(old)] };
  }
  const gone: T[] = [];
  const come: T[] = [];
  const others = after[Symbol.iterator]();
  for (const was of before) {
    const is = others.next().value as T;
    if (is === was) continue;
    gone.push(was);
    come.push(is);
  }
  return { gone, come };
}
