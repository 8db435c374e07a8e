// SPDX-License-Identifier: Apache-2.0
// An immutable map whose next version costs what changed: entries lie in shards, and a shard that nobody touched is shared by both
// versions, so that whoever compares two versions passes over it.

/** A change copies one, of 100,000 addresses a hundred; fewer would be more to copy, more would be larger than what is in them. */
const SHARDS = 1024;

/** By the last hex digits of an address, which differ most between neighbours. */
function shardOf(key: string): number {
  return Number.parseInt(key.slice(-3), 16) & (SHARDS - 1);
}

/** Keys are AddressKeys (or end in three hex digits). */
export class ShardedMap<V> implements ReadonlyMap<string, V> {
  readonly #shards: readonly ReadonlyMap<string, V>[];
  readonly size: number;

  private constructor(shards: readonly ReadonlyMap<string, V>[], size: number) {
    this.#shards = shards;
    this.size = size;
  }

  static empty<V>(): ShardedMap<V> {
    return new ShardedMap<V>(Array<ReadonlyMap<string, V>>(SHARDS).fill(new Map()), 0);
  }

  /** A version with these changes; undefined deletes. The same object where nothing changes. */
  with(changes: Iterable<readonly [string, V | undefined]>): ShardedMap<V> {
    const shards = [...this.#shards];
    const mine = new Map<number, Map<string, V>>();
    let size = this.size;
    for (const [key, value] of changes) {
      const index = shardOf(key);
      const before = shards[index]?.get(key);
      if (before === value) continue;
      let shard = mine.get(index);
      if (shard === undefined) {
        shard = new Map(shards[index]);
        mine.set(index, shard);
        shards[index] = shard;
      }
      if (value === undefined) shard.delete(key);
      else shard.set(key, value);
      size += (value === undefined ? 0 : 1) - (before === undefined ? 0 : 1);
    }
    return mine.size === 0 ? this : new ShardedMap(shards, size);
  }

  /** Keys whose values differ from another version's, by identity. */
  *differences(other: ShardedMap<V>): Generator<string> {
    for (const [index, shard] of this.#shards.entries()) {
      const theirs = other.#shards[index];
      if (theirs === undefined || shard === theirs) continue;
      for (const [key, value] of shard) if (theirs.get(key) !== value) yield key;
      for (const key of theirs.keys()) if (!shard.has(key)) yield key;
    }
  }

  get(key: string): V | undefined {
    return this.#shards[shardOf(key)]?.get(key);
  }

  has(key: string): boolean {
    return this.#shards[shardOf(key)]?.has(key) ?? false;
  }

  *entries(): MapIterator<[string, V]> {
    for (const shard of new Set(this.#shards)) yield* shard.entries();
  }

  *keys(): MapIterator<string> {
    for (const shard of new Set(this.#shards)) yield* shard.keys();
  }

  *values(): MapIterator<V> {
    for (const shard of new Set(this.#shards)) yield* shard.values();
  }

  forEach(callback: (value: V, key: string, map: ReadonlyMap<string, V>) => void): void {
    for (const [key, value] of this) callback(value, key, this);
  }

  [Symbol.iterator](): MapIterator<[string, V]> {
    return this.entries();
  }
}
