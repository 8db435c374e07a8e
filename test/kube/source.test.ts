// SPDX-License-Identifier: Apache-2.0
// Whatever the cluster and the road to it go through, the source ends up telling what a fresh start would tell.
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test, { type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { parseAllDocuments } from 'yaml';
import type { Pace } from '../../src/kube/pace.ts';
import { KubeSource } from '../../src/kube/source.ts';
import type { Snapshot } from '../../src/model/objects.ts';
import { StateDir } from '../../src/source/state.ts';
import type { Contents } from '../../src/source/store.ts';
import { ObjectStore } from '../../src/source/store.ts';
import { type ApiServer, type JsonObject, type Options, startApiServer } from '../support/apiserver/server.ts';
import { QUICK, until } from './scripted.ts';

const ROOT = path.join(import.meta.dirname, '../..');
const crd = (file: string): JsonObject => {
  const [document] = parseAllDocuments(readFileSync(path.join(ROOT, 'daemonset/crds', file), 'utf8')).filter(
    (one) => one.contents !== null,
  );
  return document?.toJS() as JsonObject;
};
const OWN_CRDS = [crd('egresspolicies.yaml'), crd('clusteregresspolicies.yaml')];

const namespace = (name: string, labels: Record<string, string> = {}) => ({
  apiVersion: 'v1',
  kind: 'Namespace',
  metadata: { name, labels },
});
const pod = (name: string, address: string, more: Record<string, unknown> = {}) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { namespace: 'shop', name, labels: { app: name }, ...more },
  spec: { nodeName: 'n1', containers: [{ name: 'main', image: 'x', ports: [{ name: 'http', containerPort: 8080 }] }] },
  status: { phase: 'Running', podIP: address, podIPs: [{ ip: address }] },
});
const policy = (name: string, port: number, cidr = '198.18.0.0/16') => ({
  apiVersion: 'networking.k8s.io/v1',
  kind: 'NetworkPolicy',
  metadata: { namespace: 'shop', name },
  spec: { podSelector: {}, policyTypes: ['Egress'], egress: [{ to: [{ ipBlock: { cidr } }], ports: [{ port }] }] },
});
const egress = (name: string, network = '198.18.0.0/16') => ({
  apiVersion: 'postern.dev/v1alpha1',
  kind: 'EgressPolicy',
  metadata: { namespace: 'shop', name },
  spec: { podSelector: {}, egress: [{ to: [{ networks: [network] }], ports: [{ port: 80 }] }] },
});

interface Run {
  readonly source: KubeSource;
  readonly told: Contents[];
  /** The newest; throws where nothing was told. */
  readonly now: () => Snapshot;
}

interface RunOptions {
  readonly pace?: Partial<Pace>;
  readonly state?: string;
  readonly kubeconfig?: string;
}

async function begin(server: ApiServer, { pace, state, kubeconfig }: RunOptions = {}): Promise<Run> {
  const dir = state === undefined ? null : new StateDir(state);
  const source = await KubeSource.open({
    kubeconfig: kubeconfig ?? server.kubeconfig,
    context: null,
    nodeName: 'n1',
    dns: { resolvers: ['169.254.20.10'] },
    state: dir,
    kept: dir?.read().kept ?? new Map(),
    pace: { ...QUICK, ...pace },
  });
  const told: Contents[] = [];
  source.start((contents) => {
    told.push(contents);
    source.save();
  });
  const now = () => {
    const last = told.at(-1);
    assert.ok(last, 'nothing was told');
    return last.snapshot;
  };
  return { source, told, now };
}

async function run(t: TestContext, server: ApiServer, options: RunOptions = {}): Promise<Run> {
  const one = await begin(server, options);
  t.after(() => one.source.stop());
  await until('the first snapshot', () => one.told.length > 0);
  return one;
}

async function serve(t: TestContext, options: Options = {}): Promise<ApiServer> {
  const server = await startApiServer({ tls: true, ...options });
  t.after(() => server.stop());
  return server;
}

function folder(t: TestContext): string {
  const made = mkdtempSync(path.join(tmpdir(), `postern-source-${process.pid}-`));
  t.after(() => rmSync(made, { recursive: true, force: true }));
  return made;
}

/** What a fresh start tells. */
async function fresh(server: ApiServer): Promise<Contents> {
  const one = await begin(server);
  try {
    await until('the first snapshot', () => one.told.length > 0);
    return one.told[0] as Contents;
  } finally {
    await one.source.stop();
  }
}

