// SPDX-License-Identifier: Apache-2.0
// Where do systemd units have their cgroups, now and from now on? Looks through the slices of the whole mount, since a unit that is
// outside the enforced root shall be told apart from one that does not run. Starts when first asked: most nodes never ask.
import { type FSWatcher, readdirSync, watch } from 'node:fs';
import path from 'node:path';
import { podUidOf } from './pod-folder.ts';

/** systemd nests slices as deep as their names have dashes; in use are three. */
const MAX_DEPTH = 15;
const MAX_WATCHES = 1024;

export class Slices {
  readonly #mount: string;
  readonly #root: string;
  readonly #onChange: () => void;
  readonly #watchers = new Map<string, FSWatcher>();
  /** Paths below the mount by the folder's name. */
  #services: Map<string, string[]> | null = null;
  #scheduled = false;
  #closed = false;

  /** `onChange`: folders came or went in some slice. */
  constructor(mount: string, root: string, onChange: () => void) {
    this.#mount = mount;
    this.#root = root;
    this.#onChange = onChange;
  }

  /** Paths of the folders that are this unit's, sorted; more than one only where slices were made by hand. */
  byUnit(unit: string): readonly string[] {
    this.#services ??= this.#look();
    return this.#services.get(unit) ?? [];
  }

  /** Looks again, if anybody ever asked; inotify can lose events. */
  rescan(): void {
    if (this.#services !== null) this.#services = this.#look();
  }

  close(): void {
    this.#closed = true;
    for (const watcher of this.#watchers.values()) watcher.close();
    this.#watchers.clear();
  }

  #look(): Map<string, string[]> {
    const services = new Map<string, string[]>();
    const seen = new Set<string>();
    const visit = (below: string, depth: number): void => {
      if (depth > MAX_DEPTH || seen.has(below)) return;
      seen.add(below);
      this.#watch(below);
      for (const name of this.#foldersIn(below)) {
        const child = below === '' ? name : `${below}/${name}`;
        if (isSlice(name)) visit(child, depth + 1);
        else if (depth > 0 && name.endsWith('.service')) services.set(name, [...(services.get(name) ?? []), child]);
      }
    };
    visit('', 0);
    if (this.#root !== '') visit(this.#root, isSlice(path.basename(this.#root)) ? 1 : 0);
    for (const [below, watcher] of this.#watchers) {
      if (seen.has(below)) continue;
      watcher.close();
      this.#watchers.delete(below);
    }
    for (const paths of services.values()) paths.sort();
    return services;
  }

  #foldersIn(below: string): string[] {
    try {
      return readdirSync(path.join(this.#mount, below), { withFileTypes: true })
        .filter((entry) => entry.isDirectory())
        .map(({ name }) => name);
    } catch {
      // Gone meanwhile: its parent's watch tells.
      this.#watchers.get(below)?.close();
      this.#watchers.delete(below);
      return [];
    }
  }

  #watch(below: string): void {
    if (this.#closed || this.#watchers.has(below) || this.#watchers.size >= MAX_WATCHES) return;
    try {
      const watcher = watch(path.join(this.#mount, below), () => this.#soon());
      watcher.on('error', () => this.#soon());
      this.#watchers.set(below, watcher);
    } catch {
      // Gone, or no watch is left: the rescan sees it.
    }
  }

  /** One turn of the loop later: a folder made with its parents is one change. */
  #soon(): void {
    if (this.#closed || this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      if (this.#closed) return;
      this.rescan();
      this.#onChange();
    });
  }
}

/**
 * systemd.slice(5): a service of the system manager stands below slices and nothing else. What has a service, a scope or a pod
 * above it belongs to some other manager (a user's, a container's), whose units may have any name.
 */
function isSlice(name: string): boolean {
  return name.endsWith('.slice') && podUidOf(name) === null;
}
