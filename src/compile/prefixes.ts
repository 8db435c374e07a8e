// SPDX-License-Identifier: Apache-2.0
// Which blocks cover an address? Cuts many overlapping blocks into a trie of prefixes whose class is the set of blocks that
// cover it. Families don't mix: below ::ffff:0:0/96 nothing is inherited from a shorter IPv6 prefix.

import { addressKey, contains, EVERYTHING, IPV4, mask, type Prefix, prefix } from '../model/address.ts';
import { idOf } from '../model/hash.ts';
import type { AddressKey, Id } from '../model/tables.ts';
import type { Block } from './ruleset.ts';

/** A set of blocks by id, and its own id. Equal sets are one object within one trie. */
export interface NetworkClass {
  readonly id: Id;
  readonly blocks: ReadonlySet<string>;
}

export interface Trie {
  /** Prefix `key/bits` → class, for every prefix whose class differs from what surrounds it. */
  readonly prefixes: ReadonlyMap<string, NetworkClass>;
  readonly classes: ReadonlyMap<Id, NetworkClass>;
  readonly lookUp: (address: AddressKey) => NetworkClass;
}

export const NO_BLOCKS: NetworkClass = { id: idOf('network class '), blocks: new Set() };

interface Point extends Prefix {
  readonly adds: string[];
  readonly takes: string[];
}

interface State {
  readonly key: string;
  readonly in: ReadonlySet<string>;
  readonly out: ReadonlySet<string>;
  readonly class: NetworkClass;
}

/** The trie of these blocks. CIDRs must be valid (parse saw to that). */
export function trie(blocks: Iterable<Block>): Trie {
  const points = new Map<string, Point>();
  const point = (at: Prefix): Point => {
    const name = `${at.key}/${at.bits}`;
    let found = points.get(name);
    if (found === undefined) {
      found = { ...at, adds: [], takes: [] };
      points.set(name, found);
    }
    return found;
  };
  for (const { id, cidrs, except } of blocks) {
    for (const cidr of cidrs) point(parsed(cidr)).adds.push(id);
    for (const cidr of except) point(parsed(cidr)).takes.push(id);
  }
  if (points.size > 0) point(IPV4);

  const classes = new Map<Id, NetworkClass>();
  const states = new Map<string, State>();
  const nothing: State = { key: '', in: new Set(), out: new Set(), class: NO_BLOCKS };
  const step = (from: State, { adds, takes }: Point): State => {
    if (adds.length === 0 && takes.length === 0) return from;
    const key = `${from.key}+${adds.sort().join()}-${takes.sort().join()}`;
    let state = states.get(key);
    if (state === undefined) {
      const inside = new Set([...from.in, ...adds]);
      const outside = new Set([...from.out, ...takes]);
      const covering = [...inside].filter((id) => !outside.has(id)).sort();
      const id = covering.length === 0 ? NO_BLOCKS.id : idOf(`network class ${covering.join(' ')}`);
      const shared = classes.get(id) ?? (covering.length === 0 ? NO_BLOCKS : { id, blocks: new Set(covering) });
      classes.set(id, shared);
      state = { key: idOf(key), in: inside, out: outside, class: shared };
      states.set(key, state);
    }
    return state;
  };

  const prefixes = new Map<string, NetworkClass>();
  const lengths = new Set<number>();
  const enclosing: { readonly point: Prefix; readonly state: State }[] = [{ point: EVERYTHING, state: nothing }];
  const sorted = [...points.values()].sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : a.bits - b.bits));
  for (const next of sorted) {
    while (!contains((enclosing.at(-1) as { point: Prefix }).point, next.key)) enclosing.pop();
    const around = (enclosing.at(-1) as { state: State }).state;
    const isBarrier = next.bits === IPV4.bits && next.key === IPV4.key;
    const state = step(isBarrier ? nothing : around, next);
    if (isBarrier || state.class !== around.class) {
      prefixes.set(`${next.key}/${next.bits}`, state.class);
      lengths.add(next.bits);
    }
    enclosing.push({ point: next, state });
  }

  const longestFirst = [...lengths].sort((a, b) => b - a);
  return {
    prefixes,
    classes,
    lookUp(address) {
      for (const bits of longestFirst) {
        const found = prefixes.get(`${mask(address, bits)}/${bits}`);
        if (found !== undefined) return found;
      }
      return NO_BLOCKS;
    },
  };
}

function parsed(cidr: string): Prefix {
  const found = prefix(cidr);
  if (found === null) throw new Error(`parse let an invalid CIDR through: ${cidr}`);
  return found;
}

/** The address of a plain IP in text; parse keeps no other. */
export function keyOf(address: string): AddressKey {
  const key = addressKey(address);
  if (key === null) throw new Error(`parse let an invalid address through: ${address}`);
  return key;
}
