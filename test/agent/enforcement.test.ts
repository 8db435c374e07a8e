// SPDX-License-Identifier: Apache-2.0
// Is a change all or nothing on the real kernel, and is it told what changed?
import assert from 'node:assert/strict';
import test from 'node:test';
import { Enforcement } from '../../src/agent/enforcement.ts';
import type { Bindings } from '../../src/bind/binding.ts';
import { loadNative } from '../../src/kernel/native.ts';
import type { Pod, Policy, Snapshot } from '../../src/model/objects.ts';

const pod = (name: string, addresses: readonly string[]): Pod => ({
  ...{
    namespace: 'shop',
    name,
    uid: name,
    labels: { app: name },
    node: null,
    hostNetwork: false,
    addresses,
    ports: [],
  },
  ...{ ended: false, isStatic: false, cgroup: null },
});

function policy(app: string, cidrs: readonly string[]): Policy {
  return {
    ...{
      kind: 'EgressPolicy',
      namespace: 'shop',
      name: app,
      effect: 'Isolate',
      priority: 0,
      mode: 'Enforce',
      onDeny: 'Reject',
    },
    subject: { type: 'own', podSelector: { matchLabels: { app }, matchExpressions: [] } },
    hostNetwork: false,
    rules: [
      {
        ...{ name: null, action: 'Accept', ports: null, notEnforced: null },
        peers: [{ type: 'networks', cidrs, except: [] }],
      },
    ],
  };
}

const snapshot = (pods: readonly Pod[], policies: readonly Policy[]): Snapshot => ({
  ...{
    namespaces: [{ name: 'shop', labels: { 'kubernetes.io/metadata.name': 'shop' } }],
    nodes: [],
    services: [],
    endpointSlices: [],
  },
  ...{ pods, policies, host: { node: null, addresses: [], resolvers: [] } },
});

/** Ids of cgroups that do not exist: nothing is attached here. */
const bound = (...names: readonly string[]): Bindings =>
  new Map(
    names.map((name, index) => [`shop/${name}`, { path: name, cgroup: 1_000_000_007n + BigInt(index), level: 1 }]),
  );

const size = (enforcement: Enforcement, map: string) => enforcement.maps().find((one) => one.map === map)?.entries;

test('what changed is told: bound, unbound, and whose ruleset is another', () => {
  const enforcement = new Enforcement(loadNative(), { unknown: 'allow' });
  try {
    const pods = [pod('web', ['198.18.0.1']), pod('db', ['198.18.0.2'])];
    const first = snapshot(pods, [policy('web', ['10.0.0.0/8'])]);
    const told = (one: Snapshot, bindings: Bindings) => {
      const outcome = enforcement.enforce(one, bindings, null);
      assert.equal(outcome.status, 'enforced');
      const { changed, bound: added, unbound, written } = outcome;
      return { changed, added, unbound, isWritten: written > 0 };
    };
    assert.deepEqual(told(first, bound('web', 'db')), {
      changed: [],
      added: ['shop/web', 'shop/db'],
      unbound: [],
      isWritten: true,
    });
    assert.deepEqual(told(first, bound('web', 'db')), { changed: [], added: [], unbound: [], isWritten: false });
    assert.equal(enforcement.hasPolicy('shop/web'), true);
    assert.equal(enforcement.hasPolicy('shop/db'), false);
    const second = snapshot(pods, [policy('web', ['10.0.0.0/9'])]);
    assert.deepEqual(told(second, bound('web', 'db')), {
      changed: ['shop/web'],
      added: [],
      unbound: [],
      isWritten: true,
    });
    assert.deepEqual(told(second, bound('web')), { changed: [], added: [], unbound: ['shop/db'], isWritten: true });
  } finally {
    enforcement.close();
  }
});

test('a change that a map cannot hold is refused whole, and names the map and its limit', () => {
  const enforcement = new Enforcement(loadNative(), { unknown: 'allow', maxEntries: { networks: 4 } });
  try {
    const pods = [pod('web', ['198.18.0.1'])];
    const cidrs = (count: number) => Array.from({ length: count }, (_, index) => `10.${index}.0.0/16`);
    const fits = snapshot(pods, [policy('web', cidrs(2))]);
    assert.equal(enforcement.enforce(fits, bound('web'), null).status, 'enforced');
    const before = enforcement.maps();
    const refused = enforcement.enforce(snapshot(pods, [policy('web', cidrs(40))]), bound('web'), null);
    assert.equal(refused.status, 'refused');
    const [problem] = refused.problems;
    assert.equal(problem?.code, 'limit_exceeded');
    assert.match(problem?.message ?? '', /networks holds 4 entries/);
    assert.match(problem?.advice ?? '', /; what asks for most of it: \w+\/shop\/web \(40\)$/);
    assert.deepEqual(enforcement.maps(), before);
    const next = enforcement.enforce(snapshot(pods, [policy('web', cidrs(1))]), bound('web'), null);
    assert.deepEqual([next.status, next.status === 'enforced' && next.changed], ['enforced', ['shop/web']]);
  } finally {
    enforcement.close();
  }
});

test('pods that cannot be here are peers alone', () => {
  const enforcement = new Enforcement(loadNative(), { unknown: 'allow' });
  try {
    const web = pod('web', ['198.18.0.1']);
    const all = snapshot(
      [web, pod('db', ['198.18.0.2'])],
      [policy('web', ['10.0.0.0/8']), policy('db', ['10.0.0.0/9'])],
    );
    enforcement.enforce(all, bound('web'), null, [web]);
    assert.equal(enforcement.hasPolicy('shop/web'), true);
    assert.equal(enforcement.hasPolicy('shop/db'), false);
    assert.equal(size(enforcement, 'workloads'), 1);
  } finally {
    enforcement.close();
  }
});

test('its own process is bound without a policy, beside the pods', () => {
  const enforcement = new Enforcement(loadNative(), { unknown: 'deny' });
  try {
    const own = { path: 'agent', cgroup: 1_000_000_999n, level: 1 };
    assert.equal(enforcement.enforce(snapshot([], []), new Map(), own).status, 'enforced');
    assert.equal(size(enforcement, 'workloads'), 1);
  } finally {
    enforcement.close();
  }
  enforcement.close();
  assert.deepEqual(enforcement.counts(), [], 'a scrape after the end finds nothing');
});
