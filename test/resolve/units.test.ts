// SPDX-License-Identifier: Apache-2.0
// Which units are held on a node, by whom, and what words like Host and DNS mean to them.
import assert from 'node:assert/strict';
import test from 'node:test';
import { compile } from '../../src/compile/compile.ts';
import { explainer } from '../../src/judge/explain.ts';
import type { Entity, Node, Policy, Selector, Snapshot } from '../../src/model/objects.ts';
import { mayAskDns } from '../../src/resolve/dns.ts';
import { policyName } from '../../src/resolve/order.ts';
import { unitKey, unitOf, unitSelections } from '../../src/resolve/units.ts';

const everything: Selector = { matchLabels: {}, matchExpressions: [] };
const pool = (value: string): Selector => ({ matchLabels: { pool: value }, matchExpressions: [] });

function policy(name: string, units: readonly string[], over: Partial<Policy> = {}, nodeSelector = everything): Policy {
  return {
    ...{ kind: 'ClusterEgressPolicy', namespace: null, name, effect: 'Isolate', priority: 0, mode: 'Enforce' },
    ...{ onDeny: 'Reject', hostNetwork: false, rules: [] },
    subject: { type: 'nodeServices', nodeSelector, units },
    ...over,
  };
}

const allow = (...entities: readonly Entity[]): Partial<Policy> => ({
  rules: [
    {
      ...{ name: null, action: 'Accept', ports: null, notEnforced: null },
      peers: [{ type: 'entities', entities, except: { cidrs: [], entities: [] } }],
    },
  ],
});

const node = (name: string, address: string, labels = {}): Node => ({
  name,
  labels,
  addresses: [address],
  podCidrs: [],
});

function snapshot(policies: readonly Policy[], over: Partial<Snapshot> = {}): Snapshot {
  return {
    ...{ namespaces: [], nodes: [], pods: [], services: [], endpointSlices: [], policies },
    host: { node: null, addresses: ['192.0.2.9'], resolvers: ['192.0.2.53'] },
    ...over,
  };
}

const told = (one: Snapshot): Record<string, [string[], string[]]> =>
  Object.fromEntries(
    [...unitSelections(one)].map(([unit, { enforced, shadow }]) => [
      unit,
      [enforced.map(policyName), shadow.map(policyName)],
    ]),
  );

test('units by name, each once, with their policies in told order, Audit ones in shadow alone', () => {
  const policies = [
    policy('b', ['x.service', 'x.service']),
    policy('a', ['x.service', 'a.service'], { mode: 'Audit' }),
    {
      ...policy('pods', []),
      subject: { type: 'pods', pods: { namespaceSelector: everything, podSelector: everything }, except: [] },
    },
  ] satisfies Policy[];
  assert.deepEqual(told(snapshot(policies)), {
    'a.service': [[], ['ClusterEgressPolicy/a']],
    'x.service': [['ClusterEgressPolicy/b'], ['ClusterEgressPolicy/a', 'ClusterEgressPolicy/b']],
  });
});

test('nodeSelector: this node and no other; without a Node, {} alone', () => {
  const policies = [policy('all', ['x.service']), policy('some', ['y.service'], {}, pool('a'))];
  const nodes = [node('n1', '192.0.2.1', { pool: 'a' }), node('n2', '192.0.2.2', { pool: 'b' })];
  const on = (name: string | null) =>
    Object.keys(told(snapshot(policies, { nodes, host: { node: name, addresses: [], resolvers: [] } })));
  assert.deepEqual(on('n1'), ['x.service', 'y.service']);
  assert.deepEqual(on('n2'), ['x.service']);
  assert.deepEqual(on('gone'), ['x.service']);
  assert.deepEqual(on(null), ['x.service']);
});

test('no pod has the key of a unit', () => {
  assert.equal(unitKey('kubelet.service'), '/kubelet.service');
  assert.equal(unitOf('/kubelet.service'), 'kubelet.service');
  assert.equal(unitOf('node/kubelet.service'), null);
});

test('Host is this node, DNS its resolvers; a unit is on the host and is no pod', () => {
  const nodes = [node('n1', '192.0.2.1'), node('n2', '192.0.2.2')];
  const host = { node: 'n1', addresses: ['192.0.2.1', '192.0.2.9'], resolvers: ['192.0.2.53'] };
  const one = snapshot([policy('a', ['x.service'], allow('Host', 'DNS'))], { nodes, host });
  const compiled = compile(one);
  assert.equal(compiled.tables.workloads.get('/x.service')?.hostNetwork, true);
  const { answer } = explainer(one, compiled);
  const table: [string, number, 'TCP' | 'UDP', string][] = [
    ['192.0.2.1', 10250, 'TCP', 'allow'],
    ['192.0.2.9', 22, 'TCP', 'allow'],
    ['192.0.2.2', 22, 'TCP', 'deny'],
    ['192.0.2.53', 53, 'UDP', 'allow'],
    ['192.0.2.53', 443, 'TCP', 'deny'],
  ];
  for (const [to, port, protocol, verdict] of table) {
    assert.equal(answer({ from: 'node/x.service', to, port, protocol }).verdict, verdict, `${to} ${protocol} ${port}`);
  }
});

test('who may ask DNS: not isolated, or by a rule; and every Limit must leave it', () => {
  const names: Partial<Policy> = {
    rules: [
      {
        ...{ name: null, action: 'Accept', ports: null, notEnforced: null },
        peers: [{ type: 'domainNames', names: ['example.com'], anywhere: false }],
      },
    ],
  };
  const table: [string, Policy[], boolean][] = [
    ['nobody', [], true],
    ['a Grant alone', [policy('a', [], { ...names, effect: 'Grant' })], true],
    ['an Isolate with names', [policy('a', [], names)], false],
    ['an Isolate with DNS', [policy('a', [], allow('DNS'))], true],
    ['DNS by a Grant', [policy('a', [], names), policy('b', [], { ...allow('DNS'), effect: 'Grant' })], true],
    ['a Limit without', [policy('a', [], allow('DNS')), policy('b', [], { ...names, effect: 'Limit' })], false],
    ['a Limit with', [policy('a', [], allow('DNS')), policy('b', [], { ...allow('All'), effect: 'Limit' })], true],
    ['DNS by a Limit alone', [policy('a', [], names), policy('b', [], { ...allow('DNS'), effect: 'Limit' })], false],
  ];
  for (const [what, policies, may] of table) assert.equal(mayAskDns(policies), may, what);
});
