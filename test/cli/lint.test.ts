// SPDX-License-Identifier: Apache-2.0
// `postern lint` and the command line around it, as a user meets them: what is printed where, and the exit status.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';

const bin = new URL('../../bin/postern', import.meta.url).pathname;
let folder = '';

before(() => {
  folder = mkdtempSync(path.join(tmpdir(), `postern-lint-${process.pid}-`));
});
after(() => rmSync(folder, { recursive: true, force: true }));

function postern(...argv: string[]): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(bin, argv, { encoding: 'utf8' });
  return { status, stdout, stderr };
}

/** A folder of these files, by itself. */
function made(name: string, files: Record<string, string>): string {
  const root = path.join(folder, name);
  for (const [file, text] of Object.entries(files)) {
    mkdirSync(path.dirname(path.join(root, file)), { recursive: true });
    writeFileSync(path.join(root, file), text);
  }
  return root;
}

const good = 'apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n';
const bad = 'apiVersion: v1\nkind: Namespace\nmetadata: {name: A}\n';
const doubtful =
  'apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec:\n  podSelector: {}\n  egress:\n  - to: [{ipBlock: {cidr: 10.0.0.1/8}}]\n';

test('nothing wrong: nothing on standard output, status 0', () => {
  const root = made('good', { 'a.yaml': good, 'b.yaml': 'apiVersion: v1\nkind: ConfigMap\n', 'notes.txt': ':::' });
  const { status, stdout, stderr } = postern('lint', root);
  assert.deepEqual([status, stdout], [0, '']);
  assert.equal(stderr, '1 object: 0 errors, 0 warnings; 1 object of other kinds passed over\n');
});

test('errors: a line each, sorted, status 1', () => {
  const root = made('bad', { 'b.yaml': `${bad}---\n${bad}`, 'a/c.yml': bad, 'd.json': '{"kind": "Pod"}' });
  const { status, stdout } = postern('lint', root);
  const name = '"A" is no valid name; write at most 63 of a-z, 0-9 and -, a letter or digit at either end';
  assert.equal(status, 1);
  assert.deepEqual(stdout.trimEnd().split('\n'), [
    `${root}/a/c.yml:3:18: metadata.name: ${name}`,
    `${root}/b.yaml:3:18: metadata.name: ${name}`,
    `${root}/b.yaml:3:18: metadata.name: Namespace/A is there already, at ${root}/a/c.yml:3, which stays; write another name, or remove one of the two`,
    `${root}/b.yaml:7:18: metadata.name: ${name}`,
    `${root}/b.yaml:7:18: metadata.name: Namespace/A is there already, at ${root}/a/c.yml:3, which stays; write another name, or remove one of the two`,
    `${root}/d.json:1:1: apiVersion: apiVersion is missing; write apiVersion: v1`,
    `${root}/d.json:1:1: metadata: metadata is missing; write metadata: {name: …}`,
  ]);
});

test('warnings: status 1, and 0 where they are said to be all right', () => {
  const root = made('doubtful', { 'a.yaml': doubtful });
  const { status, stdout } = postern('lint', root);
  assert.equal(status, 1);
  assert.equal(
    stdout,
    `${root}/a.yaml:7:27: spec.egress[0].to[0].ipBlock.cidr: warning: "10.0.0.1/8" has bits beyond its prefix length: they are ignored; write 10.0.0.0/8\n`,
  );
  assert.equal(postern('lint', '--warnings-ok', root).status, 0);
  writeFileSync(path.join(root, 'b.yaml'), bad);
  assert.equal(postern('lint', '--warnings-ok', root).status, 1);
});

test('JSON', () => {
  const root = made('json', { 'a.yaml': doubtful });
  const { status, stdout } = postern('lint', '-o', 'json', root);
  assert.equal(status, 1);
  assert.deepEqual(JSON.parse(stdout), [
    {
      ...{ severity: 'warning', code: 'host_bits', file: `${root}/a.yaml`, line: 7, column: 27 },
      ...{ path: 'spec.egress[0].to[0].ipBlock.cidr', object: 'NetworkPolicy/default/a' },
      message: '"10.0.0.1/8" has bits beyond its prefix length: they are ignored',
      advice: 'write 10.0.0.0/8',
    },
  ]);
});

test('what cannot be read stands in its place among the others', () => {
  const root = made('unreadable', { 'a.yaml': bad, 'c.yaml': bad });
  symlinkSync('nowhere', path.join(root, 'b.yaml'));
  const { status, stdout } = postern('lint', root);
  assert.equal(status, 1);
  const files = stdout
    .trimEnd()
    .split('\n')
    .map((line) => path.basename(line.split(':')[0] ?? ''));
  assert.deepEqual([...new Set(files)], ['a.yaml', 'b.yaml', 'c.yaml']);
  assert.deepEqual(files, files.toSorted());
});

test('one file; and what cannot be read', () => {
  const root = made('one', { 'a.yaml': good, 'b.yaml': bad });
  assert.equal(postern('lint', `${root}/a.yaml`).status, 0);
  assert.equal(postern('lint', `${root}/b.yaml`).status, 1);
  const nothing = postern('lint', `${root}/nothing`);
  assert.equal(nothing.status, 1);
  assert.match(nothing.stdout, /nothing:1:1: \(document\): cannot be read: /);
});

test('a name that would steer the terminal is made visible', () => {
  const root = made('steer', { 'a.yaml': 'apiVersion: v1\nkind: Namespace\nmetadata: {name: "\\e[31m"}\n' });
  const { stdout } = postern('lint', root);
  assert.ok(!stdout.includes('\u001b'));
});

test('a reader that goes away early is no error', () => {
  const files = Object.fromEntries(Array.from({ length: 500 }, (_, i) => [`${i}.yaml`, `${bad}---\n`.repeat(10)]));
  const root = made('early', files);
  const script = '"$1" lint -o json "$2" | head -c 5; echo "status $?"';
  const argv = ['-o', 'pipefail', '-c', script, 'bash', bin, root];
  const { stdout, stderr } = spawnSync('bash', argv, { encoding: 'utf8' });
  assert.match(stdout, /^\[\n {2}\{status 1\n$/);
  assert.equal(stderr, '');
});

test('the version', () => {
  const { status, stdout } = postern('--version');
  assert.equal(status, 0);
  assert.match(stdout, /^\d+\.\d+\.\d+\n$/);
});

test('help of every command; mistakes on the command line are told with what was meant', () => {
  const { status, stdout } = postern('--help');
  assert.equal(status, 0);
  for (const command of ['agent', 'policies', 'status', 'uninstall', 'run', 'explain', 'lint', 'doctor']) {
    assert.match(stdout, new RegExp(`^  ${command}\\b`, 'm'));
    const help = postern(command, '--help');
    assert.equal(help.status, 0, command);
    assert.match(help.stdout, new RegExp(`^Usage: postern ${command} `), command);
  }
  const unknown = postern('lnit');
  assert.equal(unknown.status, 1);
  assert.match(unknown.stderr, /unknown command 'lnit'/);
  assert.match(unknown.stderr, /Did you mean lint\?/);
  const flag = postern('lint', '--outptu', 'json', folder);
  assert.equal(flag.status, 1);
  assert.match(flag.stderr, /Did you mean --output\?/);
  const none = postern();
  assert.equal(none.status, 1);
  assert.match(none.stderr, /^Usage: postern /);
  const missing = postern('lint');
  assert.equal(missing.status, 1);
  assert.match(missing.stderr, /missing required argument 'dir'/);
});
