// SPDX-License-Identifier: Apache-2.0
// Does this kernel take the programs, and hold real sockets to a policy? Run here like any test, and by guest.test.ts on another kernel.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test from 'node:test';
import type { NodeStatus } from '../../src/agent/node-status.ts';
import { ask } from '../../src/cli/ask.ts';
import type { Finding } from '../../src/cli/examine.ts';
import { linkOf } from '../packets/interface.ts';
import { checksummed, ipv4, ipv6, udp } from '../packets/packet.ts';
import { epochsOf, launchAgentIn, POSTERN, PolicyFolder, type TestAgent } from '../support/agent.ts';
import { Lab, type Place, resultOf } from '../support/lab.ts';

const CLIENT = path.join(import.meta.dirname, '../support/try.ts');
const FRAMES = path.join(import.meta.dirname, '../../build/test/packets/frames');
const FAMILIES = [
  { name: 'IPv4', own: '198.18.2.1', server: '198.18.1.1', stranger: '198.18.1.2', make: ipv4 },
  { name: 'IPv6', own: 'fd00:18:2::1', server: 'fd00:18:1::1', stranger: 'fd00:18:1::2', make: ipv6 },
] as const;
const SERVERS = FAMILIES.map(({ name, server }) => `"${server}/${name === 'IPv4' ? 32 : 128}"`).join(', ');

const UID = `${process.pid.toString(16).padStart(8, '0').slice(-8)}-0000-4000-8000-000000000001`;

const POLICY = `apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {}
  egress:
  - to: [{networks: [${SERVERS}]}]
    ports:
    - {port: 80}
    - {protocol: UDP, port: 53}
    - {protocol: ICMP, icmpType: EchoRequest}
`;

/** Servers of both families outside, on what the policy allows and on what it does not, and one workload, in a pod's cgroup. */
async function world(t: test.TestContext): Promise<{ lab: Lab; web: Place }> {
  const lab = await Lab.create();
  t.after(() => lab.close());
  await lab.addOutside(...FAMILIES.flatMap(({ server, stranger }) => [server, stranger]));
  const { actor } = lab.outside;
  const listening = FAMILIES.flatMap(({ server }) => [
    ...[80, 81].map((port) => actor.listen('TCP', server, port)),
    ...[53, 54].map((port) => actor.listen('UDP', server, port)),
  ]);
  const addresses = FAMILIES.map(({ own }) => own);
  const web = await lab.workload('web', { addresses, cgroup: `kubepods/pod${UID}/c0ffee` });
  await Promise.all(listening);
  return { lab, web };
}

/** From an address of its own: without one it asks for a route by a UDP connect, which policy refuses. */
const ping = async (place: Place, own: string, address: string, waitSeconds: number) =>
  (await place.exec('ping', ['-c', '1', '-W', `${waitSeconds}`, '-I', own, address], { timeoutMs: 30_000 })).status;

/** Datagrams of both families from below IP, to a port that is allowed and to one that is not: only the guard sees them. */
async function sendFrames(lab: Lab, web: Place): Promise<void> {
  const mac = (netns: string, name: string) => linkOf(netns, name).address.replaceAll(':', '');
  const head = `${mac(lab.outside.netns, 'w1')}${mac(web.netns, 'eth0')}`;
  const frames = FAMILIES.flatMap(({ make, own, server }) =>
    [54, 53].map((to) => checksummed(make({ from: own, to: server }, udp({ to, bytes: 1 }))).toString('hex')),
  );
  const { stdout, stderr } = await web.exec(FRAMES, [
    'eth0',
    ...frames.map((frame) => head + frame.slice(head.length)),
  ]);
  assert.equal(stdout, `${frames.length}\n`, stderr);
}

/** All of a guard's work: what the policy allows arrives, what it does not is refused and told, each once. */
async function isGuarded(lab: Lab, web: Place): Promise<void> {
  const before = await lab.outside.actor.received();
  await sendFrames(lab, web);
  for (let turn = 0; turn < 600 && (await lab.outside.actor.received()) < before + FAMILIES.length; turn += 1)
    await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(await lab.outside.actor.received(), before + FAMILIES.length);
}

