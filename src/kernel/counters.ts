// SPDX-License-Identifier: Apache-2.0
// How many packets of whom were let pass or refused, by which policy and why? The kernel's counters with names for numbers;
// totals never go backwards, also when a ruleset, a workload or the agent goes.

import {
  COUNTER_BYTES,
  COUNTER_KEY_BYTES,
  type CounterKey,
  DNS_LOSS_NAMES,
  decodeCounter,
  decodeCounterKey,
  LOSS_NAMES,
  REASON_NAMES,
  VERDICT_NAMES,
} from '#build/generated/abi.ts';
import { tell } from '../judge/decide.ts';
import type { Id, RulesetInfo } from '../model/tables.ts';
import { policyName } from '../resolve/order.ts';
import type { Ledger, LedgerState } from './ledger.ts';
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
  /** null: it is not bound. */
  slot(workload: string): number | null;
}

const MAX_GONE = 1000;
/** Totals of what is no longer in the kernel. Beyond, the oldest go that nothing in the kernel adds to: such a series begins anew, whole. */
const MAX_DRAINED = 20_000;

interface KeyReading {
  readonly raw: Buffer;
  readonly key: CounterKey;
  readonly packets: bigint;
  readonly bytes: bigint;
}

interface Total {
  readonly labels: Omit<CounterReading, 'packets' | 'bytes' | 'live'>;
  packets: bigint;
  bytes: bigint;
}

export class Counters {
  readonly #object: NativeObject;
  readonly #names: CounterNames;
  /** null: what is counted ends with this process. */
  readonly #ledger: Ledger | null;
  /** Of keys that are no longer in the kernel: by workload, then by the other labels. */
  readonly #drained = new Map<string | null, Map<string, Total>>();
  /** Of workloads in `#drained`: as it is written in the ledger. */
  readonly #slots = new Map<string, number | null>();
  /** Under which the kernel may hold counters, as the ledger says. */
  #rulesets: ReadonlyMap<Id, RulesetInfo> = new Map();
  #failure: unknown = null;
  #isSettled = true;

  /** Keys in the kernel, as of the last reading. */
  #size = 0;

  /** `inherited`: slots whose counters in the kernel go on. Throws KernelError. */
  constructor(object: NativeObject, names: CounterNames, ledger: Ledger | null, inherited: ReadonlySet<number>) {
    this.#object = object;
    this.#names = names;
    this.#ledger = ledger;
    this.#resume(inherited);
  }

  get size(): number {
    return this.#size;
  }

  /** Why the ledger could not be written, so that totals would begin lower after a takeover; null: it is written. */
  get failure(): unknown {
    return this.#failure;
  }

  /** One of an earlier agent's, too. */
  ruleset(id: Id): RulesetInfo | undefined {
    return this.#rulesets.get(id);
  }

  #resume(inherited: ReadonlySet<number>): void {
    const found = this.#ledger?.read() ?? null;
    if (found === null) return;
    const { state, removed, isUnfinished } = found;
    if (removed.length > 0) {
      // An agent died amid it. Nobody can have counted under them since.
      const keys = removed.filter((key) => key.length === COUNTER_KEY_BYTES * 2);
      if (keys.length > 0) this.#object.remove('counters', Buffer.from(keys.join(''), 'hex'), keys.length);
    }
    this.#rulesets = state.rulesets;
    let isLess = false;
    for (const [workload, { slot, lines }] of state.workloads) {
      // What the kernel had counted for it besides can't be told any more: it begins anew, whole.
      if (slot !== null && !inherited.has(slot)) {
        isLess = true;
        continue;
      }
      this.#slots.set(workload, slot);
      for (const { labels, packets, bytes } of lines) {
        const [verdict, reason, policy, rule] = labels;
        if (!isVerdict(verdict)) continue;
        addTotal(this.#drained, { workload, verdict, reason, policy, rule }, packets, bytes);
      }
    }
    this.#isSettled = false;
    if (isUnfinished) this.#failure = failureOf(() => this.#ledger?.end());
    // At once: the slot may be somebody's soon.
    if (isLess) this.#save([], () => {});
  }

