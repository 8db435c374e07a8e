// SPDX-License-Identifier: Apache-2.0
// One map as the agent knows it: what it holds, what would change, the writes, and how each is taken back.
// Knows nothing of the order between maps.

import { ShardedMap } from '../model/sharded-map.ts';
import { type Delta, diff, diffOf } from './diff.ts';
import { encodeEntries, encodeKeys, type MapCodec, type MapName } from './encode.ts';
import type { NativeObject, Page } from './native.ts';
import { BPF_MAP_TYPE_LPM_TRIE } from './native.ts';

/** Elements that are bytes at once: as many as native/maps.cc hands to the kernel in one batch. */
const PART = 4096;
/** Elements that an audit looks at in one turn of the loop: a millisecond or two. */
const AUDIT_PART = 512;
/** Where a trie changes all the time, the audit is done in one go after so many. */
const MAX_ATTEMPTS = 5;

export interface TableShape<K, V, EK, EV> {
  readonly codec: MapCodec<EK, EV>;
  readonly same: (a: V, b: V) => boolean;
  /** The elements of the map that stand for one entry. */
  readonly elements: (key: K, value: V) => readonly (readonly [EK, EV])[];
  /** For which entry an element with this key would stand. */
  readonly entryOf: (element: EK) => K;
}

/** Asked of one map. Yields where others may have their turn; throws KernelError. */
export type Audit = (mustRepair: boolean) => Generator<void, MapAudit>;

/** What a map holds against what it should. */
export interface MapAudit {
  readonly map: string;
  /** Elements that it holds. */
  readonly entries: number;
  /** Elements that it should hold. */
  readonly wanted: number;
  /** Elements that are changed, missing, or too many. 0: it holds to a byte what was written. */
  readonly differing: number;
  /**
   * 16 hex digits, the same for the same elements in whichever order: of what it holds, and of what it should; null: not asked for, or
   * not known.
   */
  readonly digest: string | null;
  readonly wantedDigest: string | null;
}

/** What an audit came upon. */
interface Found {
  added: number;
  missing: number;
  changed: number;
  /** What the map's digest is away from that of what it should hold, where it is only looked at. */
  readonly shift: Digest;
}

function nothingFound(): Found {
  return { added: 0, missing: 0, changed: 0, shift: new Digest() };
}

/**
 * A sum of the elements' hashes: against mistakes, not against who makes elements for it. Each is FNV-1a's, in two halves that begin
 * differently, with murmur3's last step, since sums would else show how elements resemble each other.
 */
class Digest {
  #high = 0;
  #low = 0;

  add(key: Uint8Array, value: Uint8Array): void {
    this.#count(key, value, 1);
  }

  subtract(key: Uint8Array, value: Uint8Array): void {
    this.#count(key, value, -1);
  }

  #count(key: Uint8Array, value: Uint8Array, by: 1 | -1): void {
    let high = 0x811c9dc5;
    let low = 0x01000193;
    for (const bytes of [key, value]) {
      for (let at = 0; at < bytes.length; at++) {
        const byte = bytes[at] as number;
        high = Math.imul(high ^ byte, 0x01000193);
        low = Math.imul(low ^ byte, 0x01000193) + 0x9e3779b9;
      }
    }
    this.#high = (this.#high + by * mixed(high)) >>> 0;
    this.#low = (this.#low + by * mixed(low ^ high)) >>> 0;
  }

  plus(other: Digest): Digest {
    const sum = new Digest();
    sum.#high = (this.#high + other.#high) >>> 0;
    sum.#low = (this.#low + other.#low) >>> 0;
    return sum;
  }

  get text(): string {
    return [this.#high, this.#low].map((half) => half.toString(16).padStart(8, '0')).join('');
  }
}

function mixed(half: number): number {
  let bits = half ^ (half >>> 16);
  bits = Math.imul(bits, 0x85ebca6b);
  bits ^= bits >>> 13;
  bits = Math.imul(bits, 0xc2b2ae35);
  return (bits ^ (bits >>> 16)) >>> 0;
}

function slice(bytes: Buffer, index: number, size: number): Buffer {
  return bytes.subarray(index * size, (index + 1) * size);
}

