// SPDX-License-Identifier: Apache-2.0
// In which network namespaces are the processes of a cgroup? Asks /proc and the cgroup's files; knows no pods.
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import path from 'node:path';

/** A network namespace, and a process that is in it. */
export interface ProcessNamespace {
  /** As `/proc/PID/ns/net` spells it: `net:[4026531840]`. Numbers are used again once a namespace is gone. */
  readonly netns: string;
  readonly pid: number;
  /** When the process started, in clock ticks since boot. */
  readonly started: number;
}

/** A pod may run any number of processes; its sandbox's, which is the oldest, comes first in the kernel's list. */
const MAX_PROCESSES = 256;
const MAX_FOLDERS = 64;

/** One for each namespace, with the oldest process in it; the oldest of all first. `folder` and those below it count. */
export function namespacesIn(folder: string): readonly ProcessNamespace[] {
  const oldest = new Map<string, ProcessNamespace>();
  for (const pid of processesIn(folder)) {
    const one = namespaceOf(pid);
    if (one === null) continue;
    const other = oldest.get(one.netns);
    if (other === undefined || one.started < other.started) oldest.set(one.netns, one);
  }
  return [...oldest.values()].sort((a, b) => a.started - b.started || a.pid - b.pid);
}

/** null: the process is gone, or may not be looked at. */
export function namespaceOf(pid: number): ProcessNamespace | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // proc_pid_stat(5): the name is in brackets and may hold anything; starttime is the twentieth field behind it.
    const started = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]);
    return { netns: readlinkSync(`/proc/${pid}/ns/net`), pid, started };
  } catch {
    return null;
  }
}

/** That very process, still in that very namespace. */
export function isStillThere({ netns, pid, started }: ProcessNamespace): boolean {
  const now = namespaceOf(pid);
  return now !== null && now.netns === netns && now.started === started;
}

function processesIn(folder: string): number[] {
  const pids: number[] = [];
  const open = [folder];
  for (let count = 0; open.length > 0 && count < MAX_FOLDERS && pids.length < MAX_PROCESSES; count += 1) {
    const next = open.shift() ?? '';
    try {
      const here = readFileSync(path.join(next, 'cgroup.procs'), 'latin1').split('\n').map(Number);
      // 0: a process that this one's namespace of processes does not show.
      pids.push(...here.filter((pid) => pid > 0).slice(0, MAX_PROCESSES - pids.length));
      for (const entry of readdirSync(next, { withFileTypes: true })) {
        if (entry.isDirectory()) open.push(path.join(next, entry.name));
      }
    } catch {
      // A folder that is gone has none.
    }
  }
  return pids;
}
