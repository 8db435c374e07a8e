// SPDX-License-Identifier: Apache-2.0
// From a policy's domainNames to a connection: the agent on a folder, a pod behind its guard, a real resolver, real clients. What was told before
// a policy named it works at once; what it names no more does not; and learning goes on while no agent runs.
import assert from 'node:assert/strict';
import { type ChildProcess, execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import test from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { launchAgentIn, PolicyFolder, type TestAgent } from '../support/agent.ts';
import { Lab, type Place } from '../support/lab.ts';

const RESOLVER = '198.18.200.53';
const UNBOUND = '198.18.200.54';
const SITE = '198.18.200.1';
const OTHER = '198.18.200.2';
const POD = '198.18.1.1';
const POD6 = 'fd00:18:1::1';
const PORT = 4433;
const POSTERN = path.join(import.meta.dirname, '../../bin/postern');

const QUIET = [
  '--keep-in-foreground',
  '--no-resolv',
  '--no-hosts',
  '--conf-file=/dev/null',
  '--pid-file',
  '--user=root',
];

const OBJECTS = (cgroup: string) => `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: 0a-1, labels: {app: web}, annotations: {postern.dev/cgroup: ${cgroup}}}
spec: {containers: [{name: c, image: i}]}
status: {podIPs: [{ip: ${POD}}, {ip: "${POD6}"}]}
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

interface World {
  readonly lab: Lab;
  readonly folder: PolicyFolder;
  readonly pod: Place;
  readonly resolver: ChildProcess;
}

/** Servers of `names` outside, a dnsmasq that tells them (`options`), and the pod shop/web under `policy`; nobody holds it yet. */
async function world(t: test.TestContext, policy: string, options: readonly string[]): Promise<World> {
  const lab = await Lab.create();
  const folder = new PolicyFolder();
  t.after(async () => {
    await lab.close();
    folder.close();
  });
  await lab.addOutside(RESOLVER, UNBOUND, SITE, OTHER);
  await lab.outside.actor.listen('TCP', '::', PORT);
  const pod = await lab.workload('web', { addresses: [POD, POD6] });
  pod.actor; // a process: by it the guard is found its place
  folder.write('pods.yaml', OBJECTS(pod.cgroupPath));
  folder.write('policy.yaml', policy);
  return { lab, folder, pod, resolver: await startDnsmasq(lab, options) };
}

async function startDnsmasq(lab: Lab, options: readonly string[]): Promise<ChildProcess> {
  const listen = ['--bind-interfaces', `--listen-address=${RESOLVER}`, `--host-record=up.example,${SITE}`];
  const child = lab.outside.spawn('/usr/sbin/dnsmasq', [...QUIET, ...listen, ...options], { stdio: 'ignore' });
  for (let tries = 0; (await ask(lab.outside, 'up.example')) !== SITE; tries++) {
    assert.ok(tries < 100, 'dnsmasq does not answer');
  }
  return child;
}

async function start({ lab, folder }: World, ...options: readonly string[]): Promise<TestAgent> {
  const agent = launchAgentIn(
    { netns: lab.outside.netns, root: lab.root },
    ...([lab, folder] as const),
    ...['--resolver', RESOLVER, '--resolver', UNBOUND, ...options],
  );
  await agent.line(({ event }) => event === 'guarded' || event === 'taken_over');
  return agent;
}

const SHOP = [
  `--host-record=api.shop.example,${SITE}`,
  `--host-record=other.example,${OTHER}`,
  '--cname=www.shop.example,api.shop.example',
];

test('a pod connects to what its policy names, once it has asked, and to nothing else', async (t) => {
  const all = await world(t, POLICY('"*.shop.example"'), SHOP);
  const { folder, pod } = all;
  const agent = await start(all);
  const { actor } = pod;
  const connect = (to: string) => actor.tryTcp(to, PORT, 5000);
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

test('an answer that comes while no agent runs teaches, and whoever takes over knows it', async (t) => {
  const all = await world(t, POLICY('"*.shop.example"'), SHOP);
  const { pod, resolver } = all;
  const first = await start(all);
  resolver.kill('SIGSTOP'); // its queue keeps the question
  const asked = ask(pod, 'api.shop.example');
  await questionAt(all.lab);
  await first.stop('SIGKILL');
  resolver.kill('SIGCONT');
  assert.equal(await asked, SITE);
  assert.equal(await pod.actor.tryTcp(SITE, PORT, 5000), 'ok', 'learned without an agent');
  assert.equal(await ask(pod, 'other.example'), OTHER, 'asked and answered without an agent');
  assert.equal(await pod.actor.tryTcp(OTHER, PORT, 5000), 'EPERM');

  const second = await start(all);
  assert.equal(await pod.actor.tryTcp(SITE, PORT, 5000), 'ok');
  await second.applied(() => all.folder.write('policy.yaml', POLICY('other.example')));
  assert.equal(await pod.actor.tryTcp(OTHER, PORT, 5000), 'ok', 'what was told while nobody ran');
  assert.equal(await pod.actor.tryTcp(SITE, PORT, 5000), 'EPERM');
});

test('the first policy that speaks of names finds what was told while none did', async (t) => {
  const all = await world(
    t,
    POLICY('"*.shop.example"').replace('domainNames: ["*.shop.example"]', 'entities: [Host]'),
    SHOP,
  );
  const agent = await start(all);
  const connect = () => all.pod.actor.tryTcp(SITE, PORT, 5000);
  assert.equal(await ask(all.pod, 'api.shop.example'), SITE);
  assert.equal(await connect(), 'EPERM');
  const drop = await agent.line(({ event, address }) => event === 'drop' && address === SITE);
  assert.equal(drop.name, 'api.shop.example');
  await agent.applied(() => all.folder.write('policy.yaml', POLICY('api.shop.example')));
  assert.equal(await connect(), 'ok');
});

/** A UDP socket that stays: says of each line that is written to it whether its echo came. */
function datagrams(pod: Place): { echoes(): Promise<boolean>; close(): void } {
  const script = `exec 3<>/dev/udp/${SITE}/${PORT}; while read -r; do echo a >&3 && read -r -N 1 -t 5 <&3 && echo ok || echo no; done`;
  const child = pod.spawn('bash', ['-c', script]);
  const lines = createInterface({ input: child.stdout ?? assert.fail() })[Symbol.asyncIterator]();
  return {
    async echoes() {
      child.stdin?.write('\n');
      return (await lines.next()).value === 'ok';
    },
    close: () => void child.kill(),
  };
}

test('an answer that has expired stops what is new, and nothing that goes on', async (t) => {
  const policy = (names: string) =>
    POLICY(names).replace(/ports: .*\}/, `ports: [{port: ${PORT}}, {port: ${PORT}, protocol: UDP}]}`);
  const all = await world(t, policy('api.shop.example'), SHOP); // dnsmasq gives its own records no time to live
  const { pod, folder, lab } = all;
  await lab.outside.actor.listen('UDP', SITE, PORT);
  const agent = await start(all, '--dns-min-ttl', '2');
  const { actor } = pod;
  let connection: number | undefined;
  let socket: ReturnType<typeof datagrams> | undefined;
  for (let tries = 0; ; tries++) {
    assert.ok(tries < 20, 'what was told had expired each time before it was used');
    assert.equal(await ask(pod, 'api.shop.example'), SITE);
    const connected = await actor.connect(SITE, PORT, 5000);
    socket = datagrams(pod);
    connection = connected.socket;
    if (connection !== undefined && (await socket.echoes())) break;
    socket.close();
  }
  for (let tries = 0; (await actor.tryTcp(SITE, PORT, 5000)) !== 'EPERM'; tries++) {
    assert.ok(tries < 600, 'it never expires');
    await pause(100);
  }
  assert.equal(await actor.tryUdp(SITE, PORT, 5000), 'EPERM');
  const goesOn = async () => [await actor.exchange(connection, 'a', 5000), await socket.echoes()];
  assert.deepEqual(await goesOn(), ['ok', true]);
  const { names } = JSON.parse(await postern('names', '--socket', folder.socket, '-o', 'json'));
  assert.deepEqual(
    names.map(({ name, expiresInSeconds }: Record<string, unknown>) => [name, Number(expiresInSeconds) <= 0]),
    [['api.shop.example', true]],
  );
  await agent.applied(() => folder.write('policy.yaml', policy('api.shop.example, other.example')));
  assert.deepEqual(await goesOn(), ['ok', true], 'judged again, by the name that allowed it');
  assert.equal(await actor.tryTcp(SITE, PORT, 5000), 'EPERM');
  await agent.applied(() => folder.write('policy.yaml', policy('other.example')));
  const [tcp, udp] = await goesOn();
  assert.ok(tcp !== 'ok' && !udp, 'the policy names it no more');
  socket.close();
});

/** As many questions as may come at once are kept: dnsmasq's socket holds some hundred. */
async function startUnbound(lab: Lab, folder: string, data: readonly string[]): Promise<void> {
  const file = path.join(folder, 'unbound.conf');
  writeFileSync(
    file,
    `server:
  do-daemonize: no
  chroot: ""
  username: ""
  directory: "${folder}"
  pidfile: ""
  use-syslog: no
  so-rcvbuf: 16m
  interface: ${UNBOUND}
  access-control: 198.18.0.0/15 allow
  local-zone: "example." static
