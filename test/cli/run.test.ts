// SPDX-License-Identifier: Apache-2.0
// Is one command held to a policy, with its children, and does postern run behave as a wrapper should?
import assert from 'node:assert/strict';
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { cgroupMount, Lab, type Place, type Result } from '../support/lab.ts';

const POSTERN = path.join(import.meta.dirname, '../../bin/postern');
const CLIENT = path.join(import.meta.dirname, '../support/try.ts');
const SERVER = '198.18.1.1';

const POLICY = `apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: web, namespace: anywhere}
spec:
  podSelector: {matchLabels: {this: is-ignored}}
  egress:
  - {to: [{networks: [198.18.1.1/32]}], ports: [{port: 80}]}
`;

interface World {
  readonly lab: Lab;
  /** A place without a workload of Postern's: postern run is started in it. */
  readonly place: Place;
  readonly policy: string;
  readonly summary: string;
  run(...args: readonly string[]): Promise<Result>;
}

async function world(t: test.TestContext): Promise<World> {
  const lab = await Lab.create();
  const folder = mkdtempSync(path.join(tmpdir(), `postern-run-${process.pid}-`));
  t.after(async () => {
    rmSync(folder, { recursive: true, force: true });
    await lab.close();
  });
  await lab.addOutside(SERVER);
  await lab.outside.actor.listen('TCP', SERVER, 80);
  await lab.outside.actor.listen('TCP', SERVER, 81);
  await lab.outside.actor.listen('UDP', SERVER, 53);
  const place = await lab.workload('caller', { addresses: ['198.18.2.1'] });
  const policy = path.join(folder, 'policy.yaml');
  writeFileSync(policy, POLICY);
  return {
    lab,
    place,
    policy,
    summary: path.join(folder, 'summary.json'),
    run: (...args) => place.exec(POSTERN, ['run', ...args], { timeoutMs: 30_000 }),
  };
}

/** Waits until a process has ended; who inherits orphans here may not have collected it yet. Rejects after a minute. */
async function dead(pid: string): Promise<void> {
  const stat = `/proc/${pid}/stat`;
  for (let attempt = 0; existsSync(stat) && !/^\d+ \(.*\) Z/.test(readFileSync(stat, 'utf8')); attempt += 1) {
    assert.ok(attempt < 6000, `process ${pid} goes on`);
    await pause(10);
  }
}

const client = (...args: readonly string[]) => [process.execPath, CLIENT, ...args];

interface Summary {
  readonly status: number;
  readonly user: string;
  readonly refused: readonly { readonly [field: string]: unknown }[];
}
const read = (file: string) => JSON.parse(readFileSync(file, 'utf8')) as Summary;

test('what the policy allows passes, the rest gets EPERM, and both stderr and the summary tell', async (t) => {
  const { run, policy, summary, place } = await world(t);
  const tries = ['TCP/198.18.1.1/80', 'TCP/198.18.1.1/81', 'TCP/198.18.1.1/81', 'UDP/198.18.1.1/53'];
  const result = await run('--policy', policy, '--summary', summary, '--', ...client(...tries));
  assert.equal(result.stdout, 'ok EPERM EPERM EPERM\n', result.stderr);
  assert.equal(result.status, 0);
  assert.match(result.stderr, /^refused +198\.18\.1\.1:81 +TCP +\S+ +EgressPolicy\/anywhere\/web +- +no_rule +2$/m);
  assert.match(result.stderr, /^refused +198\.18\.1\.1:53 +UDP +\S+ +EgressPolicy\/anywhere\/web +- +no_rule +1$/m);
  assert.match(result.stderr, /warning: the command runs as root/);
  const { refused, status, user } = read(summary);
  assert.deepEqual([status, user], [0, 'root']);
  assert.deepEqual(
    refused.map((one) => [
      one.verdict,
      one.destination,
      one.port,
      one.protocol,
      one.policy,
      one.rule,
      one.reason,
      one.count,
    ]),
    [
      ['deny', SERVER, 81, 'TCP', 'EgressPolicy/anywhere/web', null, 'no_rule', 2],
      ['deny', SERVER, 53, 'UDP', 'EgressPolicy/anywhere/web', null, 'no_rule', 1],
    ],
  );
  assert.deepEqual(
    readdirSync(place.cgroup ?? '').filter((name) => name.startsWith('postern-run')),
    [],
    'no cgroup is left',
  );
});