const names = (objects: readonly { readonly name: string }[]): string[] => objects.map(({ name }) => name);

/** However its lists are held. */
function plain(snapshot: Snapshot): object {
  return { ...snapshot, pods: [...snapshot.pods] };
}

test('a cluster is told as a folder with the same objects is', async (t) => {
  const boutique = path.join(ROOT, 'test/fixtures/online-boutique');
  const objects = [
    namespace('shop', { team: 'a' }),
    {
      apiVersion: 'v1',
      kind: 'Node',
      metadata: { name: 'n1' },
      spec: { podCIDR: '10.0.0.0/24' },
      status: { addresses: [{ type: 'InternalIP', address: '192.0.2.1' }] },
    },
    pod('web', '10.0.0.1', { annotations: { 'kubernetes.io/config.mirror': 'x' } }),
    pod('é', '10.0.0.9', { name: 'api', labels: { app: 'web', text: '' } }),
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { namespace: 'shop', name: 'web' },
      spec: {
        clusterIP: '10.96.0.7',
        clusterIPs: ['10.96.0.7', 'fd00::7'],
        ports: [{ name: 'http', port: 80, targetPort: 'http', protocol: 'TCP', nodePort: 30080 }],
      },
    },
    {
      apiVersion: 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      metadata: { namespace: 'shop', name: 'web-1', labels: { 'kubernetes.io/service-name': 'web' } },
      addressType: 'IPv4',
      ports: [{ name: 'http', port: 8080, protocol: 'TCP' }],
      endpoints: [
        {
          addresses: ['10.0.0.1'],
          conditions: { ready: true },
          targetRef: { kind: 'Pod', name: 'web', namespace: 'shop' },
        },
        { addresses: ['10.0.0.2'], conditions: { ready: false } },
      ],
    },
    policy('np', 443),
    ...OWN_CRDS,
    egress('ep'),
    ...parseAllDocuments(
      readFileSync(path.join(boutique, 'network-policies/network-policy-adservice.yaml'), 'utf8'),
    ).map((one) => one.toJS() as JsonObject),
  ];
  const server = await serve(t, { objects });
  const { now, told } = await run(t, server);
  const kinds: [string, string][] = [
    ['v1', 'Namespace'],
    ['v1', 'Node'],
    ['v1', 'Pod'],
    ['v1', 'Service'],
    ['discovery.k8s.io/v1', 'EndpointSlice'],
    ['networking.k8s.io/v1', 'NetworkPolicy'],
    ['postern.dev/v1alpha1', 'EgressPolicy'],
  ];
  const text = kinds
    .flatMap(([apiVersion, kind]) => server.list(apiVersion, kind))
    .map((one) => JSON.stringify(one))
    .join('\n---\n');
  const scan = { files: [{ path: 'all.yaml', text, hash: 'all' }], unreadable: [] };
  const folder = new ObjectStore(null).update(scan, now().host);
  assert.deepEqual(plain(now()), plain(folder.snapshot));
  assert.equal(now().pods.length, 2);
  assert.equal(now().policies.length, 3);
  assert.equal(now().host.node, 'n1');
  assert.deepEqual(told[0]?.problems, []);
});

test("a pod's author cannot name a cgroup", async (t) => {
  const server = await serve(t, {
    objects: [namespace('shop'), pod('web', '10.0.0.1', { annotations: { 'postern.dev/cgroup': 'system.slice' } })],
  });
  const { now } = await run(t, server);
  assert.equal([...now().pods][0]?.cgroup, null);
});

test('a change is told with all that it does not touch as it was; what changes nothing is not told', async (t) => {
  const server = await serve(t, {
    objects: [namespace('shop'), pod('a', '10.0.0.1'), pod('b', '10.0.0.2'), policy('np', 443)],
  });
  const { now, told } = await run(t, server);
  const before = now();
  const one = pod('a', '10.0.0.1');
  server.put({ ...one, status: { ...one.status, startTime: '2026-01-01T00:00:00Z', message: 'nothing to us' } });
  server.put(policy('np', 443));
  server.put({ ...policy('np', 443), status: { conditions: [] } });
  server.put(pod('b', '10.0.0.3'));
  await until('the change', () => now() !== before);
  assert.equal(told.length, 2);
  assert.deepEqual([...now().pods][1]?.addresses, ['10.0.0.3']);
  assert.equal([...now().pods][0], [...before.pods][0]);
  for (const field of ['namespaces', 'nodes', 'services', 'endpointSlices', 'policies', 'host'] as const) {
    assert.equal(now()[field], before[field], field);
  }
  assert.equal([...now().pods][0]?.ports, [...before.pods][1]?.ports);
});

