// SPDX-License-Identifier: Apache-2.0
// Is kubelet's root found, in each driver's spelling and wherever it is, and waited for where it is not?
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { awaitRoot, kubeletRoot, namedRoot } from '../../src/bind/root.ts';

function mountOf(t: test.TestContext, ...folders: readonly string[]): string {
  const mount = mkdtempSync(path.join(tmpdir(), `postern-root-${process.pid}-`));
  t.after(() => rmSync(mount, { recursive: true, force: true }));
  for (const folder of folders) mkdirSync(path.join(mount, folder), { recursive: true });
  return mount;
}

test('where kubelet may put the root of all pods', (t) => {
  const cases: [folders: string[], root: string | null][] = [
    [[], null],
    [['system.slice/kubelet.service', 'user.slice'], null],
    [['kubepods/burstable', 'system.slice'], 'kubepods'],
    [['kubepods.slice/kubepods-burstable.slice'], 'kubepods.slice'],
    [['kubelet/kubepods/besteffort'], 'kubelet/kubepods'],
    [['kubelet.slice/kubelet-kubepods.slice'], 'kubelet.slice/kubelet-kubepods.slice'],
    [['mykubepods', 'kubepods.slice.d', 'app.scope/kubepods', 'app.service/kubepods'], null],
  ];
  for (const [folders, root] of cases)
    assert.equal(kubeletRoot(mountOf(t, ...folders)).find(), root, folders.join(' '));
});

test("where both drivers' roots are there, the one in which something runs", (t) => {
  const mount = mountOf(t, 'kubepods', 'kubepods.slice');
  writeFileSync(path.join(mount, 'kubepods/cgroup.events'), 'populated 0\nfrozen 0\n');
  writeFileSync(path.join(mount, 'kubepods.slice/cgroup.events'), 'populated 1\nfrozen 0\n');
  assert.equal(kubeletRoot(mount).find(), 'kubepods.slice');
  writeFileSync(path.join(mount, 'kubepods.slice/cgroup.events'), 'populated 0\nfrozen 0\n');
  assert.equal(kubeletRoot(mount).find(), 'kubepods');
});

test('a root is waited for, and found when it appears', async (t) => {
  const mount = mountOf(t);
  const late = awaitRoot(kubeletRoot(mount), new AbortController().signal);
  mkdirSync(path.join(mount, 'kubepods.slice'));
  assert.equal(await late, 'kubepods.slice');
  rmdirSync(path.join(mount, 'kubepods.slice'));
  const deep = awaitRoot(kubeletRoot(mount), new AbortController().signal);
  mkdirSync(path.join(mount, 'kubelet/kubepods'), { recursive: true });
  assert.equal(await deep, 'kubelet/kubepods');
  assert.equal(await awaitRoot(namedRoot(mount, ''), new AbortController().signal), '');
});

test('a wait that is ended never resolves, and leaves nothing that keeps the process', async (t) => {
  const mount = mountOf(t);
  const end = new AbortController();
  let root: string | null = null;
  void awaitRoot(namedRoot(mount, 'later'), end.signal).then((found) => {
    root = found;
  });
  end.abort();
  mkdirSync(path.join(mount, 'later'));
  await pause(50);
  assert.equal(root, null);
});
