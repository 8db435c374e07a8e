// SPDX-License-Identifier: Apache-2.0
// What became of each policy, as its status says it: whom it selects, and on how many nodes it is enforced. Pure; knows neither
// what was written before nor how anything is written. The table of conditions and reasons is that of the API's documentation.

import { askers } from '../judge/dns.ts';
import type { Peer, Pod, Policy, Problem, Snapshot } from '../model/objects.ts';
import { mayAskDns, namesNames } from '../resolve/dns.ts';
import { policyName } from '../resolve/order.ts';
import { type Selection, selections } from '../resolve/selection.ts';
import { isThisNode } from '../resolve/units.ts';
import type { WantedCondition } from './conditions.ts';
import { invalidPolicies, isOfNode, type NodeReport, versionOf } from './report.ts';

/** What is known of a node's agent. */
export interface NodeState {
  /** Its last report; null: none could be read. */
  readonly report: NodeReport | null;
  /** It has not renewed its Lease for longer than the Lease says. */
  readonly isSilent: boolean;
  /** The versions (`uid:generation`) that it enforces, as far as its report says. */
  readonly versions: ReadonlySet<string>;
}

export interface StatusInput {
  readonly snapshot: Snapshot;
  /** Everything that is wrong with objects now. */
  readonly problems: readonly Problem[];
  /** By node name. A node that is not here has no agent that ever reported. */
  readonly nodes: ReadonlyMap<string, NodeState>;
  /** Policy objects by `Kind/namespace/name`, those of which the snapshot holds nothing included. */
  readonly objects?: ReadonlyMap<string, PolicyObject>;
}

/** What of a policy object its status needs, and what holds of it does not say. */
export interface PolicyObject {
  readonly uid: string;
  readonly generation: number;
  /** null: it is valid as it is written, and says nothing of egress. */
  readonly valid?: Policy | null | undefined;
  readonly hasIngress?: boolean;
}

/** The status of one policy, without what only the object itself can say: since when. */
export interface WantedStatus {
  readonly kind: 'EgressPolicy' | 'ClusterEgressPolicy' | 'ClusterNetworkPolicy';
  readonly namespace: string | null;
  readonly name: string;
  /** null: not known. */
  readonly uid: string | null;
  /** What it is about; null: the object as it is when this is written (invalid, so that no version of it was read). */
  readonly version: { readonly uid: string; readonly generation: number } | null;
  /** null: nobody can tell, since the policy was never valid. */
  readonly counts: {
    readonly workloads: number;
    readonly hostNetwork: number;
    readonly nodes: { readonly selected: number; readonly programmed: number };
  } | null;
  readonly conditions: readonly WantedCondition[];
}

export const OWN_CONDITIONS: ReadonlySet<string> = new Set(['Accepted', 'ResolvedRefs', 'Programmed', 'DNSAllowed']);

/** Names in one message. */
const MAX_NAMES = 5;

