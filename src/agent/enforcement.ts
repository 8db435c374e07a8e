// SPDX-License-Identifier: Apache-2.0
// Holds the kernel to a snapshot: compiles, applies, attaches, and reads back what was refused and counted. One for the agent and
// one for `postern run` alike; knows neither files nor how cgroups are found.
import { readFileSync } from 'node:fs';
import { MAX_LIMITS } from '#build/generated/abi.ts';
import type { Binding, Bindings } from '../bind/binding.ts';
import type { Compiled, Options as CompileOptions } from '../compile/compile.ts';
import { largestShares, type Share } from '../compile/largest.ts';
import { limitProblem, type Overfull } from '../compile/overfull.ts';
import { transition } from '../compile/transition.ts';
import { Applier, type ApplierOptions, type QueryBounds } from '../kernel/apply.ts';
import { LimitExceeded, RollbackFailed } from '../kernel/errors.ts';
import { type FlowEvent, readEvent } from '../kernel/events.ts';
import { InterfaceGuards } from '../kernel/guards.ts';
import { type Drift, Installation } from '../kernel/installation.ts';
import { Ledger } from '../kernel/ledger.ts';
import { KernelError, type Native } from '../kernel/native.ts';
import { namespacesHidden } from '../kernel/programs.ts';
import type { Audit } from '../kernel/table.ts';
import type { KernelCount } from '../metrics/metrics.ts';
import { addressText } from '../model/address.ts';
import type { List } from '../model/list-change.ts';
import type { Pod, Problem, Snapshot } from '../model/objects.ts';
import { NO_ID, type Step } from '../model/tables.ts';
import type { Refusal } from '../tell/refusal.ts';
import { workloadName } from '../tell/workload.ts';
import type { CutFlow } from './cut.ts';

export type Outcome =
  | {
      readonly status: 'enforced';
      /** Workloads, by `namespace/name`, whose ruleset is another now. */
      readonly changed: readonly string[];
      readonly bound: readonly string[];
      readonly unbound: readonly string[];
      /** Entries of maps written and deleted. */
      readonly written: number;
      /** What failed after it was enforced (entries left that nothing asks for), or null. */
      readonly leftover: unknown;
    }
  /** A limit: nothing was written. */
  | { readonly status: 'refused'; readonly problems: readonly Problem[] }
  /** The kernel did not take it; what was enforced stays, as far as the kernel let it. */
  | { readonly status: 'failed'; readonly error: KernelError | RollbackFailed };

/** Something that the programs told. */
export interface Happening {
  /** null: not worth telling (it passed). Where an unknown workload runs is not in it yet. */
  readonly refusal: Refusal | null;
  /** cgroup2 id of an unknown workload; null: it is known. */
  readonly stranger: bigint | null;
  /** An established TCP flow that was cut, whose socket should be ended; null: none was. */
  readonly cut: { readonly workload: string; readonly flow: CutFlow } | null;
}

/** Whom the agent's own processes are bound as; a pod's name has a slash. */
const SELF = 'postern';
const EVENTS = 'events';

/** A name that DNS told a workload, and an address to which it led. */
export interface LearnedName {
  readonly workload: string;
  readonly name: string;
  readonly address: string;
  /** From when on it counts no more for new flows; negative: that is so already. */
  readonly expiresInSeconds: number;
}

export interface EnforcementOptions {
  /** What processes may do that are in no bound cgroup. */
  readonly unknown: 'allow' | 'deny';
  /** See `Options` of compile. */
  readonly ownNode?: boolean;
  /** See `ApplierOptions`. */
  readonly dnsMinTtlS?: number;
  readonly queryBounds?: QueryBounds;
  /** Sizes of maps, by name, where the defaults of bpf/abi.h won't do. */
  readonly maxEntries?: Readonly<Record<string, number>>;
  /** Below which folder of bpffs programs and maps are pinned, so that they outlive this process; null, and by default: nowhere. */
  readonly bpffs?: string | null;
  /** Where totals are kept over a takeover; null, and by default: nowhere. The folder is there. */
  readonly stateDir?: string | null;
}

