// SPDX-License-Identifier: Apache-2.0
// Does a running agent hold real processes to what its folder says, through edits, mistakes, late cgroups and its own end?
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { launchAgent, PolicyFolder, startAgent, TestAgent } from '../support/agent.ts';
import { Lab, type Place } from '../support/lab.ts';

const SERVER = '198.18.1.1';
const SERVER6 = 'fd00:18:1::1';

function pod(place: Place, labels = '{app: web}', extra = ''): string {
  return `apiVersion: v1
kind: Pod
metadata:
  name: ${place.name}
  namespace: shop
  labels: ${labels}
  annotations: {postern.dev/cgroup: ${place.cgroupPath}}
spec: {containers: [{name: c, image: i}]${extra}}
status: {podIPs: [${place.addresses.map((ip) => `{ip: "${ip}"}`).join(', ')}]}
`;
}

function egress(name: string, rules: string, more = ''): string {
  return `apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: ${name}, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
${more}  egress: ${rules}
`;
}

const PORT_80 = `[{to: [{networks: [198.18.1.1/32, "fd00:18:1::1/128"]}], ports: [{port: 80}]}]`;
const PORT_80_81 = `[{to: [{networks: [198.18.1.1/32, "fd00:18:1::1/128"]}], ports: [{port: 80, endPort: 81}]}]`;

interface World {
  readonly lab: Lab;
  readonly folder: PolicyFolder;
  readonly web: Place;
}

/** Servers outside on TCP 80 and 81 and UDP 53, and the workload shop/web, all described in no file yet. */
async function world(t: test.TestContext): Promise<World> {
  const lab = await Lab.create();
  const folder = new PolicyFolder();
  t.after(async () => {
    await lab.close();
    folder.close();
  });
  await lab.addOutside(SERVER, SERVER6);
  for (const address of [SERVER, SERVER6]) {
    await lab.outside.actor.listen('TCP', address, 80);
    await lab.outside.actor.listen('TCP', address, 81);
    await lab.outside.actor.listen('UDP', address, 53);
  }
  const web = await lab.workload('web', { addresses: ['198.18.2.1', 'fd00:18:2::1'] });
  return { lab, folder, web };
}

test('what a policy allows passes, the rest is refused at once and told, and metrics say the same', async (t) => {
  const { lab, folder, web } = await world(t);
  folder.write('pods.yaml', pod(web));
  folder.write('policy.yaml', egress('web', PORT_80));
  const agent = await startAgent(lab, folder);
  const ready = await agent.line((line) => line.event === 'ready');
  assert.deepEqual([ready.workloads, ready.policies, ready.problems], [1, 1, 0]);

  for (const address of [SERVER, SERVER6]) {
    assert.equal(await web.actor.tryTcp(address, 80), 'ok', address);
    assert.equal(await web.actor.tryTcp(address, 81), 'EPERM', address);
    assert.equal(await web.actor.tryUdp(address, 53), 'EPERM', address);
  }
  for (let i = 0; i < 4; i += 1) await web.actor.tryTcp(SERVER, 81);

  const drop = await agent.line((line) => line.event === 'drop' && line.address === SERVER && line.port === 81);
  assert.deepEqual(
    { ...drop, time: 0, pid: 0, level: '' },
    {
      ...{
        time: 0,
        level: '',
        event: 'drop',
        workload: 'shop/web',
        cgroup: null,
        name: null,
        address: SERVER,
        destination: null,
        port: 81,
      },
      ...{
        protocol: 'TCP',
        icmp: null,
        process: drop.process,
        pid: 0,
        policy: 'EgressPolicy/shop/web',
        rule: null,
        ruleName: null,
        isolatedBy: ['EgressPolicy/shop/web'],
        reason: 'no_rule',
        shadow: null,
      },
      count: 1,
    },
  );
  assert.equal(drop.pid, web.actor.child.pid);
  const isRepeat = (line: { event: string }) => line.event === 'drop' && Reflect.get(line, 'port') === 81;
  await agent.line((line) => isRepeat(line) && line.count !== 1 && line.address === SERVER);
  const told = agent.lines.filter((line) => isRepeat(line) && line.address === SERVER);
  assert.equal(
    told.reduce((sum, line) => sum + Number(line.count), 0),
    5,
  );

  const metrics = await agent.metrics();
  const of = (reason: string) =>
    `{workload="shop/web",direction="egress",policy="EgressPolicy/shop/web",reason="${reason}"}`;
  assert.equal(metrics.get(`postern_drop_count_total${of('no_rule')}`), 8);
  assert.ok((metrics.get(`postern_forward_count_total${of('rule')}`) ?? 0) >= 6);
  assert.ok((metrics.get(`postern_forward_bytes_total${of('rule')}`) ?? 0) >= 6 * 40);
  assert.equal(metrics.get('postern_workloads{state="enforced"}'), 1);
  assert.equal(metrics.get('postern_policy_problems{severity="error"}'), 0);

  assert.equal(await agent.stop(), 0);
  assert.equal(agent.errors, '');
  assert.ok(agent.lines.some((line) => line.event === 'stopped'));
  assert.equal(await web.actor.tryTcp(SERVER, 81), 'EPERM', 'what is pinned outlives it');
});

