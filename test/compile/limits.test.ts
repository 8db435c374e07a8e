// SPDX-License-Identifier: Apache-2.0
// Is more than a row can hold refused by name: of rules as a whole, of Limits alone what the workload does?
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { compile } from '../../src/compile/compile.ts';
import { overfullProblems } from '../../src/compile/overfull.ts';
import { explainer } from '../../src/judge/explain.ts';
import type { Policy, Rule, Snapshot } from '../../src/model/objects.ts';

const everyone = { matchLabels: {}, matchExpressions: [] };
const deny: Rule = { name: null, action: 'Deny', peers: [], ports: null, notEnforced: null };

function policy(name: string, effect: 'Admin' | 'Baseline', priority: number, rules: number): Policy {
  return {
    ...{ kind: 'ClusterNetworkPolicy', namespace: null, name, effect, priority },
    subject: { type: 'pods', pods: { namespaceSelector: everyone, podSelector: everyone }, except: [] },
    ...{ mode: 'Enforce', onDeny: 'Reject', hostNetwork: false, rules: Array.from({ length: rules }, () => deny) },
  };
}

function snapshot(policies: readonly Policy[]): Snapshot {
  const pod = {
    ...{ namespace: 'x', name: 'a', uid: null, labels: {}, node: null, hostNetwork: false, addresses: [], ports: [] },
    ...{ ended: false, isStatic: false, cgroup: null },
  };
  return {
    ...{ namespaces: [], nodes: [], pods: [pod], services: [], endpointSlices: [], policies },
    host: { node: null, addresses: [], resolvers: [] },
  };
}

test('a tier of ClusterNetworkPolicy takes 16,383 rules on one workload; the policy that goes beyond is named', () => {
  for (const tier of ['Admin', 'Baseline'] as const) {
    const most = policy('most', tier, 1, 16383);
    assert.deepEqual(compile(snapshot([most])).problems, [], tier);
    const told = compile(snapshot([policy('one-more', tier, 2, 1), most])).problems;
    assert.deepEqual(
      told.map(({ severity, code, object, message }) => [severity, code, object, message]),
      [
        [
          ...['error', 'limit_exceeded', 'ClusterNetworkPolicy/one-more'],
          'is one of policies that together put more than 16,383 rules on one workload',
        ],
      ],
      tier,
    );
  }
});

function limits(count: number, more: Partial<Policy> = {}): Policy[] {
  const all: Rule = { ...deny, action: 'Accept', peers: [{ type: 'any' }] };
  return Array.from({ length: count }, (_, index) => ({
    ...policy(`l${index}`, 'Admin', 0, 0),
    ...{ kind: 'ClusterEgressPolicy' as const, effect: 'Limit' as const, rules: [all] },
    ...more,
  }));
}

test('of nine Limits on a pod nothing is refused but what the pod does: it may do what the Admin tier accepts', () => {
  const accept: Policy = {
    ...policy('dns', 'Admin', 1, 0),
    rules: [{ ...deny, action: 'Accept', peers: [{ type: 'networks', cidrs: ['198.18.0.0/24'], except: [] }] }],
  };
  const told = (policies: readonly Policy[], address: string): string => {
    const compiled = compile(snapshot(policies));
    assert.deepEqual(compiled.problems, []);
    const {
      verdict,
      policy: by,
      reason,
    } = explainer(snapshot(policies), compiled).answer({
      ...{ from: 'x/a', to: address, port: 80, protocol: 'TCP' },
    });
    return [verdict, reason, by].join(' ');
  };
  assert.equal(told([...limits(8), accept], '198.18.1.1'), 'allow not_isolated ');
  assert.equal(told([...limits(9), accept], '198.18.1.1'), 'deny limit ClusterEgressPolicy/l8');
  assert.equal(told([...limits(9), accept], '198.18.0.1'), 'allow admin_accept ClusterNetworkPolicy/dns');
  assert.deepEqual(overfullProblems(compile(snapshot(limits(8))).overfull), []);
  const problems = overfullProblems(compile(snapshot(limits(10))).overfull);
  assert.deepEqual(
    problems.map(({ severity, code, object }) => [severity, code, object]),
    ['Pod/x/a', 'ClusterEgressPolicy/l8', 'ClusterEgressPolicy/l9'].map((one) => ['error', 'limit_exceeded', one]),
  );
  for (const { message, advice } of problems) assert.match(`${message}; ${advice}`, /may have 8: .*merge.*|Policy\/l0/);
});

test('of Limits that are in Audit nothing is refused, and what would be is told', () => {
  const policies = [...limits(8), ...limits(9, { mode: 'Audit' }).slice(8)];
  const compiled = compile(snapshot(policies));
  assert.deepEqual(
    compiled.overfull.map(({ workload, isAudit }) => [workload, isAudit]),
    [['x/a', true]],
  );
  const { answer } = explainer(snapshot(policies), compiled);
  const told = answer({ from: 'x/a', to: '198.18.1.1', port: 80, protocol: 'TCP' });
  assert.deepEqual(told, { verdict: 'audit', policy: 'ClusterEgressPolicy/l8', rule: null, reason: 'limit' });
});
