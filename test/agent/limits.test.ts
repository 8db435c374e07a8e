// SPDX-License-Identifier: Apache-2.0
// What happens at the limit of each map, on the real kernel? The table in docs/limits.md, row by row; those that packets fill
// (counters, flows, events) are in test/packets.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import test from 'node:test';
import type { NodeStatus } from '../../src/agent/node-status.ts';
import { launchAgentIn, PolicyFolder, type TestAgent } from '../support/agent.ts';
import { Lab, type Place } from '../support/lab.ts';

const SERVER = '198.18.1.1';
const PORTS = [80, 1001, 1003, 1005, 1007, 1009, 1011, 1013];

interface Objects {
  readonly networks: readonly string[];
  readonly ports: readonly number[];
  readonly addresses: readonly string[];
}

const BASE: Objects = { networks: [`${SERVER}/32`, '198.19.0.0/24'], ports: PORTS, addresses: ['198.18.2.1'] };

function pod(name: string, cgroup: string, addresses: readonly string[]): string {
  return `apiVersion: v1
kind: Pod
metadata: {name: ${name}, namespace: shop, labels: {app: ${name}}, annotations: {postern.dev/cgroup: ${cgroup}}}
spec: {containers: [{name: c, image: i}]}
status: {podIP: ${addresses[0]}, podIPs: [${addresses.map((ip) => `{ip: ${ip}}`).join(', ')}]}
---
`;
}

function objects(cgroup: string, { networks, ports, addresses }: Objects): string {
  return `${pod('web', cgroup, addresses)}apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  egress: [{to: [{networks: [${networks.join(', ')}]}], ports: [${ports.map((port) => `{port: ${port}}`).join(', ')}]}]
`;
}

/** One change that needs more of this map than the base does. */
const MORE: Readonly<Record<string, (web: Place, next: Place) => string>> = {
  workloads: (web, next) => `${pod('next', next.cgroupPath, ['198.18.2.5'])}${objects(web.cgroupPath, BASE)}`,
  identities: (web) => objects(web.cgroupPath, { ...BASE, networks: [...BASE.networks, '198.18.1.9/32'] }),
  networks: (web) => objects(web.cgroupPath, { ...BASE, networks: [...BASE.networks, '198.19.1.0/24'] }),
  verdicts: (web) => objects(web.cgroupPath, { ...BASE, networks: ['198.18.1.9/32'] }),
  ports: (web) => objects(web.cgroupPath, { ...BASE, ports: PORTS.map((port) => port + 1) }),
  selves: (web) => objects(web.cgroupPath, { ...BASE, addresses: [...BASE.addresses, '198.18.2.3'] }),
};

async function statusOf(folder: PolicyFolder): Promise<NodeStatus> {
  const socket = connect(folder.socket);
  let text = '';
  socket.on('data', (data) => {
    text += data;
  });
  // Not ended here: Node's server drops what it has not answered yet.
  socket.write('GET /status HTTP/1.0\r\n\r\n');
  await once(socket, 'close');
  return JSON.parse(text.slice(text.indexOf('\r\n\r\n'))) as NodeStatus;
}

interface World {
  readonly lab: Lab;
  readonly folder: PolicyFolder;
  readonly web: Place;
  readonly next: Place;
}

async function world(t: test.TestContext): Promise<World> {
  const lab = await Lab.create();
  const folder = new PolicyFolder();
  t.after(async () => {
    await lab.close();
    folder.close();
  });
  await lab.addOutside(SERVER);
  for (const port of [80, 81]) await lab.outside.actor.listen('TCP', SERVER, port);
  const web = await lab.workload('web', { addresses: ['198.18.2.1'] });
  const next = await lab.workload('next', { addresses: ['198.18.2.5'] });
  folder.write('objects.yaml', objects(web.cgroupPath, BASE));
  return { lab, folder, web, next };
}

