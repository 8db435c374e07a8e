// SPDX-License-Identifier: Apache-2.0
// The agent: holds the kernel to what a folder says, and tells what it refuses. Read this and you know the program.
// Everything runs on one thread: a change is heard, compiled, applied and told before the next is looked at.
import path from 'node:path';
import type { Logger } from 'pino';
import { type Bindings, type Bound, bind, levelOf } from '../bind/binding.ts';
import { Cgroups } from '../bind/cgroups.ts';
import { cgroupOf } from '../bind/mount.ts';
import type { Native } from '../kernel/native.ts';
import { Metrics } from '../metrics/metrics.ts';
import { type ListenAddress, type MetricsServer, serveMetrics } from '../metrics/server.ts';
import { addressKey } from '../model/address.ts';
import type { Host, Pod, Problem, Snapshot } from '../model/objects.ts';
import type { AddressKey } from '../model/tables.ts';
import { policyName } from '../resolve/order.ts';
import { Folder, FolderWatch, type Scan } from '../source/folder.ts';
import { readHost } from '../source/host.ts';
import { StateDir } from '../source/state.ts';
import { ObjectStore, type Place } from '../source/store.ts';
import { destinations } from '../tell/destination.ts';
import type { Refusal } from '../tell/refusal.ts';
import { Repeats } from '../tell/repeats.ts';
import { FlowCutter } from './cut.ts';
import { Enforcement, type Happening, type Outcome } from './enforcement.ts';
import type { AgentLog } from './log.ts';
import { ProblemLog } from './problem-log.ts';

export interface AgentOptions {
  /** The folder of objects, absolute. */
  readonly policies: string;
  /** The cgroup2 mount. */
  readonly mount: string;
  /** What is enforced, below the mount; '' is all of it. */
  readonly root: string;
  readonly metrics: ListenAddress;
  readonly unknown: 'allow' | 'deny';
  readonly stateDir: string;
  readonly nodeName: string | null;
}

interface Attempt {
  readonly snapshot: Snapshot;
  readonly bound: Bound;
  readonly outcome: Outcome;
}

/** A change that the kernel did not take is tried again after so long, if nothing else changes before. */
const RETRY_MS = 5000;
/** Names in one log line. */
const MAX_NAMES = 20;

export class Agent {
  readonly #options: AgentOptions;
  readonly #native: Native;
  readonly #out: AgentLog;
  readonly #log: Logger;
  readonly #store: ObjectStore;
  readonly #state: StateDir;
  readonly #watch: FolderWatch;
  readonly #cgroups: Cgroups;
  readonly #enforcement: Enforcement;
  readonly #cutter: FlowCutter;
  readonly #problems: ProblemLog;
  readonly #drops: Repeats;
  readonly #metrics: Metrics;
  #server: MetricsServer | null = null;
  #scan: Scan | null = null;
  #host: Host;
  /** What the folder holds now. */
  #snapshot: Snapshot | null = null;
  /** What the kernel is held to: an older one where the newest was refused. */
  #enforced: Snapshot | null = null;
  #contentProblems: readonly Problem[] = [];
  #places: ReadonlyMap<string, Place> = new Map();
  #bindings: Bindings = new Map();
  #names: ReadonlyMap<AddressKey, string> = new Map();
  /** Problems of the last binding, to know when they change. */
  #clashes = '';
  #isFullTold = false;
  #retry: NodeJS.Timeout | null = null;
  #isReady = false;
  #isStopped = false;

