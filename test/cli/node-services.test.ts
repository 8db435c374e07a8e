// SPDX-License-Identifier: Apache-2.0
// Are systemd units held like pods, by their cgroups: those that a policy of this node selects, and nobody else? systemd need not run:
// its slices are folders.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import test from 'node:test';
import { PolicyFolder, startAgent } from '../support/agent.ts';
import { Lab } from '../support/lab.ts';

const SERVER = '198.18.1.1';
const SERVER6 = 'fd00:18:1::1';
const POSTERN = path.join(import.meta.dirname, '../../bin/postern');

function policy(name: string, port: number, spec = '', subject = 'units: [kubelet.service]'): string {
  return `apiVersion: postern.dev/v1alpha1
kind: ClusterEgressPolicy
metadata: {name: ${name}}
spec:
  subject: {nodeServices: {${subject}}}
  ${spec}
  egress: [{to: [{networks: [198.18.1.1/32, "fd00:18:1::1/128"]}], ports: [{port: ${port}}]}]
`;
}

const node = (labels: string) => `apiVersion: v1
kind: Node
metadata: {name: here, labels: ${labels}}
`;

async function world(t: test.TestContext) {
  const lab = await Lab.create();
  const folder = new PolicyFolder();
  t.after(async () => {
    await lab.close();
    folder.close();
  });
  await lab.addOutside(SERVER, SERVER6);
  for (const address of [SERVER, SERVER6]) {
    for (const port of [80, 81]) await lab.outside.actor.listen('TCP', address, port);
  }
  const service = (name: string, last: number) =>
    lab.workload(name, {
      addresses: [`198.18.2.${last}`, `fd00:18:2::${last}`],
      cgroup: `system.slice/${name}.service`,
    });
  return { lab, folder, service };
}

test('a unit is held from its first packet on, late or not; what is beside it is not; drops and metrics name it', async (t) => {
  const { lab, folder, service } = await world(t);
  folder.write('policy.yaml', policy('runtime', 80, '', 'units: [kubelet.service, containerd.service]'));
  const kubelet = await service('kubelet', 1);
  const sshd = await service('sshd', 2);
  const agent = await startAgent(lab, folder);
  const waits = await agent.line((line) => line.event === 'problem');
  assert.deepEqual(
    [waits.code, waits.severity, waits.object],
    ['unit_not_found', 'warning', 'ClusterEgressPolicy/runtime'],
  );
  assert.match(String(waits.msg), /^containerd\.service is not there on this node/);
  assert.match(String(waits.where), /policy\.yaml:3:/);

  for (const address of [SERVER, SERVER6]) {
    assert.equal(await kubelet.actor.tryTcp(address, 80), 'ok');
    assert.equal(await kubelet.actor.tryTcp(address, 81), 'EPERM');
    assert.equal(await sshd.actor.tryTcp(address, 81), 'ok');
  }
  const drop = await agent.line((line) => line.event === 'drop');
  assert.deepEqual(
    [drop.workload, drop.policy, drop.reason, drop.pid],
    ['node/kubelet.service', 'ClusterEgressPolicy/runtime', 'no_rule', kubelet.actor.child.pid],
  );

  const from = agent.lines.length;
  const containerd = await service('containerd', 3);
  const bound = await agent.line((line) => line.event === 'applied', from);
  assert.deepEqual(bound.bound, ['node/containerd.service']);
  await agent.line((line) => line.event === 'mended', from);
  assert.equal(await containerd.actor.tryTcp(SERVER, 81), 'EPERM');
  assert.equal(await containerd.actor.tryTcp(SERVER, 80), 'ok');

  const metrics = await agent.metrics();
  const series = `postern_drop_count_total{workload="node/kubelet.service",direction="egress",policy="ClusterEgressPolicy/runtime",reason="no_rule"}`;
  assert.equal(metrics.get(series), 2);

  // Gone and made again, as systemctl restart does.
  const again = agent.lines.length;
  await lab.removeCgroup(containerd.cgroup ?? '');
  await agent.line((line) => line.event === 'problem', again);
  await agent.applied(() => {
    lab.cgroup('system.slice/containerd.service');
  });
  const reborn = lab.placeIn(containerd.netns, containerd.cgroup ?? '');
  assert.equal(await reborn.actor.tryTcp(SERVER, 81), 'EPERM');

  await agent.applied(() => folder.remove('policy.yaml'));
  assert.equal(await kubelet.actor.tryTcp(SERVER, 81), 'ok');
  await agent.stop();
});

