// SPDX-License-Identifier: Apache-2.0
// Kubernetes Events (events.k8s.io/v1) without a flood: equal ones become a series, many that differ in their note alone are told as
// one, and both each object and the whole agent have a bucket of tokens, in the spirit of client-go's tools/events and its correlator.
import { hash } from 'node:crypto';
import { ask, type Clock, type KubeApi } from './api.ts';
import { microTime } from './lease.ts';

/** core/v1 ObjectReference. */
export interface ObjectReference {
  readonly apiVersion: string;
  readonly kind: string;
  /** null: cluster-scoped. */
  readonly namespace: string | null;
  readonly name: string;
  readonly uid: string | null;
}

export interface Occurrence {
  readonly regarding: ObjectReference;
  readonly related?: ObjectReference;
  readonly type: 'Normal' | 'Warning';
  /** CamelCase: `EgressRefused`. */
  readonly reason: string;
  /** CamelCase verb: `Connect`. */
  readonly action: string;
  readonly note: string;
  /** So many times at once. Default 1. */
  readonly count?: number;
}

export interface EventRecorderOptions {
  readonly api: KubeApi;
  readonly clock: Clock;
  /** `reportingInstance`: the node, or the pod of the agent. */
  readonly instance: string;
  readonly limits?: Partial<EventLimits>;
}

export interface EventLimits {
  /** Requests for one object: so many at once, then one in so long (client-go's EventSourceObjectSpamFilter has 25 and 300 s). */
  readonly objectBurst: number;
  readonly objectRefillMs: number;
  /** Requests of this agent. A cluster has thousands of agents and one place for Events. */
  readonly agentBurst: number;
  readonly agentRefillMs: number;
  /** Notes that are told apart for one object and reason within ten minutes (client-go's EventAggregator has 10). */
  readonly notes: number;
}

const LIMITS: EventLimits = {
  ...{ objectBurst: 10, objectRefillMs: 120_000, agentBurst: 50, agentRefillMs: 5_000 },
  notes: 10,
};

/** A series is told again when it went on for so long, and ends when nothing came for so long (client-go: 6 minutes). */
const SERIES_MS = 360_000;
const WINDOW_MS = 600_000;
/** Series and buckets that are remembered. Past it the oldest is forgotten, and told anew if it comes again. */
const MAX_REMEMBERED = 4096;
/** Written at most so many at a time; more wait in their series. */
const MAX_QUEUE = 256;
/** events.k8s.io/v1 Event: a note has at most 1,024 bytes (pkg/apis/core/validation, NoteLengthLimit), other words 128. */
const MAX_NOTE = 1024;
const MAX_WORD = 128;
const CONTROLLER = 'postern.dev/agent';

interface Series {
  readonly occurrence: Occurrence;
  /** Name of the Event once it is there. */
  name: string | null;
  readonly firstMs: number;
  lastMs: number;
  count: number;
  /** What of it the API server knows. */
  toldCount: number;
  toldMs: number;
  isQueued: boolean;
}

interface Bucket {
  tokens: number;
  atMs: number;
}

export class EventRecorder {
  readonly #api: KubeApi;
  readonly #clock: Clock;
  readonly #instance: string;
  readonly #limits: EventLimits;
  readonly #series = new Map<string, Series>();
  readonly #buckets = new Map<string, Bucket>();
  readonly #notes = new Map<string, { notes: Set<string>; sinceMs: number }>();
  readonly #queue: Series[] = [];
  #agent: Bucket;
  #pausedUntilMs = 0;
  #flushing: Promise<void> | null = null;
  #failure: string | null = null;
  #suppressed = 0;

  constructor({ api, clock, instance, limits }: EventRecorderOptions) {
    this.#api = api;
    this.#clock = clock;
    this.#instance = instance;
    this.#limits = { ...LIMITS, ...limits };
    this.#agent = { tokens: this.#limits.agentBurst, atMs: clock.now() };
  }

  /** What the API server said against the last Event; null: it took it. */
  get failure(): string | null {
    return this.#failure;
  }

