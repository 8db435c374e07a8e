// SPDX-License-Identifier: Apache-2.0
// Tells the cluster what its agents do: this node's Lease, the statuses of all policies where this agent is the one that writes them,
// Events. It hears of the agent's work and never holds it up; what the API server refuses is told and tried again.

import { setImmediate } from 'node:timers/promises';
import { driftText, type Repaired } from '../agent/drift-watch.ts';
import { type Fill, fillText } from '../agent/fill-watch.ts';
import type { AgentHooks, Standing } from '../agent/hooks.ts';
import type { Policy, Problem } from '../model/objects.ts';
import { policyName } from '../resolve/order.ts';
import { unitKey, unitSelections } from '../resolve/units.ts';
import type { Refusal } from '../tell/refusal.ts';
import { type Clock, type KubeApi, MACHINE } from './api.ts';
import { clusterNetworkPolicyStatuses, UPSTREAM_CONDITIONS } from './cnp.ts';
import { EventRecorder, type ObjectReference } from './events.ts';
import { Heartbeat, renewMs } from './heartbeat.ts';
import { Leader } from './leader.ts';
import { NodeStates } from './node-states.ts';
import { invalidPolicies, isOfNode, type NodeReport, type PolicySet, policySet, refusalsOf } from './report.ts';
import {
  type NodeState,
  OWN_CONDITIONS,
  type PolicyObject,
  policyStatuses,
  selectInSlices,
  type WantedStatus,
} from './status.ts';
import { type LiveObject, type StatusOf, StatusWriter } from './writer.ts';

/** What may be refused: this node's Lease, the one of who writes, reading all nodes', statuses, Events. */
export type Task = 'lease' | 'leader' | 'leases' | 'status' | 'events';

export interface ReporterOptions {
  readonly api: KubeApi;
  /** Policies as the API server last told them, by `Kind/namespace/name`. */
  readonly objects: () => ReadonlyMap<string, LiveObject & PolicyObject>;
  /** Of the agents' Leases. */
  readonly namespace: string;
  /** The Node object that is this machine. */
  readonly node: string;
  /** Unique among all agents that ever ran: two on one node, while one replaces the other, are two. */
  readonly identity: string;
  /** Told once when something is refused (403 and the like), and once when it is taken again, with null. */
  readonly onFailure: (what: Task, failure: string | null) => void;
  readonly clock?: Clock;
  /** 0 to 1. */
  readonly random?: () => number;
}

export const LEADER_LEASE = 'postern-status';

/** A node without a Lease counts as silent once this agent has written for so long: longer than any Lease's rate. */
const GRACE_MS = 60_000;
const ON_ITS_WAY: NodeState = { report: { hash: '', refused: [], units: {} }, isSilent: false, versions: new Set() };
const EVENTS_MS = 1_000;
/** Whom policies select in a cluster of 50,000 pods takes some 50 ms to work out, if in slices. */
const STATUS_MS = 10_000;
/** While this agent is not the one that writes, or nothing is known yet. */
const IDLE_MS = 2_000;

export class Reporter implements AgentHooks {
  readonly #options: ReporterOptions;
  readonly #clock: Clock;
  readonly #heartbeat: Heartbeat;
  readonly #leader: Leader;
  readonly #nodes: NodeStates;
  readonly #writer: StatusWriter;
  readonly #events: EventRecorder;
  readonly #timers = new Set<NodeJS.Timeout>();
  readonly #failures = new Map<Task, string>();
  /** What was told of each policy in an Event, so that it is told again only when it changes. */
  readonly #toldOf = new Map<string, string>();
  /** The same of problems that no condition has. */
  #toldProblems: ReadonlySet<string> = new Set();
  #standing: Standing | null = null;
  #objects: ReadonlyMap<string, LiveObject & PolicyObject> = new Map();
  #set: { readonly policies: readonly Policy[]; readonly without: string; readonly set: PolicySet } | null = null;
  #leasesReadMs = Number.NEGATIVE_INFINITY;
  #wasLeader = false;
  #leadsSinceMs = 0;
  #isStopped = false;

  constructor(options: ReporterOptions) {
    this.#options = options;
    const { api, namespace, node, identity } = options;
    const clock = options.clock ?? MACHINE;
    this.#clock = clock;
    this.#heartbeat = new Heartbeat({ api, clock, namespace, node });
    this.#leader = new Leader({ api, clock, namespace, name: LEADER_LEASE, identity });
    this.#nodes = new NodeStates({ api, clock, namespace });
    this.#writer = new StatusWriter(api, clock, (key) => this.#objects.get(key));
    this.#events = new EventRecorder({ api, clock, instance: node });
  }

