// SPDX-License-Identifier: Apache-2.0
// The agent: holds the kernel to what a source of objects says, and tells what it refuses. Read this and you know the program.
// Everything runs on one thread: a change is heard, compiled, applied and told before the next is looked at.
import path from 'node:path';
import type { Logger } from 'pino';
import type { Bindings, Bound } from '../bind/binding.ts';
import { folderWithId, isPopulated, isWithin, type RootSearch } from '../bind/root.ts';
import { overfullProblems } from '../compile/overfull.ts';
import type { QueryBounds } from '../kernel/apply.ts';
import type { RollbackFailed } from '../kernel/errors.ts';
import { KernelError, type Native } from '../kernel/native.ts';
import { foreignLinks, PinError, whoseLinks } from '../kernel/pins.ts';
import { Metrics } from '../metrics/metrics.ts';
import { type ListenAddress, type MetricsServer, serveMetrics } from '../metrics/server.ts';
import type { Pod, Problem, Snapshot } from '../model/objects.ts';
import type { ObjectSource } from '../source/source.ts';
import type { Contents, Place } from '../source/store.ts';
import { arrivals } from './arrivals.ts';
import { FlowCutter } from './cut.ts';
import { DriftWatch, driftText, type Repaired } from './drift-watch.ts';
import { Enforcement, type Happening, type LearnedName, type Outcome } from './enforcement.ts';
import { FillWatch, fillText } from './fill-watch.ts';
import { Ground } from './ground.ts';
import { Guarding } from './guarding.ts';
import type { AgentHooks } from './hooks.ts';
import { blamed, lessened } from './lessened.ts';
import { checkNodeName, isLocal, type Locality, LocalPods } from './local-pods.ts';
import type { AgentLog } from './log.ts';
import { names } from './names.ts';
import { type NodePolicies, nodePolicies } from './node-policies.ts';
import type { NodeStatus } from './node-status.ts';
import { giveUpPrivileges } from './privileges.ts';
import { type AgentSocket, serveSocket } from './socket.ts';
import { Telling } from './telling.ts';
import { Watchdog } from './watchdog.ts';

export interface AgentOptions extends Locality {
  /** Where everything is enforced; waited for where it is not there. */
  readonly root: RootSearch;
  /** What all pods are below, where more than them is below the root: the rest is the host's. null: the root holds pods alone. */
  readonly pods: RootSearch | null;
  readonly metrics: ListenAddress;
  /** Where `postern policies` asks; null: nowhere. */
  readonly socket: string | null;
  /** What processes may do that belong to no pod of this node. */
  readonly unknown: 'allow' | 'deny';
  /** Pods that a NetworkPolicy holds may reach their own node. */
  readonly ownNode: boolean;
  /** How long a DNS answer counts at least for new flows, whatever its TTL: seconds, at most a week. */
  readonly dnsMinTtlS: number;
  /** What workloads may ask of resolvers; absent: as much as their policies let them. */
  readonly queryBounds?: QueryBounds;
  /**
   * When programs are attached: once the first snapshot is enforced, and a snapshot that cannot be ends the agent; or at once,
   * with the pods that exist then unconfined until there is a snapshot, so that no later pod sends a packet unjudged.
   */
  readonly attach: 'enforced' | 'at_once';
  /** Whether a guard is put at every pod's interface. */
  readonly guard: boolean;
  /**
   * What is given up once everything is attached: capabilities that are not needed any more and system calls that are not made; the
   * first alone, where programs are started that would inherit the second; nothing.
   */
  readonly confine: 'wholly' | 'capabilities' | 'not';
  /** Below which folder of bpffs programs and maps are pinned; null: enforcement ends with the agent. */
  readonly bpffs: string | null;
  /** Where totals are kept for the next agent, a folder that is there; null, and by default: nowhere. */
  readonly stateDir?: string | null;
  /** The command that ends what outlives the agent, to be told. */
  readonly uninstall: string;
  /** How often the kernel is asked whether it still holds what was put there; 0: never. */
  readonly checkMs: number;
  /** Sizes of maps, by name, where the defaults of bpf/abi.h won't do. */
  readonly maxEntries?: Readonly<Record<string, number>>;
  readonly hooks?: AgentHooks;
}

interface Attempt {
  readonly snapshot: Snapshot;
  readonly bound: Bound;
  readonly outcome: Outcome;
}