test('an edit is enforced, an established flow it forbids ends at once, and one it allows goes on', async (t) => {
  const { lab, folder, web } = await world(t);
  folder.write('pods.yaml', pod(web));
  folder.write('policy.yaml', egress('web', PORT_80_81));
  const agent = await startAgent(lab, folder);
  const kept = (await web.actor.connect(SERVER, 80)).socket ?? 0;
  const cut = (await web.actor.connect(SERVER, 81)).socket ?? 0;
  const cut6 = (await web.actor.connect(SERVER6, 81)).socket ?? 0;
  for (const socket of [kept, cut, cut6]) assert.equal(await web.actor.exchange(socket), 'ok');

  const applied = await agent.applied(() => folder.write('policy.yaml', egress('web', PORT_80)));
  assert.deepEqual(applied.changed, ['shop/web']);
  assert.equal(typeof applied.ms, 'number');
  assert.equal(await web.actor.tryTcp(SERVER, 81), 'EPERM');
  assert.equal(await web.actor.exchange(kept), 'ok');
  // Longer than any reasonable end, so that only a hang fails.
  assert.notEqual(await web.actor.exchange(cut, 'x', 10_000), 'timeout');
  assert.notEqual(await web.actor.exchange(cut, 'x', 10_000), 'ok');
  assert.match(await web.actor.exchange(cut6, 'x', 10_000), /^(ECONNABORTED|ECONNRESET|EPIPE|closed)$/);

  await agent.applied(() => folder.write('policy.yaml', egress('web', PORT_80_81)));
  assert.equal(await web.actor.tryTcp(SERVER, 81), 'ok');
  await agent.applied(() => folder.remove('policy.yaml'));
  assert.equal(await web.actor.tryUdp(SERVER, 53), 'ok', 'no policy: everything passes');
});

test('Drop is silent, and Audit passes and is told', async (t) => {
  const { lab, folder, web } = await world(t);
  folder.write('pods.yaml', pod(web));
  folder.write('policy.yaml', egress('web', PORT_80, '  onDeny: Drop\n'));
  const agent = await startAgent(lab, folder);
  assert.equal(await web.actor.tryTcp(SERVER, 80), 'ok');
  assert.equal(await web.actor.tryTcp(SERVER, 81, 300), 'timeout');
  assert.equal(await web.actor.tryUdp(SERVER, 53, 300), 'timeout');
  const drop = await agent.line((line) => line.event === 'drop' && line.port === 53);
  assert.equal(drop.reason, 'no_rule');

  await agent.applied(() => folder.write('policy.yaml', egress('web', PORT_80, '  mode: Audit\n')));
  assert.equal(await web.actor.tryTcp(SERVER, 81), 'ok');
  const audit = await agent.line((line) => line.event === 'audit');
  assert.deepEqual(
    [audit.workload, audit.port, audit.policy, audit.reason],
    ['shop/web', 81, 'EgressPolicy/shop/web', 'no_rule'],
  );
  assert.equal(audit.pid, web.actor.child.pid);
  assert.match(String(audit.process), /^node/);
  const metrics = await agent.metrics();
  const series = '{workload="shop/web",direction="egress",policy="EgressPolicy/shop/web",reason="no_rule"}';
  assert.ok((metrics.get(`postern_would_drop_count_total${series}`) ?? 0) >= 1);
});