${data.map((record) => `  local-data: "${record}"`).join('\n')}
remote-control:
  control-enable: no
`,
  );
  lab.outside.spawn('/usr/sbin/unbound', ['-c', file], { stdio: 'ignore' });
  const args = [`@${UNBOUND}`, '+short', '+tries=1', '+time=5', data[0]?.split(' ')[0] ?? ''];
  for (let tries = 0; (await lab.outside.exec('dig', args)).status !== 0; tries++) {
    assert.ok(tries < 100, 'unbound does not answer');
  }
}

/** Waits until a question lies in the resolver's socket. */
async function questionAt(lab: Lab): Promise<void> {
  for (let tries = 0; ; tries++) {
    const { stdout } = await lab.outside.exec('ss', ['-Hunl', `src = ${RESOLVER}:53`]);
    if (Number(/^\S+\s+(\d+)/.exec(stdout.trim())?.[1] ?? 0) > 0) return;
    assert.ok(tries < 1000, `no question: ${stdout}`);
    await pause(20);
  }
}

const NAMES = 1000;
const PROCESSES = 50;

test('a thousand names are asked and connected to at once by fifty processes: none is refused, and none asks twice', async (t) => {
  const name = (n: number) => (n % 2 === 0 ? `n${n}.exact.example` : `n${n}.deep.wild.example`);
  const numbers = Array.from({ length: NAMES }, (_, n) => n);
  const exact = numbers.filter((n) => n % 2 === 0).map(name);
  const peers = Array.from({ length: exact.length / 100 }, (_, n) => exact.slice(n * 100, n * 100 + 100));
  const policy = `apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  egress:
  - to: [{entities: [DNS]}]
  - to: [${[...peers, ['"*.wild.example"']].map((names) => `{domainNames: [${names.join(', ')}]}`).join(', ')}]
    ports: [{port: ${PORT}}]