  /** From now on until `onStop`, everything at its own pace. */
  start(): void {
    this.#pace(() => this.beat());
    this.#pace(() => this.lead());
    this.#pace(() => this.writeStatus());
    this.#pace(() => this.writeEvents());
  }

  onApplied(standing: Standing): void {
    this.#standing = standing;
    this.#nodes.note(this.#wantedSet(standing));
  }

  onDrop(refusal: Refusal, count: number, destination: string | null): void {
    const regarding = this.#workload(refusal.workload);
    if (regarding === null) return;
    const isRefused = refusal.verdict === 'deny';
    this.#events.record({
      ...{ regarding, type: 'Warning', action: 'Connect', count },
      reason: isRefused ? 'EgressRefused' : 'EgressWouldBeRefused',
      note: refusalNote(refusal, destination),
    });
  }

  /**
   * What is wrong with a pod's cgroup, or that too many Limits hold it, only its node can tell. What is wrong with a policy, on one node or on all, whoever writes
   * statuses tells: thousands of nodes would say the same.
   */
  onProblem(event: 'problem' | 'mended', problem: Problem): void {
    if (event === 'mended' || !isOfNode(problem) || problem.object?.startsWith('Pod/') !== true) return;
    const regarding = this.#workload(problem.object.slice('Pod/'.length));
    if (regarding === null) return;
    const note = `on node ${this.#options.node}: ${problem.message}; ${problem.advice}`;
    const reason = problem.code === 'limit_exceeded' ? 'LimitExceeded' : 'NotEnforced';
    this.#events.record({ regarding, type: 'Warning', action: 'Enforce', reason, note });
  }

  onDrift(repaired: Repaired): void {
    const regarding = this.#node();
    this.#events.record({
      ...{ regarding, type: 'Warning', action: 'Enforce', reason: 'EnforcementRepaired' },
      note: driftText(repaired),
    });
  }

  onFilling(fill: Fill): void {
    const regarding = this.#node();
    this.#events.record({
      ...{ regarding, type: 'Warning', action: 'Enforce', reason: 'MapFilling' },
      note: fillText(fill),
    });
  }

  /** Lets go of what others may take over. */
  async onStop(): Promise<void> {
    this.#isStopped = true;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    await this.#events.flush();
    await this.#leader.release();
  }

  /** Renews this node's Lease. Gives the milliseconds until the next time, as do all of these. */
  async beat(): Promise<number> {
    const standing = this.#standing;
    if (standing === null) return IDLE_MS;
    const nodes = standing.wanted.nodes.length;
    await this.#heartbeat.beat(nodeReport(standing), nodes);
    this.#tell('lease', this.#heartbeat.failure);
    return renewMs(nodes);
  }

  /** Takes or renews the Lease of the one that writes. */
  async lead(): Promise<number> {
    // Whoever does not know what the policies are has nothing to write.
    if (this.#standing === null) return IDLE_MS;
    await this.#leader.step();
    this.#tell('leader', this.#leader.failure);
    return this.#leader.waitMs(this.#standing.wanted.nodes.length, (this.#options.random ?? Math.random)());
  }

  /** Writes what statuses are due, if this is the one that writes. */
  async writeStatus(): Promise<number> {
    const standing = this.#standing;
    const isLeader = this.#leader.isLeader;
    if (isLeader && !this.#wasLeader) {
      this.#writer.forget();
      this.#leasesReadMs = Number.NEGATIVE_INFINITY;
    }
    if (isLeader && !this.#wasLeader) this.#leadsSinceMs = this.#clock.now();
    this.#wasLeader = isLeader;
    if (!isLeader || standing === null) return IDLE_MS;
    const nodes = new Set(standing.wanted.nodes.map(({ name }) => name));
    if (this.#clock.now() - this.#leasesReadMs >= renewMs(nodes.size)) {
      await this.#nodes.read(nodes);
      this.#leasesReadMs = this.#clock.now();
      this.#tell('leases', this.#nodes.failure);
    }
    if (!this.#nodes.isKnown) return STATUS_MS;
    const { wanted: snapshot, problems } = standing;
    await selectInSlices(snapshot, () => setImmediate());
    this.#objects = this.#options.objects();
    const input = { snapshot, problems, nodes: this.#states(standing), objects: this.#objects };
    const statuses = new Map([...policyStatuses(input), ...clusterNetworkPolicyStatuses(input)]);
    this.#tellPolicies(statuses);
    this.#tellProblems(problems);
    const wanted = new Map([...statuses].map(([name, status]) => [name, statusOf(status)]));
    const waitMs = await this.#writer.write(wanted, () => this.#leader.isLeader);
    this.#tell('status', this.#writer.failure);
    return Math.min(waitMs ?? STATUS_MS, STATUS_MS);
  }

  async writeEvents(): Promise<number> {
    await this.#events.flush();
    this.#tell('events', this.#events.failure);
    return EVENTS_MS;
  }

  /** What is known of nodes: of this one at first hand. */
  #states(standing: Standing): ReadonlyMap<string, NodeState> {
    const states = new Map(this.#nodes.states());
    if (this.#clock.now() - this.#leadsSinceMs < GRACE_MS) {
      // Where agents have only just begun, one that was not heard of yet is on its way.
      for (const { name } of standing.wanted.nodes) if (!states.has(name)) states.set(name, ON_ITS_WAY);
    }
    const { enforced, problems } = standing;
    const { versions } = policySet(enforced.policies, invalidPolicies(problems));
    states.set(this.#options.node, { report: nodeReport(standing), isSilent: false, versions });
    return states;
  }

  /** Pods come and go a hundred times a second, policies do not. */
  #wantedSet({ wanted: { policies }, problems }: Standing): PolicySet {
    const invalid = invalidPolicies(problems);
    const without = [...invalid].sort().join();
    if (this.#set?.policies === policies && this.#set.without === without) return this.#set.set;
    const set = policySet(policies, invalid);
    this.#set = { policies, without, set };
    return set;
  }

  /** A condition that is not True is an Event on its policy, once for each reason that it gives. */
  #tellPolicies(statuses: ReadonlyMap<string, WantedStatus>): void {
    for (const name of this.#toldOf.keys()) if (!statuses.has(name)) this.#toldOf.delete(name);
    for (const [name, status] of statuses) {
      const bad = status.conditions.filter((one) => one.status === 'False' && !QUIET.has(one.reason));
      const told = JSON.stringify(bad.map(({ reason, message }) => [reason, message]));
      const before = this.#toldOf.get(name);
      this.#toldOf.set(name, told);
      if (before === told || bad.length === 0) continue;
      for (const { reason, message } of bad) {
        if (before?.includes(JSON.stringify([reason, message])) === true) continue;
        this.#events.record({
          ...{
            regarding: policyReference(status, status.uid),
            type: 'Warning',
            action: 'Enforce',
            reason,
            note: message,
          },
        });
      }
    }
  }

  /** Of what has no condition of ours: a NetworkPolicy, and a mode that upstream's kinds say wrongly, so that it is enforced. */
  #tellProblems(problems: readonly Problem[]): void {
    const told = new Set<string>();
    for (const { object, severity, code, path, message, advice } of problems) {
      const [kind = '', ...names] = object?.split('/') ?? [];
      const isUpstream = kind === 'NetworkPolicy' || (kind === 'ClusterNetworkPolicy' && code === 'mode');
      if (object === null || !isUpstream) continue;
      const [name = '', namespace = null] = names.reverse();
      const reason = code === 'limit_exceeded' ? 'LimitExceeded' : severity === 'error' ? 'Invalid' : 'Doubtful';
      const note = `${path === '' ? '' : `${path}: `}${message}; ${advice}`;
      const key = JSON.stringify([object, reason, note]);
      told.add(key);
      if (this.#toldProblems.has(key)) continue;
      const regarding = policyReference({ kind, namespace, name }, this.#objects.get(object)?.uid ?? null);
      this.#events.record({ regarding, type: 'Warning', action: 'Enforce', reason, note });
    }
    this.#toldProblems = told;
  }

  /** The pod, or this node for one of its units; null: it is neither (a process of no pod). */
  #workload(name: string): ObjectReference | null {
    const found = this.#standing?.compiled.tables.workloads.get(name);
    if (found !== undefined) {
      return { ...{ apiVersion: 'v1', kind: 'Pod', namespace: found.namespace, name: found.name }, uid: found.uid };
    }
    return name.startsWith('node/') ? this.#node() : null;
  }

  #node(): ObjectReference {
    // kubelet's own Events name a Node by its name in place of its uid, and kubectl describe looks for that.
    return { apiVersion: 'v1', kind: 'Node', namespace: null, name: this.#options.node, uid: this.#options.node };
  }

  #tell(what: Task, failure: string | null): void {
    if ((this.#failures.get(what) ?? null) === failure) return;
    if (failure === null) this.#failures.delete(what);
    else this.#failures.set(what, failure);
    this.#options.onFailure(what, failure);
  }

  #pace(step: () => Promise<number>): void {
    const turn = async (): Promise<void> => {
      const waitMs = await step();
      if (this.#isStopped) return;
      const timer = setTimeout(() => {
        this.#timers.delete(timer);
        void turn();
      }, waitMs);
      timer.unref();
      this.#timers.add(timer);
    };
    void turn();
  }
}

/** Nothing to look into: it passes. */
const QUIET: ReadonlySet<string> = new Set(['Pending']);

/** What this node enforces. */
export function nodeReport({ enforced, problems, bindings, refused }: Standing): NodeReport {
  const units: Record<string, { selected: number; held: number }> = {};
  for (const [unit, { shadow }] of unitSelections(enforced)) {
    const held = bindings.has(unitKey(unit)) ? 1 : 0;
    for (const policy of shadow) {
      const before = units[policyName(policy)] ?? { selected: 0, held: 0 };
      units[policyName(policy)] = { selected: before.selected + 1, held: before.held + held };
    }
  }
  const [first] = refused;
  const whole =
    first === undefined
      ? []
      : [
          {
            policy: null,
            code: first.code,
            message: `a change is refused whole: ${first.object ?? 'it'} ${first.message}`,
          },
        ];
  return {
    hash: policySet(enforced.policies, invalidPolicies(problems)).hash,
    refused: [...refusalsOf(problems).filter(({ policy }) => policy !== null), ...whole],
    units,
  };
}

const RESOURCES: Readonly<Record<WantedStatus['kind'], string>> = {
  EgressPolicy: 'egresspolicies',
  ClusterEgressPolicy: 'clusteregresspolicies',
  ClusterNetworkPolicy: 'clusternetworkpolicies',
};

function statusOf({ kind, namespace, name, version, counts, conditions }: WantedStatus): StatusOf {
  const where = namespace === null ? '' : `/namespaces/${encodeURIComponent(namespace)}`;
  const path = `/apis/${API_VERSIONS[kind]}${where}/${RESOURCES[kind]}/${encodeURIComponent(name)}`;
  // Upstream's status has conditions alone.
  if (kind === 'ClusterNetworkPolicy') return { path, version, conditions, own: UPSTREAM_CONDITIONS, fields: {} };
  return {
    path,
    ...{ version, conditions, own: OWN_CONDITIONS },
    fields: counts === null ? { workloads: null, hostNetwork: null, nodes: null } : { ...counts },
  };
}

const API_VERSIONS: Readonly<Record<Policy['kind'], string>> = {
  EgressPolicy: 'postern.dev/v1alpha1',
  ClusterEgressPolicy: 'postern.dev/v1alpha1',
  NetworkPolicy: 'networking.k8s.io/v1',
  ClusterNetworkPolicy: 'policy.networking.k8s.io/v1alpha2',
};

function policyReference(
  { kind, namespace, name }: Pick<Policy, 'kind' | 'namespace' | 'name'>,
  uid: string | null,
): ObjectReference {
  return { apiVersion: API_VERSIONS[kind], kind, namespace, name, uid };
}

function refusalNote(refusal: Refusal, destination: string | null): string {
  const { verdict, address, port, name, protocol, icmp, policy, rule, ruleName, isolatedBy, reason } = refusal;
  const what = protocol === 'ICMP' ? `ICMP ${icmp ?? ''}`.trimEnd() : protocol;
  const at = port === 0 ? address : address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
  const known = [name, destination].filter((one) => one !== null).join(', ');
  const where = `${what} to ${at}${known === '' ? '' : ` (${known})`}`;
  const verb = verdict === 'deny' ? 'was refused' : 'passed, and would be refused if Audit policies were enforced';
  const which = rule === null ? '' : ` rule ${rule}${ruleName === null ? '' : ` "${ruleName}"`}`;
  const who = policy === null ? reason : `${policy}${which}, ${reason}`;
  const also = isolatedBy.length > 1 ? `; isolated by ${isolatedBy.join(', ')}` : '';
  return `${where} ${verb}: ${who}${also}`;
}
