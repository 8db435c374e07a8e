// SPDX-License-Identifier: Apache-2.0
// Which one agent of the cluster writes? Whoever holds a Lease, by the rules of client-go's tools/leaderelection: it is taken only
// when its holder has not renewed it for its duration, by the candidate's own clock, and every write names the version it replaces.
import type { Clock, KubeApi } from './api.ts';
import { ask } from './api.ts';
import { Freshness, type Lease, leasePath, microTime, putLease, readLease } from './lease.ts';

export interface LeaderOptions {
  readonly api: KubeApi;
  readonly clock: Clock;
  readonly namespace: string;
  readonly name: string;
  /** Unique among candidates. */
  readonly identity: string;
}

/** The Lease may be taken when its holder was silent for so long. */
const LEASE_SECONDS = 30;
/** A holder that could not renew for so long stops writing: well before anybody else may begin. */
const RENEW_DEADLINE_MS = 20_000;
/** How often the holder renews. */
const RENEW_MS = 8_000;

export class Leader {
  readonly #options: LeaderOptions;
  readonly #freshness: Freshness;
  #lease: Lease | null = null;
  #renewedMs: number | null = null;
  #failure: string | null = null;
  /** By its own clock the holder is late. Only a reason to look again soon: clocks differ. */
  #isLate = false;

  constructor(options: LeaderOptions) {
    this.#options = options;
    this.#freshness = new Freshness(options.clock);
  }

  /** May write now. False as soon as the last renewal is too old, whether or not anybody noticed. */
  get isLeader(): boolean {
    return this.#renewedMs !== null && this.#options.clock.now() - this.#renewedMs < RENEW_DEADLINE_MS;
  }

  /** What the API server said to the last attempt; null: it was taken. */
  get failure(): string | null {
    return this.#failure;
  }

  /**
   * Until the next `step`. Candidates look the more rarely the more there are, so that all of them together ask some fifty times
   * a second at most; `random` (0 to 1) keeps them apart.
   */
  waitMs(candidates: number, random: number): number {
    if (this.isLeader) return RENEW_MS;
    if (this.#isLate) return LEASE_SECONDS * 1000 * (1 + random / 4);
    const everyMs = Math.min(Math.max(10_000, candidates * 20), 300_000);
    return everyMs * (0.75 + random / 2);
  }

  /** Takes or renews the Lease if that may be done. */
  async step(): Promise<void> {
    const { api, namespace, name, identity, clock } = this.#options;
    const found = await ask(api, 'GET', leasePath(namespace, name));
    if (!found.ok && found.status !== 404) return this.#failed(found.message);
    const lease = found.ok ? readLease(found.body) : null;
    if (lease !== null) this.#freshness.note(lease);
    const isFree =
      lease === null || lease.holder === '' || lease.holder === identity || this.#freshness.isExpired(lease);
    this.#lease = lease;
    if (!isFree) {
      this.#isLate = Date.parse(lease.renewTime) + lease.durationSeconds * 1000 < clock.now();
      this.#renewedMs = null;
      this.#failure = null;
      return;
    }
    // Counted from before the request: what the server took later than that is on the safe side.
    const askedMs = clock.now();
    const now = microTime(askedMs);
    const isMine = lease?.holder === identity;
    const spec = {
      holderIdentity: identity,
      leaseDurationSeconds: LEASE_SECONDS,
      renewTime: now,
      acquireTime: isMine ? lease.acquireTime : now,
      leaseTransitions: lease === null ? 0 : lease.transitions + (isMine ? 0 : 1),
    };
    const put = await putLease(api, namespace, name, spec, lease);
    if (!put.ok && put.status !== 409) return this.#failed(put.message);
    this.#failure = null;
    // Somebody else was first. Who held it holds it until the deadline, and sees at the next step whether it was taken.
    if (!put.ok) return;
    this.#lease = readLease(put.body);
    this.#renewedMs = askedMs;
    this.#isLate = false;
  }

  /** Lets go, so that the next one need not wait. */
  async release(): Promise<void> {
    const { api, namespace, name, clock } = this.#options;
    const lease = this.#lease;
    const wasLeader = this.isLeader;
    this.#renewedMs = null;
    if (!wasLeader || lease === null) return;
    const now = microTime(clock.now());
    const spec = {
      // Without a holder: an empty one is none that newer API servers take.
      ...{ leaseDurationSeconds: 1, renewTime: now, acquireTime: now },
      leaseTransitions: lease.transitions,
    };
    await putLease(api, namespace, name, spec, lease);
  }

  #failed(message: string): void {
    this.#failure = message;
  }
}
