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

/** Of one policy: a change is written at once if it rested for so long before, else when it did. */
const MIN_INTERVAL_MS = 30_000;
/** Requests at the same time. */
const AT_ONCE = 4;

/** Of one write that others get in between. */
const MAX_ATTEMPTS = 3;

type Refused = Extract<Reply, { readonly ok: false }>;

interface Known {
  /** What was last written, or found to be there, as far as it was wanted then. */
  readonly content: string;
  readonly atMs: number;
}

export class StatusWriter {
  readonly #api: KubeApi;
  readonly #clock: Clock;
  readonly #known = new Map<string, Known>();
  #failure: string | null = null;
  #written = 0;

  constructor(api: KubeApi, clock: Clock) {
    this.#api = api;
    this.#clock = clock;
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
    const work = async (): Promise<void> => {
      for (;;) {
        const next = due.shift();
        if (next === undefined || !mayWrite()) return;
        const [key, status, content] = next;
        const failure = await this.#writeInTurn(status);
        isFailing ||= failure !== null;
        // A refusal is tried again like a change: not before it rested.
        this.#known.set(key, { content: failure === null ? content : '', atMs: this.#clock.now() });
        if (failure !== null) this.#failure = failure;
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    if (isFailing) return Math.min(waitMs ?? MIN_INTERVAL_MS, MIN_INTERVAL_MS);
    if (waitMs === null) this.#failure = null;
    return waitMs;
  }

  /** Reads again where somebody else wrote in between. */
  async #writeInTurn(status: StatusOf): Promise<string | null> {
    for (let attempt = 1; ; attempt += 1) {
      const refusal = await this.#writeOne(status);
      if (refusal === null) return null;
      if (refusal.status !== 409 || attempt >= MAX_ATTEMPTS) return refusal.message;
    }
  }

  /** Gives what the API server said against it, or null: it is there now, or its object is gone. */
  async #writeOne({ path, version, fields, conditions, own }: StatusOf): Promise<Refused | null> {
    const found = await ask(this.#api, 'GET', path);
    if (!found.ok) return found.status === 404 ? null : found;
    const metadata = isRecord(found.body.metadata) ? found.body.metadata : {};
    // Deleted and made anew: the source will say so, and then there is another status to write.
    if (version !== null && metadata.uid !== version.uid) return null;
    const status = isRecord(found.body.status) ? found.body.status : {};
    const before = readConditions(status.conditions);
    const generation = version?.generation ?? (typeof metadata.generation === 'number' ? metadata.generation : 0);
    const after = mergeConditions(before, conditions, own, generation, this.#clock.now());
    if (equalConditions(before, after) && covers(status, fields)) return null;
    const body = {
      // Names the version that was read: a condition that somebody else wrote since is not undone.
      metadata: { resourceVersion: metadata.resourceVersion },
      status: { ...fields, conditions: after satisfies readonly Condition[] },
    };
    const patched = await ask(this.#api, 'PATCH', `${path}/status`, { body });
    if (patched.ok) this.#written += 1;
    return patched.ok || patched.status === 404 ? null : patched;
  }
}

/** All of `wanted` is in `there`, whatever the order of fields; null in `wanted` means that the field is absent. */
function covers(there: unknown, wanted: unknown): boolean {
  if (wanted === null) return there === undefined || there === null;
  if (!isRecord(wanted)) return JSON.stringify(there) === JSON.stringify(wanted);
  return isRecord(there) && Object.entries(wanted).every(([field, value]) => covers(there[field], value));
}
