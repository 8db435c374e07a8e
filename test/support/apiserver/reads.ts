// SPDX-License-Identifier: Apache-2.0
// How are lists and watches answered? The semantics of resourceVersion, limit, continue, sendInitialEvents as the API's
// documentation has them (kubernetes.io, API Concepts), streamed from stored text. Knows no routes and no users.
import { badRequest, expired, Failure, tooLargeResourceVersion } from './failure.ts';
import { type JsonObject, objectAt } from './json.ts';
import type { Outlet } from './outlet.ts';
import type { Registry } from './registry.ts';
import type { Form } from './requests.ts';
import { apiVersionOf, type ResourceType } from './resources.ts';
import { fieldSelector, labelSelector } from './selectors.ts';
import { atVersion, type Change, type Collection, parse, type Stored } from './storage.ts';
import { columnDefinitions, type IncludeObject, metadataOnly, tableRow } from './table.ts';

export interface Scope {
  readonly type: ResourceType;
  readonly namespace: string | null;
}

export interface Reading {
  readonly registry: Registry;
  readonly scope: Scope;
  readonly query: URLSearchParams;
  readonly form: Form;
  /** The client takes gzip. */
  readonly gzip: boolean;
  /** How old a cache may answer, or null: none is behind. */
  readonly staleAt: number | null;
}

export const JSON_TYPE = 'application/json';
const CHUNK = 512 * 1024;
/** Smaller answers are not compressed (filters/compression's defaultGzipThresholdBytes). */
const GZIP_FROM = 128 * 1024;

const COMMA = Buffer.from(',');
const OPEN = Buffer.from('{');

/** The objects that a request selects. */
function selection({ scope, query }: Reading): (stored: Stored) => boolean {
  const labels = labelSelector(query.get('labelSelector') ?? '');
  const known = [
    'metadata.name',
    ...(scope.type.namespaced ? ['metadata.namespace'] : []),
    ...Object.keys(scope.type.fields),
  ];
  const fields = fieldSelector(query.get('fieldSelector') ?? '', known);
  return (stored) =>
    (scope.namespace === null || stored.namespace === scope.namespace) &&
    labels(stored.labels) &&
    fields.matches(stored.fields);
}

function version(text: string | null): number | null {
  if (text === null || text === '') return null;
  if (!/^[0-9]+$/.test(text)) {
    throw new Failure(
      422,
      'Invalid',
      `resourceVersion: Invalid value: "${text}": strconv.ParseUint: parsing "${text}": invalid syntax`,
    );
  }
  return Number(text);
}

const listInvalid = (message: string): Failure =>
  new Failure(422, 'Invalid', `ListOptions.meta.k8s.io "" is invalid: ${message}`);

interface Page {
  readonly items: readonly Stored[];
  readonly resourceVersion: number;
  readonly next: string | null;
  readonly remaining: number | null;
}

function page(reading: Reading, collection: Collection): Page {
  const { query, registry } = reading;
  const current = registry.storage.revision;
  const limit = Number(query.get('limit') ?? 0);
  const asked = version(query.get('resourceVersion'));
  const match = query.get('resourceVersionMatch');
  const token = query.get('continue') ?? '';
  const selects = selection(reading);
  const selective = (query.get('labelSelector') ?? '') !== '' || (query.get('fieldSelector') ?? '') !== '';

  let sorted: readonly Stored[];
  let resourceVersion = current;
  let after = '';
  let pages = limit > 0;
  if (token !== '') {
    if (asked !== null && asked !== 0)
      throw badRequest('specifying resource version is not allowed when using continue');
    const from = continuation(token);
    after = from.start;
    const then = from.rv < 0 ? collection.sorted() : collection.sortedAt(from.rv);
    if (then === null) {
      throw expired(
        'The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.',
        { continue: tokenOf(-1, after) },
      );
    }
    sorted = then;
    if (from.rv >= 0) resourceVersion = from.rv;
  } else {
    if (match !== null && match !== '' && asked === null) {
      throw listInvalid(
        'resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided',
      );
    }
    if (match === 'Exact' && asked === 0) {
      throw listInvalid(
        'resourceVersionMatch: Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"',
      );
    }
    const exact = match === 'Exact' || ((match === null || match === '') && limit > 0 && asked !== null && asked !== 0);
    if (asked !== null && asked > current) throw tooLargeResourceVersion(asked, current);
    if (exact && asked !== null) {
      const then = collection.sortedAt(asked);
      if (then === null) throw expired('The resourceVersion for the provided list is too old.');
      sorted = then;
      resourceVersion = asked;
    } else if (asked === 0) {
      // Any version will do, so the cache answers, and it has no pages.
      pages = false;
      const then = reading.staleAt === null ? null : collection.sortedAt(reading.staleAt);
      sorted = then ?? collection.sorted();
      if (then !== null && reading.staleAt !== null) resourceVersion = reading.staleAt;
    } else sorted = collection.sorted();
  }

  const items: Stored[] = [];
  let more = 0;
  for (let i = firstAfter(sorted, after); i < sorted.length; i++) {
    const stored = sorted[i];
    if (stored === undefined || !selects(stored)) continue;
    if (pages && items.length >= limit) {
      if (reading.scope.namespace === null) {
        more = sorted.length - i;
        break;
      }
      more++;
    } else items.push(stored);
  }
  const last = items.at(-1);
  return {
    items,
    resourceVersion,
    next: more > 0 && last !== undefined ? tokenOf(resourceVersion, last.key) : null,
    remaining: more > 0 && !selective ? more : null,
  };
}

