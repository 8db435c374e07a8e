// SPDX-License-Identifier: Apache-2.0
// No gap at a pod's start: what it sends in its first moment is judged, whoever knows of it; and how long it was unknown, or without a
// guard, is told.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import path from 'node:path';
import test, { after, before } from 'node:test';
import { launchAgentIn, PolicyFolder, type TestAgent } from '../support/agent.ts';
import { Lab, type Place, resultOf } from '../support/lab.ts';

const SERVER = '198.18.200.1';
const RESOLVER = '198.18.200.53';
const PODS = 150;

let lab: Lab;
let folder: PolicyFolder;
let agent: TestAgent;
/** One network for all: who a process is only its cgroup says. */
let network: Place;

before(async () => {
  lab = await Lab.create();
  folder = new PolicyFolder();
  await lab.addOutside(SERVER, RESOLVER);
  await lab.outside.actor.listen('TCP', SERVER, 80);
  await lab.outside.actor.listen('UDP', RESOLVER, 53);
  network = await lab.workload('network', { addresses: ['198.18.1.1'], cgroup: null });
  // What the kernel asks of an IPv6 link by itself (routers, groups) would be counted, too.
  await network.exec('sh', ['-c', 'echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6']);
  lab.cgroup('kubepods/burstable');
  const root = path.join(lab.root, 'kubepods');
  agent = launchAgentIn({ netns: lab.outside.netns, root }, lab, folder, '--unknown', 'deny');
  await agent.line(({ event }) => event === 'ready');
});
after(async () => {
  await lab.close();
  folder.close();
});

function uidOf(index: number): string {
  const pid = process.pid.toString(16).padStart(8, '0').slice(-8);
  return `${pid}-0000-4000-8000-${String(index).padStart(12, '0')}`;
}

/** In a shell that is in the pod's cgroup from its first instruction. */
function spawnIn(folder: string, script: string): ChildProcess {
  const enter = `echo 0 > ${folder}/cgroup.procs && exec nsenter --net=${network.netns} -- bash -c '${script}'`;
  return lab.adopt(spawn('bash', ['-c', enter], { stdio: ['pipe', 'pipe', 'pipe'] }));
}

async function scrape(): Promise<ReadonlyMap<string, number>> {
  const { metrics } = await agent.line(({ event }) => event === 'ready');
  const { stdout } = await lab.outside.exec('curl', ['-sf', String(metrics)]);
  const lines = stdout.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(
    lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]),
  );
}

/** Of processes that nobody is bound to. */
async function refused(): Promise<number> {
  const series = [...(await scrape())].filter(
    ([name]) => name.startsWith('postern_drop_count_total{') && name.includes('reason="unknown_workload"'),
  );
  return series.reduce((sum, [, count]) => sum + count, 0);
}

const CONNECT = `exec 3<>/dev/tcp/${SERVER}/80`;

test('pods that are made, connect in their first moment and are gone leave nothing unjudged', async () => {
  const before = await refused();
  let connected = 0;
  for (let index = 0; index < PODS; index += 1) {
    const pod = lab.cgroup(`kubepods/burstable/pod${uidOf(index)}/c0ffee`);
    const { status } = await resultOf(spawnIn(pod, CONNECT), 10_000);
    if (status === 0) connected += 1;
    await lab.removeCgroup(path.dirname(pod));
  }
  assert.equal(connected, 0);
  assert.equal((await refused()) - before, PODS, 'each was judged, and once');
});

test('DNS, and answers to whoever asks, are refused to the unknown; all of it once its policy is there', async () => {
  const uid = uidOf(PODS);
  const pod = lab.cgroup(`kubepods/burstable/pod${uid}/c0ffee`);
  const place = lab.placeIn(network.netns, pod, ['198.18.1.1']);
  assert.equal(await place.actor.tryUdp(RESOLVER, 53), 'EPERM');
  assert.equal(await place.actor.tryTcp(SERVER, 80), 'EPERM');
  await place.actor.listen('TCP', '198.18.1.1', 8080);
  await place.actor.listen('UDP', '198.18.1.1', 8080);
  assert.equal(await lab.outside.actor.tryTcp('198.18.1.1', 8080), 'timeout');
  assert.equal(await lab.outside.actor.tryUdp('198.18.1.1', 8080), 'timeout');

  const unknown = (await scrape()).get('postern_pod_unknown_seconds_count') ?? 0;
  const from = agent.lines.length;
  folder.write(
    'pod.yaml',
    JSON.stringify({
      ...{ apiVersion: 'v1', kind: 'Pod', metadata: { namespace: 'shop', name: 'web', uid } },
      spec: { containers: [{ name: 'c', image: 'i' }] },
      status: { phase: 'Running', podIPs: [{ ip: '198.18.1.1' }] },
    }),
  );
  await agent.line(({ event, bound }) => event === 'applied' && (bound as string[]).includes('shop/web'), from);
  assert.equal(await place.actor.tryUdp(RESOLVER, 53), 'ok');
  assert.equal(await place.actor.tryTcp(SERVER, 80), 'ok');
  assert.equal(await lab.outside.actor.tryTcp('198.18.1.1', 8080), 'ok');
  assert.equal(await lab.outside.actor.tryUdp('198.18.1.1', 8080), 'ok');
  const after = await scrape();
  assert.equal((after.get('postern_pod_unknown_seconds_count') ?? 0) - unknown, 1);
  assert((after.get('postern_pod_unknown_seconds_sum') ?? 0) > 0);
});

test('an unknown pod is guarded before anybody knows whose it is: raw frames of its are refused, too', async () => {
  const uid = uidOf(PODS + 1);
  const place = await lab.workload('stranger', {
    ...{ addresses: ['198.18.1.2'], cgroup: `kubepods/burstable/pod${uid}/c0ffee` },
  });
  assert.equal(await place.actor.received(), 0);
  const guarded = await agent.line(
    ({ event, workloads }) => event === 'guarded' && (workloads as string[]).some((name) => name.includes(uid)),
  );
  assert(Number(guarded.ms) > 0);
  assert(Number(guarded.frames) >= 0);
  // A socket of the node's in the pod's network: only the guard can see whose way out that is.
  const stray = lab.spawnIn(place.netns, null, 'bash', ['-c', CONNECT], 'pipe');
  const { status } = await resultOf(stray, 1500);
  assert.notEqual(status, 0);
  const metrics = await scrape();
  assert.equal(metrics.get('postern_guards{mode="tcx"}'), 2);
  assert((metrics.get('postern_pod_guard_seconds_count') ?? 0) >= 1);
});