/** A change that the kernel did not take is tried again after so long, if nothing else changes before. */
const RETRY_MS = 5000;
/** How often the source's state and the root are looked at. */
const LOOK_MS = 1000;
const GOODBYE_MS = 3000;
const HOST_HIDDEN =
  "what is unknown is denied in the host's network namespace too, where it should pass: a static pod that is new or changed, until its mirror is known";

export class Agent {
  readonly #options: AgentOptions;
  readonly #source: ObjectSource;
  readonly #native: Native;
  readonly #out: AgentLog;
  readonly #log: Logger;
  readonly #enforcement: Enforcement;
  readonly #cutter: FlowCutter;
  readonly #telling: Telling;
  readonly #metrics: Metrics;
  readonly #watchdog = new Watchdog();
  readonly #fills = new FillWatch();
  readonly #drift: DriftWatch;
  readonly #bornMs = performance.now();
  readonly #end = new AbortController();
  #server: MetricsServer | null = null;
  #socket: AgentSocket | null = null;
  #ground: Ground | null = null;
  #guarding: Guarding | null = null;
  /** Guards of an earlier agent are taken away. */
  #unguarding: Promise<void> = Promise.resolve();
  #here = this.#followHere();
  /** What the source says now. */
  #snapshot: Snapshot | null = null;
  /** What the kernel is held to: an older one where the newest was refused. */
  #enforced: Snapshot | null = null;
  #refused: readonly Problem[] = [];
  #contentProblems: readonly Problem[] = [];
  #places: ReadonlyMap<string, Place> = new Map();
  #bindings: Bindings = new Map();
  /** Problems of the last binding, to know when they change. */
  #clashes = '';
  #isFullTold = false;
  #waitingFor = '';
  #leftOut = '';
  #unledgered = '';
  #retry: NodeJS.Timeout | null = null;
  #look: NodeJS.Timeout | null = null;
  #onReady: (result: StartError | KernelError | PinError | RollbackFailed | null) => void = () => undefined;
  #isAttached = false;
  #isConfined = false;
  #isReady = false;
  /** It was ready once: from then on it does not end by itself. */
  #hasBegun = false;
  #isFailing = false;
  /** Programs that ran at the last change are waited for. */
  #isFinishing = false;
  /** When the first change since then was heard of; null: there is none. */
  #heldMs: number | null = null;
  #isStopped = false;

