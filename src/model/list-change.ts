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

/** What made a list of the one before it, and so on back. Keeps no list: only what came and went. */
interface History {
  readonly change: ListChange<object>;
  /** null: what was before is not known any more. */
  before: History | null;
}

/** So many objects that came and went are kept of a list's past: a follower that is further behind compares. */
const MOST_KEPT = 512;

const histories = new WeakMap<List<object>, History>();
const NOTHING: ListChange<never> = { gone: [], come: [] };

/** `after` is what `before` becomes by this change. Neither may be changed from now on. */
export function noteChange<T extends object>(before: List<T>, after: List<T>, change: ListChange<T>): void {
  const history = { change, before: historyOf(before) };
  histories.set(after, history);
  forgetOld(history);
}

function historyOf(list: List<object>): History {
  const known = histories.get(list);
  if (known !== undefined) return known;
  const first = { change: NOTHING, before: null };
  histories.set(list, first);
  return first;
}

function forgetOld(history: History): void {
  let kept = 0;
  for (let at: History | null = history; at !== null; at = at.before) {
    kept += 1 + at.change.gone.length + at.change.come.length;
    if (kept > MOST_KEPT) at.before = null;
  }
}

/** Objects that only moved may be in both. */
export function changeBetween<T extends object>(before: List<T>, after: List<T>): ListChange<T> {
  if (before === after) return NOTHING;
  const [from, to] = [histories.get(before), histories.get(after)];
  const changes: ListChange<object>[] = [];
  let at = from === undefined ? null : (to ?? null);
  for (; at !== null && at !== from; at = at.before) changes.push(at.change);
  if (at === null) return compared(before, after);
  const [last] = changes;
  return (changes.length === 1 && last !== undefined ? last : inOne(changes.reverse())) as ListChange<T>;
}

/** Changes that followed each other, as one: what came and went again is in neither. */
function inOne(changes: readonly ListChange<object>[]): ListChange<object> {
  const gone = new Set<object>();
  const come = new Set<object>();
  for (const change of changes) {
    for (const one of change.gone) if (!come.delete(one)) gone.add(one);
    for (const one of change.come) if (!gone.delete(one)) come.add(one);
  }
  return { gone: [...gone], come: [...come] };
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
