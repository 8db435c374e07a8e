// SPDX-License-Identifier: Apache-2.0
// Which objects say the same, and can be one? The pods of a Deployment have the same labels and ports; told apart by nobody, they are
// held once.

/**
 * Beyond so many, what was shared stays shared, and sharing begins anew: a cluster's labels change for ever. Lists are in the order of
 * names, so that what is alike comes together.
 */
const MOST = 4_096;

export class Sharing {
  readonly #known = new Map<string, unknown>();

  /** `value`, or an earlier one that says the same. Both plain data. */
  share<T>(value: T): T {
    const key = JSON.stringify(value);
    const known = this.#known.get(key);
    if (known !== undefined) return known as T;
    if (this.#known.size >= MOST) this.#known.clear();
    this.#known.set(key, value);
    return value;
  }
}
