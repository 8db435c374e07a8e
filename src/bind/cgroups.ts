// SPDX-License-Identifier: Apache-2.0
// Which folders are there below the enforced root, now and from now on? Tells within milliseconds; knows nothing of pods'
// objects. Every folder above pods' own is watched; what is inside a pod's folder is its containers' business.
import { type FSWatcher, readdirSync, watch } from 'node:fs';
import path from 'node:path';
import type { CgroupFolder, Folders } from './binding.ts';
import { podUidOf } from './pod-folder.ts';
import { foldersIn } from './root.ts';
import { Slices } from './slices.ts';

/** Bounds: a node has some hundred pods; beyond this, folders are found by the rescan alone, and it is said. */
const MAX_WATCHES = 8192;
const MAX_DEPTH = 15;
/** Whoever asks by id again and again has everything looked at so often at most. */
const LOOK_MS = 1000;

export interface CgroupsOptions {
  /** The cgroup2 mount. */
  readonly mount: string;
  /** The enforced root below it; '' is the mount. */
  readonly root: string;
  /** The cgroup2 id of a folder (absolute path). Throws where it is gone. */
  readonly idOf: (folder: string) => bigint;
  /** inotify can lose events; look again this often. */
  readonly rescanMs?: number;
}

export class Cgroups implements Folders {
  readonly #options: CgroupsOptions;
  readonly #watchers = new Map<string, FSWatcher>();
  /** Pods' folders by path below the mount. */
  readonly #pods = new Map<string, { readonly uid: string; readonly seenMs: number | null }>();
  #generation = 0;
  readonly #byUid = new Map<string, Set<string>>();
  /** Folders that each listed folder held, by path. */
  readonly #children = new Map<string, ReadonlySet<string>>();
  readonly #slices: Slices;
  readonly #dirty = new Set<string>();
  #onChange: () => void = () => undefined;
  #isFull = false;
  #isWatching = false;
  #scheduled = false;
  #rescan: NodeJS.Timeout | null = null;
  #closed = false;
  /** Every folder below the root, those inside pods' included, by id; as of `#lookedMs`. */
  #paths: ReadonlyMap<bigint, string> = new Map();
  #lookedMs = Number.NEGATIVE_INFINITY;

  constructor(options: CgroupsOptions) {
    this.#options = options;
    this.#slices = new Slices(options.mount, options.root, () => this.#onChange());
  }

