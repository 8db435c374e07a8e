// SPDX-License-Identifier: Apache-2.0
// In which cgroup is this very process, by its path below the cgroup2 mount? Also where a cgroup namespace of its own hides it.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { cgroupOf } from './mount.ts';
import { podUidOf } from './pod-folder.ts';
import { allFolders } from './root.ts';

/** Path without slashes at its ends ('' is the mount itself), or null where it is not below this mount. */
export function ownCgroup(mount: string): string | null {
  const told = (cgroupOf('self') ?? '/').replace(/^\/+/, '');
  if (holdsMe(path.join(mount, told))) return told;
  // In a container, /proc/self/cgroup counts from the container's own root. cgroup.procs is translated to the reader's pids.
  for (const below of allFolders(mount)) if (holdsMe(path.join(mount, below))) return below;
  return null;
}

export interface PodFolder {
  /** Path below the mount. */
  readonly path: string;
  readonly uid: string;
}

/** The pod's folder that this path is, or is inside of; null: it is no pod's. */
export function podFolderAround(below: string): PodFolder | null {
  const parts = below.split('/');
  for (const [index, part] of parts.entries()) {
    const uid = podUidOf(part);
    if (uid !== null) return { path: parts.slice(0, index + 1).join('/'), uid };
  }
  return null;
}

function holdsMe(folder: string): boolean {
  try {
    return readFileSync(path.join(folder, 'cgroup.procs'), 'utf8').split('\n').includes(String(process.pid));
  } catch {
    return false;
  }
}