test('an object edited into an invalid one stays enforced, also over a restart, and is told until mended', async (t) => {
  const { lab, folder, web } = await world(t);
  folder.write('pods.yaml', pod(web));
  folder.write('policy.yaml', egress('web', PORT_80));
  const agent = await startAgent(lab, folder);
  folder.write('policy.yaml', egress('web', '[{to: [{networks: [198.18.0.0/99]}]}]'));
  const problem = await agent.line((line) => line.event === 'problem');
  assert.match(String(problem.where), /policy\.yaml:\d+:\d+$/);
  assert.equal(problem.object, 'EgressPolicy/shop/web');
  assert.equal(await web.actor.tryTcp(SERVER, 80), 'ok');
  assert.equal(await web.actor.tryTcp(SERVER, 81), 'EPERM');
  assert.equal((await agent.metrics()).get('postern_policy_problems{severity="error"}'), 1);
  assert.equal(await agent.stop(), 0);
  for (const file of readdirSync(path.join(folder.stateDir, 'objects'))) {
    assert.equal(statSync(path.join(folder.stateDir, 'objects', file)).mode & 0o777, 0o600);
  }

  const again = await startAgent(lab, folder);
  assert.equal(await web.actor.tryTcp(SERVER, 80), 'ok');
  assert.equal(await web.actor.tryTcp(SERVER, 81), 'EPERM');
  folder.write('policy.yaml', 'kind: [');
  await again.line((line) => line.event === 'mended');
  assert.equal(await web.actor.tryTcp(SERVER, 81), 'EPERM', 'a file that is no YAML keeps what it held');
  await again.applied(() => folder.write('policy.yaml', egress('web', PORT_80_81)));
  assert.equal(await web.actor.tryTcp(SERVER, 81), 'ok');
  const open = new Set<string>();
  for (const line of again.lines) {
    if (line.event === 'problem') open.add(`${line.where}${line.object}${line.msg}`);
    if (line.event === 'mended') open.delete(`${line.where}${line.object}${line.msg}`);
  }
  assert.deepEqual([...open], []);
});

test('a file that is emptied and written again in place never opens what it holds', async (t) => {
  const { lab, folder, web } = await world(t);
  folder.write('pods.yaml', pod(web));
  folder.write('policy.yaml', egress('web', PORT_80));
  const agent = await startAgent(lab, folder);
  const file = path.join(folder.path, 'policy.yaml');
  for (let round = 0; round < 5; round += 1) {
    // As `command > file` does: empty first, the content when the command has it.
    writeFileSync(file, '');
    for (let attempt = 0; attempt < 10; attempt += 1) {
      assert.equal(await web.actor.tryTcp(SERVER, 81), 'EPERM');
      await pause(5);
    }
    writeFileSync(file, egress('web', PORT_80, '  onDeny: Reject\n'));
    await pause(5);
  }
  const applied = await agent.applied(() => writeFileSync(file, egress('web', PORT_80_81)));
  assert.deepEqual(applied.changed, ['shop/web']);
  assert.equal(await web.actor.tryTcp(SERVER, 81), 'ok');
});

