// SPDX-License-Identifier: Apache-2.0
// One pod whose way out is looked for: what is known of its namespaces, and when to look again. Asks /proc and rtnetlink when told to;
// attaches nothing.
import { type FSWatcher, watch } from 'node:fs';
import path from 'node:path';
import type { Guard } from '../kernel/guards.ts';
import { KernelError, type Native } from '../kernel/native.ts';
import type { AddressKey } from '../model/tables.ts';
import type { Pod } from './plan.ts';
import { isStillThere, namespaceOf, namespacesIn, type ProcessNamespace } from './processes.ts';
import { isLinkLocal, type PodNamespace, type Unguardable, type WayOut } from './ways-out.ts';

/** A workload whose interfaces may be guarded. */
export interface Guardable {
  /** As users see it: `shop/cart`. */
  readonly name: string;
  /** Its cgroup: the folder, absolute, and the id. */
  readonly folder: string;
  readonly cgroup: bigint;
  /** What it may send from, as the API says; empty: nothing is said yet. */
  readonly addresses: readonly AddressKey[];
  /** Nobody may send in its place when it is gone: policy holds it, or what is unknown is denied. */
  readonly isHeld: boolean;
}

/** Why nothing stands at some way out of a pod: none is a host's end, the kernel `refused`, or there is no way out to be seen. */
export type Unguarded = Unguardable | 'host_network' | 'no_process' | 'no_interface' | 'refused';
export type Situation = 'guarded' | Unguarded;

/** A pod's processes and interfaces appear within milliseconds, or much later. Beyond the last, only what happens is a reason to look. */
const RETRIES_MS = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];
/** A CNI that adds a second interface gives it its addresses one by one. What is there after so long is what it began with. */
const SETTLED_MS = 2000;
/** When to look for addresses, from seeing an interface on, and again from seeing its first address on. */
const ADDRESS_LOOKS_MS = [50, 250, 1000, SETTLED_MS, 5000, 10_000, 20_000];
/** The sandbox's, and what workloads make themselves; beyond, they are held where they were guarded before. */
const MAX_NAMESPACES = 8;

/**
 * A runtime puts its process into the pod's cgroup first and into its network only then, of which nobody is told. Before, the process is
 * in the runtime's own network, which may be the host's.
 */
const MOVING_IN_MS = 1000;

interface First {
  readonly addresses: Set<AddressKey>;
  /** When the first was seen that is not link-local; null: none has been. */
  sinceMs: number | null;
}

export class PodWatch {
  readonly cgroup: bigint;
  readonly #native: Native;
  readonly #onReason: () => void;
  readonly #first = new Map<number, First>();
  readonly #timers = new Set<NodeJS.Timeout>();
  #pod: Guardable;
  #watcher: FSWatcher | null = null;
  #attempt = 0;
  #retry: NodeJS.Timeout | null = null;
  #namespaces: readonly PodNamespace[] = [];
  #isHost = false;
  #mustRead = true;
  #isRead = false;
  /** When its first process was seen; null: none has been. */
  firstProcessMs: number | null = null;
  /** What the host's ends were when it was last read. */
  signature = '';
  situation: Situation = 'no_process';
  /** The last attempt to attach failed. */
  isRefused = false;
  /** The situation that was told last. */
  told: Situation | null = null;
  /** It came while others were watched, and has had no guard yet: how long that takes is of interest. */
  isNew: boolean;
  /** Sent before its guards stood there. */
  frames = 0;

  /** `onReason`: there is a reason to look again, and `mustRead` is true. */
  constructor(native: Native, pod: Guardable, isNew: boolean, onReason: () => void) {
    this.isNew = isNew;
    this.#native = native;
    this.#pod = pod;
    this.cgroup = pod.cgroup;
    this.#onReason = onReason;
    try {
      // Modified when the first process comes, and when the last goes.
      this.#watcher = watch(path.join(pod.folder, 'cgroup.events'), () => this.again());
      this.#watcher.on('error', () => undefined);
    } catch {
      // No watch is left, or the folder is gone: the retries look.
    }
  }

  get pod(): Guardable {
    return this.#pod;
  }

  get mustRead(): boolean {
    return this.#mustRead;
  }

  /** It was read at least once: what is not known of it before is not to be taken for what is not there. */
  get isRead(): boolean {
    return this.#isRead;
  }

  get namespaces(): readonly PodNamespace[] {
    return this.#namespaces;
  }

  get isInHostNamespace(): boolean {
    return this.#isHost;
  }

