// SPDX-License-Identifier: Apache-2.0
// `postern agent --kube` as a node runs it: an API server over HTTPS, pods as kubelet and a CNI make them, in both cgroup drivers.
// Are they held from their first packet, through edits, with the API server away and back, and with CRDs that come late?
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import path from 'node:path';
import test from 'node:test';
import { parseAllDocuments } from 'yaml';
import type { NodeStatus } from '../../src/agent/node-status.ts';
import { ask } from '../../src/cli/ask.ts';
import { PolicyFolder, TestAgent } from '../support/agent.ts';
import { ApiServer, type JsonObject } from '../support/apiserver/server.ts';
import { connectFromTheStart, type Driver, Kubelet, type KubeObject, type Pod } from '../support/kubelet.ts';
import { cgroupMount, Lab } from '../support/lab.ts';

const NODE = 'node-a';
const SERVER = '198.18.1.1';
/** This process's own. Nothing is sent in it but over loopback. */
const HOST_NETNS = '/proc/self/ns/net';
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
const services = (...units: readonly string[]): KubeObject => ({
  apiVersion: 'postern.dev/v1alpha1',
  kind: 'ClusterEgressPolicy',
  metadata: { name: 'runtime' },
  spec: {
    subject: { nodeServices: { units } },
    egress: [{ to: [{ networks: [`${SERVER}/32`] }], ports: [{ port: 80 }] }],
  },
});
const WEB = { namespace: 'shop', name: 'web', labels: { app: 'web' }, addresses: ['198.18.2.1'] };