/** By `Kind/namespace/name`: of every EgressPolicy and ClusterEgressPolicy, those that are invalid included. */
export function policyStatuses(input: StatusInput): ReadonlyMap<string, WantedStatus> {
  const { snapshot, problems } = input;
  const invalid = invalidPolicies(problems);
  const selected = selectedBy(snapshot);
  const services = servicesOf(snapshot);
  const byObject = Map.groupBy(problems, ({ object }) => object ?? '');
  const asks = asksDns(snapshot, selected);
  const statuses = new Map<string, WantedStatus>();
  for (const policy of snapshot.policies) {
    const { kind } = policy;
    if (kind !== 'EgressPolicy' && kind !== 'ClusterEgressPolicy') continue;
    const name = policyName(policy);
    const own = byObject.get(name) ?? [];
    const who = selected.get(policy) ?? NOBODY;
    const isInvalid = invalid.has(name);
    const nodes = nodesOf(policy, who, isInvalid, input);
    statuses.set(name, {
      ...{ kind, namespace: policy.namespace, name: policy.name },
      uid: policy.version?.uid ?? null,
      version: isInvalid ? null : (policy.version ?? null),
      counts: {
        ...workloadsOf(policy, who, input),
        nodes: { selected: nodes.selected, programmed: nodes.programmed },
      },
      conditions: [
        accepted(
          [...own, ...limitsToldBy(name, input)],
          isInvalid ? inItsPlace(policy, input.objects?.get(name)) : null,
        ),
        resolvedRefs(policy, services),
        nodes.condition,
        ...(namesNames(policy) ? [dnsAllowed(policy, who, snapshot, asks)] : []),
      ],
    });
  }
  for (const name of invalid) {
    if (statuses.has(name)) continue;
    const [kind, ...path] = name.split('/');
    if (kind !== 'EgressPolicy' && kind !== 'ClusterEgressPolicy') continue;
    const [last = '', namespace = null] = path.reverse();
    statuses.set(name, {
      ...{ kind, namespace, name: last, uid: null, version: null, counts: null },
      conditions: [accepted(byObject.get(name) ?? [], inItsPlace(null, input.objects?.get(name)))],
    });
  }
  return statuses;
}

export interface Selected {
  readonly workloads: number;
  readonly hostNetwork: number;
  readonly nodes: ReadonlySet<string>;
  /** One pod for each set of policies that some selected pod is held by. */
  readonly kinds: ReadonlyMap<Selection, { readonly pod: Pod; readonly count: number }>;
}

export const NOBODY: Selected = { workloads: 0, hostNetwork: 0, nodes: new Set(), kinds: new Map() };

const walks = new WeakMap<Snapshot, ReadonlyMap<Policy, Selected>>();

/** Pods that are looked at in one turn of the event loop: some 2 ms. */
const SLICE = 2000;

/** Whom each policy of a snapshot selects: worked out once for each, since nodes report more often than anything changes. */
export function selectedBy(snapshot: Snapshot): ReadonlyMap<Policy, Selected> {
  const known = walks.get(snapshot);
  if (known !== undefined) return known;
  const steps = walk(snapshot);
  let step = steps.next();
  while (step.done !== true) step = steps.next();
  walks.set(snapshot, step.value);
  return step.value;
}

/**
 * Works it out for `selectedBy` in slices, between which whatever waits is done: of 50,000 pods it takes some 50 ms, on the thread that
 * enforces. `rest` resolves when that was done.
 */
export async function selectInSlices(snapshot: Snapshot, rest: () => Promise<void>): Promise<void> {
  if (walks.has(snapshot)) return;
  const steps = walk(snapshot);
  let step = steps.next();
  while (step.done !== true) {
    await rest();
    step = steps.next();
  }
  walks.set(snapshot, step.value);
}

/** One walk over all pods, with a halt after each slice. */
function* walk(snapshot: Snapshot): Generator<undefined, ReadonlyMap<Policy, Selected>> {
  const select = selections(snapshot);
  const groups = new Map<Selection, { pods: number; hostNetwork: number; nodes: Set<string>; pod: Pod }>();
  let seen = 0;
  for (const pod of snapshot.pods) {
    if (++seen % SLICE === 0) yield;
    if (pod.ended) continue;
    const selection = select(pod);
    if (selection.shadow.length === 0) continue;
    let group = groups.get(selection);
    if (group === undefined) {
      group = { pods: 0, hostNetwork: 0, nodes: new Set(), pod };
      groups.set(selection, group);
    }
    group.pods += 1;
    if (pod.hostNetwork) group.hostNetwork += 1;
    if (pod.node !== null) group.nodes.add(pod.node);
  }
  yield;
  const selected = new Map<Policy, Selecting>();
  for (const [selection, group] of groups) {
    for (const policy of selection.shadow) {
      let who = selected.get(policy);
      if (who === undefined) {
        who = { workloads: 0, hostNetwork: 0, nodes: new Set(), kinds: new Map() };
        selected.set(policy, who);
      }
      who.workloads += group.pods;
      who.hostNetwork += group.hostNetwork;
      for (const node of group.nodes) who.nodes.add(node);
      who.kinds.set(selection, { pod: group.pod, count: group.pods });
    }
  }
  return selected;
}

