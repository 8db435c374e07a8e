// SPDX-License-Identifier: Apache-2.0
// Are guards where they should be? The agent in a node of its own, pods as kubelet and CNIs make them, and the kernel asked what is attached.
import assert from 'node:assert/strict';
import path from 'node:path';
import test, { afterEach, beforeEach } from 'node:test';
import type { NodeStatus } from '../../src/agent/node-status.ts';
import type { Interface } from '../../src/kernel/native.ts';
import { launchAgentIn, PolicyFolder, type TestAgent } from '../support/agent.ts';
import { Elsewhere } from '../support/elsewhere.ts';
import { type ClusterObjects, Kubelet, type KubeObject, type Pod, type PodSpec } from '../support/kubelet.ts';
import { Lab, type Place } from '../support/lab.ts';

const POSTERN = path.join(import.meta.dirname, '../../bin/postern');
const STUB = path.join(import.meta.dirname, '../../build/test/native/stub.bpf.o');
const SERVER = '198.18.200.1';
const SERVER6 = 'fd00::200:1';
const ALLOWED = 80;

/** A node: the lab's outside. Its kubelet's objects are files. */
class Node implements ClusterObjects {
  readonly lab: Lab;
  readonly folder = new PolicyFolder();
  readonly kubelet: Kubelet;
  readonly kernel: Elsewhere;
  agent: TestAgent | null = null;

  constructor(lab: Lab) {
    this.lab = lab;
    this.kubelet = new Kubelet(lab, { node: 'a', driver: 'cgroupfs', cluster: this });
    this.kernel = new Elsewhere(lab.outside.netns);
    lab.adopt(this.kernel.child);
    this.put({
      ...{ apiVersion: 'networking.k8s.io/v1', kind: 'NetworkPolicy', metadata: { namespace: 'shop', name: 'all' } },
      spec: {
        podSelector: {},
        policyTypes: ['Egress'],
        egress: [{ to: [{ ipBlock: { cidr: '198.18.200.0/24' } }, { ipBlock: { cidr: 'fd00::200:0/112' } }] }],
      },
    });
  }

  put(object: KubeObject): void {
    this.folder.write(this.#file(object), JSON.stringify(object));
  }

  delete(object: KubeObject): void {
    this.folder.remove(this.#file(object));
  }

  #file({ kind, metadata: { namespace = '', name } }: KubeObject): string {
    return `${kind}.${namespace}.${name}.json`;
  }

  async start(...args: readonly string[]): Promise<TestAgent> {
    this.kubelet.makeRoot();
    const agent = launchAgentIn(
      { netns: this.lab.outside.netns, root: this.kubelet.root },
      this.lab,
      this.folder,
      ...args,
    );
    this.agent = agent;
    await agent.line(({ event }) => event === 'ready');
    return agent;
  }

  /** A pod with a process in it, as it is after a second or so. */
  async run(name: string, spec: Partial<PodSpec> = {}): Promise<{ readonly pod: Pod; readonly place: Place }> {
    const pod = await this.kubelet.run({ namespace: 'shop', name, addresses: [], ...spec });
    const { place } = pod;
    assert.equal(await place.actor.received(), 0);
    return { pod, place };
  }

  async interface(name: string): Promise<Interface> {
    const found = (await this.kernel.native('interfaces', null)).find((one) => one.name === name);
    assert(found !== undefined, `no interface ${name}`);
    return found;
  }

  /** Programs at an interface of the node: from the pod, to the pod. */
  async guardsAt(name: string): Promise<readonly [number, number]> {
    const { ifindex } = await this.interface(name);
    return [
      (await this.kernel.native('tcxChain', ifindex, 'ingress')).length,
      (await this.kernel.native('tcxChain', ifindex, 'egress')).length,
    ];
  }

  async guarded(pod: Pod, from = 0): Promise<readonly string[]> {
    assert(this.agent !== null);
    const line = await this.agent.line(
      ({ event, workloads }) => event === 'guarded' && (workloads as string[]).includes(pod.name),
      from,
    );
    return line.interfaces as string[];
  }

  async unguarded(pod: Pod): Promise<unknown> {
    assert(this.agent !== null);
    const line = await this.agent.line(
      ({ event, workloads }) => event === 'unguarded' && (workloads as string[]).includes(pod.name),
    );
    return line.why;
  }

  async metrics(): Promise<ReadonlyMap<string, number>> {
    assert(this.agent !== null);
    const { metrics } = await this.agent.line(({ event }) => event === 'ready');
    const { stdout } = await this.lab.outside.exec('curl', ['-sf', String(metrics)]);
    const lines = stdout.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
    return new Map(
      lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]),
    );
  }
}