/** Where the keys behind `key` begin. */
function firstAfter(sorted: readonly Stored[], key: string): number {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((sorted[middle]?.key ?? '') <= key) low = middle + 1;
    else high = middle;
  }
  return low;
}

const tokenOf = (rv: number, key: string): string =>
  Buffer.from(JSON.stringify({ v: 'meta.k8s.io/v1', rv, start: `${key}\u0000` })).toString('base64url');

function continuation(token: string): { readonly rv: number; readonly start: string } {
  try {
    const { rv, start } = JSON.parse(Buffer.from(token, 'base64url').toString()) as { rv: number; start: string };
    if (typeof rv === 'number' && typeof start === 'string') return { rv, start: start.replace('\u0000', '') };
  } catch {
    // Said below.
  }
  throw badRequest('continue key is not valid: continue key is not valid');
}

function includeObject(query: URLSearchParams): IncludeObject {
  const given = query.get('includeObject');
  return given === 'None' || given === 'Object' ? given : 'Metadata';
}

/** One object as an item of a list or an event holds it, in pieces. */
function pieces(reading: Reading, stored: Stored, inList: boolean): readonly Buffer[] {
  const { type } = reading.scope;
  if (reading.form.as === 'PartialObjectMetadata' || reading.form.as === 'PartialObjectMetadataList') {
    const { kind, apiVersion, metadata } = metadataOnly(parse(stored));
    return [
      json(
        inList
          ? { metadata: metadata ?? {} }
          : { kind: kind ?? '', apiVersion: apiVersion ?? '', metadata: metadata ?? {} },
      ),
    ];
  }
  if (type.fromStored !== null) {
    const { kind, apiVersion, ...rest } = type.fromStored(parse(stored));
    return [json(inList && !type.custom ? rest : { kind: kind ?? '', apiVersion: apiVersion ?? '', ...rest })];
  }
  if (!inList || type.custom) return [stored.text];
  return [OPEN, stored.text.subarray(stored.bodyAt)];
}

const json = (value: JsonObject): Buffer => Buffer.from(JSON.stringify(value));

/** Joins small pieces, so that 50,000 objects are not 50,000 writes. */
class Joiner {
  readonly #outlet: Outlet;
  #pieces: Buffer[] = [];
  #size = 0;

  constructor(outlet: Outlet) {
    this.#outlet = outlet;
  }

  /** True where the pieces so far are enough for a write: then await flush(). */
  add(...more: readonly Buffer[]): boolean {
    for (const one of more) {
      this.#pieces.push(one);
      this.#size += one.length;
    }
    return this.#size >= CHUNK;
  }