/** What `Selected` is while it is being counted. */
interface Selecting {
  workloads: number;
  hostNetwork: number;
  readonly nodes: Set<string>;
  readonly kinds: Map<Selection, { readonly pod: Pod; readonly count: number }>;
}

/** Units are counted where they are held: only their node knows which are there. */
function workloadsOf(
  policy: Policy,
  who: Selected,
  { nodes }: StatusInput,
): { readonly workloads: number; readonly hostNetwork: number } {
  if (policy.subject.type !== 'nodeServices') return { workloads: who.workloads, hostNetwork: who.hostNetwork };
  const name = policyName(policy);
  const held = [...nodes.values()].reduce((sum, { report }) => sum + (report?.units[name]?.held ?? 0), 0);
  return { workloads: held, hostNetwork: 0 };
}

/** A node that has more Limits on a workload than fit knows it first. */
function limitsToldBy(name: string, { nodes }: StatusInput): Told[] {
  const told = [...nodes.values()].flatMap(({ report }) => report?.refused ?? []);
  const [first] = told.filter(({ policy, code }) => policy === name && code === 'limit_exceeded');
  return first === undefined ? [] : [{ severity: 'error', code: first.code, path: '', message: first.message }];
}

type Told = Pick<Problem, 'severity' | 'code' | 'path' | 'message'>;

/**
 * What holds while a policy is invalid, as whoever writes this knows it of its own node: others may have seen other versions.
 * @param policy what the snapshot holds of it; null: nothing.
 * @param object undefined: not known.
 */
export function inItsPlace(policy: Policy | null, object: PolicyObject | undefined): string {
  if (object === undefined) {
    return 'Its last valid version holds; where none was seen, whom it selects is isolated, if that much can be read.';
  }
  if (object.valid === null) return 'Its last valid version, which says nothing of egress, holds.';
  if (object.valid !== undefined) return 'Its last valid version holds, on every node whose agent has seen it.';
  const none = 'No valid version of it was ever seen:';
  if (policy === null) return `${none} whom it selects cannot be read, and it holds nobody.`;
  const audit = policy.mode === 'Audit' ? '. It is in Audit, so that this is reported, and refuses nothing' : '';
  return `${none} until it is mended, ${STAND_INS[policy.effect]}${audit}.`;
}

/** See parse/stand-in.ts. */
const STAND_INS: Readonly<Record<Policy['effect'], string>> = {
  Isolate: 'whom it selects is isolated, and it allows nothing',
  Limit: 'it leaves whom it selects nothing',
  Grant: 'it allows nothing',
  Admin: 'whom it selects is isolated, and it allows nothing',
  Baseline: 'it denies whom it selects everything in its tier',
};

/** @param place what holds in the place of an invalid one; null: it is valid. */
export function accepted(problems: readonly Told[], place: string | null): WantedCondition {
  const told = (wanted: readonly Told[]) =>
    list(wanted.map(({ path, message }) => (path ? `${path}: ${message}` : message)));
  if (place !== null) {
    const errors = problems.filter((one) => one.severity === 'error' && !isOfNode(one));
    return { type: 'Accepted', status: 'False', reason: 'Invalid', message: `${told(errors)}. ${place}` };
  }
  const limits = problems.filter(({ code }) => code === 'limit_exceeded');
  if (limits.length > 0) {
    return { type: 'Accepted', status: 'False', reason: 'LimitExceeded', message: `${told(limits)}.` };
  }
  const idle = problems.filter(({ code }) => code === 'not_yet_enforced');
  if (idle.length > 0) {
    return { type: 'Accepted', status: 'False', reason: 'NotYetEnforced', message: `${told(idle)}. The rest holds.` };
  }
  return { type: 'Accepted', status: 'True', reason: 'Accepted', message: 'The policy is valid.' };
}