export class Enforcement {
  readonly #stateDir: string | null;
  readonly #compiling: Pick<CompileOptions, 'ownNode'>;
  /** Why the host's own processes cannot be told by their network namespace: unknown ones are denied like any. null: they can. */
  readonly hostHidden: string | null;
  readonly #native: Native;
  #guards: InterfaceGuards;
  readonly #installation: Installation;
  readonly #fixed: ApplierOptions;
  #applier: Applier;
  #compiled: Compiled | null = null;
  #snapshot: Snapshot | null = null;
  #local: List<Pod> = [];
  #bindings: Bindings = new Map();
  #onHappening: (happening: Happening) => void = () => undefined;
  #isReading = false;
  #isClosed = false;

  /** Loads the programs, or takes over what an earlier agent left; attaches nothing yet. Throws KernelError, PinError. */
  constructor(native: Native, options: EnforcementOptions) {
    this.#native = native;
    this.#stateDir = options.stateDir ?? null;
    this.#compiling = { ownNode: options.ownNode ?? false };
    this.#installation = new Installation(native, options.bpffs ?? null, options.maxEntries ?? {});
    try {
      const { hostNetns, hidden } = host(native);
      this.hostHidden = hidden;
      this.#fixed = {
        ...{ unknown: options.unknown, hostNetns },
        ...(options.dnsMinTtlS === undefined ? {} : { dnsMinTtlS: options.dnsMinTtlS }),
        ...(options.queryBounds === undefined ? {} : { queryBounds: options.queryBounds }),
      };
      this.#applier = this.#newApplier();
      this.#guards = new InterfaceGuards(native, this.#installation);
    } catch (error) {
      this.#installation.close();
      throw error;
    }
  }

  #newApplier(): Applier {
    const { object, inheritance, pins } = this.#installation;
    const folder = pins === null ? null : this.#stateDir;
    // Ids of maps are used again after a boot, and so are files.
    const boot = folder === null ? '' : readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
    const ledger = folder === null ? null : new Ledger(folder, `${boot} ${object.mapIds().counters}`);
    return new Applier(object, this.#fixed, inheritance, ledger);
  }

  /** At interfaces. */
  get guards(): InterfaceGuards {
    return this.#guards;
  }

  /** Programs of an earlier agent judge now, by its maps: until `attach`, and whatever becomes of this process. */
  get isTakeover(): boolean {
    return this.#installation.isTakeover;
  }

  /** Cgroups where an earlier agent's programs judge, by id. Throws KernelError, PinError. */
  roots(): bigint[] {
    return this.#installation.roots();
  }

  /** Ids of what an earlier agent, or this one, has pinned. Throws KernelError, PinError. */
  linkIds(): ReadonlySet<number> {
    return new Set(this.#installation.pins?.all().map(({ info }) => info.id));
  }

  /** Where what is attached outlives this process; null: nowhere. */
  get bpffs(): string | null {
    return this.#installation.pins?.path ?? null;
  }

  /** Since when programs have been attached without a gap, in ms since 1970; null: that is not known. Throws KernelError, PinError. */
  sinceMs(): number | null {
    return this.#installation.sinceMs();
  }

  /**
   * All or nothing. `own` is the cgroup of this very process, bound without a policy; `local` the pods that may be bound here, now or
   * later: all others are peers alone; `refuse` says why nothing is to be enforced where more Limits hold workloads than fit (no reason:
   * these are closed), by default always. Every packet that begins after it is judged by it. What it leaves behind goes with `finished`:
   * until that is done, the next change blocks.
   */
  enforce(
    snapshot: Snapshot,
    bindings: Bindings,
    own: Binding | null,
    local: List<Pod> = snapshot.pods,
    refuse: (overfull: readonly Overfull[]) => readonly Problem[] = refuseAll,
  ): Outcome {
    const { steps, compiled } =
      snapshot === this.#snapshot && local === this.#local && this.#compiled !== null
        ? { steps: [again(this.#compiled)], compiled: this.#compiled }
        : transition(this.#compiled, snapshot, { ...this.#compiling, local });
    const errors = [...compiled.problems, ...refuse(compiled.overfull)].filter((one) => one.severity === 'error');
    if (errors.length > 0) return { status: 'refused', problems: errors };

    const places = own === null ? bindings : new Map([...bindings, [SELF, own] as const]);
    let written = 0;
    let leftover: unknown = null;
    try {
      if (this.#compiled === null && this.isTakeover) this.#chooseMaps(steps[0]);
      for (const [index, step] of steps.entries()) {
        try {
          const applied = this.#applier.flip(step, places);
          written += applied.written + applied.deleted;
          leftover ??= applied.leftover;
        } catch (error) {
          // The first step enforces; a later one only takes away what nothing asks for any more, and the next change does so too.
          if (index === 0) throw error;
          leftover = error;
          break;
        }
      }
    } catch (error) {
      if (error instanceof LimitExceeded) {
        const shares = largestShares(error.map, snapshot.policies, compiled.tables);
        return { status: 'refused', problems: [mapProblem(error, shares)] };
      }
      if (error instanceof KernelError || error instanceof RollbackFailed) return { status: 'failed', error };
      throw error;
    }
    const before = this.#bindings;
    const pointers = this.#compiled?.tables.workloads;
    this.#bindings = bindings;
    this.#compiled = compiled;
    this.#snapshot = snapshot;
    this.#local = local;
    return {
      status: 'enforced',
      changed: [...bindings.keys()].filter((name) => {
        const now = compiled.tables.workloads.get(name);
        const then = pointers?.get(name);
        return before.has(name) && (now?.enforced !== then?.enforced || now?.shadow !== then?.shadow);
      }),
      bound: [...bindings].filter(([name, { cgroup }]) => before.get(name)?.cgroup !== cgroup).map(([name]) => name),
      unbound: [...before.keys()].filter((name) => !bindings.has(name)),
      written,
      leftover,
    };
  }

  /** Gives back what the last change left behind; resolves with what failed, else null. Never rejects. */
  finished(): Promise<unknown> {
    return this.#applier.finished();
  }

  /**
   * From here on, whatever is in this cgroup (absolute path) or below it is judged. `pods`: what all pods are below, where more than
   * them is in there. Throws KernelError, PinError.
   */
  attach(cgroup: string, pods: Binding | null = null): void {
    this.#applier.expectPods(pods);
    const { inheritance, isTakeover } = this.#installation;
    this.#installation.attach(cgroup);
    if (isTakeover && inheritance !== null) this.#guards.takeOver(inheritance);
    this.#installation.settle();
    this.#read();
  }

  /** Cookies of the namespaces whose way out is guarded, by cgroup. */
  get guarded(): ReadonlyMap<bigint, bigint> {
    return this.#applier.guarded;
  }

  /** See `Applier.guard`. Throws KernelError. */
  setGuarded(cgroup: bigint, netns: bigint): void {
    if (!this.#isClosed) this.#applier.guard(cgroup, netns);
  }

  /** Is what is attached and pinned as it was left? See `Installation.audit`. Throws KernelError, PinError. */
  audit(mustRepair: boolean): readonly Drift[] {
    return this.#isClosed ? [] : [...this.#installation.audit(mustRepair), ...this.#guards.audit(mustRepair)];
  }

  /** One question for each map: see `Applier.audits`. */
  mapAudits(): readonly Audit[] {
    return this.#isClosed || this.#compiled === null ? [] : [...this.#applier.audits(), ...this.#guards.audits()];
  }

  /** What is attached at the root. Throws KernelError. */
  attached(): ReturnType<Installation['attached']> {
    return this.#isClosed ? [] : this.#installation.attached();
  }

  /** Takes all guards away, which an earlier agent may have put up, until `isOver`: what is left then is the next one's. Rejects with KernelError. */
  async unguard(isOver: () => boolean): Promise<void> {
    for (const [ifindex, { cgroup }] of this.#guards.held) {
      if (isOver()) return;
      this.setGuarded(cgroup, 0n);
      await this.#guards.detach(ifindex);
    }
  }

  /** Nothing is judged any more. */
  detach(): void {
    this.#installation.detach();
  }

  /** In the maps that were taken over, where no packet gets a verdict of neither; else beside them. */
  #chooseMaps(step: Step | undefined): void {
    if (step === undefined || this.#installation.inheritance?.isInPlace !== true || !this.#applier.wantsBeside(step))
      return;
    this.#installation.moveBeside();
    this.#applier = this.#newApplier();
    this.#guards = new InterfaceGuards(this.#native, this.#installation);
  }

  /** Calls back with what the programs tell, from when they are attached until `close`. */
  onHappening(onHappening: (happening: Happening) => void): void {
    this.#onHappening = onHappening;
  }

  /** Whose slot is whose is known by now. */
  #read(): void {
    if (this.#isReading) return;
    this.#installation.object.readEvents(EVENTS, (record) => this.#tell(record));
    this.#isReading = true;
  }

  /** Stops reading, after everything that was told until now was called back. */
  drain(): void {
    if (!this.#isReading) return;
    this.#isReading = false;
    this.#installation.object.stopEvents(EVENTS);
    this.#installation.object.drainEvents(EVENTS, (record) => this.#tell(record));
  }

  /** What is pinned goes on without this process; all else ends. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    if (this.#isReading) this.#installation.object.stopEvents(EVENTS);
    this.#applier.abandon();
    this.#installation.close();
  }

  /** Totals of workloads that are bound now, and of the unknown. Throws KernelError. */
  counts(): readonly KernelCount[] {
    // Of a takeover nobody knows yet which workload has which slot.
    if (this.#isClosed || this.#compiled === null) return [];
    return this.#applier
      .readCounters()
      .filter(({ live }) => live)
      .map(({ workload, verdict, reason, policy, packets, bytes }) => ({
        labels: {
          workload: workload === null ? UNKNOWN : workloadName(workload),
          direction: reason === 'reply' ? 'ingress-reply' : 'egress',
          policy: policy ?? '',
          reason,
        },
        verdict,
        count: { packets: Number(packets), bytes: Number(bytes) },
      }));
  }

  /** See `Applier.ledgerFailure`. */
  get ledgerFailure(): unknown {
    return this.#applier.ledgerFailure;
  }

  /** What DNS told the workloads that are known here. Throws KernelError. */
  names(): readonly LearnedName[] {
    if (this.#isClosed) return [];
    return this.#applier
      .readNames()
      .flatMap(({ workload, name, address, expiresInS }) =>
        workload === null
          ? []
          : [{ workload: workloadName(workload), name, address: addressText(address), expiresInSeconds: expiresInS }],
      );
  }

  /** What the programs could not do, by why; totals. Throws KernelError. */
  losses(): ReadonlyMap<string, number> {
    if (this.#isClosed) return new Map();
    return new Map([...this.#applier.readLosses()].map(([why, count]) => [why, Number(count)]));
  }

  /** Why DNS messages taught nothing, by why; totals. Throws KernelError. */
  untaught(): ReadonlyMap<string, number> {
    if (this.#isClosed) return new Map();
    return new Map([...this.#applier.readUntaught()].map(([why, count]) => [why, Number(count)]));
  }

  maps(): readonly { readonly map: string; readonly entries: number; readonly maxEntries: number }[] {
    return [...this.#applier.fills(), ...this.guards.fills()];
  }

  /** The tables of what is enforced; null before the first. */
  get compiled(): Compiled | null {
    return this.#compiled;
  }

  /** Some policy holds this workload, in Enforce or in Audit. */
  hasPolicy(name: string): boolean {
    const workload = this.#compiled?.tables.workloads.get(name);
    return workload !== undefined && (workload.enforced !== NO_ID || workload.shadow !== NO_ID);
  }

  #tell(record: Buffer): void {
    const event = readEvent(record, this.#applier.names, (slot, number) => this.#applier.nameOf(slot, number));
    const stranger = event.workload === null ? event.cgroup : null;
    this.#onHappening({ refusal: refusalOf(event), stranger, cut: cutOf(event) });
  }
}

export const UNKNOWN = 'unknown';

function refuseAll(overfull: readonly Overfull[]): Problem[] {
  return overfull.flatMap((one) => one.limits.slice(MAX_LIMITS).map((policy) => limitProblem(policy, one)));
}

/** The same tables once more: only bindings changed. */
function again({ tables }: Compiled): Step {
  return { tables, bridge: new Map(), bridgePortSets: new Map() };
}

const PROTOCOLS: Readonly<Record<number, string>> = { 1: 'ICMP', 6: 'TCP', 17: 'UDP', 132: 'SCTP' };

function refusalOf(event: FlowEvent): Refusal | null {
  const {
    verdict,
    workload,
    remote,
    name,
    protocol,
    command,
    pid,
    policy,
    rule,
    ruleName,
    isolatedBy,
    reason,
    shadow,
    icmp,
  } = event;
  if (verdict === 'allow') return null;
  return {
    verdict,
    workload: workload === null ? UNKNOWN : workloadName(workload),
    cgroup: null,
    address: remote.address,
    name,
    port: remote.port,
    protocol: PROTOCOLS[protocol] ?? String(protocol),
    icmp,
    // From a softirq the kernel knows who connected by pid alone; a moment later it most likely still has its name.
    process: command === '' && pid !== 0 ? commandOf(pid) : command,
    pid,
    policy,
    rule,
    ruleName,
    isolatedBy,
    reason,
    shadow:
      shadow === null || verdict === 'audit'
        ? null
        : { policy: shadow.policy, rule: shadow.rule, reason: shadow.reason },
  };
}

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'utf8').trimEnd();
  } catch {
    return '';
  }
}

function cutOf({ cut, workload, netnsCookie, socketCookie, local, remote }: FlowEvent): Happening['cut'] {
  if (!cut || workload === null) return null;
  return {
    workload,
    flow: {
      netnsCookie,
      socketCookie,
      local: Buffer.from(local.key, 'hex'),
      localPort: local.port,
      remote: Buffer.from(remote.key, 'hex'),
      remotePort: remote.port,
    },
  };
}

/** `shares`: who asks for most of it, so that it is known whom to ask for less. */
function mapProblem({ map, limit, needed, message }: LimitExceeded, shares: readonly Share[]): Problem {
  const whose = shares.map(({ of, entries }) => `${of} (${entries})`).join(', ');
  return {
    severity: 'error',
    code: 'limit_exceeded',
    file: null,
    line: 0,
    column: 0,
    path: '',
    object: null,
    message: `${message}; the whole change is refused, and what was enforced stays`,
    advice: `give it more room with --bpf-map-max ${map}=${needed}, or let policies hold fewer workloads or destinations, so that it needs at most ${limit}${whose === '' ? '' : `; what asks for most of it: ${whose}`}`,
  };
}

/**
 * The namespace of process 1, where that can be seen; 0n: not known, and nobody is taken for the host. `hidden`: why nobody, or null.
 */
function host(native: Native): { readonly hostNetns: bigint; readonly hidden: string | null } {
  try {
    return { hostNetns: native.netnsCookie('/proc/1/ns/net'), hidden: namespacesHidden(native) };
  } catch (error) {
    if (error instanceof KernelError) return { hostNetns: 0n, hidden: error.message };
    throw error;
  }
}