  /** Occurrences that no Event tells, or not yet. */
  get suppressed(): number {
    return this.#suppressed;
  }

  /** Takes note; returns at once. Call `flush` to write. */
  record(occurrence: Occurrence): void {
    const now = this.#clock.now();
    const told = this.#aggregated(occurrence, now);
    const key = keyOf(told);
    let series = this.#series.get(key);
    if (series !== undefined && now - series.lastMs > SERIES_MS) series = undefined;
    if (series === undefined) {
      series = {
        ...{ occurrence: told, name: null, firstMs: now, lastMs: now, count: 0 },
        ...{ toldCount: 0, toldMs: 0, isQueued: false },
      };
    }
    series.count += occurrence.count ?? 1;
    series.lastMs = now;
    remember(this.#series, key, series);
    this.#enqueue(series, now);
  }

  /** Writes what may be written now. Never rejects for what the world does. */
  flush(): Promise<void> {
    this.#flushing ??= this.#write().finally(() => {
      this.#flushing = null;
    });
    return this.#flushing;
  }

  /** Past so many notes for one object and reason, one note stands for the rest. */
  #aggregated(occurrence: Occurrence, now: number): Occurrence {
    const { regarding, reason, note, type } = occurrence;
    const key = JSON.stringify([referenceKey(regarding), reason, type]);
    let known = this.#notes.get(key);
    if (known === undefined || now - known.sinceMs > WINDOW_MS) known = { notes: new Set(), sinceMs: now };
    remember(this.#notes, key, known);
    if (known.notes.has(note)) return occurrence;
    if (known.notes.size < this.#limits.notes) {
      known.notes.add(note);
      return occurrence;
    }
    const { related: _, ...rest } = occurrence;
    return { ...rest, note: `and more like these, which differ in what they name: see the agent's log and metrics` };
  }

  /** A new series at once, one that goes on once more at its second occurrence, then every six minutes. */
  #enqueue(series: Series, now: number): void {
    const isDue = series.toldCount <= 1 || now - series.toldMs >= SERIES_MS;
    if (series.isQueued) return;
    if (!isDue || this.#queue.length >= MAX_QUEUE) {
      this.#suppressed += 1;
      return;
    }
    series.isQueued = true;
    this.#queue.push(series);
  }

  async #write(): Promise<void> {
    for (;;) {
      const now = this.#clock.now();
      const [series] = this.#queue;
      if (series === undefined || now < this.#pausedUntilMs || !this.#mayAgent(now)) return;
      this.#queue.shift();
      series.isQueued = false;
      if (!this.#mayObject(series, now)) {
        this.#suppressed += 1;
        continue;
      }
      this.#agent.tokens -= 1;
      await this.#writeOne(series, now);
    }
  }

  async #writeOne(series: Series, now: number): Promise<void> {
    const { count, lastMs } = series;
    const patch =
      series.name === null
        ? null
        : await ask(this.#api, 'PATCH', eventPath(series.occurrence.regarding, series.name), {
            body: { series: { count, lastObservedTime: microTime(lastMs) } },
          });
    // Events live for an hour: one that expired is made anew.
    const isMade = patch?.ok !== true && (patch === null || patch.status === 404);
    const name = isMade ? nameOf(series, now) : series.name;
    const reply = isMade
      ? await ask(this.#api, 'POST', eventPath(series.occurrence.regarding), { body: this.#event(series, name ?? '') })
      : patch;
    if (reply === null || reply.ok) {
      series.name = name;
      series.toldCount = count;
      series.toldMs = now;
      this.#failure = null;
      return;
    }
    this.#failure = reply.message;
    this.#suppressed += 1;
    // Nothing that was said of an object is worth insisting on; but an API server that is busy is left alone.
    if (reply.status === 429 || reply.status === 0 || reply.status >= 500) {
      this.#pausedUntilMs = now + Math.max(reply.retryAfterMs ?? 0, 10_000);
    }
  }

  #event({ occurrence, count, firstMs, lastMs }: Series, name: string): unknown {
    const { regarding, related, type, reason, action, note } = occurrence;
    return {
      ...{ apiVersion: 'events.k8s.io/v1', kind: 'Event' },
      metadata: { name, namespace: namespaceOf(regarding) },
      eventTime: microTime(firstMs),
      ...(count > 1 ? { series: { count, lastObservedTime: microTime(lastMs) } } : {}),
      ...{ reportingController: CONTROLLER, reportingInstance: this.#instance.slice(0, MAX_WORD) },
      ...{ type, reason, action, regarding: referenceOf(regarding) },
      ...(related === undefined ? {} : { related: referenceOf(related) }),
      note: cutTo(note, MAX_NOTE),
    };
  }

  #mayAgent(now: number): boolean {
    this.#agent = refilled(this.#agent, now, this.#limits.agentBurst, this.#limits.agentRefillMs);
    return this.#agent.tokens >= 1;
  }

  #mayObject({ occurrence }: Series, now: number): boolean {
    const key = referenceKey(occurrence.regarding);
    const { objectBurst, objectRefillMs } = this.#limits;
    const known = this.#buckets.get(key) ?? { tokens: objectBurst, atMs: now };
    const bucket = refilled(known, now, objectBurst, objectRefillMs);
    const may = bucket.tokens >= 1;
    if (may) bucket.tokens -= 1;
    remember(this.#buckets, key, bucket);
    return may;
  }
}

