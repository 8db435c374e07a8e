// SPDX-License-Identifier: Apache-2.0
// Is each problem told once, and once more when it is mended?
import assert from 'node:assert/strict';
import test from 'node:test';
import { ProblemLog } from '../../src/agent/problem-log.ts';
import type { Problem } from '../../src/model/objects.ts';

const problem = (message: string, line = 1): Problem => ({
  ...{ severity: 'error', code: 'cidr', file: 'a.yaml', line, column: 1, path: 'spec', object: 'EgressPolicy/shop/a' },
  ...{ message, advice: 'mend it' },
});

test('told when it appears, not when it stays or its line moves, and again when it is mended', () => {
  const told: string[] = [];
  const log = new ProblemLog((event, { message }) => told.push(`${event} ${message}`));
  log.update([problem('x'), problem('x')]);
  const [x, y] = [problem('x', 7), problem('y')];
  log.update([x, y]);
  const list = log.problems;
  log.update([x, y]);
  assert.equal(log.problems, list, 'nothing changed');
  assert.deepEqual(told, ['problem x', 'problem y']);
  assert.equal(log.problems.length, 2);
  log.update([problem('z')]);
  assert.deepEqual(told.slice(2), ['mended x', 'mended y', 'problem z']);
});