export class Table<K, V, EK, EV> {
  readonly #object: NativeObject;
  readonly #shape: TableShape<K, V, EK, EV>;
  readonly #isTrie: boolean;
  readonly #maxEntries: number;
  /** Of one element. */
  readonly #scratch: readonly [Buffer, Buffer];
  readonly #entries = new Map<K, V>();
  #size = 0;
  /** Another after each write. */
  #version = 0;
  /** Of what the map should hold. */
  #digest = new Digest();
  /** What the map holds whole, if that is certain: whoever wants it never changes it. */
  #settled: ReadonlyMap<K, V> | null = null;

  constructor(object: NativeObject, shape: TableShape<K, V, EK, EV>) {
    this.#object = object;
    this.#shape = shape;
    const { type, maxEntries } = object.maps()[shape.codec.map] ?? { type: 0, maxEntries: 0 };
    this.#isTrie = type === BPF_MAP_TYPE_LPM_TRIE;
    this.#maxEntries = maxEntries;
    this.#scratch = [Buffer.alloc(shape.codec.keyBytes), Buffer.alloc(shape.codec.valueBytes)];
  }

  get map(): MapName {
    return this.#shape.codec.map;
  }

  /** What the kernel holds, as far as is known. */
  get entries(): ReadonlyMap<K, V> {
    return this.#entries;
  }

  /** Elements of the map in use. */
  get size(): number {
    return this.#size;
  }

