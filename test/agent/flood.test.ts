// SPDX-License-Identifier: Apache-2.0
// What does one workload's flood of refusals do to the others, and to the agent? Counts alone are looked at, never how fast it went.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test from 'node:test';
import { EVENTS_BURST, EVENTS_PER_SECOND } from '#build/generated/abi.ts';
import { PolicyFolder, startAgent } from '../support/agent.ts';
import { Lab } from '../support/lab.ts';

const SERVER = '198.18.1.1';
const DATAGRAMS = 1_000_000;

function pod(name: string, cgroup: string): string {
  return `apiVersion: v1
kind: Pod
metadata: {name: ${name}, namespace: shop, annotations: {postern.dev/cgroup: ${cgroup}}}
spec: {containers: [{name: c, image: i}]}
---
`;
}

const POLICY = `apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: all, namespace: shop}
spec:
  podSelector: {}
  egress: [{to: [{networks: [${SERVER}/32]}], ports: [{port: 80}]}]
`;

test('a million refused datagrams are counted to the last; no more of them are told than its budget, and all of another that is quiet', async (t) => {
  const lab = await Lab.create();
  const folder = new PolicyFolder();
  const base = mkdtempSync(path.join(tmpdir(), `postern-flood-${process.pid}-`));
  t.after(async () => {
    await lab.close();
    folder.close();
    rmSync(base, { recursive: true, force: true });
  });
  const program = path.join(base, 'flood');
  execFileSync('g++', ['-O2', '-Wall', '-Werror', '-o', program, path.join(import.meta.dirname, 'flood.cc')]);
  await lab.addOutside(SERVER);
  await lab.outside.actor.listen('TCP', SERVER, 80);
  const loud = await lab.workload('loud', { addresses: ['198.18.2.1'] });
  const quiet = await lab.workload('quiet', { addresses: ['198.18.2.5'] });
  folder.write('pods.yaml', pod('loud', loud.cgroupPath) + pod('quiet', quiet.cgroupPath));
  folder.write('policy.yaml', POLICY);
  const agent = await startAgent(lab, folder);

  const beganMs = performance.now();
  const flood = loud.exec(program, [SERVER, String(DATAGRAMS)], { timeoutMs: 300_000 });
  await agent.line(({ event, workload }) => event === 'drop' && workload === 'shop/loud');
  // As many as are told of one workload at once, and each a kind of its own.
  for (let port = 1001; port <= 1020; port += 1) {
    assert.equal(await quiet.actor.tryTcp(SERVER, 80), 'ok');
    assert.equal(await quiet.actor.tryTcp(SERVER, port), 'EPERM');
  }
  const { status, stdout } = await flood;
  assert.deepEqual([status, stdout.trim()], [0, String(DATAGRAMS)]);

  const metrics = await agent.metrics();
  const refused = (name: string) =>
    metrics.get(
      `postern_drop_count_total{workload="shop/${name}",direction="egress",policy="EgressPolicy/shop/all",reason="no_rule"}`,
    );
  assert.deepEqual([refused('loud'), refused('quiet')], [DATAGRAMS, 20]);
  const lost = (why: string) => metrics.get(`postern_events_lost_total{why="${why}"}`) ?? 0;
  const read = DATAGRAMS - lost('events_rate') - lost('events_full');
  const seconds = (performance.now() - beganMs) / 1000;
  assert.equal(lost('events_full'), 0, 'nobody else finds the buffer full');
  assert.ok(read > 0 && read <= EVENTS_BURST + EVENTS_PER_SECOND * (seconds + 1), `${read} in ${seconds} s`);

  assert.equal(await agent.stop(), 0);
  const told = new Set(agent.lines.flatMap((line) => (line.workload === 'shop/quiet' ? [line.port] : [])));
  assert.equal(told.size, 20, 'nothing of the quiet one is missing');
});
