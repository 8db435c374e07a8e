// SPDX-License-Identifier: Apache-2.0
// Are real cgroup folders heard of, in both spellings, wherever and whenever they appear below the root?
import assert from 'node:assert/strict';
import { mkdirSync, rmdirSync, statSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { Cgroups } from '../../src/bind/cgroups.ts';
import { cgroupMount, Lab } from '../support/lab.ts';

/** A cgroup2 folder's inode number is its id (kernfs, 64-bit). */
const idOf = (folder: string): bigint => statSync(folder, { bigint: true }).ino;

async function changeUntil(cgroups: { next(): Promise<void> }, holds: () => boolean): Promise<void> {
  while (!holds()) await cgroups.next();
}

test('folders are found when they are there, when they appear late and when they vanish', async () => {
  const lab = await Lab.create();
  const mount = cgroupMount();
  const root = path.relative(mount, lab.root);
  // No rescan within the test: what is heard, inotify told.
  const cgroups = new Cgroups({ mount, root, idOf, rescanMs: 3_600_000 });
  try {
    lab.cgroup('kubepods/burstable/pod1111-aa');
    let wake: () => void = () => undefined;
    const heard = { next: () => new Promise<void>((resolve) => (wake = resolve)) };
    cgroups.start(() => wake());
    assert.equal(cgroups.byUid('1111-aa')?.path, `${root}/kubepods/burstable/pod1111-aa`);
    assert.equal(cgroups.byUid('2222-bb'), null);

    const slice = 'kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod2222_bb.slice';
    const late = changeUntil(heard, () => cgroups.byUid('2222-bb') !== null);
    lab.cgroup(slice);
    await late;
    assert.equal(cgroups.byUid('2222-bb')?.path, `${root}/${slice}`);
    assert.equal(cgroups.byUid('2222-bb')?.id, idOf(path.join(mount, root, slice)));

    const first = cgroups.byUid('2222-bb')?.id;
    const gone = changeUntil(heard, () => cgroups.byUid('2222-bb') === null);
    rmdirSync(path.join(lab.root, slice));
    await gone;
    const again = changeUntil(heard, () => cgroups.byUid('2222-bb') !== null);
    mkdirSync(path.join(lab.root, slice));
    await again;
    assert.notEqual(cgroups.byUid('2222-bb')?.id, first);

    assert.equal(cgroups.at(`${root}/plain`), null);
    const plain = changeUntil(heard, () => cgroups.at(`${root}/plain`) !== null);
    lab.cgroup('plain');
    await plain;
    assert.equal(cgroups.at(`${root}/plain`)?.id, idOf(path.join(lab.root, 'plain')));
  } finally {
    cgroups.close();
    await lab.close();
  }
});

test('a folder is found by its id, also inside of a pod, and not once it is gone', async () => {
  const lab = await Lab.create();
  const mount = cgroupMount();
  const root = path.relative(mount, lab.root);
  const cgroups = new Cgroups({ mount, root, idOf, rescanMs: 3_600_000 });
  try {
    const inside = lab.cgroup('kubepods/pod1111-aa/container');
    const id = idOf(inside);
    assert.equal(cgroups.pathOf(id), path.relative(mount, inside));
    assert.equal(cgroups.pathOf(idOf(lab.root)), root);
    assert.equal(cgroups.pathOf(idOf(mount)), null, 'above the root');
    rmdirSync(inside);
    assert.equal(cgroups.pathOf(id), null);
    const after = new Cgroups({ mount, root, idOf, rescanMs: 3_600_000 });
    assert.equal(after.pathOf(id), null);
    after.close();
  } finally {
    cgroups.close();
    await lab.close();
  }
});

test('units are found in slices alone, when asked, also outside the root, and when they appear late', async () => {
  const lab = await Lab.create();
  const mount = cgroupMount();
  const base = path.relative(mount, lab.root);
  lab.cgroup('enforced');
  const cgroups = new Cgroups({ mount, root: `${base}/enforced`, idOf, rescanMs: 3_600_000 });
  try {
    const unit = `kubelet-${process.pid}.service`;
    for (const other of ['', 'system.slice/other.scope/', 'system.slice/user@1.service/app.slice/', 'plain/a.slice/']) {
      lab.cgroup(`enforced/${other}${unit}`);
    }
    lab.cgroup(`enforced/kubepods.slice/kubepods-pod1_a.slice/${unit}`);
    let wake: () => void = () => undefined;
    const heard = { next: () => new Promise<void>((resolve) => (wake = resolve)) };
    cgroups.start(() => wake());
    assert.deepEqual(cgroups.byUnit(unit), []);

    const late = changeUntil(heard, () => cgroups.byUnit(unit).length === 1);
    const folder = `enforced/a.slice/a-b.slice/${unit}`;
    lab.cgroup(folder);
    await late;
    const id = idOf(path.join(lab.root, folder));
    assert.deepEqual(cgroups.byUnit(unit), [{ path: `${base}/${folder}`, id }]);

    const gone = changeUntil(heard, () => cgroups.byUnit(unit).length === 0);
    rmdirSync(path.join(lab.root, folder));
    await gone;
  } finally {
    cgroups.close();
    await lab.close();
  }

  // A slice of the machine's, beside what is enforced.
  const slice = path.join(mount, `postern${process.pid}.slice`);
  const unit = 'outside.service';
  const outside = new Cgroups({ mount, root: 'nothing', idOf, rescanMs: 3_600_000 });
  try {
    mkdirSync(path.join(slice, unit), { recursive: true });
    assert.deepEqual(
      outside.byUnit(unit).map((one) => one.path),
      [`postern${process.pid}.slice/${unit}`],
    );
  } finally {
    outside.close();
    rmdirSync(path.join(slice, unit));
    rmdirSync(slice);
  }
});
