// SPDX-License-Identifier: Apache-2.0
// A process that gives up what an agent gives up, and tells on stdout, as JSON, what it could do before and after. `confined.ts ADDON CAPABILITIES
// ATTEMPT...`: the addon of attempts.cc, and a set in hex.
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { getSystemErrorMap } from 'node:util';
import { Worker } from 'node:worker_threads';
import { loadNative } from '../../src/kernel/native.ts';

const [addon = '', capabilities = '', ...attempts] = process.argv.slice(2);
const { attempt } = createRequire(import.meta.url)(addon) as { attempt(name: string): number };
const native = loadNative();

function errors(): Record<string, string> {
  const codes = getSystemErrorMap();
  return Object.fromEntries(attempts.map((name) => [name, codes.get(-attempt(name))?.[0] ?? 'ok']));
}

/** Of each thread, fields of /proc/PID/status. */
function threads(): Record<string, string>[] {
  return readdirSync('/proc/self/task').map((thread) => {
    const status = readFileSync(`/proc/self/task/${thread}/status`, 'utf8');
    return Object.fromEntries(status.split('\n').map((line) => line.split(/:\s*/, 2) as [string, string]));
  });
}

/** The value that another thread of Node's comes to. */
function inWorker(): Promise<number> {
  return new Promise((resolve, reject) => {
    const worker = new Worker('require("worker_threads").parentPort.postMessage(6 * 7)', { eval: true });
    worker.on('message', resolve);
    worker.on('error', reject);
  });
}

// Threads of libuv's, which exist once something was asked of them.
await import('node:fs/promises').then(({ readFile }) => readFile('/proc/self/status'));
const before = errors();
const permitted = native.keepCapabilities(BigInt(`0x${capabilities}`));
native.filterSystemCalls();
const after = errors();
const told = {
  before,
  after,
  permitted: permitted.toString(16),
  threads: threads(),
  spawned: (spawnSync('/bin/true').error as NodeJS.ErrnoException | undefined)?.code ?? 'ok',
  worker: await inWorker(),
};
process.stdout.write(`${JSON.stringify(told)}\n`);