test('a policy that was never valid isolates what it selects', async (t) => {
  const { lab, folder, web } = await world(t);
  folder.write('pods.yaml', pod(web));
  folder.write('policy.yaml', egress('web', '[{to: [{networks: [198.18.0.0/99]}]}]'));
  const agent = await startAgent(lab, folder);
  assert.equal(await web.actor.tryTcp(SERVER, 80), 'EPERM');
  await agent.applied(() => folder.remove('policy.yaml'));
  assert.equal(await web.actor.tryTcp(SERVER, 80), 'ok');
});

test('pods are held by the folder kubelet makes, in both spellings, however late it appears', async (t) => {
  const { lab, folder } = await world(t);
  const uids = ['0b1c-11', '0b1c-22'];
  folder.write(
    'pods.yaml',
    uids
      .map(
        (uid) => `apiVersion: v1
kind: Pod
metadata: {name: p${uid}, namespace: shop, uid: ${uid}, labels: {app: web}}
spec: {containers: [{name: c, image: i}]}
`,
      )
      .join('---\n'),
  );
  folder.write('policy.yaml', egress('web', PORT_80));
  const agent = await startAgent(lab, folder);
  const folders = [
    'kubepods/burstable/pod0b1c-11',
    'kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0b1c_22.slice',
  ];
  for (const [index, cgroup] of folders.entries()) {
    const bound = await agent.applied(() => {
      lab.cgroup(cgroup);
    });
    assert.deepEqual(bound.bound, [`shop/p${uids[index]}`]);
    // Processes are in a container's cgroup below the pod's, as on a node.
    const place = await lab.workload(`late${index}`, {
      addresses: [`198.18.3.${index + 1}`],
      cgroup: `${cgroup}/container`,
    });
    assert.equal(await place.actor.tryTcp(SERVER, 80), 'ok');
    assert.equal(await place.actor.tryTcp(SERVER, 81), 'EPERM');
    const unbound = await agent.applied(async () => {
      await lab.removeCgroup(place.cgroup ?? '');
      await lab.removeCgroup(path.join(lab.root, cgroup));
    });
    assert.deepEqual(unbound.unbound, [`shop/p${uids[index]}`]);
  }
});

test('replies of connections from outside pass, and so does a pod to itself and loopback', async (t) => {
  const { lab, folder, web } = await world(t);
  folder.write('pods.yaml', pod(web));
  folder.write('policy.yaml', egress('web', '[]'));
  await startAgent(lab, folder);
  await web.actor.listen('TCP', '198.18.2.1', 8080);
  await web.actor.listen('UDP', '198.18.2.1', 8081);
  await web.actor.listen('TCP', '127.0.0.1', 8082);
  const inbound = await lab.outside.actor.connect('198.18.2.1', 8080);
  assert.equal(inbound.outcome, 'ok');
  assert.equal(await lab.outside.actor.exchange(inbound.socket ?? 0), 'ok');
  assert.equal(await lab.outside.actor.tryUdp('198.18.2.1', 8081), 'ok');
  assert.equal(await web.actor.tryTcp('127.0.0.1', 8082), 'ok');
  assert.equal(await web.actor.tryTcp('198.18.2.1', 8080), 'ok');
  assert.equal(await web.actor.tryTcp(SERVER, 80), 'EPERM');
});

test('processes of no pod: allowed by default, refused with --unknown deny, the pods unharmed', async (t) => {
  const { lab, folder, web } = await world(t);
  folder.write('pods.yaml', pod(web));
  const stranger = await lab.workload('stranger', { addresses: ['198.18.2.9'] });
  const agent = await startAgent(lab, folder);
  assert.equal(await stranger.actor.tryTcp(SERVER, 80), 'ok');
  assert.equal(await agent.stop('SIGINT'), 0);
  const strict = await startAgent(lab, folder, '--unknown', 'deny');
  assert.equal(await stranger.actor.tryTcp(SERVER, 80), 'EPERM');
  assert.equal(await web.actor.tryTcp(SERVER, 80), 'ok');
  const drop = await strict.line((line) => line.event === 'drop');
  assert.deepEqual([drop.workload, drop.reason, drop.policy], ['unknown', 'unknown_workload', null]);
  assert.equal(drop.cgroup, stranger.cgroup, 'where to look for it');
  folder.write('policy.yaml', egress('web', PORT_80));
  await strict.line((line) => line.event === 'applied');
  assert.equal(await web.actor.tryTcp(SERVER, 81), 'EPERM');
  const known = await strict.line((line) => line.event === 'drop' && line.workload === 'shop/web');
  assert.equal(known.cgroup, null);
});

