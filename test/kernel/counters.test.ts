// SPDX-License-Identifier: Apache-2.0
// Are totals exact and named, whatever becomes of rulesets and workloads?

import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as abi from '#build/generated/abi.ts';
import { Applier, type CgroupBindings } from '#src/kernel/apply.ts';
import type { CounterReading } from '#src/kernel/counters.ts';
import { loadNative, type NativeObject } from '#src/kernel/native.ts';
import { loadPrograms } from '#src/kernel/programs.ts';
import { NO_ID } from '#src/model/tables.ts';
import { FakeObject, failAt } from './fake.ts';
import { id, row, type Sketch, step } from './fixture.ts';

const OPTIONS = { unknown: 'allow', hostNetns: 0n } as const;
const WEB = 'shop/web';
const BOUND: CgroupBindings = new Map([[WEB, { cgroup: 100n, level: 1 }]]);
const holding = (ruleset: string): Sketch => ({ rows: [row(ruleset)], workloads: { [WEB]: ruleset } });

/** Counts as the programs do: so many packets of 10 bytes on each of `cpus` CPUs. */
function count(object: NativeObject, cpus: number, key: Partial<abi.CounterKey>, packets: number): void {
  const whole = { ruleset: id('a'), slot: 1, rule: 0, reason: abi.REASON_RULE, verdict: abi.VERDICT_ALLOW, ...key };
  const bytes = Buffer.alloc(abi.COUNTER_KEY_BYTES);
  abi.encodeCounterKey(whole, bytes);
  const value = Buffer.alloc(abi.COUNTER_BYTES * cpus);
  for (let cpu = 0; cpu < cpus; cpu++) {
    abi.encodeCounter({ packets: BigInt(packets), bytes: BigInt(packets * 10) }, value, cpu * abi.COUNTER_BYTES);
  }
  object.update('counters', bytes, value, 1, 0);
}

const ALLOWED = {
  workload: WEB,
  live: true,
  verdict: 'allow',
  reason: 'rule',
  policy: 'NetworkPolicy/test/a',
  rule: 3,
} as const;

function sorted(readings: readonly CounterReading[]): CounterReading[] {
  return readings.toSorted((a, b) =>
    JSON.stringify([a.workload, a.policy, a.reason]) < JSON.stringify([b.workload, b.policy, b.reason]) ? -1 : 1,
  );
}

test('numbers become names, and CPUs one', () => {
  const object = new FakeObject();
  const applier = new Applier(object, OPTIONS);
  applier.apply(step(holding(id('a'))), BOUND);
  count(object, 2, {}, 3);
  count(object, 2, { reason: abi.REASON_NO_RULE, verdict: abi.VERDICT_DENY, rule: abi.RULE_NONE }, 1);
  count(
    object,
    2,
    { ruleset: NO_ID, slot: abi.SLOT_UNKNOWN, reason: abi.REASON_UNKNOWN_ALLOWED, rule: abi.RULE_NONE },
    5,
  );
  assert.deepEqual(sorted(applier.readCounters()), [
    { ...ALLOWED, verdict: 'deny', reason: 'no_rule', rule: null, packets: 2n, bytes: 20n },
    { ...ALLOWED, packets: 6n, bytes: 60n },
    { ...ALLOWED, workload: null, reason: 'unknown_allowed', policy: null, rule: null, packets: 10n, bytes: 100n },
  ]);
});

test('totals go on when the ruleset goes and comes back', () => {
  const object = new FakeObject();
  const applier = new Applier(object, OPTIONS);
  applier.apply(step(holding(id('a'))), BOUND);
  count(object, 1, {}, 3);
  applier.apply(step(holding(id('b'))), BOUND);
  assert.equal(object.dump('counters').count, 0, 'their room is given back');
  assert.equal(applier.fills().find(({ map }) => map === 'counters')?.entries, 0);
  assert.deepEqual(applier.readCounters(), [{ ...ALLOWED, packets: 3n, bytes: 30n }]);

  count(object, 1, { ruleset: id('b') }, 1);
  applier.apply(step(holding(id('a'))), BOUND);
  count(object, 1, {}, 4);
  assert.deepEqual(sorted(applier.readCounters()), [
    { ...ALLOWED, packets: 7n, bytes: 70n },
    { ...ALLOWED, policy: 'NetworkPolicy/test/b', packets: 1n, bytes: 10n },
  ]);
});

