// SPDX-License-Identifier: Apache-2.0
// Where is everything enforced, where is this very process in it, and which folder there is which workload's? One for each root: where
// the root goes, another is waited for. Writes nothing.
import path from 'node:path';
import { type Binding, type Bindings, type Bound, bind, levelOf } from '../bind/binding.ts';
import { Cgroups } from '../bind/cgroups.ts';
import { ownCgroup, type PodFolder, podFolderAround } from '../bind/own.ts';
import { allFolders, awaitRoot, foldersAbove, type RootSearch } from '../bind/root.ts';
import type { LinkInfo, Native } from '../kernel/native.ts';
import type { Pod, Snapshot } from '../model/objects.ts';
import { policyName } from '../resolve/order.ts';
import { unitSelections } from '../resolve/units.ts';
import { isRunCgroup } from '../run/cgroup.ts';

export class Ground {
  readonly #search: RootSearch;
  readonly #podsSearch: RootSearch | null;
  readonly #native: Native;
  readonly #id: bigint;
  readonly #cgroups: Cgroups;
  /** The cgroup of this process, below the mount; null: not below it. */
  readonly #self: string | null;
  /** The same, or the whole pod's around it; null: it is not below the root. */
  readonly #own: Binding | null;
  readonly #ownPod: PodFolder | null;
  #strangers: { readonly generation: number; readonly pods: Bindings } | null = null;
  #isGivenUp = false;
  /** What was bound last, and all that it depends on; null: some folder came or went since. */
  #last: { readonly from: readonly unknown[]; readonly bound: Bound } | null = null;
  /** Path of the root below the mount. */
  readonly root: string;
  /** What all pods are below, where more than them is below the root. */
  readonly pods: Binding | null;

  private constructor(searches: Searches, native: Native, root: string, id: bigint, pods: Binding | null) {
    const search = searches.root;
    this.#search = search;
    this.#podsSearch = searches.pods;
    this.pods = pods;
    this.#native = native;
    this.#id = id;
    this.root = root;
    this.#cgroups = new Cgroups({ mount: search.mount, root, idOf: (one) => native.cgroupId(one) });
    const { self, own, ownPod } = ownPlace(search.mount, root, native);
    this.#self = self;
    this.#own = own;
    this.#ownPod = ownPod;
  }

