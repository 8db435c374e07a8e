// SPDX-License-Identifier: Apache-2.0
// What is told of policies that the kernel does not hold as they are?
import assert from 'node:assert/strict';
import test from 'node:test';
import { type NodeState, nodePolicies } from '../../src/agent/node-policies.ts';
import type { Policy, Problem, Snapshot } from '../../src/model/objects.ts';

const policy = (name: string, effect: Policy['effect'] = 'Isolate'): Policy => ({
  ...{ kind: 'EgressPolicy', namespace: 'shop', name, effect, priority: 0, mode: 'Enforce', onDeny: 'Reject' },
  ...{
    subject: { type: 'own', podSelector: { matchLabels: {}, matchExpressions: [] } },
    hostNetwork: false,
    rules: [],
  },
});
const snapshot = (...policies: readonly Policy[]): Snapshot => ({
  ...{ namespaces: [], nodes: [], services: [], endpointSlices: [], policies },
  pods: ['here', 'there'].map((name) => ({
    ...{ namespace: 'shop', name, uid: name, labels: {}, node: name, hostNetwork: false, addresses: [], ports: [] },
    ...{ ended: false, isStatic: false, cgroup: null },
  })),
  host: { node: 'here', addresses: [], resolvers: [] },
});
const problem = (object: string | null, message: string): Problem => ({
  ...{ severity: 'error', code: 'limit_exceeded', file: null, line: 0, column: 0, path: '', object, message },
  advice: '',
});

function told(state: Partial<NodeState>): unknown {
  const none = { node: 'here', wanted: null, enforced: null, bindings: new Map(), problems: [], refused: [] };
  const isHere = ({ node }: { node: string | null }) => node === 'here';
  return nodePolicies({ ...none, isHere, ...state }).policies.map(({ name, workloads, programmed, problem: what }) => [
    ...[name, workloads.map((one) => `${one.name}${one.bound ? '' : '?'}`).join(), programmed, what],
  ]);
}

test('programmed is what the kernel holds as the source says it', () => {
  const bindings = new Map([['shop/here', { path: 'p', cgroup: 1n, level: 1 }]]);
  const now = snapshot(policy('b'), policy('a'));
  assert.deepEqual(told({}), []);
  assert.deepEqual(told({ wanted: now }), [
    ['a', 'shop/here?', false, 'nothing is enforced yet'],
    ['b', 'shop/here?', false, 'nothing is enforced yet'],
  ]);
  assert.deepEqual(told({ wanted: now, enforced: now, bindings }), [
    ['a', 'shop/here', true, null],
    ['b', 'shop/here', true, null],
  ]);
  const before = snapshot(policy('a'), policy('b', 'Limit'), policy('gone'));
  const refused = [{ ...problem('EgressPolicy/shop/c', 'is too much'), advice: 'hold fewer' }];
  const wanted = snapshot(policy('a'), policy('b'), policy('c'));
  assert.deepEqual(told({ wanted, enforced: before, bindings, refused, problems: refused }), [
    ['a', 'shop/here', true, null],
    ['b', 'shop/here', false, 'EgressPolicy/shop/c is too much'],
    ['c', 'shop/here', false, 'is too much; hold fewer'],
    ['gone', 'shop/here', false, 'is deleted, and enforced still: EgressPolicy/shop/c is too much'],
  ]);
  const broken = [
    { ...problem('EgressPolicy/shop/a', 'is broken; its last valid version holds'), code: 'invalid_cidr' },
  ];
  assert.deepEqual(told({ wanted: now, enforced: now, bindings, problems: broken })?.[0 as never], [
    ...['a', 'shop/here', false, 'is broken; its last valid version holds'],
  ]);
  const idle = { ...problem('EgressPolicy/shop/a', 'this item allows nothing'), severity: 'warning' as const };
  const warned = [
    { ...idle, code: 'wide_name' },
    { ...idle, object: 'EgressPolicy/shop/b', code: 'mode' },
  ];
  assert.deepEqual(told({ wanted: now, enforced: now, bindings, problems: warned }), [
    ['a', 'shop/here', true, null],
    ['b', 'shop/here', true, 'this item allows nothing'],
  ]);
});

test('what this node cannot hold of a policy is not programmed, and is told with what helps', () => {
  const now = snapshot(policy('a'));
  const problems = [{ ...problem('EgressPolicy/shop/a', 'is outside'), code: 'unit_outside_root', advice: 'move it' }];
  assert.deepEqual(told({ wanted: now, enforced: now, bindings: new Map(), problems }), [
    ['a', 'shop/here?', false, 'is outside; move it'],
  ]);
  const waits = problems.map((one) => ({ ...one, code: 'unit_not_found', severity: 'warning' as const }));
  assert.deepEqual(told({ wanted: now, enforced: now, bindings: new Map(), problems: waits }), [
    ['a', 'shop/here?', true, null],
  ]);
});
