// SPDX-License-Identifier: Apache-2.0
// A bpffs of a test's own: what is pinned there vanishes with it, also where the test fails or its process ends.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

/** What tests left behind that were killed. */
function sweep(): void {
  for (const line of readFileSync('/proc/self/mountinfo', 'utf8').split('\n')) {
    const folder = line.split(' ')[4] ?? '';
    const pid = /\/postern-bpffs-(\d+)-\w+$/.exec(folder)?.[1];
    if (pid === undefined || existsSync(`/proc/${pid}`)) continue;
    unmount(folder);
  }
}

function unmount(folder: string): void {
  try {
    execFileSync('umount', ['--lazy', folder], { stdio: 'ignore' });
    rmdirSync(folder);
  } catch {
    // Another test has swept it.
  }
}

export class Bpffs {
  /** Where it is mounted. */
  readonly path: string;
  readonly #atExit = () => this.close();

  constructor() {
    sweep();
    this.path = mkdtempSync(path.join(tmpdir(), `postern-bpffs-${process.pid}-`));
    execFileSync('mount', ['-t', 'bpf', `postern-${process.pid}`, this.path]);
    process.on('exit', this.#atExit);
  }

  /** Unmounts it, whoever still stands in it. Safe to call twice. */
  close(): void {
    process.off('exit', this.#atExit);
    unmount(this.path);
  }
}