  async flush(): Promise<void> {
    if (this.#size === 0) return;
    const chunk = Buffer.concat(this.#pieces, this.#size);
    this.#pieces = [];
    this.#size = 0;
    await this.#outlet.write(chunk);
  }
}

/** Answers a list. Throws a Failure before anything is sent. */
export async function list(reading: Reading, outlet: Outlet): Promise<void> {
  const { type } = reading.scope;
  const { items, resourceVersion, next, remaining } = page(reading, reading.registry.collection(type));
  const metadata: JsonObject = {
    resourceVersion: String(resourceVersion),
    ...(next === null ? {} : { continue: next }),
    ...(remaining === null ? {} : { remainingItemCount: remaining }),
  };
  if (reading.form.as === 'Table') {
    const rows = items.map((one) => tableRow(type, shown(reading, one), parse(one), includeObject(reading.query)));
    const table: JsonObject = {
      kind: 'Table',
      apiVersion: 'meta.k8s.io/v1',
      metadata,
      columnDefinitions: columnDefinitions(type),
      rows,
    };
    outlet.start(200, { 'content-type': JSON_TYPE });
    await outlet.write(json(table));
    return await outlet.end();
  }
  const partial = reading.form.as === 'PartialObjectMetadataList' || reading.form.as === 'PartialObjectMetadata';
  const kind = partial ? 'PartialObjectMetadataList' : `${type.kind}List`;
  const apiVersion = partial ? 'meta.k8s.io/v1' : apiVersionOf(type);
  // Custom resources are written as Go writes a map: by key, so that metadata comes after the items.
  const last = type.custom && !partial;
  const head = last
    ? `{"apiVersion":"${apiVersion}","items":[`
    : `{"kind":"${kind}","apiVersion":"${apiVersion}","metadata":${JSON.stringify(metadata)},"items":[`;
  const tail = last ? `],"kind":"${kind}","metadata":${JSON.stringify(metadata)}}\n` : ']}\n';
  const size = items.reduce((sum, one) => sum + one.text.length, 0);
  outlet.start(200, { 'content-type': JSON_TYPE }, reading.gzip && size > GZIP_FROM);
  const joined = new Joiner(outlet);
  joined.add(Buffer.from(head));
  let first = true;
  for (const one of items) {
    if (!first) joined.add(COMMA);
    first = false;
    if (joined.add(...pieces(reading, one, true))) await joined.flush();
    if (outlet.closed.aborted) return;
  }
  joined.add(Buffer.from(tail));
  await joined.flush();
  await outlet.end();
}

function shown({ registry, scope }: Reading, stored: Stored): JsonObject {
  return registry.shown(scope.type, stored);
}

export interface Watching extends Reading {
  readonly bookmarkMs: number;
  /** Feature gate WatchList. */
  readonly streamingLists: boolean;
}

type Event =
  | { readonly type: string; readonly stored: Stored }
  | { readonly bookmark: number; readonly initialEnd: boolean };

/** A watch under way. */
export class Watch {
  readonly #watching: Watching;
  readonly #outlet: Outlet;
  readonly #queue: (Event | 'end')[] = [];
  readonly #selects: (stored: Stored) => boolean;
  #wake: (() => void) | null = null;
  /** Nothing up to this version is told. */
  readonly #from: number;
  #firstTable = true;

  constructor(watching: Watching, outlet: Outlet) {
    this.#watching = watching;
    this.#outlet = outlet;
    this.#selects = selection(watching);
    this.#from = version(watching.query.get('resourceVersion')) ?? 0;
  }

  get outlet(): Outlet {
    return this.#outlet;
  }

  /** Ends the stream after what is on its way, as at a server-side timeout. */
  end(): void {
    this.#push('end');
  }

  /** Sends a bookmark of the current version. */
  bookmark(): void {
    this.#push({ bookmark: this.#watching.registry.storage.revision, initialEnd: false });
  }

  /** Runs until the client or the server ends it. Throws a Failure before anything is sent. */
  async run(onSynced: () => void): Promise<void> {
    const { registry, scope, query } = this.#watching;
    const collection = registry.collection(scope.type);
    const bookmarks = yes(query.get('allowWatchBookmarks'));
    const initial = this.#initial(collection, bookmarks);
    this.#outlet.start(200, { 'content-type': JSON_TYPE });
    if (initial === null) {
      const asked = query.get('resourceVersion') ?? '';
      const gone = expired(`too old resource version: ${asked} (${collection.oldest})`);
      await this.#outlet.write(Buffer.from(`${JSON.stringify({ type: 'ERROR', object: gone.status() })}\n`));
      return await this.#outlet.end();
    }
    const stop = collection.watch((change) => this.#take(change));
    const timers: NodeJS.Timeout[] = [];
    if (bookmarks) timers.push(setInterval(() => this.bookmark(), this.#watching.bookmarkMs).unref());
    const seconds = Number(query.get('timeoutSeconds') ?? 0);
    if (seconds > 0) {
      const end = () => {
        if (bookmarks) this.bookmark();
        this.end();
      };
      timers.push(setTimeout(end, seconds * 1000).unref());
    }
    this.#outlet.closed.addEventListener('abort', () => this.#wake?.());
    try {
      await this.#pump(initial);
      onSynced();
      await this.#follow();
    } finally {
      stop();
      for (const timer of timers) clearTimeout(timer);
    }
    await this.#outlet.end();
  }

  /** What comes before the changes, or null where the version asked for is too old. */
  #initial(collection: Collection, bookmarks: boolean): readonly Event[] | null {
    const { registry, query, streamingLists, staleAt } = this.#watching;
    const current = registry.storage.revision;
    const asked = version(query.get('resourceVersion'));
    const initialEvents = query.get('sendInitialEvents');
    const match = query.get('resourceVersionMatch') ?? '';
    const added = (stored: Stored): Event => ({ type: 'ADDED', stored });
    if (initialEvents !== null) {
      if (!streamingLists) {
        throw listInvalid(
          'sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled',
        );
      }
      if (match !== 'NotOlderThan') {
        throw listInvalid(
          match === ''
            ? 'resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan'
            : `resourceVersionMatch: Unsupported value: "${match}": supported values: "NotOlderThan"`,
        );
      }
    } else if (match !== '') {
      throw listInvalid(
        'resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided',
      );
    }
    if (initialEvents === 'true' || initialEvents === '1') {
      if (asked !== null && asked > current) throw tooLargeResourceVersion(asked, current);
      const end: Event[] = bookmarks ? [{ bookmark: current, initialEnd: true }] : [];
      return [...collection.sorted().filter(this.#selects).map(added), ...end];
    }
    if (initialEvents !== null && asked === null) return [];
    if (asked === null || asked === 0) {
      const then = asked === 0 && staleAt !== null ? collection.sortedAt(staleAt) : null;
      if (then === null || staleAt === null) return collection.sorted().filter(this.#selects).map(added);
      return [
        ...then.filter(this.#selects).map(added),
        ...(collection.since(staleAt) ?? []).flatMap((one) => this.#events(one)),
      ];
    }
    // A version from the future is no error: nothing is told until it has passed.
    return collection.since(asked)?.flatMap((one) => this.#events(one)) ?? null;
  }

  #take(change: Change): void {
    if (change.resourceVersion <= this.#from) return;
    for (const event of this.#events(change)) this.#push(event);
  }

  /** What a change is to whoever watches this selection (cacher's convertToWatchEvent). */
  #events({ type, object, previous, resourceVersion }: Change): Event[] {
    const was = previous !== null && this.#selects(previous);
    const is = type !== 'DELETED' && this.#selects(object);
    if (type === 'DELETED') return was ? [{ type, stored: object }] : [];
    if (is) return [{ type: was ? 'MODIFIED' : 'ADDED', stored: object }];
    return was ? [{ type: 'DELETED', stored: atVersion(previous, resourceVersion) }] : [];
  }

  #push(event: Event | 'end'): void {
    this.#queue.push(event);
    this.#wake?.();
  }

  async #pump(events: readonly Event[]): Promise<void> {
    const joined = new Joiner(this.#outlet);
    for (const event of events) {
      if (joined.add(...this.#line(event))) await joined.flush();
      if (this.#outlet.closed.aborted) return;
    }
    await joined.flush();
  }

  async #follow(): Promise<void> {
    while (!this.#outlet.closed.aborted) {
      const batch = this.#queue.splice(0);
      const end = batch.indexOf('end');
      await this.#pump((end < 0 ? batch : batch.slice(0, end)) as Event[]);
      if (end >= 0) return;
      if (this.#queue.length > 0 || this.#outlet.closed.aborted) continue;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = null;
    }
  }

  #line(event: Event): readonly Buffer[] {
    const { type } = this.#watching.scope;
    if ('bookmark' in event) {
      const annotations = event.initialEnd ? { annotations: { 'k8s.io/initial-events-end': 'true' } } : {};
      const metadata: JsonObject = { resourceVersion: String(event.bookmark), ...annotations };
      const table = this.#watching.form.as === 'Table';
      const object: JsonObject = table
        ? { ...this.#table(), metadata, rows: [] }
        : { kind: type.kind, apiVersion: apiVersionOf(type), metadata };
      return [Buffer.from(`${JSON.stringify({ type: 'BOOKMARK', object })}\n`)];
    }
    const head = Buffer.from(`{"type":"${event.type}","object":`);
    const tail = Buffer.from('}\n');
    if (this.#watching.form.as !== 'Table') return [head, ...pieces(this.#watching, event.stored, false), tail];
    const stored = parse(event.stored);
    const object = shown(this.#watching, event.stored);
    const row = tableRow(type, object, stored, includeObject(this.#watching.query));
    const { resourceVersion = '' } = objectAt(object, 'metadata');
    return [head, json({ ...this.#table(), metadata: { resourceVersion }, rows: [row] }), tail];
  }

  /** Only the first event of a stream defines the columns. */
  #table(): JsonObject {
    const columns = this.#firstTable ? columnDefinitions(this.#watching.scope.type) : [];
    this.#firstTable = false;
    return { kind: 'Table', apiVersion: 'meta.k8s.io/v1', columnDefinitions: columns };
  }
}

const yes = (value: string | null): boolean => value !== null && value !== '0' && value !== 'false';
