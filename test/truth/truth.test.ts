// SPDX-License-Identifier: Apache-2.0
// Do explain and the oracle, which know nothing of each other, both say what every truth table says, in each of its cells?
import assert from 'node:assert/strict';
import test, { describe } from 'node:test';
import { compile } from '../../src/compile/compile.ts';
import { explainer } from '../../src/judge/explain.ts';
import { ObjectStore } from '../../src/source/store.ts';
import { decide } from '../oracle/decide.ts';
import { CLUSTER_NETWORK_POLICY } from './cluster-network-policy.ts';
import { NETWORK_POLICY } from './network-policy.ts';
import { ADDRESSES, differences, type Flow, flowsOf, HOST, objectsOf, SENDERS, type TruthTable } from './table.ts';

/** Every protocol and port, ICMP, and both families. */
const CELLS = SENDERS.size * ADDRESSES.size * 7 * 2;

function query({ from, address, port, protocol }: Flow) {
  return { from: SENDERS.get(from) ?? from, to: address, port, protocol };
}

function check(table: TruthTable): void {
  const objects = objectsOf(table);
  const text = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects });
  const { snapshot, problems } = new ObjectStore(null).update(
    { files: [{ path: 'table.json', text, hash: '' }], unreadable: [] },
    HOST,
  );
  assert.deepEqual(
    problems.filter(({ severity }) => severity === 'error'),
    [],
  );
  const { answer } = explainer(snapshot, compile(snapshot));
  assert.equal(flowsOf(table).length, CELLS);
  assert.deepEqual(
    differences(table, (flow) => answer(query(flow)).verdict !== 'deny'),
    [],
    'explain',
  );
  assert.deepEqual(
    differences(table, (flow) => decide(objects, HOST, query(flow)).verdict !== 'deny'),
    [],
    'the oracle',
  );
}

for (const [kind, tables] of Object.entries({ NETWORK_POLICY, CLUSTER_NETWORK_POLICY })) {
  describe(kind, () => {
    test('titles tell tables apart', () => {
      assert.equal(new Set(tables.map(({ title }) => title)).size, tables.length);
    });
    for (const table of tables) test(table.title, () => check(table));
  });
}

test('a line that is wrong is found, and told', () => {
  const [, deny] = NETWORK_POLICY;
  assert.ok(deny);
  const told = differences(deny, () => true);
  assert.equal(told.length, 3 * (ADDRESSES.size - 1) * 7 * 2);
  assert.ok(told.includes('x/a -> y/b (fd00:18:2::2) 80/TCP should be denied'));
  assert.throws(() => flowsOf({ title: '', policies: '', expected: 'x/a -> y/b maybe' }), /not a line/);
});
