// SPDX-License-Identifier: Apache-2.0
// The agent: holds the kernel to what a source of objects says, and tells what it refuses. Read this and you know the program.
// Everything runs on one thread: a change is heard, compiled, applied and told before the next is looked at.
import path from 'node:path';
import type { Logger } from 'pino';
import { type Binding, type Bindings, type Bound, bind, levelOf } from '../bind/binding.ts';
import { Cgroups } from '../bind/cgroups.ts';
import { ownCgroup, type PodFolder, podFolderAround } from '../bind/own.ts';
import { awaitRoot, type RootSearch } from '../bind/root.ts';
import type { RollbackFailed } from '../kernel/errors.ts';
import { KernelError, type Native } from '../kernel/native.ts';
import { Metrics } from '../metrics/metrics.ts';
import { type ListenAddress, type MetricsServer, serveMetrics } from '../metrics/server.ts';
import { addressKey } from '../model/address.ts';
import type { Pod, Problem, Snapshot } from '../model/objects.ts';
import type { AddressKey } from '../model/tables.ts';
import { policyName } from '../resolve/order.ts';
import { unitSelections } from '../resolve/units.ts';
import type { ObjectSource } from '../source/source.ts';
import type { Contents, Place } from '../source/store.ts';
import { destinations } from '../tell/destination.ts';
import type { Refusal } from '../tell/refusal.ts';
import { Repeats } from '../tell/repeats.ts';
import { workloadName } from '../tell/workload.ts';
import { arrivals } from './arrivals.ts';
import { FlowCutter } from './cut.ts';
import { Enforcement, type Happening, type Outcome } from './enforcement.ts';
import type { AgentHooks } from './hooks.ts';
import type { AgentLog } from './log.ts';
import { type NodePolicies, nodePolicies } from './node-policies.ts';
import { ProblemLog } from './problem-log.ts';
import { type AgentSocket, serveSocket } from './socket.ts';
import { type SourceEvent, SourceLog } from './source-log.ts';
import { Watchdog } from './watchdog.ts';

export interface AgentOptions {
  /** Where everything is enforced; waited for where it is not there. */
  readonly root: RootSearch;
  readonly metrics: ListenAddress;
  /** Where `postern policies` asks; null: nowhere. */
  readonly socket: string | null;
  /** What processes may do that belong to no pod of this node. */
  readonly unknown: 'allow' | 'deny';
  /** Pods that a NetworkPolicy holds may reach their own node. */
  readonly ownNode: boolean;
  readonly nodeName: string | null;
  /** Whether a pod that no node is named for may be here. */
  readonly unscheduled: 'here' | 'elsewhere';
  /**
   * When programs are attached: once the first snapshot is enforced, and a snapshot that cannot be ends the agent; or at once,
   * with the pods that exist then unconfined until there is a snapshot, so that no later pod sends a packet unjudged.
   */
  readonly attach: 'enforced' | 'at_once';
  readonly hooks?: AgentHooks;
}

/** Where everything is enforced, and what hangs on that. */
interface Ground {
  /** Path of the root below the mount. */
  readonly root: string;
  readonly id: bigint;
  readonly cgroups: Cgroups;
  /** The cgroup of this process, below the mount; null: not below it. */
  readonly self: string | null;
  /** The same, or the whole pod's around it: bound without a policy, whatever selects it. null: it is not below the root. */
  readonly own: Binding | null;
  readonly ownPod: PodFolder | null;
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
/** Names in one log line. */
const MAX_NAMES = 20;

export class Agent {
  readonly #options: AgentOptions;
  readonly #source: ObjectSource;
  readonly #native: Native;
  readonly #out: AgentLog;
  readonly #log: Logger;
  readonly #enforcement: Enforcement;
  readonly #cutter: FlowCutter;
  readonly #problems: ProblemLog;
  readonly #sourceLog: SourceLog;
  readonly #drops: Repeats;
  readonly #metrics: Metrics;
  readonly #watchdog = new Watchdog();
  readonly #end = new AbortController();
  #server: MetricsServer | null = null;
  #socket: AgentSocket | null = null;
  #ground: Ground | null = null;
  /** What the source says now. */
  #snapshot: Snapshot | null = null;
  /** What the kernel is held to: an older one where the newest was refused. */
  #enforced: Snapshot | null = null;
  #refused: readonly Problem[] = [];
  #contentProblems: readonly Problem[] = [];
  #places: ReadonlyMap<string, Place> = new Map();
  #bindings: Bindings = new Map();
  /** Of what is enforced; made when first asked for. */
  #names: ReadonlyMap<AddressKey, string> | null = null;
  /** Problems of the last binding, to know when they change. */
  #clashes = '';
  #isFullTold = false;
  #retry: NodeJS.Timeout | null = null;
  #look: NodeJS.Timeout | null = null;
  #onReady: (result: StartError | KernelError | RollbackFailed | null) => void = () => undefined;
  #isAttached = false;
  #isReady = false;
  #isFailing = false;
  #isStopped = false;

