// SPDX-License-Identifier: Apache-2.0
// The real kubectl against a test API server, its caches in the server's own folder.
import { type ChildProcess, spawn } from 'node:child_process';
import path from 'node:path';
import type { ApiServer } from './server.ts';

const KUBECTL = path.join(import.meta.dirname, '../../../build/tools/kubectl');

export interface Ran {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function start(server: ApiServer, args: readonly string[], kubeconfig: string): ChildProcess {
  const environment = { PATH: process.env.PATH, HOME: server.folder, KUBECONFIG: kubeconfig };
  const cache = `--cache-dir=${path.join(server.folder, 'cache')}`;
  return spawn(KUBECTL, [cache, ...args], { env: environment, stdio: 'pipe' });
}

/** Runs kubectl as the administrator, or as another kubeconfig says, to its end. */
export async function kubectl(
  server: ApiServer,
  args: readonly string[],
  given: { readonly input?: string; readonly kubeconfig?: string } = {},
): Promise<Ran> {
  const child = start(server, args, given.kubeconfig ?? server.kubeconfig);
  let [stdout, stderr] = ['', ''];
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  child.stdin?.end(given.input ?? '');
  const status = await new Promise<number | null>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', resolve);
  });
  return { status, stdout, stderr };
}

/** A kubectl that goes on until it is disposed of: what it has said so far, and a promise of more. */
export class Following implements AsyncDisposable {
  stdout = '';
  readonly #child: ChildProcess;
  readonly #closed: Promise<void>;
  readonly #waiting = new Set<() => void>();

  constructor(server: ApiServer, args: readonly string[]) {
    this.#child = start(server, args, server.kubeconfig);
    this.#child.stdin?.end();
    this.#child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.stdout += text;
      for (const wake of this.#waiting) wake();
    });
    this.#closed = new Promise((resolve) => this.#child.on('close', () => resolve()));
  }

  /** Resolves when what it has said matches; rejects when it ends before. */
  async said(pattern: RegExp): Promise<void> {
    let ended = false;
    const end = this.#closed.then(() => {
      ended = true;
    });
    while (!pattern.test(this.stdout)) {
      if (ended) throw new Error(`kubectl has ended, having said:\n${this.stdout}`);
      const more = new Promise<void>((resolve) => this.#waiting.add(resolve));
      await Promise.race([more, end]);
      this.#waiting.clear();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#closed;
  }
}