test('with -o json the last line of stderr is the summary, and there is no table', async (t) => {
  const { run, policy, summary } = await world(t);
  const tries = client('TCP/198.18.1.1/80', 'TCP/198.18.1.1/81');
  const result = await run('-o', 'json', '--policy', policy, '--summary', summary, '--', ...tries);
  assert.equal(result.stdout, 'ok EPERM\n', result.stderr);
  const last = result.stderr.trimEnd().split('\n').at(-1) ?? '';
  assert.deepEqual(JSON.parse(last), read(summary));
  assert.deepEqual(
    read(summary).refused.map((one) => [one.destination, one.port]),
    [[SERVER, 81]],
  );
  assert.doesNotMatch(result.stderr, /VERDICT/);
  const nothing = await run('--output', 'json', '--policy', policy, '--', ...client('TCP/198.18.1.1/80'));
  assert.deepEqual((JSON.parse(nothing.stderr.trimEnd().split('\n').at(-1) ?? '') as Summary).refused, []);
  const wrong = await run('-o', 'yaml', '--', 'true');
  assert.deepEqual([wrong.status, /Allowed choices are text, json/.test(wrong.stderr)], [125, true], wrong.stderr);
});

test('--audit refuses nothing and tells what would be refused; without a policy, everything', async (t) => {
  const { run, policy, summary } = await world(t);
  const tries = client('TCP/198.18.1.1/80', 'TCP/198.18.1.1/81');
  const audit = await run('--audit', '--policy', policy, '--summary', summary, '--', ...tries);
  assert.equal(audit.stdout, 'ok ok\n', audit.stderr);
  assert.match(audit.stderr, /^would be refused +198\.18\.1\.1:81 +TCP +node\S* +EgressPolicy\/anywhere\/web /m);
  assert.doesNotMatch(audit.stderr, /:80 /);
  assert.deepEqual(
    read(summary).refused.map((one) => one.verdict),
    ['audit'],
  );
  const all = await run('--audit', '--', ...tries);
  assert.equal(all.stdout, 'ok ok\n');
  assert.match(all.stderr, /:80 /);
  assert.match(all.stderr, /:81 /);
  const none = await run('--', ...tries);
  assert.equal(none.stdout, 'EPERM EPERM\n');
});

test('curl is refused at once, as one command of a shell among others', async (t) => {
  const { run, policy } = await world(t);
  const result = await run(
    '--policy',
    policy,
    '--',
    'sh',
    '-c',
    'curl -sS -m 20 http://198.18.1.1:81/; echo "status $?"',
  );
  assert.match(result.stdout, /^status 7$/m);
  assert.match(result.stderr, /^refused +198\.18\.1\.1:81 +TCP +curl /m);
});

test('a connection whose options lead elsewhere ends instead of hanging', async (t) => {
  const { run, policy } = await world(t);
  // IP_OPTIONS, a loose source route by 198.18.9.9.
  const script = `use Socket; socket(S, PF_INET, SOCK_STREAM, 0);
setsockopt(S, 0, 4, pack("C*", 1, 131, 7, 4, 198, 18, 9, 9)) or die;
connect(S, sockaddr_in(80, inet_aton("${SERVER}"))); print $!{ECONNABORTED} ? "ended" : "errno $!";`;
  const { stdout, stderr } = await run('--policy', policy, '--', 'perl', '-e', script);
  assert.equal(stdout, 'ended', stderr);
  assert.match(stderr, /source_route/);
});

