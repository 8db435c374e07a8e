// SPDX-License-Identifier: Apache-2.0
// Keeps a guard at every way out of every pod: hears of processes and interfaces, looks, plans, attaches, and looks again until nothing is left
// to do. Knows no policy.
import path from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { podUidOf } from '../bind/pod-folder.ts';
import { LimitExceeded, RollbackFailed } from '../kernel/errors.ts';
import { type Guard, type GuardMode, NOBODY, type Post } from '../kernel/guards.ts';
import { type Interface, KernelError, type Native } from '../kernel/native.ts';
import { type HeldGuard, plan, type Step, type Wanted, want } from './plan.ts';
import { type Guardable, PodWatch, type Situation, type Unguarded } from './pod-watch.ts';
import { pairsOf, waysOut } from './ways-out.ts';

/** Where guards are put: `InterfaceGuards` of src/kernel. */
export interface GuardPosts {
  readonly mode: GuardMode | null;
  readonly held: ReadonlyMap<number, Guard>;
  attach(guard: Guard): Promise<void>;
  update(guard: Guard): void;
  detach(ifindex: number): Promise<void>;
  isInPlace(ifindex: number): boolean;
  isFirst(ifindex: number): boolean;
  posts(): ReadonlyMap<number, Post>;
}

/** What is worth telling. Workloads are named as `Guardable` names them. */
export type GuardNews =
  /** Every way out of these has a guard now. `ms`: the longest that one was without since its first process was seen; null: they were there before. */
  | {
      readonly event: 'guarded';
      readonly workloads: readonly string[];
      readonly interfaces: readonly string[];
      readonly ms: number | null;
      /** Frames that they had sent until then. */
      readonly frames: number | null;
    }
  | { readonly event: 'unguarded'; readonly why: Unguarded; readonly workloads: readonly string[] }
  /** The kernel takes no guard; tried again. */
  | { readonly event: 'guard_failed'; readonly workload: string; readonly code: string; readonly message: string }
  /** Somebody took it away; it is put there again. */
  | { readonly event: 'guard_lost'; readonly workload: string; readonly interface: string }
  /** A program was attached before it; it is put before that one again, or, where that was done `MAX_MOVES` times within an hour, left behind it. */
  | {
      readonly event: 'guard_overtaken';
      readonly workload: string;
      readonly interface: string;
      readonly isLeft: boolean;
    };

type Failure = KernelError | LimitExceeded | RollbackFailed;

export interface GuardsOptions {
  readonly native: Native;
  readonly posts: GuardPosts;
  /** Until this is resolved, nothing is done. */
  readonly isReady: Promise<void>;
  /** The namespace of the pod in this cgroup is guarded whole, by its cookie; 0n: it is not. Throws KernelError. */
  readonly setGuarded: (cgroup: bigint, netns: bigint) => void;
  /** What `setGuarded` would have been told by an earlier agent. */
  readonly guarded: ReadonlyMap<bigint, bigint>;
  readonly onNews: (news: GuardNews) => void;
  /** A new pod's way out is guarded, so many seconds after its first process was seen. */
  readonly onGuarded: (seconds: number) => void;
}

/** Looks follow one another at least so far apart: a CNI that makes one pod changes interfaces some ten times. */
const PAUSE_MS = 5;
/** Reading a pod takes most of a millisecond: after so many, others get their turn. */
const READS_PER_LOOK = 16;
/** Who insists on being first would do so for ever, and each time nobody guards for some 30 ms. */
const MAX_MOVES = 3;
const MOVES_WITHIN_MS = 3_600_000;
/** Programs may be taken away without anybody being told. */
const CHECK_MS = 1000;
/** All pods' processes and interfaces are read again over so many checks. */
const CHECKS_PER_ROUND = 30;

