// SPDX-License-Identifier: Apache-2.0
// Does each object of a file have its key, hash and stand-in, whatever is wrong around it?
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Policy } from '../../src/model/objects.ts';
import { type Parsed, readDocuments } from '../../src/parse/document.ts';

const read = (text: string) => readDocuments({ path: 'f', text });

function one(text: string): Parsed {
  const [parsed, ...more] = read(text);
  assert.ok(parsed);
  assert.deepEqual(more, []);
  return parsed;
}

const everything = { matchLabels: {}, matchExpressions: [] };
const isolating = (more: Partial<Policy>): Policy => ({
  ...{ kind: 'EgressPolicy', namespace: 'default', name: 'a', subject: { type: 'own', podSelector: everything } },
  ...{ effect: 'Isolate', priority: 0, mode: 'Enforce', onDeny: 'Reject', hostNetwork: false, rules: [] },
  ...more,
});

test('keys', () => {
  const table: [string, string | null][] = [
    ['{apiVersion: v1, kind: Namespace, metadata: {name: a}}', 'Namespace/a'],
    ['{apiVersion: v1, kind: Pod, metadata: {name: a}}', 'Pod/default/a'],
    ['{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: b}}', 'Pod/b/a'],
    ['{apiVersion: postern.dev/v1alpha1, kind: ClusterEgressPolicy, metadata: {name: a}}', 'ClusterEgressPolicy/a'],
    ['{apiVersion: postern.dev/v1alpha1, kind: EgressPolicy, metadata: {}}', null],
    ['{apiVersion: networking.k8s.io/v1beta1, kind: NetworkPolicy, metadata: {name: a}}', 'NetworkPolicy/default/a'],
    ['{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}}', null],
  ];
  for (const [text, key] of table) assert.equal(one(text).key, key, text);
});

test('kinds that others have, too, are theirs by their group', () => {
  const table: [string, boolean][] = [
    ['{apiVersion: apps/v1, kind: Deployment}', true],
    ['{apiVersion: v1, kind: ConfigMap, data: {a: b}}', true],
    ['{apiVersion: v1, kind: Secret}', true],
    ['{apiVersion: serving.knative.dev/v1, kind: Service}', true],
    ['{apiVersion: example.com/v1, kind: EgressPolicy}', true],
    ['{apiVersion: extensions/v1beta1, kind: NetworkPolicy}', false],
    ['{apiVersion: postern.dev/v2, kind: EgressPolicy}', false],
    ['{apiVersion: postern.de/v1alpha1, kind: EgressPolicy}', false],
    ['{apiVersion: v1, kind: Nod}', false],
    ['{apiVersion: v1, kind: pod}', false],
  ];
  for (const [text, silent] of table) {
    const { valid, problems } = one(text);
    assert.equal(valid, silent, text);
    assert.equal(problems.length === 0, silent, text);
  }
});

test("others' network policies are passed over, with a warning: nobody may take them for enforced", () => {
  for (const text of [
    '{apiVersion: projectcalico.org/v3, kind: NetworkPolicy}',
    '{apiVersion: crd.projectcalico.org/v1, kind: GlobalNetworkPolicy}',
    '{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy}',
    '{apiVersion: policy.networking.k8s.io/v1alpha1, kind: AdminNetworkPolicy}',
  ]) {
    const { valid, key, problems } = one(text);
    assert.deepEqual([valid, key], [true, null], text);
    assert.deepEqual(
      problems.map(({ severity, code }) => [severity, code]),
      [['warning', 'other_policy']],
      text,
    );
  }
});

test('lists are unfolded, with and without the kind of their items', () => {
  const ns = (name: string) => `{apiVersion: v1, kind: Namespace, metadata: {name: ${name}}}`;
  const keys = (text: string) => read(text).map(({ key }) => key);
  assert.deepEqual(keys(`{apiVersion: v1, kind: List, items: [${ns('a')}, ${ns('b')}]}`), [
    'Namespace/a',
    'Namespace/b',
  ]);
  assert.deepEqual(keys('{apiVersion: v1, kind: NamespaceList, metadata: {}, items: [{metadata: {name: a}}]}'), [
    'Namespace/a',
  ]);
  assert.deepEqual(keys('{apiVersion: v1, kind: List, items: []}'), []);
});

