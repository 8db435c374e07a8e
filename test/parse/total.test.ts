// SPDX-License-Identifier: Apache-2.0
// Whatever stands in a file: problems are data, never an exception; and what is called valid is a value that the rest can take.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { parseAllDocuments } from 'yaml';
import { lintFiles } from '../../src/lint/lint.ts';
import { readDocuments } from '../../src/parse/document.ts';
import { isPolicy, kinds } from '../../src/validate/kind.ts';

const seed = 20240229;
const folder = new URL('../fixtures/api/', import.meta.url);
const pod = {
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name: 'p', labels: { a: 'b' }, annotations: { 'postern.dev/cgroup': 'a/b' }, uid: 'u' },
  spec: {
    nodeName: 'n',
    hostNetwork: false,
    containers: [{ name: 'c', ports: [{ name: 'http', containerPort: 80 }] }],
  },
  status: { phase: 'Running', podIPs: [{ ip: '198.18.0.1' }] },
};
const others = [
  pod,
  {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name: 'n' },
    spec: { podCIDRs: ['198.18.0.0/24'] },
    status: { addresses: [{ type: 'InternalIP', address: '198.18.1.1' }] },
  },
  {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name: 's' },
    spec: { clusterIPs: ['198.18.2.1'], ports: [{ name: 'http', port: 80 }] },
  },
  {
    ...{
      apiVersion: 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      metadata: { name: 'e', labels: { 'kubernetes.io/service-name': 's' } },
    },
    ...{
      addressType: 'IPv4',
      ports: [{ name: 'http', port: 80 }],
      endpoints: [{ addresses: ['198.18.0.1'], targetRef: { kind: 'Pod', name: 'p' } }],
    },
  },
  {
    ...{ apiVersion: 'networking.k8s.io/v1', kind: 'NetworkPolicy', metadata: { name: 'a', annotations: {} } },
    spec: {
      ...{ podSelector: { matchExpressions: [{ key: 'a', operator: 'In', values: ['b'] }] }, policyTypes: ['Egress'] },
      egress: [
        {
          to: [{ ipBlock: { cidr: '198.18.0.0/15', except: ['198.18.1.0/24'] } }, { podSelector: {} }],
          ports: [{ port: 1, endPort: 2 }],
        },
      ],
    },
  },
  {
    ...{ apiVersion: 'policy.networking.k8s.io/v1alpha2', kind: 'ClusterNetworkPolicy', metadata: { name: 'a' } },
    spec: {
      ...{ tier: 'Baseline', priority: 1, subject: { pods: { namespaceSelector: {}, podSelector: {} } } },
      ingress: [{ action: 'Deny', from: [{ namespaces: {} }] }],
      egress: [
        {
          ...{
            name: 'x',
            action: 'Accept',
            to: [{ namespaces: { matchLabels: { a: 'b' } } }, { pods: { podSelector: {} } }],
          },
          protocols: [{ destinationNamedPort: 'http' }, { udp: { destinationPort: { range: { start: 1, end: 2 } } } }],
        },
        {
          ...{ action: 'Deny', to: [{ networks: ['198.18.0.0/15', '::/0'] }, { nodes: {} }] },
          protocols: [{ tcp: { destinationPort: { number: 80 } } }],
        },
        { action: 'Accept', to: [{ domainNames: ['*.example.com'] }] },
      ],
    },
  },
];
const objects: unknown[] = readdirSync(folder)
  .flatMap((name) =>
    parseAllDocuments(readFileSync(new URL(name, folder), 'utf8')).map((document): unknown => document.toJS()),
  )
  .concat(others);

/** Every place of a value, as the keys that lead to it. */
function places(value: unknown, path: string[] = []): string[][] {
  if (typeof value !== 'object' || value === null) return [path];
  return [path, ...Object.entries(value).flatMap(([key, field]) => places(field, [...path, key]))];
}

function replaced(value: unknown, [key, ...rest]: readonly string[], by: unknown): unknown {
  if (key === undefined) return by;
  if (Array.isArray(value)) return value.map((item, i) => (String(i) === key ? replaced(item, rest, by) : item));
  return { ...(value as object), [key]: replaced((value as Record<string, unknown>)[key], rest, by) };
}

