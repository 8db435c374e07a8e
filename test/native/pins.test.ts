// SPDX-License-Identifier: Apache-2.0
// Does what is pinned outlive the object that made it, and can another take it over? Knows nothing of Postern's own programs.
import assert from 'node:assert/strict';
import { closeSync, mkdirSync, renameSync, rmdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { KernelError, type LoadedObject, loadNative } from '#src/kernel/native.ts';
import { Bpffs } from '../support/bpffs.ts';
import { cgroupMount } from '../support/lab.ts';

const STUB = fileURLToPath(new URL('../../build/test/native/stub.bpf.o', import.meta.url));
const native = loadNative();
const bpffs = new Bpffs();
after(() => bpffs.close());

function place(name: string): string {
  return path.join(bpffs.path, name);
}

function load(pinned: Record<string, string> = {}, sizes: Record<string, number> = {}): LoadedObject {
  return native.load(STUB, sizes, {}, pinned);
}

function fails(code: string): (error: unknown) => boolean {
  return (error) => error instanceof KernelError && error.code === code;
}

const KEY = Buffer.from('01000000', 'hex');
const VALUE = Buffer.from('0200000000000000', 'hex');

test('a pinned map is taken over with what it holds, and told apart from others by id and layout', () => {
  const first = load();
  first.update('hash', KEY, VALUE, 1, 0);
  first.pinMap('hash', place('hash'));
  assert.throws(() => first.pinMap('hash', place('hash')), fails('EEXIST'));
  const { hash: id } = first.mapIds();
  assert.equal(first.layouts().hash, native.layouts(STUB, {}).hash);
  assert.notEqual(first.layouts().hash, native.layouts(STUB, { hash: 3 }).hash);
  first.close();

  const second = load({ hash: place('hash') });
  assert.deepEqual(second.lookup('hash', KEY), VALUE);
  assert.equal(second.mapIds().hash, id);
  second.close();
  assert.throws(() => load({ hash: place('hash') }, { hash: 3 }), fails('EINVAL'));
  assert.throws(() => load({ array: place('hash') }), fails('EINVAL'));
  assert.throws(() => load({ hash: place('nothing') }), fails('ENOENT'));

  for (const maps of [native.openMaps({ hash: place('hash') }), native.openMapsById({ hash: id ?? 0 })]) {
    assert.deepEqual(maps.lookup('hash', KEY), VALUE);
    assert.equal(maps.layouts().hash, native.layouts(STUB, {}).hash);
    assert.deepEqual(maps.programs(), []);
    maps.close();
    assert.throws(() => maps.lookup('hash', KEY), fails('EBADF'));
  }
  rmSync(place('hash'));
  assert.throws(() => native.openMapsById({ hash: id ?? 0 }), fails('ENOENT'));
});

test('a pinned link holds its program until the file is removed, and gets another in its place', () => {
  const folder = path.join(cgroupMount(), `postern-pins-${process.pid}`);
  mkdirSync(folder);
  try {
    const cgroup = native.cgroupId(folder);
    const first = load();
    const link = first.attachCgroup('tell', folder);
    const { id, program } = first.link(link);
    assert.equal(program, first.program('tell').id);
    first.pinLink(link, place('link'));
    first.close();
    assert.equal(native.links().find((one) => one.id === id)?.cgroup, cgroup);
    assert.equal(native.program(program)?.name, 'tell');

    const second = load();
    const opened = second.openLink(place('link'));
    assert.deepEqual(second.link(opened), { id, type: 3, program, cgroup, ifindex: 0, attachType: 1 });
    second.updateLink(opened, 'tell');
    assert.equal(second.link(opened).program, second.program('tell').id);
    assert.equal(second.program('tell').tag, tagOfAnother(second));
    assert.equal(native.program(program), null, 'nobody holds the old program any more');
    assert.throws(() => second.updateLink(opened, 'nothing'), fails('ENOENT'));
    assert.throws(() => second.openLink(place('nothing')), fails('ENOENT'));
    second.pinMap('hash', place('map'));
    assert.throws(() => second.openLink(place('map')), fails('EINVAL'));
    rmSync(place('map'));

    // By rename one link takes another's place, and the other is gone.
    const beside = second.attachCgroup('refuse', folder);
    second.pinLink(beside, place('next'));
    renameSync(place('next'), place('link'));
    second.detach(opened);
    assert.deepEqual(
      native.links().filter((one) => one.cgroup === cgroup),
      [second.link(beside)],
    );
    second.close();
    rmSync(place('link'));
    assert.deepEqual(
      native.links().filter((one) => one.cgroup === cgroup),
      [],
    );
  } finally {
    rmSync(place('link'), { force: true });
    rmSync(place('next'), { force: true });
    rmdirSync(folder);
  }
});

/** Loading the same file again gives the same tag. */
function tagOfAnother(other: LoadedObject): string {
  const object = load();
  try {
    assert.notEqual(object.program('tell').id, other.program('tell').id);
    return object.program('tell').tag;
  } finally {
    object.close();
  }
}

test('constants are told, which the tag does not cover', () => {
  const one = native.load(STUB, {}, { refusal: 1 });
  const other = native.load(STUB, {}, { refusal: 2 });
  try {
    assert.notDeepEqual(one.program('refuse').constants, other.program('refuse').constants);
    assert.deepEqual(one.program('refuse').constants, native.program(one.program('refuse').id)?.constants);
  } finally {
    one.close();
    other.close();
  }
});

test('a folder is locked once, until its descriptor is closed', () => {
  const lock = native.lockFolder(bpffs.path);
  assert.throws(() => native.lockFolder(bpffs.path), fails('EAGAIN'));
  closeSync(lock);
  closeSync(native.lockFolder(bpffs.path));
  assert.throws(() => native.lockFolder(place('nothing')), fails('ENOENT'));
});
