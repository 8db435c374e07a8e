// SPDX-License-Identifier: Apache-2.0
// Postern's programs and maps in this kernel: loaded anew, or taken over from an agent that is gone, or filled beside what stands until all
// is there to take its place. Knows what outlives whom; knows no policy and no Step.
import { hash } from 'node:crypto';
import { renameSync, rmSync } from 'node:fs';
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { POSTERN_ABI } from '#build/generated/abi.ts';
import { carryFlows } from './flows.ts';
import { type Inheritance, inheritance, type MapSet } from './inheritance.ts';
import type { LoadedObject, Native, ProgramInfo } from './native.ts';
import { PinFolder, type PinnedLink, requireAlone, SOCKETS } from './pins.ts';
import { attachPrograms, cgroupPrograms, layoutsOf, loadPrograms } from './programs.ts';

/** Never pinned: nothing reads it. */
const GRACE = 'grace';

/**
 * What programs themselves write is one and the same for old programs and new ones, as long as its layout is: so nothing that one
 * notes is unknown to the other. Maps of one line belong together.
 */
const KEPT: readonly (readonly string[])[] = [
  [SOCKETS],
  ['budgets', 'asked', 'asked_order', 'texts', 'told', 'told_order', 'learned', 'learned_order', 'begun'],
  // Numbered by budgets, and so never kept without them.
  ['flows', 'flow_order'],
  ['counters'],
  ['losses'],
  ['dns_losses'],
  ['events'],
];
const ALL_KEPT = new Set(KEPT.flat());

/** Maps that attached programs use together. */
interface LiveSet {
  /** Of the folder in which they are pinned; null: their pins are gone. */
  readonly name: string | null;
  readonly maps: MapSet;
}

/**
 * Something that is not as it was left: a `link` that was detached, a `program` or a `pin` that is another's or gone, a `guard` that was
 * taken from its interface.
 */
export interface Drift {
  readonly what: 'link' | 'program' | 'pin' | 'guard';
  readonly name: string;
}

