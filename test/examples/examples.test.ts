// SPDX-License-Identifier: Apache-2.0
// Are the examples right, and do the commands in their comments say what the comments say?
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { promisify } from 'node:util';
import { parseAllDocuments } from 'yaml';
import { Lab } from '../support/lab.ts';

const ROOT = path.join(import.meta.dirname, '../..');
const EXAMPLES = path.join(ROOT, 'examples');
const POSTERN = path.join(ROOT, 'bin/postern');
const run = promisify(execFile);

const files = readdirSync(EXAMPLES, { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.yaml'))
  .map((name) => ({ name, text: readFileSync(path.join(EXAMPLES, name), 'utf8') }));

function commandsIn(text: string, command: string): string[] {
  return text
    .split('\n')
    .filter((line) => line.startsWith('#   ') && line.includes(command))
    .map((line) => line.replace(/^# +/, ''));
}

test('lint has nothing to say of the examples', async () => {
  const { stdout } = await run(POSTERN, ['lint', 'examples', '-o', 'json'], { cwd: ROOT });
  assert.deepEqual(JSON.parse(stdout), []);
});

test('each file says what it shows, each policy describes itself, and every kind is there', () => {
  const kinds = new Set<string>();
  for (const { name, text } of files) {
    assert.match(text, /^# SPDX-License-Identifier: Apache-2\.0\n# \S/, name);
    for (const document of parseAllDocuments(text)) {
      const { kind, metadata } = document.toJS() as {
        kind: string;
        metadata: { annotations?: Record<string, string> };
      };
      kinds.add(kind);
      if (!kind.endsWith('Policy')) continue;
      assert.notEqual(metadata.annotations?.['kubernetes.io/description'] ?? '', '', name);
    }
  }
  assert.deepEqual(
    [...kinds].sort(),
    ['ClusterEgressPolicy', 'EgressPolicy', 'EndpointSlice', 'Namespace', 'NetworkPolicy', 'Pod', 'Service'].sort(),
  );
});

test('examples that the README and the help name are there', () => {
  const texts = ['README.md', 'src/cli/run.ts', 'src/cli/explain.ts', 'src/cli/lint.ts'].map((name) =>
    readFileSync(path.join(ROOT, name), 'utf8'),
  );
  const named = texts.flatMap((text) => text.match(/\bexamples\/[\w/-]+\.yaml/g) ?? []);
  assert.ok(named.length > 0);
  for (const name of named) assert.ok(existsSync(path.join(ROOT, name)), name);
});

test('the commands in the help of explain answer', async () => {
  const { stdout: help } = await run(POSTERN, ['explain', '--help']);
  const commands = help.match(/(?<=^ {2}postern )explain --policies examples --from .*$/gm) ?? [];
  assert.equal(commands.length, 3);
  for (const command of commands)
    assert.match((await run(POSTERN, command.split(' '), { cwd: ROOT })).stdout, /data\/db|asks DNS for/);
});

test('the explain commands of the comments answer by the policy of their file', async () => {
  const verdicts = new Map<string, string[]>();
  for (const { name, text } of files) {
    const policies = parseAllDocuments(text)
      .map((document) => document.toJS() as { kind: string; metadata: { name: string } })
      .filter(({ kind }) => kind.endsWith('Policy'));
    for (const command of commandsIn(text, 'bin/postern explain')) {
      const [program = '', ...args] = command.split(' ');
      const { stdout, stderr } = await run(path.join(ROOT, program), [...args, '-o', 'json'], { cwd: ROOT });
      assert.equal(stderr, '', command);
      const { verdict, policy } = JSON.parse(stdout) as { verdict: string; policy: string };
      verdicts.set(name, [...(verdicts.get(name) ?? []), verdict]);
      const told = policies.map((one) => one.metadata.name);
      const isOfThisFile = told.includes(policy.split('/').at(-1) ?? '');
      // Who is in cluster.yaml is held by other files; another resolver is refused by who isolates.
      assert.ok(isOfThisFile || name === 'cluster.yaml' || (name === 'dns.yaml' && verdict === 'deny'), command);
    }
  }
  assert.deepEqual(Object.fromEntries(verdicts), {
    'batch-report.yaml': ['deny'],
    'cluster.yaml': ['allow'],
    'data-default-deny.yaml': ['deny'],
    'dns.yaml': ['allow', 'deny'],
    'no-cloud-metadata.yaml': ['deny', 'allow'],
    'shop-cart.yaml': ['allow'],
    'shop-checkout.yaml': ['audit'],
    'shop-web.yaml': ['allow', 'deny'],
  });
});

test('the policies for postern run hold a command as their comments say', async (t) => {
  const lab = await Lab.create();
  t.after(() => lab.close());
  await lab.addOutside('198.18.1.1', 'fd00:18:1::1');
  for (const [address, port] of [
    ['198.18.1.1', 80],
    ['fd00:18:1::1', 80],
    ['198.18.1.1', 81],
  ] as const) {
    await lab.outside.actor.listen('TCP', address, port);
  }
  const place = await lab.workload('caller', { addresses: ['198.18.2.1', 'fd00:18:2::1'] });
  const under = (name: string, ...command: readonly string[]) =>
    place.exec(POSTERN, ['run', '--policy', path.join(EXAMPLES, 'run', name), '--', ...command], { timeoutMs: 60_000 });
  const client = [process.execPath, path.join(ROOT, 'test/support/try.ts')];

  const intranet = await under(
    'intranet.yaml',
    ...client,
    'TCP/198.18.1.1/80',
    'TCP/fd00:18:1::1/80',
    'TCP/198.18.1.1/81',
  );
  assert.equal(intranet.stdout, 'ok ok EPERM\n', intranet.stderr);
  const internet = await under('internet.yaml', ...client, 'TCP/198.18.1.1/80', 'TCP/fd00:18:1::1/80');
  assert.equal(internet.stdout, 'EPERM EPERM\n', internet.stderr);

  await place.actor.listen('TCP', '127.0.0.1', 8080);
  const loopback = await under('loopback-only.yaml', ...client, 'TCP/127.0.0.1/8080', 'TCP/198.18.1.1/80');
  assert.equal(loopback.stdout, 'ok EPERM\n', loopback.stderr);

  // The commands of the comments, but those that need the internet: no packet of theirs leaves, since all are refused.
  let tried = 0;
  for (const { name, text } of files.filter((file) => file.name.startsWith('run/'))) {
    for (const command of commandsIn(text, 'bin/postern run').filter((one) => one.includes('curl'))) {
      const args = command.replace(/^sudo \S+ run --policy \S+ -- /, '').split(' ');
      assert.equal(command, `sudo bin/postern run --policy examples/${name} -- ${args.join(' ')}`);
      const { status, stderr } = await under(path.basename(name), ...args);
      assert.equal(status, 7, stderr);
      assert.match(stderr, /^refused +\S+:80 +TCP +curl /m);
      tried += 1;
    }
  }
  assert.equal(tried, 3);
});
