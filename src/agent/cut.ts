// SPDX-License-Identifier: Apache-2.0
// Ends the TCP socket whose flow the kernel has cut, so that its owner hears of it at once instead of hanging.
// The event names the namespace by cookie; which path leads into it is found among the workload's processes.
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import path from 'node:path';
import type { Native } from '../kernel/native.ts';

export interface CutFlow {
  readonly netnsCookie: bigint;
  readonly socketCookie: bigint;
  /** 16 bytes, IPv4 v4-mapped. */
  readonly local: Buffer;
  readonly localPort: number;
  readonly remote: Buffer;
  readonly remotePort: number;
}

/** Namespaces remembered; a node has some hundred. */
const MAX_KNOWN = 4096;
/** Processes looked at for one flow. */
const MAX_PROCESSES = 10_000;

export class FlowCutter {
  readonly #native: Native;
  /** Cookie by what /proc/PID/ns/net links to (`net:[4026531840]`). */
  readonly #cookies = new Map<string, bigint>();

  constructor(native: Native) {
    this.#native = native;
  }

  /**
   * `cgroup`: the workload's folder (absolute). False: no such socket any more, or no process of the workload is in its
   * namespace. Throws KernelError where the kernel refuses.
   */
  cut(flow: CutFlow, cgroup: string): boolean {
    const netns = this.#find(flow.netnsCookie, cgroup);
    if (netns === null) return false;
    const { local, localPort, remote, remotePort, socketCookie } = flow;
    return this.#native.destroyTcp(netns, local, localPort, remote, remotePort, socketCookie);
  }

  #find(cookie: bigint, cgroup: string): string | null {
    // The own namespace last: it is right for hostNetwork pods whose socket a process elsewhere holds.
    for (const pid of [...processesIn(cgroup), 'self']) {
      const file = `/proc/${pid}/ns/net`;
      if (this.#cookieOf(file) === cookie) return file;
    }
    return null;
  }

  #cookieOf(file: string): bigint | null {
    try {
      const link = readlinkSync(file);
      const known = this.#cookies.get(link);
      if (known !== undefined) return known;
      const cookie = this.#native.netnsCookie(file);
      // Inode numbers of namespaces are used again: forget all now and then, and a wrong one finds no socket.
      if (this.#cookies.size >= MAX_KNOWN) this.#cookies.clear();
      this.#cookies.set(link, cookie);
      return cookie;
    } catch {
      // The process is gone.
      return null;
    }
  }

  /** Forgets what was learnt: call when a cut found no socket, since a namespace's number may have been used again. */
  forget(): void {
    this.#cookies.clear();
  }
}

/** Pids in a cgroup and those below it. */
export function processesIn(cgroup: string): number[] {
  const pids: number[] = [];
  const folders = [cgroup];
  for (const folder of folders) {
    try {
      for (const line of readFileSync(path.join(folder, 'cgroup.procs'), 'utf8').split('\n')) {
        // 0: a process of another pid namespace, which cannot be named here.
        if (line !== '' && line !== '0') pids.push(Number(line));
      }
      for (const entry of readdirSync(folder, { withFileTypes: true })) {
        if (entry.isDirectory()) folders.push(path.join(folder, entry.name));
      }
    } catch {
      // It went away meanwhile, or is threaded: no process to find there.
    }
    if (pids.length > MAX_PROCESSES) break;
  }
  return pids;
}
