// SPDX-License-Identifier: Apache-2.0
// What is known of one kind now, and which of it has changed since it was last asked? Knows neither the API server nor other kinds.
import type { Cut, Replacement, Sink } from './reflector.ts';

/** How a kind is read. */
export interface Reading<E> {
  /** `namespace/name`, or `name`. */
  keyOf(object: Cut): string;
  /** What an object comes to; `before` itself, where it says the same. */
  read(object: Cut, before: E | undefined): E;
  /** Whether there is something to miss, should there be no such resource. */
  isExpected(): boolean;
}

export class Collection<E> implements Sink {
  readonly #reading: Reading<E>;
  readonly #onChange: () => void;
  #entries = new Map<string, E>();
  #changed = new Set<string>();

  /** @param onChange something is to be taken. */
  constructor(reading: Reading<E>, onChange: () => void) {
    this.#reading = reading;
    this.#onChange = onChange;
  }

  get entries(): ReadonlyMap<string, E> {
    return this.#entries;
  }

  get isExpected(): boolean {
    return this.#entries.size > 0 || this.#reading.isExpected();
  }

  /** Keys of what is new, different or gone since the last time. */
  takeChanged(): ReadonlySet<string> {
    const changed = this.#changed;
    this.#changed = new Set();
    return changed;
  }

  put(object: Cut): void {
    const key = this.#reading.keyOf(object);
    const before = this.#entries.get(key);
    const now = this.#reading.read(object, before);
    if (now === before) return;
    this.#entries.set(key, now);
    this.#note(key);
  }

  remove(object: Cut): void {
    const key = this.#reading.keyOf(object);
    if (this.#entries.delete(key)) this.#note(key);
  }

  replace(): Replacement {
    const next = new Map<string, E>();
    return {
      put: (object) => {
        const key = this.#reading.keyOf(object);
        next.set(key, this.#reading.read(object, next.get(key) ?? this.#entries.get(key)));
      },
      remove: (object) => {
        next.delete(this.#reading.keyOf(object));
      },
      commit: () => {
        const before = this.#entries;
        this.#entries = next;
        const { size } = this.#changed;
        for (const [key, entry] of next) if (before.get(key) !== entry) this.#changed.add(key);
        for (const key of before.keys()) if (!next.has(key)) this.#changed.add(key);
        if (this.#changed.size > size) this.#onChange();
      },
    };
  }

  #note(key: string): void {
    this.#changed.add(key);
    this.#onChange();
  }
}