test('resolvers that are named are trusted beside those of the machine', async (t) => {
  const server = await serve(t, { objects: [namespace('shop'), pod('a', '10.0.0.1')] });
  const { now } = await run(t, server);
  assert.equal(now().host.resolvers.at(-1), '169.254.20.10');
});

test('nothing is told before every kind is known', async (t) => {
  const server = await serve(t, { objects: [namespace('shop'), pod('a', '10.0.0.1')] });
  const allow = server.deny({ resource: 'networkpolicies', verbs: ['list', 'watch'] });
  const { source, told } = await begin(server);
  t.after(() => source.stop());
  const of = (kind: string) => source.status().find((one) => one.kind === kind);
  await until('all but one', () => source.status().filter(({ synced }) => synced).length === 8);
  await until('the refusal', () => of('NetworkPolicy')?.problem !== null);
  assert.match(of('NetworkPolicy')?.problem ?? '', /may not watch networkpolicies\.networking\.k8s\.io/);
  assert.equal(of('NetworkPolicy')?.synced, false);
  assert.equal(told.length, 0);
  allow();
  await until('the snapshot', () => told.length === 1);
  assert.equal(of('NetworkPolicy')?.problem, null);
});

test('a kind that may not be read any more stays as it was; once it may again, it is up to date', async (t) => {
  const server = await serve(t, { objects: [namespace('shop'), pod('a', '10.0.0.1'), policy('np', 443)] });
  const { source, told, now } = await run(t, server);
  const problem = () => source.status().find(({ kind }) => kind === 'NetworkPolicy')?.problem ?? null;
  const allow = server.deny({ resource: 'networkpolicies', verbs: ['list', 'watch'] });
  for (const watch of server.watches({ resource: 'networkpolicies' })) watch.end();
  await until('the refusal', () => problem() !== null);
  assert.match(problem() ?? '', /^may not watch networkpolicies\.networking\.k8s\.io: .*grant list and watch on it$/);
  const before = told.length;
  server.put(policy('np', 80));
  server.put(policy('late', 8080));
  server.put(pod('b', '10.0.0.2'));
  await until('the pod', () => now().pods.length === 2);
  const ports = () => now().policies.map(({ name, rules }) => [name, rules[0]?.ports?.[0]]);
  assert.deepEqual(ports(), [['np', { protocol: 'TCP', port: 443, endPort: null }]], 'what was heard holds');
  allow();
  await until('both policies', () => now().policies.length === 2);
  assert.equal(problem(), null);
  assert.deepEqual(ports(), [
    ['late', { protocol: 'TCP', port: 8080, endPort: null }],
    ['np', { protocol: 'TCP', port: 80, endPort: null }],
  ]);
  assert.ok(
    told.slice(before).every(({ snapshot }) => snapshot.policies.length > 0),
    'never without',
  );
});

test('kinds whose CRD is missing are empty, and held as soon as it is installed', async (t) => {
  const server = await serve(t, { objects: [namespace('shop'), pod('a', '10.0.0.1')] });
  const { source, now } = await run(t, server);
  const problems = () => Object.fromEntries(source.status().map(({ kind, problem }) => [kind, problem]));
  assert.match(problems().EgressPolicy ?? '', /egresspolicies\.postern\.dev is not installed/);
  for (const one of OWN_CRDS) server.put(one);
  server.put(egress('late'));
  await until('the policy', () => now().policies.length === 1);
  assert.equal(problems().EgressPolicy, null);
  const [definition] = OWN_CRDS;
  assert.ok(definition);
  server.delete(definition);
  await until('that it is gone', () => now().policies.length === 0);
});

