// SPDX-License-Identifier: Apache-2.0
// Does the agent, as image and DaemonSet have it, hold workloads outside of its container? And is each capability needed?
import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { PolicyFolder, TestAgent } from '../support/agent.ts';
import { IMAGE, RunningContainer } from '../support/container.ts';
import { Actor, Lab, type Place } from '../support/lab.ts';
import { containerOf, helmTemplate, installed, manifestsIn, type PodSpec, podSpecIn } from '../support/manifests.ts';

const SERVER = '198.18.1.1';
const ACTOR = path.join(import.meta.dirname, '../support/actor.ts');

function objects(place: Place, ports: string): string {
  return `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}, annotations: {postern.dev/cgroup: ${place.cgroupPath}}}
spec: {containers: [{name: c, image: i}]}
status: {podIP: ${place.addresses[0]}}
---
apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  egress: [{to: [{networks: [${SERVER}/32]}], ports: [${ports}]}]
`;
}

interface World {
  readonly lab: Lab;
  readonly folder: PolicyFolder;
  readonly web: Place;
  /** Without root's rights, as most containers are. */
  readonly actor: Actor;
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
  const nobody = ['--reuid=65534', '--regid=65534', '--clear-groups', '--bounding-set=-all', '--inh-caps=-all'];
  const actor = new Actor(web.spawn('setpriv', [...nobody, process.execPath, ACTOR]));
  folder.write('objects.yaml', objects(web, '{port: 80}, {port: 81}'));
  return { lab, folder, web, actor };
}

/** The DaemonSet's pod on this machine, with a folder in place of the API server. */
function start(t: test.TestContext, { lab, folder }: World, spec: PodSpec): [TestAgent, RunningContainer] {
  const args = containerOf(spec).args.filter((arg) => arg !== '--kube' && !arg.startsWith('--metrics-address='));
  const container = new RunningContainer(
    spec,
    [...args, '--policies=/policies', '--metrics-address=127.0.0.1:0', `--cgroup-root=${path.basename(lab.root)}`],
    {
      fields: { 'spec.nodeName': 'node-1', 'status.hostIP': '127.0.0.1' },
      fresh: ['/run/postern', '/var/lib/postern'],
      instead: { '/sys/fs/bpf': path.dirname(folder.bpffs) },
      binds: { '/policies': folder.path },
    },
  );
  t.after(() => container.close());
  return [new TestAgent(container.child), container];
}

/** Profiles of 2022 let bpf(2) pass with CAP_SYS_ADMIN alone. */
function least(): PodSpec {
  return podSpecIn(
    manifestsIn(helmTemplate('agent.guard=false', 'agent.endCutFlows=false', 'seccompProfile.type=Unconfined')),
  );
}

function without(spec: PodSpec, capability: string): PodSpec {
  const container = containerOf(spec);
  const { securityContext } = container;
  const { add, drop } = securityContext.capabilities;
  assert.ok(add.includes(capability));
  const capabilities = { add: add.filter((one) => one !== capability), drop };
  return { ...spec, containers: [{ ...container, securityContext: { ...securityContext, capabilities } }] };
}

/** What becomes of an established connection when a policy no longer allows it. */
async function cut({ folder, web, actor }: World, agent: TestAgent, timeoutMs: number): Promise<string> {
  const socket = (await actor.connect(SERVER, 81)).socket ?? 0;
  assert.equal(await actor.exchange(socket), 'ok');
  await agent.applied(() => folder.write('objects.yaml', objects(web, '{port: 80}')));
  // The first packet that is refused is what ends it.
  return actor.exchange(socket, 'x', timeoutMs);
}

