// SPDX-License-Identifier: Apache-2.0
// Are the generated cases repeatable, well formed, and do they reach everything that can be decided?
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseAddress, parseCidr } from './address.ts';
import { decide } from './decide.ts';
import { generate } from './generate.ts';
import type { EgressPolicy, KubernetesObject } from './kubernetes.ts';
import { seeded } from './random.ts';

const SEEDS = Array.from({ length: 200 }, (_, i) => i + 1);

test('the same seed gives the same case, another seed another', () => {
  assert.deepEqual(generate(7), generate(7));
  assert.notDeepEqual(generate(7).objects, generate(8).objects);
  const random = seeded(1);
  assert.deepEqual([random.below(1000), random.below(1000)], [627, 2]);
});

test('objects have a kind, an apiVersion and a name of their own', () => {
  for (const seed of SEEDS) {
    const objects = generate(seed, 1).objects as readonly (KubernetesObject & { apiVersion?: string })[];
    assert.ok(objects.every((o) => typeof o.apiVersion === 'string'));
    const names = objects.map((o) => `${o.kind}/${o.metadata.namespace ?? ''}/${o.metadata.name}`);
    assert.equal(new Set(names).size, names.length, `seed ${seed}`);
  }
});

test('rules are as their schema wants them', () => {
  for (const seed of SEEDS) {
    const objects = generate(seed, 1).objects as readonly KubernetesObject[];
    for (const policy of objects.filter(isOurs)) {
      assert.equal(policy.spec.subject === undefined, policy.kind === 'EgressPolicy');
      for (const rule of policy.spec.egress ?? []) checkRule(policy, rule);
    }
  }
});

function isOurs(object: KubernetesObject): object is EgressPolicy {
  return object.kind === 'EgressPolicy' || object.kind === 'ClusterEgressPolicy';
}

function checkRule(policy: EgressPolicy, rule: NonNullable<EgressPolicy['spec']['egress']>[number]): void {
  const peers = rule.to ?? [];
  const where = `${policy.metadata.name}: ${JSON.stringify(rule)}`;
  assert.ok(peers.length > 0 && (rule.ports === undefined || (rule.ports ?? []).length > 0), where);
  const keys = peers.map((peer) => Object.keys(peer).filter((key) => key !== 'except'));
  assert.ok(
    keys.every((k) => k.length === 1),
    where,
  );
  const named = (rule.ports ?? []).some((port) => typeof port.port === 'string');
  assert.ok(!named || keys.flat().every((key) => ['pods', 'namespaces', 'services'].includes(key)), where);
  const bringsPorts = peers.some((peer) => peer.entities?.some((e) => e === 'DNS' || e === 'KubeAPIServer'));
  assert.ok(!bringsPorts || rule.ports === undefined, where);
  for (const peer of peers) {
    const lists = [peer.networks ?? [], (peer.except ?? []).filter((item) => item.includes('/'))];
    for (const cidrs of lists) {
      assert.ok(!cidrs.some((cidr) => parseCidr(cidr) === null), where);
      assert.equal(new Set(cidrs).size, cidrs.length, where);
    }
  }
}

test('queries reach every verdict, reason, kind and destination', () => {
  const seen = new Set<string>();
  for (const seed of SEEDS) {
    const { objects, host, queries } = generate(seed, 100);
    for (const query of queries) {
      const { verdict, reason, policy } = decide(objects, host, query);
      const form = query.to.startsWith('service:') ? 'service' : query.to.includes('/') ? 'pod' : 'address';
      const family = form === 'address' ? (parseAddress(query.to)?.family ?? 0) : form;
      seen
        .add(`${verdict} ${reason}`)
        .add(`${reason} by ${policy?.split('/')[0]}`)
        .add(`${verdict} to ${family}`);
      seen.add(`${verdict} ${query.protocol}`);
    }
  }
  for (const wanted of [
    'allow rule',
    'allow not_isolated',
    'allow loopback',
    'allow self',
    'deny no_rule',
    'deny limit',
    'deny no_ready_endpoint',
    'deny no_address',
    'audit no_rule',
    'audit limit',
    'audit no_ready_endpoint',
    'allow admin_accept',
    'allow baseline_accept',
    'deny admin_deny',
    'deny baseline_deny',
    'audit admin_deny',
    'audit baseline_deny',
    ...['rule', 'no_rule'].flatMap((reason) =>
      ['NetworkPolicy', 'EgressPolicy', 'ClusterEgressPolicy'].map((kind) => `${reason} by ${kind}`),
    ),
    'limit by EgressPolicy',
    'limit by ClusterEgressPolicy',
    ...['allow', 'deny', 'audit'].flatMap((verdict) =>
      ['4', '6', 'pod', 'service'].map((form) => `${verdict} to ${form}`),
    ),
    ...['allow', 'deny', 'audit'].flatMap((verdict) => ['TCP', 'UDP', 'SCTP', 'ICMP'].map((p) => `${verdict} ${p}`)),
  ]) {
    assert.ok(seen.has(wanted), `never "${wanted}"`);
  }
});