test('an object in a namespace that was not heard of is not told', async (t) => {
  const server = await serve(t, { objects: [namespace('shop'), pod('a', '10.0.0.1')] });
  const mend = server.break({ kind: 'status', code: 503, where: { resource: 'namespaces' } });
  const { source, told, now } = await begin(server);
  t.after(() => source.stop());
  mend();
  await until('the first snapshot', () => told.length > 0);
  for (const watch of server.watches({ resource: 'namespaces' })) watch.stall();
  server.put(namespace('late', { secret: 'yes' }));
  server.put({ ...pod('x', '10.0.0.7'), metadata: { namespace: 'late', name: 'x' } });
  server.put(pod('b', '10.0.0.2'));
  await until('the other pod', () => now().pods.length === 2);
  assert.deepEqual(names([...now().pods]), ['a', 'b']);
  for (const watch of server.watches({ resource: 'namespaces' })) watch.reset();
  await until('the pod', () => now().pods.length === 3);
  assert.equal(now().namespaces.find(({ name }) => name === 'late')?.labels.secret, 'yes');
  server.delete(namespace('late'));
  await until('that both are gone', () => names([...now().pods]).join() === 'a,b');
});

test('a policy that is edited into an invalid one keeps its last valid version, beyond a restart too', async (t) => {
  const state = folder(t);
  const server = await serve(t, { objects: [...OWN_CRDS, namespace('shop')] });
  server.put(egress('a', '198.18.0.0/16'));
  server.put(egress('never', '198.18.0.0/99'));
  const first = await begin(server, { state });
  await until('the first snapshot', () => first.told.length > 0);
  const valid = first.now().policies.find(({ name }) => name === 'a');
  assert.deepEqual(first.now().policies.find(({ name }) => name === 'never')?.rules, []);
  server.put(egress('a', '198.18.0.0/99'));
  await until('the problem', () => first.told.at(-1)?.problems.length === 2);
  assert.equal(
    first.now().policies.find(({ name }) => name === 'a'),
    valid,
  );
  const problem = first.told.at(-1)?.problems[0];
  assert.deepEqual(
    [problem?.object, problem?.path, problem?.severity, problem?.file],
    ['EgressPolicy/shop/a', 'spec.egress[0].to[0].networks[0]', 'error', null],
  );
  await first.source.stop();

  const second = await begin(server, { state });
  await until('the first snapshot', () => second.told.length > 0);
  assert.deepEqual(
    second.now().policies.find(({ name }) => name === 'a'),
    valid,
  );
  // Another object by the same name has no earlier version.
  server.delete(egress('a'));
  server.put(egress('a', '198.18.0.0/99'));
  await until('the other object', () => second.now().policies.find(({ name }) => name === 'a')?.rules.length === 0);
  await second.source.stop();

  const third = await run(t, server, { state });
  assert.deepEqual(third.now().policies.find(({ name }) => name === 'a')?.rules, []);
});

test('who writes status is told uid, generation and status as they are', async (t) => {
  const server = await serve(t, { objects: [...OWN_CRDS, namespace('shop'), egress('a')] });
  const { source } = await run(t, server);
  const entry = source.policies().get('EgressPolicy/shop/a');
  const stored = server.get('postern.dev/v1alpha1', 'EgressPolicy', 'a', 'shop') as {
    metadata: { uid: string; generation: number; resourceVersion: string };
  };
  const { uid, generation, resourceVersion } = stored.metadata;
  assert.deepEqual([entry?.uid, entry?.generation, entry?.resourceVersion], [uid, generation, resourceVersion]);
  const path = '/apis/postern.dev/v1alpha1/namespaces/shop/egresspolicies/a/status';
  await source.api.request('PATCH', path, {
    body: { status: { workloads: 3 } },
    contentType: 'application/merge-patch+json',
  });
  await until(
    'the status',
    () => (source.policies().get('EgressPolicy/shop/a')?.status as JsonObject)?.workloads === 3,
  );
});

test('while the server is away all stays; when it is back, what was missed is told at once, and nothing else', async (t) => {
  const server = await serve(t, { objects: [namespace('shop'), pod('a', '10.0.0.1'), policy('np', 443)] });
  const { now, told, source } = await run(t, server);
  const before = now();
  await server.refuse();
  await until('that it is noticed', () => source.status().every(({ problem }) => problem !== null));
  server.put(pod('b', '10.0.0.2'));
  assert.equal(told.length, 1);
  await server.restart();
  await until('the pod', () => now().pods.length === 2);
  assert.equal(now().policies, before.policies);
  assert.equal(told.length, 2);
});

