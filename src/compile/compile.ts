// SPDX-License-Identifier: Apache-2.0
// From a snapshot to the tables that the kernel should hold. Pure and total; what it is given of an earlier run
// saves work and changes nothing.

import { SPACE_NETWORKS, SPACE_NOT_WORLD } from '#build/generated/abi.ts';
import type { List } from '../model/list-change.ts';
import { CLUSTER_DOMAIN, type NamePattern } from '../model/name.ts';
import type { Pod, Policy, Problem, Snapshot } from '../model/objects.ts';
import {
  type AddressKey,
  type Id,
  type NetworkKey,
  NO_ID,
  type PortPrefix,
  type Row,
  type RulesetInfo,
  type Tables,
  type WorkloadEntry,
} from '../model/tables.ts';
import { policyName } from '../resolve/order.ts';
import { andOwnNode } from '../resolve/own-node.ts';
import { selections } from '../resolve/selection.ts';
import { unitKey, unitSelections } from '../resolve/units.ts';
import type { Domains } from './asking.ts';
import { type Demand, demandOf, NO_DEMAND, union } from './demand.ts';
import { type Destinations, DestinationTracker, destinations } from './destinations.ts';
import { portSet } from './entries.ts';
import { resolversOf } from './facts.ts';
import { type IdentityTable, identityTable } from './identity-table.ts';
import { type NameTrie, nameTrie } from './names.ts';
import { type Overfull, overfull } from './overfull.ts';
import { keyOf, NO_BLOCKS } from './prefixes.ts';
import { RowCache, type RowTable, rowTable } from './row-table.ts';
import { type Place, type Ruleset, ruleset, rulesetContent } from './ruleset.ts';

export interface Options {
  /** Those of the snapshot's pods that are compiled as workloads. Default: all. */
  readonly local?: List<Pod>;
  /** Pods that a NetworkPolicy holds may reach their own node, as upstream's text has it. Default: no. */
  readonly ownNode?: boolean;
  /** Asked of destinations beside what the rulesets ask; never changes a verdict. */
  readonly extraDemand?: Demand;
  /** Rulesets whose packets may still be judged: what they reach is held, too. */
  readonly extraRulesets?: readonly Ruleset[];
  /** What an earlier compile worked out, and where it left off; never changes what comes out. */
  readonly state?: CompilerState;
}

export interface Compiled {
  readonly tables: Tables;
  readonly rulesets: ReadonlyMap<Id, Ruleset>;
  readonly destinations: Destinations;
  readonly names: NameTrie;
  /** What the rulesets ask, `extraDemand` left out. */
  readonly demand: Demand;
  /** Errors: the caller must refuse the whole. */
  readonly problems: readonly Problem[];
  /** They may do what the Admin tier accepts and nothing else; see `overfullProblems`. */
  readonly overfull: readonly Overfull[];
  readonly state: CompilerState;
}

/** What the next compile starts from. One follower of snapshots at a time may use it. */
export interface CompilerState {
  readonly cache: RowCache;
  readonly tracker: DestinationTracker | null;
  readonly rows?: RowTable;
  readonly identities?: IdentityTable;
  readonly held?: Held;
  readonly derived?: Derived;
}

/** What follows from parts of a compile alone, and what these were: the same objects, as long as they are. */
interface Derived {
  readonly reached: Destinations;
  readonly networks: ReadonlyMap<NetworkKey, Id>;
  readonly names: { readonly of: NameTrie; readonly entries: ReadonlyMap<NamePattern, Id> };
  readonly rows: RowTable['rows'];
  readonly subjects: ReadonlySet<Id>;
  readonly portSets: ReadonlyMap<Id, readonly PortPrefix[]>;
}

/** Workloads and their rulesets, and all that they depend on. */
interface Held {
  readonly from: readonly unknown[];
  readonly workloads: ReadonlyMap<string, WorkloadEntry>;
  readonly rulesets: ReadonlyMap<Id, Ruleset>;
  readonly infos: ReadonlyMap<Id, RulesetInfo>;
  readonly demand: Demand;
  readonly problems: readonly Problem[];
  readonly overfull: readonly Overfull[];
}