test('the exit status is the command’s, or says what went wrong', async (t) => {
  const { run, policy, place } = await world(t);
  const table: [string[], number, RegExp][] = [
    [['--policy', policy, '--', 'true'], 0, /^/],
    [['--policy', policy, '--', 'sh', '-c', 'exit 42'], 42, /^/],
    [['--policy', policy, '--', 'sh', '-c', 'kill -TERM $$'], 143, /^/],
    [['--policy', policy, '--', '/nonexistent/command'], 127, /nonexistent/],
    [['--policy', policy, '--', '/etc/passwd'], 126, /passwd/],
    [['--policy', '/nonexistent.yaml', '--', 'true'], 125, /cannot read/],
    [['--policy'], 125, /argument missing/],
    [['--no-such-flag', '--', 'true'], 125, /unknown option/],
    [['--policy', policy], 125, /missing required argument/],
    [['--help'], 0, /^/],
    [['--policy', policy, '--user', 'no-such-user', '--', 'true'], 125, /no user/],
    [['--policy', policy, '--summary', '/nonexistent/x', '--', 'true'], 125, /cannot write/],
  ];
  for (const [args, status, message] of table) {
    const result = await run(...args);
    assert.equal(result.status, status, `${args.join(' ')}: ${result.stderr}`);
    assert.match(result.stderr, message);
    assert.doesNotMatch(result.stderr, /\n\s+at /);
  }
  const bad = `${policy}.bad.yaml`;
  writeFileSync(bad, POLICY.replace('198.18.1.1/32', '198.18.1.1/99'));
  const result = await run('--policy', bad, '--', 'touch', `${bad}.ran`);
  assert.equal(result.status, 125);
  assert.match(result.stderr, /bad\.yaml:7:\d+: spec\.egress\[0\]/);
  assert.equal(existsSync(`${bad}.ran`), false, 'the command was not run');
  assert.deepEqual(
    readdirSync(place.cgroup ?? '').filter((name) => name.startsWith('postern-run')),
    [],
  );
});

test('--user: its groups and home, no way to new privileges, no way out of the cgroup', async (t) => {
  const { run, policy } = await world(t);
  const script = `id -un; id -Gn; echo "$HOME $USER"; grep NoNewPrivs /proc/self/status; grep CapEff /proc/self/status
    echo 0 2>/dev/null > ${cgroupMount()}/cgroup.procs && echo escaped; grep -c postern-run /proc/self/cgroup`;
  const result = await run('--policy', policy, '--user', 'nobody', '--', 'sh', '-c', script);
  const lines = result.stdout.split('\n');
  assert.deepEqual(lines.slice(0, 3), ['nobody', 'nogroup', '/nonexistent nobody'], result.stderr);
  assert.match(lines[3] ?? '', /NoNewPrivs:\s1/);
  assert.match(lines[4] ?? '', /CapEff:\s0+$/);
  assert.equal(lines[5], '1');
  assert.doesNotMatch(result.stderr, /warning: the command runs as root/);
});

test('who called sudo is the default user', async (t) => {
  const { place, policy } = await world(t);
  const result = await place.exec('env', ['SUDO_USER=nobody', POSTERN, 'run', '--policy', policy, '--', 'id', '-un']);
  assert.equal(result.stdout, 'nobody\n', result.stderr);
});

