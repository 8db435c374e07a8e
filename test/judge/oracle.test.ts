// SPDX-License-Identifier: Apache-2.0
// explain = oracle, on thousands of random clusters, policies and flows. The objects go the whole way of a user's: text, validation,
// parse, compile. `POSTERN_SEED=N` repeats a run; `POSTERN_CASES=N` makes more of them.
import assert from 'node:assert/strict';
import test from 'node:test';
import { compile } from '../../src/compile/compile.ts';
import { explainer, type Query } from '../../src/judge/explain.ts';
import { ObjectStore } from '../../src/source/store.ts';
import { compare, type Product } from '../oracle/compare.ts';

const product: Product = (objects, host) => {
  const text = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects });
  const { snapshot, problems } = new ObjectStore(null).update(
    { files: [{ path: 'case.json', text, hash: '' }], unreadable: [] },
    host,
  );
  const errors = problems.filter(({ severity }) => severity === 'error');
  assert.deepEqual(errors, [], 'the generator makes valid objects');
  const compiled = compile(snapshot);
  assert.deepEqual(compiled.problems, []);
  const { answer } = explainer(snapshot, compiled);
  return (query) => {
    const told = answer(query as Query);
    for (const seen of [told.verdict, told.reason]) tally.set(seen, (tally.get(seen) ?? 0) + 1);
    return told;
  };
};

/** How often each verdict and reason came up: agreement on cases that never come up would prove nothing. */
const tally = new Map<string, number>();

test('explain decides as the oracle does', () => {
  const seed = Number(process.env.POSTERN_SEED ?? 20261124);
  const count = Number(process.env.POSTERN_CASES ?? 400);
  compare(product, { seed, count });
  for (const seen of [
    'allow',
    'deny',
    'audit',
    'rule',
    'not_isolated',
    'no_rule',
    'limit',
    'loopback',
    'self',
    'no_address',
    'no_ready_endpoint',
    'admin_accept',
    'admin_deny',
    'baseline_accept',
    'baseline_deny',
  ]) {
    assert.ok((tally.get(seen) ?? 0) >= count / 10, `${seen} came up ${tally.get(seen) ?? 0} times`);
  }
});
