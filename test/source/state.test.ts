// SPDX-License-Identifier: Apache-2.0
// Is the folder for the last valid versions made, or is it said why not? What is kept in it is in store.test.ts.
import assert from 'node:assert/strict';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
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

test('what could not be written is not remembered as it was before', (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), `postern-${process.pid}-`));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const state = new StateDir(folder);
  const object = (value: string) => ({ key: 'EgressPolicy/x/p', kind: 'EgressPolicy', value });
  state.write('a.yaml', [object('wide')]);
  state.write('b.yaml', [object('other')]);
  // In the way of the next version, as a full disk would be.
  for (const name of readdirSync(path.join(folder, 'objects'))) {
    const file = path.join(folder, 'objects', name);
    if (readFileSync(file, 'utf8').includes('a.yaml')) mkdirSync(`${file}.next`);
  }
  assert.throws(() => state.write('a.yaml', [object('narrow')]), StateError);
  assert.deepEqual([...state.read().kept.keys()], ['b.yaml']);
});
