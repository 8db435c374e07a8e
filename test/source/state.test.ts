// SPDX-License-Identifier: Apache-2.0
// Is the folder for the last valid versions made, or is it said why not? What is kept in it is in store.test.ts.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { StateDir, StateError } from '../../src/source/state.ts';

test('the folder is made with all above it, for its owner alone; one that is there is taken', (t) => {
  const base = mkdtempSync(path.join(tmpdir(), `postern-state-${process.pid}-`));
  t.after(() => rmSync(base, { recursive: true, force: true }));
  const dir = path.join(base, 'a/b');
  for (const made of [new StateDir(dir), new StateDir(dir)]) assert.deepEqual([...made.read().kept], []);
  assert.equal(statSync(dir).mode & 0o777, 0o700);
  symlinkSync(dir, path.join(base, 'link'));
  assert.deepEqual([...new StateDir(path.join(base, 'link')).read().kept], []);
});

test('where none can be made it says so', (t) => {
  const base = mkdtempSync(path.join(tmpdir(), `postern-state-${process.pid}-`));
  t.after(() => rmSync(base, { recursive: true, force: true }));
  writeFileSync(path.join(base, 'file'), '');
  for (const dir of ['/proc/nope', path.join(base, 'file'), path.join(base, 'file/below')]) {
    assert.throws(() => new StateDir(dir), StateError, dir);
  }
});