  /** Loads the programs; attaches nothing yet. Throws KernelError. */
  constructor(options: AgentOptions, source: ObjectSource, native: Native, out: AgentLog) {
    this.#options = options;
    this.#source = source;
    this.#native = native;
    this.#out = out;
    this.#log = out.log;
    this.#enforcement = new Enforcement(native, {
      unknown: options.unknown,
      ownNode: options.ownNode,
      isLocal: (pod) => this.#isHere(pod) && (pod.cgroup !== null || pod.uid !== null),
    });
    this.#cutter = new FlowCutter(native);
    this.#problems = new ProblemLog((event, problem) => this.#tellProblem(event, problem));
    this.#sourceLog = new SourceLog((event) => this.#tellSource(event));
    this.#drops = new Repeats(
      (refusal, count) => this.#tellRefusal(refusal, count),
      (count) =>
        this.#log.warn({ event: 'drops_not_told', count }, 'more kinds of drops than are told; the metrics count them'),
    );
    this.#metrics = new Metrics({
      counts: () => this.#enforcement.counts(),
      losses: () => new Map([...this.#enforcement.losses(), ['log', this.#out.lost()]]),
      maps: () => this.#enforcement.maps(),
      problems: () => {
        const error = this.#problems.problems.filter((one) => one.severity === 'error').length;
        return { error, warning: this.#problems.problems.length - error };
      },
      workloads: () => this.#states(),
      source: () => source.status(),
      loopDelayMs: () => this.#watchdog.takeLongestMs(),
    });
  }

  /**
   * Enforces what the source says, in an order that leaves no gap: everything is in the kernel before a program is attached.
   * Resolves once it is so, however long the root or the source keep it waiting; never after `stop`. Rejects with KernelError,
   * ListenError, SocketError, what the source's `start` rejects with, or StartError where the first snapshot is refused and nothing is
   * attached yet.
   */
  async start(): Promise<void> {
    this.#server = await serveMetrics(this.#options.metrics, this.#metrics.registry, {
      isReady: () => this.#isReady && !this.#isFailing,
      isAlive: () => this.#watchdog.isAlive(),
    });
    if (this.#options.socket !== null) {
      this.#socket = await serveSocket(this.#options.socket, { '/policies': () => this.policies() });
    }
    await this.#settleDown();
    this.#enforcement.onHappening((happening) => this.#onHappening(happening));
    if (this.#options.attach === 'at_once') this.#holdNewPods();
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

  /** Detaches: in this version nothing is enforced once the agent is gone. */
  async stop(): Promise<void> {
    if (this.#isStopped) return;
    this.#isStopped = true;
    this.#end.abort();
    this.#watchdog.stop();
    if (this.#retry !== null) clearTimeout(this.#retry);
    if (this.#look !== null) clearInterval(this.#look);
    this.#ground?.cgroups.close();
    this.#enforcement.detach();
    this.#enforcement.drain();
    this.#drops.flush();
    this.#enforcement.close();
    await this.#sayGoodbye();
    await this.#source.stop();
    await this.#socket?.close();
    await this.#server?.close();
    if (!this.#isReady) return;
    this.#log.info(
      { event: 'stopped' },
      'detached: nothing is enforced any more, since enforcement ends with the agent',
    );
    await this.#out.flush();
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

  /** Which policies select which workloads of this node, now. */
  policies(): NodePolicies {
    return nodePolicies({
      node: this.#options.nodeName,
      wanted: this.#snapshot,
      enforced: this.#isReady ? this.#enforced : null,
      bindings: this.#bindings,
      problems: this.#problems.problems,
      refused: this.#refused,
      isHere: (pod) => this.#isHere(pod),
    });
  }

  /** Finds the root, or waits for it, and looks at what is below. Never resolves after `stop`. */
  async #settleDown(): Promise<void> {
    const { root: search } = this.#options;
    if (search.find() === null) this.#log.info({ event: 'waiting', for: search.what });
    for (;;) {
      const root = await awaitRoot(search, this.#end.signal);
      const id = idOf(this.#native, path.join(search.mount, root));
      // Gone again between two looks.
      if (id === null) continue;
      const cgroups = new Cgroups({ mount: search.mount, root, idOf: (one) => this.#native.cgroupId(one) });
      this.#ground = { root, id, cgroups, ...this.#ownPlace(root) };
      cgroups.start(() => this.#onCgroups());
      return;
    }
  }

  /** Where this process is, so that no policy and no change of the unknowns' lot can cut it off from what feeds it. */
  #ownPlace(root: string): Pick<Ground, 'self' | 'own' | 'ownPod'> {
    const { mount } = this.#options.root;
    const self = ownCgroup(mount);
    const isInside = self !== null && (root === '' ? self !== '' : self.startsWith(`${root}/`));
    if (!isInside) return { self, own: null, ownPod: null };
    const ownPod = podFolderAround(self);
    const below = ownPod?.path ?? self;
    const own = { path: below, cgroup: this.#native.cgroupId(path.join(mount, below)), level: levelOf(below) };
    return { self, own, ownPod };
  }

  /** Attaches before there is a snapshot: pods that are there go on, and whatever comes later is unknown until it is known. */
  #holdNewPods(): void {
    const { cgroups, own } = this.#standingGround();
    const bindings = new Map(
      cgroups
        .pods()
        .filter(({ folder }) => folder.id !== own?.cgroup)
        .map(({ uid, folder }) => [
          `existing pod ${uid}`,
          { path: folder.path, cgroup: folder.id, level: levelOf(folder.path) },
        ]),
    );
    const outcome = this.#enforcement.enforce(NOTHING, bindings, own);
    if (outcome.status === 'failed') throw outcome.error;
    this.#attach();
    this.#log.info({ event: 'attached', existing: bindings.size });
  }

  #attach(): void {
    const { root } = this.#standingGround();
    this.#enforcement.attach(path.join(this.#options.root.mount, root));
    this.#isAttached = true;
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
    this.#sourceLog.update(this.#source.status());
    const ground = this.#ground;
    if (ground === null || ground.root === '') return;
    const { mount, find } = this.#options.root;
    const isThere = idOf(this.#native, path.join(mount, ground.root)) === ground.id;
    // Kubelet with another driver makes another root, and leaves the old one behind.
    if (!isThere || (find() ?? ground.root) !== ground.root) void this.#moveOn(ground);
  }

  /** The root is another now, and nothing is attached to it: begins again there, with what is known. */
  async #moveOn(gone: Ground): Promise<void> {
    this.#log.warn({ event: 'root_gone', root: path.join(this.#options.root.mount, gone.root) });
    gone.cgroups.close();
    this.#ground = null;
    this.#isAttached = false;
    this.#isReady = false;
    this.#enforcement.detach();
    await this.#settleDown();
    try {
      if (this.#snapshot !== null) this.#enforce(performance.now());
      else if (this.#options.attach === 'at_once') this.#holdNewPods();
    } catch (error) {
      if (!(error instanceof KernelError)) throw error;
      this.#failToAttach(error);
    }
  }

  /** Most likely the root has gone again: the next look begins anew. At the start, that is the end. */
  #failToAttach(error: KernelError): void {
    this.#log.error({ event: 'attach_failed', code: error.code, retryMs: LOOK_MS }, error.message);
    if (this.#ground !== null) this.#ground = { ...this.#ground, id: NO_CGROUP };
    this.#onReady(error);
  }

  /** Folders come and go by the hundred that are no pod's; only a change of whom they hold is worth asking the kernel. */
  #onCgroups(): void {
    const snapshot = this.#enforced;
    if (this.#isStopped || snapshot === null) return;
    const heardMs = performance.now();
    if (this.#ground?.cgroups.isFull && !this.#isFullTold) {
      this.#isFullTold = true;
      this.#log.warn(
        { event: 'watches_exhausted' },
        'too many cgroups to watch: new ones are found by a scan every ten seconds',
      );
    }
    const { bindings, problems } = this.#bind(snapshot);
    const isSame = equalBindings(bindings, this.#bindings) && JSON.stringify(problems) === this.#clashes;
    if (!isSame) this.#enforce(heardMs);
  }

  /** Pods of other nodes are peers; so is the agent's own, which is held by nothing. */
  #isHere(pod: Pod): boolean {
    const { nodeName, unscheduled } = this.#options;
    if (pod.cgroup === null && pod.uid !== null && pod.uid === this.#ground?.ownPod?.uid) return false;
    return nodeName === null || pod.node === nodeName || (pod.node === null && unscheduled === 'here');
  }

  #bind(snapshot: Snapshot): Bound {
    const { cgroups, root, self } = this.#standingGround();
    const here = snapshot.pods.filter((pod) => this.#isHere(pod));
    const selected = new Map([...unitSelections(snapshot)].map(([unit, { shadow }]) => [unit, shadow.map(policyName)]));
    return bind(here, cgroups, root, this.#bindings, { selected, own: self ?? '' });
  }

  /** Brings the kernel to what the source and the folders say now. */
  #enforce(heardMs: number): void {
    const snapshot = this.#snapshot;
    // While the root is away there is nobody to hold; it begins anew when that is there.
    if (snapshot === null || this.#isStopped || this.#ground === null) return;
    if (this.#retry !== null) clearTimeout(this.#retry);
    this.#retry = null;
    const wanted = this.#attempt(snapshot);
    const refused = wanted.outcome.status === 'refused' ? wanted.outcome.problems : [];
    // What was enforced stays, and its pods' folders come and go all the same.
    const stays =
      refused.length === 0
        ? wanted
        : this.#enforced === null
          ? (this.#attemptRest(snapshot, refused) ?? wanted)
          : this.#attempt(this.#enforced);
    this.#clashes = JSON.stringify(stays.bound.problems);
    const beyond = [...stays.bound.problems, ...refused];
    const placed = beyond.map((one) => ({ ...one, ...this.#places.get(one.object ?? '') }));
    const own = checkNodeName(snapshot, this.#options.nodeName);
    this.#refused = refused;
    this.#problems.update([...this.#contentProblems, ...own, ...placed]);
    this.#settle(stays, heardMs);
    this.#tellStanding();
  }

  #attempt(snapshot: Snapshot): Attempt {
    const bound = this.#bind(snapshot);
    const outcome = this.#enforcement.enforce(snapshot, bound.bindings, this.#own(bound.bindings));
    return { snapshot, bound, outcome };
  }

  /**
   * At the start there is nothing that could stay, and a node must not be open because one policy goes over a limit: all but
   * that. null: no policy is to blame, or none alone.
   */
  #attemptRest(snapshot: Snapshot, refused: readonly Problem[]): Attempt | null {
    let rest = withoutRulesOf(snapshot, refused);
    while (rest !== null) {
      const attempt = this.#attempt(rest);
      if (attempt.outcome.status !== 'refused') {
        const left = snapshot.policies.filter((policy) => !rest?.policies.includes(policy)).map(policyName);
        this.#log.error(
          { event: 'left_out', policies: names(left) },
          'over a limit, and nothing was enforced that could stay: these allow nothing, the rest is enforced',
        );
        return attempt;
      }
      rest = withoutRulesOf(rest, attempt.outcome.problems);
    }
    return null;
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
    if (before !== snapshot) this.#names = null;
    this.#save();
    const ms = performance.now() - heardMs;
    const { changed, bound: added, unbound, written } = outcome;
    const isChanged = written + changed.length + added.length + unbound.length > 0;
    if (isChanged) this.#metrics.observeApply(ms / 1000);
    if (!this.#isReady) {
      this.#begin();
      return;
    }
    for (const _ of added) this.#metrics.observePod('cgroup', ms / 1000);
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
      if (!(error instanceof KernelError)) throw error;
      this.#failToAttach(error);
      return;
    }
    this.#isReady = true;
    this.#log.info({
      event: 'ready',
      workloads: this.#bindings.size,
      policies: this.#snapshot?.policies.length ?? 0,
      problems: this.#problems.problems.length,
      metrics: this.#server?.url,
      root: path.join(this.#options.root.mount, this.#standingGround().root),
    });
    this.#onReady(null);
  }

  /** Its own place beside these; null where that would hold others too. */
  #own(bindings: Bindings): Binding | null {
    const own = this.#ground?.own ?? null;
    if (own === null) return null;
    const meets = (one: string) => one === own.path || one.startsWith(`${own.path}/`) || own.path.startsWith(`${one}/`);
    return [...bindings.values()].some((one) => meets(one.path)) ? null : own;
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
      problems: this.#problems.problems,
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

  #onHappening({ refusal, cut }: Happening): void {
    if (refusal !== null) this.#drops.add(refusal);
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

  #tellRefusal(refusal: Refusal, count: number): void {
    const { verdict, address, ...rest } = refusal;
    if (this.#enforced !== null) this.#names ??= destinations(this.#enforced);
    const destination = this.#names?.get(addressKey(address) ?? '') ?? null;
    this.#log.info({ event: verdict === 'deny' ? 'drop' : 'audit', ...rest, address, destination, count });
    this.#options.hooks?.onDrop?.(refusal, count, destination);
  }

  #tellSource(told: SourceEvent): void {
    if (told.event === 'waiting') this.#log.info(told);
    else if (told.event === 'source_problem') this.#log.warn({ event: told.event, kind: told.kind }, told.message);
    else this.#log.info({ event: told.event, kind: told.kind }, told.message);
  }

  #tellProblem(event: 'problem' | 'mended', problem: Problem): void {
    this.#options.hooks?.onProblem?.(event, problem);
    const { file, line, column, message, ...rest } = problem;
    const where = file === null ? null : line === 0 ? file : `${file}:${line}:${column}`;
    if (event === 'mended') this.#log.info({ event, ...rest, where }, message);
    else if (problem.severity === 'error') this.#log.error({ event, ...rest, where }, message);
    else this.#log.warn({ event, ...rest, where }, message);
  }

  #states(): ReadonlyMap<string, number> {
    const states = new Map([
      ['enforced', 0],
      ['open', 0],
      ['unbound', 0],
    ]);
    const add = (state: string) => states.set(state, (states.get(state) ?? 0) + 1);
    for (const pod of this.#snapshot?.pods ?? []) {
      if (pod.ended || !this.#isHere(pod)) continue;
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

/** No cgroup has this id. */
const NO_CGROUP = 0n;

/** Nobody is held to anything. */
const NOTHING: Snapshot = {
  ...{ namespaces: [], nodes: [], pods: [], services: [], endpointSlices: [], policies: [] },
  host: { node: null, addresses: [], resolvers: [] },
};

function idOf(native: Native, folder: string): bigint | null {
  try {
    return native.cgroupId(folder);
  } catch {
    return null;
  }
}

/** A mistyped node name makes every pod another node's, and nothing is held. Without any Node in the folder there is nothing to compare. */
function checkNodeName({ nodes }: Snapshot, nodeName: string | null): Problem[] {
  if (nodeName === null || nodes.length === 0 || nodes.some(({ name }) => name === nodeName)) return [];
  const known = names(nodes.map(({ name }) => name)).join(', ');
  return [
    {
      ...{ severity: 'warning', code: 'node_unknown', file: null, line: 0, column: 0, path: '', object: null },
      message: `there is no Node ${nodeName} in the folder: pods of its Nodes are peers, and not held here`,
      advice: `start the agent with --node-name ${nodes.length === 1 ? known : `and one of ${known}`}, or add the Node`,
    },
  ];
}

/** Less the policies that the problems name: a Limit is gone, any other isolates as before and allows nothing. null: none is left to lessen. */
function withoutRulesOf(snapshot: Snapshot, problems: readonly Problem[]): Snapshot | null {
  const named = new Set(problems.map(({ object }) => object));
  const policies = snapshot.policies.flatMap((policy) => {
    if (!named.has(policyName(policy))) return [policy];
    return policy.effect === 'Limit' ? [] : [policy.rules.length === 0 ? policy : { ...policy, rules: [] }];
  });
  const isSame =
    policies.length === snapshot.policies.length && policies.every((one) => snapshot.policies.includes(one));
  return isSame ? null : { ...snapshot, policies };
}

function equalBindings(a: Bindings, b: Bindings): boolean {
  return (
    a.size === b.size &&
    [...a].every(([name, one]) => b.get(name)?.cgroup === one.cgroup && b.get(name)?.path === one.path)
  );
}

function names(all: readonly string[]): readonly string[] {
  const told = all.slice(0, MAX_NAMES).map(workloadName);
  return all.length <= MAX_NAMES ? told : [...told, `and ${all.length - MAX_NAMES} more`];
}
