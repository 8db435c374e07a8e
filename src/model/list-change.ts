// SPDX-License-Identifier: Apache-2.0
// What came and what went from one list of objects to the next? Whoever makes a list of what changed says so, and nobody compares
// 50,000 pods again; of any other two lists it is worked out.

/** By identity: an object that another replaced is gone, the other has come. */
export interface ListChange<T> {
  readonly gone: readonly T[];
  readonly come: readonly T[];
}

interface Noted {
  /** Weak, so that no list keeps all lists before it. */
  readonly before: WeakRef<readonly object[]>;
  readonly change: ListChange<object>;
}

const noted = new WeakMap<readonly object[], Noted>();
const NOTHING: ListChange<never> = { gone: [], come: [] };

/** `after` is what `before` becomes by this change. Neither may be changed from now on. */
export function noteChange<T extends object>(before: readonly T[], after: readonly T[], change: ListChange<T>): void {
  noted.set(after, { before: new WeakRef(before), change });
}

/** Objects that only moved may be in both. */
export function changeBetween<T extends object>(before: readonly T[], after: readonly T[]): ListChange<T> {
  if (before === after) return NOTHING;
  const known = noted.get(after);
  if (known !== undefined && known.before.deref() === before) return known.change as ListChange<T>;
  return compared(before, after);
}

/** The same, by looking at every object. */
export function compared<T extends object>(before: readonly T[], after: readonly T[]): ListChange<T> {
  if (before.length === after.length) {
    const differing = after.flatMap((item, index) => (item === before[index] ? [] : [index]));
    return {
      gone: differing.map((index) => before[index] as T),
      come: differing.map((index) => after[index] as T),
    };
  }
  const [old, fresh] = [new Set(before), new Set(after)];
  return { gone: [...old.difference(fresh)], come: [...fresh.difference(old)] };
}
