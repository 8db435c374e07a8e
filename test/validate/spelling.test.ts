// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { distance, nearest } from '../../src/validate/spelling.ts';

test('distance counts letters lost, added, replaced and swapped; case is ignored', () => {
  const table: [string, string, number][] = [
    ['', '', 0],
    ['Egress', 'egress', 0],
    ['Egres', 'Egress', 1],
    ['Eggress', 'Egress', 1],
    ['Agress', 'Egress', 1],
    ['Ergess', 'Egress', 1],
    ['NetworkPolciy', 'NetworkPolicy', 1],
    ['ab', 'cd', 2],
  ];
  for (const [a, b, changes] of table) {
    assert.equal(distance(a, b, 9), changes, `${a} ${b}`);
    assert.equal(distance(b, a, 9), changes, `${b} ${a}`);
  }
  assert.ok(distance('a', 'abcdefgh', 2) > 2);
});

test('nearest guesses only what is near', () => {
  const words = ['Isolate', 'Grant', 'Limit'];
  assert.equal(nearest('isolate', words), 'Isolate');
  assert.equal(nearest('Isolat', words), 'Isolate');
  assert.equal(nearest('Limits', words), 'Limit');
  assert.equal(nearest('Allow', words), null);
  assert.equal(nearest('x', words), null);
  assert.equal(nearest('to', ['do']), null, 'two letters are no word to guess from');
});