test('a policy over a limit is refused alone: a problem names it, and all else goes on', async (t) => {
  const { lab, folder, web } = await world(t);
  folder.write('pods.yaml', pod(web));
  folder.write('policy.yaml', egress('web', PORT_80_81));
  const limit = (name: string, rules = PORT_80_81) => egress(name, rules, '  effect: Limit\n');
  // The last by name takes 81 away.
  const eight = Array.from({ length: 8 }, (_, index) => limit(`limit${index}`, index === 7 ? PORT_80 : PORT_80_81));
  folder.write('limits.yaml', eight.join('---\n'));
  const agent = await startAgent(lab, folder);
  assert.equal(await web.actor.tryTcp(SERVER, 81), 'EPERM');

  // The ninth goes first by name: who was there stays all the same.
  folder.write('ninth.yaml', limit('a'));
  const left = await agent.line((line) => line.event === 'left_out');
  assert.deepEqual(left.policies, ['EgressPolicy/shop/a']);
  const problem = await agent.line((line) => line.event === 'problem');
  assert.deepEqual([problem.code, problem.object], ['limit_exceeded', 'EgressPolicy/shop/a']);
  assert.match(String(problem.where), /\/ninth\.yaml:\d+:\d+$/);
  assert.match(String(problem.msg), /8/);
  assert.equal(await web.actor.tryTcp(SERVER, 80), 'ok');
  assert.equal(await web.actor.tryTcp(SERVER, 81), 'EPERM');

  // Other policies are changed meanwhile, and pods' folders come and go.
  const changed = await agent.applied(() => folder.write('policy.yaml', egress('web', '[]')));
  assert.deepEqual(changed.changed, ['shop/web']);
  assert.equal(await web.actor.tryTcp(SERVER, 80), 'EPERM');
  await agent.applied(() => folder.write('policy.yaml', egress('web', PORT_80_81)));
  const moved = await agent.applied(() => lab.removeCgroup(web.cgroup ?? ''));
  assert.deepEqual(moved.unbound, ['shop/web']);
  await agent.applied(() => {
    mkdirSync(web.cgroup ?? '');
  });
  const again = web.newActor();
  assert.equal(await again.tryTcp(SERVER, 81), 'EPERM');
  assert.equal(await again.tryTcp(SERVER, 80), 'ok');
  assert.equal(agent.lines.filter((line) => line.event === 'left_out').length, 1);

  // There is room for it now.
  await agent.applied(() => folder.write('limits.yaml', eight.slice(0, 7).join('---\n')));
  await agent.line((line) => line.event === 'mended');
  assert.equal(await again.tryTcp(SERVER, 81), 'ok');
  await agent.applied(() => folder.write('ninth.yaml', limit('a', '[]')));
  assert.equal(await again.tryTcp(SERVER, 80), 'EPERM');
});

