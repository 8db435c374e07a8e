// SPDX-License-Identifier: Apache-2.0
// Postern's programs and maps in this kernel: loaded anew, or taken over from an agent that is gone, or filled beside what stands until all
// is there to take its place. Knows what outlives whom; knows no policy and no Step.
import { hash } from 'node:crypto';
import { renameSync, rmSync } from 'node:fs';
import { POSTERN_ABI } from '#build/generated/abi.ts';
import { carryFlows, type Inheritance, inheritance, type MapIds } from './inheritance.ts';
import type { LoadedObject, Native, ProgramInfo } from './native.ts';
import { PinFolder, type PinnedLink, requireAlone, SOCKETS } from './pins.ts';
import { attachPrograms, cgroupPrograms, layoutsOf, loadPrograms, NOTING } from './programs.ts';

/** Never pinned: nothing reads it. */
const GRACE = 'grace';

/** Maps that attached programs use together. */
interface LiveSet {
  /** Of the folder in which they are pinned; null: their pins are gone. */
  readonly name: string | null;
  /** Id by map. */
  readonly ids: MapIds;
}

export class Installation {
  readonly #native: Native;
  readonly #sizes: Readonly<Record<string, number>>;
  readonly #layout: string;
  /** null: nothing outlives this process. */
  readonly pins: PinFolder | null;
  #object: LoadedObject;
  /** Folder of the maps in use. */
  #set: string | null = null;
  /** What the programs use that are attached already, this object's own maps left out. */
  #others: readonly LiveSet[] = [];
  #inheritance: Inheritance | null = null;
  readonly #links = new Map<string, number>();
  #unpinned: { detach(): void } | null = null;
  #isAttached = false;
  #isTakeover = false;

  /**
   * `folder`: where to pin, null: nowhere. What programs of an earlier agent use is taken over if its layout is ours. Throws
   * KernelError, PinError.
   */
  constructor(native: Native, folder: string | null, sizes: Readonly<Record<string, number>>) {
    this.#native = native;
    this.#sizes = sizes;
    this.#layout = layoutId(native, sizes);
    this.pins = folder === null ? null : PinFolder.open(native, folder);
    try {
      this.#object = this.pins === null ? loadPrograms(native, sizes) : this.#takeOver(this.pins);
    } catch (error) {
      this.pins?.close();
      throw error;
    }
  }

  get object(): LoadedObject {
    return this.#object;
  }

  /** What to begin with where others stand; null: with nothing. */
  get inheritance(): Inheritance | null {
    return this.#inheritance;
  }

  /** Some earlier agent's programs judge now, until `attach`. */
  get isTakeover(): boolean {
    return this.#isTakeover;
  }

  /** When what is attached was pinned for the first time, in ms since 1970; null: nothing is pinned. */
  sinceMs(): number | null {
    const links = this.pins?.links() ?? [];
    return links.length === 0 ? null : Math.min(...links.map(({ sinceMs }) => sinceMs));
  }