  /**
   * Waits for the root, and for that of the pods; never resolves once `signal` is aborted. Calls back whenever a folder came or went
   * there, until `close`. Throws KernelError.
   */
  static async find(searches: Searches, native: Native, signal: AbortSignal, onChange: () => void): Promise<Ground> {
    const { root: search, pods: podsSearch } = searches;
    for (;;) {
      const root = await awaitRoot(search, signal);
      const podsRoot = podsSearch === null ? null : await awaitRoot(podsSearch, signal);
      const id = idOf(native, path.join(search.mount, root));
      const pods = podsRoot === null ? null : bindingOf(native, search.mount, podsRoot);
      // Gone again between two looks.
      if (id === null || (podsRoot !== null && pods === null)) continue;
      const ground = new Ground(searches, native, root, id, pods);
      ground.#cgroups.start(() => {
        ground.#last = null;
        onChange();
      });
      return ground;
    }
  }

  /** The root's folder, absolute. */
  get folder(): string {
    return path.join(this.#search.mount, this.root);
  }

  /** The pod that this process runs in; null: it runs in none. */
  get ownUid(): string | null {
    return this.#ownPod?.uid ?? null;
  }

  /** No watch is left: some folders are found by a scan alone. */
  get isFull(): boolean {
    return this.#cgroups.isFull;
  }

  /** The root is another now, or nothing can be attached to it. */
  isGone(): boolean {
    if (this.#isGivenUp || this.#haveOtherPods()) return true;
    if (this.root === '') return false;
    if (idOf(this.#native, this.folder) !== this.#id) return true;
    // Kubelet with another driver makes another root, and leaves the old one behind.
    return (this.#search.find() ?? this.root) !== this.root;
  }

  #haveOtherPods(): boolean {
    const { pods } = this;
    if (pods === null || this.#podsSearch === null) return false;
    if (idOf(this.#native, path.join(this.#search.mount, pods.path)) !== pods.cgroup) return true;
    return (this.#podsSearch.find() ?? pods.path) !== pods.path;
  }

  /** From now on it counts as gone. */
  giveUp(): void {
    if (this.root !== '') this.#isGivenUp = true;
  }

  close(): void {
    this.#cgroups.close();
  }

  /** Folders of these pods, and of the units that the snapshot's policies select. `before`: see `bind`. */
  bind(snapshot: Snapshot, here: readonly Pod[], before: Bindings): Bound {
    const { policies, nodes, host } = snapshot;
    const last = this.#last;
    // Bound once more beside its own outcome, it comes to the same.
    const beside = before === last?.bound.bindings ? last.from.at(-1) : before;
    const from = [here, policies, nodes, host, beside];
    if (last?.from.every((part, index) => part === from[index])) return last.bound;
    const selected = new Map([...unitSelections(snapshot)].map(([unit, { shadow }]) => [unit, shadow.map(policyName)]));
    const bound = bind(here, this.#cgroups, this.root, before, { selected, own: this.#self ?? '' });
    this.#last = { from: [here, policies, nodes, host, before], bound };
    return bound;
  }

  /**
   * Those of links to cgroups that are above or below the root, of the first such cgroup (absolute path) that is found; null: there are none.
   * The root itself is for who attaches to it, and cgroups of `postern run` are left out.
   */
  foreignAround(links: readonly LinkInfo[]): { readonly folder: string; readonly links: readonly LinkInfo[] } | null {
    const byCgroup = Map.groupBy(links, ({ cgroup }) => cgroup);
    if (byCgroup.size === 0) return null;
    const { mount } = this.#search;
    for (const below of [...foldersAbove(this.root), ...allFolders(mount, this.root)]) {
      if (below === this.root || isRunCgroup(path.basename(below))) continue;
      const folder = path.join(mount, below);
      const found = byCgroup.get(idOf(this.#native, folder) ?? 0n);
      if (found !== undefined) return { folder, links: found };
    }
    return null;
  }

  /** Where a cgroup is, absolute; null: see `Cgroups.pathOf`. */
  folderOf(cgroup: bigint): string | null {
    const below = this.#cgroups.pathOf(cgroup);
    return below === null ? null : path.join(this.#search.mount, below);
  }

  /** Every pod's folder that is there now, whosever it is, the own pod's left out. */
  existingPods(): Bindings {
    return new Map(
      this.#cgroups
        .pods()
        .filter(({ folder }) => folder.id !== this.#own?.cgroup)
        .map(({ uid, folder }) => [
          `existing pod ${uid}`,
          { path: folder.path, cgroup: folder.id, level: levelOf(folder.path) },
        ]),
    );
  }

  /** As `existingPods`, asked for anew only when a pod's folder has come or gone. */
  strangers(): Bindings {
    const { generation } = this.#cgroups;
    if (this.#strangers?.generation !== generation) this.#strangers = { generation, pods: this.existingPods() };
    return this.#strangers.pods;
  }

  /** Since when a workload's folder is there (performance.now()); null: it was there before the agent looked, or is no pod's. */
  seenMs({ path: below }: Binding): number | null {
    return this.#cgroups.seenMs(below);
  }

  /** The place of this process beside these, bound without a policy whatever selects it; null where that would hold others too. */
  ownBeside(bindings: Bindings): Binding | null {
    const own = this.#own;
    if (own === null) return null;
    const meets = (one: string) => one === own.path || one.startsWith(`${own.path}/`) || own.path.startsWith(`${one}/`);
    return [...bindings.values()].some((one) => meets(one.path)) ? null : own;
  }
}

/** Where to look. */
export interface Searches {
  /** Where everything is enforced. */
  readonly root: RootSearch;
  /** What all pods are below, where more than them is below the root; null: the root holds pods alone. */
  readonly pods: RootSearch | null;
}

interface OwnPlace {
  readonly self: string | null;
  readonly own: Binding | null;
  readonly ownPod: PodFolder | null;
}

/** Where this process is, so that no policy and no change of the unknowns' lot can cut it off from what feeds it. */
function ownPlace(mount: string, root: string, native: Native): OwnPlace {
  const self = ownCgroup(mount);
  const isInside = self !== null && (root === '' ? self !== '' : self.startsWith(`${root}/`));
  if (!isInside) return { self, own: null, ownPod: null };
  const ownPod = podFolderAround(self);
  const below = ownPod?.path ?? self;
  const own = { path: below, cgroup: native.cgroupId(path.join(mount, below)), level: levelOf(below) };
  return { self, own, ownPod };
}

function bindingOf(native: Native, mount: string, below: string): Binding | null {
  const cgroup = idOf(native, path.join(mount, below));
  return cgroup === null ? null : { path: below, cgroup, level: levelOf(below) };
}

function idOf(native: Native, folder: string): bigint | null {
  try {
    return native.cgroupId(folder);
  } catch {
    return null;
  }
}
