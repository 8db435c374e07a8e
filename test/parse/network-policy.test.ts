// SPDX-License-Identifier: Apache-2.0
// Is a NetworkPolicy read as upstream defaults and defines it?
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Policy, Rule } from '../../src/model/objects.ts';
import { readDocuments } from '../../src/parse/document.ts';

function read(spec: string, annotations = '{}') {
  const text = `apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a, annotations: ${annotations}}\nspec: ${spec}\n`;
  const [parsed] = readDocuments({ path: 'f', text });
  assert.ok(parsed);
  return { ...parsed, value: parsed.value as Policy | null };
}

function rule(text: string): Rule {
  const { value, problems } = read(`{podSelector: {}, policyTypes: [Egress], egress: [${text}]}`);
  assert.deepEqual(problems, []);
  const [first] = value?.rules ?? [];
  assert.ok(first);
  return first;
}

const everything = { matchLabels: {}, matchExpressions: [] };

test('whether it is about egress: policyTypes, and without them whether there is an egress rule', () => {
  const table: [string, number | null][] = [
    ['{podSelector: {}}', null],
    ['{podSelector: {}, ingress: []}', null],
    ['{podSelector: {}, ingress: [{}]}', null],
    ['{podSelector: {}, egress: []}', null],
    ['{podSelector: {}, egress: null}', null],
    ['{podSelector: {}, egress: [{}]}', 1],
    ['{podSelector: {}, egress: [{}, {}], ingress: [{}]}', 2],
    ['{podSelector: {}, policyTypes: []}', null],
    ['{podSelector: {}, policyTypes: [], egress: [{}]}', 1],
    ['{podSelector: {}, policyTypes: null, egress: [{}]}', 1],
    ['{podSelector: {}, policyTypes: [Ingress]}', null],
    ['{podSelector: {}, policyTypes: [Ingress], egress: [{}]}', null],
    ['{podSelector: {}, policyTypes: [Egress]}', 0],
    ['{podSelector: {}, policyTypes: [Egress], egress: []}', 0],
    ['{podSelector: {}, policyTypes: [Ingress, Egress]}', 0],
    ['{policyTypes: [Egress]}', 0],
  ];
  for (const [spec, rules] of table) {
    const { value, valid } = read(spec);
    assert.ok(valid, spec);
    assert.equal(value?.rules.length ?? null, rules, spec);
  }
});

test('peers: none is every destination, and each kind by itself', () => {
  const any = [{ type: 'any' }];
  assert.deepEqual(rule('{}').peers, any);
  assert.deepEqual(rule('{to: []}').peers, any);
  assert.deepEqual(rule('{to: null}').peers, any);
  assert.deepEqual(rule('{to: [{podSelector: {}}]}').peers, [
    { type: 'pods', namespaceSelector: null, podSelector: everything },
  ]);
  assert.deepEqual(rule('{to: [{namespaceSelector: {}}]}').peers, [
    { type: 'pods', namespaceSelector: everything, podSelector: everything },
  ]);
  const expressions = '[{key: a, operator: NotIn, values: [x, y]}, {key: b, operator: Exists}]';
  assert.deepEqual(rule(`{to: [{podSelector: {matchLabels: {c: d}, matchExpressions: ${expressions}}}]}`).peers, [
    {
      type: 'pods',
      namespaceSelector: null,
      podSelector: {
        matchLabels: { c: 'd' },
        matchExpressions: [
          { key: 'a', operator: 'NotIn', values: ['x', 'y'] },
          { key: 'b', operator: 'Exists', values: [] },
        ],
      },
    },
  ]);
  assert.deepEqual(
    rule('{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}, {ipBlock: {cidr: "::/0"}}]}').peers,
    [
      { type: 'networks', cidrs: ['0.0.0.0/0'], except: ['10.0.0.0/8'] },
      { type: 'networks', cidrs: ['::/0'], except: [] },
    ],
  );
});

test('ports: none is every one of every protocol, and the protocol is TCP by default', () => {
  assert.equal(rule('{}').ports, null);
  assert.equal(rule('{ports: []}').ports, null);
  assert.deepEqual(rule('{ports: [{}, {port: 80}, {protocol: UDP}, {protocol: SCTP, port: 1, endPort: 9}]}').ports, [
    { protocol: 'TCP', port: null, endPort: null },
    { protocol: 'TCP', port: 80, endPort: null },
    { protocol: 'UDP', port: null, endPort: null },
    { protocol: 'SCTP', port: 1, endPort: 9 },
  ]);
  assert.deepEqual(rule('{ports: [{port: http}]}').ports, [{ protocol: 'TCP', port: 'http', endPort: null }]);
});

test('host bits are masked and told', () => {
  const { value, valid, problems } = read('{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.9.8.7/8}}]}]}');
  assert.ok(valid);
  assert.deepEqual(
    problems.map(({ severity, code }) => [severity, code]),
    [['warning', 'host_bits']],
  );
  assert.deepEqual(value?.rules[0]?.peers, [{ type: 'networks', cidrs: ['10.0.0.0/8'], except: [] }]);
});

test('the annotation makes it Audit, and nothing else does', () => {
  const spec = '{podSelector: {}, policyTypes: [Egress]}';
  assert.equal(read(spec).value?.mode, 'Enforce');
  assert.equal(read(spec, '{postern.dev/mode: Audit}').value?.mode, 'Audit');
  const other = read(spec, '{postern.dev/mode: Enforce}');
  assert.equal(other.value?.mode, 'Enforce');
  assert.deepEqual(
    other.problems.map(({ severity, code, path }) => [severity, code, path]),
    [['warning', 'mode', 'metadata.annotations["postern.dev/mode"]']],
  );
});
