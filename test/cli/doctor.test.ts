// SPDX-License-Identifier: Apache-2.0
// Does doctor tell what this machine offers, and exit accordingly?
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import path from 'node:path';
import test from 'node:test';
import { examine, type Finding, isEnforcementPossible } from '../../src/cli/examine.ts';
import { table } from '../../src/cli/table.ts';
import { loadNative } from '../../src/kernel/native.ts';
import { resultOf } from '../support/lab.ts';

const POSTERN = path.join(import.meta.dirname, '../../bin/postern');

function postern(...args: readonly string[]): ReturnType<typeof resultOf> {
  return resultOf(spawn(POSTERN, ['doctor', ...args]), 30_000);
}

test('as root everything that is needed is there, in a table and in JSON', async () => {
  const text = await postern();
  assert.equal(text.status, 0, text.stderr);
  assert.match(text.stdout, /^CHECK +STATE +FOUND/);
  assert.match(text.stdout, /^program\/connect4 +ok/m);
  assert.match(text.stdout, /This node can enforce\.\n$/);
  const json = await postern('-o', 'json');
  const parsed = JSON.parse(json.stdout) as { enforcement: boolean; findings: Finding[] };
  assert.equal(parsed.enforcement, true);
  assert.deepEqual(
    parsed.findings.map((one) => one.name),
    examine(loadNative).map((one) => one.name),
  );
});

test('without privileges it says what is missing, and exits with 1', async () => {
  const args = ['--reuid=65534', '--regid=65534', '--clear-groups', '--', POSTERN, 'doctor', '-o', 'json'];
  const result = await resultOf(spawn('setpriv', args), 30_000);
  assert.deepEqual([result.status, result.stderr], [1, '']);
  const { enforcement, findings } = JSON.parse(result.stdout) as { enforcement: boolean; findings: Finding[] };
  assert.equal(enforcement, false);
  const capability = findings.find((one) => one.name === 'capability/CAP_BPF');
  assert.equal(capability?.state, 'missing');
  assert.match(capability?.advice ?? '', /run as root/);
  for (const one of findings) assert.equal(one.advice === '', one.state === 'ok', one.name);
});

test('an addon that cannot be loaded is a finding', () => {
  const findings = examine(() => {
    throw new Error('no such file');
  });
  assert.equal(isEnforcementPossible(findings), false);
  assert.deepEqual(findings.at(-1)?.name, 'addon');
});

test('a wrong flag is told with what there is', async () => {
  const result = await postern('-o', 'xml');
  assert.notEqual(result.status, 0);
  assert.match(result.stderr, /text, json/);
});

test('columns are two apart, and control characters visible', () => {
  assert.equal(table(['A', 'B'], [['long', 'x\x07']]), 'A     B\nlong  x\\x07\n');
  assert.equal(table(['A'], [['\u202eb\u200b']]), 'A\n\\u{202e}b\\u{200b}\n');
});
