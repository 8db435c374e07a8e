// SPDX-License-Identifier: Apache-2.0
// Does a running agent stand everything at once: a flood of refusals, edits without rest, cgroup folders by the hundred, a folder full
// of what is no policy, and being stopped in between? It must enforce on, end on request, and hold no more than before.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmdirSync, symlinkSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { PolicyFolder, startAgent } from '../support/agent.ts';
import { Lab } from '../support/lab.ts';

const SERVER = '198.18.1.1';
const EDITS = 600;

function pod(name: string, cgroup: string): string {
  return `apiVersion: v1
kind: Pod
metadata: {name: ${name}, namespace: shop, annotations: {postern.dev/cgroup: "${cgroup}"}}
spec: {containers: [{name: c, image: i}]}
`;
}

function policy(port: number): string {
  return `apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: web, namespace: shop}
spec: {podSelector: {}, egress: [{to: [{networks: [${SERVER}/32]}], ports: [{port: 80}, {port: ${port}}]}]}
`;
}

/** Descriptors, and what holds kernel objects: links, maps, programs. */
function descriptors(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

function residentMiB(pid: number): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024;
}

test('an agent under a flood, edits and odd files enforces on and holds no more than before', async (t) => {
  const lab = await Lab.create();
  const folder = new PolicyFolder();
  t.after(async () => {
    await lab.close();
    folder.close();
  });
  await lab.addOutside(SERVER);
  for (const port of [80, 81]) await lab.outside.actor.listen('TCP', SERVER, port);
  const web = await lab.workload('web', { addresses: ['198.18.2.1'] });
  folder.write('pod.yaml', pod('web', web.cgroupPath));
  folder.write('policy.yaml', policy(1000));
  const agent = await startAgent(lab, folder);
  const pid = agent.child.pid ?? 0;
  const holds = async (when: string) => {
    assert.equal(await web.actor.tryTcp(SERVER, 80), 'ok', when);
    assert.equal(await web.actor.tryTcp(SERVER, 81), 'EPERM', when);
  };

  // Whom these name is bound already, or can't be bound: it stays as it is.
  const thieves = ['../../etc', `${web.cgroupPath}/../web`, '/', path.basename(lab.root), web.cgroupPath];
  for (const [index, cgroup] of [...thieves, `${web.cgroupPath}/inner`].entries())
    folder.write(`thief-${index}.yaml`, pod(`thief-${index}`, cgroup));
  execFileSync('mkfifo', [path.join(folder.path, 'pipe.yaml')]);
  symlinkSync('circle.yaml', path.join(folder.path, 'circle.yaml'));
  symlinkSync('/dev/zero', path.join(folder.path, 'device.yaml'));
  symlinkSync('..', path.join(folder.path, 'above'));
  await agent.line((line) => line.event === 'problem' && String(line.where).includes('pipe.yaml'));
  await agent.line((line) => line.event === 'problem' && line.object === 'Pod/shop/thief-4');
  await holds('beside odd files');

  const before = descriptors(pid);
  const flood = web.spawn(process.execPath, [
    '-e',
    `const net = require('net'); let port = 1;
     const next = () => net.connect(1 + (port++ % 65535), '198.18.9.9').on('error', () => setImmediate(next));
     for (let i = 0; i < 50; i++) next();`,
  ]);
  await agent.line((line) => line.event === 'drop' && line.address === '198.18.9.9');
  const early = residentMiB(pid);
  for (let edit = 0; edit < EDITS; edit += 1) {
    folder.write('policy.yaml', policy(1000 + edit));
    if (edit % 150 === 50) {
      const names = Array.from({ length: 200 }, (_, index) => path.join(lab.root, `passing-${index}`));
      for (const name of names) mkdirSync(name);
      for (const name of names) rmdirSync(name);
      await holds(`at edit ${edit}`);
    }
    if (edit === 300) agent.child.kill('SIGSTOP');
    if (edit === 330) agent.child.kill('SIGCONT');
    await pause(2);
  }
  await holds('in the flood');
  flood.kill('SIGKILL');
  await agent.applied(() => folder.write('policy.yaml', policy(9000)));
  await holds('after all');
  assert.ok(residentMiB(pid) < early + 150, `${early} MiB became ${residentMiB(pid)}`);
  assert.ok(descriptors(pid) <= before + 2, `${before} descriptors became ${descriptors(pid)}`);
  assert.equal(await agent.stop(), 0);
  assert.equal(agent.errors, '');
});

test('an address that another pod takes over is that pod, also for connections that are there', async (t) => {
  const lab = await Lab.create();
  const folder = new PolicyFolder();
  t.after(async () => {
    await lab.close();
    folder.close();
  });
  await lab.addOutside(SERVER);
  await lab.outside.actor.listen('TCP', SERVER, 80);
  await lab.outside.actor.listen('UDP', SERVER, 53);
  const web = await lab.workload('web', { addresses: ['198.18.2.1'] });
  const elsewhere = (name: string, app: string, ip: string) => `apiVersion: v1
kind: Pod
metadata: {name: ${name}, namespace: shop, labels: {app: ${app}}}
spec: {nodeName: other, containers: [{name: c, image: i}]}
status: {podIPs: [{ip: ${ip}}]}
`;
  folder.write('web.yaml', pod('web', web.cgroupPath));
  folder.write('peers.yaml', elsewhere('db-0', 'db', SERVER));
  folder.write(
    'policy.yaml',
    `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: to-db, namespace: shop}
spec: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]}
`,
  );
  const agent = await startAgent(lab, folder);
  const { outcome, socket = 0 } = await web.actor.connect(SERVER, 80);
  assert.equal(outcome, 'ok');
  assert.equal(await web.actor.exchange(socket), 'ok');
  assert.equal(await web.actor.tryUdp(SERVER, 53), 'ok');
  await agent.applied(() =>
    folder.write('peers.yaml', `${elsewhere('db-1', 'db', '198.18.1.2')}---\n${elsewhere('mail', 'mail', SERVER)}`),
  );
  assert.notEqual(await web.actor.exchange(socket, 'late', 10_000), 'ok');
  assert.equal(await web.actor.tryTcp(SERVER, 80), 'EPERM');
  assert.equal(await web.actor.tryUdp(SERVER, 53), 'EPERM');
  await agent.applied(() => folder.write('peers.yaml', elsewhere('db-0', 'db', SERVER)));
  assert.equal(await web.actor.tryTcp(SERVER, 80), 'ok');
});
