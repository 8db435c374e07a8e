// SPDX-License-Identifier: Apache-2.0
// Does the measuring of packets work, whatever its numbers? It refuses by itself where a packet fares otherwise than it should.
import assert from 'node:assert/strict';
import path from 'node:path';
import test from 'node:test';
import type { PacketCosts } from '../../bench/packet-cost.ts';
import { Lab, resultOf } from '../support/lab.ts';

const SCRIPT = path.join(import.meta.dirname, '../../bench/packet-cost.ts');

test('every way to send a packet is measured, and every destination is allowed by a rule', async () => {
  const lab = await Lab.create();
  try {
    const place = lab.placeIn(`/proc/${process.pid}/ns/net`, lab.cgroup('packets'));
    const child = place.spawn(process.execPath, [SCRIPT, place.cgroup ?? '', 'once']);
    const { status, stdout, stderr } = await resultOf(child, 60_000);
    assert.equal(status, 0, stderr);
    const costs = JSON.parse(stdout) as PacketCosts;
    assert.deepEqual(
      costs.series.map(({ of, points }) => [of, ...points.map(({ count }) => count)]),
      [
        ['addresses', 10, 100],
        ['prefixes', 10, 100],
        ['rules', 10],
        ['ports', 10],
      ],
    );
    assert.equal(Object.keys(costs.ways).length, 14);
    for (const { points } of costs.series) {
      for (const { known, hot, random } of points) assert(Number.isFinite(known + hot + random));
    }
  } finally {
    await lab.close();
  }
});