  /** Whether that changes anything. */
  rename(pod: Guardable): boolean {
    const isSame =
      pod.name === this.#pod.name &&
      pod.addresses.length === this.#pod.addresses.length &&
      pod.addresses.every((one, index) => one === this.#pod.addresses[index]);
    this.#pod = pod;
    return !isSame;
  }

  /** Something happened: look at once, and if that leads nowhere, some times more. */
  again(): void {
    this.#attempt = 0;
    this.#mustRead = true;
    this.#onReason();
  }

  /** Asks which namespaces its processes are in, and what is there. */
  read(): void {
    this.#mustRead = false;
    this.#isRead = true;
    const processes = namespacesIn(this.#pod.folder);
    const [oldest] = processes;
    const own = namespaceOf(process.pid)?.netns;
    this.#isHost = oldest !== undefined && oldest.netns === own;
    if (oldest !== undefined) this.firstProcessMs ??= performance.now();
    const others = this.#isHost ? [] : processes.filter(({ netns }) => netns !== own).slice(0, MAX_NAMESPACES);
    const namespaces = others.flatMap((one) => this.#readNamespace(one) ?? []);
    // A sandbox's that could not be read is not to be mistaken for one of the workload's own.
    const isWhole = namespaces.length > 0 && namespaces[0]?.pid === others[0]?.pid;
    this.#namespaces = isWhole ? namespaces : [];
  }

  /** Remembers the addresses that the interfaces began with; `inherited`: an earlier agent's guard there knows them. */
  remember(ways: readonly WayOut[], inherited: (ifindex: number) => Guard | null): void {
    const now = performance.now();
    for (const { ifindex, addresses } of ways) {
      const known = this.#first.has(ifindex) ? null : inherited(ifindex);
      if (known !== null) {
        this.#first.set(ifindex, { addresses: new Set(known.sources), sinceMs: Number.NEGATIVE_INFINITY });
        continue;
      }
      const first: First = this.#first.get(ifindex) ?? { addresses: new Set(), sinceMs: null };
      if (!this.#first.has(ifindex)) {
        this.#first.set(ifindex, first);
        for (const ms of ADDRESS_LOOKS_MS) this.#later(ms, () => first.sinceMs === null || ms <= SETTLED_MS);
      }
      if (first.sinceMs !== null && now - first.sinceMs > SETTLED_MS) continue;
      for (const address of addresses) first.addresses.add(address);
      if (first.sinceMs !== null || addresses.every(isLinkLocal)) continue;
      first.sinceMs = now;
      for (const ms of ADDRESS_LOOKS_MS) if (ms <= SETTLED_MS) this.#later(ms, () => true);
    }
  }

  /** An interface is gone: what has its index later begins anew. */
  forget(ifindex: number): void {
    this.#first.delete(ifindex);
  }

  /** Its first process has had the time to get to where it belongs. */
  get isSettledIn(): boolean {
    return this.firstProcessMs !== null && performance.now() - this.firstProcessMs > MOVING_IN_MS;
  }

  /** For the planner. */
  get planned(): Pod {
    return {
      cgroup: this.cgroup,
      podIps: this.#pod.addresses,
      namespaces: this.#namespaces,
      first: new Map([...this.#first].map(([ifindex, { addresses }]) => [ifindex, [...addresses]])),
    };
  }

  /** It has led nowhere: looks again after a while, each time a longer one. */
  retry(): void {
    const ms = RETRIES_MS[this.#attempt];
    if (ms === undefined || this.#retry !== null) return;
    this.#attempt += 1;
    this.#retry = setTimeout(() => {
      this.#retry = null;
      this.#mustRead = true;
      this.#onReason();
    }, ms);
    this.#retry.unref();
  }

  /** Nothing more is to be found out until something happens. */
  settle(): void {
    if (this.#retry !== null) clearTimeout(this.#retry);
    this.#retry = null;
    this.#attempt = 0;
  }

  /** No more tries are left: this is how it is. */
  get isAsItIs(): boolean {
    return this.#attempt >= RETRIES_MS.length;
  }

  close(): void {
    this.#watcher?.close();
    if (this.#retry !== null) clearTimeout(this.#retry);
    for (const timer of this.#timers) clearTimeout(timer);
  }

  #later(ms: number, isOfUse: () => boolean): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      if (!isOfUse()) return;
      this.#mustRead = true;
      this.#onReason();
    }, ms);
    timer.unref();
    this.#timers.add(timer);
  }

  /** null: gone, or another's meanwhile. */
  #readNamespace(one: ProcessNamespace): (PodNamespace & { readonly pid: number }) | null {
    const file = `/proc/${one.pid}/ns/net`;
    try {
      const nsid = this.#native.namespaceNumber(file);
      const cookie = cookieOf(this.#native, file);
      const interfaces = this.#native.interfaces(nsid);
      const addresses = this.#native
        .interfaceAddresses(nsid)
        .map(({ ifindex, address }) => ({ ifindex, address: address.toString('hex') }));
      return isStillThere(one) ? { nsid, cookie, interfaces, addresses, pid: one.pid } : null;
    } catch (error) {
      if (error instanceof KernelError) return null;
      throw error;
    }
  }
}

function cookieOf(native: Native, file: string): bigint | null {
  try {
    return native.netnsCookie(file);
  } catch (error) {
    if (error instanceof KernelError && error.code === 'EPERM') return null;
    throw error;
  }
}
