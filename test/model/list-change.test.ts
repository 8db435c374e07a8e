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

test('changes in a row are given as one, between any two lists of them', () => {
  const list = fc.uniqueArray(fc.constantFrom(...OBJECTS));
  fc.assert(
    fc.property(fc.array(list, { minLength: 2, maxLength: 8 }), fc.nat(), fc.nat(), (contents, one, other) => {
      const lists = contents.map((content) => [...content]);
      for (const [index, after] of lists.entries()) {
        const before = lists[index - 1];
        if (before !== undefined) noteChange(before, after, compared(before, after));
      }
      const before = lists[one % lists.length] ?? [];
      const after = lists[other % lists.length] ?? [];
      const { gone, come } = changeBetween(before, after);
      const held = new Set(before);
      for (const each of gone) assert.ok(held.delete(each));
      for (const each of come) held.add(each);
      assert.deepEqual(held, new Set(after));
    }),
  );
});

test('lists between two are not looked at, nor kept, and what came and went again is in neither', () => {
  const [a, b, c] = OBJECTS;
  assert.ok(a !== undefined && b !== undefined && c !== undefined);
  let isRead = false;
  class Unread extends Array<object> {
    override *[Symbol.iterator](): ArrayIterator<object> {
      isRead = true;
      yield* [];
    }
  }
  const [first, last] = [new Unread(), new Unread()];
  const second = [a, b];
  noteChange<object>(first, second, { gone: [], come: [b] });
  noteChange<object>(second, last, { gone: [b], come: [c] });
  assert.deepEqual(changeBetween<object>(first, last), { gone: [], come: [c] });
  assert.ok(!isRead);
});

test('of a past that is too long nothing is known: lists are compared', () => {
  const objects = Array.from({ length: 2000 }, (_, index) => ({ index }));
  const lists = objects.map((object) => [object]);
  for (const [index, after] of lists.entries()) {
    const before = lists[index - 1];
    // What is noted is not so: to be told from what is compared.
    if (before !== undefined) noteChange<object>(before, after, { gone: [], come: [] });
  }
  const [first, last] = [lists[0] ?? [], lists.at(-1) ?? []];
  assert.deepEqual(changeBetween(first, last), compared(first, last));
  assert.deepEqual(changeBetween(lists.at(-100) ?? [], last), { gone: [], come: [] });
});
