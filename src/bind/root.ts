// SPDX-License-Identifier: Apache-2.0
// Below which cgroup is everything enforced? One that was named, or kubelet's own, which may not be there yet or be made anew.
// Knows no pods.
import { type FSWatcher, readdirSync, readFileSync, statSync, watch } from 'node:fs';
import path from 'node:path';

export interface RootSearch {
  /** The cgroup2 mount. */
  readonly mount: string;
  /** What is waited for where there is none: `kubelet's cgroup …`. */
  readonly what: string;
  /** Its path below the mount ('' is the mount), or null where it is not there. */
  find(): string | null;
}

/** The cgroup at `root` below the mount. */
export function namedRoot(mount: string, root: string): RootSearch {
  return {
    mount,
    what: `the cgroup ${path.join(mount, root)}`,
    find: () => (isFolder(path.join(mount, root)) ? root : null),
  };
}

/** kubelet's `--cgroup-root` may put its own folder below others: `kubelet/kubepods`, `kubelet.slice/kubelet-kubepods.slice`. */
const MAX_DEPTH = 3;
/** Root of all pods: cgroupfs driver `kubepods`, systemd driver `kubepods.slice` (kubernetes pkg/kubelet/cm/node_container_manager_linux.go). */
const KUBEPODS = /^(?:kubepods|(?:[0-9a-zA-Z_-]+-)?kubepods\.slice)$/;
const IS_INSIDE_PODS = /pod[0-9a-f_-]{8,}|\.scope$|\.service$/;

/**
 * Kubelet's root of all pods, in either driver's spelling; where both are there, the one in which something runs. Looked for below
 * `below`, a path below the mount.
 */
export function kubeletRoot(mount: string, below = ''): RootSearch {
  return {
    mount,
    what: `kubelet's cgroup: kubepods or kubepods.slice below ${path.join(mount, below)}; kubelet makes it when it starts`,
    find: () => {
      const found = kubepodsBelow(mount, below, 1);
      return found.find((root) => isPopulated(path.join(mount, root))) ?? found[0] ?? null;
    },
  };
}

/** This path below the mount is kubelet's root of all pods, or inside of it: nothing but pods is there. */
export function isOfPods(below: string): boolean {
  return below.split('/').some((part) => KUBEPODS.test(part));
}

function kubepodsBelow(mount: string, below: string, depth: number): string[] {
  const names = foldersIn(path.join(mount, below));
  const here = names.filter((name) => KUBEPODS.test(name)).map((name) => path.join(below, name));
  if (here.length > 0 || depth === MAX_DEPTH) return here.sort();
  return names
    .filter((name) => !IS_INSIDE_PODS.test(name))
    .sort()
    .flatMap((name) => kubepodsBelow(mount, path.join(below, name), depth + 1));
}

/** Where the kernel tells nothing, look again this often. */
const LOOK_MS = 1000;

/** Resolves with the root once it is there. `signal` ends the wait: then it never resolves. */
export function awaitRoot(search: RootSearch, signal: AbortSignal): Promise<string> {
  return new Promise((resolve) => {
    let watcher: FSWatcher | null = null;
    const timer = setInterval(() => look(), LOOK_MS);
    const end = (): void => {
      clearInterval(timer);
      watcher?.close();
    };
    const look = (): void => {
      const root = search.find();
      if (root === null) return;
      end();
      resolve(root);
    };
    signal.addEventListener('abort', end);
    try {
      // Most roots are right below the mount; what is deeper is found within the second.
      watcher = watch(search.mount, look);
      watcher.on('error', () => undefined);
    } catch {
      // No watch is left: the timer looks.
    }
    look();
  });
}

/** Folders looked through; a node has some thousand. */
const MAX_FOLDERS = 100_000;

/** Every folder at or below `from`, itself first, by its path below the mount ('' is the mount itself). */
export function* allFolders(mount: string, from = ''): Generator<string> {
  const open = [from];
  for (let count = 0; open.length > 0 && count < MAX_FOLDERS; count += 1) {
    const below = open.pop() ?? '';
    yield below;
    for (const name of foldersIn(path.join(mount, below))) open.push(path.join(below, name));
  }
}

/** Path below the mount of the cgroup with this id; null: it is gone, or not to be seen from here. `idOf` may throw. */
export function folderWithId(mount: string, id: bigint, idOf: (folder: string) => bigint): string | null {
  for (const below of allFolders(mount)) {
    try {
      if (idOf(path.join(mount, below)) === id) return below;
    } catch {
      // Gone between two looks.
    }
  }
  return null;
}

/** `inner` is `outer` or below it; both are paths below the mount. */
export function isWithin(inner: string, outer: string): boolean {
  return outer === '' || inner === outer || inner.startsWith(`${outer}/`);
}

/** What this path below the mount is in, the innermost first; '' last: the mount. */
export function foldersAbove(below: string): string[] {
  const parts = below.split('/').filter((part) => part !== '');
  return parts.map((_, index) => parts.slice(0, index).join('/')).reverse();
}

/** Some process is in there, or below. */
export function isPopulated(folder: string): boolean {
  try {
    return /^populated 1$/m.test(readFileSync(path.join(folder, 'cgroup.events'), 'utf8'));
  } catch {
    return false;
  }
}

/** Names of the folders in a folder; none where it cannot be read. */
export function foldersIn(folder: string): string[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => name);
  } catch {
    return [];
  }
}

function isFolder(folder: string): boolean {
  return statSync(folder, { throwIfNoEntry: false })?.isDirectory() ?? false;
}
