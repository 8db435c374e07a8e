// SPDX-License-Identifier: Apache-2.0
// The real kubectl and helm against a test API server, their caches in the server's own folder.
import { type ChildProcess, spawn } from 'node:child_process';
import path from 'node:path';
import type { ApiServer } from './server.ts';

const TOOLS = path.join(import.meta.dirname, '../../../build/tools');

export interface Ran {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function start(server: ApiServer, tool: 'kubectl' | 'helm', args: readonly string[], kubeconfig: string): ChildProcess {
  // Both keep their caches below HOME.
  const environment = { PATH: process.env.PATH, HOME: server.folder, KUBECONFIG: kubeconfig };
  return spawn(path.join(TOOLS, tool), args, { env: environment, stdio: 'pipe' });
}

/** Runs kubectl as the administrator, or as another kubeconfig says, to its end. */
export function kubectl(
  server: ApiServer,
  args: readonly string[],
  given: { readonly input?: string; readonly kubeconfig?: string } = {},
): Promise<Ran> {
  return ended(start(server, 'kubectl', args, given.kubeconfig ?? server.kubeconfig), given.input ?? '');
}

/** Runs helm as the administrator to its end. */
export function helm(server: ApiServer, args: readonly string[]): Promise<Ran> {
  return ended(start(server, 'helm', args, server.kubeconfig), '');
}

async function ended(child: ChildProcess, input: string): Promise<Ran> {
  let [stdout, stderr] = ['', ''];
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  child.stdin?.end(input);
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
    this.#child = start(server, 'kubectl', args, server.kubeconfig);
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
