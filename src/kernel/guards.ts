// SPDX-License-Identifier: Apache-2.0
// Puts the guard's programs at interfaces of the host, with what they must know written before they run and taken away after they do.
// Knows neither pods nor how interfaces are found.
import { rmSync } from 'node:fs';
import { GUARD_HARDWARE_ADDRESS, type Guard as GuardEntry } from '#build/generated/abi.ts';
import type { AddressKey } from '../model/tables.ts';
import type { Fill } from './apply.ts';
import { GUARDS, SOURCES, type SourceKey } from './encode.ts';
import { LimitExceeded, RollbackFailed } from './errors.ts';
import type { Inheritance } from './inheritance.ts';
import type { Drift } from './installation.ts';
import { KernelError, type Native, type NativeObject, type Side } from './native.ts';
import type { PinFolder, PinnedLink } from './pins.ts';
import { type Audit, Table } from './table.ts';

/** The cgroup of a guard whose pod is gone: nothing leaves by it any more. No cgroup has this id. */
export const NOBODY = 0n;

/** What the programs at an interface of the host must know. */
export interface Guard {
  readonly ifindex: number;
  /** Hardware address of the pod's end, 12 hex digits. */
  readonly mac: string;
  /** The pod's, by which the kernel finds its policy; `NOBODY`. */
  readonly cgroup: bigint;
  /** Under which the guard keeps what came in: the namespace's cookie, or a number that no namespace has. */
  readonly netns: bigint;
  /** The host's number for the namespace; -1: it has none. */
  readonly nsid: number;
  /** What may be sent from, sorted. */
  readonly sources: readonly AddressKey[];
}

/** tcx from Linux 6.6 on; before, a filter of clsact. */
export type GuardMode = 'tcx' | 'clsact';

/** A guard where it stands. */
export interface Post {
  readonly mode: GuardMode;
  /** Since when, in ms since 1970; null: since before this process, and nothing tells. */
  readonly sinceMs: number | null;
}

interface Held {
  readonly guard: Guard;
  readonly sinceMs: number | null;
  readonly points: readonly Point[];
}

/** One program where it was put. */
type Point =
  | { readonly mode: 'tcx'; readonly link: number; readonly side: Side; readonly program: number }
  | { readonly mode: 'clsact'; readonly side: Side; readonly program: number };

/** In the order in which they are put there: no question may be judged whose answer, or asker, was not noted. */
const PROGRAMS: readonly (readonly [name: string, side: Side])[] = [
  ['guard_in', 'egress'],
  ['guard_out', 'ingress'],
];

/** Whose programs these are, and where their links are pinned: `Installation`. */
export interface GuardHome {
  readonly object: NativeObject;
  /** null: they end with this process. */
  readonly pins: PinFolder | null;
  hold(program: string, link: PinnedLink): number;
  pinLink(link: number, file: string): void;
}

export class InterfaceGuards {
  readonly #native: Native;
  readonly #home: GuardHome;
  readonly #object: NativeObject;
  readonly #guards: Table<number, GuardEntry, number, GuardEntry>;
  readonly #sources: Table<SourceKey, true, SourceKey, true>;
  readonly #limits: ReadonlyMap<string, number>;
  readonly #held = new Map<number, Held>();
  /** Interfaces that had no clsact before. */
  readonly #ownClsact = new Set<number>();
  #mode: GuardMode | null = null;

  constructor(native: Native, home: GuardHome) {
    const { object } = home;
    this.#native = native;
    this.#home = home;
    this.#object = object;
    const elements = <K, V>(key: K, value: V): [K, V][] => [[key, value]];
    const entryOf = <K>(key: K): K => key;
    this.#guards = new Table(object, { codec: GUARDS, same: () => false, elements, entryOf });
    this.#sources = new Table(object, { codec: SOURCES, same: () => true, elements, entryOf });
    this.#limits = new Map(Object.entries(object.maps()).map(([name, { maxEntries }]) => [name, maxEntries]));
  }