  #takeOver(pins: PinFolder): LoadedObject {
    const live = this.#liveSets(pins);
    this.#isTakeover = live.length > 0;
    for (const { name } of pins.sets()) if (!live.some((one) => one.name === name)) pins.removeSet(name);
    const wanted = Object.keys(layoutsOf(this.#native, this.#sizes)).filter((map) => map !== GRACE && map !== SOCKETS);
    const own = pins
      .sets()
      .find(
        ({ name, layout, maps }) =>
          layout === this.#layout &&
          live.some((one) => one.name === name) &&
          wanted.every((map) => maps[map] !== undefined) &&
          pins.isThere(pins.sockets),
      );
    if (own === undefined) return this.#loadAnew(pins, live);
    this.#set = own.name;
    this.#others = live.filter(({ name }) => name !== own.name);
    const object = loadPrograms(this.#native, this.#sizes, { ...own.maps, [SOCKETS]: pins.sockets });
    try {
      this.#inheritance = inheritance(
        this.#native,
        object.mapIds(),
        this.#others.map(({ ids }) => ids),
      );
    } catch (error) {
      object.close();
      throw error;
    }
    return object;
  }

  /** A set of its own, beside those that are used. */
  #loadAnew(pins: PinFolder, live: readonly LiveSet[]): LoadedObject {
    const number = Math.max(-1, ...pins.sets().map((one) => one.number)) + 1;
    const name = `${this.#layout}-${number}`;
    const isKept = pins.isThere(pins.sockets);
    const object = loadPrograms(this.#native, this.#sizes, isKept ? { [SOCKETS]: pins.sockets } : {});
    try {
      pins.makeFolder(name);
      for (const map of Object.keys(object.maps())) {
        if (map !== GRACE && map !== SOCKETS) object.pinMap(map, `${pins.setPath(name)}/${map}`);
      }
      if (!isKept) object.pinMap(SOCKETS, pins.sockets);
      const ids = live.map((one) => one.ids);
      this.#inheritance = ids.length === 0 ? null : inheritance(this.#native, null, ids);
    } catch (error) {
      object.close();
      throw error;
    }
    this.#set = name;
    this.#others = live;
    return object;
  }

  /**
   * Leaves the maps that were taken over as they are, for the programs that use them, and begins with a set beside them. For
   * changes that can't be made in place without a packet in between that gets neither the old verdict nor the new. Throws KernelError.
   */
  moveBeside(): void {
    if (this.pins === null || !this.#isTakeover) throw new Error('there is nothing to be beside of');
    const before = this.#object;
    this.#object = this.#loadAnew(this.pins, this.#liveSets(this.pins));
    before.close();
  }

  /**
   * From here on all of this cgroup (absolute path) is judged by this object's programs: what stands there is replaced link by link, each
   * at once; programs that are the same to a byte and ask the same maps are left in place. Inbound flows are noted on both
   * sides until both know the same. Throws KernelError, PinError; what is attached then stays.
   */
  attach(cgroup: string): void {
    const { pins } = this;
    const root = this.#native.cgroupId(cgroup);
    const pinned = pins?.links() ?? [];
    requireAlone(this.#native, root, cgroup, new Set(pinned.map(({ info }) => info.id)));
    if (pins === null) this.#unpinned = attachPrograms(this.#object, cgroup);
    else this.#attachPinned(pins, cgroup, root, pinned);
    this.#isAttached = true;
    this.#isTakeover = false;
  }

  #attachPinned(pins: PinFolder, cgroup: string, root: bigint, pinned: readonly PinnedLink[]): void {
    pins.makeFolder('links');
    const programs = cgroupPrograms(this.#object);
    for (const program of programs) {
      // While there are others, both note what comes in, each for those that ask its maps.
      const isBeside = program === NOTING && this.#others.length > 0;
      this.#hold(
        pins,
        program,
        cgroup,
        pinned.filter(({ name, info }) => isOf(name, program) && info.cgroup === root),
        isBeside,
      );
      if (isBeside) for (const { ids } of this.#others) carryFlows(this.#native, ids, this.#object);
    }
    this.#settle(pins, NOTING);
    for (const { name, path } of pins.links()) if (!programs.includes(name)) rmSync(path, { force: true });
    for (const { name } of this.#others) if (name !== null) pins.removeSet(name);
    this.#others = [];
  }

  /** Puts this object's program in its place. `isBeside`: the one that is there goes on until `#settle`. */
  #hold(pins: PinFolder, program: string, cgroup: string, there: readonly PinnedLink[], isBeside: boolean): void {
    const ours = this.#object.program(program);
    const same = there.find((one) => one.program !== null && isSame(one.program, ours));
    const asking = same ?? there.find((one) => asksTheSame(one.program, ours)) ?? (isBeside ? undefined : there[0]);
    const link = asking === undefined ? this.#create(pins, program, cgroup, there) : this.#object.openLink(asking.path);
    if (asking !== undefined && same === undefined) this.#object.updateLink(link, program);
    this.#links.set(program, link);
  }

  #create(pins: PinFolder, program: string, cgroup: string, there: readonly PinnedLink[]): number {
    const link = this.#object.attachCgroup(program, cgroup);
    const name = there.length > 0 ? `${program}-${this.#set}` : `${program}-next`;
    try {
      rmSync(pins.linkPath(name), { force: true });
      this.#object.pinLink(link, pins.linkPath(name));
      // In place of a link to a root that is gone, or was another: only now is that one detached.
      if (there.length === 0) renameSync(pins.linkPath(name), pins.linkPath(program));
    } catch (error) {
      this.#object.detach(link);
      throw error;
    }
    return link;
  }

  /** The link that holds the program gets its name, and whatever had it is detached. */
  #settle(pins: PinFolder, program: string): void {
    const link = this.#links.get(program);
    if (link === undefined) return;
    const { id } = this.#object.link(link);
    const own = pins.links().find(({ info }) => info.id === id);
    if (own !== undefined && own.name !== program) renameSync(own.path, pins.linkPath(program));
  }

  /** Nothing is judged any more. */
  detach(): void {
    this.#unpinned?.detach();
    this.#unpinned = null;
    for (const [program, link] of this.#links) {
      if (this.pins !== null) rmSync(this.pins.linkPath(program), { force: true });
      this.#object.detach(link);
    }
    this.#links.clear();
    this.#isAttached = false;
  }

  /** What is pinned stays; what nothing uses is taken away. */
  close(): void {
    this.#object.close();
    if (this.pins === null) return;
    if (this.#set !== null && !this.#isAttached && !this.#liveSets(this.pins).some(({ name }) => name === this.#set)) {
      this.pins.removeSet(this.#set);
    }
    this.pins.close();
  }

  /** Sets of maps that programs use whose links are pinned here. */
  #liveSets(pins: PinFolder): LiveSet[] {
    const groups: Record<string, number>[] = [];
    for (const { program, info } of pins.links()) {
      // A link whose cgroup is gone judges nobody.
      if (program === null || (info.cgroup === 0n && info.ifindex === 0)) continue;
      const { [SOCKETS]: _, ...maps } = program.maps;
      const found = groups.find((group) => Object.entries(maps).some(([name, id]) => group[name] === id));
      if (found === undefined) groups.push({ ...maps });
      else Object.assign(found, maps);
    }
    const sets = pins.sets().map(({ name, maps }) => {
      const opened = this.#native.openMaps(maps);
      const ids = opened.mapIds();
      opened.close();
      return { name, ids };
    });
    return groups.map((group) => {
      const set = sets.find(({ ids }) => Object.entries(group).some(([name, id]) => ids[name] === id));
      const isWhole = set !== undefined && Object.entries(group).every(([name, id]) => set.ids[name] === id);
      return isWhole ? set : { name: null, ids: { ...set?.ids, ...group } };
    });
  }
}

/** The same for equal sizes, types and fields of every map, and an equal meaning of the numbers in them. */
function layoutId(native: Native, sizes: Readonly<Record<string, number>>): string {
  const layouts = Object.entries(layoutsOf(native, sizes)).filter(([map]) => map !== GRACE);
  return hash('sha256', JSON.stringify([POSTERN_ABI, layouts.sort()]), 'hex').slice(0, 16);
}

function isOf(link: string, program: string): boolean {
  return link === program || link.startsWith(`${program}-`);
}

function asksTheSame(one: ProgramInfo | null, other: ProgramInfo): boolean {
  if (one === null) return false;
  const { [SOCKETS]: _, ...maps } = one.maps;
  return Object.entries(maps).some(([name, id]) => other.maps[name] === id);
}

function isSame(one: ProgramInfo, other: ProgramInfo): boolean {
  const [maps, others] = [Object.entries(one.maps), other.maps];
  return (
    one.tag === other.tag &&
    one.constants.equals(other.constants) &&
    maps.length === Object.keys(others).length &&
    maps.every(([name, id]) => others[name] === id)
  );
}