`;
  const folder = mkdtempSync(path.join(tmpdir(), `postern-names-${process.pid}-`));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const all = await world(t, policy, []);
  await all.lab.ip(null, ['route add local 198.18.64.0/20 dev lo', 'route add local fd00:18:64::/64 dev lo']);
  await startUnbound(
    all.lab,
    folder,
    numbers.flatMap((n) => [
      `${name(n)}. A 198.18.${64 + (n >> 8)}.${n & 255}`,
      `${name(n)}. AAAA fd00:18:64::${n.toString(16)}`,
    ]),
  );
  const agent = await start(all);
  const actors = Array.from({ length: PROCESSES }, () => all.pod.newActor());
  const outcomes = await Promise.all(
    actors.map((actor, nth) => actor.reach(numbers.filter((n) => n % PROCESSES === nth).map(name), UNBOUND, PORT)),
  );
  assert.deepEqual(
    outcomes.filter((outcome) => outcome !== 'ok'),
    [],
  );
  const { metrics } = await agent.line(({ event }) => event === 'ready');
  const { stdout } = await all.lab.outside.exec('curl', ['-s', String(metrics)]);
  const counts = stdout.split('\n').filter((line) => /^postern_(drop_count|events_lost|dns_untaught)_total/.test(line));
  assert.ok(counts.length > 5, stdout);
  assert.deepEqual(
    // Two thousand sockets have asked, more than a workload has room for flows: its own oldest went, and opens nothing.
    counts.filter((line) => !line.endsWith(' 0') && !line.includes('flows_evicted')),
    [],
  );
  assert.equal(await agent.stop(), 0);
});