test('a pod that gets labels by which nine Limits select it is closed alone, and all else goes on', async (t) => {
  const { lab, folder, web } = await world(t);
  const db = await lab.workload('db', { addresses: ['198.18.2.2'] });
  const pods = (labels: string) => folder.write('pods.yaml', `${pod(web, labels)}---\n${pod(db, '{app: db}')}`);
  pods('{app: web}');
  const POLICY = 'apiVersion: postern.dev/v1alpha1\nkind: EgressPolicy\n';
  const limit = (name: string, selector: string) =>
    `${POLICY}metadata: {name: ${name}, namespace: shop}\nspec: {effect: Limit, podSelector: ${selector}, egress: ${PORT_80_81}}\n`;
  const eight = Array.from({ length: 8 }, (_, index) => limit(`limit${index}`, '{}'));
  folder.write('limits.yaml', [...eight, limit('a-ninth', '{matchLabels: {tier: front}}')].join('---\n'));
  const agent = await startAgent(lab, folder);
  assert.equal(await web.actor.tryTcp(SERVER, 80), 'ok');
  assert.equal(await db.actor.tryTcp(SERVER, 80), 'ok');

  const closed = await agent.applied(() => pods('{app: web, tier: front}'));
  assert.deepEqual(closed.changed, ['shop/web']);
  assert.equal(await web.actor.tryTcp(SERVER, 80), 'EPERM');
  assert.equal(await db.actor.tryTcp(SERVER, 80), 'ok');
  const ofPod = await agent.line((line) => line.event === 'problem' && line.object === 'Pod/shop/web');
  assert.match(String(ofPod.msg), /9 Limits, and may have 8: until that is mended .*EgressPolicy\/shop\/a-ninth, /);
  assert.match(String(ofPod.advice), /narrow whom they select/);
  assert.match(String(ofPod.where), /\/pods\.yaml:\d+:\d+$/);
  const ofLimit = await agent.line((line) => line.event === 'problem' && line.object === 'EgressPolicy/shop/limit7');
  assert.match(String(ofLimit.msg), /ninth Limit or later on shop\/web/);
  assert.equal(agent.lines.filter((line) => line.event === 'left_out').length, 0);

  // All other changes go on: of policies, of Limits, of pods.
  const policy = egress('db', PORT_80).replace('app: web', 'app: db');
  const changed = await agent.applied(() => folder.write('policy.yaml', policy));
  assert.deepEqual(changed.changed, ['shop/db']);
  assert.equal(await db.actor.tryTcp(SERVER, 81), 'EPERM');
  assert.equal(await web.actor.tryTcp(SERVER, 80), 'EPERM');

  // Whoever starts anew comes to the same.
  await agent.stop();
  const next = await startAgent(lab, folder);
  assert.equal(await web.actor.tryTcp(SERVER, 80), 'EPERM');
  assert.equal(await db.actor.tryTcp(SERVER, 80), 'ok');
  await next.applied(() => pods('{app: web}'));
  assert.equal(await web.actor.tryTcp(SERVER, 80), 'ok');
  await next.line((line) => line.event === 'mended' && line.object === 'Pod/shop/web');
});

test('a node name that no Node of the folder has is a problem until there is one', async (t) => {
  const { lab, folder, web } = await world(t);
  const node = (name: string) => `apiVersion: v1\nkind: Node\nmetadata: {name: ${name}}\n`;
  folder.write('pods.yaml', pod(web, '{app: web}', ', nodeName: node-a'));
  folder.write('policy.yaml', egress('web', PORT_80));
  folder.write('node.yaml', node('node-a'));
  const agent = await startAgent(lab, folder, '--node-name', 'node-b');
  const problem = await agent.line((line) => line.event === 'problem');
  assert.equal(problem.code, 'node_unknown');
  assert.match(String(problem.msg), /no Node node-b: .* not held here/);
  folder.write('node.yaml', `${node('node-a')}---\n${node('node-b')}`);
  const mended = await agent.line((line) => line.event === 'mended');
  assert.equal(mended.code, 'node_unknown');
});