  /** After a takeover it is known from now on whose slot is whose. */
  settle(): void {
    if (this.#isSettled) return;
    this.#isSettled = true;
    const others = [...this.#slots].filter(([workload, slot]) => slot !== null && this.#names.slot(workload) !== slot);
    for (const [workload] of others) this.#drop(workload);
    if (others.length > 0) this.#save([], () => {});
  }

  /** From now on the kernel may count under these. To be called before it can. */
  expect(rulesets: ReadonlyMap<Id, RulesetInfo>): void {
    if ([...rulesets.keys()].every((id) => this.#rulesets.has(id)) && this.#failure === null) return;
    this.#rulesets = new Map([...this.#rulesets, ...rulesets]);
    this.#save([], () => {});
  }

  /** Totals since the map was made: what the kernel counts now, and what was drained. */
  read(): CounterReading[] {
    const totals = copyOf(this.#drained);
    for (const { key, packets, bytes } of this.#dump()) this.#add(totals, key, packets, bytes);
    return [...totals.values()].flatMap((lines) =>
      [...lines.values()].map(({ labels, packets, bytes }) => ({
        ...labels,
        live: labels.workload === null || this.#names.slot(labels.workload) !== null,
        packets,
        bytes,
      })),
    );
  }

  /**
   * Keeps the totals of keys that no program can count under any more, and gives their room in the map back. Call it only after
   * waiting for programs, and while names still answer for them; `rulesets` are those of all other keys. Throws KernelError.
   */
  drain(isOver: (key: CounterKey) => boolean, rulesets: ReadonlyMap<Id, RulesetInfo>): void {
    const all = this.#dump();
    const over = all.filter(({ key }) => isOver(key));
    const isMoved = [...this.#slots].some(([workload, slot]) => this.#names.slot(workload) !== slot);
    if (over.length === 0 && !isMoved && this.#failure === null) return;
    const before = copyOf(this.#drained);
    for (const { key, packets, bytes } of over) this.#add(this.#drained, key, packets, bytes);
    this.#bound(all.filter(({ key }) => !isOver(key)));
    this.#rulesets = rulesets;
    try {
      this.#save(
        over.map(({ raw }) => raw.toString('hex')),
        () => {
          if (over.length > 0) this.#object.remove('counters', Buffer.concat(over.map(({ raw }) => raw)), over.length);
        },
      );
    } catch (error) {
      // They are in the kernel still, and would count twice.
      this.#drained.clear();
      for (const [workload, lines] of before) this.#drained.set(workload, lines);
      throw error;
    }
    this.#size -= over.length;
  }

  /** `left`: what the kernel goes on with. */
  #bound(left: readonly KeyReading[]): void {
    const gone = [...this.#drained.keys()].filter((name) => name !== null && this.#names.slot(name) === null);
    for (const workload of gone.slice(0, Math.max(0, gone.length - MAX_GONE))) this.#drop(workload);
    let surplus = [...this.#drained.values()].reduce((sum, lines) => sum + lines.size, 0) - MAX_DRAINED;
    if (surplus <= 0) return;
    const counting = new Map<string | null, Map<string, Total>>();
    for (const { key } of left) this.#add(counting, key, 0n, 0n);
    for (const [workload, lines] of this.#drained) {
      for (const line of lines.keys()) {
        if (surplus <= 0) return;
        if (counting.get(workload)?.has(line)) continue;
        lines.delete(line);
        surplus -= 1;
      }
    }
  }

  #drop(workload: string | null): void {
    this.#drained.delete(workload);
    if (workload !== null) this.#slots.delete(workload);
  }

  /**
   * Takes keys (in hex) out of the kernel between saying so and having said so. A disk that does not take it costs exactness after a
   * takeover, nothing else. Throws what `remove` throws.
   */
  #save(removed: readonly string[], remove: () => void): void {
    const ledger = this.#ledger;
    const failure = failureOf(() => ledger?.begin(this.#written(), removed));
    remove();
    this.#failure = failure ?? failureOf(() => ledger?.end());
  }

  #written(): LedgerState {
    const before = new Map(this.#slots);
    this.#slots.clear();
    const workloads = [...this.#drained].flatMap(([workload, lines]) => {
      if (workload === null) return [];
      const slot = this.#isSettled ? this.#names.slot(workload) : (before.get(workload) ?? null);
      this.#slots.set(workload, slot);
      const written = [...lines.values()].map(({ labels, packets, bytes }) => ({
        ...{ labels: [labels.verdict, labels.reason, labels.policy, labels.rule] as const, packets, bytes },
      }));
      return [[workload, { slot, lines: written }] as const];
    });
    return { workloads: new Map(workloads), rulesets: this.#rulesets };
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
    return this.#totals('losses', LOSS_NAMES);
  }

  /** Why DNS messages taught nothing, by name (enum dns_loss): totals of all CPUs. */
  untaught(): Map<string, bigint> {
    return this.#totals('dns_losses', DNS_LOSS_NAMES);
  }

  #totals(map: string, names: ReadonlyMap<number, string>): Map<string, bigint> {
    const { keys, values, count } = this.#object.dump(map);
    const cpus = count === 0 ? 0 : values.length / count / 8;
    const losses = new Map<string, bigint>();
    for (let index = 0; index < count; index++) {
      const name = names.get(keys.readUInt32LE(index * 4));
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
    addTotal(totals, labels, packets, bytes);
  }

  #dump(): KeyReading[] {
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

function addTotal(
  totals: Map<string | null, Map<string, Total>>,
  labels: Total['labels'],
  packets: bigint,
  bytes: bigint,
): void {
  let lines = totals.get(labels.workload);
  if (lines === undefined) {
    lines = new Map();
    totals.set(labels.workload, lines);
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

function copyOf(
  totals: ReadonlyMap<string | null, ReadonlyMap<string, Total>>,
): Map<string | null, Map<string, Total>> {
  return new Map(
    [...totals].map(([workload, lines]) => [
      workload,
      new Map([...lines].map(([line, total]) => [line, { ...total }])),
    ]),
  );
}

function isVerdict(word: string): word is VerdictName {
  return [...VERDICT_NAMES.values()].includes(word);
}

function failureOf(write: () => void): unknown {
  try {
    write();
    return null;
  } catch (error) {
    return error;
  }
}