test('an agent holds a pod by its cgroup and at its interface, names who was refused, and a killed one is followed without a trace', async (t) => {
  const { lab, web } = await world(t);
  const folder = new PolicyFolder();
  t.after(() => folder.close());
  folder.write('policy.yaml', POLICY);
  folder.write(
    'pod.yaml',
    `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: ${UID}}
spec: {containers: [{name: c, image: i}]}
status: {podIPs: [${web.addresses.map((ip) => `{ip: "${ip}"}`).join(', ')}]}
`,
  );
  const start = (): TestAgent =>
    launchAgentIn({ netns: lab.outside.netns, root: path.join(lab.root, 'kubepods') }, lab, folder);
  const agent = start();
  // A pod has interfaces once a process is in it.
  assert.equal(await web.actor.received(), 0);
  await agent.line((line) => line.event === 'guarded' && JSON.stringify(line.workloads) === '["shop/web"]');
  const strangers: Promise<unknown>[] = [];
  for (const { name, own, server, stranger } of FAMILIES) {
    assert.equal(await web.actor.tryTcp(server, 80, 10_000), 'ok', name);
    assert.equal(await web.actor.tryTcp(server, 81, 10_000), 'EPERM', name);
    assert.equal(await web.actor.tryUdp(server, 53, 10_000), 'ok', name);
    assert.equal(await web.actor.tryUdp(server, 54, 10_000), 'EPERM', name);
    assert.equal(await ping(web, own, server, 20), 0, name);
    strangers.push(ping(web, own, stranger, 1).then((status) => assert.equal(status, 1, name)));

    // What the packet's program tells, not the call's: a ping is no call that it sees.
    const drop = await agent.line((line) => line.event === 'drop' && line.address === stranger);
    assert.deepEqual([drop.protocol, drop.process, drop.reason], ['ICMP', 'ping', 'no_rule'], name);

    for (const protocol of ['TCP', 'UDP'] as const) await web.actor.listen(protocol, own, 90);
    assert.equal(await lab.outside.actor.tryTcp(own, 90, 10_000), 'ok', name);
    assert.equal(await lab.outside.actor.tryUdp(own, 90, 10_000), 'ok', `${name}: an answer by UDP`);
  }
  await Promise.all(strangers);

  const from = agent.lines.length;
  await isGuarded(lab, web);
  for (const { name, server } of FAMILIES) {
    const drop = await agent.line((line) => line.event === 'drop' && line.address === server && line.port === 54, from);
    assert.deepEqual([drop.workload, drop.reason, drop.process], ['shop/web', 'no_rule', ''], name);
  }

  const kept = await Promise.all(FAMILIES.map(({ server }) => web.actor.connect(server, 80, 10_000)));
  const goOn = async (): Promise<void> => {
    for (const [index, { name, server }] of FAMILIES.entries()) {
      assert.equal(await web.actor.exchange(kept[index]?.socket ?? 0, 'x', 10_000), 'ok', name);
      assert.equal(await web.actor.tryTcp(server, 80, 10_000), 'ok', name);
      assert.equal(await web.actor.tryTcp(server, 81, 10_000), 'EPERM', name);
    }
    await isGuarded(lab, web);
  };
  await goOn();
  const before = epochsOf(folder);
  await agent.stop('SIGKILL');
  await goOn();
  const next = start();
  await next.line((line) => line.event === 'taken_over');
  await next.line((line) => line.event === 'guarded');
  assert.deepEqual(epochsOf(folder), before, 'nothing was written, and no flow is judged again');
  await goOn();
  const { guards, drift } = JSON.parse(await ask(folder.socket, '/status')) as NodeStatus;
  assert.deepEqual(drift, []);
  assert.deepEqual(
    guards.map(({ workload, interfaces }) => [workload, interfaces.map(({ name }) => name)]),
    [['shop/web', ['w1']]],
  );
  t.diagnostic(`guarded by ${guards[0]?.interfaces[0]?.mode}`);
  assert.equal(await next.stop(), 0);
  assert.equal(agent.errors + next.errors, '');
  const unwell = [...agent.lines, ...next.lines].filter(({ level, event }) => level !== 'info' && event !== 'drop');
  assert.deepEqual(unwell, [], 'it also gives up the capabilities that it needs no more');
});

test('postern run holds a command', async (t) => {
  const { web } = await world(t);
  const folder = mkdtempSync(path.join(tmpdir(), `postern-${process.pid}-smoke-`));
  t.after(() => rmSync(folder, { recursive: true }));
  const policy = path.join(folder, 'policy.yaml');
  writeFileSync(policy, POLICY);
  const tries = FAMILIES.flatMap(({ server }) => [`TCP/${server}/80`, `TCP/${server}/81`, `UDP/${server}/54`]);
  const command = ['run', '--policy', policy, '--', process.execPath, CLIENT, ...tries];
  const result = await web.exec(POSTERN, command, { timeoutMs: 300_000 });
  assert.equal(result.stdout, 'ok EPERM EPERM ok EPERM EPERM\n', result.stderr);
});

test('doctor finds that this node can enforce', async () => {
  const result = await resultOf(spawn(POSTERN, ['doctor', '-o', 'json']), 300_000);
  assert.equal(result.status, 0, result.stdout);
  const { enforcement, findings } = JSON.parse(result.stdout) as { enforcement: boolean; findings: Finding[] };
  assert.equal(enforcement, true);
  assert.deepEqual(
    findings.filter((one) => one.state === 'missing'),
    [],
  );
});