test('totals of a workload that is gone are kept, and its slot counts for the next', () => {
  const object = new FakeObject();
  const applier = new Applier(object, OPTIONS);
  applier.apply(step(holding(id('a'))), BOUND);
  count(object, 1, {}, 3);
  applier.apply(step({}), new Map());
  assert.deepEqual(applier.readCounters(), [{ ...ALLOWED, live: false, packets: 3n, bytes: 30n }]);

  const other = new Map([['shop/other', { cgroup: 300n, level: 1 }]]);
  applier.apply(step({ rows: [row(id('a'))], workloads: { 'shop/other': id('a') } }), other);
  count(object, 1, {}, 9);
  assert.deepEqual(sorted(applier.readCounters()), [
    { ...ALLOWED, workload: 'shop/other', packets: 9n, bytes: 90n },
    { ...ALLOWED, live: false, packets: 3n, bytes: 30n },
  ]);
});

for (const { what, rows } of [
  { what: 'whose ruleset is gone', rows: [row(id('b'))] },
  { what: 'whose ruleset others still have', rows: [row(id('a')), row(id('b'))] },
]) {
  test(`counters ${what} are drained only after running programs have ended`, () => {
    const object = new FakeObject();
    const applier = new Applier(object, OPTIONS);
    applier.apply(step(holding(id('a'))), BOUND);
    count(object, 1, {}, 3);
    object.onCall = (call) => {
      if (call === 'wait') count(object, 1, {}, 5);
    };
    applier.apply(step({ rows, workloads: { [WEB]: id('b') } }), BOUND);
    assert.equal(object.dump('counters').count, 0);
    assert.deepEqual(applier.readCounters(), [{ ...ALLOWED, packets: 5n, bytes: 50n }]);
  });
}

test('a drain that failed loses nothing, counts nothing twice, and keeps the slot until it is done', () => {
  const object = new FakeObject();
  const applier = new Applier(object, OPTIONS);
  applier.apply(step(holding(id('a'))), BOUND);
  count(object, 1, {}, 3);
  failAt(object, 'remove counters');
  assert.notEqual(applier.apply(step({}), new Map()).leftover, null);
  assert.deepEqual(applier.readCounters(), [{ ...ALLOWED, live: false, packets: 3n, bytes: 30n }]);
  const other = new Map([['shop/other', { cgroup: 300n, level: 1 }]]);
  assert.equal(applier.apply(step({}), other).leftover, null);
  assert.equal(applier.names.workload(2), 'shop/other', 'slot 1 had not been given back yet');
  assert.deepEqual(applier.readCounters(), [{ ...ALLOWED, live: false, packets: 3n, bytes: 30n }]);
});

test('the kernel counts on all its CPUs, and tells its losses by name', () => {
  const object = loadPrograms(loadNative());
  try {
    const applier = new Applier(object, OPTIONS);
    applier.apply(step(holding(id('a'))), BOUND);
    const cpus = (object.lookup('losses', Buffer.alloc(4))?.length ?? 0) / 8;
    assert(cpus > 0);
    count(object, cpus, {}, 2);
    assert.deepEqual(applier.readCounters(), [{ ...ALLOWED, packets: BigInt(2 * cpus), bytes: BigInt(20 * cpus) }]);
    applier.apply(step({}), new Map());
    assert.equal(object.dump('counters').count, 0);
    assert.deepEqual(applier.readCounters(), [
      { ...ALLOWED, live: false, packets: BigInt(2 * cpus), bytes: BigInt(20 * cpus) },
    ]);
    assert.deepEqual([...applier.readLosses().keys()].toSorted(), [...abi.LOSS_NAMES.values()].toSorted());
    assert([...applier.readLosses().values()].every((value) => value === 0n));
    object.update(
      'dns_losses',
      Buffer.from([abi.DNS_LATE, 0, 0, 0]),
      Buffer.from(new BigUint64Array(cpus).fill(3n).buffer),
      1,
      0,
    );
    assert.deepEqual(
      [...applier.readUntaught()].filter(([, value]) => value !== 0n),
      [['late', BigInt(3 * cpus)]],
    );
    assert.deepEqual([...applier.readUntaught().keys()].toSorted(), [...abi.DNS_LOSS_NAMES.values()].toSorted());
  } finally {
    object.close();
  }
});
