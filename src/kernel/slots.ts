// SPDX-License-Identifier: Apache-2.0
// Which number is a workload's? A slot stays with its name; one that is given up rests until its counters were read.
// Pure bookkeeping: writes nothing.

import { SLOT_UNKNOWN } from '#build/generated/abi.ts';

/** What an assignment would be; nothing holds until it is taken over by `commit`. */
export interface Assignment {
  /** The same map, where nobody's slot is another. */
  readonly slots: ReadonlyMap<string, number>;
  /** Slots that were nobody's. */
  readonly taken: ReadonlySet<number>;
  /** Slots that nobody needs any more. */
  readonly freed: ReadonlyMap<number, string>;
  /** One more than the highest slot in use. */
  readonly end: number;
}

export class Slots {
  #slots: ReadonlyMap<string, number>;
  #end: number;
  readonly #free: number[] = [];
  /** Given up, and not yet reusable; still named, because their counters are. */
  readonly #resting = new Map<number, string>();
  readonly #names = new Map<number, string>();

  /** `inherited`: slots that are in use before any name is known, each by a stand-in for it. */
  constructor(inherited: ReadonlyMap<string, number> = new Map()) {
    this.#slots = inherited;
    this.#end = Math.max(SLOT_UNKNOWN, ...inherited.values()) + 1;
    for (const [name, slot] of inherited) this.#names.set(slot, name);
    for (let slot = SLOT_UNKNOWN + 1; slot < this.#end; slot++) if (!this.#names.has(slot)) this.#free.push(slot);
  }

  /** `standIn`: by which name a slot may have been inherited that is this name's; null: by none. */
  assign(names: Iterable<string>, standIn: (name: string) => string | null = () => null): Assignment {
    const slots = new Map<string, number>();
    const taken = new Set<number>();
    const claimed = new Set<string>();
    const free = this.#free.slice();
    let end = this.#end;
    for (const name of names) {
      let slot = this.#slots.get(name);
      const former = slot === undefined ? standIn(name) : null;
      if (former !== null && this.#slots.has(former)) {
        slot = this.#slots.get(former);
        claimed.add(former);
      }
      if (slot === undefined) {
        slot = free.pop() ?? end++;
        taken.add(slot);
      }
      slots.set(name, slot);
    }
    const freed = new Map<number, string>();
    for (const [name, slot] of this.#slots) if (!slots.has(name) && !claimed.has(name)) freed.set(slot, name);
    const isSame = taken.size + freed.size + claimed.size === 0;
    return { slots: isSame ? this.#slots : slots, taken, freed, end };
  }

  commit({ slots, taken, freed, end }: Assignment): void {
    this.#slots = slots;
    this.#end = end;
    for (let index = this.#free.length; index-- > 0; ) {
      if (taken.has(this.#free[index] ?? SLOT_UNKNOWN)) this.#free.splice(index, 1);
    }
    for (const [slot, name] of freed) this.#resting.set(slot, name);
    for (const [name, slot] of slots) this.#names.set(slot, name);
  }

  get resting(): ReadonlyMap<number, string> {
    return this.#resting;
  }

  slotOf(name: string): number | null {
    return this.#slots.get(name) ?? null;
  }

  /** null: the slot of unknown workloads, or one that was never given. */
  nameOf(slot: number): string | null {
    return this.#names.get(slot) ?? null;
  }

  /** No program and no counter speaks of them any more. */
  reuse(slots: Iterable<number>): void {
    for (const slot of slots) if (this.#resting.delete(slot)) this.#free.push(slot);
  }
}
