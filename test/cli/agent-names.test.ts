// SPDX-License-Identifier: Apache-2.0
// From a policy's domainNames to a connection: the agent on a folder, a pod behind its guard, a real resolver, real clients. What was told before
// a policy named it works at once; what it names no more does not.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import path from 'node:path';
import test from 'node:test';
import { launchAgentIn, PolicyFolder } from '../support/agent.ts';
import { Lab, type Place } from '../support/lab.ts';

const RESOLVER = '198.18.200.53';
const SITE = '198.18.200.1';
const OTHER = '198.18.200.2';
const POD = '198.18.1.1';
const PORT = 4433;
const POSTERN = path.join(import.meta.dirname, '../../bin/postern');
const PRELOAD = path.join(import.meta.dirname, '../support/with-names.ts');

const OBJECTS = (cgroup: string) => `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: 0a-1, labels: {app: web}, annotations: {postern.dev/cgroup: ${cgroup}}}
spec: {containers: [{name: c, image: i}]}
status: {podIP: ${POD}}
`;
const POLICY = (names: string) => `apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  egress:
  - to: [{entities: [DNS]}]
  - {to: [{domainNames: [${names}]}], ports: [{port: ${PORT}}]}
`;

function postern(...args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(POSTERN, args, (error, stdout) => (error === null ? resolve(stdout) : reject(error)));
  });
}

const ask = async (pod: Place, name: string): Promise<string> =>
  (await pod.exec('dig', [`@${RESOLVER}`, '+short', '+tries=1', '+time=5', name])).stdout.trim();

test('a pod connects to what its policy names, once it has asked, and to nothing else', async (t) => {
  const lab = await Lab.create();
  const folder = new PolicyFolder();
  t.after(async () => {
    await lab.close();
    folder.close();
  });
  await lab.addOutside(RESOLVER, SITE, OTHER);
  for (const address of [SITE, OTHER]) await lab.outside.actor.listen('TCP', address, PORT);
  const quiet = [
    '--keep-in-foreground',
    '--no-resolv',
    '--no-hosts',
    '--conf-file=/dev/null',
    '--pid-file',
    '--user=root',
  ];
  const records = [`--host-record=api.shop.example,${SITE}`, `--host-record=other.example,${OTHER}`];
  lab.outside.spawn(
    '/usr/sbin/dnsmasq',
    [
      ...quiet,
      '--bind-interfaces',
      `--listen-address=${RESOLVER}`,
      ...records,
      '--cname=www.shop.example,api.shop.example',
    ],
    { stdio: 'ignore' },
  );
  const pod = await lab.workload('web', { addresses: [POD] });
  const { actor } = pod; // a process: by it the guard is found its place
  folder.write('pods.yaml', OBJECTS(pod.cgroupPath));
  folder.write('policy.yaml', POLICY('"*.shop.example"'));
  const agent = launchAgentIn(
    { netns: lab.outside.netns, root: lab.root, env: { NODE_OPTIONS: `--import=${PRELOAD}` } },
    ...([lab, folder] as const),
    ...['--resolver', RESOLVER],
  );
  await agent.line(({ event }) => event === 'guarded');
  const connect = (to: string) => actor.tryTcp(to, PORT, 5000);
  for (let tries = 0; (await ask(lab.outside, 'api.shop.example')) !== SITE; tries++) {
    assert.ok(tries < 100, 'dnsmasq does not answer');
  }

  assert.equal(await connect(SITE), 'EPERM', 'nobody asked yet');
  assert.equal(await ask(pod, 'API.shop.example'), SITE);
  assert.equal(await connect(SITE), 'ok');
  assert.equal(await ask(pod, 'other.example'), OTHER);
  assert.equal(await connect(OTHER), 'EPERM', 'asked, and not allowed');
  const drop = await agent.line(({ event, address }) => event === 'drop' && address === OTHER);
  assert.deepEqual([drop.name, drop.reason], ['other.example', 'no_rule']);

  const { names } = JSON.parse(await postern('names', '--socket', folder.socket, '-o', 'json'));
  assert.deepEqual(
    names.map(({ workload, name, address }: Record<string, unknown>) => [workload, name, address]),
    [
      ['shop/web', 'api.shop.example', SITE],
      ['shop/web', 'other.example', OTHER],
    ],
  );
  for (const { expiresInSeconds } of names) assert.ok(expiresInSeconds > 0 && expiresInSeconds <= 60);

  await agent.applied(() => folder.write('policy.yaml', POLICY('other.example')));
  assert.equal(await connect(OTHER), 'ok', 'what was told before the policy named it');
  assert.equal(await connect(SITE), 'EPERM');
  await agent.applied(() => folder.write('policy.yaml', POLICY('www.shop.example, other.example')));
  assert.equal(await connect(SITE), 'EPERM', 'this name was not asked for');
  assert.match(await ask(pod, 'www.shop.example'), new RegExp(`${SITE}$`));
  assert.equal(await connect(SITE), 'ok', 'every address of an answer is its question’s');
});