/** In the namespace that the pods' interfaces are in, so that they are guarded; nothing outlives it. */
async function start({ lab, folder }: World, ...args: readonly string[]): Promise<TestAgent> {
  const place = { netns: lab.outside.netns, root: lab.root };
  const agent = launchAgentIn(place, lab, folder, ...args, '--bpffs', 'none');
  await agent.line(({ event }) => event === 'ready');
  return agent;
}

async function assertHeld({ web }: World): Promise<void> {
  assert.equal(await web.actor.tryTcp(SERVER, 80), 'ok');
  assert.equal(await web.actor.tryTcp(SERVER, 81), 'EPERM');
}

test('a change that a map has no room for is refused whole, and told; what was enforced stays; with room it is made', async (t) => {
  const here = await world(t);
  const { folder, web, next } = here;
  const first = await start(here);
  const { maps } = await statusOf(folder);
  await first.stop();
  for (const [map, more] of Object.entries(MORE)) {
    const full = maps.find((one) => one.map === map)?.entries ?? 0;
    assert.ok(full > 0, `${map} is in use`);
    folder.write('objects.yaml', objects(web.cgroupPath, BASE));
    const agent = await start(here, '--bpf-map-max', `${map}=${full}`);
    const filling = await agent.line((line) => line.event === 'map_filling' && line.map === map);
    assert.deepEqual([filling.entries, filling.maxEntries], [full, full]);
    assert.match(String(filling.msg), new RegExp(`--bpf-map-max ${map}=${full * 2}`));

    folder.write('objects.yaml', more(web, next));
    const problem = await agent.line((line) => line.event === 'problem');
    assert.equal(problem.code, 'limit_exceeded', map);
    assert.match(String(problem.msg), new RegExp(`the map ${map} holds ${full} entries at most`));
    assert.match(String(problem.advice), new RegExp(`--bpf-map-max ${map}=`));
    await assertHeld(here);
    assert.equal((await statusOf(folder)).maps.find((one) => one.map === map)?.entries, full, 'nothing was written');

    const from = agent.lines.length;
    folder.write('objects.yaml', objects(web.cgroupPath, BASE));
    await agent.line(({ event }) => event === 'mended', from);
    await assertHeld(here);
    assert.equal(await agent.stop(), 0);
  }

  const agent = await start(here);
  for (const [map, more] of Object.entries(MORE)) {
    await agent.applied(() => folder.write('objects.yaml', more(web, next)));
    await agent.applied(() => folder.write('objects.yaml', objects(web.cgroupPath, BASE)));
    assert.ok(!agent.lines.some(({ event }) => event === 'problem' || event === 'map_filling'), map);
  }
  assert.equal(await agent.stop(), 0);
});

test('an interface that guards or sources have no room for goes without, is told, and its pod is held at its cgroup', async (t) => {
  const here = await world(t);
  const { folder, web, next } = here;
  const both = `${pod('next', next.cgroupPath, ['198.18.2.5'])}${objects(web.cgroupPath, BASE)}`.replaceAll(
    'matchLabels: {app: web}',
    '',
  );
  folder.write('objects.yaml', both);
  // An interface is found by a process of its pod.
  for (const { actor } of [web, next]) assert.equal(await actor.tryTcp(SERVER, 80), 'ok');
  for (const [map, size] of [
    ['guards', 1],
    ['sources', 1],
  ] as const) {
    const agent = await start(here, '--bpf-map-max', `${map}=${size}`);
    const failed = await agent.line(({ event }) => event === 'guard_failed');
    assert.equal(failed.code, 'LIMIT_EXCEEDED', map);
    assert.match(String(failed.msg), new RegExp(`the map ${map} holds ${size} entries at most`));
    for (const { actor } of [web, next]) {
      assert.equal(await actor.tryTcp(SERVER, 80), 'ok');
      assert.equal(await actor.tryTcp(SERVER, 81), 'EPERM');
    }
    assert.equal(await agent.stop(), 0);
  }
});