  delta(desired: ReadonlyMap<K, V>, bridge?: ReadonlyMap<K, V>): Delta<K, V> {
    const settled = this.#settled;
    if (bridge === undefined || bridge.size === 0) {
      if (settled === desired) return { upserts: new Map(), deletes: new Set(), inserted: 0 };
      if (settled instanceof ShardedMap && desired instanceof ShardedMap) {
        const keys = desired.differences(settled) as Iterable<string> as Iterable<K>;
        return diffOf(keys, this.#entries, desired, this.#shape.same);
      }
    }
    return diff(this.#entries, desired, this.#shape.same, bridge);
  }

  /** Everything of `desired` is written, and nothing else is left: the next delta looks only at what differs from it. */
  settle(desired: ReadonlyMap<K, V>): void {
    this.#settled = desired;
  }

  /** Elements that the map holds after the upserts and before any deletion. */
  peak({ upserts }: Delta<K, V>): number {
    let peak = this.#size;
    for (const [key, value] of upserts) peak += this.#count(key, value) - this.#held(key).length;
    return peak;
  }

  /**
   * Writes. Returns how to take it back, and tells `onBegin` so before the first byte is written, because a write that fails
   * may have been done in part.
   */
  upsert(upserts: ReadonlyMap<K, V>, onBegin: (undo: () => void) => void): void {
    if (upserts.size === 0) return;
    const before = new Map<K, V>();
    for (const key of upserts.keys()) {
      const value = this.#entries.get(key);
      if (value !== undefined) before.set(key, value);
    }
    onBegin(() => {
      const fresh = [...upserts].filter(([key]) => !before.has(key));
      this.#write(before);
      this.#erase(fresh.flatMap(([key, value]) => this.#shape.elements(key, value).map(([element]) => element)));
      for (const [key, value] of before) this.#remember(key, value);
      for (const [key] of fresh) this.#forget(key);
    });
    this.#write(upserts);
    for (const [key, value] of upserts) this.#remember(key, value);
  }

  remove(keys: ReadonlySet<K>, onBegin: (undo: () => void) => void): void {
    if (keys.size === 0) return;
    const before = [...keys].flatMap((key): [K, V][] => {
      const value = this.#entries.get(key);
      return value === undefined ? [] : [[key, value]];
    });
    onBegin(() => {
      this.#write(before);
      for (const [key, value] of before) this.#remember(key, value);
    });
    this.#erase(before.flatMap(([key, value]) => this.#shape.elements(key, value).map(([element]) => element)));
    for (const key of keys) this.#forget(key);
  }

  /** Takes over what the kernel was found to hold. */
  assume(entries: ReadonlyMap<K, V>): void {
    this.#version += 1;
    this.#settled = null;
    this.#entries.clear();
    this.#size = 0;
    this.#digest = new Digest();
    for (const [key, value] of entries) this.#remember(key, value);
  }

  /**
   * Compares the map, byte by byte, with what was written to it, and with `mustRepair` puts right what differs: rewrites what was changed
   * or deleted, deletes what was added, and calls `onRepaired` at once each time; without it, gives digests. Looks at some elements, then
   * yields. What is written here meanwhile is no difference: each part of the map is compared with what is to be there when it is read.
   * Throws KernelError.
   */
  *audit(mustRepair: boolean, onRepaired: () => void = () => undefined): Generator<void, MapAudit> {
    const found = this.#isTrie
      ? yield* this.#auditTrie(mustRepair, onRepaired)
      : yield* this.#auditHash(mustRepair, onRepaired);
    const { added, missing, changed, shift } = found;
    const differing = added + missing + changed;
    return {
      ...{ map: this.map, entries: this.#size - missing + added, wanted: this.#size, differing },
      digest: mustRepair ? null : this.#digest.plus(shift).text,
      wantedDigest: mustRepair ? null : this.#digest.text,
    };
  }

  *#auditHash(mustRepair: boolean, onRepaired: () => void): Generator<void, Found> {
    const found = nothingFound();
    for (let place: Buffer | null = null, isFirst = true; isFirst || place !== null; isFirst = false) {
      if (!isFirst) yield;
      const page: Page = this.#object.readPage(this.map, place, AUDIT_PART);
      place = page.next;
      const added = this.#compare(page).filter(({ wanted }) => wanted === null);
      found.added += added.length;
      if (!mustRepair) for (const { key, held } of added) found.shift.add(key, held);
      else if (added.length > 0) {
        this.#object.remove(this.map, Buffer.concat(added.map(({ key }) => key)), added.length);
        onRepaired();
      }
    }
    let part: (readonly [EK, EV])[] = [];
    for (const [key, value] of this.#entries) {
      for (const element of this.#shape.elements(key, value)) part.push(element);
      if (part.length < AUDIT_PART) continue;
      this.#check(part, found, mustRepair, onRepaired);
      part = [];
      yield;
    }
    this.#check(part, found, mustRepair, onRepaired);
    return found;
  }

  /** Are these elements in the map as they were written? */
  #check(part: readonly (readonly [EK, EV])[], found: Found, mustRepair: boolean, onRepaired: () => void): void {
    if (part.length === 0) return;
    const { codec } = this.#shape;
    const { keys, values, count } = encodeEntries(codec, part);
    const held = this.#object.findAll(this.map, keys, count);
    const wrong: number[] = [];
    for (let at = 0; at < count; at++) {
      const isThere = held.areThere[at] === 1;
      const [key, value] = [slice(keys, at, codec.keyBytes), slice(values, at, codec.valueBytes)];
      const other = slice(held.values, at, codec.valueBytes);
      if (isThere && value.equals(other)) continue;
      wrong.push(at);
      found[isThere ? 'changed' : 'missing'] += 1;
      if (mustRepair) continue;
      found.shift.subtract(key, value);
      if (isThere) found.shift.add(key, other);
    }
    if (!mustRepair || wrong.length === 0) return;
    const chosen = wrong.map((at) => part[at]).filter((element) => element !== undefined);
    const right = encodeEntries(codec, chosen);
    this.#object.update(this.map, right.keys, right.values, right.count, codec.flags);
    onRepaired();
  }

  /**
   * A trie gives for a key that is absent what is found for a shorter one, so only a walk through all of it tells what is missing; and
   * such a walk holds only where nothing was written meanwhile.
   */
  *#auditTrie(mustRepair: boolean, onRepaired: () => void): Generator<void, Found> {
    for (let attempt = 0; ; attempt++) {
      const version = this.#version;
      const added: Buffer[] = [];
      const found = nothingFound();
      let place: Buffer | null = null;
      let seen = 0;
      // Somebody else who deletes where the walk stands makes it begin again, but not for ever.
      do {
        const page: Page = this.#object.readPage(this.map, place, AUDIT_PART);
        place = page.next;
        seen += page.count;
        for (const { key, held, wanted } of this.#compare(page)) {
          if (wanted === null) added.push(key);
          else found.changed += 1;
          if (mustRepair) continue;
          found.shift.add(key, held);
          if (wanted !== null) found.shift.subtract(key, wanted);
        }
        if (place !== null && attempt < MAX_ATTEMPTS) yield;
      } while (place !== null && this.#version === version && seen <= 2 * this.#maxEntries);
      if (this.#version !== version) continue;
      found.added = added.length;
      found.missing = Math.max(0, this.#size - (seen - added.length));
      if (found.missing > 0 && !mustRepair) for (const element of this.#missing()) found.shift.subtract(...element);
      if (!mustRepair || found.added + found.changed + found.missing === 0) return found;
      if (added.length > 0) this.#object.remove(this.map, Buffer.concat(added), added.length);
      // Which are missing is not known; writing what is there again changes nothing.
      if (found.changed + found.missing > 0 || added.length > 0) this.#write(this.#entries);
      onRepaired();
      return found;
    }
  }

  /** Elements of the trie that are not in the map, and should be. */
  #missing(): [Buffer, Buffer][] {
    const { codec } = this.#shape;
    const { keys, count } = this.#object.dump(this.map);
    const held = new Set(Array.from({ length: count }, (_, at) => slice(keys, at, codec.keyBytes).toString('latin1')));
    return [...this.#entries].flatMap(([key, value]) =>
      this.#shape
        .elements(key, value)
        .map((element): [Buffer, Buffer] => {
          const [own, wanted] = this.#bytesOf(element);
          return [Buffer.from(own), Buffer.from(wanted)];
        })
        .filter(([bytes]) => !held.has(bytes.toString('latin1'))),
    );
  }

  /** Elements that should not be in the map (`wanted` null), or not with that value. */
  #compare({ keys, values, count }: Page): { key: Buffer; held: Buffer; wanted: Buffer | null }[] {
    const { codec } = this.#shape;
    const differing = [];
    for (let at = 0; at < count; at++) {
      const key = slice(keys, at, codec.keyBytes);
      const held = slice(values, at, codec.valueBytes);
      const wanted = this.#wantedAt(key);
      if (wanted === null || !wanted.equals(held)) {
        differing.push({ key, held, wanted: wanted === null ? null : Buffer.from(wanted) });
      }
    }
    return differing;
  }

  /** The value that belongs to this key, good until the next is asked for; null: none. */
  #wantedAt(bytes: Buffer): Buffer | null {
    const { codec, entryOf, elements } = this.#shape;
    const elementKey = codec.decodeKey(bytes, 0);
    const key = entryOf(elementKey);
    const value = this.#entries.get(key);
    const element = value === undefined ? undefined : elements(key, value).find(([one]) => one === elementKey);
    if (element === undefined) return null;
    const [own, wanted] = this.#bytesOf(element);
    return own.equals(bytes) ? wanted : null;
  }

  /** Good until the next is asked for. */
  #bytesOf([key, value]: readonly [EK, EV]): readonly [Buffer, Buffer] {
    const { codec } = this.#shape;
    const [keyBytes, valueBytes] = this.#scratch;
    codec.encodeKey(key, keyBytes.fill(0), 0);
    codec.encodeValue(value, valueBytes.fill(0), 0);
    return this.#scratch;
  }

  /** A part at a time: as one, the first snapshot's would be there four times over, as pairs, lists of them, and bytes. */
  #write(entries: Iterable<readonly [K, V]>): void {
    this.#version += 1;
    let part: (readonly [EK, EV])[] = [];
    const flush = (): void => {
      if (part.length === 0) return;
      const { keys, values, count } = encodeEntries(this.#shape.codec, part);
      this.#object.update(this.map, keys, values, count, this.#shape.codec.flags);
      part = [];
    };
    for (const [key, value] of entries) {
      for (const element of this.#shape.elements(key, value)) part.push(element);
      if (part.length >= PART) flush();
    }
    flush();
  }

  #erase(keys: readonly EK[]): void {
    this.#version += 1;
    if (keys.length > 0) this.#object.remove(this.map, encodeKeys(this.#shape.codec, keys), keys.length);
  }

  #remember(key: K, value: V): void {
    this.#unsettle(key);
    this.#entries.set(key, value);
    for (const element of this.#shape.elements(key, value)) {
      this.#size += 1;
      this.#digest.add(...this.#bytesOf(element));
    }
  }

  #forget(key: K): void {
    this.#unsettle(key);
    this.#entries.delete(key);
  }

  /** What stands for it now is not to be counted any more. */
  #unsettle(key: K): void {
    this.#version += 1;
    this.#settled = null;
    for (const element of this.#held(key)) {
      this.#size -= 1;
      this.#digest.subtract(...this.#bytesOf(element));
    }
  }

  #held(key: K): readonly (readonly [EK, EV])[] {
    const value = this.#entries.get(key);
    return value === undefined ? [] : this.#shape.elements(key, value);
  }

  #count(key: K, value: V): number {
    return this.#shape.elements(key, value).length;
  }
}
