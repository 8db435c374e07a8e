// SPDX-License-Identifier: Apache-2.0
// Is the first refusal told at once, are its repeats summed, and is a flood of kinds bounded?
import assert from 'node:assert/strict';
import test from 'node:test';
import type { Refusal } from '../../src/tell/refusal.ts';
import { Repeats } from '../../src/tell/repeats.ts';

function refusal(over: Partial<Refusal> = {}): Refusal {
  return {
    verdict: 'deny',
    workload: 'shop/web',
    cgroup: null,
    address: '198.18.1.1',
    name: null,
    port: 80,
    protocol: 'TCP',
    icmp: null,
    process: 'curl',
    pid: 1,
    policy: 'NetworkPolicy/shop/web',
    rule: null,
    ruleName: null,
    isolatedBy: [],
    shadow: null,
    reason: 'no_rule',
    ...over,
  };
}

test('the first is told at once, repeats are summed for the window, and a kind that rested is new again', () => {
  const told: [number, number][] = [];
  const repeats = new Repeats(
    (one, count) => told.push([one.pid, count]),
    () => assert.fail('nothing is beyond the bound'),
    3_600_000,
  );
  repeats.add(refusal());
  assert.deepEqual(told, [[1, 1]]);
  repeats.add(refusal({ pid: 2 }));
  repeats.add(refusal({ pid: 3 }));
  repeats.add(refusal({ port: 81, pid: 9 }));
  assert.deepEqual(told, [
    [1, 1],
    [9, 1],
  ]);
  repeats.flush();
  assert.deepEqual(told.slice(2), [[3, 2]]);
  repeats.add(refusal({ pid: 4 }));
  assert.equal(told.length, 3, 'it still goes on: held for another window');
  repeats.flush();
  assert.deepEqual(told.slice(3), [[4, 1]]);
  repeats.flush();
  repeats.add(refusal({ pid: 5 }));
  assert.deepEqual(told.slice(4), [[5, 1]]);
  repeats.flush();
});

test('however many kinds there are, lines are bounded and the rest is a number', () => {
  let lines = 0;
  let beyond = 0;
  const repeats = new Repeats(
    () => {
      lines += 1;
    },
    (count) => {
      beyond += count;
    },
    3_600_000,
  );
  for (let port = 1; port <= 10_000; port += 1) repeats.add(refusal({ port }));
  repeats.flush();
  assert.equal(lines, 4096);
  assert.equal(lines + beyond, 10_000);
});