  /** Loads the programs, or takes over what an earlier agent left; attaches nothing yet. Throws KernelError, PinError. */
  constructor(options: AgentOptions, source: ObjectSource, native: Native, out: AgentLog) {
    this.#options = options;
    this.#source = source;
    this.#native = native;
    this.#out = out;
    this.#log = out.log;
    this.#enforcement = new Enforcement(native, {
      unknown: options.unknown,
      bpffs: options.bpffs,
      stateDir: options.stateDir ?? null,
      ...{ ownNode: options.ownNode, dnsMinTtlS: options.dnsMinTtlS },
      ...(options.maxEntries === undefined ? {} : { maxEntries: options.maxEntries }),
      ...(options.queryBounds === undefined ? {} : { queryBounds: options.queryBounds }),
    });
    this.#cutter = new FlowCutter(native);
    this.#telling = new Telling(out.log, options.hooks);
    this.#drift = new DriftWatch(this.#enforcement, options.checkMs, {
      repaired: (repaired) => this.#onRepaired(repaired),
      failed: (error) =>
        this.#log.error({ event: 'check_failed', error: error instanceof Error ? error.message : String(error) }),
    });
    this.#metrics = new Metrics({
      counts: () => this.#enforcement.counts(),
      losses: () => new Map([...this.#enforcement.losses(), ['log', this.#out.lost()]]),
      untaught: () => this.#enforcement.untaught(),
      maps: () => this.#enforcement.maps(),
      problems: () => {
        const { problems } = this.#telling;
        const error = problems.filter((one) => one.severity === 'error').length;
        return { error, warning: problems.length - error };
      },
      workloads: () => this.#states(),
      drift: () => this.#drift.totals,
      since: () => (this.#isAttached ? this.#enforcement.sinceMs() : null),
      source: () => source.status(),
      guards: () => this.#guarding?.readings() ?? null,
      isReady: () => this.#isReady && !this.#isFailing,
      loopDelayMs: () => this.#watchdog.takeLongestMs(),
    });
  }

  /**
   * Enforces what the source says, in an order that leaves no gap: everything is in the kernel before a program is attached.
   * Where an earlier agent's programs are attached, what it enforced goes on until then. Resolves once it is so, however long the
   * root or the source keep it waiting; never after `stop`. Rejects with KernelError, PinError,
   * ListenError, SocketError, what the source's `start` rejects with, or StartError where the first snapshot is refused and nothing is
   * attached yet.
   */
  async start(): Promise<void> {
    this.#server = await serveMetrics(this.#options.metrics, this.#metrics.registry, {
      isReady: () => this.#isReady && !this.#isFailing,
      isAlive: () => this.#watchdog.isAlive(),
    });
    if (this.#options.socket !== null) {
      this.#socket = await serveSocket(this.#options.socket, {
        '/policies': () => this.policies(),
        '/names': () => this.names(),
        '/status': () => this.status(),
      });
    }
    if (this.#options.unknown === 'deny' && this.#enforcement.hostHidden !== null) {
      this.#log.warn({ event: 'host_hidden', why: this.#enforcement.hostHidden }, HOST_HIDDEN);
    }
    await this.#settleDown();
    this.#requireNobodyLeft();
    this.#enforcement.onHappening((happening) => this.#onHappening(happening));
    if (this.#options.attach === 'at_once' && !this.#enforcement.isTakeover) this.#holdNewPods();
    this.#look = setInterval(() => this.#lookAround(), LOOK_MS);
    this.#look.unref();
    const isReady = new Promise<void>((resolve, reject) => {
      this.#onReady = (failure) => (failure === null ? resolve() : reject(failure));
    });
    const start = async (): Promise<never> => {
      await this.#source.start((contents, heardMs) => this.#onContents(contents, heardMs));
      return new Promise(() => undefined);
    };
    await Promise.race([isReady, start()]);
  }

  /** What is pinned goes on as it is, for the next agent to take over; without pins, nothing is enforced any more. */
  async stop(): Promise<void> {
    if (this.#isStopped) return;
    this.#isStopped = true;
    this.#end.abort();
    this.#watchdog.stop();
    this.#drift.close();
    if (this.#retry !== null) clearTimeout(this.#retry);
    if (this.#look !== null) clearInterval(this.#look);
    this.#ground?.close();
    await this.#guarding?.close();
    await this.#unguarding;
    const { bpffs } = this.#enforcement;
    const lost = bpffs === null || !this.#isAttached ? null : this.#mendPins();
    if (bpffs === null) this.#enforcement.detach();
    if (bpffs === null) await this.#enforcement.guards.close();
    this.#enforcement.drain();
    this.#telling.flush();
    this.#enforcement.close();
    await this.#sayGoodbye();
    await this.#source.stop();
    await this.#socket?.close();
    await this.#server?.close();
    if (!this.#isReady) return;
    if (lost !== null) {
      this.#log.error(
        { event: 'stopped', bpffs: null },
        `nothing may be enforced any more, since not all is pinned: ${lost}`,
      );
    } else {
      this.#log.info(
        { event: 'stopped', bpffs },
        bpffs === null
          ? 'detached: nothing is enforced any more, since with --bpffs none enforcement ends with the agent'
          : `what was enforced stays so: programs and maps are pinned in ${bpffs}; ${this.#options.uninstall} ends that`,
      );
    }
    await this.#out.flush();
  }

  /** What somebody has unpinned would end with this process. Returns why it can't be put right; null: all is pinned. */
  #mendPins(): string | null {
    try {
      for (const { what, name } of this.#enforcement.audit(true)) this.#onRepaired({ what, name, count: 1 });
      return null;
    } catch (error) {
      if (!(error instanceof Error && 'code' in error)) throw error;
      return error.message;
    }
  }

  /** What is to be told elsewhere may need a source that is away: nobody waits for that for long. */
  async #sayGoodbye(): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, GOODBYE_MS);
    });
    await Promise.race([this.#options.hooks?.onStop?.(), late]);
    clearTimeout(timer);
  }

  /** What is attached where, and whether the kernel holds what was put there, asked of it now. Rejects with KernelError, PinError. */
  async status(): Promise<NodeStatus> {
    const { drift, maps } = await this.#drift.verify();
    const sinceMs = this.#isAttached ? this.#enforcement.sinceMs() : null;
    return {
      pid: process.pid,
      ready: this.#isReady,
      bpffs: this.#enforcement.bpffs,
      root: this.#ground?.folder ?? null,
      since: isoTime(sinceMs),
      programs: this.#enforcement.attached(),
      guards: (this.#guarding?.status() ?? []).map((guard) => ({
        ...guard,
        interfaces: guard.interfaces.map(({ name, mode, sinceMs, isFirst }) => ({
          ...{ name, mode, since: isoTime(sinceMs), first: isFirst },
        })),
      })),
      maps: maps.map((audit) => ({
        ...audit,
        maxEntries: this.#enforcement.maps().find(({ map }) => map === audit.map)?.maxEntries ?? audit.entries,
      })),
      drift,
      repaired: Object.fromEntries(this.#drift.totals),
    };
  }

  /** Which policies select which workloads of this node, now. */
  policies(): NodePolicies {
    return nodePolicies({
      node: this.#options.nodeName,
      wanted: this.#snapshot,
      enforced: this.#isReady ? this.#enforced : null,
      bindings: this.#bindings,
      problems: this.#telling.problems,
      refused: this.#refused,
      isHere: (pod) => this.#isHere(pod),
    });
  }

  /** Which names DNS told which workloads, and what they led to. Throws KernelError. */
  names(): { readonly ready: boolean; readonly names: readonly LearnedName[] } {
    return { ready: this.#isReady, names: this.#enforcement.names() };
  }

  /** Finds the root, or waits for it, and looks at what is below. Never resolves after `stop`. */
  async #settleDown(): Promise<void> {
    const { root, pods } = this.#options;
    for (const search of [root, pods]) {
      if (search !== null && search.find() === null) this.#log.info({ event: 'waiting', for: search.what });
    }
    this.#ground = await Ground.find({ root, pods }, this.#native, this.#end.signal, () => this.#onCgroups());
    // Which pod is the agent's own may have another answer now.
    this.#here = this.#followHere();
  }

  /**
   * Below another root the earlier agent's programs would go as soon as this one's stand here, and a mistyped root would set free whoever
   * runs there. Throws PinError. A root above theirs holds them all; one below is taken for what is wanted, and told.
   */
  #requireNobodyLeft(): void {
    const { root } = this.#standingGround();
    const { mount } = this.#options.root;
    for (const id of this.#enforcement.roots()) {
      const before = folderWithId(mount, id, (folder) => this.#native.cgroupId(folder));
      if (before === null || isWithin(before, root)) continue;
      const [from, to] = [path.join(mount, before), path.join(mount, root)];
      if (isWithin(root, before)) {
        this.#log.warn(
          { event: 'root_narrowed', from, to },
          `what is in ${from} and not in ${to} is not held any more`,
        );
      } else if (isPopulated(from)) {
        throw new PinError(
          `the programs pinned in ${this.#enforcement.bpffs} hold what runs in ${from}, which would be free if they were attached to ${to} instead: start with --cgroup-root ${before} or one above both, give this agent a folder of its own (--bpffs, --state-dir), or end what was enforced by ${this.#options.uninstall}`,
          'OTHER_ROOT',
        );
      }
    }
  }

  /**
   * What is in both roots of two agents would be judged twice, and counted twice, and each would put its guards before the other's. Throws
   * PinError, KernelError. `postern run` is within an agent's root by its nature, and holds nobody but its command.
   */
  #requireNobodyAround(): void {
    const ground = this.#standingGround();
    const around = ground.foreignAround(foreignLinks(this.#native, this.#enforcement.linkIds()));
    if (around === null) return;
    const where = isWithin(path.relative(this.#options.root.mount, around.folder), ground.root) ? 'below' : 'above';
    throw new PinError(
      `programs of another Postern are attached to ${around.folder}, which is ${where} this agent's root ${ground.folder}, and ${whoseLinks(this.#native, around.links)}; or give this one a --cgroup-root beside it`,
      'FOREIGN',
    );
  }

  /** Attaches before there is a snapshot: pods that are there go on, and whatever comes later is unknown until it is known. */
  #holdNewPods(): void {
    const ground = this.#standingGround();
    const bindings = ground.existingPods();
    const outcome = this.#enforcement.enforce(NOTHING, bindings, ground.ownBeside(new Map()));
    if (outcome.status === 'failed') throw outcome.error;
    this.#attach();
    this.#guard();
    this.#log.info({ event: 'attached', existing: bindings.size });
  }

  /** From here on no program is loaded. An agent that keeps too much still enforces, and better than none. */
  #confine(): void {
    const { confine } = this.#options;
    if (this.#isConfined || confine === 'not') return;
    this.#isConfined = true;
    const failure = giveUpPrivileges(this.#native, confine === 'wholly');
    if (failure === null) this.#log.debug({ event: 'confined', systemCalls: confine === 'wholly' });
    else this.#log.warn({ event: 'not_confined' }, failure);
  }

  #attach(): void {
    const { folder, pods } = this.#standingGround();
    const { isTakeover } = this.#enforcement;
    this.#requireNobodyAround();
    this.#enforcement.attach(folder, pods);
    this.#isAttached = true;
    this.#confine();
    if (isTakeover) this.#tellTakeover();
    if (!this.#options.guard) {
      this.#unguarding = this.#tellFailed(this.#enforcement.unguard(() => this.#isStopped));
      return;
    }
    const isReady = isTakeover ? this.#tellFailed(this.#enforcement.guards.renew()) : Promise.resolve();
    const { mount } = this.#options.root;
    this.#guarding ??= new Guarding({
      native: this.#native,
      enforcement: this.#enforcement,
      log: this.#log,
      metrics: this.#metrics,
      onRepaired: (repaired) => this.#drift.note(repaired),
      mount,
      deniesUnknown: this.#options.unknown === 'deny',
      isReady,
    });
  }

  /** Where what is unknown is denied, interfaces are guarded before anybody knows whose they are: else it would get out there. */
  #guard(): void {
    const ground = this.#ground;
    if (this.#guarding === null || ground === null || !this.#isAttached) return;
    const strangers = this.#options.unknown === 'deny' ? ground.strangers() : NOBODY;
    this.#guarding.hold(this.#bindings, this.#enforcement.compiled?.tables ?? null, strangers);
  }

  /** What an earlier agent left at interfaces is not what this one puts there. */
  async #tellFailed(work: Promise<void>): Promise<void> {
    try {
      await work;
    } catch (error) {
      if (!(error instanceof KernelError)) throw error;
      this.#log.error({ event: 'guard_failed', code: error.code }, error.message);
    }
  }

  #lookAtFills(): void {
    const { filling, eased } = this.#fills.look(this.#enforcement.maps());
    for (const { map, entries, maxEntries } of eased) this.#log.info({ event: 'map_eased', map, entries, maxEntries });
    for (const fill of filling) {
      this.#log.warn({ event: 'map_filling', ...fill }, fillText(fill));
      this.#options.hooks?.onFilling?.(fill);
    }
  }

  #onRepaired(repaired: Repaired): void {
    this.#log.warn({ event: 'drift', ...repaired }, driftText(repaired));
    this.#options.hooks?.onDrift?.(repaired);
  }

  #tellTakeover(): void {
    const sinceMs = this.#enforcement.sinceMs();
    const seconds = (performance.now() - this.#bornMs) / 1000;
    this.#metrics.observeTakeover(seconds);
    this.#log.info({
      event: 'taken_over',
      ms: Math.round(seconds * 1000),
      since: sinceMs === null ? null : new Date(sinceMs).toISOString(),
    });
  }

  #standingGround(): Ground {
    if (this.#ground === null) throw new Error('the root is found before anything else is done');
    return this.#ground;
  }

  #onContents({ snapshot, problems, places }: Contents, heardMs: number): void {
    this.#places = places;
    this.#snapshot = snapshot;
    this.#contentProblems = problems;
    this.#enforce(heardMs);
  }

  /** Now and then: is the source well, and is the root still the one that programs are attached to? */
  #lookAround(): void {
    this.#lookAtFills();
    this.#telling.updateSource(this.#source.status());
    if (this.#ground?.isGone()) void this.#moveOn(this.#ground);
  }

  /** The root is another now, and nothing is attached to it: begins again there, with what is known. */
  async #moveOn(gone: Ground): Promise<void> {
    this.#log.warn({ event: 'root_gone', root: gone.folder });
    gone.close();
    this.#ground = null;
    this.#isAttached = false;
    this.#isReady = false;
    this.#guarding?.hold(NOBODY, null, NOBODY);
    this.#enforcement.detach();
    await this.#settleDown();
    try {
      if (this.#snapshot !== null) this.#enforce(performance.now());
      else if (this.#options.attach === 'at_once' && !this.#enforcement.isTakeover) this.#holdNewPods();
    } catch (error) {
      if (!(error instanceof KernelError || error instanceof PinError)) throw error;
      this.#failToAttach(error);
    }
  }

  /** Most likely the root has gone again: the next look begins anew. At the start, that is the end. */
  #failToAttach(error: KernelError | PinError): void {
    const retry = this.#hasBegun ? { retryMs: LOOK_MS } : {};
    this.#log.error({ event: 'attach_failed', code: error.code, ...retry }, error.message);
    this.#ground?.giveUp();
    this.#onReady(error);
  }

  /** Folders come and go by the hundred that are no pod's; only a change of whom they hold is worth asking the kernel. */
  #onCgroups(): void {
    const snapshot = this.#enforced;
    if (this.#isStopped) return;
    if (snapshot === null) {
      this.#guard();
      return;
    }
    const heardMs = performance.now();
    if (this.#ground?.isFull && !this.#isFullTold) {
      this.#isFullTold = true;
      this.#log.warn(
        { event: 'watches_exhausted' },
        'too many cgroups to watch: new ones are found by a scan every ten seconds',
      );
    }
    const { bindings, problems } = this.#bind(snapshot);
    const isSame = equalBindings(bindings, this.#bindings) && JSON.stringify(problems) === this.#clashes;
    if (!isSame) this.#enforce(heardMs);
    else this.#guard();
  }

  #isHere(pod: Pod): boolean {
    return isLocal(this.#options, this.#ground?.ownUid ?? null, pod);
  }

  #followHere(): { readonly all: LocalPods; readonly bindable: LocalPods } {
    return {
      all: new LocalPods((pod) => this.#isHere(pod)),
      bindable: new LocalPods((pod) => this.#isHere(pod) && (pod.cgroup !== null || pod.uid !== null)),
    };
  }

  #bind(snapshot: Snapshot): Bound {
    return this.#standingGround().bind(snapshot, this.#here.bindable.of(snapshot.pods), this.#bindings);
  }

  /** Brings the kernel to what the source and the folders say now. */
  #enforce(heardMs: number): void {
    const snapshot = this.#snapshot;
    // While the root is away there is nobody to hold; it begins anew when that is there.
    if (snapshot === null || this.#isStopped || this.#ground === null) return;
    if (this.#waitsForNode(snapshot)) return;
    if (this.#isFinishing) {
      this.#heldMs ??= heardMs;
      return;
    }
    if (this.#retry !== null) clearTimeout(this.#retry);
    this.#retry = null;
    const wanted = this.#attempt(snapshot);
    const over = wanted.outcome.status === 'refused' ? wanted.outcome.problems : [];
    const rest = over.length === 0 ? null : this.#attemptRest(snapshot, over);
    this.#tellLeftOut(rest?.left ?? []);
    const refused = rest === null ? over : [];
    // Where nobody is to blame what was enforced stays, and its pods' folders come and go all the same.
    const stays =
      rest?.attempt ?? (over.length === 0 || this.#enforced === null ? wanted : this.#attempt(this.#enforced));
    this.#clashes = JSON.stringify(stays.bound.problems);
    const closed = overfullProblems(this.#enforcement.compiled?.overfull ?? []);
    const beyond = [...stays.bound.problems, ...refused, ...(rest?.left ?? []), ...closed];
    const placed = beyond.map((one) => ({ ...one, ...this.#places.get(one.object ?? '') }));
    const own = checkNodeName(snapshot, this.#options.nodeName);
    this.#refused = refused;
    this.#telling.update([...this.#contentProblems, ...own, ...placed]);
    this.#settle(stays, heardMs);
    this.#tellStanding();
    void this.#finish();
  }

  /**
   * What the change left behind may be given back only when no program uses it any more, some 10 ms later. Until then changes are
   * collected: what they would write could be where a program still reads.
   */
  async #finish(): Promise<void> {
    this.#isFinishing = true;
    const leftover = await this.#enforcement.finished();
    this.#isFinishing = false;
    if (this.#isStopped) return;
    if (leftover !== null) this.#log.warn({ event: 'leftover', error: String(leftover) });
    this.#tellLedger();
    const heldMs = this.#heldMs;
    this.#heldMs = null;
    if (heldMs !== null) this.#enforce(heldMs);
  }

  /**
   * Programs are attached, and by a mistyped node name every pod here would be another node's, hence unknown and refused: until
   * there is such a Node, pods that were here go on. A Node that vanishes later changes nothing of what is held.
   */
  #waitsForNode(snapshot: Snapshot): boolean {
    if (this.#options.attach !== 'at_once' || this.#enforced !== null) return false;
    const [unknown] = checkNodeName(snapshot, this.#options.nodeName);
    const text = unknown === undefined ? '' : `a Node ${this.#options.nodeName}; ${unknown.advice}`;
    if (text !== '' && text !== this.#waitingFor) this.#log.warn({ event: 'waiting', for: text });
    this.#waitingFor = text;
    return unknown !== undefined;
  }

  #attempt(snapshot: Snapshot): Attempt {
    const bound = this.#bind(snapshot);
    const own = this.#standingGround().ownBeside(bound.bindings);
    const local = this.#here.bindable.of(snapshot.pods);
    this.#guarding?.letGo(bound.bindings);
    const outcome = this.#enforcement.enforce(snapshot, bound.bindings, own, local, (overfull) =>
      blamed(overfull, this.#enforced),
    );
    return { snapshot, bound, outcome };
  }

  /**
   * All but the policies that go over a limit: a node must be neither open nor without news of all others because of one.
   * null: no policy is to blame, or none alone.
   */
  #attemptRest(snapshot: Snapshot, over: readonly Problem[]): { attempt: Attempt; left: readonly Problem[] } | null {
    const left = new Map<string | null, Problem>();
    let rest = lessened(snapshot, this.#enforced, over);
    while (rest !== null) {
      for (const problem of rest.problems) left.set(problem.object, problem);
      const attempt = this.#attempt(rest.snapshot);
      if (attempt.outcome.status !== 'refused') return { attempt, left: [...left.values()] };
      rest = lessened(rest.snapshot, this.#enforced, attempt.outcome.problems);
    }
    return null;
  }

  #tellLeftOut(left: readonly Problem[]): void {
    const policies = left.map(({ object }) => object ?? '').sort();
    const text = policies.join();
    if (text !== '' && text !== this.#leftOut) {
      this.#log.error(
        { event: 'left_out', policies: names(policies) },
        'over a limit: what these say now is not enforced, all the rest is',
      );
    }
    this.#leftOut = text;
  }

  #settle({ snapshot, bound, outcome }: Attempt, heardMs: number): void {
    if (outcome.status === 'refused') {
      if (!this.#isAttached) this.#onReady(new StartError(outcome.problems));
      return;
    }
    this.#isFailing = outcome.status === 'failed';
    if (outcome.status === 'failed') {
      const { code, message } = outcome.error;
      this.#log.error({ event: 'apply_failed', code, retryMs: RETRY_MS }, message);
      if (!this.#isAttached) this.#onReady(outcome.error);
      this.#retry = setTimeout(() => this.#enforce(performance.now()), RETRY_MS);
      return;
    }
    if (outcome.leftover !== null) this.#log.warn({ event: 'leftover', error: String(outcome.leftover) });
    const before = this.#enforced;
    this.#bindings = bound.bindings;
    this.#enforced = snapshot;
    this.#telling.name(snapshot);
    this.#here.all.of(snapshot.pods);
    this.#save();
    const ms = performance.now() - heardMs;
    const { changed, bound: added, unbound, written } = outcome;
    const isChanged = written + changed.length + added.length + unbound.length > 0;
    if (isChanged) this.#metrics.observeApply(ms / 1000);
    if (!this.#isReady) {
      this.#begin();
      this.#guard();
      return;
    }
    this.#guard();
    for (const name of added) {
      this.#metrics.observePod('cgroup', ms / 1000);
      const binding = this.#bindings.get(name);
      const seenMs = binding === undefined ? null : this.#ground?.seenMs(binding);
      if (seenMs) this.#metrics.observeUnknown((performance.now() - seenMs) / 1000);
    }
    if (before !== null && before !== snapshot) {
      for (const _ of arrivals(before.pods, snapshot.pods)) this.#metrics.observePod('address', ms / 1000);
    }
    if (!isChanged) return;
    this.#log.info({
      event: 'applied',
      ms: Math.round(ms * 10) / 10,
      workloads: this.#bindings.size,
      policies: snapshot.policies.length,
      changed: names(changed),
      bound: names(added),
      unbound: names(unbound),
      written,
    });
  }

  /** The first snapshot is in the kernel. */
  #begin(): void {
    try {
      if (!this.#isAttached) this.#attach();
    } catch (error) {
      if (!(error instanceof KernelError || error instanceof PinError)) throw error;
      this.#failToAttach(error);
      return;
    }
    this.#isReady = true;
    this.#hasBegun = true;
    this.#log.info({
      event: 'ready',
      workloads: this.#bindings.size,
      policies: this.#snapshot?.policies.length ?? 0,
      problems: this.#telling.problems.length,
      metrics: this.#server?.url,
      root: this.#standingGround().folder,
    });
    this.#onReady(null);
  }

  #tellStanding(): void {
    const { compiled } = this.#enforcement;
    if (compiled === null || this.#snapshot === null || this.#enforced === null) return;
    this.#options.hooks?.onApplied?.({
      wanted: this.#snapshot,
      enforced: this.#enforced,
      compiled,
      bindings: this.#bindings,
      refused: this.#refused,
      problems: this.#telling.problems,
    });
  }

  #save(): void {
    try {
      this.#source.save?.();
    } catch (error) {
      // Enforcement doesn't depend on it; it is tried again at the next change.
      this.#log.error({ event: 'state_not_saved', error: error instanceof Error ? error.message : String(error) });
    }
  }

  #tellLedger(): void {
    const failure = this.#enforcement.ledgerFailure;
    const text = failure === null ? '' : failure instanceof Error ? failure.message : String(failure);
    if (text !== '' && text !== this.#unledgered) {
      this.#log.error(
        { event: 'counters_not_saved', error: text },
        'counters go on, but some would begin lower if another agent took over now; tried again at the next change',
      );
    }
    this.#unledgered = text;
  }

  #onHappening({ refusal, stranger, cut }: Happening): void {
    if (refusal !== null) {
      const cgroup = stranger === null ? null : (this.#ground?.folderOf(stranger) ?? null);
      this.#telling.refuse({ ...refusal, cgroup });
    }
    if (cut === null) return;
    const binding = this.#bindings.get(cut.workload);
    const folder = path.join(this.#options.root.mount, binding?.path ?? this.#ground?.root ?? '');
    try {
      if (!this.#cutter.cut(cut.flow, folder)) this.#cutter.forget();
    } catch (error) {
      this.#log.warn({
        event: 'cut_failed',
        workload: cut.workload,
        error: error instanceof Error ? error.message : String(error),
      });
    }
  }

  #states(): ReadonlyMap<string, number> {
    const states = new Map([
      ['enforced', 0],
      ['open', 0],
      ['unbound', 0],
    ]);
    const add = (state: string) => states.set(state, (states.get(state) ?? 0) + 1);
    for (const pod of this.#snapshot === null ? [] : this.#here.all.of(this.#snapshot.pods)) {
      if (pod.ended) continue;
      const name = `${pod.namespace}/${pod.name}`;
      if (!this.#bindings.has(name)) add('unbound');
      else add(this.#enforcement.hasPolicy(name) ? 'enforced' : 'open');
    }
    return states;
  }
}

/** The first snapshot goes over a limit, by no policy that could be left out, and there is nothing enforced that could stay. */
export class StartError extends Error {
  override readonly name = 'StartError';
  readonly code = 'REFUSED';
  readonly problems: readonly Problem[];
  constructor(problems: readonly Problem[]) {
    super(
      `what the source holds cannot be enforced: ${problems.map((one) => `${one.object ?? 'all'}: ${one.message}`).join('; ')}`,
    );
    this.problems = problems;
  }
}

function isoTime(ms: number | null): string | null {
  return ms === null ? null : new Date(ms).toISOString();
}

const NOBODY: Bindings = new Map();

/** Nobody is held to anything. */
const NOTHING: Snapshot = {
  ...{ namespaces: [], nodes: [], pods: [], services: [], endpointSlices: [], policies: [] },
  host: { node: null, addresses: [], resolvers: [] },
};

function equalBindings(a: Bindings, b: Bindings): boolean {
  return (
    a.size === b.size &&
    [...a].every(([name, one]) => b.get(name)?.cgroup === one.cgroup && b.get(name)?.path === one.path)
  );
}
