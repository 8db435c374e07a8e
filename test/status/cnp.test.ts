// SPDX-License-Identifier: Apache-2.0
// The conditions of ClusterNetworkPolicies, from what they say as YAML to what upstream's CRD takes.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { parse } from 'yaml';
import { ObjectStore } from '../../src/source/store.ts';
import { clusterNetworkPolicyStatuses, UPSTREAM_CONDITIONS } from '../../src/status/cnp.ts';
import { mergeConditions } from '../../src/status/conditions.ts';
import { invalidPolicies, policySet } from '../../src/status/report.ts';
import type { NodeState, PolicyObject } from '../../src/status/status.ts';

const POD =
  '{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, spec: {nodeName: a}, status: {podIP: 198.18.0.1}}';
const cnp = (name: string, egress: string, subject = '{namespaces: {}}') =>
  `{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: ${name}}, spec: {tier: Admin, priority: 1, subject: ${subject}, egress: ${egress}}}`;
const DENY = '[{action: Deny, to: [{namespaces: {}}]}]';

function statuses(
  objects: readonly string[],
  over: Partial<NodeState> = {},
  entries: ReadonlyMap<string, PolicyObject> = new Map(),
) {
  const { snapshot: read, problems } = new ObjectStore(null).update(
    { files: [{ path: 'f.yaml', text: [POD, ...objects].join('\n---\n'), hash: '' }], unreadable: [] },
    { node: 'a', addresses: [], resolvers: [] },
  );
  const policies = read.policies.map((one) => ({ ...one, version: { uid: `u-${one.name}`, generation: 3 } }));
  const { hash, versions } = policySet(policies, invalidPolicies(problems));
  const state: NodeState = { report: { hash, refused: [], units: {} }, isSilent: false, versions, ...over };
  const input = { snapshot: { ...read, policies }, problems, nodes: new Map([['a', state]]), objects: entries };
  return clusterNetworkPolicyStatuses(input);
}

function told(...given: Parameters<typeof statuses>): Record<string, string[]> {
  return Object.fromEntries(
    [...statuses(...given)].map(([name, { conditions }]) => [
      name.slice('ClusterNetworkPolicy/'.length),
      conditions.map(({ type, status, reason }) => `${type} ${status} ${reason}`),
    ]),
  );
}

const ACCEPTED = 'postern.dev/Accepted True Accepted';
const PROGRAMMED = 'postern.dev/Programmed True Programmed';

test('every reason', () => {
  assert.deepEqual(told([cnp('fine', DENY)]), { fine: [ACCEPTED, PROGRAMMED] });
  assert.deepEqual(told([cnp('nobody', DENY, '{namespaces: {matchLabels: {a: b}}}')]), {
    nobody: [ACCEPTED, 'postern.dev/Programmed True NoWorkloads'],
  });
  assert.deepEqual(told([cnp('names', '[{action: Accept, to: [{domainNames: [a.example]}]}]')]), {
    names: [ACCEPTED, PROGRAMMED],
  });
  assert.deepEqual(told([cnp('unknown', '[{action: Deny, to: [{futures: {}}]}]')]), {
    unknown: ['postern.dev/Accepted False NotYetEnforced', PROGRAMMED],
  });
  const broken = '[{action: Deny, to: [{networks: [10.0.0.0/33]}]}]';
  assert.deepEqual(told([cnp('broken', broken)]), {
    broken: ['postern.dev/Accepted False Invalid', 'postern.dev/Programmed False Pending'],
  });
  assert.deepEqual(told([cnp('unreadable', DENY, '{namespaces: {matchExpressions: [{key: a, operator: in}]}}')]), {
    unreadable: ['postern.dev/Accepted False Invalid'],
  });
  assert.deepEqual(told([cnp('later', DENY)], { versions: new Set() }), {
    later: [ACCEPTED, 'postern.dev/Programmed False Pending'],
  });
  assert.deepEqual(told([cnp('quiet', DENY)], { isSilent: true }), {
    quiet: [ACCEPTED, 'postern.dev/Programmed Unknown AgentSilent'],
  });
  const refused = [{ policy: 'ClusterNetworkPolicy/full', code: 'limit_exceeded', message: 'too many' }];
  assert.deepEqual(
    told([cnp('full', DENY)], { report: { hash: '', refused, units: {} }, versions: new Set(['u-full:3']) }),
    { full: [ACCEPTED, 'postern.dev/Programmed False RefusedByNode'] },
  );
});

