// SPDX-License-Identifier: Apache-2.0
// One map as the agent knows it: what it holds, what would change, the writes, and how each is taken back.
// Knows nothing of the order between maps.

import { hash } from 'node:crypto';
import { ShardedMap } from '../model/sharded-map.ts';
import { type Delta, diff, diffOf } from './diff.ts';
import { encodeEntries, encodeKeys, type MapCodec, type MapName } from './encode.ts';
import type { NativeObject } from './native.ts';

/** Elements that are bytes at once: as many as native/maps.cc hands to the kernel in one batch. */
const PART = 4096;
/** Elements that an audit looks at in one turn of the loop: some milliseconds. */
const AUDIT_PART = 1024;
/** Where a map changes all the time, the audit is done in one go after so many. */
const MAX_ATTEMPTS = 5;

export interface TableShape<K, V, EK, EV> {
  readonly codec: MapCodec<EK, EV>;
  readonly same: (a: V, b: V) => boolean;
  /** The elements of the map that stand for one entry. */
  readonly elements: (key: K, value: V) => readonly (readonly [EK, EV])[];
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

/** A sum of the elements' hashes: against mistakes, not against who makes elements for it. */
class Digest {
  #high = 0;
  #low = 0;

  add(key: string, value: Buffer): void {
    const bytes = hash('sha256', Buffer.concat([Buffer.from(key, 'latin1'), value]), 'buffer');
    this.#high = (this.#high + bytes.readUInt32LE(0)) >>> 0;
    this.#low = (this.#low + bytes.readUInt32LE(4)) >>> 0;
  }

  get text(): string {
    return [this.#high, this.#low].map((half) => half.toString(16).padStart(8, '0')).join('');
  }
}

function slice(bytes: Buffer, index: number, size: number): Buffer {
  return bytes.subarray(index * size, (index + 1) * size);
}

export class Table<K, V, EK, EV> {
  readonly #object: NativeObject;
  readonly #shape: TableShape<K, V, EK, EV>;
  readonly #entries = new Map<K, V>();
  #size = 0;
  /** Another after each write. */
  #version = 0;
  /** What the map holds whole, if that is certain: whoever wants it never changes it. */
  #settled: ReadonlyMap<K, V> | null = null;

  constructor(object: NativeObject, shape: TableShape<K, V, EK, EV>) {
    this.#object = object;
    this.#shape = shape;
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
    for (const [key, value] of entries) this.#remember(key, value);
  }

  /**
   * Compares the map, byte by byte, with what was written to it, and with `mustRepair` puts right what differs: rewrites what was changed
   * or deleted, deletes what was added; without it, gives digests. Yields where others may have their turn; what they write meanwhile
   * makes it begin again. Throws KernelError.
   */
  *audit(mustRepair: boolean): Generator<void, MapAudit> {
    for (let attempt = 0; ; attempt++) {
      const version = this.#version;
      const mayYield = attempt < MAX_ATTEMPTS;
      const comparison = this.#compare(mustRepair);
      let next = comparison.next();
      while (next.done !== true && this.#version === version) {
        if (mayYield) yield;
        if (this.#version === version) next = comparison.next();
      }
      if (next.done === true) return next.value;
    }
  }

  *#compare(mustRepair: boolean): Generator<void, MapAudit> {
    const { codec } = this.#shape;
    const expected = new Map<string, Buffer>();
    let part: (readonly [EK, EV])[] = [];
    const encode = (): void => {
      const { keys, values, count } = encodeEntries(codec, part);
      for (let at = 0; at < count; at++) {
        expected.set(slice(keys, at, codec.keyBytes).toString('latin1'), slice(values, at, codec.valueBytes));
      }
      part = [];
    };
    for (const [key, value] of this.#entries) {
      for (const element of this.#shape.elements(key, value)) part.push(element);
      if (part.length < AUDIT_PART) continue;
      encode();
      yield;
    }
    encode();
    const { keys, values, count } = this.#object.dump(this.map);
    yield;
    const digest = new Digest();
    const added: string[] = [];
    const right = new Set<string>();
    for (let at = 0; at < count; at++) {
      const key = slice(keys, at, codec.keyBytes).toString('latin1');
      const held = slice(values, at, codec.valueBytes);
      const value = expected.get(key);
      if (value === undefined) added.push(key);
      else if (value.equals(held)) right.add(key);
      if (!mustRepair) digest.add(key, held);
      if (at % AUDIT_PART === AUDIT_PART - 1) yield;
    }
    const wrong = right.size === expected.size ? [] : [...expected].filter(([key]) => !right.has(key));
    const differing = wrong.length + added.length;
    const audit = { map: this.map, entries: count, wanted: expected.size, differing };
    if (!mustRepair) {
      const wanted = new Digest();
      let at = 0;
      for (const [key, value] of differing === 0 ? [] : expected) {
        wanted.add(key, value);
        at += 1;
        if (at % AUDIT_PART === 0) yield;
      }
      return { ...audit, digest: digest.text, wantedDigest: differing === 0 ? digest.text : wanted.text };
    }
    if (wrong.length > 0) {
      const rewritten = wrong.map(([key]) => Buffer.from(key, 'latin1'));
      const asWritten = wrong.map(([, value]) => value);
      this.#object.update(this.map, Buffer.concat(rewritten), Buffer.concat(asWritten), wrong.length, codec.flags);
    }
    if (added.length > 0) this.#object.remove(this.map, Buffer.from(added.join(''), 'latin1'), added.length);
    return { ...audit, digest: null, wantedDigest: null };
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

  #held(key: K): readonly (readonly [EK, EV])[] {
    const value = this.#entries.get(key);
    return value === undefined ? [] : this.#shape.elements(key, value);
  }

  #count(key: K, value: V): number {
    return this.#shape.elements(key, value).length;
  }

  #remember(key: K, value: V): void {
    this.#version += 1;
    this.#settled = null;
    this.#size += this.#count(key, value) - this.#held(key).length;
    this.#entries.set(key, value);
  }

  #forget(key: K): void {
    this.#version += 1;
    this.#settled = null;
    this.#size -= this.#held(key).length;
    this.#entries.delete(key);
  }
}
