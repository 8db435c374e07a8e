// SPDX-License-Identifier: Apache-2.0
// Who is left out where a snapshot goes over a limit, and is it never somebody whose absence opens what was closed?
import assert from 'node:assert/strict';
import test from 'node:test';
import { blamed, lessened } from '../../src/agent/lessened.ts';
import type { Overfull } from '../../src/compile/overfull.ts';
import type { Policy, Problem, Rule, Snapshot } from '../../src/model/objects.ts';

const RULE: Rule = { name: null, action: 'Accept', peers: [{ type: 'any' }], ports: null, notEnforced: null };
const policy = (name: string, effect: Policy['effect'], rules: readonly Rule[] = [RULE]): Policy => ({
  ...{ kind: 'EgressPolicy', namespace: 'shop', name, effect, priority: 0, mode: 'Enforce', onDeny: 'Reject' },
  ...{ hostNetwork: false, rules },
  subject: { type: 'own', podSelector: { matchLabels: {}, matchExpressions: [] } },
});
const limits = (names: string): Policy[] => [...names].map((name) => policy(name, 'Limit'));
const snapshot = (...policies: readonly Policy[]): Snapshot => ({
  ...{ namespaces: [], nodes: [], pods: [], services: [], endpointSlices: [], policies },
  host: { node: null, addresses: [], resolvers: [] },
});
const problem = (name: string | null): Problem => ({
  ...{ severity: 'error', code: 'limit_exceeded', file: null, line: 0, column: 0, path: '', message: `of ${name}` },
  ...{ object: name === null ? null : `EgressPolicy/shop/${name}`, advice: '' },
});

/** Policies that are left, `*` where they allow nothing; then who is told of, and by which message. */
function told(now: readonly Policy[], before: readonly Policy[] | null, ...named: (string | null)[]): unknown {
  const found = lessened(snapshot(...now), before === null ? null : snapshot(...before), named.map(problem));
  if (found === null) return null;
  const left = found.snapshot.policies.map(({ name, rules }) => `${name}${rules.length === 0 ? '*' : ''}`);
  return [left.join(' '), ...found.problems.map(({ object, message }) => `${object} ${message}`)];
}

test('at the start it is those that are named', () => {
  assert.deepEqual(told(limits('abc'), null, 'c'), ['a b', 'EgressPolicy/shop/c of c']);
  const many = [policy('m', 'Isolate'), policy('n', 'Isolate')];
  assert.deepEqual(told(many, null, 'n'), ['m n*', 'EgressPolicy/shop/n of n']);
  assert.equal(told([policy('n', 'Isolate', [])], null, 'n'), null, 'it allows nothing already');
  assert.equal(told(limits('abc'), null, null), null, 'a map is full: nobody is named');
});

test('later it is who came, not who was there', () => {
  assert.deepEqual(told(limits('abcd'), limits('abc'), 'd'), ['a b c', 'EgressPolicy/shop/d of d']);
  // By name the last is one that was there: the one that came goes, and is told of.
  assert.deepEqual(told(limits('abc'), limits('bc'), 'c'), ['b c', 'EgressPolicy/shop/a of c']);
  // One that was edited is as it was.
  const wider = policy('b', 'Limit', [RULE, RULE]);
  const found = lessened(snapshot(...limits('a'), wider), snapshot(...limits('ab')), [problem('b')]);
  assert.deepEqual(found?.snapshot.policies, limits('ab'));
  // Others that came meanwhile have no part in it.
  const beside = [...limits('abc'), policy('w', 'Isolate')];
  assert.deepEqual(told(beside, limits('bc'), 'c'), ['b c w', 'EgressPolicy/shop/a of c']);
  assert.equal(told(limits('abc'), limits('abc'), 'c'), null, 'a pod got another label: nobody came');
  assert.equal(told(limits('abcd'), limits('abc'), null), null);
});

test('of Limits that are too many on a workload those are to blame that came, and none of a namespace keeps out one of the cluster', () => {
  const cluster = (names: string) =>
    limits(names).map((one): Policy => ({ ...one, kind: 'ClusterEgressPolicy', namespace: null }));
  const overfull = (all: readonly Policy[]): Overfull => ({ workload: 'shop/web', limits: all, isAudit: false });
  const whom = (all: readonly Policy[], before: readonly Policy[] | null, ...more: Overfull[]): string =>
    blamed([overfull(all), ...more], before === null ? null : snapshot(...before))
      .map(({ object }) => object?.replace(/.*\//, ''))
      .join(' ');
  assert.equal(whom(limits('abcdefghi'), null), '', 'at the start nobody knows who came last');
  assert.equal(whom(limits('abcdefghi'), limits('abcdefghi')), '', 'the pod came, or got a label');
  assert.equal(whom(limits('abcdefghi'), limits('bcdefghi')), 'a');
  assert.equal(whom(limits('abcdefghi'), []), 'i', 'eight of them fit');
  const edited = [...limits('bcdefghi'), policy('a', 'Limit', [])];
  assert.equal(whom(edited, limits('abcdefghi')), '', 'its rules put it on nobody');
  const narrow: Policy = {
    ...policy('a', 'Limit'),
    subject: { type: 'own', podSelector: { matchLabels: { app: 'x' }, matchExpressions: [] } },
  };
  assert.equal(whom(limits('abcdefghi'), [narrow, ...limits('bcdefghi')]), 'a', 'it was widened');
  assert.equal(whom(limits('abcdefghij'), limits('bcdefghij')), '', 'without it, too, they are nine');
  assert.equal(whom([...cluster('z'), ...limits('abcdefgh')], limits('abcdefgh')), '', 'the pods are closed instead');
  assert.equal(whom(cluster('abcdefghz'), cluster('abcdefgh')), 'z');
  // Another workload's nine have no part in it, nor it in theirs.
  assert.equal(whom(limits('abcdefghi'), limits('abcdefghi'), overfull(limits('abcdefghk'))), 'k');
});
