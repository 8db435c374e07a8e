// SPDX-License-Identifier: Apache-2.0
// What do all nodes say of themselves? Reads their Leases, and remembers by which sets of policies their hashes can be understood.
import { ask, type Clock, isRecord, type KubeApi } from './api.ts';
import { NODE_LABEL } from './heartbeat.ts';
import { Freshness, type Lease, leasePath, readLease } from './lease.ts';
import { decodeReport, type PolicySet, REPORT_ANNOTATION } from './report.ts';
import type { NodeState } from './status.ts';

/** Sets that a slow node may still be at. */
const MAX_SETS = 256;
/** A Lease of a node that is gone is deleted when it was silent for so long. */
const FORGET_MS = 3_600_000;
const NOTHING: ReadonlySet<string> = new Set();

export interface NodeStatesOptions {
  readonly api: KubeApi;
  readonly clock: Clock;
  readonly namespace: string;
}

export class NodeStates {
  readonly #options: NodeStatesOptions;
  readonly #freshness: Freshness;
  readonly #sets = new Map<string, PolicySet>();
  /** What a node enforces, by the last hash of it that was understood. */
  readonly #enforced = new Map<string, ReadonlySet<string>>();
  #leases: readonly Lease[] | null = null;
  #failure: string | null = null;

  constructor(options: NodeStatesOptions) {
    this.#options = options;
    this.#freshness = new Freshness(options.clock);
  }

  get failure(): string | null {
    return this.#failure;
  }

  /** Leases were read at least once. */
  get isKnown(): boolean {
    return this.#leases !== null;
  }

  /** A set of policies that nodes may come to enforce. */
  note(set: PolicySet): void {
    // Moved to the end where it is known: the oldest goes first.
    this.#sets.delete(set.hash);
    this.#sets.set(set.hash, set);
    const [oldest] = this.#sets.keys();
    if (this.#sets.size > MAX_SETS && oldest !== undefined) this.#sets.delete(oldest);
  }

  /** Reads the Leases of all nodes. `nodes`: those that there are; Leases of others are removed after an hour's silence. */
  async read(nodes: ReadonlySet<string>): Promise<void> {
    const { api, namespace } = this.#options;
    const reply = await ask(api, 'GET', leasePath(namespace), { query: { labelSelector: NODE_LABEL } });
    if (!reply.ok) {
      this.#failure = reply.message;
      return;
    }
    const items = Array.isArray(reply.body.items) ? reply.body.items.filter(isRecord) : [];
    this.#leases = items.flatMap((item) => readLease(item) ?? []);
    this.#failure = null;
    for (const lease of this.#leases) this.#freshness.note(lease);
    for (const lease of this.#leases) {
      if (nodes.has(lease.holder) || this.#freshness.silentMs(lease.name) < FORGET_MS) continue;
      await ask(api, 'DELETE', leasePath(namespace, lease.name));
      this.#freshness.forget(lease.name);
      this.#enforced.delete(lease.holder);
    }
  }

  /** By node name. */
  states(): ReadonlyMap<string, NodeState> {
    const states = new Map<string, NodeState>();
    for (const lease of this.#leases ?? []) {
      const report = decodeReport(lease.annotations[REPORT_ANNOTATION]);
      const set = report === null ? undefined : this.#sets.get(report.hash);
      // A hash that is not understood is most likely of a moment between two sets: what it was before still holds of most.
      if (set !== undefined) this.#enforced.set(lease.holder, set.versions);
      states.set(lease.holder, {
        report,
        isSilent: this.#freshness.isExpired(lease),
        versions: this.#enforced.get(lease.holder) ?? NOTHING,
      });
    }
    return states;
  }
}