/** Tells of a drift, and mends it where that is asked for. */
type Repair = (what: Drift['what'], name: string, mend: () => void) => void;

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
  #isTakeover = false;
  /** Where programs are attached, absolute path. */
  #cgroup: string | null = null;

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

  /** Cgroups to which an earlier agent attached what is pinned. Throws KernelError, PinError. */
  roots(): bigint[] {
    const cgroups = this.pins?.links().map(({ info }) => info.cgroup) ?? [];
    return [...new Set(cgroups)].filter((cgroup) => cgroup !== 0n);
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
        { paths: own.maps },
        this.#others.map(({ maps }) => maps),
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
    // Where nobody judges, nobody knows by what the records of sockets were made that are left.
    if (live.length === 0) rmSync(pins.sockets, { force: true });
    const kept = this.#keptOf(pins, live);
    const object = loadPrograms(this.#native, this.#sizes, kept);
    try {
      pins.makeFolder(name);
      for (const map of Object.keys(object.maps())) {
        if (map === SOCKETS && kept[map] === undefined) object.pinMap(map, pins.sockets);
        else if (map !== GRACE && map !== SOCKETS) object.pinMap(map, `${pins.setPath(name)}/${map}`);
      }
      const old = live.map(({ maps }) => maps);
      this.#inheritance = old.length === 0 ? null : inheritance(this.#native, null, old);
    } catch (error) {
      object.close();
      throw error;
    }
    this.#set = name;
    this.#others = live;
    return object;
  }

  /** Of the maps that programs write, those that go on: by name, and where. */
  #keptOf(pins: PinFolder, live: readonly LiveSet[]): Record<string, string> {
    const wanted = layoutsOf(this.#native, this.#sizes);
    const kept: Record<string, string> = {};
    const paths = live.flatMap(({ maps }) => ('paths' in maps ? [maps.paths] : []));
    for (const each of [...paths, pins.isThere(pins.sockets) ? { [SOCKETS]: pins.sockets } : {}]) {
      const opened = this.#native.openMaps(each);
      const layouts = opened.layouts();
      opened.close();
      for (const group of KEPT) {
        if (!group.every((map) => layouts[map] !== undefined && layouts[map] === wanted[map])) continue;
        if (group.includes('flows') && kept.budgets !== each.budgets) continue;
        for (const map of group) kept[map] ??= each[map] ?? '';
      }
    }
    return kept;
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
   * at once; programs that are the same to a byte and ask the same maps are left in place. Call `settle` once guards are replaced,
   * too. Throws KernelError, PinError; what is attached then stays.
   */
  attach(cgroup: string): void {
    const { pins } = this;
    const root = this.#native.cgroupId(cgroup);
    const pinned = pins?.links() ?? [];
    requireAlone(this.#native, root, cgroup, new Set(pinned.map(({ info }) => info.id)));
    if (pins === null) {
      this.#unpinned = attachPrograms(this.#object, cgroup);
      return;
    }
    this.#cgroup = cgroup;
    for (const folder of ['links', 'guards', 'programs']) pins.makeFolder(folder);
    for (const program of this.#object.programs()) this.#pinProgram(pins, program);
    this.#carryFlows();
    for (const program of cgroupPrograms(this.#object)) {
      const there = pinned.find(({ name, info }) => name === program && info.cgroup === root);
      this.#links.set(program, there === undefined ? this.#create(pins, program, cgroup) : this.hold(program, there));
    }
    // Noted by programs that have just been replaced.
    this.#carryFlows();
  }

  /** Where flows are noted in other maps than ours, which have other sizes. Throws KernelError. */
  #carryFlows(): void {
    for (const { maps } of this.#others) {
      if (!('paths' in maps)) continue;
      const { flows, flow_order, budgets } = maps.paths;
      if (flows === undefined || flow_order === undefined || budgets === undefined) continue;
      const from = this.#native.openMaps({ flows, flow_order, budgets });
      try {
        carryFlows(from, this.#object);
      } finally {
        from.close();
      }
    }
  }

  /** Opens a pinned link, with this object's program in it from now on. Returns its number. Throws KernelError. */
  hold(program: string, { path: file, program: held }: PinnedLink): number {
    const link = this.#object.openLink(file);
    if (!isSame(held, this.#object.program(program))) this.#object.updateLink(link, program);
    return link;
  }

  /**
   * Is everything attached and pinned as `attach` left it? With `mustRepair`, puts right what is not. Gives what was wrong, each in a few
   * words. Throws KernelError, PinError.
   */
  audit(mustRepair: boolean): Drift[] {
    const { pins } = this;
    const cgroup = this.#cgroup;
    if (pins === null || cgroup === null) return [];
    const found: Drift[] = [];
    const repair: Repair = (what, name, mend) => {
      found.push({ what, name });
      if (mustRepair) mend();
    };
    const pinned = new Map(pins.links().map((link) => [link.name, link.info.id]));
    for (const [program, link] of this.#links) {
      const { id, cgroup: root, program: held } = this.#object.link(link);
      if (root === 0n) {
        repair('link', program, () => {
          this.#object.detach(link);
          this.#links.set(program, this.#create(pins, program, cgroup));
        });
        continue;
      }
      const own = this.#object.program(program);
      if (held !== own.id && !isSame(pins.programById(held), own)) {
        repair('program', program, () => this.#object.updateLink(link, program));
      }
      const file = this.#programFile(pins, program);
      if (held === own.id && !pins.isThere(file)) {
        repair('pin', `programs/${path.basename(file)}`, () => {
          pins.makeFolder('programs');
          this.#object.pinProgram(program, file);
        });
      }
      if (pinned.get(program) !== id) {
        repair('pin', `links/${program}`, () => {
          pins.makeFolder('links');
          rmSync(pins.linkPath(program), { force: true });
          this.#object.pinLink(link, pins.linkPath(program));
        });
      }
    }
    this.#auditMaps(pins, repair);
    return found;
  }

  #auditMaps(pins: PinFolder, repair: Repair): void {
    const ids = this.#object.mapIds();
    const set = this.#set ?? '';
    const there = pins.sets().find(({ name }) => name === set)?.maps ?? {};
    const all = { ...there, ...(pins.isThere(pins.sockets) ? { [SOCKETS]: pins.sockets } : {}) };
    const opened = this.#native.openMaps(all);
    const pinned = opened.mapIds();
    opened.close();
    for (const [map, id] of Object.entries(ids)) {
      if (map === GRACE || pinned[map] === id) continue;
      const file = map === SOCKETS ? pins.sockets : `${pins.setPath(set)}/${map}`;
      repair('pin', map === SOCKETS ? map : `${set}/${map}`, () => {
        pins.makeFolder(set);
        rmSync(file, { force: true });
        this.#object.pinMap(map, file);
      });
    }
  }

  /** What is attached at the root: program, its tag, its link and since when. */
  attached(): readonly { readonly program: string; readonly tag: string; readonly link: number }[] {
    return [...this.#links].map(([program, link]) => ({
      program,
      tag: this.#object.program(program).tag,
      link: this.#object.link(link).id,
    }));
  }

  /** Throws KernelError. */
  pinLink(link: number, file: string): void {
    this.#object.pinLink(link, file);
  }

  /** All that is attached is this object's: takes away what only others used. */
  settle(): void {
    const { pins } = this;
    this.#isTakeover = false;
    if (pins === null) return;
    if (this.#others.length > 0) {
      // Those of guards, and what still ran when its link was given another.
      this.#object.waitForPrograms();
      this.#carryFlows();
    }
    for (const { name, path: file } of pins.links()) if (!this.#links.has(name)) rmSync(file, { force: true });
    pins.forgetPrograms(new Set(pins.all().map(({ info }) => info.program)));
    for (const { name } of this.#others) if (name !== null) pins.removeSet(name);
    this.#others = [];
  }

  /** Before a link holds it: what a link holds can then always be looked at. */
  #pinProgram(pins: PinFolder, program: string): void {
    const file = this.#programFile(pins, program);
    if (!pins.isThere(file)) this.#object.pinProgram(program, file);
  }

  #programFile(pins: PinFolder, program: string): string {
    const { tag, id } = this.#object.program(program);
    return pins.programPath(`${program}-${tag}-${id}`);
  }

  #create(pins: PinFolder, program: string, cgroup: string): number {
    const link = this.#object.attachCgroup(program, cgroup);
    const next = pins.linkPath(`${program}-next`);
    try {
      rmSync(next, { force: true });
      this.#object.pinLink(link, next);
      // In place of a link to a root that is gone, or was another: only now is that one detached.
      renameSync(next, pins.linkPath(program));
    } catch (error) {
      this.#object.detach(link);
      throw error;
    }
    return link;
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
    this.#cgroup = null;
  }

  /** What is pinned stays; what nothing uses is taken away. */
  close(): void {
    this.#unpinned?.detach();
    this.#object.close();
    if (this.pins === null) return;
    // What never came to be attached is of no use to the next; where nobody judges, nothing is.
    const live = this.#liveSets(this.pins);
    if (live.length === 0) this.pins.removeAll();
    else if (this.#set !== null && !live.some(({ name }) => name === this.#set)) this.pins.removeSet(this.#set);
    this.pins.close();
  }

  /** Sets of maps that programs use whose links are pinned here; what is kept over sets left out. */
  #liveSets(pins: PinFolder): LiveSet[] {
    const programs = pins.all().flatMap(({ program, info }) => {
      // A link whose cgroup is gone judges nobody.
      return program === null || (info.cgroup === 0n && info.ifindex === 0) ? [] : [program];
    });
    const live: LiveSet[] = [];
    let pinned = new Set<number>();
    for (const { name, maps } of pins.sets()) {
      const own = Object.fromEntries(Object.entries(maps).filter(([map]) => !ALL_KEPT.has(map)));
      const opened = this.#native.openMaps(own);
      const ids = new Set(Object.values(opened.mapIds()));
      opened.close();
      if (!programs.some(({ mapIds }) => mapIds.some((id) => ids.has(id)))) continue;
      pinned = pinned.union(ids);
      live.push({ name, maps: { paths: maps } });
    }
    // Somebody has removed files: what is left to go by is what the programs say.
    const lost: Record<string, number>[] = [];
    for (const { maps } of programs) {
      const own = Object.fromEntries(Object.entries(maps ?? {}).filter(([map]) => !ALL_KEPT.has(map)));
      if (Object.values(own).every((id) => pinned.has(id))) continue;
      const found = lost.find((group) => Object.entries(own).some(([name, id]) => group[name] === id));
      if (found === undefined) lost.push({ ...own });
      else Object.assign(found, own);
    }
    return [...live, ...lost.map((ids) => ({ name: null, maps: { ids } }))];
  }
}

/** The same for equal sizes, types and fields of every map, and an equal meaning of the numbers in them. */
function layoutId(native: Native, sizes: Readonly<Record<string, number>>): string {
  const layouts = Object.entries(layoutsOf(native, sizes)).filter(([map]) => map !== GRACE);
  return hash('sha256', JSON.stringify([POSTERN_ABI, layouts.sort()]), 'hex').slice(0, 16);
}

/** To a byte, with the same maps. Whoever may not ask takes them for different: replacing one by its like changes nothing. */
function isSame(one: ProgramInfo | null, other: ProgramInfo): boolean {
  if (one === null || one.constants === null || other.constants === null) return false;
  return one.tag === other.tag && one.constants.equals(other.constants) && isDeepStrictEqual(one.maps, other.maps);
}
