// SPDX-License-Identifier: Apache-2.0
// Is it told once that a map is nearly full, and once that it is not any more?
import assert from 'node:assert/strict';
import test from 'node:test';
import { FillWatch, fillText } from '../../src/agent/fill-watch.ts';

test('told at nine tenths, over below eight, and not again in between', () => {
  const watch = new FillWatch();
  const steps: [entries: number, told: string][] = [
    [89, ''],
    [90, 'filling'],
    [100, ''],
    [85, ''],
    [90, ''],
    [80, ''],
    [79, 'eased'],
    [89, ''],
    [95, 'filling'],
  ];
  for (const [entries, told] of steps) {
    const other = { map: 'ports', entries: 1, maxEntries: 100 };
    const { filling, eased } = watch.look([{ map: 'verdicts', entries, maxEntries: 100 }, other]);
    const got = [...filling.map(() => 'filling'), ...eased.map(() => 'eased')].join();
    assert.equal(got, told, String(entries));
  }
});

test('it says what to do', () => {
  assert.equal(
    fillText({ map: 'ports', entries: 95, maxEntries: 100 }),
    'the map ports holds 95 of 100 entries: a change beyond that will be refused; give it more room with --bpf-map-max ports=200',
  );
});
