// SPDX-License-Identifier: Apache-2.0
// `postern agent --kube` as a node runs it: an API server over HTTPS, pods as kubelet and a CNI make them, in both cgroup drivers.
// Are they held from their first packet, through edits, with the API server away and back, and with CRDs that come late?
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { parseAllDocuments } from 'yaml';
import { PolicyFolder, TestAgent } from '../support/agent.ts';
import { ApiServer, type JsonObject } from '../support/apiserver/server.ts';
import { connectFromTheStart, type Driver, Kubelet, type KubeObject } from '../support/kubelet.ts';
import { Lab } from '../support/lab.ts';

const NODE = 'node-a';
const SERVER = '198.18.1.1';
const POSTERN = path.join(import.meta.dirname, '../../bin/postern');
const CRDS = path.join(import.meta.dirname, '../../daemonset/crds');

function crds(...files: readonly string[]): JsonObject[] {
  return files.flatMap((file) =>
    parseAllDocuments(readFileSync(path.join(CRDS, file), 'utf8')).map((document) => document.toJS() as JsonObject),
  );
}

const OURS = crds('egresspolicies.yaml', 'clusteregresspolicies.yaml');
const NAMESPACE: KubeObject = { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'shop' } };
const NODES: readonly KubeObject[] = ['node-a', 'node-b'].map((name) => ({
  ...{ apiVersion: 'v1', kind: 'Node', metadata: { name } },
  status: { addresses: [{ type: 'InternalIP', address: name === NODE ? '198.18.9.1' : '198.18.9.2' }] },
}));

const egress = (...ports: readonly number[]): KubeObject => ({
  apiVersion: 'postern.dev/v1alpha1',
  kind: 'EgressPolicy',
  metadata: { namespace: 'shop', name: 'web' },
  spec: {
    podSelector: { matchLabels: { app: 'web' } },
    egress: ports.map((port) => ({ to: [{ networks: [`${SERVER}/32`] }], ports: [{ port }] })),
  },
});
const isolated: KubeObject = {
  apiVersion: 'networking.k8s.io/v1',
  kind: 'NetworkPolicy',
  metadata: { namespace: 'shop', name: 'none' },
  spec: { podSelector: { matchLabels: { app: 'web' } }, policyTypes: ['Egress'] },
};
const WEB = { namespace: 'shop', name: 'web', labels: { app: 'web' }, addresses: ['198.18.2.1'] };

interface World {
  readonly lab: Lab;
  readonly api: ApiServer;
  readonly kubelet: Kubelet;
  launch(...args: readonly string[]): TestAgent;
}