  /** Loads the programs; attaches nothing yet. Throws KernelError, StateError. */
  constructor(options: AgentOptions, native: Native, out: AgentLog) {
    this.#options = options;
    this.#native = native;
    this.#out = out;
    this.#log = out.log;
    this.#state = new StateDir(options.stateDir);
    const { kept, failures } = this.#state.read();
    for (const failure of failures)
      this.#log.warn({ event: 'state_lost', path: failure.path, code: failure.code }, failure.message);
    this.#store = new ObjectStore(this.#state, kept);
    this.#host = readHost(options.nodeName);
    this.#watch = new FolderWatch(new Folder(options.policies), (scan, heardMs) => this.#onScan(scan, heardMs));
    this.#cgroups = new Cgroups({
      mount: options.mount,
      root: options.root,
      idOf: (folder) => native.cgroupId(folder),
    });
    this.#enforcement = new Enforcement(native, {
      unknown: options.unknown,
      isLocal: (pod) => isHere(pod, options.nodeName) && (pod.cgroup !== null || pod.uid !== null),
    });
    this.#cutter = new FlowCutter(native);
    this.#problems = new ProblemLog((event, problem) => this.#tellProblem(event, problem));
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
    });
  }

  /**
   * Enforces what the folder holds, in an order that leaves no gap: everything is in the kernel before a program is attached.
   * Resolves once it is so. Rejects with KernelError, ListenError, or StartError where nothing of the first snapshot can be
   * enforced.
   */
  async start(): Promise<void> {
    this.#server = await serveMetrics(this.#options.metrics, this.#metrics.registry, () => this.#isReady);
    const heardMs = performance.now();
    this.#take(this.#watch.start());
    this.#cgroups.start(() => this.#onCgroups());
    this.#enforcement.onHappening((happening) => this.#onHappening(happening));
    const refusal = this.#enforce(heardMs);
    if (refusal !== null && this.#enforced === null) throw new StartError(refusal);
    this.#enforcement.attach(path.join(this.#options.mount, this.#options.root));
    this.#isReady = true;
    this.#log.info({
      event: 'ready',
      workloads: this.#bindings.size,
      policies: this.#snapshot?.policies.length ?? 0,
      problems: this.#problems.problems.length,
      metrics: this.#server.url,
      root: path.join(this.#options.mount, this.#options.root),
    });
  }

  /** Detaches: in this version nothing is enforced once the agent is gone. */
  async stop(): Promise<void> {
    if (this.#isStopped) return;
    this.#isStopped = true;
    if (this.#retry !== null) clearTimeout(this.#retry);
    this.#watch.close();
    this.#cgroups.close();
    this.#enforcement.detach();
    this.#enforcement.drain();
    this.#drops.flush();
    this.#enforcement.close();
    await this.#server?.close();
    if (!this.#isReady) return;
    this.#log.info(
      { event: 'stopped' },
      'detached: nothing is enforced any more, since enforcement ends with the agent',
    );
    await this.#out.flush();
  }

  #onScan(scan: Scan, heardMs: number): void {
    if (this.#take(scan)) this.#enforce(heardMs);
  }

  /** Folders come and go by the hundred that are no pod's; only a change of whom they hold is worth asking the kernel. */
  #onCgroups(): void {
    const snapshot = this.#enforced;
    if (this.#isStopped || snapshot === null) return;
    const heardMs = performance.now();
    if (this.#cgroups.isFull && !this.#isFullTold) {
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

  #bind(snapshot: Snapshot): Bound {
    const here = snapshot.pods.filter((pod) => isHere(pod, this.#options.nodeName));
    return bind(here, this.#cgroups, this.#options.root, this.#bindings);
  }

  /** Reads a scan into a snapshot. False: nothing in it is new. */
  #take(scan: Scan): boolean {
    const host = readHost(this.#options.nodeName);
    const isSame =
      this.#scan !== null && equalScans(this.#scan, scan) && JSON.stringify(host) === JSON.stringify(this.#host);
    if (isSame) return false;
    this.#scan = scan;
    this.#host = host;
    const { snapshot, problems, places } = this.#store.update(scan, host);
    this.#places = places;
    this.#snapshot = snapshot;
    this.#contentProblems = problems;
    return true;
  }

  /** Brings the kernel to what the snapshot and the folders say now. Gives what refuses it, or null. */
  #enforce(heardMs: number): readonly Problem[] | null {
    const snapshot = this.#snapshot;
    if (snapshot === null || this.#isStopped) return null;
    if (this.#retry !== null) clearTimeout(this.#retry);
    this.#retry = null;
    const wanted = this.#attempt(snapshot);
    const refused = wanted.outcome.status === 'refused' ? wanted.outcome.problems : null;
    // What was enforced stays, and its pods' folders come and go all the same.
    const stays =
      refused === null
        ? wanted
        : this.#enforced === null
          ? (this.#attemptRest(snapshot, refused) ?? wanted)
          : this.#attempt(this.#enforced);
    this.#clashes = JSON.stringify(stays.bound.problems);
    const beyond = [...stays.bound.problems, ...(refused ?? [])];
    const placed = beyond.map((one) => ({ ...one, ...this.#places.get(one.object ?? '') }));
    const own = checkNodeName(snapshot, this.#options.nodeName);
    this.#problems.update([...this.#contentProblems, ...own, ...placed]);
    this.#settle(stays, heardMs);
    return refused;
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
    if (outcome.status === 'refused') return;
    if (outcome.status === 'failed') {
      const { code, message } = outcome.error;
      this.#log.error({ event: 'apply_failed', code, retryMs: RETRY_MS }, message);
      if (!this.#isReady) throw outcome.error;
      this.#retry = setTimeout(() => this.#enforce(performance.now()), RETRY_MS);
      return;
    }
    if (outcome.leftover !== null) this.#log.warn({ event: 'leftover', error: String(outcome.leftover) });
    this.#bindings = bound.bindings;
    if (this.#enforced !== snapshot) {
      this.#enforced = snapshot;
      this.#names = destinations(snapshot);
    }
    this.#save();
    const { changed, bound: added, unbound, written } = outcome;
    if (written + changed.length + added.length + unbound.length === 0) return;
    const ms = performance.now() - heardMs;
    this.#metrics.observeApply(ms / 1000);
    if (!this.#isReady) return;
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

  /** The agent's own cgroup, so that no change of the unknowns' lot can cut it off; null where that would hold others too. */
  #own(bindings: Bindings): { readonly path: string; readonly cgroup: bigint; readonly level: number } | null {
    const own = (cgroupOf('self') ?? '/').replace(/^\/+/, '');
    const { root, mount } = this.#options;
    const isInside = root === '' ? own !== '' : own.startsWith(`${root}/`);
    const meets = (one: string) => one === own || one.startsWith(`${own}/`) || own.startsWith(`${one}/`);
    if (!isInside || [...bindings.values()].some((one) => meets(one.path))) return null;
    try {
      return { path: own, cgroup: this.#native.cgroupId(path.join(mount, own)), level: levelOf(own) };
    } catch {
      // In a cgroup namespace of its own: its folder has another name here. It is unknown, like any other process.
      return null;
    }
  }

  #save(): void {
    try {
      this.#store.save();
    } catch (error) {
      // Enforcement doesn't depend on it; it is tried again at the next change.
      this.#log.error({ event: 'state_not_saved', error: error instanceof Error ? error.message : String(error) });
    }
  }

  #onHappening({ refusal, cut }: Happening): void {
    if (refusal !== null) this.#drops.add(refusal);
    if (cut === null) return;
    const binding = this.#bindings.get(cut.workload);
    const folder = path.join(this.#options.mount, binding?.path ?? this.#options.root);
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
    const destination = this.#names.get(addressKey(address) ?? '') ?? null;
    this.#log.info({ event: verdict === 'deny' ? 'drop' : 'audit', ...rest, address, destination, count });
  }

  #tellProblem(event: 'problem' | 'mended', problem: Problem): void {
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
      `what the folder holds cannot be enforced: ${problems.map((one) => `${one.object ?? 'all'}: ${one.message}`).join('; ')}`,
    );
    this.problems = problems;
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

/** Pods of other nodes are peers; a pod without a node, or an agent without a name, may be here. */
function isHere(pod: Pod, nodeName: string | null): boolean {
  return nodeName === null || pod.node === null || pod.node === nodeName;
}

function equalBindings(a: Bindings, b: Bindings): boolean {
  return (
    a.size === b.size &&
    [...a].every(([name, one]) => b.get(name)?.cgroup === one.cgroup && b.get(name)?.path === one.path)
  );
}

function equalScans(a: Scan, b: Scan): boolean {
  return (
    a.files.length === b.files.length &&
    a.files.every((file, index) => file.path === b.files[index]?.path && file.hash === b.files[index]?.hash) &&
    JSON.stringify([a.unreadable, a.unsettled]) === JSON.stringify([b.unreadable, b.unsettled])
  );
}

function names(all: readonly string[]): readonly string[] {
  return all.length <= MAX_NAMES ? all : [...all.slice(0, MAX_NAMES), `and ${all.length - MAX_NAMES} more`];
}
