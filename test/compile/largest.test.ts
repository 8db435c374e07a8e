// SPDX-License-Identifier: Apache-2.0
// Whoever takes most of a map's room is named first: by policy or by namespace, as the map's entries come about.
import assert from 'node:assert/strict';
import test from 'node:test';
import { compile } from '../../src/compile/compile.ts';
import { largestShares } from '../../src/compile/largest.ts';
import type { Peer, Pod, Policy, Snapshot } from '../../src/model/objects.ts';

const everyone = { matchLabels: {}, matchExpressions: [] };

function pod(namespace: string, name: string, addresses: readonly string[]): Pod {
  return {
    ...{ namespace, name, addresses, uid: null, labels: {}, node: null, hostNetwork: false, ports: [] },
    ...{ ended: false, isStatic: false, cgroup: null },
  };
}

function policy(namespace: string, name: string, peers: readonly Peer[], ports: readonly number[] = []): Policy {
  const numbers = ports.map((port) => ({ protocol: 'TCP', port, endPort: null }) as const);
  return {
    ...{ kind: 'EgressPolicy', namespace, name, effect: 'Isolate', priority: 0, mode: 'Enforce', onDeny: 'Reject' },
    ...{ subject: { type: 'own', podSelector: everyone }, hostNetwork: false },
    rules: [{ name: null, action: 'Accept', peers, ports: ports.length === 0 ? null : numbers, notEnforced: null }],
  };
}

const networks = (...cidrs: readonly string[]): Peer => ({ type: 'networks', cidrs, except: [] });

const small = policy('pay', 'small', [networks('10.0.0.0/8')]);
const middle = policy('pay', 'middle', [networks('10.0.0.0/8', '10.1.0.0/16', '10.1.0.0/16')]);
// Ten ports that no one range covers, so that they are a set of their own.
const large = policy(
  'shop',
  'large',
  [networks('10.2.0.0/16', '10.3.0.0/16', '10.4.0.0/32')],
  [1, 3, 5, 7, 9, 11, 13, 15, 17, 19],
);
const snapshot: Snapshot = {
  namespaces: ['shop', 'pay'].map((name) => ({ name, labels: {} })),
  pods: [
    pod('shop', 'a', ['198.18.0.1']),
    pod('shop', 'b', ['198.18.0.2', 'fd00::2']),
    pod('pay', 'c', ['198.18.0.3']),
  ],
  ...{ nodes: [], services: [], endpointSlices: [], policies: [small, middle, large] },
  host: { node: null, addresses: [], resolvers: [] },
};
const { tables } = compile(snapshot);
const shares = (map: string) => largestShares(map, snapshot.policies, tables).map(({ of, entries }) => [of, entries]);

test('prefixes are of the policies that write them, each once', () => {
  for (const map of ['networks', 'identities']) {
    assert.deepEqual(shares(map), [
      ['EgressPolicy/shop/large', 3],
      ['EgressPolicy/pay/middle', 2],
      ['EgressPolicy/pay/small', 1],
    ]);
  }
});

test('workloads, addresses, rows and ports are of namespaces', () => {
  assert.deepEqual(shares('workloads'), [
    ['namespace shop', 2],
    ['namespace pay', 1],
  ]);
  assert.deepEqual(shares('selves'), [
    ['namespace shop', 3],
    ['namespace pay', 1],
  ]);
  const rows = largestShares('verdicts', [], tables);
  assert.deepEqual(rows.map(({ of }) => of).sort(), ['namespace pay', 'namespace shop']);
  const [most = 0, least = 0] = rows.map(({ entries }) => entries);
  assert.ok(most >= least);
  assert.equal(most + least, tables.rows.size, 'no ruleset is both’s, and each counts once');
  assert.deepEqual(
    shares('ports').map(([of]) => of),
    ['namespace shop'],
  );
});

test('patterns are of the policies that name them; of what is nobody’s in particular nothing is said; three are told at most', () => {
  const named = policy('shop', 'named', [
    { type: 'domainNames', names: ['a.example', '*.b.example'], anywhere: false },
  ]);
  assert.deepEqual(largestShares('names', [small, named], tables), [{ of: 'EgressPolicy/shop/named', entries: 2 }]);
  assert.deepEqual(shares('counters'), []);
  const many = Array.from({ length: 5 }, (_, index) => policy('shop', `p${index}`, [networks('10.0.0.0/8')]));
  assert.equal(largestShares('networks', many, tables).length, 3);
});
