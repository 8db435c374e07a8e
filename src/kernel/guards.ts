// SPDX-License-Identifier: Apache-2.0
// Puts the guard's programs at interfaces of the host, with what they must know written before they run and taken away after they do.
// Knows neither pods nor how interfaces are found.
import { GUARD_HARDWARE_ADDRESS, type Guard as GuardEntry } from '#build/generated/abi.ts';
import type { AddressKey } from '../model/tables.ts';
import type { Fill } from './apply.ts';
import { GUARDS, SOURCES, type SourceKey } from './encode.ts';
import { LimitExceeded, RollbackFailed } from './errors.ts';
import { KernelError, type Native, type NativeObject, type Side } from './native.ts';
import { Table } from './table.ts';

/** What the programs at an interface of the host must know. */
export interface Guard {
  readonly ifindex: number;
  /** Hardware address of the pod's end, 12 hex digits. */
  readonly mac: string;
  /** The pod's, by which the kernel finds its policy. */
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

interface Held {
  readonly guard: Guard;
  readonly points: readonly Point[];
}

/** One program where it was put. */
type Point =
  | { readonly mode: 'tcx'; readonly link: number }
  | { readonly mode: 'clsact'; readonly side: Side; readonly program: number };

/** In the order in which they are put there: no question may be judged whose answer, or asker, was not noted. */
const PROGRAMS: readonly (readonly [name: string, side: Side])[] = [
  ['guard_in', 'egress'],
  ['guard_out', 'ingress'],
];

export class InterfaceGuards {
  readonly #native: Native;
  readonly #object: NativeObject;
  readonly #guards: Table<number, GuardEntry, number, GuardEntry>;
  readonly #sources: Table<SourceKey, true, SourceKey, true>;
  readonly #limits: ReadonlyMap<string, number>;
  readonly #held = new Map<number, Held>();
  /** Interfaces that had no clsact before. */
  readonly #ownClsact = new Set<number>();
  #mode: GuardMode | null = null;

  constructor(native: Native, object: NativeObject) {
    this.#native = native;
    this.#object = object;
    const elements = <K, V>(key: K, value: V): [K, V][] => [[key, value]];
    this.#guards = new Table(object, { codec: GUARDS, same: () => false, elements });
    this.#sources = new Table(object, { codec: SOURCES, same: () => true, elements });
    this.#limits = new Map(Object.entries(object.maps()).map(([name, { maxEntries }]) => [name, maxEntries]));
  }

  /** How programs are attached here; null: none has been yet. */
  get mode(): GuardMode | null {
    return this.#mode;
  }

  get held(): ReadonlyMap<number, Guard> {
    return new Map([...this.#held].map(([ifindex, { guard }]) => [ifindex, guard]));
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
    this.#held.set(ifindex, { guard, points });
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
    if (this.#ownClsact.delete(ifindex)) this.#native.removeEmptyClsact(ifindex);
    this.#erase(ifindex);
  }

  /** The programs are still at this very interface. One that is another under the same index has none of them. */
  isInPlace(ifindex: number): boolean {
    return (
      this.#held
        .get(ifindex)
        ?.points.every((point) =>
          point.mode === 'tcx'
            ? this.#object.tcxPlace(point.link).ifindex === ifindex
            : this.#native.clsactProgram(ifindex, point.side) === point.program,
        ) ?? false
    );
  }

  /** Takes away what would outlive this process: filters. Links end with the object. */
  async close(): Promise<void> {
    for (const [ifindex, { points }] of this.#held) {
      if (points.some(({ mode }) => mode === 'clsact')) await this.detach(ifindex);
    }
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
        return { mode: 'tcx', link };
      } catch (error) {
        const hasNoTcx = error instanceof KernelError && error.code === 'EINVAL' && this.#mode === null;
        if (!hasNoTcx) throw error;
      }
    }
    if (await this.#object.attachClsact(program, ifindex, side)) this.#ownClsact.add(ifindex);
    this.#mode = 'clsact';
    const id = this.#native.clsactProgram(ifindex, side);
    if (id === null) throw new KernelError('the filter is gone at once', 'ENODEV', `attach ${program} to ${ifindex}`);
    return { mode: 'clsact', side, program: id };
  }

  async #take(ifindex: number, point: Point): Promise<void> {
    if (point.mode === 'tcx') await this.#object.releaseLink(point.link);
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

function isOf(key: SourceKey, ifindex: number): boolean {
  return key.startsWith(`${ifindex}/`);
}
