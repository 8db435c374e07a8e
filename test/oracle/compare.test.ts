// SPDX-License-Identifier: Apache-2.0
// Does comparing find a product that is wrong, and make what it found small?
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { compare, findMismatch, type Mismatch, type Product, shrink } from './compare.ts';
import { decide } from './decide.ts';
import { generate } from './generate.ts';
import type { KubernetesObject } from './kubernetes.ts';

const right: Product = (objects, host) => (query) => decide(objects, host, query);

/** The oracle's answer, on objects that were changed first: a product with one mistake. */
function wrong(change: (object: KubernetesObject) => unknown): Product {
  return (objects, host) => {
    const changed = (objects as readonly KubernetesObject[]).map(change);
    return (query) => decide(changed, host, query);
  };
}

function withoutKey(value: unknown, key: string): unknown {
  if (Array.isArray(value)) return value.map((item) => withoutKey(item, key));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([name]) => name !== key)
      .map(([name, item]) => [name, withoutKey(item, key)]),
  );
}

function firstMismatch(product: Product): Mismatch {
  for (let seed = 1; seed < 500; seed++) {
    const mismatch = findMismatch(generate(seed, 100), product);
    if (mismatch !== null) return mismatch;
  }
  assert.fail('no mismatch found');
}

test('a product that decides as the oracle does passes', () => {
  compare(right, { seed: 1, count: 10, queries: 20 });
  assert.equal(findMismatch(generate(1), right), null);
});

for (const key of [
  'except',
  'endPort',
  'policyTypes',
  'namespaceSelector',
  'matchExpressions',
  'hostNetwork',
  'effect',
  'mode',
  'annotations',
  'nodePort',
  'podCIDR',
  'conditions',
  'phase',
  'targetRef',
  'nodeServices',
  'nodeSelector',
  'protocol',
  'icmpType',
  'via',
  'services',
  'nodeName',
  'protocols',
  'range',
  'destinationNamedPort',
]) {
  test(`a product that ignores ${key} is found, and the objects shrink`, () => {
    const product = wrong((object) => withoutKey(object, key));
    const mismatch = firstMismatch(product);
    const small = shrink(mismatch, product);
    assert.ok(small.objects.length <= mismatch.objects.length);
    assert.ok(small.objects.length <= 8, JSON.stringify(small.objects, null, 1));
    assert.notDeepEqual(small.expected, small.actual);
    assert.deepEqual(decide(small.objects, small.host, small.query), small.expected);
    assert.equal(small.expected.reason, mismatch.expected.reason);
  });
}

/** Whatever stands under `key`, anywhere, changed. */
function replaced(value: unknown, key: string, change: (value: unknown) => unknown): unknown {
  if (Array.isArray(value)) return value.map((item) => replaced(item, key, change));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, item]) => [name, name === key ? change(item) : replaced(item, key, change)]),
  );
}

for (const [title, key, change] of [
  ['takes every priority for the same', 'priority', () => 1],
  ['knows one tier', 'tier', () => 'Admin'],
  ['takes every unit for another', 'units', () => ['other.service']],
  ['takes Pass for Accept', 'action', (action: unknown) => (action === 'Pass' ? 'Accept' : action)],
] as const) {
  test(`a product that ${title} is found`, () => {
    const { expected, actual } = firstMismatch(wrong((object) => replaced(object, key, change)));
    assert.notDeepEqual(expected, actual);
  });
}

test('the error tells the seed, the query, both decisions and the objects', () => {
  const product: Product = () => () => ({ verdict: 'allow', policy: null, rule: null, reason: 'not_isolated' });
  assert.throws(
    () => compare(product, { seed: 1, count: 500, queries: 20 }),
    (error: Error & { expected?: unknown; actual?: unknown }) => {
      assert.match(error.message, /POSTERN_SEED=\d+: \{"from":/);
      assert.match(error.message, /kind: Pod/);
      assert.notDeepEqual(error.expected, error.actual);
      return true;
    },
  );
});
