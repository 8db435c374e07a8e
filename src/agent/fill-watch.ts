// SPDX-License-Identifier: Apache-2.0
// Which maps are about to be full? Told once, before a change is refused for it. Knows no map by name.

export interface Fill {
  readonly map: string;
  readonly entries: number;
  readonly maxEntries: number;
}

/** Told from this share on; and that it is over below the other, so that what goes up and down at the edge is told once. */
const FULL = 0.9;
const EASED = 0.8;

export class FillWatch {
  readonly #full = new Set<string>();

  /** What has changed since it was asked last: maps that have become nearly full, and those that were and are not any more. */
  look(fills: readonly Fill[]): { readonly filling: readonly Fill[]; readonly eased: readonly Fill[] } {
    const filling = fills.filter(
      ({ map, entries, maxEntries }) => !this.#full.has(map) && entries >= maxEntries * FULL,
    );
    const eased = fills.filter(({ map, entries, maxEntries }) => this.#full.has(map) && entries < maxEntries * EASED);
    for (const { map } of filling) this.#full.add(map);
    for (const { map } of eased) this.#full.delete(map);
    return { filling, eased };
  }
}

/** What to do about it, in a sentence. */
export function fillText({ map, entries, maxEntries }: Fill): string {
  return `the map ${map} holds ${entries} of ${maxEntries} entries: a change beyond that will be refused; give it more room with --bpf-map-max ${map}=${maxEntries * 2}`;
}
