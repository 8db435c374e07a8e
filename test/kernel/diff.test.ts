// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { diff } from '#src/kernel/diff.ts';

const same = (a: number, b: number): boolean => a === b;
type Table = Record<string, number>;

const cases: readonly {
  readonly name: string;
  readonly actual: Table;
  readonly desired: Table;
  readonly bridge?: Table;
  readonly upserts: Table;
  readonly deletes: readonly string[];
  readonly inserted: number;
}[] = [
  { name: 'nothing to do', actual: { a: 1 }, desired: { a: 1 }, upserts: {}, deletes: [], inserted: 0 },
  { name: 'new', actual: {}, desired: { a: 1 }, upserts: { a: 1 }, deletes: [], inserted: 1 },
  { name: 'changed', actual: { a: 1 }, desired: { a: 2 }, upserts: { a: 2 }, deletes: [], inserted: 0 },
  { name: 'gone', actual: { a: 1 }, desired: {}, upserts: {}, deletes: ['a'], inserted: 0 },
  {
    name: 'a bridge is written and deleted',
    ...{ actual: {}, desired: {}, bridge: { b: 1 }, upserts: { b: 1 }, deletes: ['b'], inserted: 1 },
  },
  {
    name: 'a bridge that is there is only deleted',
    ...{ actual: { b: 1 }, desired: {}, bridge: { b: 1 }, upserts: {}, deletes: ['b'], inserted: 0 },
  },
  {
    name: 'what is desired wins over a bridge',
    ...{ actual: { a: 1 }, desired: { a: 2 }, bridge: { a: 1 }, upserts: { a: 2 }, deletes: [], inserted: 0 },
  },
];

for (const { name, actual, desired, bridge = {}, upserts, deletes, inserted } of cases) {
  test(name, () => {
    const map = (table: Table) => new Map(Object.entries(table));
    const delta = diff(map(actual), map(desired), same, map(bridge));
    assert.deepEqual(Object.fromEntries(delta.upserts), upserts);
    assert.deepEqual([...delta.deletes], deletes);
    assert.equal(delta.inserted, inserted);
  });
}

test('upserts, then deletes, lead from anything to what is desired, with the bridge in between', () => {
  const table = fc
    .dictionary(fc.constantFrom('a', 'b', 'c', 'd'), fc.integer({ min: 0, max: 2 }))
    .map((entries) => new Map(Object.entries(entries)));
  fc.assert(
    fc.property(table, table, table, (actual, desired, bridge) => {
      const { upserts, deletes } = diff(actual, desired, same, bridge);
      const between = new Map([...actual, ...upserts]);
      for (const [key, value] of new Map([...bridge, ...desired])) assert.equal(between.get(key), value);
      const after = new Map([...between].filter(([key]) => !deletes.has(key)));
      assert.deepEqual(new Map([...after].sort()), new Map([...desired].sort()));
    }),
    { seed: 1 },
  );
});