test('the hash is that of the content, not of its spelling', () => {
  const [a, b, c] = [
    '{apiVersion: v1, kind: Pod, metadata: {name: a, labels: {x: "1", y: "2"}}}',
    '# again\nkind: Pod\napiVersion: v1\nmetadata:\n  labels:\n    "y": "2"\n    x: \'1\'\n  name: a\n',
    '{apiVersion: v1, kind: Pod, metadata: {name: a, labels: {x: "1", y: "3"}}}',
  ].map((text) => one(text).hash);
  assert.match(a ?? '', /^[0-9a-f]{64}$/);
  assert.equal(a, b);
  assert.notEqual(a, c);
});

test('a broken document has its key where that can be read, and leaves the others alone', () => {
  const ok = 'apiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n';
  const broken = 'apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\nspec: [\n';
  const [first, second] = read(`${broken}---\n${ok}`);
  assert.deepEqual([first?.key, first?.valid, first?.value], ['Namespace/a', false, null]);
  assert.deepEqual([second?.key, second?.valid], ['Namespace/b', true]);
  const nameless = one('kind: [\n');
  assert.deepEqual([nameless.key, nameless.valid], [null, false]);
});

test('stand-ins: an invalid policy isolates whom it selects, if that can be read', () => {
  const own = (spec: string) =>
    one(`{apiVersion: postern.dev/v1alpha1, kind: EgressPolicy, metadata: {name: a}, spec: ${spec}}`);
  const cluster = (spec: string) =>
    one(`{apiVersion: postern.dev/v1alpha1, kind: ClusterEgressPolicy, metadata: {name: a}, spec: ${spec}}`);
  const upstream = (spec: string) =>
    one(`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a, namespace: n}, spec: ${spec}}`);
  const web = { matchLabels: { app: 'web' }, matchExpressions: [] };
  const wrong = 'egress: [{to: []}]';
  const all = { namespaceSelector: everything, podSelector: everything };
  const table: [Parsed, Policy | null][] = [
    [own(`{${wrong}}`), isolating({})],
    [
      own(`{podSelector: {matchLabels: {app: web}}, ${wrong}}`),
      isolating({ subject: { type: 'own', podSelector: web } }),
    ],
    // A Grant takes nothing from anybody, a Limit leaves nothing, Audit has no part in what passes: broken or not.
    [
      own(`{hostNetwork: Include, effect: Grant, mode: Audit, ${wrong}}`),
      isolating({ hostNetwork: true, effect: 'Grant', mode: 'Audit' }),
    ],
    [own(`{effect: Limit, ${wrong}}`), isolating({ effect: 'Limit' })],
    [own(`{effect: Limits, mode: Audited, ${wrong}}`), isolating({})],
    // The selector itself is wrong, or may be what is misspelled.
    [own(`{podSelector: {app: web}, ${wrong}}`), null],
    [own(`{podSelectr: {}, ${wrong}}`), null],
    [own('{podSelector: {matchExpressions: [{key: a, operator: Is}]}}'), null],
    [own('[]'), null],
    [
      cluster(`{subject: {namespaces: {}}, ${wrong}}`),
      isolating({ kind: 'ClusterEgressPolicy', namespace: null, subject: { type: 'pods', pods: all, except: [] } }),
    ],
    [cluster(`{${wrong}}`), null],
    [cluster(`{subject: {}, ${wrong}}`), null],
    [cluster(`{subject: {namespaces: {}, pods: {}}, ${wrong}}`), null],
    [
      upstream('{podSelector: {}, policyTypes: [Egress], egress: [{to: [{}]}]}'),
      isolating({ kind: 'NetworkPolicy', namespace: 'n' }),
    ],
    [upstream('{podSelector: {}, policyTypes: [Egres]}'), isolating({ kind: 'NetworkPolicy', namespace: 'n' })],
    [upstream('{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{}]}]}'), null],
    [upstream('{podSelector: {matchLabels: {a: "b c"}}, egress: [{}]}'), null],
  ];
  for (const [parsed, expected] of table) {
    const told = JSON.stringify(parsed.problems.map(({ path, message }) => `${path}: ${message}`));
    assert.equal(parsed.valid, false, told);
    assert.equal(parsed.value, null, told);
    assert.deepEqual(parsed.standIn, expected, told);
  }
});