export class Guards {
  readonly #options: GuardsOptions;
  readonly #watches = new Map<bigint, PodWatch>();
  /** Cookies that `setGuarded` was told last. */
  readonly #guarded = new Map<bigint, bigint>();
  /** Interfaces that the kernel told to be gone; what has their index now is another. */
  readonly #gone = new Set<number>();
  readonly #inherited: Map<number, Guard>;
  readonly #unwatch: () => void;
  readonly #check: NodeJS.Timeout;
  #host: readonly Interface[] = [];
  #timer: NodeJS.Timeout | null = null;
  #lookedMs = 0;
  #isDirty = false;
  /** More pods were to be read than one look reads. */
  #hasUnread = false;
  #working: Promise<void> | null = null;
  #isClosed = false;
  /** Guards that a look has found where they belong since they were attached. */
  readonly #confirmed = new Set<number>();
  /** How often a guard was put before somebody else's program again. */
  readonly #moves = new Map<number, number>();
  #movesSinceMs = performance.now();
  #isFirst = true;
  #turn = 0;
  #frames = 0;

  /** Throws KernelError where interfaces cannot be watched. */
  constructor(options: GuardsOptions) {
    this.#options = options;
    // An earlier agent's, which were where they belonged: what they were told stands.
    this.#inherited = new Map(options.posts.held);
    for (const ifindex of this.#inherited.keys()) this.#confirmed.add(ifindex);
    for (const [cgroup, cookie] of options.guarded) this.#guarded.set(cgroup, cookie);
    this.#unwatch = options.native.watchInterfaces((gone, isLost) => {
      for (const ifindex of gone) this.#gone.add(ifindex);
      if (isLost) for (const watch of this.#watches.values()) watch.again();
      this.#look();
    });
    this.#check = setInterval(() => this.#checkAll(), CHECK_MS);
    this.#check.unref();
  }

