// SPDX-License-Identifier: Apache-2.0
// Writes statuses: only what differs from what is there, and each policy at most once in thirty seconds. Knows neither how a status
// comes about nor whether this is the agent that should write: whoever calls it does.
import { ask, type Clock, isRecord, type KubeApi, type Reply } from './api.ts';
import {
  type Condition,
  equalConditions,
  mergeConditions,
  readConditions,
  type WantedCondition,
} from './conditions.ts';

/** A status to be written: fields, and conditions without the time of their transition. */
export interface StatusOf {
  /** Path of the object itself, such as `/apis/postern.dev/v1alpha1/namespaces/shop/egresspolicies/web`. */
  readonly path: string;
  /** The object that it is about; null: whichever has that path. */
  readonly version: { readonly uid: string; readonly generation: number } | null;
  /** All of `status` but the conditions. */
  readonly fields: Readonly<Record<string, unknown>>;
  readonly conditions: readonly WantedCondition[];
  /** Types of conditions that nobody else writes: such as are not in `conditions` are removed. */
  readonly own: ReadonlySet<string>;
}

/** The object as the API server last told it. */
export interface LiveObject {
  readonly uid: string;
  readonly generation: number;
  readonly resourceVersion: string;
  readonly status: unknown;
}

/** Of one policy: a change is written at once if it rested for so long before, else when it did. */
const MIN_INTERVAL_MS = 30_000;
/** After a conflict. */
const CONFLICT_MS = 2_000;
/** Requests at the same time. */
const AT_ONCE = 4;

interface Known {
  /** What was last written, or found to be there, as far as it was wanted then. */
  readonly content: string;
  readonly atMs: number;
}

export class StatusWriter {
  readonly #api: KubeApi;
  readonly #clock: Clock;
  readonly #find: (key: string) => LiveObject | undefined;
  readonly #known = new Map<string, Known>();
  #failure: string | null = null;
  #written = 0;

  /** `find`: an object by its key, as a watch knows it: nothing has to be read to be written. */
  constructor(api: KubeApi, clock: Clock, find: (key: string) => LiveObject | undefined) {
    this.#api = api;
    this.#clock = clock;
    this.#find = find;
  }

  /** What the API server said to the last write that it refused; null: none was. */
  get failure(): string | null {
    return this.#failure;
  }

  /** Writes since the start. */
  get written(): number {
    return this.#written;
  }

  /** Somebody else wrote meanwhile: nothing that was known counts. */
  forget(): void {
    this.#known.clear();
  }

  /** Writes what is due of `wanted`, while `mayWrite`. Gives the milliseconds until the rest is due; null: there is none. */
  async write(wanted: ReadonlyMap<string, StatusOf>, mayWrite: () => boolean): Promise<number | null> {
    for (const key of this.#known.keys()) if (!wanted.has(key)) this.#known.delete(key);
    const due: [string, StatusOf, string][] = [];
    let waitMs: number | null = null;
    for (const [key, status] of wanted) {
      const content = JSON.stringify([status.version, status.fields, status.conditions]);
      const known = this.#known.get(key);
      if (known?.content === content) continue;
      const restMs = known === undefined ? 0 : known.atMs + MIN_INTERVAL_MS - this.#clock.now();
      if (restMs <= 0) due.push([key, status, content]);
      else waitMs = Math.min(waitMs ?? restMs, restMs);
    }
    let isFailing = false;
    let hasConflict = false;
    const work = async (): Promise<void> => {
      for (;;) {
        const next = due.shift();
        if (next === undefined || !mayWrite()) return;
        const [key, status, content] = next;
        const reply = await this.#writeOne(status, this.#find(key));
        if (reply !== null && !reply.ok && reply.status === 409) {
          // Somebody else wrote: what they wrote is on its way here.
          hasConflict = true;
          continue;
        }
        const failure = reply === null || reply.ok || reply.status === 404 ? null : reply.message;
        if (reply?.ok === true) this.#written += 1;
        isFailing ||= failure !== null;
        // A refusal is tried again like a change: not before it rested.
        this.#known.set(key, { content: failure === null ? content : '', atMs: this.#clock.now() });
        if (failure !== null) this.#failure = failure;
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    if (hasConflict) return CONFLICT_MS;
    if (isFailing) return Math.min(waitMs ?? MIN_INTERVAL_MS, MIN_INTERVAL_MS);
    if (waitMs === null) this.#failure = null;
    return waitMs;
  }

  /** null: it is there already, or its object is gone. */
  async #writeOne(
    { path, version, fields, conditions, own }: StatusOf,
    live: LiveObject | undefined,
  ): Promise<Reply | null> {
    // Deleted and made anew: the source will say so, and then there is another status to write.
    if (live === undefined || (version !== null && live.uid !== version.uid)) return null;
    const status = isRecord(live.status) ? live.status : {};
    const before = readConditions(status.conditions);
    const generation = version?.generation ?? live.generation;
    const after = mergeConditions(before, conditions, own, generation, this.#clock.now());
    if (equalConditions(before, after) && covers(status, fields)) return null;
    const body = {
      // Names the version that it was made from: a condition that somebody else wrote since is not undone.
      metadata: { resourceVersion: live.resourceVersion },
      status: { ...fields, conditions: after satisfies readonly Condition[] },
    };
    return ask(this.#api, 'PATCH', `${path}/status`, { body });
  }
}

/** All of `wanted` is in `there`, whatever the order of fields; null in `wanted` means that the field is absent. */
function covers(there: unknown, wanted: unknown): boolean {
  if (wanted === null) return there === undefined || there === null;
  if (!isRecord(wanted)) return JSON.stringify(there) === JSON.stringify(wanted);
  return isRecord(there) && Object.entries(wanted).every(([field, value]) => covers(there[field], value));
}
