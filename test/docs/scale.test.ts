// SPDX-License-Identifier: Apache-2.0
// Do the sums of docs/scale.md come out, from what it assumes and from what the code does, and does it assume no less than was measured?
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { resources } from '../../src/kube/resources.ts';
import { renewMs } from '../../src/status/heartbeat.ts';

const ROOT = path.join(import.meta.dirname, '../..');
const PAGE = readFileSync(path.join(ROOT, 'docs/scale.md'), 'utf8');

const NODES = 5000;
const PODS = 150_000;
const POD_BYTES = 7800;
/** Of all other kinds, beside the pods'. */
const OTHERS = 0.1;
const ENDPOINT_BYTES = 300;
const DAY_S = 86_400;

const GB = 1e9;
const MB = 1e6;
const KB = 1e3;

/** Two digits that count, as the page writes them. */
function about(value: number): string {
  const rounded = Number(value.toPrecision(2));
  return rounded.toLocaleString('en-US');
}

/** The cells of the one row that begins so. */
function row(start: string): readonly string[] {
  const lines = PAGE.split('\n').filter((line) => line.startsWith(`| ${start}`));
  assert.equal(lines.length, 1, start);
  return (lines[0] ?? '')
    .split('|')
    .slice(2, -1)
    .map((cell) => cell.trim());
}

test('the table', () => {
  assert.equal(resources.length, 9);
  assert.deepEqual(row('watches'), [
    `${resources.length}, each on a connection of its own (HTTP/1.1)`,
    (resources.length * NODES).toLocaleString('en-US'),
  ]);
  const list = PODS * POD_BYTES * (1 + OTHERS);
  assert.deepEqual(row('first lists'), [`${about(list / GB)} GB`, `${about((list * NODES) / 1e12)} TB`]);

  const rates: [start: string, bytesPerSecond: number, one: [number, string], all: [number, string]][] = [
    ["pods' changes", ((PODS * 5) / DAY_S) * POD_BYTES, [KB, 'KB'], [MB, 'MB']],
    ['the same in a rollout', 1000 * POD_BYTES, [MB, 'MB'], [GB, 'GB']],
    ['EndpointSlices in that rollout', 100 * 4 * 10 * ENDPOINT_BYTES, [MB, 'MB'], [GB, 'GB']],
    ['the same where Services have a hundred', 100 * 4 * 100 * ENDPOINT_BYTES, [MB, 'MB'], [GB, 'GB']],
    ['Nodes', (NODES / 300) * 10 * KB, [KB, 'KB'], [MB, 'MB']],
  ];
  for (const [start, rate, [one, oneUnit], [all, allUnit]] of rates) {
    const wanted = [`${about(rate / one)} ${oneUnit} a second`, `${about((rate * NODES) / all)} ${allUnit} a second`];
    assert.deepEqual(row(start), wanted, start);
  }

  assert.equal(renewMs(NODES), 30_000);
  assert.equal(row('Leases')[1], `${Math.round((NODES * 1000) / renewMs(NODES))} writes a second`);
  assert.deepEqual(row('Events'), ['0.2 writes a second', `${(NODES / 5).toLocaleString('en-US')} writes a second`]);
  assert.deepEqual(row('who writes statuses'), [
    '5 MB, by one of them',
    `${about((NODES * KB) / 30 / KB)} KB a second`,
  ]);
  assert.match(row('statuses of policies')[1] ?? '', new RegExp(`^${Math.round(500 / 30)} writes a second`));
});

test('the text', () => {
  const text = PAGE.replaceAll('\n', ' ');
  const atOnce = (NODES / 10) * PODS * POD_BYTES * (1 + OTHERS);
  assert.ok(text.includes(`is 500 first lists at a time: ${about(atOnce / GB)} GB, three minutes of three`));
  assert.equal(Math.round(atOnce / (3 * 1.25 * GB) / 60), 3);
  assert.equal(Math.round((NODES * 30) / DAY_S), 2);
  assert.ok(text.includes('with half a minute a node two days'));
  const small = 1000 * 1000 * POD_BYTES;
  assert.ok(
    text.includes(`is ${about(small / GB)} GB a second there; of 10 a second, ${(small / 10 / GB).toFixed(1)})`),
  );
  const slices = (200 * 3 * KB) / 20;
  assert.ok(
    text.includes(
      `${about(slices / KB)} KB a second for an agent, ${about((slices * NODES) / MB)} MB a second for all`,
    ),
  );
  assert.ok(text.includes(`9 MB instead of ${about((PODS * POD_BYTES) / GB)} GB for each agent`));
});

test('it assumes no less than was measured', () => {
  const { cluster } = JSON.parse(readFileSync(path.join(ROOT, 'bench/results.json'), 'utf8')) as {
    cluster: {
      pods: number;
      podBytes: number;
      listMiB: number;
      churn: { changesPerSecond: number; apiBytesPerSecond: number };
    };
  };
  const { pods, podBytes, listMiB, churn } = cluster;
  assert.ok(podBytes <= POD_BYTES);
  assert.ok(listMiB * 2 ** 20 <= pods * podBytes * (1 + OTHERS), 'other kinds');
  assert.ok(churn.apiBytesPerSecond / churn.changesPerSecond <= POD_BYTES, 'a change');
});
