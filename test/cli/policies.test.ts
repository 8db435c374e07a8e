// SPDX-License-Identifier: Apache-2.0
// Does `postern policies` tell what a running agent holds here, and what it does not?
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { statSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { launchAgent, PolicyFolder, startAgent } from '../support/agent.ts';
import { Lab } from '../support/lab.ts';

const POSTERN = path.join(import.meta.dirname, '../../bin/postern');

function policies(...args: readonly string[]): Promise<{ status: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(POSTERN, ['policies', ...args], (error, stdout, stderr) => {
      resolve({ status: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

const PODS = (cgroup: string) => `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}, annotations: {postern.dev/cgroup: ${cgroup}}}
spec: {containers: [{name: c, image: i}]}
---
apiVersion: v1
kind: Pod
metadata: {name: elsewhere, namespace: shop, uid: 0a-1, labels: {app: web}}
spec: {containers: [{name: c, image: i}]}
`;
const EGRESS = (name: string, egress: string, more = '') => `apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: ${name}, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, egress: ${egress}${more}}
`;

test('each policy with whom it selects here, and whether the kernel holds it', async (t) => {
  const lab = await Lab.create();
  const folder = new PolicyFolder();
  t.after(async () => {
    await lab.close();
    folder.close();
  });
  const web = lab.placeIn(lab.outside.netns, lab.cgroup('web'));
  folder.write('pods.yaml', PODS(web.cgroupPath));
  folder.write('a.yaml', EGRESS('a', '[]', ', mode: Audit'));
  folder.write(
    'b.yaml',
    'apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: b, namespace: shop}\nspec: {podSelector: {matchLabels: {app: none}}, policyTypes: [Egress]}\n',
  );
  const agent = await startAgent(lab, folder);
  assert.equal(statSync(folder.socket).mode & 0o777, 0o600);

  const text = await policies('--socket', folder.socket);
  assert.equal(text.stderr, '');
  assert.equal(
    text.stdout,
    [
      'KIND           NAMESPACE  NAME  EFFECT   MODE     WORKLOADS  PROGRAMMED',
      'EgressPolicy   shop       a     Isolate  Audit    1/2        True',
      'NetworkPolicy  shop       b     Isolate  Enforce  0/0        True',
      '',
    ].join('\n'),
  );
  const wide = await policies('-o', 'wide', '--socket', folder.socket);
  assert.match(wide.stdout, /SELECTED\n.*shop\/elsewhere,shop\/web\n.*<none>\n$/);

  const from = agent.lines.length;
  folder.write(
    'limits.yaml',
    Array.from({ length: 9 }, (_, index) => EGRESS(`limit${index}`, '[]', ', effect: Limit')).join('---\n'),
  );
  await agent.line((line) => line.event === 'applied', from);
  const json = JSON.parse((await policies('-o', 'json', '--socket', folder.socket)).stdout);
  const of = (name: string) => json.policies.find((one: { name: string }) => one.name === name);
  assert.equal(json.ready, true);
  assert.deepEqual(of('a'), {
    ...{ kind: 'EgressPolicy', namespace: 'shop', name: 'a', effect: 'Isolate', mode: 'Audit' },
    workloads: [
      { name: 'shop/elsewhere', bound: false },
      { name: 'shop/web', bound: true },
    ],
    ...{ programmed: true, problem: null },
  });
  assert.deepEqual([of('limit0').programmed, of('limit0').problem], [true, null]);
  assert.equal(of('limit8').programmed, false);
  assert.match(of('limit8').problem, /ninth Limit/);
  folder.remove('a.yaml');
  folder.write('b.yaml', '');
  const refused = await agent.line((line) => line.event === 'problem', from);
  assert.equal(refused.code, 'limit_exceeded');
  assert.match((await policies('--socket', folder.socket)).stdout, /PROBLEM\n/);

  const second = launchAgent(lab, folder);
  assert.equal((await second.ended()).status, 1);
  assert.match(second.errors, /another agent, process \d+, holds/);
  assert.equal((await policies('--socket', folder.socket)).status, 0, 'the first still answers');

  agent.child.kill('SIGKILL');
  await agent.ended();
  const gone = await policies('--socket', folder.socket);
  assert.equal(gone.status, 1);
  assert.match(gone.stderr, /no agent is running/);
  folder.remove('limits.yaml');
  await startAgent(lab, folder);
  assert.equal((await policies('--socket', folder.socket)).status, 0, 'the socket of a dead agent is replaced');
});