interface Services {
  /** By `namespace/name`: what keeps it from being used, or null. */
  readonly obstacles: ReadonlyMap<string, string | null>;
}

function servicesOf({ services, endpointSlices }: Snapshot): Services {
  const strangers = new Set(
    endpointSlices
      .filter(({ endpoints }) => endpoints.some(({ pod }) => pod === null))
      .map(({ namespace, service }) => `${namespace}/${service ?? ''}`),
  );
  return {
    obstacles: new Map(
      services.map(({ namespace, name, externalName }) => {
        const key = `${namespace}/${name}`;
        if (externalName !== null) return [key, 'is an ExternalName, which is not followed'];
        return [key, strangers.has(key) ? 'has endpoints that are no pods, which are not followed' : null];
      }),
    ),
  };
}

function resolvedRefs({ rules }: Policy, { obstacles }: Services): WantedCondition {
  const named = new Set(
    rules
      .flatMap(({ peers }) => peers.flatMap((peer) => (isServices(peer) ? peer.services : [])))
      .map(({ namespace, name }) => `${namespace}/${name}`),
  );
  const missing = [...named].filter((key) => !obstacles.has(key)).map((key) => `there is no Service ${key}`);
  const unusable = [...named].flatMap((key) => {
    const why = obstacles.get(key) ?? null;
    return why === null ? [] : [`Service ${key} ${why}`];
  });
  const gateways = rules.filter(({ notEnforced }) => notEnforced?.startsWith('via') === true);
  const [reason, all] =
    missing.length > 0
      ? ['ServiceNotFound', [...missing, ...unusable]]
      : unusable.length > 0
        ? ['ServiceNotUsable', unusable]
        : ['GatewayNotFound', gateways.length > 0 ? ['no gateway that via names is there'] : []];
  if (all.length === 0) {
    return {
      type: 'ResolvedRefs',
      status: 'True',
      reason: 'Resolved',
      message: 'Everything that it refers to is there.',
    };
  }
  return {
    type: 'ResolvedRefs',
    status: 'False',
    reason,
    message: `${list(all)}: rules that name it allow nothing there.`,
  };
}

function isServices(peer: Peer): peer is Extract<Peer, { type: 'services' }> {
  return peer.type === 'services';
}

export interface NodesOf {
  readonly selected: number;
  readonly programmed: number;
  readonly condition: WantedCondition;
}

export function nodesOf(
  policy: Policy,
  who: Selected,
  isInvalid: boolean,
  { snapshot, nodes: states }: StatusInput,
): NodesOf {
  const { subject } = policy;
  const selected =
    subject.type === 'nodeServices'
      ? snapshot.nodes.filter(({ labels }) => isThisNode(subject.nodeSelector, labels)).map(({ name }) => name)
      : [...who.nodes];
  selected.sort();
  const name = policyName(policy);
  // Of an invalid policy an older version holds, or what stands for it: what is written now is on no node.
  const version = isInvalid ? null : versionOf(policy);
  const refused = new Map<string, string[]>();
  const silent: string[] = [];
  const pending: string[] = [];
  const waiting: string[] = [];
  let programmed = 0;
  for (const node of selected) {
    const state = states.get(node);
    const holds = version !== null && state?.versions.has(version) === true;
    const why = state?.report?.refused.find((one) => (one.policy === null ? !holds : one.policy === name));
    if (state === undefined || state.isSilent || state.report === null) silent.push(node);
    else if (why !== undefined) refused.set(why.message, [...(refused.get(why.message) ?? []), node]);
    else if (holds) programmed += 1;
    else pending.push(node);
    const units = state?.report?.units[name];
    if (units !== undefined && units.held < units.selected) waiting.push(node);
  }
  return {
    selected: selected.length,
    programmed,
    condition: programmedCondition(selected.length, policy.mode, isInvalid, { refused, pending, silent, waiting }),
  };
}

