// SPDX-License-Identifier: Apache-2.0
// Does this kernel take the programs, and hold real sockets to a policy? Run here like any test, and by guest.test.ts on another kernel.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test from 'node:test';
import type { Finding } from '../../src/cli/examine.ts';
import { PolicyFolder, startAgent } from '../support/agent.ts';
import { Lab, type Place, resultOf } from '../support/lab.ts';

const POSTERN = path.join(import.meta.dirname, '../../bin/postern');
const CLIENT = path.join(import.meta.dirname, '../support/try.ts');
const FAMILIES = [
  { name: 'IPv4', own: '198.18.2.1', server: '198.18.1.1', stranger: '198.18.1.2' },
  { name: 'IPv6', own: 'fd00:18:2::1', server: 'fd00:18:1::1', stranger: 'fd00:18:1::2' },
];
const SERVERS = FAMILIES.map(({ name, server }) => `"${server}/${name === 'IPv4' ? 32 : 128}"`).join(', ');

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

/** Servers of both families outside, on what the policy allows and on what it does not, and one workload. */
async function world(t: test.TestContext): Promise<{ lab: Lab; web: Place }> {
  const lab = await Lab.create();
  t.after(() => lab.close());
  await lab.addOutside(...FAMILIES.flatMap(({ server, stranger }) => [server, stranger]));
  for (const { server } of FAMILIES) {
    for (const port of [80, 81]) await lab.outside.actor.listen('TCP', server, port);
    for (const port of [53, 54]) await lab.outside.actor.listen('UDP', server, port);
  }
  return { lab, web: await lab.workload('web', { addresses: FAMILIES.map(({ own }) => own) }) };
}

/** From an address of its own: without one it asks for a route by a UDP connect, which policy refuses. */
const ping = async (place: Place, own: string, address: string, waitSeconds: number) =>
  (await place.exec('ping', ['-c', '1', '-W', `${waitSeconds}`, '-I', own, address], { timeoutMs: 30_000 })).status;

test('an agent holds TCP, UDP and ICMP of both families, lets answers pass, and names who was refused', async (t) => {
  const { lab, web } = await world(t);
  const folder = new PolicyFolder();
  t.after(() => folder.close());
  folder.write('policy.yaml', POLICY);
  folder.write(
    'pod.yaml',
    `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, annotations: {postern.dev/cgroup: ${web.cgroupPath}}}
spec: {containers: [{name: c, image: i}]}
status: {podIPs: [${web.addresses.map((ip) => `{ip: "${ip}"}`).join(', ')}]}
`,
  );
  const agent = await startAgent(lab, folder);
  for (const { name, own, server, stranger } of FAMILIES) {
    assert.equal(await web.actor.tryTcp(server, 80, 10_000), 'ok', name);
    assert.equal(await web.actor.tryTcp(server, 81, 10_000), 'EPERM', name);
    assert.equal(await web.actor.tryUdp(server, 53, 10_000), 'ok', name);
    assert.equal(await web.actor.tryUdp(server, 54, 10_000), 'EPERM', name);
    assert.equal(await ping(web, own, server, 20), 0, name);
    assert.equal(await ping(web, own, stranger, 1), 1, name);

    // What the packet's program tells, not the call's: a ping is no call that it sees.
    const drop = await agent.line((line) => line.event === 'drop' && line.address === stranger);
    assert.deepEqual([drop.protocol, drop.process, drop.reason], ['ICMP', 'ping', 'no_rule'], name);

    for (const protocol of ['TCP', 'UDP'] as const) await web.actor.listen(protocol, own, 90);
    assert.equal(await lab.outside.actor.tryTcp(own, 90, 10_000), 'ok', name);
    assert.equal(await lab.outside.actor.tryUdp(own, 90, 10_000), 'ok', `${name}: an answer by UDP`);
  }
  assert.equal(await agent.stop(), 0);
  assert.equal(agent.errors, '');
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
