// SPDX-License-Identifier: Apache-2.0
// What turns one list into the next, noted or worked out.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { changeBetween, compared, noteChange } from '../../src/model/list-change.ts';

const OBJECTS = Array.from({ length: 8 }, (_, index) => ({ index }));

test('what is gone taken out and what has come put in, one list is the other', () => {
  const list = fc.uniqueArray(fc.constantFrom(...OBJECTS));
  fc.assert(
    fc.property(list, list, (before, after) => {
      const { gone, come } = changeBetween(before, after);
      const held = new Set(before);
      for (const one of gone) assert.ok(held.delete(one));
      for (const one of come) held.add(one);
      assert.deepEqual(held, new Set(after));
      assert.equal(held.size, after.length);
    }),
  );
});

test('a change that was noted is given between these two lists alone', () => {
  const [a, b, c] = OBJECTS;
  assert.ok(a !== undefined && b !== undefined && c !== undefined);
  const [first, second] = [
    [a, b],
    [a, c],
  ];
  assert.ok(first !== undefined && second !== undefined);
  const change = { gone: [b], come: [c] };
  noteChange(first, second, change);
  assert.equal(changeBetween(first, second), change);
  assert.deepEqual(changeBetween(first, second), compared(first, second));
  assert.deepEqual(changeBetween([b], second), { gone: [b], come: [a, c] });
  assert.deepEqual(changeBetween(second, first), { gone: [c], come: [b] });
  assert.deepEqual(changeBetween(second, second), { gone: [], come: [] });
});