export function compile(snapshot: Snapshot, options: Options = {}): Compiled {
  const held = heldBy(snapshot, options);
  const { workloads, rulesets, infos, demand, problems } = held;
  const asked = union(demand, options.extraDemand ?? NO_DEMAND);
  // Nobody is held and nobody was: no subject matters.
  const { state } = options;
  const cache = state?.cache ?? new RowCache();
  const tracker = state?.tracker ?? new DestinationTracker();
  const isNobody = rulesets.size === 0 && options.extraDemand === undefined;
  const reached = isNobody ? NOWHERE : tracker.follow(snapshot, asked);
  const names = nameTrie(asked.names, state?.rows?.subjects.names);
  const subjects = { destinations: reached, names };
  const rows = rowTable(rulesets.values(), subjects, cache, state?.rows);
  const extra = rowTable(options.extraRulesets ?? [], subjects, cache);
  const derived = derive(reached, names, rows.rows, state?.derived);
  const bridged = extra.rows.size === 0 ? derived.subjects : derived.subjects.union(subjectsOf(extra.rows));
  const identities = identityTable(reached, bridged, state?.identities);
  cache.prune(rulesets, reached.identities.size + reached.networks.classes.size + names.classes.size);
  const clash = reached.clash || names.clash ? [clashProblem()] : [];
  return {
    tables: {
      identities: identities.entries,
      networks: derived.networks,
      names: derived.names.entries,
      rows: rows.rows,
      portSets: derived.portSets,
      rulesets: infos,
      resolvers: resolversOf(snapshot),
      workloads,
    },
    ...{ rulesets, destinations: reached, names, demand, problems: [...problems, ...clash], overfull: held.overfull },
    state: { cache, tracker, rows, identities, held, derived },
  };
}

function derive(reached: Destinations, names: NameTrie, rows: RowTable['rows'], before: Derived | undefined): Derived {
  const isReachedSame =
    before?.reached.networks === reached.networks &&
    before.reached.zones === reached.zones &&
    before.reached.notWorld === reached.notWorld;
  const areRowsSame = before?.rows === rows;
  return {
    ...{ reached, rows },
    networks: isReachedSame ? before.networks : networksOf(reached),
    names:
      before?.names.of === names
        ? before.names
        : { of: names, entries: new Map([...names.byPattern].map(([pattern, { id }]) => [pattern, id])) },
    subjects: areRowsSame ? before.subjects : subjectsOf(rows),
    portSets: areRowsSame ? before.portSets : portSetsOf(rows.values()),
  };
}

function subjectsOf(rows: RowTable['rows']): Set<Id> {
  const subjects = new Set<Id>();
  for (const { subject } of rows.values()) subjects.add(subject);
  return subjects;
}

const NOWHERE: Destinations = destinations(
  {
    ...{ namespaces: [], nodes: [], pods: [], services: [], endpointSlices: [], policies: [] },
    host: { node: null, addresses: [], resolvers: [] },
  },
  NO_DEMAND,
);

export function portSetsOf(rows: Iterable<Row>): Map<Id, readonly PortPrefix[]> {
  const sets = new Map<Id, readonly PortPrefix[]>();
  for (const row of rows) {
    if (row.portSet !== NO_ID && !sets.has(row.portSet)) sets.set(row.portSet, portSet(row.entries).prefixes);
  }
  return sets;
}

/** Pods of other nodes come and go without a part in it. */
function heldBy(snapshot: Snapshot, options: Options): Held {
  const { namespaces, nodes, policies, host, pods } = snapshot;
  const { local = pods, ownNode = false } = options;
  const from = [local, namespaces, nodes, policies, host, ownNode];
  const known = options.state?.held;
  if (known?.from.every((part, index) => part === from[index])) return known;
  const made = workloadsOf(snapshot, local, ownNode);
  const infos = new Map([...made.rulesets].map(([id, { info }]) => [id, info]));
  return { from, ...made, infos, demand: demandOf(made.rulesets.values()) };
}

