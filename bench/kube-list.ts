// SPDX-License-Identifier: Apache-2.0
// What does it cost to list a cluster's pods? `node --max-semi-space-size=1 bench/kube-list.ts [PODS]`: memory and CPU of the list by
// stream and by pages, each in a process of its own, as a table.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';

const MIB = 2 ** 20;

interface Cost {
  readonly how: string;
  readonly pods: number;
  readonly bytes: number;
  /** Beyond what the process had before it listed. */
  readonly peakMiB: number;
  readonly afterMiB: number;
  readonly cpuSeconds: number;
}

/** In this process. */
async function measure(how: string, kubeconfig: string): Promise<Cost> {
  const { KubeSource } = await import('../src/kube/source.ts');
  const options = { kubeconfig, context: null, nodeName: 'node-0', state: null, kept: new Map() };
  const source = await KubeSource.open(options);
  const before = process.memoryUsage.rss();
  const cpu = process.cpuUsage();
  let peak = before;
  const timer = setInterval(() => {
    peak = Math.max(peak, process.memoryUsage.rss());
  }, 5);
  const pods = await new Promise<number>((resolve) => {
    source.start(({ snapshot }) => resolve(snapshot.pods.length));
  });
  clearInterval(timer);
  const { user, system } = process.cpuUsage(cpu);
  const after = process.memoryUsage.rss();
  const bytes = source.status().reduce((sum, { bytesRead = 0 }) => sum + bytesRead, 0);
  await source.stop();
  return {
    how,
    pods,
    bytes,
    peakMiB: Math.round((Math.max(peak, after) - before) / MIB),
    afterMiB: Math.round((after - before) / MIB),
    cpuSeconds: (user + system) / 1e6,
  };
}

async function firstLine(child: ChildProcess): Promise<string> {
  if (child.stdout === null) throw new Error('nothing to read from');
  for await (const line of createInterface({ input: child.stdout })) return line;
  throw new Error('a process of the bench failed');
}

/** In a process of its own, against a server in another. */
async function measured(how: string, pods: number): Promise<Cost> {
  const folder = mkdtempSync(path.join(tmpdir(), `postern-bench-${process.pid}-`));
  const here = import.meta.dirname;
  const server = spawn(process.execPath, [path.join(here, 'pods.ts'), String(pods), how], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  try {
    const kubeconfig = path.join(folder, 'config');
    const cluster = { server: await firstLine(server) };
    const config = {
      clusters: [{ name: 'bench', cluster }],
      users: [{ name: 'bench', user: {} }],
      contexts: [{ name: 'bench', context: { cluster: 'bench', user: 'bench' } }],
      'current-context': 'bench',
    };
    writeFileSync(kubeconfig, JSON.stringify(config));
    const reader = spawn(
      process.execPath,
      [...process.execArgv, path.join(here, 'kube-list.ts'), '--measure', how, kubeconfig],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    const ended = once(reader, 'exit');
    const cost = JSON.parse(await firstLine(reader)) as Cost;
    await ended;
    return cost;
  } finally {
    const ended = once(server, 'exit');
    server.stdin?.end();
    await ended;
    rmSync(folder, { recursive: true });
  }
}

const [first, how, kubeconfig] = process.argv.slice(2);
if (first === '--measure' && how !== undefined && kubeconfig !== undefined) {
  process.stdout.write(`${JSON.stringify(await measure(how, kubeconfig))}\n`);
} else {
  const pods = Number(first ?? 50_000);
  console.table([await measured('stream', pods), await measured('pages', pods)]);
}