test('an agent that starts on a folder in which ten Limits hold a pod closes that pod', async (t) => {
  const { lab, folder, web } = await world(t);
  folder.write('pods.yaml', pod(web));
  folder.write('policy.yaml', egress('web', PORT_80));
  const limit = (index: number) => egress(`limit${index}`, PORT_80_81, '  effect: Limit\n');
  folder.write('limits.yaml', Array.from({ length: 10 }, (_, index) => limit(index)).join('---\n'));
  const agent = await startAgent(lab, folder);
  const problems = agent.lines.filter((line) => line.event === 'problem');
  assert.deepEqual(
    problems.map(({ code, object }) => [code, object]),
    ['Pod/shop/web', 'EgressPolicy/shop/limit8', 'EgressPolicy/shop/limit9'].map((one) => ['limit_exceeded', one]),
  );
  assert.equal(await web.actor.tryTcp(SERVER, 80), 'EPERM');
  const mended = await agent.applied(() => folder.write('limits.yaml', limit(0)));
  assert.equal(mended.policies, 2);
  assert.equal(await web.actor.tryTcp(SERVER, 81), 'EPERM');
});

test('a Service is allowed where its endpoints are, and a drop names what is at the address', async (t) => {
  const { lab, folder, web } = await world(t);
  const db = await lab.workload('db', { addresses: ['198.18.2.2'] });
  await db.actor.listen('TCP', '198.18.2.2', 5432);
  folder.write('pods.yaml', `${pod(web)}---\n${pod(db, '{app: db}')}`);
  folder.write(
    'policy.yaml',
    egress('web', '[{to: [{pods: {podSelector: {matchLabels: {app: db}}}}], ports: [{port: 5432}]}]'),
  );
  const agent = await startAgent(lab, folder);
  assert.equal(await web.actor.tryTcp('198.18.2.2', 5432), 'ok');
  assert.equal(await web.actor.tryTcp('198.18.2.2', 5433), 'EPERM');
  const drop = await agent.line((line) => line.event === 'drop');
  assert.equal(drop.destination, 'pod shop/db');
});

test('counters are exact where events are lost: every datagram is counted once, in packets and in bytes', async (t) => {
  const { lab, folder, web } = await world(t);
  folder.write('pods.yaml', pod(web));
  folder.write(
    'policy.yaml',
    egress('web', '[{to: [{networks: [198.18.1.1/32]}], ports: [{protocol: UDP, port: 53}]}]'),
  );
  const agent = await startAgent(lab, folder);
  // Raw enough to be counted: one datagram is one packet of 20 + 8 + 100 bytes.
  const flood = `const socket = require('dgram').createSocket('udp4');
    const send = (port, n) => n === 0 ? Promise.resolve() : new Promise((r) => socket.send(Buffer.alloc(100), port, '${SERVER}', () => r())).then(() => send(port, n - 1));
    send(53, 2000).then(() => send(54, 2000)).then(() => socket.close());`;
  const result = await web.exec(process.execPath, ['-e', flood], { timeoutMs: 60_000 });
  assert.equal(result.status, 0, result.stderr);
  const metrics = await agent.metrics();
  const of = (reason: string) =>
    `{workload="shop/web",direction="egress",policy="EgressPolicy/shop/web",reason="${reason}"}`;
  assert.equal(metrics.get(`postern_forward_count_total${of('rule')}`), 2000);
  assert.equal(metrics.get(`postern_forward_bytes_total${of('rule')}`), 2000 * 128);
  assert.equal(metrics.get(`postern_drop_count_total${of('no_rule')}`), 2000);
  const lost = metrics.get('postern_events_lost_total{why="events_rate"}') ?? 0;
  assert.ok(lost > 0, 'more were refused than are told');
  const told = async (): Promise<number> => {
    await agent.stop();
    return agent.lines.filter((line) => line.event === 'drop').reduce((sum, line) => sum + Number(line.count), 0);
  };
  assert.equal((await told()) + lost, 2000);
});