test('a server that was restored from an older state is believed', async (t) => {
  const server = await serve(t, { objects: [namespace('shop'), pod('a', '10.0.0.1')], resourceVersion: 5000 });
  const { now } = await run(t, server);
  await server.restart({ resourceVersion: 100 });
  server.put(pod('b', '10.0.0.2'));
  await until('the pod', () => now().pods.length === 2);
  assert.deepEqual(plain(now()), plain((await fresh(server)).snapshot));
});

/** Numbers that look random and are the same for the same seed (mulberry32). */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

/** A change of the cluster, at random. */
function change(server: ApiServer, next: (below: number) => number): void {
  const n = next(12);
  const one = [
    () => pod(`p${n}`, `10.0.${next(4)}.${n}`, { labels: { app: `a${next(3)}` } }),
    () => policy(`np${n % 4}`, 1 + next(3), next(5) === 0 ? '198.18.0.0/99' : '198.18.0.0/16'),
    () => egress(`ep${n % 4}`, next(5) === 0 ? '198.18.0.0/99' : '198.19.0.0/16'),
    () => namespace('shop', { team: `t${next(3)}` }),
    () => namespace(`ns${n % 3}`, { team: `t${next(3)}` }),
    () => ({ ...pod('q', '10.1.0.1'), metadata: { namespace: `ns${n % 3}`, name: `q${n}` } }),
  ][next(6)]?.();
  assert.ok(one);
  const { namespace: within } = one.metadata as { namespace?: string };
  if (within?.startsWith('ns') && server.get('v1', 'Namespace', within) === null) return;
  if (next(4) > 0 || one.metadata.name === 'shop') server.put(one);
  else if (server.get(one.apiVersion, one.kind, one.metadata.name, within) !== null) server.delete(one);
}

for (const [what, options] of [
  ['streaming lists', {}],
  ['pages', { streamingLists: false }],
] as const) {
  for (const seed of [1, 2, 3]) {
    test(`after any trouble, what is told is what a fresh start tells: ${what}, seed ${seed}`, async (t) => {
      const next = random(seed);
      const server = await serve(t, {
        objects: [...OWN_CRDS, namespace('shop')],
        bookmarkMs: 20,
        history: 50,
        ...options,
      });
      const { now, told, source } = await run(t, server, {
        pace: { answerMs: 300, idleMs: 300, listIdleMs: 300, watchSeconds: [1, 2] },
      });
      const troubles: (() => void | Promise<void>)[] = [
        () => server.compact(),
        () => server.restart(),
        () => server.watches()[next(9)]?.garbage(),
        () => server.watches()[next(9)]?.cutLine(),
        () => server.watches()[next(9)]?.reset(),
        () => server.watches()[next(9)]?.end(),
        () => server.watches()[next(9)]?.expire(),
        () => server.watches()[next(9)]?.stall(),
        () =>
          void server.break({ kind: 'status', code: [401, 403, 429, 500, 503][next(5)] ?? 500, times: 1 + next(3) }),
        () =>
          void server.break({ kind: 'cut', afterBytes: next(2000), how: next(2) === 0 ? 'end' : 'reset', times: 2 }),
        () => void server.break({ kind: 'garbage', afterBytes: next(1000), times: 1 }),
        () => void server.break({ kind: 'stall', afterBytes: next(1000), times: 1 }),
        () => void server.break({ kind: 'silence', where: { verb: 'watch' }, times: 1 }),
        () => void server.break({ kind: 'reset', times: 1 }),
        async () => {
          await server.refuse();
          change(server, next);
          await sleep(30);
          await server.listen();
        },
      ];
      for (let i = 0; i < 60; i++) {
        for (let k = next(8); k >= 0; k--) change(server, next);
        if (next(2) === 0) await troubles[next(troubles.length)]?.();
        await sleep(next(15));
      }
      server.mend();
      const isQuiet = () => source.status().every(({ problem }) => problem === null || /not installed/.test(problem));
      await until('that it is quiet', isQuiet).catch(() => assert.fail(JSON.stringify(source.status(), null, 1)));
      // Of a broken policy, only who was there knows what it last said.
      for (let n = 0; n < 4; n++) {
        server.put(policy(`np${n}`, 9));
        server.put(egress(`ep${n}`));
      }
      const expected = (await fresh(server)).snapshot;
      await until('the same', () => isDeepStrictEqual(now(), expected)).catch(() => assert.deepEqual(now(), expected));
      assert.ok(told.length > 5);
    });
  }
}
