// SPDX-License-Identifier: Apache-2.0
// Does an agent hold pods from their first packet, whatever comes late: the root, the first list, the object, the cgroup, the address?
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import pino from 'pino';
import { Agent, type AgentOptions } from '../../src/agent/agent.ts';
import type { Standing } from '../../src/agent/hooks.ts';
import { kubeletRoot, namedRoot } from '../../src/bind/root.ts';
import { loadNative } from '../../src/kernel/native.ts';
import type { Problem } from '../../src/model/objects.ts';
import type { Refusal } from '../../src/tell/refusal.ts';
import { runAsContainer } from '../support/container.ts';
import { FakeCluster } from '../support/fake-cluster.ts';
import { connectFromTheStart, type Driver, Kubelet, type KubeObject } from '../support/kubelet.ts';
import { cgroupMount, Lab } from '../support/lab.ts';

const NODE = 'node-a';
const SERVER = '198.18.1.1';

const namespace = (name: string): KubeObject => ({ apiVersion: 'v1', kind: 'Namespace', metadata: { name } });
const egress = (name: string, ports: readonly number[], more = {}): KubeObject => ({
  apiVersion: 'postern.dev/v1alpha1',
  kind: 'EgressPolicy',
  metadata: { namespace: 'shop', name },
  spec: {
    podSelector: {},
    ...more,
    egress: ports.map((port) => ({ to: [{ networks: [`${SERVER}/32`] }], ports: [{ port }] })),
  },
});

interface Line {
  readonly event: string;
  readonly [field: string]: unknown;
}

class World {
  readonly lab: Lab;
  readonly cluster: FakeCluster;
  readonly kubelet: Kubelet;
  readonly lines: Line[] = [];
  readonly #waiting = new Set<() => void>();

  private constructor(lab: Lab, driver: Driver, isSynced: boolean) {
    this.lab = lab;
    this.cluster = new FakeCluster({ node: NODE, addresses: [], resolvers: [] }, isSynced);
    this.kubelet = new Kubelet(lab, { node: NODE, driver, cluster: this.cluster });
  }

  static async create(t: test.TestContext, driver: Driver = 'cgroupfs', isSynced = true): Promise<World> {
    const lab = await Lab.create();
    t.after(() => lab.close());
    await lab.addOutside(SERVER);
    for (const port of [80, 81]) await lab.outside.actor.listen('TCP', SERVER, port);
    return new World(lab, driver, isSynced);
  }

