// SPDX-License-Identifier: Apache-2.0
// Are series bounded, never lost from the sum, and never going backwards?
import assert from 'node:assert/strict';
import test from 'node:test';
import { BoundedSeries, type Labels, OVERFLOW } from '../../src/metrics/series.ts';

const labels = (workload: string): Labels => ({ workload, direction: 'egress', policy: '', reason: 'rule' });
const one = (workload: string, packets: number) => ({
  labels: labels(workload),
  count: { packets, bytes: packets * 10 },
});

function shown(series: BoundedSeries, ...current: ReturnType<typeof one>[]): Record<string, number> {
  return Object.fromEntries(series.show(current).map(({ labels: { workload }, count }) => [workload, count.packets]));
}

test('equal labels are summed', () => {
  assert.deepEqual(new BoundedSeries(5).show([one('a', 1), one('a', 2)]), [
    { labels: labels('a'), count: { packets: 3, bytes: 30 } },
  ]);
});

test('what comes beyond the bound is one series, which only grows', () => {
  const series = new BoundedSeries(2);
  assert.deepEqual(shown(series, one('a', 1), one('b', 2), one('c', 3), one('d', 4)), { a: 1, b: 2, overflow: 7 });
  // a is gone: c stays in the overflow, or the overflow would go backwards; e takes the place.
  assert.deepEqual(shown(series, one('b', 2), one('c', 5), one('d', 4), one('e', 1)), { b: 2, e: 1, overflow: 9 });
  // c is gone, and its packets stay counted.
  assert.deepEqual(shown(series, one('b', 2), one('d', 6), one('e', 1)), { b: 2, e: 1, overflow: 11 });
  assert.equal(OVERFLOW.workload, 'overflow');
});

test('series of what is gone are not shown', () => {
  const series = new BoundedSeries(2);
  shown(series, one('a', 1), one('b', 1));
  assert.deepEqual(shown(series, one('b', 2)), { b: 2 });
});
