// SPDX-License-Identifier: Apache-2.0
// A pod's own node, which upstream's text gives whoever a NetworkPolicy holds: only where it is asked for, only them, and never past
// a Limit.
import assert from 'node:assert/strict';
import test from 'node:test';
import { compile } from '../../src/compile/compile.ts';
import { explainer } from '../../src/judge/explain.ts';
import { ObjectStore } from '../../src/source/store.ts';

const CLUSTER = `
{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 198.18.9.1}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}, status: {addresses: [{type: InternalIP, address: 198.18.9.2}]}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: x, name: upstream, labels: {app: a}}, spec: {nodeName: n1}, status: {podIP: 198.18.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: x, name: ours, labels: {app: b}}, spec: {nodeName: n1}, status: {podIP: 198.18.0.2}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: y, name: free}, spec: {nodeName: n1}, status: {podIP: 198.18.0.3}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: x, name: np}, spec: {podSelector: {matchLabels: {app: a}}, policyTypes: [Egress]}}
---
{apiVersion: postern.dev/v1alpha1, kind: EgressPolicy, metadata: {namespace: x, name: ep}, spec: {podSelector: {matchLabels: {app: b}}}}
`;
const LIMIT = `---
{apiVersion: postern.dev/v1alpha1, kind: EgressPolicy, metadata: {namespace: x, name: limit}, spec: {effect: Limit, egress: [{to: [{networks: [203.0.113.0/24]}]}]}}
`;

function asked(text: string, ownNode: boolean, from: string, to: string): (string | null)[] {
  const host = { node: 'n1', addresses: ['198.18.9.1'], resolvers: [] };
  const files = [{ path: 'a.yaml', text, hash: '' }];
  const { snapshot, problems } = new ObjectStore(null).update({ files, unreadable: [] }, host);
  assert.deepEqual(problems, []);
  const { answer } = explainer(snapshot, compile(snapshot, { ownNode }));
  const { verdict, policy } = answer({ from, to, port: 10250, protocol: 'TCP' });
  return [verdict, policy];
}

test('a pod that a NetworkPolicy holds reaches its own node, where that is asked for', () => {
  const own = ['allow', 'ClusterEgressPolicy/postern-own-node'];
  const denied = ['deny', 'NetworkPolicy/x/np'];
  assert.deepEqual(asked(CLUSTER, true, 'x/upstream', '198.18.9.1'), own);
  assert.deepEqual(asked(CLUSTER, true, 'x/upstream', '198.18.9.2'), denied, "another's node");
  assert.deepEqual(asked(CLUSTER, false, 'x/upstream', '198.18.9.1'), denied);
  assert.deepEqual(
    asked(CLUSTER, true, 'x/ours', '198.18.9.1'),
    ['deny', 'EgressPolicy/x/ep'],
    'upstream asks for its own kind',
  );
  assert.deepEqual(asked(CLUSTER, true, 'y/free', '198.18.9.1'), ['allow', null]);
  assert.deepEqual(asked(CLUSTER + LIMIT, true, 'x/upstream', '198.18.9.1'), ['deny', 'EgressPolicy/x/limit']);
});
