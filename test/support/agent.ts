// SPDX-License-Identifier: Apache-2.0
// `postern agent` as a child process on a folder of its own, attached to a lab's cgroup, with its log lines at hand.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { loadNative } from '../../src/kernel/native.ts';
import { Bpffs } from './bpffs.ts';
import type { Lab } from './lab.ts';

/** A line of the agent's log. */
export interface LogLine {
  readonly event: string;
  readonly [field: string]: unknown;
}

/** Far longer than anything takes: what has not come by then never will. */
const PATIENCE_MS = 300_000;
export const POSTERN = path.join(import.meta.dirname, '../../bin/postern');
/** Where Node keeps what it made of each source: two thirds of the processor's time of a start are that, and tests start hundreds. */
const NODE_COMPILE_CACHE = path.join(import.meta.dirname, '../../build/compiled');

export class TestAgent {
  readonly lines: LogLine[] = [];
  /** What it wrote to stderr. */
  errors = '';
  readonly child: ChildProcess;
  readonly #waiting = new Set<() => void>();
  #ended: { status: number | null; signal: string | null } | null = null;

  constructor(child: ChildProcess) {
    this.child = child;
    if (child.stdout === null) throw new Error('the agent needs pipes');
    createInterface({ input: child.stdout }).on('line', (line) => {
      this.lines.push(JSON.parse(line) as LogLine);
      for (const wake of this.#waiting) wake();
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.errors += text;
    });
    child.on('close', (status, signal) => {
      this.#ended = { status, signal };
      for (const wake of this.#waiting) wake();
    });
  }

  /** The first line from `from` on that `holds`; rejects if the agent ends, or five minutes pass, before there is one. */
  async line(holds: (line: LogLine) => boolean, from = 0): Promise<LogLine> {
    const timer = setTimeout(() => this.child.kill('SIGKILL'), PATIENCE_MS);
    try {
      return await this.#line(holds, from);
    } finally {
      clearTimeout(timer);
    }
  }

  async #line(holds: (line: LogLine) => boolean, from: number): Promise<LogLine> {
    for (;;) {
      const found = this.lines.slice(from).find(holds);
      if (found !== undefined) return found;
      if (this.#ended !== null) {
        const log = this.lines.map((line) => JSON.stringify(line)).join('\n');
        throw new Error(`the agent ended (${JSON.stringify(this.#ended)}): ${this.errors}\n${log}`);
      }
      await this.#wake();
    }
  }

  /** Does something, and waits for the next `applied` line after it. */
  async applied(change: () => void | Promise<void>): Promise<LogLine> {
    const from = this.lines.length;
    await change();
    return this.line((line) => line.event === 'applied', from);
  }

  async ended(): Promise<{ status: number | null; signal: string | null }> {
    while (this.#ended === null) await this.#wake();
    return this.#ended;
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    this.child.kill(signal);
    return (await this.ended()).status;
  }

  /** `/metrics` now: value by series as Prometheus writes them. */
  async metrics(): Promise<Map<string, number>> {
    const ready = await this.line((line) => line.event === 'ready');
    const text = await (await fetch(String(ready.metrics))).text();
    const series = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
    return new Map(
      series.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]),
    );
  }

  #wake(): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        this.#waiting.delete(wake);
        resolve();
      };
      this.#waiting.add(wake);
    });
  }
}

/** A folder of objects, written as editors write: whole files, by rename. */
export class PolicyFolder {
  readonly path: string;
  readonly stateDir: string;
  /** Where its agent answers. */
  readonly socket: string;
  /** Where its agent pins. */
  readonly bpffs: string;
  readonly #mount = new Bpffs();
  readonly #base: string;
  readonly #atExit = () => this.close();

  constructor() {
    process.on('exit', this.#atExit);
    this.#base = mkdtempSync(path.join(tmpdir(), `postern-agent-${process.pid}-`));
    this.path = mkdtempSync(path.join(this.#base, 'policies-'));
    this.stateDir = path.join(this.#base, 'state');
    this.socket = path.join(this.#base, 'agent.sock');
    this.bpffs = path.join(this.#mount.path, 'postern');
  }

  write(name: string, text: string): void {
    const next = path.join(this.path, `.${name}.next`);
    writeFileSync(next, text);
    renameSync(next, path.join(this.path, name));
  }

  remove(name: string): void {
    rmSync(path.join(this.path, name));
  }

  close(): void {
    process.off('exit', this.#atExit);
    rmSync(this.#base, { recursive: true, force: true });
    // With what is pinned there, whatever became of the agent.
    this.#mount.close();
  }
}

/** Epochs that are not 0, by slot, from the one set that is pinned: what an agent changed of what workloads may do, it has counted there. */
export function epochsOf({ bpffs }: PolicyFolder): Map<number, number> {
  const [set, ...others] = readdirSync(bpffs).filter((name) => /^[0-9a-f]{16}-\d+$/.test(name));
  if (set === undefined || others.length > 0) throw new Error(`not one set is pinned: ${[set, ...others].join(', ')}`);
  const maps = loadNative().openMaps({ epochs: path.join(bpffs, set, 'epochs') });
  try {
    const { values, count } = maps.dump('epochs');
    const all = Array.from({ length: count }, (_, slot) => [slot, values.readUInt32LE(slot * 4)] as const);
    return new Map(all.filter(([, epoch]) => epoch > 0));
  } finally {
    maps.close();
  }
}

/** Starts the agent on a folder, enforcing below the lab's cgroup, and waits until it is ready. */
export async function startAgent(lab: Lab, folder: PolicyFolder, ...args: readonly string[]): Promise<TestAgent> {
  const agent = launchAgent(lab, folder, ...args);
  await agent.line((line) => line.event === 'ready');
  return agent;
}

/** Starts it without waiting. */
export function launchAgent(lab: Lab, folder: PolicyFolder, ...args: readonly string[]): TestAgent {
  return launchAgentIn({ netns: null, root: lab.root }, lab, folder, ...args);
}

const DIE_AT = path.join(import.meta.dirname, 'die-at.ts');

/** One that kills itself: see die-at.ts, whose variables these are. */
export function launchMortal(
  variables: Readonly<Record<string, string>>,
  lab: Lab,
  folder: PolicyFolder,
  ...args: readonly string[]
): TestAgent {
  const env = { NODE_OPTIONS: `--import=${DIE_AT}`, ...variables };
  return launchAgentIn({ netns: null, root: lab.root, env }, lab, folder, ...args);
}

/** The same in a network namespace (`/run/netns/…`; null: the test's own), enforcing below another cgroup. */
export function launchAgentIn(
  {
    netns,
    root,
    env = {},
  }: { readonly netns: string | null; readonly root: string; readonly env?: Readonly<Record<string, string>> },
  lab: Lab,
  folder: PolicyFolder,
  ...args: readonly string[]
): TestAgent {
  const options = [
    '--policies',
    folder.path,
    '--state-dir',
    folder.stateDir,
    '--cgroup-root',
    root,
    '--socket',
    folder.socket,
    '--bpffs',
    folder.bpffs,
  ];
  const enter = netns === null ? [] : ['nsenter', `--net=${netns}`, '--'];
  const [command = '', ...rest] = [...enter, POSTERN, 'agent', ...options, '--metrics-address', '127.0.0.1:0', ...args];
  const child = spawn(command, rest, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { NODE_COMPILE_CACHE, ...process.env, ...env },
  });
  lab.adopt(child);
  return new TestAgent(child);
}