/** At most so many bytes of UTF-8, whole characters. */
function cutTo(text: string, maxBytes: number): string {
  const bytes = Buffer.from(text);
  if (bytes.length <= maxBytes) return text;
  const whole = new TextDecoder().decode(bytes.subarray(0, maxBytes - 3), { stream: true });
  return `${whole}…`;
}

function refilled({ tokens, atMs }: Bucket, now: number, burst: number, refillMs: number): Bucket {
  const added = Math.floor((now - atMs) / refillMs);
  return tokens + added >= burst
    ? { tokens: burst, atMs: now }
    : { tokens: tokens + added, atMs: atMs + added * refillMs };
}

function remember<V>(map: Map<string, V>, key: string, value: V): void {
  map.delete(key);
  map.set(key, value);
  const [oldest] = map.keys();
  if (map.size > MAX_REMEMBERED && oldest !== undefined) map.delete(oldest);
}

function keyOf({ regarding, related, type, reason, action, note }: Occurrence): string {
  return JSON.stringify([
    referenceKey(regarding),
    related === undefined ? null : referenceKey(related),
    ...[type, reason, action, note],
  ]);
}

function referenceKey({ kind, namespace, name, uid }: ObjectReference): string {
  return JSON.stringify([kind, namespace, name, uid]);
}

function referenceOf({ apiVersion, kind, namespace, name, uid }: ObjectReference): unknown {
  return {
    ...{ apiVersion, kind, name },
    ...(namespace === null ? {} : { namespace }),
    ...(uid === null ? {} : { uid }),
  };
}

/** Events of cluster-scoped objects are in `default`, as core/v1 has it. */
function namespaceOf({ namespace }: ObjectReference): string {
  return namespace ?? 'default';
}

function eventPath(regarding: ObjectReference, name?: string): string {
  const all = `/apis/events.k8s.io/v1/namespaces/${encodeURIComponent(namespaceOf(regarding))}/events`;
  return name === undefined ? all : `${all}/${encodeURIComponent(name)}`;
}

/** As client-go names them: the object, and what makes it unique. */
function nameOf({ occurrence, firstMs }: Series, now: number): string {
  const unique = hash('sha256', `${keyOf(occurrence)} ${firstMs} ${now}`, 'hex').slice(0, 16);
  // A name is labels between dots (RFC 1123): none of them may end in what a cut leaves there.
  const name = occurrence.regarding.name.slice(0, 230).replace(/[-.]+$/, '');
  return `${name}.${unique}`;
}
