// SPDX-License-Identifier: Apache-2.0
// Does SECURITY.md say of each way out what test/attack has found to stop it, and of no other?
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { ARRIVES, CHANGES, type Outcome, RESULTS } from '../attack/results.ts';

const page = readFileSync(path.join(import.meta.dirname, '../../SECURITY.md'), 'utf8');
const section = /^## Ways out\n([\s\S]*?)^## /m.exec(page)?.[1] ?? '';

/** `HOOK | REASONS | WAY`, as the page has them. */
const CGROUP = 'cgroup and guard';
const GUARD = 'guard';
const POD = 'guard or cgroup, in a pod with a guard';
const NOTHING = 'nothing';

const written = (outcome: Outcome) =>
  outcome === ARRIVES
    ? '–'
    : outcome
        .toSorted()
        .map((reason) => `\`${reason}\``)
        .join(', ');

test('every way out is in the table, with what stops it where', () => {
  const rows = [...section.matchAll(/^\| (.+) \| (.+) \| (.+) \|$/gm)]
    .map(([, hook = '', reasons = '', ways = '']) => ({ hook, reasons, ways }))
    .filter(({ hook }) => [CGROUP, GUARD, POD, NOTHING].includes(hook));
  const told = rows.flatMap(({ hook, reasons, ways }) =>
    ways.split('; ').map((way) => `${hook} | ${reasons} | ${way}`),
  );
  const found = Object.entries(RESULTS).map(([way, { pod, macvlan, host }]) => {
    assert.deepEqual(macvlan, host, `${way}: what has no guard is one column of the page`);
    if (pod === ARRIVES) assert.equal(macvlan, ARRIVES, way);
    else if (macvlan !== ARRIVES) assert.deepEqual(macvlan, pod, way);
    const hook = pod === ARRIVES ? NOTHING : macvlan === ARRIVES ? GUARD : CGROUP;
    return `${hook} | ${written(pod)} | ${way}`;
  });
  const changes = Object.entries(CHANGES).map(([way, reasons]) => `${POD} | ${written(reasons)} | ${way}`);
  assert.deepEqual(told.toSorted(), [...found, ...changes].toSorted());
});
