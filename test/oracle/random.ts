// SPDX-License-Identifier: Apache-2.0
// A small seeded source of choices: the same seed gives the same choices, everywhere. Not for secrets.

export interface Random {
  /** 0 ≤ n < limit. */
  below(limit: number): number;
  /** Both bounds included. */
  between(low: number, high: number): number;
  chance(probability: number): boolean;
  pick<T>(items: readonly T[]): T;
  /** `count` different items, or all where there are fewer, in random order. */
  sample<T>(items: readonly T[], count: number): T[];
}

/** mulberry32: a 32-bit state, a step of a Weyl sequence, a mix. */
export function seeded(seed: number): Random {
  let state = seed >>> 0;
  function next(): number {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }
  const below = (limit: number) => Math.floor(next() * limit);
  function pick<T>(items: readonly T[]): T {
    if (items.length === 0) throw new RangeError('nothing to pick from');
    return items[below(items.length)] as T;
  }
  return {
    below,
    pick,
    between: (low, high) => low + below(high - low + 1),
    chance: (probability) => next() < probability,
    sample: (items, count) => {
      const left = [...items];
      const taken = [];
      while (taken.length < count && left.length > 0) taken.push(...left.splice(below(left.length), 1));
      return taken;
    },
  };
}
