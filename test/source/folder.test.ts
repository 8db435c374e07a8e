// SPDX-License-Identifier: Apache-2.0
// Is a folder read as it is, with links, editors' renames, half-written files and its own disappearance?
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test from 'node:test';
import { Folder, FolderWatch, type Scan } from '../../src/source/folder.ts';

function temporary(t: test.TestContext): string {
  const folder = mkdtempSync(path.join(tmpdir(), `postern-folder-${process.pid}-`));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

function texts(folder: string, scan: Scan): Record<string, string> {
  return Object.fromEntries(scan.files.map((file) => [path.relative(folder, file.path), file.text]));
}

/** A watch whose scans can be awaited until they show something. */
function watched(
  t: test.TestContext,
  folder: string,
): { first: Scan; until(holds: (scan: Scan) => boolean): Promise<Scan> } {
  const scans: Scan[] = [];
  let wake: () => void = () => undefined;
  const watch = new FolderWatch(
    new Folder(folder),
    (scan) => {
      scans.push(scan);
      wake();
    },
    { rescanMs: 3_600_000 },
  );
  t.after(() => watch.close());
  const first = watch.start();
  return {
    first,
    async until(holds) {
      for (;;) {
        const found = scans.find(holds);
        if (found !== undefined) return found;
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    },
  };
}

test('reads yaml, yml and json at any depth, sorted; passes over hidden names and everything else', (t) => {
  const folder = temporary(t);
  mkdirSync(path.join(folder, 'b/c'), { recursive: true });
  mkdirSync(path.join(folder, '.git'));
  for (const name of ['z.yaml', 'a.yml', 'b/c/deep.json', 'README.md', '.hidden.yaml', '.git/x.yaml', 'a.yaml.swp']) {
    writeFileSync(path.join(folder, name), name);
  }
  const scan = new Folder(folder).scan();
  assert.deepEqual(Object.keys(texts(folder, scan)), ['a.yml', 'b/c/deep.json', 'z.yaml']);
  assert.deepEqual(scan.unreadable, []);
});

test('a mounted ConfigMap is read once, through its links, and a circle of links ends', (t) => {
  const folder = temporary(t);
  mkdirSync(path.join(folder, '..2026_01'));
  writeFileSync(path.join(folder, '..2026_01/policy.yaml'), 'one');
  symlinkSync('..2026_01', path.join(folder, '..data'));
  symlinkSync('..data/policy.yaml', path.join(folder, 'policy.yaml'));
  symlinkSync('.', path.join(folder, 'again'));
  assert.deepEqual(texts(folder, new Folder(folder).scan()), { 'policy.yaml': 'one' });
});

test('an unchanged file keeps its hash and its very object', (t) => {
  const folder = temporary(t);
  writeFileSync(path.join(folder, 'a.yaml'), 'same');
  const reader = new Folder(folder);
  const [first] = reader.scan().files;
  writeFileSync(path.join(folder, 'a.yaml'), 'same');
  const [second] = reader.scan().files;
  assert.equal(second, first);
});

test('what cannot be read is told, and is not taken for gone', (t) => {
  const folder = temporary(t);
  symlinkSync('nowhere.yaml', path.join(folder, 'a.yaml'));
  assert.deepEqual(
    new Folder(folder).scan().unreadable.map((one) => path.relative(folder, one.path)),
    ['a.yaml'],
  );
  const missing = new Folder(path.join(folder, 'missing')).scan();
  assert.deepEqual(missing, {
    files: [],
    unsettled: [],
    unreadable: [{ path: path.join(folder, 'missing'), message: 'is not there' }],
  });
});

test('what is no file is told, and never waited for', (t) => {
  const folder = temporary(t);
  execFileSync('mkfifo', [path.join(folder, 'a-pipe.yaml')]);
  symlinkSync('/dev/zero', path.join(folder, 'b-device.yaml'));
  symlinkSync('c-circle.yaml', path.join(folder, 'c-circle.yaml'));
  symlinkSync('d-circle', path.join(folder, 'd-circle'));
  // A file that is read like a pipe, and holds nothing to read at once.
  symlinkSync('/proc/kmsg', path.join(folder, 'e-log.yaml'));
  writeFileSync(path.join(folder, 'f-large.yaml'), '');
  truncateSync(path.join(folder, 'f-large.yaml'), 100 * 1024 * 1024);
  writeFileSync(path.join(folder, 'g.yaml'), 'a: 1\n');
  const { files, unreadable, unsettled = [] } = new Folder(folder, 0).scan();
  const names = (paths: readonly string[]) => paths.map((one) => path.basename(one));
  assert.deepEqual(
    names(files.map((one) => one.path)).filter((name) => name !== 'e-log.yaml'),
    ['g.yaml'],
  );
  assert.deepEqual(
    names(unreadable.map((one) => one.path)).filter((name) => name !== 'e-log.yaml'),
    ['a-pipe.yaml', 'b-device.yaml', 'c-circle.yaml', 'f-large.yaml'],
  );
  assert.deepEqual(unsettled, []);
});

test('hears of new, changed, renamed and removed files, and of files in new folders', async (t) => {
  const folder = temporary(t);
  const watch = watched(t, folder);
  assert.deepEqual(texts(folder, watch.first), {});
  writeFileSync(path.join(folder, 'a.yaml'), 'one');
  await watch.until((scan) => texts(folder, scan)['a.yaml'] === 'one');
  // As editors save: beside it, then renamed over it.
  writeFileSync(path.join(folder, '.a.yaml.tmp'), 'two');
  renameSync(path.join(folder, '.a.yaml.tmp'), path.join(folder, 'a.yaml'));
  await watch.until((scan) => texts(folder, scan)['a.yaml'] === 'two');
  mkdirSync(path.join(folder, 'new/deep'), { recursive: true });
  writeFileSync(path.join(folder, 'new/deep/b.yaml'), 'b');
  await watch.until((scan) => texts(folder, scan)['new/deep/b.yaml'] === 'b');
  writeFileSync(path.join(folder, 'new/deep/b.yaml'), 'b2');
  await watch.until((scan) => texts(folder, scan)['new/deep/b.yaml'] === 'b2');
  rmSync(path.join(folder, 'a.yaml'));
  await watch.until((scan) => texts(folder, scan)['a.yaml'] === undefined && scan.files.length === 1);
});

test('an empty file is unsettled at first, and taken at its word later without any event', async (t) => {
  const folder = temporary(t);
  const file = path.join(folder, 'a.yaml');
  writeFileSync(file, '');
  const fresh = new Folder(folder, 3_600_000).scan();
  assert.deepEqual([fresh.files, fresh.unsettled], [[], [file]]);
  const scans: Scan[] = [];
  let wake: () => void = () => undefined;
  const watch = new FolderWatch(
    new Folder(folder, 100),
    (scan) => {
      scans.push(scan);
      wake();
    },
    { rescanMs: 3_600_000 },
  );
  t.after(() => watch.close());
  writeFileSync(file, '');
  watch.start();
  while (scans.at(-1)?.files.length !== 1) await new Promise<void>((resolve) => (wake = resolve));
  assert.deepEqual(texts(folder, scans.at(-1) ?? fresh), { 'a.yaml': '' });
});

test('hears of a ConfigMap that is swapped by its ..data link', async (t) => {
  const folder = temporary(t);
  for (const version of ['..1', '..2']) {
    mkdirSync(path.join(folder, version));
    writeFileSync(path.join(folder, version, 'policy.yaml'), version);
  }
  symlinkSync('..1', path.join(folder, '..data'));
  symlinkSync('..data/policy.yaml', path.join(folder, 'policy.yaml'));
  const watch = watched(t, folder);
  assert.deepEqual(texts(folder, watch.first), { 'policy.yaml': '..1' });
  symlinkSync('..2', path.join(folder, '..data_tmp'));
  renameSync(path.join(folder, '..data_tmp'), path.join(folder, '..data'));
  await watch.until((scan) => texts(folder, scan)['policy.yaml'] === '..2');
});

test('a folder that is deleted and made again is followed', async (t) => {
  const folder = path.join(temporary(t), 'policies');
  mkdirSync(folder);
  writeFileSync(path.join(folder, 'a.yaml'), 'one');
  const watch = watched(t, folder);
  rmSync(folder, { recursive: true });
  await watch.until((scan) => scan.unreadable.some((one) => one.path === folder));
  mkdirSync(folder);
  writeFileSync(path.join(folder, 'a.yaml'), 'two');
  await watch.until((scan) => texts(folder, scan)['a.yaml'] === 'two');
  writeFileSync(path.join(folder, 'a.yaml'), 'three');
  await watch.until((scan) => texts(folder, scan)['a.yaml'] === 'three');
});