test('stand-ins where a key is there twice: only where the subject is not in doubt', () => {
  const head = 'apiVersion: postern.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {name: a}\nspec:\n';
  assert.deepEqual(one(`${head}  mode: Enforce\n  mode: Enforce\n`).standIn, isolating({}));
  assert.deepEqual(one(`${head}  mode: Enforce\n  mode: Audit\n`).standIn, isolating({}), 'in doubt, the strictest');
  assert.equal(one(`${head}  podSelector: {}\n  podSelector: {matchLabels: {a: b}}\n`).standIn, null);
  assert.equal(one(`${head}  podSelector: {matchLabels: {a: b, a: c}}\n`).standIn, null);
  assert.equal(one(`${head}  egress: [\n`).standIn, null, 'a syntax error leaves nothing certain');
});

test('a key that is there twice: whose it is, and whether anybody can tell', () => {
  const text = (...lines: string[]) => one(['apiVersion: v1', 'kind: Pod', ...lines, ''].join('\n'));
  const twice = text('metadata: {name: a}', 'spec:', '  nodeName: n', '  nodeName: m');
  assert.deepEqual([twice.key, twice.kind, twice.valid], ['Pod/default/a', 'Pod', false]);
  for (const lines of [
    ['metadata: {name: a, name: b}'],
    ['metadata: {name: a}', 'metadata: {name: b}'],
    ['metadata: {name: a, namespace: x, namespace: z}'],
    ['kind: Node', 'metadata: {name: a}'],
  ]) {
    const doubtful = text(...lines);
    assert.deepEqual([doubtful.key, doubtful.kind, doubtful.valid], [null, null, false], lines.join());
  }
  const item = (name: string, more = '') => `- {apiVersion: v1, kind: Namespace, metadata: {name: ${name}}${more}}\n`;
  const list = `apiVersion: v1\nkind: List\nitems:\n${item('a')}${item('b', ', spec: {}, spec: {}')}${item('c')}`;
  const keys = (told: Parsed[]) => told.map(({ key, valid, problems }) => [key, valid, problems.length]);
  assert.deepEqual(keys(read(list)), [
    ['Namespace/a', true, 0],
    ['Namespace/b', false, 1],
    ['Namespace/c', true, 0],
  ]);
  assert.deepEqual(keys(read(`${list}items:\n${item('d')}`)), [[null, false, 2]]);
});

test('past a syntax error an object is known only by what stands before it', () => {
  const text = (...lines: string[]) => one(['apiVersion: v1', 'kind: Namespace', ...lines, ''].join('\n')).key;
  assert.equal(text('metadata:', '  name: a', 'spec: [x'), 'Namespace/a');
  assert.equal(text('metadata: {name: a', 'spec: {}'), null);
  assert.equal(text('metadata:', '  labels: [x', '  name: a'), null);
});

test('what is valid has no stand-in, and what is no policy never has', () => {
  assert.equal(one('{apiVersion: v1, kind: Pod, metadata: {name: a, labels: []}}').standIn, null);
  const valid = one('{apiVersion: postern.dev/v1alpha1, kind: EgressPolicy, metadata: {name: a}, spec: {}}');
  assert.equal(valid.standIn, null);
  assert.deepEqual(valid.value, isolating({}));
});

test('names of domains in one form', () => {
  const text =
    '{apiVersion: postern.dev/v1alpha1, kind: EgressPolicy, metadata: {name: a}, spec: {egress: [{to: [{domainNames: [API.Example.com., "*.BÜCHER.example", _x._tcp.example.com]}]}]}}';
  const { value } = one(text);
  assert.ok(value && 'rules' in value);
  assert.deepEqual(value.rules[0]?.peers, [
    {
      type: 'domainNames',
      names: ['api.example.com', '*.xn--bcher-kva.example', '_x._tcp.example.com'],
      anywhere: false,
    },
  ]);
});