interface World {
  readonly lab: Lab;
  readonly api: ApiServer;
  readonly kubelet: Kubelet;
  launch(...args: readonly string[]): TestAgent;
  /**
   * The same, in this cgroup (absolute path), as the first process of a pid namespace: so in a container without hostPID. There it
   * sees that it is in the host's network namespace, which the machine's own first process may hide.
   */
  launchIn(cgroup: string, ...args: readonly string[]): TestAgent;
  readonly socket: string;
  /** The command line of such an agent. */
  agentArguments(...args: readonly string[]): string[];
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
  const all = (args: readonly string[]): string[] => [
    ...['agent', '--kube', '--kubeconfig', api.kubeconfig, '--node-name', NODE, '--cgroup-root', kubelet.root],
    ...['--state-dir', folder.stateDir, '--socket', folder.socket, '--metrics-address', '127.0.0.1:0'],
    ...['--bpffs', folder.bpffs, ...args],
  ];
  const launch = (...args: readonly string[]): TestAgent => {
    const child = spawn(POSTERN, all(args), { stdio: ['ignore', 'pipe', 'pipe'] });
    lab.adopt(child);
    return new TestAgent(child);
  };
  const launchIn = (cgroup: string, ...args: readonly string[]): TestAgent =>
    new TestAgent(
      lab.spawnIn(
        ...([HOST_NETNS, cgroup, 'unshare'] as const),
        ['--pid', '--fork', '--kill-child', '--mount-proc', POSTERN, ...all(args)],
        'pipe',
      ),
    );
  return { lab, api, kubelet, launch, launchIn, socket: folder.socket, agentArguments: (...args) => all(args) };
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
  await agent.line((line) => line.event === 'source_problem' && String(line.kinds).includes('Pod'), from);
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
  await agent.line((line) => line.event === 'source_mended' && String(line.kinds).includes('Pod'), from);
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
  assert.deepEqual(problem.kinds, ['NetworkPolicy']);
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

for (const driver of ['cgroupfs', 'systemd'] as const) {
  test(`${driver}: a root above pods and services holds both; the rest of the node is let alone, and counted`, async (t) => {
    const { lab, api, kubelet, launchIn } = await world(t, { driver });
    api.put(egress(80));
    api.put(services('kubelet.service', 'postern.service'));
    const service = (name: string, address: string) =>
      lab.workload(name, { addresses: [address], cgroup: `system.slice/${name}.service` });
    const unit = await service('kubelet', '198.18.3.1');
    // A container that is no pod, as a build runs it: in a namespace of its own.
    const build = await service('docker', '198.18.3.2');
    const sshd = lab.placeIn(HOST_NETNS, lab.cgroup('system.slice/sshd.service'));
    const port = await sshd.actor.listen('TCP', '127.0.0.1', 0);

    const home = lab.cgroup('system.slice/postern.service');
    const agent = launchIn(home, '--cgroup-root', lab.root);
    const waiting = await agent.line((line) => line.event === 'waiting');
    assert.match(String(waiting.for), /kubepods.* below /);
    kubelet.makeRoot();
    await agent.line((line) => line.event === 'ready');
    assert.equal(await unit.actor.tryTcp(SERVER, 80), 'ok');
    assert.equal(await unit.actor.tryTcp(SERVER, 81), 'EPERM');

    const web = await kubelet.run(WEB);
    await agent.line((line) => JSON.stringify(line.bound) === '["shop/web"]');
    assert.equal(await web.place.actor.tryTcp(SERVER, 80), 'ok');
    assert.equal(await web.place.actor.tryTcp(SERVER, 81), 'EPERM');

    // Nobody can tell the agent of these: a pod, and a static pod as a control plane's, in the host's namespace.
    const stranger = kubelet.plan({ ...WEB, name: 'stranger', addresses: ['198.18.2.2'] });
    stranger.makeCgroup();
    assert.equal(await (await stranger.makeNetwork()).actor.tryTcp(SERVER, 80), 'EPERM');
    const controlPlane = kubelet.plan({ ...WEB, name: 'apiserver', addresses: [], hostNetwork: true });
    const apiserver = lab.placeIn(HOST_NETNS, controlPlane.makeCgroup());

    const passed = async (reason: string, workload = 'unknown') =>
      [...(await agent.metrics())]
        .filter(([series]) => series.startsWith(`postern_forward_count_total{workload="${workload}"`))
        .filter(([series]) => series.includes(`reason="${reason}"`))
        .reduce((sum, [, count]) => sum + count, 0);
    for (const place of [sshd, apiserver]) {
      const before = await passed('unknown_host');
      assert.equal(await place.actor.tryTcp('127.0.0.1', port), 'ok');
      assert.ok((await passed('unknown_host')) > before);
    }
    const before = await passed('unknown_host');
    assert.equal(await build.actor.tryTcp(SERVER, 81), 'ok');
    assert.ok((await passed('unknown_host')) > before);

    const own = await agent.line((line) => line.code === 'unit_is_agent');
    assert.equal(own.object, 'ClusterEgressPolicy/runtime');
    assert.ok((await passed('loopback', 'postern')) > 0, 'it talks to its API server, and no policy has a say in that');
    // unshare passes no signal on.
    for (const pid of readFileSync(path.join(home, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean))
      process.kill(Number(pid), 'SIGTERM');
    assert.equal((await agent.ended()).status, 0, agent.errors);
    assert.equal(await unit.actor.tryTcp(SERVER, 81), 'EPERM', 'what is pinned outlives it');
  });
}

/**
 * A node of its own, the lab's outside, as a DaemonSet with hostPID sees it: one pid namespace, whose first process is in the node's network
 * namespace, for all that is started here.
 */
class NodeProcesses {
  readonly #lab: Lab;
  readonly #first: string;

  private constructor(lab: Lab, first: string) {
    this.#lab = lab;
    this.#first = first;
  }

  static async start(lab: Lab): Promise<NodeProcesses> {
    const script = ['--pid', '--fork', '--kill-child', '--mount-proc', 'sh', '-c', 'echo up; exec sleep infinity'];
    const unshare = lab.outside.spawn('unshare', script);
    await once(unshare.stdout ?? unshare, 'data');
    const children = readFileSync(`/proc/${unshare.pid}/task/${unshare.pid}/children`, 'utf8').trim();
    assert.match(children, /^\d+$/);
    return new NodeProcesses(lab, children);
  }

  spawn(netns: string, cgroup: string, command: string, ...args: readonly string[]): ChildProcess {
    const enter = ['--target', this.#first, '--pid', '--mount', '--', command, ...args];
    return this.#lab.spawnIn(netns, cgroup, 'nsenter', enter, 'pipe');
  }
}

const commandLine = (pid: string) => readFileSync(`/proc/${pid}/cmdline`, 'latin1');

for (const driver of ['cgroupfs', 'systemd'] as const) {
  test(`${driver}: with guards on, an API server that is a static pod of this very node may change: nobody is needed to know it`, async (t) => {
    const { lab, api, kubelet, agentArguments, socket } = await world(t, { driver });
    const node = await NodeProcesses.start(lab);
    kubelet.makeRoot();
    // Every pod of the namespace, those in the host's network too.
    const all = (port: number): KubeObject => {
      const policy = egress(port);
      return { ...policy, spec: { ...(policy.spec as object), podSelector: {}, hostNetwork: 'Include' } };
    };
    api.put(all(80));

    // The API server proper is this process; on the node, what answers at its address is the static pod's.
    const door = path.join(api.folder, 'door');
    const { port } = new URL(api.url);
    const served = createServer((client) => {
      const server = connect(Number(port), '127.0.0.1');
      for (const [one, other] of [
        [client, server],
        [server, client],
      ] as const)
        one.on('error', () => other.destroy()).pipe(other);
    }).listen(door);
    await once(served, 'listening');
    t.after(() => served.close());
    const relay = `require('node:net').createServer((client) => {
      const server = require('node:net').connect('${door}');
      client.on('error', () => server.destroy()).pipe(server);
      server.on('error', () => client.destroy()).pipe(client);
    }).listen(${port}, '127.0.0.1', () => console.log('up'))`;
    const manifest = { ...WEB, namespace: 'kube-system', name: 'kube-apiserver', addresses: [], hostNetwork: true };
    const runServer = async (): Promise<Pod> => {
      // Its uid is kubelet's hash of the manifest: another each time.
      const pod = kubelet.plan(manifest);
      pod.makeCgroup();
      const { netns, cgroup } = await pod.makeNetwork();
      await once(node.spawn(netns, cgroup ?? '', process.execPath, '-e', relay).stdout ?? served, 'data');
      return pod;
    };
    const first = await runServer();
    await first.announce();

    const own = kubelet.plan({ ...WEB, name: 'postern', addresses: [], hostNetwork: true });
    own.makeCgroup();
    const { netns, cgroup } = await own.makeNetwork();
    await own.report();
    const home = cgroup ?? '';
    const agent = new TestAgent(node.spawn(netns, home, POSTERN, ...agentArguments()));
    await agent.line((line) => line.event === 'ready');
    const web = await kubelet.run(WEB);
    node.spawn(web.place.netns, web.place.cgroup ?? '', 'sleep', 'infinity');
    await agent.line((line) => line.event === 'guarded' && JSON.stringify(line.workloads) === '["shop/web"]');
    assert.equal(await web.place.actor.tryTcp(SERVER, 80), 'ok');
    assert.equal(await web.place.actor.tryTcp(SERVER, 81), 'EPERM');
    const stranger = kubelet.plan({ ...WEB, name: 'stranger', addresses: ['198.18.2.2'] });
    stranger.makeCgroup();
    assert.equal(await (await stranger.makeNetwork()).actor.tryTcp(SERVER, 80), 'EPERM', 'the unknown are refused');

    const from = agent.lines.length;
    await lab.removeCgroup(first.place.cgroup ?? '');
    await agent.line((line) => line.event === 'source_problem', from);
    const second = await runServer();
    await agent.line((line) => line.event === 'source_mended', from);
    const applied = await agent.applied(() => void api.put(all(81)));
    assert.deepEqual(applied.changed, ['shop/web'], "and not the agent's own pod, which it selects as well");
    assert.equal(await web.place.actor.tryTcp(SERVER, 81), 'ok');
    await agent.line((line) => line.why === 'host_network' && String(line.workloads).includes(second.uid));
    const series = (
      await lab.outside.exec('curl', ['-sf', String((await agent.line((one) => one.event === 'ready')).metrics)])
    ).stdout;
    assert.match(series, /^postern_forward_count_total\{workload="unknown".*reason="unknown_host"\} [1-9]/m);

    // Now it can be told of, and goes on.
    await agent.applied(() => second.announce());
    await agent.applied(() => void api.put(all(80)));
    assert.equal(await web.place.actor.tryTcp(SERVER, 81), 'EPERM');

    const { guards } = JSON.parse(await ask(socket, '/status')) as NodeStatus;
    const guarded = guards.filter(({ interfaces }) => interfaces.length > 0).map(({ workload }) => workload);
    assert.deepEqual(guarded, ['shop/web']);
    const isOwn = (text: string) => text.includes(own.name) || text.includes(own.uid);
    assert.ok(!guards.some(({ workload }) => isOwn(workload)), 'nobody guards the guard');
    assert.ok(!agent.lines.some(({ bound, changed, workloads }) => isOwn(JSON.stringify([bound, changed, workloads]))));
    assert.equal(await own.place.actor.tryTcp(SERVER, 81), 'ok');
    // nsenter passes no signal on.
    for (const pid of readFileSync(path.join(home, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean))
      if (/--kube/.test(commandLine(pid)) && !/^nsenter/.test(commandLine(pid))) process.kill(Number(pid), 'SIGTERM');
    assert.equal((await agent.ended()).status, 0, agent.errors);
  });
}

test('a unit outside the root: log, condition and Event say which root would hold it', async (t) => {
  const { api, kubelet, launch } = await world(t);
  // A slice of the whole machine, since units are looked for in such.
  const slice = path.join(cgroupMount(), `postern-${process.pid}-900.slice`);
  const unit = `postern-test-${process.pid}.service`;
  mkdirSync(path.join(slice, unit), { recursive: true });
  t.after(() => {
    rmdirSync(path.join(slice, unit));
    rmdirSync(slice);
  });
  kubelet.makeRoot();
  api.put(services(unit));
  const agent = launch();
  const problem = await agent.line((line) => line.event === 'problem');
  const remedy = '--cgroup-root / (helm: --set agent.cgroupRoot=/)';
  assert.deepEqual([problem.code, problem.severity], ['unit_outside_root', 'error']);
  assert.ok(String(problem.advice).includes(remedy), String(problem.advice));
  type Status = { conditions?: { type: string; status: string; reason: string; message: string }[] };
  const programmed = () => {
    const found = api.get('postern.dev/v1alpha1', 'ClusterEgressPolicy', 'runtime');
    return ((found?.status ?? {}) as Status).conditions?.find(({ type }) => type === 'Programmed');
  };
  await api.until(() => programmed()?.reason === 'RefusedByNode');
  assert.equal(programmed()?.status, 'False');
  assert.ok(programmed()?.message.startsWith(`${NODE}: ${unit} has its cgroup at `));
  assert.ok(programmed()?.message.includes(remedy));
  const events = () => api.list('events.k8s.io/v1', 'Event') as unknown as { reason: string; note: string }[];
  await api.until(() => events().some(({ reason, note }) => reason === 'RefusedByNode' && note.includes(remedy)));
  assert.equal(await agent.stop(), 0, agent.errors);
});

test('started while the API server is away, with a token that it then refuses: both are said, and end by themselves', async (t) => {
  const { api, kubelet, launch } = await world(t);
  kubelet.makeRoot();
  api.put(isolated);
  const web = await kubelet.run(WEB);
  const kubeconfig = api.writeKubeconfig({ auth: 'tokenFile' });
  const { users } = JSON.parse(readFileSync(kubeconfig, 'utf8')) as { users: { user: { tokenFile: string } }[] };
  const file = users[0]?.user.tokenFile ?? '';
  const token = readFileSync(file, 'utf8');
  writeFileSync(file, 'expired');
  await api.refuse();
  const agent = launch('--kubeconfig', kubeconfig);
  const away = await agent.line((line) => line.event === 'source_problem' && String(line.kinds).includes('Pod'));
  assert.match(String(away.msg), /^the API server cannot be reached at 127\.0\.0\.1:.*ECONNREFUSED/);
  const waiting = await agent.line((line) => line.event === 'waiting' && String(line.for).includes('Pod'));
  assert.match(String(waiting.for), /^the first list of Namespace, Node, Pod, /);
  assert.equal(await web.place.actor.tryTcp(SERVER, 80), 'ok', 'it was there before');
  const late = kubelet.plan({ ...WEB, name: 'late', addresses: ['198.18.2.2'] });
  late.makeCgroup();
  await late.makeNetwork();
  assert.equal(await late.place.actor.tryTcp(SERVER, 80), 'EPERM', 'nobody knows what it may');

  await api.listen();
  const refused = await agent.line((line) => line.event === 'source_problem' && /401/.test(String(line.msg)));
  assert.match(String(refused.msg), /does not take the credentials \(401\)/);
  assert.ok(!agent.lines.some((line) => line.event === 'ready'));
  writeFileSync(file, token);
  await agent.line((line) => line.event === 'ready');
  assert.equal(await web.place.actor.tryTcp(SERVER, 80), 'EPERM');
  await agent.line((line) => line.event === 'source_mended' && String(line.kinds).includes('Pod'));
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