  /** Looks at everything, and calls back whenever a folder came or went below the root. */
  start(onChange: () => void): void {
    this.#onChange = onChange;
    this.#visit(this.#options.root, 0);
    this.#isWatching = true;
    this.#rescan = setInterval(() => {
      this.#visit(this.#options.root, 0);
      this.#slices.rescan();
      this.#changed('');
    }, this.#options.rescanMs ?? 10_000);
    this.#rescan.unref();
  }

  close(): void {
    this.#closed = true;
    if (this.#rescan !== null) clearInterval(this.#rescan);
    this.#slices.close();
    for (const watcher of this.#watchers.values()) watcher.close();
    this.#watchers.clear();
  }

  /** No watch is left (of ours, or the kernel's fs.inotify.max_user_watches): some folders are found by the rescan alone. */
  get isFull(): boolean {
    return this.#isFull;
  }

  at(below: string): CgroupFolder | null {
    const id = this.#id(below);
    return id === null ? null : { path: below, id };
  }

  byUid(uid: string): CgroupFolder | null {
    for (const below of [...(this.#byUid.get(uid) ?? [])].sort()) {
      const folder = this.at(below);
      if (folder !== null) return folder;
    }
    return null;
  }

  byUnit(unit: string): readonly CgroupFolder[] {
    return this.#slices.byUnit(unit).flatMap((below) => this.at(below) ?? []);
  }

  /** Where the cgroup with this id is, below the mount; null: not below the root, or gone, or not there a second ago. */
  pathOf(id: bigint): string | null {
    const known = this.#paths.get(id);
    // Ids are not used again, but a folder may be moved with its parent.
    if (known !== undefined && this.#id(known) === id) return known;
    const now = performance.now();
    if (now - this.#lookedMs < LOOK_MS) return null;
    this.#lookedMs = now;
    this.#paths = new Map(this.#everything(this.#options.root, 0));
    return this.#paths.get(id) ?? null;
  }

  #everything(below: string, depth: number): [bigint, string][] {
    const id = this.#id(below);
    if (id === null || depth > MAX_DEPTH) return [];
    const inside = foldersIn(path.join(this.#options.mount, below)).flatMap((name) =>
      this.#everything(below === '' ? name : `${below}/${name}`, depth + 1),
    );
    return [[id, below], ...inside];
  }

  /** Every pod's folder that is there. */
  pods(): readonly { readonly uid: string; readonly folder: CgroupFolder }[] {
    return [...this.#byUid.keys()].flatMap((uid) => {
      const folder = this.byUid(uid);
      return folder === null ? [] : [{ uid, folder }];
    });
  }

  /** Another number whenever a pod's folder has come or gone. */
  get generation(): number {
    return this.#generation;
  }

  /** When a pod's folder was first seen (performance.now()); null: it was there from the beginning, or is none. */
  seenMs(below: string): number | null {
    return this.#pods.get(below)?.seenMs ?? null;
  }

  #id(below: string): bigint | null {
    try {
      return this.#options.idOf(path.join(this.#options.mount, below));
    } catch {
      return null;
    }
  }

  /** Watches a folder, then lists it: what appears in between is heard of twice rather than not at all. */
  #visit(below: string, depth: number): void {
    if (this.#closed || depth > MAX_DEPTH) return;
    const folder = path.join(this.#options.mount, below);
    this.#isFull ||= this.#watchers.size >= MAX_WATCHES;
    if (!this.#watchers.has(below) && this.#watchers.size < MAX_WATCHES) {
      try {
        const watcher = watch(folder, () => this.#changed(below));
        watcher.on('error', () => this.#changed(below));
        this.#watchers.set(below, watcher);
      } catch (error) {
        // Otherwise it is gone already, and listing it fails too.
        if ((error as NodeJS.ErrnoException).code === 'ENOSPC') this.#isFull = true;
      }
    }
    let names: string[];
    try {
      names = readdirSync(folder, { withFileTypes: true })
        .filter((entry) => entry.isDirectory())
        .map((entry) => entry.name);
    } catch {
      this.#forget(below);
      return;
    }
    const present = new Set(names.map((name) => (below === '' ? name : `${below}/${name}`)));
    for (const known of this.#children.get(below) ?? []) if (!present.has(known)) this.#forget(known);
    this.#children.set(below, present);
    for (const child of present) {
      const uid = podUidOf(child.slice(child.lastIndexOf('/') + 1));
      if (uid === null) {
        this.#visit(child, depth + 1);
        continue;
      }
      if (!this.#pods.has(child)) {
        this.#pods.set(child, { uid, seenMs: this.#isWatching ? performance.now() : null });
        this.#generation += 1;
      }
      const paths = this.#byUid.get(uid) ?? new Set();
      this.#byUid.set(uid, paths.add(child));
    }
  }

  #forget(below: string): void {
    for (const child of this.#children.get(below) ?? []) this.#forget(child);
    this.#children.delete(below);
    this.#watchers.get(below)?.close();
    this.#watchers.delete(below);
    const pod = this.#pods.get(below);
    if (pod === undefined) return;
    this.#pods.delete(below);
    this.#generation += 1;
    const paths = this.#byUid.get(pod.uid);
    paths?.delete(below);
    if (paths?.size === 0) this.#byUid.delete(pod.uid);
  }

  #changed(below: string): void {
    if (this.#closed) return;
    this.#dirty.add(below);
    if (this.#scheduled) return;
    this.#scheduled = true;
    // One turn of the loop later: a folder made with its parents is one change.
    setImmediate(() => {
      this.#scheduled = false;
      const dirty = [...this.#dirty].sort();
      this.#dirty.clear();
      for (const folder of dirty) this.#visit(folder, folder === '' ? 0 : folder.split('/').length);
      if (!this.#closed) this.#onChange();
    });
  }
}
