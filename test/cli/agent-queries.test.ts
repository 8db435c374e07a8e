// SPDX-License-Identifier: Apache-2.0
// From `dns.queries: AllowedNamesOnly` to what a pod's resolver is asked: the agent on a folder, a pod behind its guard, dnsmasq, dig and glibc.
import assert from 'node:assert/strict';
import test from 'node:test';
import { launchAgentIn, PolicyFolder } from '../support/agent.ts';
import { Lab, type Place } from '../support/lab.ts';

const RESOLVER = '198.18.200.53';
const SITE = '198.18.200.1';
const POD = '198.18.1.1';

const OBJECTS = (cgroup: string) => `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: 0a-1, labels: {app: web}, annotations: {postern.dev/cgroup: ${cgroup}}}
spec: {containers: [{name: c, image: i}]}
status: {podIP: ${POD}}
`;
const POLICY = (dns: string) => `apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  dns: ${dns}
  egress:
  - to: [{entities: [DNS]}]
  - {to: [{domainNames: [api.shop.example]}], ports: [{port: 443}]}
`;

async function dig(place: Place, name: string, ...more: readonly string[]): Promise<string> {
  const { stdout, status } = await place.exec('dig', [`@${RESOLVER}`, '+tries=1', '+time=5', ...more, name]);
  return /status: (\w+)/.exec(stdout)?.[1] ?? `exit ${status}`;
}

test('a pod may ask for what its policies list, and is refused all else at once', async (t) => {
  const lab = await Lab.create();
  const folder = new PolicyFolder();
  t.after(async () => {
    await lab.close();
    folder.close();
  });
  await lab.addOutside(RESOLVER, SITE);
  lab.outside.spawn(
    '/usr/sbin/dnsmasq',
    [
      ...['--keep-in-foreground', '--no-resolv', '--no-hosts', '--conf-file=/dev/null', '--pid-file', '--user=root'],
      ...['--bind-interfaces', `--listen-address=${RESOLVER}`, '--local=/example/', '--local=/local/'],
      ...['api.shop.example', 'evil.example'].map((name) => `--host-record=${name},${SITE}`),
    ],
    { stdio: 'ignore' },
  );
  const pod = await lab.workload('web', { addresses: [POD] });
  const { actor } = pod; // a process: by it the guard is found its place
  assert.equal(await actor.received(), 0);
  folder.write('pods.yaml', OBJECTS(pod.cgroupPath));
  folder.write('policy.yaml', POLICY('{queries: AllowedNamesOnly}'));
  const agent = launchAgentIn(
    { netns: lab.outside.netns, root: lab.root },
    ...([lab, folder] as const),
    ...['--resolver', RESOLVER],
  );
  await agent.line(({ event }) => event === 'guarded');
  for (let tries = 0; (await dig(lab.outside, 'api.shop.example')) !== 'NOERROR'; tries++) {
    assert.ok(tries < 100, 'dnsmasq does not answer');
  }

  assert.equal(await dig(pod, 'api.shop.example'), 'NOERROR');
  assert.equal(await dig(pod, 'nobody.svc.cluster.local'), 'NXDOMAIN', 'the cluster’s own may be asked');
  assert.equal(await dig(pod, 'dGhpcyBpcyBh.Evil.example', 'TXT'), 'REFUSED');
  const drop = await agent.line(({ event, reason }) => event === 'drop' && reason === 'name_not_allowed');
  assert.deepEqual(
    [drop.name, drop.policy, drop.address, drop.port, drop.protocol],
    ['dghpcybpcybh.evil.example', 'EgressPolicy/shop/web', RESOLVER, 53, 'UDP'],
  );
  // A TCP connection that asks ends at once, by no timeout of dig's.
  const cut = await pod.exec('dig', [`@${RESOLVER}`, '+tries=1', '+time=60', '+tcp', 'evil.example'], {
    timeoutMs: 120_000,
  });
  assert.equal(cut.status, 9, cut.stdout);
  assert.doesNotMatch(cut.stdout, /timed out/);
  await agent.line(({ event, protocol }) => event === 'drop' && protocol === 'TCP');

  await agent.applied(() => folder.write('policy.yaml', POLICY('{queries: AllowedNamesOnly, names: ["*.example"]}')));
  assert.equal(await dig(pod, 'evil.example'), 'NOERROR');
  await agent.applied(() => folder.write('policy.yaml', POLICY('{queries: AllowedNamesOnly}')));
  assert.equal(await dig(pod, 'evil.example'), 'REFUSED');
  await agent.applied(() => folder.write('policy.yaml', POLICY('{queries: Any}')));
  assert.equal(await dig(pod, 'evil.example'), 'NOERROR');
});
