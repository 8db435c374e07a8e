// SPDX-License-Identifier: Apache-2.0
// What is stored, and what changed since when? Objects as JSON text under one global revision, with the history that watches and
// continued lists read. Knows no HTTP, no kinds.
import { randomUUID } from 'node:crypto';
import { type Json, type JsonObject, objectAt, textAt } from './json.ts';

/** An object as it was at one version; never changed. */
export interface Stored {
  /** `namespace/name`, or `name`: objects are listed in the order of these, as etcd does. */
  readonly key: string;
  readonly namespace: string | null;
  readonly name: string;
  readonly uid: string;
  readonly resourceVersion: number;
  readonly labels: Readonly<Record<string, string>>;
  /** What field selectors may ask for. */
  readonly fields: Readonly<Record<string, string>>;
  /** JSON, opening with kind and apiVersion. */
  readonly text: Buffer;
  /** Where the text goes on behind kind and apiVersion, which items of a list leave out. */
  readonly bodyAt: number;
}

export interface Change {
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED';
  readonly resourceVersion: number;
  /** Of a deletion: the last state, at the version of the deletion. */
  readonly object: Stored;
  readonly previous: Stored | null;
}

export type FieldsOf = (object: JsonObject) => Readonly<Record<string, string>>;

/** How a collection keeps its objects. */
export interface Kept {
  readonly fieldsOf: FieldsOf;
  readonly custom: boolean;
}

export const parse = (stored: Stored): JsonObject => JSON.parse(stored.text.toString()) as JsonObject;

/** The same object, said to be of another version. */
export function atVersion(stored: Stored, resourceVersion: number): Stored {
  const object = parse(stored);
  return encode(
    { ...object, metadata: { ...objectAt(object, 'metadata'), resourceVersion: String(resourceVersion) } },
    () => stored.fields,
    stored.text.subarray(0, 14).includes('"apiVersion"'),
  );
}

/** Built-in kinds say their kind first; custom ones have their keys sorted, as Go writes a map. */
function encode(object: JsonObject, fieldsOf: FieldsOf, custom: boolean): Stored {
  const { kind = '', apiVersion = '', metadata = {}, ...rest } = object;
  const namespace = textAt(metadata, 'namespace') || null;
  const name = textAt(metadata, 'name');
  const [kindText, versionText] = [`"kind":${JSON.stringify(kind)}`, `"apiVersion":${JSON.stringify(apiVersion)}`];
  const head = custom ? `{${versionText},${kindText},` : `{${kindText},${versionText},`;
  return {
    key: keyOf(namespace, name),
    namespace,
    name,
    uid: textAt(metadata, 'uid'),
    resourceVersion: Number(textAt(metadata, 'resourceVersion')),
    labels: objectAt(metadata, 'labels') as Record<string, string>,
    fields: fieldsOf(object),
    text: Buffer.from(head + JSON.stringify({ metadata, ...rest }).slice(1)),
    bodyAt: Buffer.byteLength(head),
  };
}

export const keyOf = (namespace: string | null, name: string): string =>
  namespace === null ? name : `${namespace}/${name}`;

/** All objects of one resource, and what became of them lately. */
export class Collection {
  readonly objects = new Map<string, Stored>();
  readonly #watchers = new Set<(change: Change) => void>();
  /** Oldest first. */
  #history: Change[] = [];
  /** Versions up to this one can no longer be gone back to, but this one itself can. */
  #oldest: number;
  readonly #fieldsOf: FieldsOf;
  readonly #limit: number;
  readonly #custom: boolean;
  #sorted: readonly Stored[] | null = null;
  /** The state at an older version, kept while its pages are being read. */
  #past: { readonly resourceVersion: number; readonly sorted: readonly Stored[] } | null = null;

  constructor(oldest: number, { fieldsOf, custom }: Kept, historyLimit: number) {
    this.#oldest = oldest;
    this.#fieldsOf = fieldsOf;
    this.#custom = custom;
    this.#limit = historyLimit;
  }

  get oldest(): number {
    return this.#oldest;
  }

  /** In the order of keys. */
  sorted(): readonly Stored[] {
    this.#sorted ??= [...this.objects.values()].sort((a, b) => (a.key < b.key ? -1 : 1));
    return this.#sorted;
  }