test('effect, mode and onDeny hold for units; a policy for pods holds no unit, and the other way round', async (t) => {
  const { lab, folder, service } = await world(t);
  const kubelet = await service('kubelet', 1);
  const pod = await lab.workload('pod', { addresses: ['198.18.2.9'], cgroup: 'kubepods/pod1111' });
  folder.write(
    'pod.yaml',
    `{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: node, uid: "1111"}, spec: {hostNetwork: true}}`,
  );
  folder.write('audit.yaml', policy('audited', 80, 'mode: Audit'));
  const agent = await startAgent(lab, folder);
  assert.equal(await kubelet.actor.tryTcp(SERVER, 81), 'ok');
  const told = await agent.line((line) => line.event === 'audit');
  assert.deepEqual([told.workload, told.policy], ['node/kubelet.service', 'ClusterEgressPolicy/audited']);
  assert.equal(await pod.actor.tryTcp(SERVER, 81), 'ok');

  await agent.applied(() => folder.write('audit.yaml', policy('audited', 80, 'onDeny: Drop')));
  assert.equal(await kubelet.actor.tryTcp(SERVER, 81, 300), 'timeout');
  await agent.applied(() => folder.write('limit.yaml', policy('limit', 81, 'effect: Limit')));
  assert.equal(await kubelet.actor.tryTcp(SERVER, 80), 'EPERM');

  await agent.applied(() => {
    folder.remove('limit.yaml');
    folder.write(
      'audit.yaml',
      policy('audited', 80)
        .replace('nodeServices: {units: [kubelet.service]}', 'namespaces: {}')
        .replace('spec:', 'spec:\n  hostNetwork: Include'),
    );
  });
  assert.equal(await kubelet.actor.tryTcp(SERVER, 81), 'ok');
  assert.equal(await pod.actor.tryTcp(SERVER, 81), 'EPERM');
  await agent.stop();
});

test('nodeSelector: against the labels of this Node; where none describes it, {} alone selects it', async (t) => {
  const { lab, folder, service } = await world(t);
  const kubelet = await service('kubelet', 1);
  folder.write(
    'policy.yaml',
    policy('some', 80, '', 'nodeSelector: {matchLabels: {pool: a}}, units: [kubelet.service]'),
  );
  const agent = await startAgent(lab, folder, '--node-name', 'here');
  assert.equal(await kubelet.actor.tryTcp(SERVER, 81), 'ok');
  await agent.applied(() => folder.write('node.yaml', node('{pool: a}')));
  assert.equal(await kubelet.actor.tryTcp(SERVER, 81), 'EPERM');
  await agent.applied(() => folder.write('node.yaml', node('{pool: b}')));
  assert.equal(await kubelet.actor.tryTcp(SERVER, 81), 'ok');
  await agent.stop();
});

test('explain answers for a unit: held, not held, in the way of no pod of the same name', () => {
  const folder = new PolicyFolder();
  try {
    folder.write('policy.yaml', policy('runtime', 80));
    const ask = (from: string, port: number): { verdict: string; policy: string | null } => {
      const args = ['explain', '--policies', folder.path, '--from', from, '--to', SERVER, '--port', String(port)];
      return JSON.parse(execFileSync(POSTERN, [...args, '-o', 'json'], { encoding: 'utf8' }));
    };
    assert.equal(ask('node/kubelet.service', 80).verdict, 'allow');
    const denied = ask('node/kubelet.service', 81);
    assert.deepEqual([denied.verdict, denied.policy], ['deny', 'ClusterEgressPolicy/runtime']);
    assert.equal(ask('node/sshd.service', 81).verdict, 'allow');
    folder.write(
      'pod.yaml',
      '{apiVersion: v1, kind: Pod, metadata: {name: kubelet.service, namespace: node}, spec: {}}',
    );
    assert.equal(
      ask('node/kubelet.service', 81).verdict,
      'allow',
      'a pod of that name is who is meant, and is not held',
    );
  } finally {
    folder.close();
  }
});