test('nothing is said of policies that no object is known of, nor of other kinds', () => {
  const other =
    '{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: np, namespace: shop}, spec: {podSelector: {}, policyTypes: [Egress]}}';
  assert.deepEqual(told([cnp('in', '[]'), other]), {});
});

test('of ingress is said that it is not enforced here', () => {
  const of = (egress: string, valid: 'as read' | null | undefined, hasIngress: boolean) => {
    const [object, snapshot] = [cnp('a', egress), statuses([cnp('a', egress)])];
    assert.equal(snapshot.size, egress === '[]' ? 0 : 1);
    const entry = { uid: 'u-a', generation: 4, hasIngress, ...(valid === 'as read' ? {} : { valid }) };
    const [status] = statuses([object], {}, new Map([['ClusterNetworkPolicy/a', entry]])).values();
    const [condition, ...more] = status?.conditions ?? [];
    return [condition?.status, condition?.reason, condition?.message, more.length, status?.version?.generation];
  };
  const notOurs = 'Its ingress rules are not enforced here: Postern enforces egress alone.';
  const nothing = 'The policy has no egress rules, so it does nothing here.';
  assert.deepEqual(of('[]', null, true), ['True', 'NoEgressRules', `${nothing} ${notOurs}`, 0, 4]);
  assert.deepEqual(of('[]', null, false), ['True', 'NoEgressRules', nothing, 0, 4]);
  assert.deepEqual(of(DENY, 'as read', true), ['True', 'Accepted', `The policy is valid. ${notOurs}`, 1, 3]);
  assert.deepEqual(of(DENY, 'as read', false), ['True', 'Accepted', 'The policy is valid.', 1, 3]);
  assert.deepEqual(of('[]', undefined, true), [undefined, undefined, undefined, 0, undefined], 'not known to be valid');
});

test("conditions are as upstream's CRD wants them, and those of other implementations stay", () => {
  const file = new URL('../../daemonset/crds/network-policy-api/clusternetworkpolicies.standard.yaml', import.meta.url);
  const crd = parse(readFileSync(file, 'utf8'));
  const { properties, required } =
    crd.spec.versions[0].schema.openAPIV3Schema.properties.status.properties.conditions.items;
  const [status] = statuses([cnp('a', DENY)]).values();
  assert.ok(status);
  assert.deepEqual(status.version, { uid: 'u-a', generation: 3 });
  const foreign = {
    ...{ type: 'Ready-In-Zone-1', status: 'True' as const, reason: 'SetupSucceeded', message: '' },
    lastTransitionTime: '2026-01-01T00:00:00Z',
  };
  const all = mergeConditions([foreign], status.conditions, UPSTREAM_CONDITIONS, 3, Date.UTC(2026, 0, 2));
  assert.ok(all.includes(foreign));
  assert.equal(all.length, 3);
  for (const condition of all.filter((one) => one !== foreign)) {
    for (const field of required) assert.ok(Object.hasOwn(condition, field), `${condition.type}.${field}`);
    assert.match(condition.type, new RegExp(properties.type.pattern));
    assert.match(condition.reason, new RegExp(properties.reason.pattern));
    assert.ok(properties.status.enum.includes(condition.status));
    assert.equal(condition.observedGeneration, 3);
    assert.equal(condition.lastTransitionTime, '2026-01-02T00:00:00Z');
  }
});