  /** The state right after `resourceVersion`, or null where that is compacted. */
  sortedAt(resourceVersion: number): readonly Stored[] | null {
    if (resourceVersion < this.#oldest) return null;
    const later = this.since(resourceVersion) ?? [];
    if (later.length === 0) return this.sorted();
    if (this.#past?.resourceVersion !== resourceVersion) {
      const objects = new Map(this.objects);
      for (const { object, previous } of later.toReversed()) {
        if (previous === null) objects.delete(object.key);
        else objects.set(object.key, previous);
      }
      const sorted = [...objects.values()].sort((a, b) => (a.key < b.key ? -1 : 1));
      this.#past = { resourceVersion, sorted };
    }
    return this.#past.sorted;
  }

  /** Changes after `resourceVersion`, oldest first; null where some of them are compacted. */
  since(resourceVersion: number): readonly Change[] | null {
    if (resourceVersion < this.#oldest) return null;
    let first = this.#history.length;
    while (first > 0 && (this.#history[first - 1]?.resourceVersion ?? 0) > resourceVersion) first--;
    return this.#history.slice(first);
  }

  /** Forgets everything before `resourceVersion`. */
  compact(resourceVersion: number): void {
    this.#oldest = Math.max(this.#oldest, resourceVersion);
    this.#history = this.#history.filter((change) => change.resourceVersion > this.#oldest);
    this.#past = null;
  }

  /** Begins a new history at `resourceVersion`, which may be lower than what was. */
  restart(resourceVersion: number): void {
    this.#history = [];
    this.#past = null;
    this.#oldest = resourceVersion;
  }

  watch(onChange: (change: Change) => void): () => void {
    this.#watchers.add(onChange);
    return () => this.#watchers.delete(onChange);
  }

  write(object: JsonObject, resourceVersion: number): Stored {
    const metadata = { ...objectAt(object, 'metadata'), resourceVersion: String(resourceVersion) };
    const stored = encode({ ...object, metadata }, this.#fieldsOf, this.#custom);
    const previous = this.objects.get(stored.key) ?? null;
    this.objects.set(stored.key, stored);
    if (previous === null) this.#sorted = null;
    else if (this.#sorted !== null) this.#sorted = replaced(this.#sorted, stored);
    this.#tell({ type: previous === null ? 'ADDED' : 'MODIFIED', resourceVersion, object: stored, previous });
    return stored;
  }

  /** Takes an object away; undefined where there is none. */
  remove(key: string, resourceVersion: number): Stored | undefined {
    const previous = this.objects.get(key);
    if (previous === undefined) return undefined;
    this.objects.delete(key);
    this.#sorted = null;
    const object = atVersion(previous, resourceVersion);
    this.#tell({ type: 'DELETED', resourceVersion, object, previous });
    return object;
  }

  #tell(change: Change): void {
    this.#history.push(change);
    if (this.#history.length > this.#limit * 2) {
      const cut = this.#history.length - this.#limit;
      this.#oldest = this.#history[cut - 1]?.resourceVersion ?? this.#oldest;
      this.#history = this.#history.slice(cut);
    }
    for (const watcher of this.#watchers) watcher(change);
  }
}

/** `sorted` is shared with lists under way, so it is never changed in place. */
function replaced(sorted: readonly Stored[], stored: Stored): readonly Stored[] | null {
  // Copying 50,000 references for each of a hundred changes a second costs more than sorting when somebody next lists.
  if (sorted.length > 1_000) return null;
  return sorted.map((one) => (one.key === stored.key ? stored : one));
}

/** Every collection, and the one counter of versions. */
export class Storage {
  /** The version of the last write. */
  revision: number;
  readonly #collections = new Map<string, Collection>();
  readonly #historyLimit: number;

  constructor(revision: number, historyLimit: number) {
    this.revision = revision;
    this.#historyLimit = historyLimit;
  }

  collection(resource: string, kept: Kept): Collection {
    let found = this.#collections.get(resource);
    if (found === undefined) {
      found = new Collection(this.revision, kept, this.#historyLimit);
      this.#collections.set(resource, found);
    }
    return found;
  }

  all(): readonly Collection[] {
    return [...this.#collections.values()];
  }

  drop(resource: string): void {
    this.#collections.delete(resource);
  }

  next(): number {
    return ++this.revision;
  }

  compact(): void {
    for (const one of this.#collections.values()) one.compact(this.revision);
  }

  restart(revision: number): void {
    this.revision = revision;
    for (const one of this.#collections.values()) one.restart(revision);
  }
}

/** What the server gives every new object (rest.BeforeCreate). */
export function newMetadata(metadata: Json | undefined, now: Date): JsonObject {
  return {
    ...objectAt(metadata),
    uid: randomUUID(),
    creationTimestamp: now.toISOString().replace(/\.\d+Z$/, 'Z'),
  };
}