  /** All whose interfaces are to be guarded from now on. */
  hold(pods: Iterable<Guardable>): void {
    const named = new Map([...pods].map((pod) => [pod.cgroup, pod]));
    let isChanged = this.#isFirst;
    for (const [cgroup, watch] of this.#watches) {
      if (named.has(cgroup)) continue;
      if (this.#isGone(watch)) this.#leave(watch);
      watch.close();
      this.#watches.delete(cgroup);
      isChanged = true;
    }
    for (const [cgroup, pod] of named) {
      const watch = this.#watches.get(cgroup);
      if (watch !== undefined) {
        isChanged = watch.rename(pod) || isChanged;
        continue;
      }
      const isNew = !this.#isFirst;
      this.#watches.set(cgroup, new PodWatch(this.#options.native, pod, isNew, () => this.#look()));
      isChanged = true;
    }
    this.#isFirst = false;
    if (isChanged) this.#look();
  }

  /**
   * Before policy forgets all but these: what pods that are gone have left behind (connections that the kernel still ends, frames in a
   * queue) does not leave, from now on and as long as their interfaces are there.
   */
  letGo(staying: ReadonlySet<bigint>): void {
    for (const [cgroup, watch] of this.#watches) if (!staying.has(cgroup) && this.#isGone(watch)) this.#leave(watch);
  }

  /** The folder of a pod's uid is not made again. One at a path that its object names may be, by who begins anew there. */
  #isGone({ cgroup, pod: { folder, isHeld } }: PodWatch): boolean {
    if (!isHeld || podUidOf(path.basename(folder)) === null) return false;
    try {
      return this.#options.native.cgroupId(folder) !== cgroup;
    } catch {
      return true;
    }
  }

  #leave({ cgroup }: PodWatch): void {
    const { posts } = this.#options;
    for (const [ifindex, guard] of posts.held) {
      if (guard.cgroup !== cgroup || !this.#confirmed.has(ifindex)) continue;
      try {
        posts.update({ ...guard, cgroup: NOBODY });
      } catch (error) {
        // It is taken away at the next look, as if nothing were left behind.
        if (!isFailure(error)) throw error;
      }
    }
  }

  /** Guarded interfaces, by how. */
  modes(): ReadonlyMap<GuardMode, number> {
    const { mode, held } = this.#options.posts;
    return new Map(mode === null ? [] : [[mode, held.size]]);
  }

  /** Pods with a way out that has no guard, by why. */
  unguarded(): ReadonlyMap<Unguarded, number> {
    const counts = new Map<Unguarded, number>();
    for (const { situation } of this.#watches.values()) {
      if (situation !== 'guarded') counts.set(situation, (counts.get(situation) ?? 0) + 1);
    }
    return counts;
  }

  /** Frames that new pods sent before their guards stood there; a total. */
  get framesBefore(): number {
    return this.#frames;
  }

  /** By pod and interface, for those who ask. */
  status(): readonly {
    readonly workload: string;
    readonly situation: Situation;
    readonly interfaces: readonly (Post & { readonly name: string; readonly isFirst: boolean })[];
  }[] {
    const { posts } = this.#options;
    const standing = posts.posts();
    const names = new Map(this.#host.map(({ ifindex, name }) => [ifindex, name]));
    const held = byCgroup(this.#options.posts.held);
    return [...this.#watches.values()].map(({ cgroup, pod, situation }) => ({
      workload: pod.name,
      situation,
      interfaces: (held.get(cgroup) ?? []).flatMap(({ ifindex }) => {
        const post = standing.get(ifindex);
        return post === undefined ? [] : [{ ...post, name: nameOf(names, ifindex), isFirst: posts.isFirst(ifindex) }];
      }),
    }));
  }

  /** Resolves when nothing that is known of is left to do. */
  async settled(): Promise<void> {
    while (this.#working !== null || this.#timer !== null) {
      await (this.#working ?? new Promise((resolve) => setTimeout(resolve, PAUSE_MS)));
    }
  }

  /** Watches and attaches no more; what stands, stands. */
  async close(): Promise<void> {
    this.#isClosed = true;
    clearInterval(this.#check);
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    this.#unwatch();
    for (const watch of this.#watches.values()) watch.close();
    await this.#working;
  }

  #checkAll(): void {
    const watches = [...this.#watches.values()];
    for (const [index, watch] of watches.entries()) {
      if (index % CHECKS_PER_ROUND === this.#turn) watch.again();
    }
    this.#turn = (this.#turn + 1) % CHECKS_PER_ROUND;
    const { posts } = this.#options;
    if (performance.now() - this.#movesSinceMs > MOVES_WITHIN_MS) {
      this.#movesSinceMs = performance.now();
      this.#moves.clear();
    }
    const isMoved = [...posts.held.keys()].some((ifindex) => {
      if (!posts.isInPlace(ifindex)) return true;
      if (!this.#isOvertaken(ifindex)) return false;
      const moves = this.#moves.get(ifindex) ?? 0;
      if (moves === MAX_MOVES) this.#tellOvertaken(ifindex, true);
      return moves < MAX_MOVES;
    });
    if (isMoved) this.#look();
  }

  #isOvertaken(ifindex: number): boolean {
    try {
      return !this.#options.posts.isFirst(ifindex);
    } catch (error) {
      // It went while it was asked for.
      if (error instanceof KernelError) return false;
      throw error;
    }
  }

  /** Once for each time that it is moved, and once for that it is not moved any more. */
  #tellOvertaken(ifindex: number, isLeft: boolean): void {
    this.#moves.set(ifindex, (this.#moves.get(ifindex) ?? 0) + 1);
    const guard = this.#options.posts.held.get(ifindex);
    const watch = guard === undefined ? undefined : this.#watches.get(guard.cgroup);
    if (watch === undefined) return;
    const name = nameOf(new Map(this.#host.map((one) => [one.ifindex, one.name])), ifindex);
    this.#options.onNews({ event: 'guard_overtaken', workload: watch.pod.name, interface: name, isLeft });
  }

  /** It stands where it belongs, or is to be left where it is. */
  #isStanding(ifindex: number): boolean {
    if (!this.#options.posts.isInPlace(ifindex)) return false;
    return (this.#moves.get(ifindex) ?? 0) >= MAX_MOVES || !this.#isOvertaken(ifindex);
  }

  /** Soon, and once for whatever happens until then. */
  #look(): void {
    this.#isDirty = true;
    // Before it is known who is here, nobody's guard is to be taken away.
    if (this.#isFirst || this.#isClosed || this.#timer !== null || this.#working !== null) return;
    const ms = Math.max(0, this.#lookedMs + PAUSE_MS - performance.now());
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#working = this.#work().finally(() => {
        this.#working = null;
        if (this.#isDirty) this.#look();
      });
    }, ms);
  }

  async #work(): Promise<void> {
    await this.#options.isReady;
    while ((this.#isDirty || this.#hasUnread) && !this.#isClosed) {
      this.#isDirty = false;
      this.#lookedMs = performance.now();
      const held = this.#heldNow();
      const wanted = this.#want(held);
      for (const ifindex of wanted.claimed) if (held.has(ifindex)) this.#confirmed.add(ifindex);
      const steps = plan(wanted.guards, held);
      this.#unguard(wanted);
      await this.#take(steps);
      this.#guard(wanted);
      this.#tell(wanted);
      // What was just done is looked at once more: an interface may have been exchanged meanwhile. What was refused waits for its retry.
      const { held: now } = this.#options.posts;
      if (steps.some((step) => step.do === 'attach' && now.has(step.guard.ifindex))) this.#isDirty = true;
      if (this.#isDirty || this.#hasUnread) await setImmediate();
    }
  }

  /** Reads what has changed, and says who should be guarded where. */
  #want(held: ReadonlyMap<number, HeldGuard>): Wanted {
    const { native } = this.#options;
    this.#host = native.interfaces(null);
    const pairs = pairsOf(this.#host);
    const hostNsid = native.ownNamespaceNumber();
    const signatures = signaturesOf(this.#host);
    let reads = 0;
    this.#hasUnread = false;
    for (const watch of [...this.#watches.values()].reverse()) {
      const signature = watch.namespaces.map(({ nsid }) => signatures.get(nsid) ?? '').join('|');
      if (!watch.mustRead && signature === watch.signature) continue;
      reads += 1;
      if (reads > READS_PER_LOOK) {
        this.#hasUnread = true;
        break;
      }
      watch.read();
      watch.signature = watch.namespaces.map(({ nsid }) => signatures.get(nsid) ?? '').join('|');
      for (const namespace of watch.namespaces) {
        watch.remember(waysOut(namespace, pairs, hostNsid).guardable, (ifindex) => this.#inheritedBy(watch, ifindex));
      }
    }
    // The newest first: they have waited for the shortest time, and have the most to gain.
    const pods = [...this.#watches.values()].reverse().map(({ planned }) => planned);
    return want(pods, this.#host, pairs, hostNsid, held);
  }

  #inheritedBy({ cgroup }: PodWatch, ifindex: number): Guard | null {
    const guard = this.#inherited.get(ifindex);
    return guard?.cgroup === cgroup && this.#options.posts.isInPlace(ifindex) ? guard : null;
  }

  #heldNow(): ReadonlyMap<number, HeldGuard> {
    const { posts } = this.#options;
    return new Map(
      [...posts.held].map(([ifindex, guard]) => [
        ifindex,
        { ...guard, isInPlace: this.#isStanding(ifindex), isConfirmed: this.#confirmed.has(ifindex) },
      ]),
    );
  }

  async #take(steps: readonly Step[]): Promise<void> {
    const { posts } = this.#options;
    for (const watch of this.#watches.values()) watch.isRefused = false;
    for (const step of steps) {
      // A pod that came meanwhile is not kept waiting for all the others.
      if (this.#isClosed || (step.do === 'attach' && this.#isDirty)) {
        this.#isDirty = true;
        return;
      }
      try {
        if (step.do === 'update') posts.update(step.guard);
        else if (step.do === 'attach') await this.#attach(step.guard);
        else await this.#detach(step.ifindex);
      } catch (error) {
        if (!isFailure(error)) throw error;
        this.#fail(step, error);
      }
    }
  }

  async #attach(guard: Guard): Promise<void> {
    await this.#options.posts.attach(guard);
    const watch = this.#watches.get(guard.cgroup);
    if (watch?.isNew !== true || watch.told !== null) return;
    try {
      watch.frames += this.#options.native.framesReceived(guard.ifindex);
    } catch (error) {
      // It is gone already, and its count with it.
      if (!(error instanceof KernelError)) throw error;
    }
  }

  async #detach(ifindex: number): Promise<void> {
    const { posts } = this.#options;
    const guard = posts.held.get(ifindex);
    const watch = guard === undefined ? undefined : this.#watches.get(guard.cgroup);
    const isInPlace = posts.isInPlace(ifindex);
    // One that went since the look takes its guard along: asked now, it is not there. Nobody took that away.
    const host = isInPlace ? this.#host : this.#options.native.interfaces(null);
    const isGone = this.#gone.delete(ifindex) || !host.some((one) => one.ifindex === ifindex);
    if (watch !== undefined && !isGone && !isInPlace) {
      const name = nameOf(new Map(this.#host.map((one) => [one.ifindex, one.name])), ifindex);
      this.#options.onNews({ event: 'guard_lost', workload: watch.pod.name, interface: name });
    } else if (!isGone && this.#isOvertaken(ifindex)) this.#tellOvertaken(ifindex, false);
    if (isGone) watch?.forget(ifindex);
    if (isGone) this.#moves.delete(ifindex);
    this.#confirmed.delete(ifindex);
    this.#inherited.delete(ifindex);
    await posts.detach(ifindex);
  }

  #fail(step: Step, error: Failure): void {
    const ifindex = step.do === 'detach' ? step.ifindex : step.guard.ifindex;
    const cgroup = step.do === 'detach' ? null : step.guard.cgroup;
    const watch = cgroup === null ? undefined : this.#watches.get(cgroup);
    // It went while we were at it: the next look sees what there is.
    if (error.code === 'ENODEV') {
      watch?.again();
      return;
    }
    if (watch !== undefined) watch.isRefused = true;
    if (watch?.told === 'refused') return;
    this.#options.onNews({
      event: 'guard_failed',
      workload: watch?.pod.name ?? `interface ${ifindex}`,
      code: error.code,
      message: error.message,
    });
  }

  /** Before a guard goes, ingress notes again what comes in. */
  #unguard({ complete }: Wanted): void {
    for (const [cgroup, cookie] of this.#guarded) {
      const isUnread = this.#watches.get(cgroup)?.isRead === false;
      if (complete.get(cgroup) === cookie || isUnread) continue;
      this.#setGuarded(cgroup, 0n);
    }
  }

  /** Only once every guard of a pod stands does ingress leave it to them. */
  #guard({ complete, guards }: Wanted): void {
    const { held } = this.#options.posts;
    const lacking = new Set([...guards.values()].filter(({ ifindex }) => !held.has(ifindex)).map((one) => one.cgroup));
    for (const [cgroup, cookie] of complete) {
      if (!lacking.has(cgroup) && this.#guarded.get(cgroup) !== cookie) this.#setGuarded(cgroup, cookie);
    }
  }

  #setGuarded(cgroup: bigint, cookie: bigint): void {
    try {
      this.#options.setGuarded(cgroup, cookie);
    } catch (error) {
      if (!isFailure(error)) throw error;
      this.#watches.get(cgroup)?.again();
      return;
    }
    if (cookie === 0n) this.#guarded.delete(cgroup);
    else this.#guarded.set(cgroup, cookie);
  }

  #tell({ guards, unguardable }: Wanted): void {
    const { held } = this.#options.posts;
    const wanted = byCgroup(guards);
    const newly: PodWatch[] = [];
    const without = new Map<Unguarded, string[]>();
    for (const watch of this.#watches.values()) {
      const own = wanted.get(watch.cgroup) ?? [];
      const isHeld = own.length > 0 && own.every(({ ifindex }) => held.has(ifindex));
      const situation = situationOf(watch, isHeld, unguardable.get(watch.cgroup)?.[0]);
      // Its turn comes in a moment.
      if (!watch.isRead || (own.length > 0 && !isHeld && !watch.isRefused)) continue;
      watch.situation = situation;
      const isCertain = situation === 'guarded' || (isFinal(situation) && watch.isSettledIn);
      if (isCertain) watch.settle();
      else watch.retry();
      if (situation === watch.told) continue;
      if (situation === 'guarded') newly.push(watch);
      else if (isCertain || situation === 'refused' || watch.isAsItIs) {
        without.set(situation, [...(without.get(situation) ?? []), watch.pod.name]);
      } else continue;
      watch.told = situation;
    }
    if (newly.length > 0) this.#tellGuarded(newly);
    for (const [why, workloads] of without) this.#options.onNews({ event: 'unguarded', why, workloads });
  }

  #tellGuarded(watches: readonly PodWatch[]): void {
    const names = new Map(this.#host.map(({ ifindex, name }) => [ifindex, name]));
    const held = byCgroup(this.#options.posts.held);
    const interfaces = watches.flatMap(({ cgroup }) => held.get(cgroup) ?? []);
    const now = performance.now();
    const measured = watches.flatMap(({ isNew, firstProcessMs, frames }) =>
      isNew && firstProcessMs !== null ? [{ ms: now - firstProcessMs, frames }] : [],
    );
    for (const { ms, frames } of measured) {
      this.#options.onGuarded(ms / 1000);
      this.#frames += frames;
    }
    for (const watch of watches) watch.isNew = false;
    this.#options.onNews({
      event: 'guarded',
      workloads: watches.map(({ pod }) => pod.name),
      interfaces: interfaces.map(({ ifindex }) => nameOf(names, ifindex)),
      ms: measured.length === 0 ? null : Math.max(...measured.map(({ ms }) => ms)),
      frames: measured.length === 0 ? null : measured.reduce((sum, { frames }) => sum + frames, 0),
    });
  }
}

function situationOf(watch: PodWatch, isHeld: boolean, unguardable: Unguarded | undefined): Situation {
  if (watch.isInHostNamespace) return 'host_network';
  if (watch.isRefused) return 'refused';
  if (unguardable !== undefined) return unguardable;
  if (isHeld) return 'guarded';
  return watch.namespaces.length === 0 ? 'no_process' : 'no_interface';
}

/** It stays so until something happens. */
function isFinal(situation: Situation): boolean {
  return (
    situation === 'guarded' ||
    situation === 'host_network' ||
    situation === 'macvlan' ||
    situation === 'ipvlan' ||
    situation === 'not_ethernet' ||
    situation === 'device'
  );
}

function byCgroup(guards: ReadonlyMap<number, Guard>): ReadonlyMap<bigint, readonly Guard[]> {
  const grouped = new Map<bigint, Guard[]>();
  for (const guard of guards.values()) {
    const others = grouped.get(guard.cgroup);
    if (others === undefined) grouped.set(guard.cgroup, [guard]);
    else others.push(guard);
  }
  return grouped;
}

/** What ends of theirs the host has, by the number of the namespace: for knowing that it changed. */
function signaturesOf(host: readonly Interface[]): ReadonlyMap<number, string> {
  const signatures = new Map<number, string>();
  for (const { ifindex, link, linkNsid } of host) {
    if (linkNsid !== null) signatures.set(linkNsid, `${signatures.get(linkNsid) ?? ''} ${ifindex}:${link}`);
  }
  return signatures;
}

function nameOf(names: ReadonlyMap<number, string>, ifindex: number): string {
  return names.get(ifindex) ?? `interface ${ifindex}`;
}

function isFailure(error: unknown): error is Failure {
  return error instanceof KernelError || error instanceof LimitExceeded || error instanceof RollbackFailed;
}