function workloadsOf(
  snapshot: Snapshot,
  local: List<Pod>,
  ownNode: boolean,
): Pick<Held, 'workloads' | 'rulesets' | 'problems' | 'overfull'> {
  const select = selections(snapshot);
  const nodes = new Set(snapshot.nodes.map(({ name }) => name));
  const workloads = new Map<string, WorkloadEntry>();
  const rulesets = new Map<Id, Ruleset>();
  const problems: Problem[] = [];
  const beyond: Overfull[] = [];
  const ids = new Map<readonly Policy[], Map<string, Id>>();
  const byContent = new Map<string, Id>();
  const { clusterDomain = CLUSTER_DOMAIN, searchDomains = [] } = snapshot.host;
  const domains: Domains = { cluster: clusterDomain, search: searchDomains };

  const idFor = (policies: readonly Policy[], place: Place): Id => {
    if (policies.length === 0) return NO_ID;
    const where = JSON.stringify(place);
    const known = ids.get(policies)?.get(where);
    if (known !== undefined) return known;
    const content = rulesetContent(policies, place);
    let id = byContent.get(content);
    if (id === undefined) {
      const built = ruleset(policies, place);
      id = built.id;
      if (rulesets.has(id)) problems.push(clashProblem());
      rulesets.set(id, built);
      byContent.set(content, id);
      problems.push(...tooManyRules(built));
    }
    ids.set(policies, (ids.get(policies) ?? new Map<string, Id>()).set(where, id));
    return id;
  };

  for (const pod of local) {
    if (pod.ended) continue;
    const selected = select(pod);
    beyond.push(...overfull(`${pod.namespace}/${pod.name}`, selected));
    const [enforced, shadow] = [selected.enforced, selected.shadow].map((each) =>
      ownNode ? andOwnNode(each) : each,
    ) as [readonly Policy[], readonly Policy[]];
    const place: Place = { hostNetwork: pod.hostNetwork, hosts: hostsOf(pod, snapshot, nodes), domains };
    const enforcedId = idFor(enforced, place);
    workloads.set(`${pod.namespace}/${pod.name}`, {
      ...{ namespace: pod.namespace, name: pod.name, uid: pod.uid, cgroup: pod.cgroup, hostNetwork: pod.hostNetwork },
      enforced: enforcedId,
      shadow: idFor(shadow, place),
      selves: pod.hostNetwork ? [] : pod.addresses.map(keyOf),
    });
  }
  const here: Place = {
    ...{ hostNetwork: true, hosts: hostsOf({ node: snapshot.host.node }, snapshot, nodes), domains },
  };
  for (const [unit, selection] of unitSelections(snapshot)) {
    const { enforced, shadow } = selection;
    beyond.push(...overfull(unitKey(unit), selection));
    workloads.set(unitKey(unit), {
      ...{ namespace: '', name: unit, uid: null, cgroup: null, hostNetwork: true, selves: [] },
      ...{ enforced: idFor(enforced, here), shadow: idFor(shadow, here) },
    });
  }
  return { workloads, rulesets, problems: unique(problems), overfull: beyond };
}

/** The names under which a workload's own node is known; see `Kind.hosts`. */
function hostsOf(pod: Pick<Pod, 'node'>, { host }: Snapshot, nodes: ReadonlySet<string>): string[] {
  const isHere = host.node === null ? pod.node === null : pod.node === host.node;
  return [...(pod.node !== null && nodes.has(pod.node) ? [`node/${pod.node}`] : []), ...(isHere ? ['machine'] : [])];
}

function networksOf({ networks, zones, notWorld }: Destinations): Map<NetworkKey, Id> {
  const all = new Map<NetworkKey, Id>();
  for (const [space, { prefixes }] of [networks, zones, notWorld].entries()) {
    for (const [at, found] of prefixes) {
      if (space === SPACE_NETWORKS && at.endsWith('/128')) continue;
      const id = space === SPACE_NOT_WORLD && found === NO_BLOCKS ? NO_ID : found.id;
      all.set(`${space as 0 | 1 | 2}/${at as `${AddressKey}/${number}`}`, id);
    }
  }
  return all;
}

function problem(code: string, object: string | null, message: string, advice: string): Problem {
  return { severity: 'error', code, file: null, line: 0, column: 0, path: '', object, message, advice };
}

/** A precedence has 16 bits; in the tiers of ClusterNetworkPolicy two of them are the action. */
const MOST_RULES = { policy: 0xfffe, admin: 0x3fff, baseline: 0x3fff } as const;

function tooManyRules({ info }: Ruleset): Problem[] {
  return (['admin', 'policy', 'baseline'] as const).flatMap((tier) => {
    const most = MOST_RULES[tier];
    const beyond = info[tier][most];
    if (beyond === undefined) return [];
    return [
      problem(
        'limit_exceeded',
        policyName(beyond),
        `is one of policies that together put more than ${most.toLocaleString('en')} rules on one workload`,
        'merge rules: a rule takes up to 25 peers, and as many ports or protocols',
      ),
    ];
  });
}

function clashProblem(): Problem {
  return problem(
    'id_clash',
    null,
    'two different contents have the same 64-bit id',
    'change any label or rule of either',
  );
}

function unique(problems: readonly Problem[]): Problem[] {
  return [...new Map(problems.map((each) => [`${each.code} ${each.object}`, each])).values()];
}