  /** How programs are attached here; null: none has been yet. */
  get mode(): GuardMode | null {
    return this.#mode;
  }

  get held(): ReadonlyMap<number, Guard> {
    return new Map([...this.#held].map(([ifindex, { guard }]) => [ifindex, guard]));
  }

  /**
   * Goes on with guards that an earlier agent put up: what they know is written where this object's programs look, and then these are put
   * in the place of the old. Throws KernelError, LimitExceeded, PinError.
   */
  takeOver({ guards, sources, isInPlace }: Inheritance): void {
    if (isInPlace) {
      this.#guards.assume(guards);
      this.#sources.assume(sources);
    }
    const pinned = this.#home.pins?.guards() ?? [];
    const links = new Map(pinned.filter(({ info }) => info.ifindex !== 0).map((link) => [link.name, link]));
    for (const [ifindex, { cgroup, netns, nsid, flags, hardwareAddress }] of guards) {
      const guard: Guard = {
        ...{ ifindex, cgroup, netns, nsid },
        mac: (flags & GUARD_HARDWARE_ADDRESS) !== 0 ? hardwareAddress : '',
        sources: [...sources.keys()].filter((key) => isOf(key, ifindex)).map((key) => key.slice(key.indexOf('/') + 1)),
      };
      const places = PROGRAMS.map(([program, side]) => ({ program, side, link: links.get(pinName(ifindex, program)) }));
      const isFiltered = places.every(({ side }) => this.#native.clsactProgram(ifindex, side) !== null);
      if (!isFiltered && places.some(({ link }) => link === undefined || link.info.ifindex !== ifindex)) {
        // Half a guard is none: it is put up anew where it belongs.
        this.#erase(ifindex);
        for (const { link } of places) if (link !== undefined) rmSync(link.path, { force: true });
        continue;
      }
      if (!isInPlace) this.#write(guard);
      const points = places.map(({ program, side, link }): Point => {
        if (link !== undefined) return this.#tcxPoint(this.#home.hold(program, link), side);
        return { mode: 'clsact', side, program: this.#native.clsactProgram(ifindex, side) ?? 0 };
      });
      this.#mode = points[0]?.mode ?? null;
      if (this.#isMarked(ifindex)) this.#ownClsact.add(ifindex);
      const since = places.flatMap(({ link }) => link?.sinceMs ?? []);
      this.#held.set(ifindex, { guard, points, sinceMs: since.length === 0 ? null : Math.max(...since) });
    }
    for (const { name, path, info } of pinned) {
      if (info.ifindex === 0 || !guards.has(info.ifindex)) rmSync(path, { force: true });
      else if (!PROGRAMS.some(([program]) => name === pinName(info.ifindex, program))) rmSync(path, { force: true });
    }
  }

  /** A filter of an earlier agent's is not exchanged at once but by putting ours in its place. Rejects with KernelError. */
  async renew(): Promise<void> {
    for (const [ifindex, held] of this.#held) {
      if (!held.points.some(({ mode }) => mode === 'clsact')) continue;
      const renewed: Point[] = [];
      for (const [program, side] of PROGRAMS) renewed.push(await this.#put(program, ifindex, side));
      this.#held.set(ifindex, { ...held, points: renewed });
    }
  }

  /** All or nothing. Rejects with KernelError (ENODEV: the interface is gone), LimitExceeded, or RollbackFailed: something is left. */
  async attach(guard: Guard): Promise<void> {
    const { ifindex } = guard;
    if (this.#held.has(ifindex)) throw new Error(`interface ${ifindex} has a guard already`);
    this.#write(guard);
    const points: Point[] = [];
    try {
      for (const [program, side] of PROGRAMS) points.push(await this.#put(program, ifindex, side));
    } catch (error) {
      for (const point of points.toReversed()) await this.#take(ifindex, point);
      this.#erase(ifindex);
      throw error;
    }
    this.#held.set(ifindex, { guard, points, sinceMs: Date.now() });
  }

  /** How each guard stands, by interface. */
  posts(): ReadonlyMap<number, Post> {
    return new Map(
      [...this.#held].map(([ifindex, { points, sinceMs }]) => [
        ifindex,
        { mode: points[0]?.mode ?? 'clsact', sinceMs },
      ]),
    );
  }

  /** What the programs know is another now; they stay. Throws as `attach` does. */
  update(guard: Guard): void {
    const held = this.#held.get(guard.ifindex);
    if (held === undefined) throw new Error(`interface ${guard.ifindex} has no guard`);
    this.#write(guard);
    this.#held.set(guard.ifindex, { ...held, guard });
  }

  /** An interface that is gone is no error. Rejects with KernelError. */
  async detach(ifindex: number): Promise<void> {
    const held = this.#held.get(ifindex);
    if (held === undefined) return;
    this.#held.delete(ifindex);
    for (const point of held.points.toReversed()) await this.#take(ifindex, point);
    if (this.#ownClsact.delete(ifindex)) {
      this.#native.removeEmptyClsact(ifindex);
      this.#home.pins?.unmark(ifindex);
    }
    this.#erase(ifindex);
  }

  /** The programs are still at this very interface. One that is another under the same index has none of them. */
  isInPlace(ifindex: number): boolean {
    return (
      this.#held.get(ifindex)?.points.every((point) => {
        if (point.mode === 'clsact') return this.#native.clsactProgram(ifindex, point.side) === point.program;
        const place = this.#object.tcxPlace(point.link);
        return place.ifindex === ifindex && place.program === point.program;
      }) ?? false
    );
  }

  /** Nothing that was attached by tcx after them runs before them: it could let pass what they would refuse. Throws KernelError. */
  isFirst(ifindex: number): boolean {
    return (
      this.#held
        .get(ifindex)
        ?.points.every(
          (point) => point.mode === 'clsact' || this.#native.tcxChain(ifindex, point.side)[0] === point.program,
        ) ?? true
    );
  }

  /**
   * Is each guard that stands where it belongs pinned, too? With `mustRepair`, pins it again. One that does not stand is for who plans
   * guards to mend, and told only where nothing is to be repaired. Throws KernelError, PinError.
   */
  audit(mustRepair: boolean): Drift[] {
    const { pins } = this.#home;
    const found: Drift[] = [];
    for (const [ifindex, { points }] of this.#held) {
      if (!this.isInPlace(ifindex)) {
        if (!mustRepair) found.push({ what: 'guard', name: `interface ${ifindex}` });
        continue;
      }
      for (const [at, point] of points.entries()) {
        const [program = ''] = PROGRAMS[at] ?? [];
        const name = pinName(ifindex, program);
        if (point.mode === 'clsact' || pins === null || pins.isThere(pins.guardPath(name))) continue;
        found.push({ what: 'pin', name: `guards/${name}` });
        if (!mustRepair) continue;
        pins.makeFolder('guards');
        this.#home.pinLink(point.link, pins.guardPath(name));
      }
    }
    return found;
  }

  /** Takes away what would outlive this process: filters. Links end with the object. */
  async close(): Promise<void> {
    for (const [ifindex, { points }] of this.#held) {
      if (points.some(({ mode }) => mode === 'clsact')) await this.detach(ifindex);
    }
  }

  /** As `Applier.audits`. */
  audits(): Audit[] {
    return [this.#guards, this.#sources].map((table) => (mustRepair) => table.audit(mustRepair));
  }

  fills(): Fill[] {
    return [this.#guards, this.#sources].map(({ map, size }) => ({
      map,
      entries: size,
      maxEntries: this.#limits.get(map) ?? 0,
    }));
  }

  /** Which way this kernel takes is found by going it. */
  async #put(program: string, ifindex: number, side: Side): Promise<Point> {
    if (this.#mode !== 'clsact') {
      try {
        const link = await this.#object.attachTcx(program, ifindex, side);
        this.#mode = 'tcx';
        this.#pin(program, ifindex, link);
        return this.#tcxPoint(link, side);
      } catch (error) {
        const hasNoTcx = error instanceof KernelError && error.code === 'EINVAL' && this.#mode === null;
        if (!hasNoTcx) throw error;
      }
    }
    if (await this.#object.attachClsact(program, ifindex, side)) {
      this.#ownClsact.add(ifindex);
      this.#home.pins?.mark(ifindex);
    }
    this.#mode = 'clsact';
    const id = this.#native.clsactProgram(ifindex, side);
    if (id === null) throw new KernelError('the filter is gone at once', 'ENODEV', `attach ${program} to ${ifindex}`);
    return { mode: 'clsact', side, program: id };
  }

  #tcxPoint(link: number, side: Side): Point {
    return { mode: 'tcx', link, side, program: this.#object.tcxPlace(link).program };
  }

  #pin(program: string, ifindex: number, link: number): void {
    const { pins } = this.#home;
    if (pins === null) return;
    const file = pins.guardPath(pinName(ifindex, program));
    try {
      // Of an interface that had this index before.
      rmSync(file, { force: true });
      this.#home.pinLink(link, file);
    } catch (error) {
      this.#object.detach(link);
      throw error;
    }
  }

  #unpin(ifindex: number): void {
    const { pins } = this.#home;
    if (pins === null) return;
    for (const [program] of PROGRAMS) rmSync(pins.guardPath(pinName(ifindex, program)), { force: true });
  }

  #isMarked(ifindex: number): boolean {
    return this.#home.pins?.isMarked(ifindex) ?? false;
  }