async function sh(place: Place, script: string): Promise<void> {
  const { status, stderr } = await place.exec('sh', ['-c', script]);
  assert.equal(status, 0, stderr);
}

/** Looks again until it holds; a minute is far longer than anything takes. */
async function until(holds: () => Promise<boolean>, what: string): Promise<void> {
  for (let turn = 0; turn < 1200; turn += 1) {
    if (await holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.fail(what);
}

/** A connection from one of the pod's addresses: `ok`, or how it failed. */
async function connectFrom(place: Place, source: string, destination: string): Promise<string> {
  const script = `
    const socket = require('node:net').connect({ host: '${destination}', port: ${ALLOWED}, localAddress: '${source}' });
    const end = (text) => { console.log(text); process.exit(); };
    socket.on('connect', () => end('ok')).on('error', ({ code }) => end(code));
    setTimeout(() => end('timeout'), 1000);`;
  return (await place.exec(process.execPath, ['-e', script])).stdout.trim();
}

/** What is started meanwhile inherits it. */
async function withEnvironment<T>(name: string, value: string, run: () => Promise<T>): Promise<T> {
  const before = process.env[name];
  process.env[name] = value;
  try {
    return await run();
  } finally {
    if (before === undefined) delete process.env[name];
    else process.env[name] = before;
  }
}

let node: Node;

beforeEach(async () => {
  const lab = await Lab.create();
  try {
    await lab.addOutside(SERVER, SERVER6);
    for (const address of [SERVER, SERVER6]) await lab.outside.actor.listen('TCP', address, ALLOWED);
    node = new Node(lab);
  } catch (error) {
    await lab.close();
    throw error;
  }
});
afterEach(async () => {
  await node.lab.close();
  node.folder.close();
});

for (const [index, cni] of (['routed', 'bridge', 'calico'] as const).entries()) {
  test(`${cni}: guarded from outside, in whichever order pod and agent come; only its own addresses get out`, async () => {
    const addresses = [`198.18.1.${index + 1}`, `fd00::1:${index + 1}`];
    const before = await node.run('before', { addresses, cni });
    const agent = await node.start();
    const [first] = await node.guarded(before.pod);
    assert.deepEqual(await node.guardsAt(first ?? ''), [1, 1]);
    const later = await node.run('later', { addresses: addresses.map((one) => `${one}0`), cni });
    const interfaces = await node.guarded(later.pod);
    assert.equal(interfaces.length, 1);
    assert.deepEqual(await node.guardsAt(interfaces[0] ?? ''), [1, 1]);

    for (const { place } of [before, later]) {
      assert.equal(await place.actor.tryTcp(SERVER, ALLOWED), 'ok');
      assert.equal(await place.actor.tryTcp(SERVER6, ALLOWED), 'ok');
      assert.equal(await place.actor.tryTcp(SERVER, 81), 'ECONNREFUSED', 'allowed, and nobody there');
      assert.equal(await place.actor.tryTcp('198.18.201.1', ALLOWED), 'EPERM');
    }
    await sh(later.place, 'ip addr add 198.18.7.7/32 dev eth0 && ip addr add fd00::7:7/128 dev eth0 nodad');
    await node.lab.ip(null, [`route add 198.18.7.7/32 dev ${interfaces[0]}`]);
    assert.equal(await connectFrom(later.place, `198.18.1.${index + 1}0`, SERVER), 'ok');
    assert.equal(await connectFrom(later.place, '198.18.7.7', SERVER), 'timeout');
    assert.equal(await connectFrom(later.place, 'fd00::7:7', SERVER6), 'timeout');
    await agent.line(({ event, reason }) => event === 'drop' && reason === 'spoofed_source');

    const metrics = await node.metrics();
    assert.equal(metrics.get('postern_guards{mode="tcx"}'), 2);
    assert.equal(metrics.get('postern_pod_guard_seconds_count'), 1, 'of the one that came later');
    assert.equal(metrics.get('postern_pod_unknown_seconds_count'), 1);
    assert.equal(metrics.get('postern_map_entries{map="guards"}'), 2);
    assert(!metrics.has('postern_workloads_without_guard{why="no_interface"}'));

    await later.pod.remove();
    await until(async () => (await node.metrics()).get('postern_guards{mode="tcx"}') === 1, 'its guard is forgotten');
    const { ifindex } = await node.interface(first ?? '');
    const [program] = await node.kernel.native('tcxChain', ifindex, 'ingress');
    assert.equal(await agent.stop(), 0);
    assert.deepEqual(await node.guardsAt(first ?? ''), [1, 1], 'it outlives the agent');
    assert.equal(await connectFrom(before.place, `198.18.1.${index + 1}`, SERVER), 'ok');
    assert.equal(await before.place.actor.tryTcp('198.18.201.1', ALLOWED), 'EPERM');

    const next = await node.start();
    await node.guarded(before.pod);
    assert.deepEqual(await node.kernel.native('tcxChain', ifindex, 'ingress'), [program], 'the same, taken over');
    assert.equal(await next.stop(), 0);
    const last = await node.start('--no-guard');
    await until(async () => (await node.guardsAt(first ?? '')).join() === '0,0', 'nothing is left');
    assert.equal(await last.stop(), 0);
  });
}

test('inbound connections and datagrams of a guarded pod are answered', async () => {
  await node.start();
  const { pod, place } = await node.run('web', { addresses: ['198.18.1.1', 'fd00::1:1'] });
  await node.guarded(pod);
  for (const address of ['198.18.1.1', 'fd00::1:1']) {
    await place.actor.listen('TCP', address, 8080);
    await place.actor.listen('UDP', address, 8080);
  }
  // The node itself is no destination that its policy allows.
  assert.equal(await place.actor.tryUdp('198.18.0.1', 53), 'EPERM');
  for (const address of ['198.18.1.1', 'fd00::1:1']) {
    assert.equal(await node.lab.outside.actor.tryTcp(address, 8080), 'ok');
    assert.equal(await node.lab.outside.actor.tryUdp(address, 8080), 'ok');
  }
});

test('several interfaces: each has a guard, and the second its own addresses', async () => {
  await node.start();
  const { pod, place } = await node.run('many', { addresses: ['198.18.1.1'], cni: 'several' });
  const interfaces = await node.guarded(pod);
  assert.equal(interfaces.length, 2);
  for (const name of interfaces) assert.deepEqual(await node.guardsAt(name), [1, 1]);
  assert.equal(await place.actor.tryTcp(SERVER, ALLOWED), 'ok');
  // What it has two seconds after the first was seen is what a CNI gave it.
  await new Promise((resolve) => setTimeout(resolve, 2500));
  // By the second one to a server that policy allows: only the address that it began with.
  await sh(place, 'ip route add 198.18.200.9/32 dev net1 && ip addr add 198.19.99.9/32 dev net1');
  const second = interfaces.find((name) => name.startsWith('second')) ?? '';
  await node.lab.ip(null, [`addr add 198.18.200.9/32 dev ${second}`, `route add 198.19.99.9/32 dev ${second}`]);
  await node.lab.outside.actor.listen('TCP', '198.18.200.9', ALLOWED);
  const { stdout } = await place.exec('sh', ['-c', "ip -4 -o addr show dev net1 | grep -o '198.19.[0-9.]*/24'"]);
  assert.equal(await connectFrom(place, stdout.trim().replace('/24', ''), '198.18.200.9'), 'ok');
  assert.equal(await connectFrom(place, '198.19.99.9', '198.18.200.9'), 'timeout');
});

test('what has no end on the host is said, held by its cgroup alone, and counted', async () => {
  const agent = await node.start();
  const mac = await node.run('mac', { addresses: ['198.18.1.1'], cni: 'macvlan' });
  const host = await node.run('host', { hostNetwork: true });
  const bare = await node.run('bare', { cni: 'none' });
  const beside = await node.run('beside', { addresses: ['198.18.1.2'], cni: 'beside_macvlan' });
  assert.equal(await node.unguarded(mac.pod), 'macvlan');
  assert.equal(await node.unguarded(host.pod), 'host_network');
  assert.equal(await node.unguarded(bare.pod), 'no_interface');
  assert.equal(await node.unguarded(beside.pod), 'macvlan');
  const metrics = await node.metrics();
  assert.equal(metrics.get('postern_workloads_without_guard{why="macvlan"}'), 2);
  assert.equal(metrics.get('postern_workloads_without_guard{why="host_network"}'), 1);
  assert.equal(metrics.get('postern_workloads_without_guard{why="no_interface"}'), 1);
  assert.equal(metrics.get('postern_guards{mode="tcx"}'), 1, 'of the veth beside the macvlan');
  assert.equal(await mac.place.actor.tryTcp('198.18.201.1', ALLOWED), 'EPERM');
  // Its notes are ingress's, since not every way in is the guard's.
  await beside.place.actor.listen('UDP', '198.18.1.2', 8080);
  assert.equal(await beside.place.actor.tryTcp(SERVER, ALLOWED), 'ok');
  assert.equal(await node.lab.outside.actor.tryUdp('198.18.1.2', 8080), 'ok');
  assert.equal(
    agent.lines.filter(({ event, why }) => event === 'unguarded' && why === 'macvlan').length,
    2,
    'once each',
  );
});

test('an interface that is renamed, exchanged under its index, or moved by the workload stays guarded', async () => {
  const agent = await node.start();
  const { pod, place } = await node.run('web', { addresses: ['198.18.1.1'] });
  const [name] = await node.guarded(pod);
  await node.lab.ip(null, [`link set ${name} name renamed`]);
  assert.deepEqual(await node.guardsAt('renamed'), [1, 1]);

  // By a process of its own, into a namespace that no process is seen in: what leaves from there is judged.
  const inner = await node.lab.namespace('inner');
  await sh(
    place,
    `ip link set eth0 netns ${inner} && ip -n ${inner} addr add 198.18.1.1/32 dev eth0 && ip -n ${inner} link set eth0 up`,
  );
  await node.lab.ip(inner, ['route add 198.18.0.1/32 dev eth0', 'route add 198.18.0.0/15 via 198.18.0.1']);
  await node.lab.ip(null, ['route replace 198.18.1.1/32 dev renamed']);
  const nested = node.lab.placeIn(`/run/netns/${inner}`, place.cgroup ?? '');
  assert.deepEqual(await node.guardsAt('renamed'), [1, 1]);
  assert.equal(await nested.actor.tryTcp(SERVER, ALLOWED), 'ok');
  await node.lab.addOutside('198.18.201.1');
  await node.lab.outside.actor.listen('TCP', '198.18.201.1', ALLOWED);
  // Out of the cgroup, where no program but the guard sees it.
  const stray = node.lab.spawnIn(
    `/run/netns/${inner}`,
    null,
    'bash',
    ['-c', 'exec 3<>/dev/tcp/198.18.201.1/80'],
    'ignore',
  );
  await agent.line(({ event, address }) => event === 'drop' && address === '198.18.201.1');
  stray.kill('SIGKILL');

  // The same index, another interface.
  const before = agent.lines.length;
  const { ifindex } = await node.interface('renamed');
  const sandbox = path.basename(place.netns);
  await node.lab.ip(null, [
    'link del renamed',
    `link add anew index ${ifindex} type veth peer name eth0 netns ${sandbox}`,
    'link set anew up',
    'addr add 198.18.0.1/32 dev anew',
  ]);
  await node.lab.ip(sandbox, ['addr add 198.18.1.1/32 dev eth0', 'link set eth0 up']);
  await until(async () => (await node.guardsAt('anew')).join() === '1,1', 'the new one is guarded');
  assert(!agent.lines.slice(before).some(({ event }) => event === 'guard_lost'), 'nobody took one away');
});

test('a guard that somebody takes away is put there again, and told', async () => {
  const agent = await node.start();
  const { pod } = await node.run('web', { addresses: ['198.18.1.1'] });
  const [name = ''] = await node.guarded(pod);
  const { ifindex } = await node.interface(name);
  const [program] = await node.kernel.native('tcxChain', ifindex, 'ingress');
  const { stdout } = await node.lab.outside.exec('bpftool', ['link', 'show', '-j']);
  const link = (JSON.parse(stdout) as { id: number; prog_id: number }[]).find(({ prog_id }) => prog_id === program);
  assert(link !== undefined, stdout);
  await sh(node.lab.outside, `bpftool link detach id ${link.id}`);
  const lost = await agent.line(({ event }) => event === 'guard_lost');
  assert.equal(lost.workload, 'shop/web');
  assert.equal(lost.interface, name);
  await until(async () => (await node.guardsAt(name)).join() === '1,1', 'it is there again');
});

test('what somebody else does to guards is told by status, put right, and counted', async () => {
  const agent = await node.start('--check-interval', '1');
  const { pod } = await node.run('web', { addresses: ['198.18.1.1'] });
  await node.run('host', { hostNetwork: true });
  const [name = ''] = await node.guarded(pod);
  const { ifindex } = await node.interface(name);
  const { socket, bpffs } = node.folder;
  const status = async () => {
    const { stdout, stderr } = await node.lab.outside.exec(POSTERN, ['status', '--socket', socket, '-o', 'json']);
    assert.equal(stderr, '');
    return JSON.parse(stdout) as NodeStatus;
  };
  const guardOf = async (workload: string) => (await status()).guards.find((one) => one.workload === workload);
  await until(async () => (await guardOf('shop/host'))?.situation === 'host_network', 'why there is none is told');
  const guarded = await guardOf('shop/web');
  const since = guarded?.interfaces[0]?.since ?? '';
  assert.deepEqual(guarded, {
    ...{ workload: 'shop/web', situation: 'guarded', interfaces: [{ name, mode: 'tcx', since, first: true }] },
  });
  assert(Math.abs(Date.parse(since) - Date.now()) < 3_600_000, since);

  const repaired = async (what: string, told: string, change: () => Promise<unknown>): Promise<void> => {
    const from = agent.lines.length;
    await change();
    await agent.line((line) => line.event === 'drift' && line.what === what && line.name === told, from);
  };
  const pin = `guards/${ifindex}-in`;
  await repaired('pin', pin, () => sh(node.lab.outside, `rm ${bpffs}/${pin}`));
  const chain = () => node.kernel.native('tcxChain', ifindex, 'ingress');
  const [program] = await chain();
  const { stdout } = await node.lab.outside.exec('bpftool', ['link', 'show', '-j']);
  const link = (JSON.parse(stdout) as { id: number; prog_id: number }[]).find(({ prog_id }) => prog_id === program);
  await repaired('guard', name, () => sh(node.lab.outside, `bpftool link detach id ${link?.id}`));
  await until(async () => (await chain())[0] === program, 'it is there again');

  await node.kernel.load(STUB);
  for (let turn = 0; turn < 3; turn += 1) {
    await repaired('order', name, () => node.kernel.object('attachTcx', 'pass_on', ifindex, 'ingress'));
    await until(async () => (await chain())[0] === program, 'it is before the other again');
    await node.kernel.load(STUB);
  }
  await node.kernel.object('attachTcx', 'pass_on', ifindex, 'ingress');
  const left = await agent.line(({ event, level }) => event === 'guard_overtaken' && level === 'error');
  assert.equal(left.interface, name);
  assert.notEqual((await chain())[0], program, 'who insists is told of, and let be');
  assert.equal((await guardOf('shop/web'))?.interfaces[0]?.first, false);
  const metrics = await node.metrics();
  for (const [what, count] of [
    ['pin', 1],
    ['guard', 1],
    ['order', 3],
    ['link', 0],
  ] as const) {
    assert.equal(metrics.get(`postern_drift_total{what="${what}"}`), count, what);
  }
});

test('--no-guard that is stopped amid it leaves each pod held, and the next agent puts all guards up again', async () => {
  const agent = await node.start();
  const pods = [];
  for (let index = 1; index <= 4; index += 1)
    pods.push(await node.run(`web${index}`, { addresses: [`198.18.1.${index}`] }));
  const names: string[] = [];
  for (const { pod } of pods) names.push(...(await node.guarded(pod)));
  assert.equal(await agent.stop(), 0);
  const without = await node.start('--no-guard');
  assert.equal(await without.stop(), 0, without.errors);
  assert.equal(without.errors, '');
  for (const { place } of pods) {
    assert.equal(await place.actor.tryTcp('198.18.201.1', ALLOWED), 'EPERM');
    assert.equal(await place.actor.tryTcp(SERVER, ALLOWED), 'ok');
  }
  await node.start();
  for (const name of names) await until(async () => (await node.guardsAt(name)).join() === '1,1', `${name} is guarded`);
  for (const { place } of pods) assert.equal(await place.actor.tryTcp(SERVER, ALLOWED), 'ok');
});

test('a sandbox that is made anew, a container that is restarted, a pod whose network comes late', async () => {
  await node.start();
  const { pod } = await node.run('web', { addresses: ['198.18.1.1'] });
  const [first] = await node.guarded(pod);
  const again = await pod.restartContainer();
  assert.equal(await again.actor.tryTcp(SERVER, ALLOWED), 'ok');
  assert.deepEqual(await node.guardsAt(first ?? ''), [1, 1]);
  const remade = await pod.remakeSandbox(['198.18.1.9']);
  await pod.report();
  assert.equal(await remade.actor.received(), 0);
  await until(async () => (await node.metrics()).get('postern_guards{mode="tcx"}') === 1, 'one guard');
  const name = (await node.kernel.native('interfaces', null)).find(({ name }) => /^w\d+$/.test(name))?.name ?? '';
  await until(async () => (await node.guardsAt(name)).join() === '1,1', 'the new sandbox is guarded');
  await until(async () => (await remade.actor.tryTcp(SERVER, ALLOWED)) === 'ok', 'by its new address');

  const { pod: late, place } = await node.run('late', { cni: 'none' });
  const sandbox = path.basename(place.netns);
  await node.lab.ip(null, [`link add late type veth peer name eth0 netns ${sandbox}`, 'link set late up']);
  assert.deepEqual(await node.guarded(late), ['late']);
  await node.lab.ip(sandbox, ['addr add 198.18.1.5/32 dev eth0', 'link set eth0 up']);
});

test('a guard stays at what a held pod has left behind, over a restart of the agent, too, and goes with it', async () => {
  await node.start();
  const { pod, place } = await node.run('web', { addresses: ['198.18.1.1'] });
  const { pod: open } = await node.run('open', { namespace: 'open', addresses: ['198.18.1.2'] });
  const [first = ''] = await node.guarded(pod);
  const [second = ''] = await node.guarded(open);
  for (const { place } of [pod, open]) await node.lab.removeCgroup(path.dirname(place.cgroup ?? ''));
  await until(async () => (await node.guardsAt(second)).join() === '0,0', 'no policy held it');
  assert.deepEqual(await node.guardsAt(first), [1, 1]);
  // Somebody who is no pod's: what is unknown would be let pass.
  const elsewhere = node.lab.cgroup('elsewhere');
  const ghost = node.lab.placeIn(place.netns, elsewhere).actor;
  assert.equal(await ghost.tryTcp(SERVER, ALLOWED, 300), 'timeout');
  await node.agent?.stop('SIGKILL');
  await node.start();
  assert.deepEqual(await node.guardsAt(first), [1, 1]);
  assert.equal(await ghost.tryTcp(SERVER, ALLOWED, 300), 'timeout');
  await node.lab.removeCgroup(elsewhere);
  await pod.remove();
  await until(async () => (await node.metrics()).get('postern_guards{mode="tcx"}') === 0, 'no guard is left');
});

test('a thousand interfaces on the node', async () => {
  const lines = Array.from({ length: 500 }, (_, index) => `link add many${index} type veth peer name ynam${index}`);
  await node.lab.ip(null, lines);
  await node.start();
  const { pod } = await node.run('web', { addresses: ['198.18.1.1'] });
  const [name] = await node.guarded(pod);
  assert.deepEqual(await node.guardsAt(name ?? ''), [1, 1]);
  assert.equal((await node.metrics()).get('postern_guards{mode="tcx"}'), 1);
});

test('without tcx: by clsact, before filters that are there, and away again without a trace', async () => {
  const first = await node.run('first', { addresses: ['198.18.1.1'] });
  const [name = ''] = (await node.kernel.native('interfaces', null))
    .map((one) => one.name)
    .filter((one) => /^w\d+$/.test(one));
  await sh(node.lab.outside, `tc qdisc add dev ${name} clsact`);
  const preload = `--import=${path.join(import.meta.dirname, '../support/without-tcx.ts')}`;
  const agent = await withEnvironment('NODE_OPTIONS', preload, () => node.start());
  assert.deepEqual(await node.guarded(first.pod), [name]);
  const second = await node.run('second', { addresses: ['198.18.1.2'] });
  const [other = ''] = await node.guarded(second.pod);
  const filtersAt = async (device: string) => {
    const sides = await Promise.all(
      ['ingress', 'egress'].map((side) => node.lab.outside.exec('tc', ['filter', 'show', 'dev', device, side])),
    );
    return sides.map(({ stdout }) => /guard_(?:in|out)/.exec(stdout)?.[0] ?? null);
  };
  assert.deepEqual(await filtersAt(name), ['guard_out', 'guard_in']);
  assert.deepEqual(await filtersAt(other), ['guard_out', 'guard_in']);
  assert.deepEqual(await node.guardsAt(name), [0, 0]);
  assert.equal((await node.metrics()).get('postern_guards{mode="clsact"}'), 2);
  await sh(second.place, 'ip addr add 198.18.7.7/32 dev eth0');
  await node.lab.ip(null, [`route add 198.18.7.7/32 dev ${other}`]);
  assert.equal(await connectFrom(second.place, '198.18.1.2', SERVER), 'ok');
  assert.equal(await connectFrom(second.place, '198.18.7.7', SERVER), 'timeout');

  await sh(node.lab.outside, `tc filter del dev ${name} ingress`);
  assert.equal((await agent.line(({ event }) => event === 'guard_lost')).interface, name);
  await until(async () => (await filtersAt(name)).join() === 'guard_out,guard_in', 'it is there again');
  assert.equal(await agent.stop(), 0);
  assert.deepEqual(await filtersAt(name), ['guard_out', 'guard_in'], 'they outlive the agent');
  const left = ['status', '-o', 'json', '--bpffs', node.folder.bpffs, '--socket', node.folder.socket];
  const { guards } = JSON.parse((await node.lab.outside.exec(POSTERN, left)).stdout) as NodeStatus;
  assert.deepEqual(
    guards.flatMap(({ interfaces }) => interfaces.map((one) => [one.name, one.mode])).sort(),
    [name, other].sort().map((one) => [one, 'clsact']),
  );
  const next = await withEnvironment('NODE_OPTIONS', preload, () => node.start());
  await node.guarded(second.pod);
  assert.equal((await node.metrics()).get('postern_guards{mode="clsact"}'), 2);
  assert.equal(await next.stop(), 0);
  const { bpffs, socket, stateDir } = node.folder;
  const gone = ['uninstall', '--bpffs', bpffs, '--socket', socket, '--state-dir', stateDir];
  const removed = await node.lab.outside.exec(POSTERN, gone);
  assert.equal(removed.status, 0, removed.stderr);
  assert.deepEqual([...(await filtersAt(name)), ...(await filtersAt(other))], [null, null, null, null]);
  const before = await node.lab.outside.exec('tc', ['qdisc', 'show']);
  assert.match(before.stdout, new RegExp(`clsact .*dev ${name} `), 'what was there before stays');
  assert.doesNotMatch(before.stdout, new RegExp(`clsact .*dev ${other} `));

  const again = await withEnvironment('NODE_OPTIONS', preload, () => node.start());
  await node.guarded(second.pod);
  assert.equal(await again.stop(), 0);
  const last = await withEnvironment('NODE_OPTIONS', preload, () => node.start('--no-guard'));
  const all = async () => [...(await filtersAt(name)), ...(await filtersAt(other))];
  await until(async () => (await all()).every((one) => one === null), 'nothing is left');
  assert.equal(await last.stop(), 0);
  const { stdout } = await node.lab.outside.exec('tc', ['qdisc', 'show']);
  assert.match(stdout, new RegExp(`clsact .*dev ${name} `), 'what was there before stays');
  assert.doesNotMatch(stdout, new RegExp(`clsact .*dev ${other} `));
});

test('--no-guard puts none', async () => {
  await node.start('--no-guard');
  const { place } = await node.run('web', { addresses: ['198.18.1.1'] });
  await until(async () => (await place.actor.tryTcp('198.18.201.1', ALLOWED)) === 'EPERM', 'held by its cgroup');
  assert.equal((await node.metrics()).get('postern_guards{mode="tcx"}'), undefined);
  const name = (await node.kernel.native('interfaces', null)).find(({ name }) => /^w\d+$/.test(name))?.name ?? '';
  assert.deepEqual(await node.guardsAt(name), [0, 0]);
});
