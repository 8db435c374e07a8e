// SPDX-License-Identifier: Apache-2.0
// explain = oracle, on thousands of random clusters, policies and flows. The objects go the whole way of a user's: text, validation,
// parse, compile. `POSTERN_SEED=N` repeats a run; `POSTERN_CASES=N` makes more of them.
import assert from 'node:assert/strict';
import test from 'node:test';
import { compile } from '../../src/compile/compile.ts';
import { explainer, type Query } from '../../src/judge/explain.ts';
import type { Snapshot } from '../../src/model/objects.ts';
import { ObjectStore } from '../../src/source/store.ts';
import { compare, findMismatch, type Product } from '../oracle/compare.ts';
import { decide } from '../oracle/decide.ts';
import { generate } from '../oracle/generate.ts';
import type { EgressPolicy, Host } from '../oracle/kubernetes.ts';

function snapshotOf(objects: readonly unknown[], host: Host): Snapshot {
  const text = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects });
  const { snapshot, problems } = new ObjectStore(null).update(
    { files: [{ path: 'case.json', text, hash: '' }], unreadable: [] },
    host,
  );
  const errors = problems.filter(({ severity }) => severity === 'error');
  assert.deepEqual(errors, [], 'the generator makes valid objects');
  return snapshot;
}

const product: Product = (objects, host) => {
  const snapshot = snapshotOf(objects, host);
  const compiled = compile(snapshot);
  assert.deepEqual(compiled.problems, []);
  const { answer } = explainer(snapshot, compiled);
  return (query) => {
    const told = answer(query as Query);
    const without = query.names === undefined ? told : answer({ ...(query as Query), names: [] });
    const isNamed = without.verdict !== told.verdict || without.rule !== told.rule ? ['by_name'] : [];
    for (const seen of [told.verdict, told.reason, ...isNamed]) tally.set(seen, (tally.get(seen) ?? 0) + 1);
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
    'by_name',
  ]) {
    assert.ok((tally.get(seen) ?? 0) >= count / 10, `${seen} came up ${tally.get(seen) ?? 0} times`);
  }
});

test('and where more Limits hold a workload than it may have', () => {
  const seen = new Map<string, number>();
  for (let seed = 7000; seed < 7240; seed++) {
    const one = generate(seed, 50);
    const limits = one.objects.filter(
      (object): object is EgressPolicy => (object as EgressPolicy).spec?.effect === 'Limit',
    );
    const copies = limits.flatMap((limit) =>
      Array.from({ length: 8 }, (_, index) => ({
        ...limit,
        metadata: { ...limit.metadata, name: `${limit.metadata.name}-${index}` },
      })),
    );
    const objects = [...one.objects, ...copies];
    const mismatch = findMismatch({ ...one, objects }, product);
    assert.equal(mismatch, null, `seed ${seed}`);
    const compiled = compile(snapshotOf(objects, one.host));
    const over = new Set(compiled.overfull.filter(({ isAudit }) => !isAudit).map(({ workload }) => workload));
    for (const query of one.queries.filter(({ from }) => over.has(from))) {
      const { verdict, reason } = decide(objects, one.host, query);
      seen.set(`${verdict} ${reason}`, (seen.get(`${verdict} ${reason}`) ?? 0) + 1);
    }
  }
  for (const told of ['deny limit', 'allow admin_accept', 'deny admin_deny']) {
    assert.ok((seen.get(told) ?? 0) >= 5, `${told}: ${JSON.stringify([...seen])}`);
  }
  for (const told of seen.keys()) {
    assert.match(told, /^(deny|allow (admin_accept|self|loopback))/, 'nothing passes but what the Admin tier accepts');
  }
});
