// SPDX-License-Identifier: Apache-2.0
// What can a running agent still do, and does it still do all that it has to?
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { CAPABILITIES, KEPT } from '../../src/agent/privileges.ts';
import { PolicyFolder, startAgent } from '../support/agent.ts';
import { Lab } from '../support/lab.ts';

const SERVER = '198.18.1.1';

function objects(cgroup: string, ports: string): string {
  return `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}, annotations: {postern.dev/cgroup: ${cgroup}}}
spec: {containers: [{name: c, image: i}]}
---
apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  egress: [{to: [{networks: [${SERVER}/32]}], ports: [${ports}]}]
`;
}

/** Of each thread of a process: what is permitted, no_new_privs, and the mode of seccomp. */
function privileges(pid: number): string[] {
  const threads = readdirSync(`/proc/${pid}/task`).map((thread) => {
    const status = readFileSync(`/proc/${pid}/task/${thread}/status`, 'utf8');
    const of = (field: string) => new RegExp(`^${field}:\\s*(\\S+)$`, 'm').exec(status)?.[1];
    return `${BigInt(`0x${of('CapPrm')}`).toString(16)} ${of('NoNewPrivs')} ${of('Seccomp')}`;
  });
  return [...new Set(threads)];
}

test('attached, it has given up what it needs no more, and still binds, applies, guards, cuts and counts', async (t) => {
  const lab = await Lab.create();
  const folder = new PolicyFolder();
  t.after(async () => {
    await lab.close();
    folder.close();
  });
  await lab.addOutside(SERVER);
  for (const port of [80, 81]) await lab.outside.actor.listen('TCP', SERVER, port);
  const web = await lab.workload('web', { addresses: ['198.18.2.1'] });
  folder.write('objects.yaml', objects(web.cgroupPath, '{port: 80}, {port: 81}'));
  const agent = await startAgent(lab, folder, '--log-level', 'debug');
  const confined = await agent.line(({ event }) => event === 'confined' || event === 'not_confined');
  assert.deepEqual([confined.event, confined.systemCalls, confined.msg], ['confined', true, undefined]);
  const kept = KEPT.reduce((set, { bit }) => set | (1n << bit), 0n).toString(16);
  assert.deepEqual(privileges(agent.child.pid ?? 0), [`${kept} 1 2`]);

  for (const file of readdirSync(folder.bpffs, { recursive: true, encoding: 'utf8' })) {
    assert.equal(statSync(path.join(folder.bpffs, file)).mode & 0o077, 0, `${file} is root's alone`);
  }
  assert.equal(statSync(folder.bpffs).mode & 0o777, 0o700);

  assert.equal(await web.actor.tryTcp(SERVER, 82), 'EPERM');
  const socket = (await web.actor.connect(SERVER, 81)).socket ?? 0;
  assert.equal(await web.actor.exchange(socket), 'ok');
  // Its socket is ended in the pod's network namespace.
  await agent.applied(() => folder.write('objects.yaml', objects(web.cgroupPath, '{port: 80}')));
  assert.notEqual(await web.actor.exchange(socket, 'x', 60_000), 'timeout');
  // Another workload is found, bound and, being in a network namespace of its own, guarded.
  const next = await lab.workload('next', { addresses: ['198.18.2.5'] });
  await agent.applied(() =>
    folder.write('next.yaml', objects(next.cgroupPath, '{port: 80}').replaceAll('name: web', 'name: next')),
  );
  assert.equal(await next.actor.tryTcp(SERVER, 81), 'EPERM');
  assert.ok(((await agent.metrics()).get('postern_map_entries{map="workloads"}') ?? 0) >= 2);

  assert.deepEqual(privileges(agent.child.pid ?? 0), [`${kept} 1 2`], 'of threads that came later, too');
  assert.equal(await agent.stop(), 0);
  assert.equal(agent.errors, '');
  assert.deepEqual(
    agent.lines.filter(({ event }) => /failed|not_confined/.test(event)),
    [],
  );
});

test('--no-confine keeps everything', async (t) => {
  const lab = await Lab.create();
  const folder = new PolicyFolder();
  t.after(async () => {
    await lab.close();
    folder.close();
  });
  const agent = await startAgent(lab, folder, '--no-confine');
  const [own] = privileges(process.pid);
  assert.deepEqual(privileges(agent.child.pid ?? 0), [own]);
  assert.equal(await agent.stop(), 0);
});

test('what is kept is less than what is asked for, and each has its reason', () => {
  assert.ok(KEPT.length < CAPABILITIES.length);
  for (const { name, without } of CAPABILITIES) assert.match(without, /\w+ \w+/, name);
});
