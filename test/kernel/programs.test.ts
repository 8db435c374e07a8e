// SPDX-License-Identifier: Apache-2.0
// Do the programs load and attach as promised, and does a process that uses them end when it should?

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { KernelError, loadNative } from '#src/kernel/native.ts';
import { attachPrograms, loadPrograms } from '#src/kernel/programs.ts';
import { cgroupMount } from '../support/lab.ts';

const native = loadNative();
const run = promisify(execFile);
const module = (name: string) => JSON.stringify(fileURLToPath(new URL(`../../src/kernel/${name}.ts`, import.meta.url)));
const PRELUDE = `
  const { loadNative } = await import(${module('native')});
  const { loadPrograms } = await import(${module('programs')});
  const object = loadPrograms(loadNative());
`;

function descriptors(): number {
  return readdirSync('/proc/self/fd').length;
}

test('maps are sized before they are loaded, and what goes by slot with them', () => {
  const object = loadPrograms(native, { workloads: 10, verdicts: 7 });
  try {
    const maps = object.maps();
    assert.equal(maps.workloads?.maxEntries, 10);
    assert.equal(maps.epochs?.maxEntries, 11);
    assert.equal(maps.budgets?.maxEntries, 11);
    assert.equal(maps.verdicts?.maxEntries, 7);
  } finally {
    object.close();
  }
});

test('all programs are attached, or none', () => {
  const folder = path.join(cgroupMount(), `postern-programs-${process.pid}`);
  mkdirSync(folder);
  const object = loadPrograms(native);
  try {
    const before = descriptors();
    const { detach } = attachPrograms(object, folder);
    const guards = object.programs().filter((name) => name.startsWith('guard_'));
    assert.equal(descriptors(), before + object.programs().length - guards.length);
    detach();
    assert.equal(descriptors(), before);
    detach();
    assert.throws(() => attachPrograms(object, '/proc'), KernelError);
    assert.equal(descriptors(), before);
  } finally {
    object.close();
    rmdirSync(folder);
  }
});

test('a closed object leaves no descriptor behind, also one with links and a reader', () => {
  const folder = path.join(cgroupMount(), `postern-programs-${process.pid}-leak`);
  mkdirSync(folder);
  try {
    loadPrograms(native).close();
    const before = descriptors();
    for (let round = 0; round < 3; round++) {
      const object = loadPrograms(native);
      attachPrograms(object, folder);
      object.readEvents('events', () => {});
      object.close();
    }
    assert.equal(descriptors(), before);
    assert.throws(() => loadPrograms(native, { nothing: 1 }), KernelError);
    assert.equal(descriptors(), before);
  } finally {
    rmdirSync(folder);
  }
});

test('a process that exits amid reading ends with the status it asked for', async () => {
  const code = `${PRELUDE} object.readEvents('events', () => {}); setImmediate(() => process.exit(7));`;
  const failure = await run(process.execPath, ['--input-type=module', '-e', code]).then(
    () => null,
    (error) => error,
  );
  assert.deepEqual([failure?.code, failure?.signal, failure?.stderr], [7, null, '']);
});

test('a process that only stops reading ends by itself', async () => {
  const code = `${PRELUDE} object.readEvents('events', () => {}); setImmediate(() => { object.stopEvents('events'); console.log('stopped'); });`;
  assert.equal((await run(process.execPath, ['--input-type=module', '-e', code])).stdout, 'stopped\n');
});

test('signals do not make the verifier give up', async () => {
  const folder = mkdtempSync(path.join(tmpdir(), `postern-${process.pid}-`));
  try {
    const profile = ['--cpu-prof', '--cpu-prof-interval=100', `--cpu-prof-dir=${folder}`];
    const code = `${PRELUDE} console.log(object.programs().length);`;
    const { stdout } = await run(process.execPath, [...profile, '--input-type=module', '-e', code]);
    assert(Number(stdout) > 0);
    const [file = ''] = readdirSync(folder);
    assert(JSON.parse(readFileSync(path.join(folder, file), 'utf8')).samples.length > 0);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
