// SPDX-License-Identifier: Apache-2.0
// How many packets of whom were let pass or refused, by which policy and why? The kernel's counters with names for numbers;
// totals never go backwards, also when a ruleset or a workload goes.

import {
  COUNTER_BYTES,
  COUNTER_KEY_BYTES,
  type CounterKey,
  decodeCounter,
  decodeCounterKey,
  LOSS_NAMES,
  REASON_NAMES,
  VERDICT_NAMES,
} from '#build/generated/abi.ts';
import { tell } from '../judge/decide.ts';
import type { Id, RulesetInfo } from '../model/tables.ts';
import { policyName } from '../resolve/order.ts';
import type { NativeObject } from './native.ts';

export type VerdictName = 'allow' | 'audit' | 'deny';

/** One line of the totals. */
export interface CounterReading {
  /** `namespace/name`; null: unknown workloads, all together. */
  readonly workload: string | null;
  /** Bound now. Totals of the gone are kept for a while (the last thousand of them). */
  readonly live: boolean;
  readonly verdict: VerdictName;
  /** snake_case, enum reason. */
  readonly reason: string;
  /** `NetworkPolicy/shop/db`; null: no policy has a part in it. */
  readonly policy: string | null;
  /** Index of the rule in the policy; null: none. */
  readonly rule: number | null;
  readonly packets: bigint;
  readonly bytes: bigint;
}

/** Whose the numbers of a key are. */
export interface CounterNames {
  workload(slot: number): string | null;
  ruleset(id: Id): RulesetInfo | undefined;
  isLive(workload: string): boolean;
}

const MAX_GONE = 1000;

interface Total {
  readonly labels: Omit<CounterReading, 'packets' | 'bytes' | 'live'>;
  packets: bigint;
  bytes: bigint;
}

export class Counters {
  readonly #object: NativeObject;
  readonly #names: CounterNames;
  /** Of keys that are no longer in the kernel: by workload, then by the other labels. */
  readonly #drained = new Map<string | null, Map<string, Total>>();

  /** Keys in the kernel, as of the last reading. */
  #size = 0;

  constructor(object: NativeObject, names: CounterNames) {
    this.#object = object;
    this.#names = names;
  }

  get size(): number {
    return this.#size;
  }

  /** Totals since the map was made: what the kernel counts now, and what was drained. */
  read(): CounterReading[] {
    const totals = new Map<string | null, Map<string, Total>>();
    for (const [workload, drained] of this.#drained) {
      totals.set(workload, new Map([...drained].map(([key, total]) => [key, { ...total }])));
    }
    for (const { key, packets, bytes } of this.#dump()) this.#add(totals, key, packets, bytes);
    return [...totals.values()].flatMap((lines) =>
      [...lines.values()].map(({ labels, packets, bytes }) => ({
        ...labels,
        live: labels.workload === null || this.#names.isLive(labels.workload),
        packets,
        bytes,
      })),
    );
  }

  /**
   * Keeps the totals of keys that no program can count under any more, and gives their room in the map back. Call it only after
   * waiting for programs, and while names still answer for them.
   */
  drain(isOver: (key: CounterKey) => boolean): void {
    const over = this.#dump().filter(({ key }) => isOver(key));
    if (over.length === 0) return;
    this.#object.remove('counters', Buffer.concat(over.map(({ raw }) => raw)), over.length);
    this.#size -= over.length;
    for (const { key, packets, bytes } of over) this.#add(this.#drained, key, packets, bytes);
    const gone = [...this.#drained.keys()].filter((workload) => workload !== null && !this.#names.isLive(workload));
    for (const workload of gone.slice(0, Math.max(0, gone.length - MAX_GONE))) this.#drained.delete(workload);
  }

  /** Gives the room of keys back that say nothing any more. */
  forget(isOver: (key: CounterKey) => boolean): void {
    const over = this.#dump().filter(({ key }) => isOver(key));
    if (over.length === 0) return;
    this.#object.remove('counters', Buffer.concat(over.map(({ raw }) => raw)), over.length);
    this.#size -= over.length;
  }

  /** What the programs could not do, by name: totals of all CPUs. */
  losses(): Map<string, bigint> {
    const { keys, values, count } = this.#object.dump('losses');
    const cpus = count === 0 ? 0 : values.length / count / 8;
    const losses = new Map<string, bigint>();
    for (let index = 0; index < count; index++) {
      const name = LOSS_NAMES.get(keys.readUInt32LE(index * 4));
      let sum = 0n;
      for (let cpu = 0; cpu < cpus; cpu++) sum += values.readBigUInt64LE((index * cpus + cpu) * 8);
      if (name !== undefined) losses.set(name, sum);
    }
    return losses;
  }

  #add(totals: Map<string | null, Map<string, Total>>, key: CounterKey, packets: bigint, bytes: bigint): void {
    const workload = this.#names.workload(key.slot);
    const { policy, rule } = tell(this.#names.ruleset(key.ruleset), key);
    const labels = {
      workload,
      verdict: (VERDICT_NAMES.get(key.verdict) ?? 'deny') as VerdictName,
      reason: REASON_NAMES.get(key.reason) ?? String(key.reason),
      policy: policy === null ? null : policyName(policy),
      rule: rule === null ? null : rule.index,
    };
    let lines = totals.get(workload);
    if (lines === undefined) {
      lines = new Map();
      totals.set(workload, lines);
    }
    const line = JSON.stringify([labels.verdict, labels.reason, labels.policy, labels.rule]);
    const total = lines.get(line);
    if (total === undefined) {
      lines.set(line, { labels, packets, bytes });
    } else {
      total.packets += packets;
      total.bytes += bytes;
    }
  }

  #dump(): { readonly raw: Buffer; readonly key: CounterKey; readonly packets: bigint; readonly bytes: bigint }[] {
    const { keys, values, count } = this.#object.dump('counters');
    this.#size = count;
    // A per-CPU value is padded to 8 bytes, which a struct of two u64 already is.
    const cpus = count === 0 ? 0 : values.length / count / COUNTER_BYTES;
    return Array.from({ length: count }, (_, index) => {
      let packets = 0n;
      let bytes = 0n;
      for (let cpu = 0; cpu < cpus; cpu++) {
        const counter = decodeCounter(values, (index * cpus + cpu) * COUNTER_BYTES);
        packets += counter.packets;
        bytes += counter.bytes;
      }
      const at = index * COUNTER_KEY_BYTES;
      return { raw: keys.subarray(at, at + COUNTER_KEY_BYTES), key: decodeCounterKey(keys, at), packets, bytes };
    });
  }
}