async function world(
  t: test.TestContext,
  options: { driver?: Driver; objects?: readonly object[] } = {},
): Promise<World> {
  const lab = await Lab.create();
  const folder = new PolicyFolder();
  const api = await ApiServer.start({ tls: true, objects: [...(options.objects ?? OURS), NAMESPACE, ...NODES] });
  t.after(async () => {
    await lab.close();
    folder.close();
    await api.stop();
  });
  await lab.addOutside(SERVER);
  for (const port of [80, 81]) await lab.outside.actor.listen('TCP', SERVER, port);
  const kubelet = new Kubelet(lab, { node: NODE, driver: options.driver ?? 'cgroupfs', cluster: api });
  const launch = (...args: readonly string[]): TestAgent => {
    const fixed = ['--kube', '--kubeconfig', api.kubeconfig, '--node-name', NODE, '--cgroup-root', kubelet.root];
    const places = ['--state-dir', folder.stateDir, '--socket', folder.socket, '--metrics-address', '127.0.0.1:0'];
    const child = spawn(POSTERN, ['agent', ...fixed, ...places, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    lab.adopt(child);
    return new TestAgent(child);
  };
  return { lab, api, kubelet, launch };
}

async function readiness(agent: TestAgent): Promise<number> {
  const ready = await agent.line((line) => line.event === 'ready');
  return (await fetch(String(ready.metrics).replace('/metrics', '/readyz'))).status;
}

for (const driver of ['cgroupfs', 'systemd'] as const) {
  test(`${driver}: pods are held from their first packet to their removal, and an edit reaches them`, async (t) => {
    const { api, kubelet, launch } = await world(t, { driver });
    const agent = launch();
    const waiting = await agent.line((line) => line.event === 'waiting');
    assert.match(String(waiting.for), /kubepods/);
    kubelet.makeRoot();
    api.put(egress(80));
    await agent.line((line) => line.event === 'ready');
    assert.equal(await readiness(agent), 200);

    const web = await kubelet.admit(WEB);
    web.makeCgroup();
    await web.makeNetwork();
    const forbidden = connectFromTheStart(web.place, SERVER, 81, 200);
    const allowed = connectFromTheStart(web.place, SERVER, 80, 200);
    await web.report();
    assert.deepEqual([...new Set(await forbidden)], ['no']);
    assert.match((await allowed).join(' '), /^(no )*(ok ?)+$/);
    const drop = await agent.line((line) => line.event === 'drop' && line.workload === 'shop/web');
    assert.deepEqual([drop.port, drop.policy, drop.reason], [81, 'EgressPolicy/shop/web', 'no_rule']);

    const kept = (await web.place.actor.connect(SERVER, 80)).socket ?? 0;
    const applied = await agent.applied(() => void api.put(egress(81)));
    assert.deepEqual(applied.changed, ['shop/web']);
    assert.equal(await web.place.actor.tryTcp(SERVER, 80), 'EPERM');
    assert.equal(await web.place.actor.tryTcp(SERVER, 81), 'ok');
    assert.notEqual(await web.place.actor.exchange(kept, 'x', 10_000), 'ok');

    const relabelled = await agent.applied(() => web.relabel({ app: 'other' }));
    assert.deepEqual(relabelled.changed, ['shop/web']);
    assert.equal(await web.place.actor.tryTcp(SERVER, 80), 'ok');
    const from = agent.lines.length;
    await web.remove();
    await agent.line((line) => JSON.stringify(line.unbound) === '["shop/web"]', from);
    const metrics = await agent.metrics();
    assert.ok((metrics.get('postern_pod_enforce_seconds_count{seen="cgroup"}') ?? 0) >= 1);
    assert.ok((metrics.get('postern_pod_enforce_seconds_count{seen="address"}') ?? 0) >= 1);
    assert.equal(metrics.get('postern_source_synced{kind="Pod"}'), 1);
    assert.ok((metrics.get('postern_source_read_bytes_total{kind="Pod"}') ?? 0) > 0);
    assert.equal(await agent.stop(), 0, agent.errors);
  });
}

test('with the API server away everything stays enforced; when it is back nothing flaps', async (t) => {
  const { api, kubelet, launch } = await world(t);
  kubelet.makeRoot();
  api.put(egress(80));
  const agent = launch();
  await agent.line((line) => line.event === 'ready');
  const web = await kubelet.run(WEB);
  await agent.line((line) => JSON.stringify(line.bound) === '["shop/web"]');
  assert.equal(await web.place.actor.tryTcp(SERVER, 81), 'EPERM');
  const kept = (await web.place.actor.connect(SERVER, 80)).socket ?? 0;
  assert.equal(await web.place.actor.exchange(kept), 'ok');

  const from = agent.lines.length;
  await api.refuse();
  await agent.line((line) => line.event === 'source_problem' && line.kind === 'Pod', from);
  assert.equal(await web.place.actor.tryTcp(SERVER, 80), 'ok');
  assert.equal(await web.place.actor.tryTcp(SERVER, 81), 'EPERM');
  assert.equal(await web.place.actor.exchange(kept), 'ok');
  assert.equal(await readiness(agent), 200, 'what is enforced is');
  // A pod that nobody could have told of.
  const late = kubelet.plan({ ...WEB, name: 'late', addresses: ['198.18.2.2'] });
  late.makeCgroup();
  await late.makeNetwork();
  assert.equal(await late.place.actor.tryTcp(SERVER, 80), 'EPERM');

  await late.announce();
  await late.report();
  const sent = connectFromTheStart(web.place, SERVER, 80, 100);
  await api.restart();
  const applied = await agent.line((line) => line.event === 'applied', from);
  assert.deepEqual([applied.changed, applied.bound, applied.unbound], [[], ['shop/late'], []]);
  assert.equal(await late.place.actor.tryTcp(SERVER, 80), 'ok');
  await agent.line((line) => line.event === 'source_mended' && line.kind === 'Pod', from);
  assert.deepEqual([...new Set(await sent)], ['ok'], 'not one was refused meanwhile');
  assert.equal(await web.place.actor.exchange(kept), 'ok');
  const told = agent.lines.slice(from).filter((line) => line.event === 'applied');
  assert.equal(told.length, 1, JSON.stringify(told));
});

test('without our CRDs the standard kinds are enforced; installed late, ours are as well', async (t) => {
  const { api, kubelet, launch } = await world(t, { objects: [] });
  kubelet.makeRoot();
  api.put(isolated);
  const agent = launch();
  await agent.line((line) => line.event === 'ready');
  const web = await kubelet.run(WEB);
  await agent.line((line) => JSON.stringify(line.bound) === '["shop/web"]');
  assert.equal(await web.place.actor.tryTcp(SERVER, 80), 'EPERM');
  const from = agent.lines.length;
  for (const crd of OURS) api.put(crd);
  api.put(egress(80));
  const applied = await agent.line((line) => line.event === 'applied' && String(line.changed) !== '', from);
  assert.deepEqual(applied.changed, ['shop/web']);
  assert.equal(await web.place.actor.tryTcp(SERVER, 80), 'ok');
  assert.equal(await web.place.actor.tryTcp(SERVER, 81), 'EPERM');
});

test('a kind that may not be read is told by kind and verb, and nothing is enforced in part', async (t) => {
  const { api, kubelet, launch } = await world(t);
  kubelet.makeRoot();
  api.put(isolated);
  api.deny({ resource: 'networkpolicies', verbs: ['list', 'watch'] });
  const web = await kubelet.run(WEB);
  const agent = launch();
  const problem = await agent.line((line) => line.event === 'source_problem');
  assert.equal(problem.kind, 'NetworkPolicy');
  assert.match(String(problem.msg), /networkpolicies/);
  const waiting = await agent.line((line) => line.event === 'waiting' && String(line.for).includes('NetworkPolicy'));
  assert.match(String(waiting.for), /first list of NetworkPolicy$/);
  assert.equal(await web.place.actor.tryTcp(SERVER, 80), 'ok', 'it was there before');
  assert.equal(await agent.stop(), 0, agent.errors);
});

test('the cluster hears what the node does: Lease, status and an Event on the pod', async (t) => {
  const { api, kubelet, launch } = await world(t);
  kubelet.makeRoot();
  api.put(egress(80));
  const agent = launch();
  await agent.line((line) => line.event === 'ready');
  const web = await kubelet.run(WEB);
  await agent.line((line) => JSON.stringify(line.bound) === '["shop/web"]');
  assert.equal(await web.place.actor.tryTcp(SERVER, 81), 'EPERM');
  await api.until((server) => server.list('coordination.k8s.io/v1', 'Lease').length >= 2);
  await api.until((server) => JSON.stringify(server.list('events.k8s.io/v1', 'Event')).includes('EgressRefused'));
  const status = () => {
    const found = api.get('postern.dev/v1alpha1', 'EgressPolicy', 'web', 'shop');
    return (found?.status ?? {}) as { workloads?: number; conditions?: { type: string; status: string }[] };
  };
  await api.until(
    () => status().conditions?.some((one) => one.type === 'Programmed' && one.status === 'True') === true,
  );
  assert.equal(status().workloads, 1);
});

test('a node name that is no Node cuts off nobody: it is waited for, and said', async (t) => {
  const { api, kubelet, launch } = await world(t);
  kubelet.makeRoot();
  api.put(isolated);
  const web = await kubelet.run(WEB);
  const agent = launch('--node-name', 'node-x');
  const waiting = await agent.line((line) => line.event === 'waiting' && String(line.for).includes('Node node-x'));
  assert.match(String(waiting.for), /start the agent with --node-name and one of node-a, node-b, or add the Node$/);
  assert.equal(await web.place.actor.tryTcp(SERVER, 80), 'ok', 'it was there before');
  assert.ok(!agent.lines.some((line) => line.event === 'ready'));
  // The same, by its name.
  api.put({ ...web.object, spec: { ...(web.object.spec as object), nodeName: 'node-x' } });
  api.put({ apiVersion: 'v1', kind: 'Node', metadata: { name: 'node-x' } });
  await agent.line((line) => line.event === 'ready');
  assert.equal(await web.place.actor.tryTcp(SERVER, 80), 'EPERM');
});

test('what cannot work is said at once, in a sentence', async (t) => {
  const { launch, api } = await world(t);
  const cases: [args: string[], message: RegExp][] = [
    [['--node-name', ''], /--kube needs --node-name/],
    [['--context', 'nowhere'], /no context "nowhere"/],
    [['--kubeconfig', path.join(api.folder, 'nothing')], /kubeconfig cannot be read/],
    [['--policies', '/tmp'], /cannot be used with/],
  ];
  for (const [args, message] of cases) {
    const agent = launch(...args);
    assert.equal((await agent.ended()).status, 1, args.join(' '));
    assert.match(agent.errors, message);
    assert.doesNotMatch(agent.errors, /\n\s+at /, 'no stack for what a user can mend');
  }
});