const words = fc.constantFrom(
  '',
  'All',
  'DNS',
  'World',
  '198.18.0.0/15',
  '::/0',
  'a.b',
  '*',
  'In',
  'Egress',
  'http',
  'yes',
  '__proto__',
  'constructor',
);
const junk = fc.oneof(
  fc.jsonValue({ maxDepth: 2 }),
  words,
  fc.constantFrom(null, [], {}, [null], [{}], [[]], 0, -1, 1.5, 65536, true, 1e300),
  fc.dictionary(
    fc.constantFrom(
      'pods',
      'namespaces',
      'entities',
      'networks',
      'except',
      'podSelector',
      'matchLabels',
      'to',
      'ports',
      'metadata',
    ),
    fc.constantFrom(null, {}, [], 'All', 1),
  ),
);

/** All that must hold of an object, however odd. */
function check(object: unknown): void {
  const text = JSON.stringify(object);
  for (const { kind, key, valid, value, standIn, problems } of readDocuments({ path: 'f', text })) {
    const errors = problems.filter(({ severity }) => severity === 'error');
    assert.equal(valid, errors.length === 0);
    if (!valid) assert.equal(value, null);
    if (standIn) assert.ok(kind && isPolicy(kind) && !valid && standIn.rules.every(({ action }) => action === 'Deny'));
    if (kind && valid) assert.match(key ?? '', new RegExp(`^${kind}/${kinds[kind].namespaced ? '[^/]+/' : ''}[^/]+$`));
    for (const { code, line, column, message, advice } of problems) {
      assert.ok(line >= 1 && column >= 1 && message !== '' && advice !== '');
      assert.notEqual(code, 'schema', 'an error of the schema that nothing tells in words');
      assert.doesNotMatch(message + advice, /\n|undefined|\[object/);
    }
  }
  lintFiles([{ path: 'f', text }]);
}

test('an object with each of its places replaced by what does not belong there', () => {
  const odd = [null, [], {}, [null], [{}], [[]], { x: null }, '', 'x', 0, 1.5, true];
  for (const object of objects) {
    for (const place of places(object)) {
      for (const by of odd) {
        try {
          check(replaced(object, place, by));
        } catch (error) {
          throw new Error(`${place.join('.')} replaced by ${JSON.stringify(by)}`, { cause: error });
        }
      }
    }
  }
});

test('an object with any of its places replaced by anything', () => {
  const edits = fc.constantFrom(...objects).chain((object) => {
    const edit = fc.tuple(fc.constantFrom(...places(object)), junk);
    return fc.array(edit, { minLength: 1, maxLength: 2 }).map((list) => {
      return list.reduce((value, [path, by]) => {
        return places(value).some((place) => place.join('\0') === path.join('\0')) ? replaced(value, path, by) : value;
      }, object);
    });
  });
  fc.assert(fc.property(edits, check), { seed, numRuns: 2000 });
});

test('a text with anything put in anywhere', () => {
  const texts = readdirSync(folder).map((name) => readFileSync(new URL(name, folder), 'utf8'));
  const pieces = fc.oneof(
    fc.string({ maxLength: 4 }),
    fc.constantFrom(
      '\t',
      '\n',
      '  ',
      '- ',
      '{',
      ']',
      '"',
      '&a ',
      '*a',
      '<<: ',
      '---\n',
      '!!set ',
      '? ',
      '|',
      '\0',
      '%',
    ),
  );
  fc.assert(
    fc.property(fc.constantFrom(...texts), fc.nat(), fc.nat(8), pieces, (text, at, removed, piece) => {
      const offset = at % (text.length + 1);
      const edited = text.slice(0, offset) + piece + text.slice(offset + removed);
      for (const { problems } of readDocuments({ path: 'f', text: edited })) {
        for (const { line, column } of problems) assert.ok(line >= 1 && column >= 1);
      }
    }),
    { seed, numRuns: 1500 },
  );
});