/** Nodes that do not simply enforce it. */
interface Exceptions {
  /** By why: most often it is one reason on all of them. */
  readonly refused: ReadonlyMap<string, readonly string[]>;
  readonly pending: readonly string[];
  readonly silent: readonly string[];
  /** They enforce it, and some unit that it names does not run there: it is held when it does. */
  readonly waiting: readonly string[];
}

function programmedCondition(
  selected: number,
  mode: Policy['mode'],
  isInvalid: boolean,
  { refused, pending, silent, waiting }: Exceptions,
): WantedCondition {
  const type = 'Programmed';
  if (selected === 0) return { type, status: 'True', reason: 'NoWorkloads', message: 'It selects nobody on any node.' };
  if (refused.size > 0) {
    const message = list([...refused].map(([why, nodes]) => `${list(nodes)}: ${why}`));
    return { type, status: 'False', reason: 'RefusedByNode', message: `${message}.` };
  }
  if (isInvalid) {
    return { type, status: 'False', reason: 'Pending', message: 'What is written now is invalid, and on no node.' };
  }
  if (pending.length > 0) {
    return { type, status: 'False', reason: 'Pending', message: `Not yet enforced on ${list(pending)}.` };
  }
  if (silent.length > 0) {
    const message = `No word from the agents of ${list(silent)}: whether they enforce it is not known.`;
    return { type, status: 'Unknown', reason: 'AgentSilent', message };
  }
  const what = mode === 'Audit' ? 'In Audit, so that it refuses nothing,' : 'Enforced';
  const absent = waiting.length === 0 ? '' : ` Some of its units are not there on ${list(waiting)}.`;
  return {
    type,
    status: 'True',
    reason: 'Programmed',
    message: `${what} on ${selected} of ${selected} nodes.${absent}`,
  };
}

/** Of each set of policies some of which has names: may whom it holds ask? */
function asksDns(snapshot: Snapshot, selected: ReadonlyMap<Policy, Selected>): (selection: Selection) => boolean {
  const kinds = new Map([...selected].flatMap(([policy, { kinds: all }]) => (namesNames(policy) ? [...all] : [])));
  const answers = askers(
    snapshot,
    [...kinds.values()].map(({ pod }) => pod),
  );
  return (selection) => {
    const kind = kinds.get(selection);
    const answer = kind === undefined ? undefined : answers.get(kind.pod);
    return answer ?? mayAskDns(selection.shadow);
  };
}

function dnsAllowed(
  policy: Policy,
  who: Selected,
  { policies }: Snapshot,
  asks: (selection: Selection) => boolean,
): WantedCondition {
  const type = 'DNSAllowed';
  const cutOff =
    policy.subject.type === 'nodeServices'
      ? cutOffUnits(policy, policies)
      : [...who.kinds]
          .filter(([selection]) => !asks(selection))
          .map(([, { pod, count }]) => `${pod.namespace}/${pod.name}${count > 1 ? ` and ${count - 1} like it` : ''}`);
  if (cutOff.length === 0) {
    return { type, status: 'True', reason: 'Allowed', message: 'Whom it selects may ask for its names.' };
  }
  const message = `No rule lets ${list(cutOff)} ask DNS, so the names open nothing. Add a rule to: [{entities: [DNS]}].`;
  return { type, status: 'False', reason: 'NoDNSRule', message };
}

function cutOffUnits({ subject }: Policy, policies: readonly Policy[]): string[] {
  if (subject.type !== 'nodeServices') return [];
  return subject.units.filter((unit) => {
    const beside = policies.filter((one) => one.subject.type === 'nodeServices' && one.subject.units.includes(unit));
    return !mayAskDns(beside);
  });
}

function list(all: readonly string[]): string {
  const more = all.length - MAX_NAMES;
  return more > 0 ? `${all.slice(0, MAX_NAMES).join('; ')}; and ${more} more` : all.join('; ');
}
