// SPDX-License-Identifier: Apache-2.0
// Does the README say of costs what was measured? Every number of its table is made from bench/results.json.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { costTable, withCosts } from '../../bench/costs.ts';
import type { Results } from '../../bench/results.ts';
import { names } from './names.ts';

const ROOT = path.join(import.meta.dirname, '../..');
const README = readFileSync(path.join(ROOT, 'README.md'), 'utf8');
const RESULTS = JSON.parse(readFileSync(path.join(ROOT, 'bench/results.json'), 'utf8')) as Results;

test('the README has the table of the results beside it: `make bench` writes both', () => {
  assert.equal(withCosts(README, RESULTS), README);
});

test('names have rows once they are measured, and none before', () => {
  const table = (some: Results['names']) => costTable({ ...RESULTS, names: some });
  const rows = table(names)
    .split('\n')
    .filter((row) => !table(null).includes(row));
  assert.deepEqual(rows, [
    '| the same where policy has names, for an address that no, one, eight names led to | 12, 13, 14 ns (11 where it has none) |',
    '| noting a question to a resolver; where policy says which may be asked | 2.0 µs; 3.0 |',
    '| learning an answer of one address, of eight | 6.0 µs, 7.0; told before 4.0, 5.0 |',
    '| questions a second to dnsmasq, of no Postern at all: 50 names, 1,000 names | 0.90, 0.80 |',
    '| 100,000 addresses that names led to: memory of the kernel, of the agent | 30 MiB, 1 MiB |',
  ]);
});

test('numbers that were measured anew take the place of the old ones; a page without a table is none', () => {
  const { emptyNs, series, rounds, repeats, overEmptyNs } = RESULTS.packet;
  const packet = { emptyNs, series, rounds, repeats, overEmptyNs: { ...overEmptyNs, 'new TCP': 777.7 } };
  const page = withCosts(README, { ...RESULTS, packet });
  assert.match(page, /\| the first packet of a flow \| 778 ns/);
  assert.equal(withCosts(page, RESULTS), README);
  assert.throws(() => withCosts('# Postern\n', RESULTS), /no table/);
});