test('in its container the agent holds a workload: what is allowed passes, the rest is refused, a cut flow ends at once', async (t) => {
  const here = await world(t);
  const [agent, container] = start(t, here, podSpecIn(installed()));
  await agent.line((line) => line.event === 'ready');
  assert.equal(await here.actor.tryTcp(SERVER, 80), 'ok');
  assert.equal(await here.actor.tryTcp(SERVER, 82), 'EPERM');
  const drop = await agent.line((line) => line.event === 'drop');
  assert.deepEqual([drop.workload, drop.port, drop.pid], ['shop/web', 82, here.actor.child.pid]);

  assert.notEqual(await cut(here, agent, 10_000), 'timeout');
  assert.equal(await here.actor.tryTcp(SERVER, 81), 'EPERM');
  assert.ok([...(await agent.metrics()).keys()].some((series) => series.startsWith('postern_drop_count_total{')));

  const version = await container.exec(['/usr/bin/postern', '--version']);
  assert.deepEqual([version.status, version.stderr], [0, '']);
  assert.equal((await container.exec(['/bin/sh'])).status, 255, 'there is no shell');
  const status = await container.exec(['/usr/bin/node', '-p', 'fs.readFileSync("/proc/self/status", "utf8")']);
  assert.match(status.stdout, /^NoNewPrivs:\t1$/m);
  assert.match(status.stdout, /^Seccomp:\t2$/m);
  const write = await container.exec(['/usr/bin/node', '-e', 'fs.writeFileSync("/usr/x", "")']);
  assert.match(write.stderr, /EROFS/);

  assert.equal(await agent.stop(), 0);
  assert.equal(await here.actor.tryTcp(SERVER, 81), 'EPERM', 'what is pinned outlives it');
});

test('without guard and endCutFlows three capabilities and no view of processes are enough; a cut flow then only falls silent', async (t) => {
  const here = await world(t);
  const spec = least();
  assert.deepEqual(containerOf(spec).securityContext.capabilities.add, ['BPF', 'PERFMON', 'NET_ADMIN']);
  assert.equal(spec.hostPID, false);
  const [agent] = start(t, here, spec);
  await agent.line((line) => line.event === 'ready');
  assert.equal(await here.actor.tryTcp(SERVER, 80), 'ok');
  assert.equal(await here.actor.tryTcp(SERVER, 82), 'EPERM');
  assert.equal(await cut(here, agent, 1000), 'timeout');
  assert.equal(await agent.stop(), 0);
  assert.equal(await here.actor.tryTcp(SERVER, 82), 'EPERM');
  const [next] = start(t, here, spec);
  await next.line((line) => line.event === 'taken_over');
  await next.line((line) => line.event === 'ready');
  assert.equal(await here.actor.tryTcp(SERVER, 80), 'ok');
  assert.equal(await here.actor.tryTcp(SERVER, 82), 'EPERM');
  assert.equal(await next.stop(), 0);
});

test('each of the three is needed: without it the agent says so, and ends', async (t) => {
  const here = await world(t);
  const spec = least();
  for (const capability of containerOf(spec).securityContext.capabilities.add) {
    const [agent] = start(t, here, without(spec, capability));
    assert.equal((await agent.ended()).status, 1, capability);
    assert.match(agent.errors, new RegExp(`capability/CAP_${capability}: not held`));
  }
});

test('each of the two more is needed to end a cut flow of another user', async (t) => {
  for (const capability of ['SYS_ADMIN', 'SYS_PTRACE']) {
    const spec = podSpecIn(manifestsIn(helmTemplate('seccompProfile.type=Unconfined')));
    const here = await world(t);
    const [agent] = start(t, here, without(spec, capability));
    await agent.line((line) => line.event === 'ready');
    assert.equal(await cut(here, agent, 1000), 'timeout', capability);
    assert.equal(await agent.stop(), 0);
  }
});

test('the image holds no shell, no compiler, no package manager: two commands, of which one is Node', () => {
  assert.deepEqual(readdirSync(path.join(IMAGE, 'usr/bin')).sort(), ['node', 'postern']);
  for (const folder of ['bin', 'sbin', 'usr/sbin', 'usr/local'])
    assert.equal(existsSync(path.join(IMAGE, folder)), false, folder);
});
