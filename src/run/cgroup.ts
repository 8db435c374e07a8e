// SPDX-License-Identifier: Apache-2.0
// A cgroup of its own for one command: made below the caller's, emptied and removed at the end.
import { existsSync, mkdirSync, readdirSync, rmdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { processesIn } from '../agent/cut.ts';
import { levelOf, MAX_LEVEL } from '../bind/binding.ts';
import { cgroupOf } from '../bind/mount.ts';

/** A failure of the world. `code` is the errno's name. */
export class CgroupError extends Error {
  override readonly name = 'CgroupError';
  readonly code: string;
  constructor(folder: string, error: unknown) {
    const code = (error as NodeJS.ErrnoException).code ?? 'UNKNOWN';
    super(`cannot make the cgroup ${folder}: ${code}`, { cause: error });
    this.code = code;
  }
}

export interface RunCgroup {
  /** Absolute. */
  readonly folder: string;
  /** Below the mount. */
  readonly path: string;
}

const NAME = /^postern-run-(\d+)$/;

/** Some `postern run` made it, by its folder's name. */
export function isRunCgroup(name: string): boolean {
  return NAME.test(name);
}

/**
 * `postern-run-PID` below the caller's own cgroup, so that whatever holds the caller holds the command too; at the mount where
 * the caller's cgroup is not to be seen there. Throws CgroupError.
 */
export function makeRunCgroup(mount: string): RunCgroup {
  const own = (cgroupOf('self') ?? '/').replace(/^\/+/, '');
  const parent = existsSync(path.join(mount, own)) ? own : '';
  const below = path.join(parent, `postern-run-${process.pid}`);
  const folder = path.join(mount, below);
  if (levelOf(below) > MAX_LEVEL) throw new CgroupError(folder, { code: 'ELOOP' });
  sweep(path.join(mount, parent));
  try {
    mkdirSync(folder, { mode: 0o755 });
  } catch (error) {
    throw new CgroupError(folder, error);
  }
  return { folder, path: below };
}

/** Removes what a postern run left that was killed before it could. One that still holds processes stays. */
function sweep(parent: string): void {
  for (const name of readdirSync(parent)) {
    const pid = NAME.exec(name)?.[1];
    if (pid === undefined || existsSync(`/proc/${pid}`)) continue;
    try {
      rmdirSync(path.join(parent, name));
    } catch {
      // Busy.
    }
  }
}

/** Kills every process in it. Returns how many there were. */
export function killRunCgroup({ folder }: RunCgroup): number {
  const count = processesIn(folder).length;
  if (existsSync(folder)) writeFileSync(path.join(folder, 'cgroup.kill'), '1');
  return count;
}

/** Removes the folder; killed processes take a moment to leave it. Rejects with the last error after about two seconds. */
export async function removeRunCgroup(cgroup: RunCgroup): Promise<void> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      removeBelow(cgroup.folder);
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
      if (attempt === 200) throw error;
      await pause(10);
    }
  }
}

function removeBelow(folder: string): void {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (entry.isDirectory()) removeBelow(path.join(folder, entry.name));
  }
  rmdirSync(folder);
}
