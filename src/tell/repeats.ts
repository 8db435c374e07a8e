// SPDX-License-Identifier: Apache-2.0
// How is a stream of refusals told without drowning the reader? The first of a kind at once, its repeats summed once a second.
// Bounded: however many kinds there are, memory and lines are not more than `MAX_KINDS` a second.
import { type Refusal, sameness } from './refusal.ts';

const MAX_KINDS = 4096;

export class Repeats {
  readonly #tell: (refusal: Refusal, count: number) => void;
  readonly #tellMore: (count: number) => void;
  readonly #windowMs: number;
  #kinds = new Map<string, { last: Refusal; more: number }>();
  #more = 0;
  #timer: NodeJS.Timeout | null = null;

  /** `tellMore`: so many refusals of kinds beyond the bound. */
  constructor(tell: (refusal: Refusal, count: number) => void, tellMore: (count: number) => void, windowMs = 1000) {
    this.#tell = tell;
    this.#tellMore = tellMore;
    this.#windowMs = windowMs;
  }

  add(refusal: Refusal): void {
    const kind = sameness(refusal);
    const known = this.#kinds.get(kind);
    if (known !== undefined) {
      known.last = refusal;
      known.more += 1;
    } else if (this.#kinds.size < MAX_KINDS) {
      this.#kinds.set(kind, { last: refusal, more: 0 });
      this.#tell(refusal, 1);
    } else {
      this.#more += 1;
    }
    if (this.#timer === null) {
      this.#timer = setTimeout(() => this.flush(), this.#windowMs);
      this.#timer.unref();
    }
  }

  /** Tells what was held back. A kind that went on is held for another window, one that rested is new again. */
  flush(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    const going = new Map<string, { last: Refusal; more: number }>();
    for (const [kind, { last, more }] of this.#kinds) {
      if (more === 0) continue;
      this.#tell(last, more);
      going.set(kind, { last, more: 0 });
    }
    this.#kinds = going;
    if (this.#more > 0) this.#tellMore(this.#more);
    this.#more = 0;
    if (going.size > 0) {
      this.#timer = setTimeout(() => this.flush(), this.#windowMs);
      this.#timer.unref();
    }
  }
}
