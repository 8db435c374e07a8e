// SPDX-License-Identifier: Apache-2.0
// What many noisy numbers say together. The middle one, since what disturbs a run only ever adds to it.

export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** Of at least one number. */
export function spread(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (index: number): number => {
    const value = sorted[index];
    if (value === undefined) throw new RangeError('no numbers to summarise');
    return value;
  };
  const middle = sorted.length >> 1;
  return {
    median: sorted.length % 2 === 1 ? at(middle) : (at(middle - 1) + at(middle)) / 2,
    min: at(0),
    max: at(sorted.length - 1),
  };
}

export function median(values: readonly number[]): number {
  return spread(values).median;
}

/** `digits` significant ones: more would be noise, and would make two runs differ for nothing. */
export function rounded(value: number, digits = 3): number {
  return Number(value.toPrecision(digits));
}