  async #take(ifindex: number, point: Point): Promise<void> {
    if (point.mode === 'tcx') {
      this.#unpin(ifindex);
      await this.#object.releaseLink(point.link);
    }
    // Another's filter may have taken our place, or the index may be another interface's.
    else if (this.#native.clsactProgram(ifindex, point.side) === point.program) {
      this.#native.detachClsact(ifindex, point.side);
    }
  }

  #write({ ifindex, mac, cgroup, netns, nsid, sources }: Guard): void {
    const wanted = new Map(sources.map((address): [SourceKey, true] => [`${ifindex}/${address}`, true]));
    const added = new Map([...wanted].filter(([key]) => !this.#sources.entries.has(key)));
    const gone = new Set([...this.#sources.entries.keys()].filter((key) => isOf(key, ifindex) && !wanted.has(key)));
    this.#require('sources', this.#sources.size + added.size);
    this.#require('guards', this.#guards.size + (this.#guards.entries.has(ifindex) ? 0 : 1));
    const flags = mac.length === 12 ? GUARD_HARDWARE_ADDRESS : 0;
    const hardwareAddress = mac.length === 12 ? mac : '0'.repeat(12);
    const undos: (() => void)[] = [];
    const onBegin = (undo: () => void): void => void undos.push(undo);
    try {
      this.#sources.upsert(added, onBegin);
      this.#guards.upsert(new Map([[ifindex, { cgroup, netns, nsid, flags, hardwareAddress }]]), onBegin);
      this.#sources.remove(gone, onBegin);
    } catch (error) {
      try {
        for (const undo of undos.toReversed()) undo();
      } catch (undo) {
        throw new RollbackFailed(error, undo);
      }
      throw error;
    }
  }

  #erase(ifindex: number): void {
    const noUndo = (): void => {};
    if (this.#guards.entries.has(ifindex)) this.#guards.remove(new Set([ifindex]), noUndo);
    this.#sources.remove(new Set([...this.#sources.entries.keys()].filter((key) => isOf(key, ifindex))), noUndo);
  }

  #require(map: string, needed: number): void {
    const limit = this.#limits.get(map) ?? 0;
    if (needed > limit) throw new LimitExceeded(map, limit, needed);
  }
}

function pinName(ifindex: number, program: string): string {
  return `${ifindex}-${program.replace('guard_', '')}`;
}

function isOf(key: SourceKey, ifindex: number): boolean {
  return key.startsWith(`${ifindex}/`);
}
