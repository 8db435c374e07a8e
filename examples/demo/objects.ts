// SPDX-License-Identifier: Apache-2.0
// The demo's own copy of examples/: policies can be edited in it, and two demos don't meet in one cgroup.
import { readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { compile } from '../../src/compile/compile.ts';
import { explainer } from '../../src/judge/explain.ts';
import type { Snapshot } from '../../src/model/objects.ts';
import { Folder } from '../../src/source/folder.ts';
import { readHost } from '../../src/source/host.ts';
import { ObjectStore } from '../../src/source/store.ts';

const EXAMPLES = path.join(import.meta.dirname, '..');
/** What the examples' cgroups begin with. */
const CGROUP = /(postern\.dev\/cgroup: )postern-demo\//g;

/** Copies the objects to `folder`; their cgroups are then below `cgroup`, a path below the cgroup2 mount. */
export function copyObjects(folder: string, cgroup: string): void {
  for (const name of readdirSync(EXAMPLES)) {
    if (!name.endsWith('.yaml')) continue;
    const text = readFileSync(path.join(EXAMPLES, name), 'utf8');
    writeFileSync(path.join(folder, name), text.replace(CGROUP, `$1${cgroup}/`));
  }
}

export type Explain = ReturnType<typeof explainer>['explain'];

/** What `postern explain --policies folder` knows. */
export function readObjects(folder: string): { readonly snapshot: Snapshot; readonly explain: Explain } {
  const { snapshot, problems } = new ObjectStore(null).update(new Folder(folder).scan(), readHost(null));
  const [problem] = problems;
  if (problem !== undefined) throw new Error(`${problem.file}:${problem.line}: ${problem.path}: ${problem.message}`);
  return { snapshot, explain: explainer(snapshot, compile(snapshot)).explain };
}

/** One line before and after. */
export interface Edit {
  readonly file: string;
  readonly before: string;
  readonly after: string;
}

/** Replaces what follows the line that contains `anchor` and matches `from`. A whole file at once, as editors do. */
export function editLine(folder: string, name: string, anchor: string, from: string, to: string): Edit {
  const file = path.join(folder, name);
  const lines = readFileSync(file, 'utf8').split('\n');
  const start = lines.findIndex((line) => line.includes(anchor));
  const at = lines.findIndex((line, index) => start >= 0 && index > start && line.includes(from));
  const before = lines[at];
  if (before === undefined) throw new Error(`${name} has no "${from}" after "${anchor}"`);
  const after = before.replace(from, to);
  lines[at] = after;
  writeFileSync(`${file}.next`, lines.join('\n'));
  renameSync(`${file}.next`, file);
  return { file, before, after };
}
