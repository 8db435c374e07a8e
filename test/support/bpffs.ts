// SPDX-License-Identifier: Apache-2.0
// A bpffs of a test's own: what is pinned there vanishes with it, also where the test fails or its process ends.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

export class Bpffs {
  /** Where it is mounted. */
  readonly path: string;
  readonly #atExit = () => this.close();

  constructor() {
    this.path = mkdtempSync(path.join(tmpdir(), `postern-bpffs-${process.pid}-`));
    execFileSync('mount', ['-t', 'bpf', `postern-${process.pid}`, this.path]);
    process.on('exit', this.#atExit);
  }

  /** Unmounts it, whoever still stands in it. Safe to call twice. */
  close(): void {
    process.off('exit', this.#atExit);
    try {
      execFileSync('umount', ['--lazy', this.path], { stdio: 'ignore' });
    } catch {
      return;
    }
    rmdirSync(this.path);
  }
}
