// SPDX-License-Identifier: Apache-2.0
// Does the measuring of names work, whatever its numbers? It refuses by itself where a message taught nothing or a packet did not pass.
import assert from 'node:assert/strict';
import test from 'node:test';
import { measureNames, PLANS } from '../../bench/names-cost.ts';
import { loadNative } from '../../src/kernel/native.ts';
import { Lab } from '../support/lab.ts';
import { names } from './names.ts';

test('questions, answers and flows are measured by the packet, and each answer is learned', async () => {
  const lab = await Lab.create();
  try {
    const costs = measureNames(loadNative(), lab.cgroup('names'), PLANS.once);
    assert.deepEqual(Object.keys(costs.ways).toSorted(), Object.keys(names.ns).toSorted());
    for (const [way, { median }] of Object.entries(costs.ways)) assert(Number.isFinite(median), way);
  } finally {
    await lab.close();
  }
});