test('hostNetwork pods are held where a policy says Include, and never by NetworkPolicy', async (t) => {
  const { lab, folder } = await world(t);
  // In the namespace of the outside, which is "the host's" here: its own addresses are not the pod's.
  const cgroup = lab.cgroup('host');
  const host = lab.placeIn(lab.outside.netns, cgroup);
  const target = await lab.workload('target', { addresses: ['198.18.2.7'] });
  await target.actor.listen('TCP', '198.18.2.7', 80);
  folder.write('pods.yaml', pod(host, '{app: web}', ', hostNetwork: true'));
  folder.write('policy.yaml', egress('web', '[]'));
  folder.write(
    'np.yaml',
    'apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: np, namespace: shop}\nspec: {podSelector: {}, policyTypes: [Egress]}\n',
  );
  const agent = await startAgent(lab, folder);
  assert.equal((await agent.line((line) => line.event === 'ready')).workloads, 1);
  assert.equal(await host.actor.tryTcp('198.18.2.7', 80), 'ok');
  const applied = await agent.applied(() =>
    folder.write('policy.yaml', egress('web', '[]', '  hostNetwork: Include\n')),
  );
  assert.deepEqual(applied.changed, ['shop/host']);
  assert.equal(await host.actor.tryTcp('198.18.2.7', 80), 'EPERM');
  const socket = (await lab.outside.actor.connect('198.18.2.7', 80)).socket ?? 0;
  assert.equal(await lab.outside.actor.exchange(socket), 'ok', 'the rest of that namespace is not held');
});

test('an agent inside the enforced root is not cut off by --unknown deny', async (t) => {
  const { lab, folder, web } = await world(t);
  folder.write('pods.yaml', pod(web));
  const own = lab.placeIn(lab.outside.netns, lab.cgroup('agent'));
  const options = ['--policies', folder.path, '--state-dir', folder.stateDir, '--cgroup-root', lab.root];
  // In a namespace that is not the host's: only its binding lets it answer the scrape below.
  const args = [
    'agent',
    ...options,
    '--metrics-address',
    `${SERVER}:9470`,
    '--unknown',
    'deny',
    '--no-socket',
    '--bpffs',
    'none',
  ];
  const agent = new TestAgent(own.spawn(path.join(import.meta.dirname, '../../bin/postern'), args));
  await agent.line((line) => line.event === 'ready');
  const scrape = await web.exec('curl', ['-sS', '-m', '10', `http://${SERVER}:9470/metrics`]);
  assert.match(scrape.stdout, /^postern_workloads\{state="open"\} 1$/m, scrape.stderr);
  assert.match(scrape.stdout, /^postern_forward_count_total\{workload="shop\/web"/m);
});

test('a reader of the log that goes away does not take the agent with it', async (t) => {
  const { lab, folder, web } = await world(t);
  folder.write('pods.yaml', pod(web));
  folder.write('policy.yaml', egress('web', PORT_80));
  const agent = await startAgent(lab, folder);
  agent.child.stdout?.destroy();
  for (let i = 0; i < 3; i += 1) assert.equal(await web.actor.tryTcp(SERVER, 81), 'EPERM');
  const before = await agent.metrics();
  assert.ok([...before.keys()].some((series) => series.startsWith('postern_drop_count_total')));
  assert.equal(await agent.stop(), 0, agent.errors);
});

test('it refuses to start where it cannot enforce, in a sentence', async (t) => {
  const { lab, folder } = await world(t);
  const cases: [string[], RegExp][] = [
    [['--cgroup-root', `${lab.root}/nowhere`], /there is no cgroup/],
    [['--cgroup-root', '../..'], /there is no cgroup/],
    [['--policies', `${folder.path}/nowhere`], /is not a folder/],
    [['--metrics-address', 'nonsense'], /HOST:PORT/],
    [['--unknown', 'maybe'], /allow, deny/],
    [['--kube'], /--policies.* cannot be used with .*--kube|--kube.*--policies/],
    [['--context', 'x'], /--context/],
    [['--socket', folder.path], /something else is there that is no socket/],
  ];
  for (const [args, message] of cases) {
    const agent = launchAgent(lab, folder, ...args);
    const { status } = await agent.ended();
    assert.notEqual(status, 0, args.join(' '));
    assert.match(agent.errors, message);
    assert.doesNotMatch(agent.errors, /\n\s+at /, 'no stack for what a user can mend');
  }
});