test('without privileges it says what it needs', async (t) => {
  const { place, policy } = await world(t);
  chmodSync(path.dirname(policy), 0o755);
  const result = await place.exec('setpriv', [
    '--reuid=65534',
    '--regid=65534',
    '--clear-groups',
    '--',
    POSTERN,
    'run',
    '--policy',
    policy,
    '--',
    'true',
  ]);
  assert.equal(result.status, 125);
  assert.match(result.stderr, /CAP_BPF: not held: .*run as root/);
  assert.doesNotMatch(result.stderr, /program\//);
});

test('processes left behind are killed and told', async (t) => {
  const { run, policy, place } = await world(t);
  const result = await run('--policy', policy, '--', 'sh', '-c', 'sleep 3600 >/dev/null 2>&1 </dev/null & echo $!');
  assert.equal(result.status, 0);
  assert.match(result.stderr, /1 process that the command left behind was killed/);
  await dead(result.stdout.trim());
  assert.deepEqual(
    readdirSync(place.cgroup ?? '').filter((name) => name.startsWith('postern-run')),
    [],
  );
});

test('a signal reaches the command, and everything is cleaned up', async (t) => {
  const { place, policy } = await world(t);
  for (const [signal, status] of [
    ['SIGTERM', 143],
    ['SIGINT', 130],
  ] as const) {
    const script = `trap 'exit ${status}' TERM INT; echo started; while :; do sleep 0.05; done`;
    const child = place.spawn(POSTERN, ['run', '--policy', policy, '--', 'sh', '-c', script]);
    const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
    await new Promise<void>((resolve) => child.stdout?.once('data', () => resolve()));
    child.kill(signal);
    assert.equal(await ended, status);
    assert.deepEqual(
      readdirSync(place.cgroup ?? '').filter((name) => name.startsWith('postern-run')),
      [],
    );
  }
});

test('what needs a cluster is told once, before the command runs', async (t) => {
  const { run, policy } = await world(t);
  writeFileSync(
    policy,
    POLICY.replace('{networks: [198.18.1.1/32]}', '{entities: [Cluster]}').replace(', ports: [{port: 80}]', ''),
  );
  const result = await run('--policy', policy, '--', ...client('TCP/198.18.1.1/80'));
  assert.equal(result.stdout, 'EPERM\n');
  assert.equal(result.stderr.match(/Cluster need a cluster/g)?.length, 1);
});

test('killed outright, it takes the command with it, and the next run removes the cgroup', async (t) => {
  const { place, policy, run } = await world(t);
  for (const user of ['root', 'nobody']) {
    const child = place.spawn(POSTERN, [
      'run',
      '--policy',
      policy,
      '--user',
      user,
      '--',
      'sh',
      '-c',
      'echo $$; exec sleep 3600',
    ]);
    const pid = await new Promise<string>((resolve) =>
      child.stdout?.once('data', (text) => resolve(String(text).trim())),
    );
    const ended = new Promise((resolve) => child.once('close', resolve));
    child.kill('SIGKILL');
    await ended;
    await dead(pid);
    assert.equal((await run('--policy', policy, '--', 'true')).status, 0);
    assert.deepEqual(
      readdirSync(place.cgroup ?? '').filter((name) => name.startsWith('postern-run')),
      [],
    );
  }
});

test('one run inside another is held to both', async (t) => {
  const { run, policy, summary } = await world(t);
  const inner = `${policy}.inner.yaml`;
  writeFileSync(inner, POLICY.replace('{port: 80}', '{port: 81}').replace('name: web', 'name: inner'));
  const both = [
    'run',
    '--policy',
    inner,
    '--summary',
    summary,
    '--',
    ...client('TCP/198.18.1.1/80', 'TCP/198.18.1.1/81'),
  ];
  const result = await run('--policy', policy, '--', POSTERN, ...both);
  assert.equal(result.stdout, 'EPERM EPERM\n', result.stderr);
  assert.deepEqual(
    read(summary).refused.map((one) => [one.port, one.policy]),
    [[80, 'EgressPolicy/anywhere/inner']],
  );
  assert.match(result.stderr, /^refused +198\.18\.1\.1:81 .*EgressPolicy\/anywhere\/web /m);
});

test('the command inherits no descriptor of the enforcement', async (t) => {
  const { run, policy } = await world(t);
  const result = await run('--policy', policy, '--', 'sh', '-c', 'ls -l /proc/$$/fd');
  assert.equal(result.status, 0, result.stderr);
  assert.match(result.stdout, / 0 -> /);
  assert.doesNotMatch(result.stdout, /bpf|anon_inode/);
});
