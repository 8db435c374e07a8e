// SPDX-License-Identifier: Apache-2.0
// Is more than a row can hold refused as a whole, by name, before anything is written?
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { compile } from '../../src/compile/compile.ts';
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