  /** An agent as --kube starts it. */
  agent(t: test.TestContext, more: Partial<AgentOptions> = {}): Agent {
    const mount = cgroupMount();
    const log = pino({ level: 'info', base: null }, { write: (line: string) => this.#take(JSON.parse(line) as Line) });
    const agent = new Agent(
      {
        root: namedRoot(mount, path.relative(mount, this.kubelet.root)),
        pods: null,
        metrics: { host: '127.0.0.1', port: 0 },
        socket: null,
        unknown: 'deny',
        ownNode: false,
        dnsMinTtlS: 60,
        guard: true,
        confine: 'not',
        nodeName: NODE,
        unscheduled: 'elsewhere',
        attach: 'at_once',
        bpffs: null,
        uninstall: 'postern uninstall',
        checkMs: 0,
        ...more,
      },
      this.cluster,
      loadNative(),
      { log, lost: () => 0, flush: () => Promise.resolve() },
    );
    t.after(() => agent.stop());
    return agent;
  }

  /** The first such line, from `from` on, however late. */
  line(event: string, from = 0): Promise<Line> {
    return this.#find((line) => line.event === event, from);
  }

  /** The kernel holds this pod by its cgroup. */
  async bound(name: string, from = 0): Promise<void> {
    await this.#find((line) => line.event === 'applied' && ((line.bound ?? []) as string[]).includes(name), from);
  }

  async #find(holds: (line: Line) => boolean, from: number): Promise<Line> {
    for (;;) {
      const found = this.lines.slice(from).find(holds);
      if (found !== undefined) return found;
      await new Promise<void>((resolve) => this.#waiting.add(resolve));
    }
  }

  #take(line: Line): void {
    this.lines.push(line);
    for (const wake of this.#waiting) wake();
    this.#waiting.clear();
  }
}

const WEB = { namespace: 'shop', name: 'web', labels: { app: 'web' }, addresses: ['198.18.2.1'] };

for (const driver of ['cgroupfs', 'systemd'] as const) {
  test(`${driver}: a pod is held from its first packet, before its object, its address or anything else is known`, async (t) => {
    const world = await World.create(t, driver);
    world.kubelet.makeRoot();
    world.cluster.put(namespace('shop'));
    world.cluster.put(egress('web', [80]));
    await world.agent(t).start();

    // The object comes while it is already sending: until then it is unknown.
    const web = world.kubelet.plan(WEB);
    web.makeCgroup();
    await web.makeNetwork();
    const forbidden = connectFromTheStart(web.place, SERVER, 81, 300);
    const allowed = connectFromTheStart(web.place, SERVER, 80, 300);
    await web.announce();
    await web.report();
    assert.deepEqual([...new Set(await forbidden)], ['no']);
    const outcomes = (await allowed).join(' ');
    assert.match(outcomes, /^(no )*(ok ?)+$/, 'refused until it is known, then allowed, and never again refused');
    assert.equal(await web.place.actor.tryTcp(SERVER, 80), 'ok');

    // The object first, as the scheduler has it: allowed from the first packet on.
    const second = await world.kubelet.admit({ ...WEB, name: 'web2', addresses: ['198.18.2.2'], qos: 'Guaranteed' });
    second.makeCgroup();
    await second.makeNetwork();
    await world.bound('shop/web2');
    const [first] = await connectFromTheStart(second.place, SERVER, 81, 20);
    assert.equal(first, 'no');
    assert.equal(await second.place.actor.tryTcp(SERVER, 80), 'ok');

    // Removed, and its address is another's, under another policy.
    const from = world.lines.length;
    await web.remove();
    assert.deepEqual((await world.line('applied', from)).unbound, ['shop/web']);
    world.cluster.put(namespace('other'));
    const heir = await world.kubelet.run({ ...WEB, namespace: 'other' });
    await world.bound('other/web', from);
    assert.equal(await heir.place.actor.tryTcp(SERVER, 81), 'ok', 'no policy selects it');
  });
}

for (const driver of ['cgroupfs', 'systemd'] as const) {
  test(`${driver}: a container that is restarted, and a sandbox that is made anew, are the same pod`, async (t) => {
    const world = await World.create(t, driver);
    world.kubelet.makeRoot();
    world.cluster.put(namespace('shop'));
    world.cluster.put(egress('web', [80], { podSelector: { matchLabels: { app: 'web' } } }));
    const toWeb = { pods: { podSelector: { matchLabels: { app: 'web' } } } };
    const client = egress('client', [], { podSelector: { matchLabels: { app: 'client' } } });
    world.cluster.put({ ...client, spec: { ...(client.spec as object), egress: [{ to: [toWeb] }] } });
    await world.agent(t).start();
    const web = await world.kubelet.run(WEB);
    const asking = { namespace: 'shop', name: 'client', labels: { app: 'client' }, addresses: ['198.18.2.2'] };
    const other = await world.kubelet.run(asking);
    await world.bound('shop/client');
    await web.place.actor.listen('TCP', '198.18.2.1', 8080);
    assert.equal(await other.place.actor.tryTcp('198.18.2.1', 8080), 'ok');

    const restarted = await web.restartContainer();
    assert.deepEqual([...new Set(await connectFromTheStart(restarted, SERVER, 81, 50))], ['no']);
    assert.equal(await restarted.actor.tryTcp(SERVER, 80), 'ok');

    const from = world.lines.length;
    const again = await web.remakeSandbox(['198.18.2.3']);
    assert.deepEqual([...new Set(await connectFromTheStart(again, SERVER, 81, 50))], ['no']);
    assert.equal(await again.actor.tryTcp(SERVER, 80), 'ok');
    await again.actor.listen('TCP', '198.18.2.3', 8080);
    assert.equal(await other.place.actor.tryTcp('198.18.2.3', 8080), 'EPERM', 'no object names that address yet');
    await web.report();
    await world.line('applied', from);
    assert.equal(await other.place.actor.tryTcp('198.18.2.3', 8080), 'ok');
    assert.equal(await other.place.actor.tryTcp('198.18.2.1', 8080), 'EPERM', "the address that it had is nobody's");
  });
}

test('a real container in a pod, started by runc as container runtimes do, is held from its first packet', async (t) => {
  const world = await World.create(t);
  world.kubelet.makeRoot();
  world.cluster.put(namespace('shop'));
  world.cluster.put(egress('web', [80]));
  await world.agent(t).start();
  const web = await world.kubelet.run(WEB);
  await world.bound('shop/web');
  const connect = `
    const { once } = require('node:events');
    const outcome = (port) => once(require('node:net').connect(port, '${SERVER}'), 'connect').then(() => 'ok', (error) => error.code);
    outcome(81).then(async (first) => console.log([first, await outcome(80)].join())).then(() => process.exit());`;
  const sandbox = path.relative(cgroupMount(), path.dirname(web.place.cgroup ?? ''));
  const { stdout, stderr } = await runAsContainer(web.place.netns, `${sandbox}/crio-1`, [
    '/usr/bin/node',
    '-e',
    connect,
  ]);
  assert.deepEqual([stdout, stderr], ['EPERM,ok\n', '']);
});

test('pods that exist when it starts go on until the first list is enforced; later ones are unknown until then', async (t) => {
  const world = await World.create(t, 'cgroupfs', false);
  world.kubelet.makeRoot();
  world.cluster.put(namespace('shop'));
  world.cluster.put(egress('web', [80]));
  const old = await world.kubelet.run(WEB);
  assert.equal(await old.place.actor.tryTcp(SERVER, 81), 'ok');
  const kept = await old.place.actor.connect(SERVER, 81);
  const agent = world.agent(t);
  const ready = agent.start();
  assert.equal((await world.line('attached')).existing, 1);
  const late = await world.kubelet.run({ ...WEB, name: 'late', addresses: ['198.18.2.2'] });
  assert.equal(await late.place.actor.tryTcp(SERVER, 80), 'EPERM');
  assert.equal(await old.place.actor.tryTcp(SERVER, 81), 'ok');
  assert.equal(await old.place.actor.exchange(kept.socket ?? 0), 'ok');
  assert.match(String((await world.line('waiting')).for), /first list of Pod/);
  assert.equal(agent.policies().ready, false);

  world.cluster.sync();
  await ready;
  assert.equal(await old.place.actor.tryTcp(SERVER, 81), 'EPERM');
  assert.equal(await old.place.actor.tryTcp(SERVER, 80), 'ok');
  assert.equal(await late.place.actor.tryTcp(SERVER, 80), 'ok');
  assert.notEqual(await old.place.actor.exchange(kept.socket ?? 0, 'x', 10_000), 'ok', 'what is forbidden ends');
});

test('the root is waited for, and held again when it is made anew', async (t) => {
  const world = await World.create(t, 'systemd');
  world.cluster.put(namespace('shop'));
  world.cluster.put(egress('web', [80]));
  const agent = world.agent(t);
  const ready = agent.start();
  assert.match(String((await world.line('waiting')).for), /kubepods\.slice/);
  world.kubelet.makeRoot();
  await ready;
  const web = await world.kubelet.run(WEB);
  await world.bound('shop/web');
  assert.equal(await web.place.actor.tryTcp(SERVER, 81), 'EPERM');
  await web.remove();

  await world.lab.removeCgroup(world.kubelet.root);
  await world.line('root_gone');
  const from = world.lines.length;
  world.kubelet.makeRoot();
  await world.line('ready', from);
  const again = await world.kubelet.run({ ...WEB, name: 'again' });
  await world.bound('shop/again', from);
  assert.equal(await again.place.actor.tryTcp(SERVER, 81), 'EPERM');
  assert.equal(await again.place.actor.tryTcp(SERVER, 80), 'ok');
});

test("kubelet's other driver makes another root, and what it makes there is held", async (t) => {
  const world = await World.create(t, 'cgroupfs');
  world.cluster.put(namespace('shop'));
  world.cluster.put(egress('web', [80]));
  world.kubelet.makeRoot();
  const below = kubeletRoot(world.lab.root);
  const find = () => {
    const found = below.find();
    return found === null ? null : path.join(world.lab.name, found);
  };
  await world.agent(t, { root: { mount: cgroupMount(), what: below.what, find } }).start();
  const from = world.lines.length;
  const other = new Kubelet(world.lab, { node: NODE, driver: 'systemd', cluster: world.cluster });
  const web = await other.run(WEB);
  // Only where something runs is it the one.
  web.place.newActor();
  assert.equal((await world.line('root_gone', from)).root, world.kubelet.root);
  assert.equal((await world.line('ready', from)).root, other.root);
  assert.equal(await web.place.actor.tryTcp(SERVER, 81), 'EPERM');
  assert.equal(await web.place.actor.tryTcp(SERVER, 80), 'ok');
});

test('below a wider root, too: what is outside the pods is let alone before and after, and a new pod is refused', async (t) => {
  const world = await World.create(t, 'cgroupfs');
  world.cluster.put(namespace('shop'));
  const root = namedRoot(cgroupMount(), world.lab.name);
  const agent = world.agent(t, { root, pods: kubeletRoot(cgroupMount(), world.lab.name) });
  const starting = agent.start();
  assert.match(String((await world.line('waiting')).for), /^kubelet's cgroup/);
  world.kubelet.makeRoot();
  await starting;
  const build = await world.lab.workload('build', { addresses: ['198.18.2.9'], cgroup: 'system.slice/docker-1.scope' });
  assert.equal(await build.actor.tryTcp(SERVER, 81), 'ok');
  const from = world.lines.length;
  const other = new Kubelet(world.lab, { node: NODE, driver: 'systemd', cluster: world.cluster });
  other.makeRoot();
  await world.lab.removeCgroup(world.kubelet.root);
  await world.line('root_gone', from);
  await world.line('ready', from);
  const stranger = other.plan({ ...WEB, name: 'stranger' });
  stranger.makeCgroup();
  assert.equal(await (await stranger.makeNetwork()).actor.tryTcp(SERVER, 80), 'EPERM');
  assert.equal(await build.actor.tryTcp(SERVER, 81), 'ok');
});

test("a static pod's mirror stands for the cgroup that kubelet named by the manifest", async (t) => {
  const world = await World.create(t);
  world.kubelet.makeRoot();
  world.cluster.put(namespace('shop'));
  world.cluster.put(egress('web', [80]));
  await world.agent(t).start();
  const hash = 'aaaabbbbccccddddeeeeffff00001111';
  const pod = world.kubelet.plan({ ...WEB, name: 'static' }, hash);
  pod.makeCgroup();
  await pod.makeNetwork();
  assert.equal(await pod.place.actor.tryTcp(SERVER, 80), 'EPERM', 'its mirror is not there yet');
  const { metadata, ...object } = pod.object;
  const annotations = { 'kubernetes.io/config.mirror': hash };
  world.cluster.put({ ...object, metadata: { ...metadata, uid: 'another', annotations } });
  await world.bound('shop/static');
  assert.equal(await pod.place.actor.tryTcp(SERVER, 80), 'ok');
  assert.equal(await pod.place.actor.tryTcp(SERVER, 81), 'EPERM');
});

test('pods of other nodes, and such as no node is named for, are peers alone', async (t) => {
  const world = await World.create(t);
  world.kubelet.makeRoot();
  world.cluster.put(namespace('shop'));
  world.cluster.put(egress('web', [80]));
  const elsewhere = new Kubelet(world.lab, { node: 'node-b', driver: 'cgroupfs', cluster: world.cluster });
  const far = await elsewhere.admit({ ...WEB, name: 'far', addresses: ['198.18.2.8'] });
  const standings: Standing[] = [];
  await world.agent(t, { hooks: { onApplied: (standing) => standings.push(standing) } }).start();
  await world.kubelet.run(WEB);
  await world.bound('shop/web');
  const last = standings.at(-1) ?? assert.fail();
  assert.deepEqual([...last.bindings.keys()], ['shop/web']);
  assert.deepEqual([...last.compiled.tables.workloads.keys()], ['shop/web']);
  assert.equal(last.wanted, last.enforced);
  assert.ok(last.wanted.pods.some(({ name }) => name === far.spec.name));
});

test('a first snapshot in which nine Limits hold a pod closes that pod; hooks hear of it', async (t) => {
  const world = await World.create(t);
  world.kubelet.makeRoot();
  world.cluster.put(namespace('shop'));
  for (let index = 0; index < 9; index += 1) world.cluster.put(egress(`limit${index}`, [80], { effect: 'Limit' }));
  const web = await world.kubelet.run(WEB);
  const problems: [string, Problem][] = [];
  const drops: [Refusal, number][] = [];
  const agent = world.agent(t, {
    hooks: {
      onProblem: (event, problem) => problems.push([event, problem]),
      onDrop: (refusal, count) => drops.push([refusal, count]),
    },
  });
  await agent.start();
  assert.equal(agent.policies().ready, true);
  assert.match(
    agent.policies().policies.find(({ name }) => name === 'limit8')?.problem ?? '',
    /shop\/web.* 8: .*merge/,
  );
  assert.equal(await web.place.actor.tryTcp(SERVER, 80), 'EPERM');
  world.cluster.delete(egress('limit8', [80]));
  await world.line('mended');
  assert.equal(await web.place.actor.tryTcp(SERVER, 81), 'EPERM');
  assert.equal(await web.place.actor.tryTcp(SERVER, 80), 'ok');
  await world.line('drop');
  assert.deepEqual(
    problems.map(([event, { code, object }]) => [event, code, object]),
    [
      ['problem', 'limit_exceeded', 'Pod/shop/web'],
      ['problem', 'limit_exceeded', 'EgressPolicy/shop/limit8'],
      ['mended', 'limit_exceeded', 'Pod/shop/web'],
      ['mended', 'limit_exceeded', 'EgressPolicy/shop/limit8'],
    ],
  );
  const [first] = drops[0] ?? [];
  assert.deepEqual([first?.workload, first?.port, first?.verdict, first?.reason], ['shop/web', 80, 'deny', 'limit']);
});

test('its own pod is never held: not while it is unknown, and by no policy', async (t) => {
  const world = await World.create(t);
  world.kubelet.makeRoot();
  world.cluster.put(namespace('shop'));
  world.cluster.put(egress('all', [], { hostNetwork: 'Include' }));
  const own = await world.kubelet.run({ ...WEB, name: 'postern', addresses: [], hostNetwork: true });
  const home = path.join(cgroupMount(), /^0::(.*)$/m.exec(readFileSync('/proc/self/cgroup', 'utf8'))?.[1] ?? '');
  const moveTo = (folder: string) => writeFileSync(path.join(folder, 'cgroup.procs'), String(process.pid));
  moveTo(own.place.cgroup ?? '');
  try {
    const agent = world.agent(t);
    await agent.start();
    // In the outside's namespace, which is not the host's: nothing but its binding lets it pass.
    assert.equal(await own.place.actor.tryTcp(SERVER, 81), 'ok');
    await world.kubelet.run({ ...WEB, name: 'web' });
    await world.bound('shop/web');
    assert.equal(await own.place.actor.tryTcp(SERVER, 81), 'ok');
    assert.deepEqual(agent.policies().policies[0]?.workloads, [{ name: 'shop/web', bound: true }]);
  } finally {
    // Before the lab kills what is in there.
    moveTo(home);
  }
});
