// SPDX-License-Identifier: Apache-2.0
// Whose is most of what a map would have to hold? By policy where entries are what policies write, by namespace where they come of which
// workloads are here. Asked only where a map is too small; knows no map's size.
import type { Policy } from '../model/objects.ts';
import type { Tables } from '../model/tables.ts';
import { policyName } from '../resolve/order.ts';

export interface Share {
  /** `EgressPolicy/shop/web`, `namespace shop`; units of the node: `the node's services`. */
  readonly of: string;
  readonly entries: number;
}

/** Three say who to talk to; more would be a list of everybody. */
const TOLD = 3;

/**
 * The largest shares, largest first; empty: nobody's in particular. Of `networks` and `identities` a share is the prefixes that a policy writes, of
 * `names` its patterns, of `verdicts` and `ports` what the rulesets of a namespace's workloads hold (one ruleset may be several namespaces'), of
 * `workloads` and `selves` the workloads and their addresses.
 */
export function largestShares(map: string, policies: readonly Policy[], tables: Tables): Share[] {
  const count = COUNTS[map];
  if (count === undefined) return [];
  return [...count(policies, tables)]
    .filter(([, entries]) => entries > 0)
    .sort(([one, many], [other, few]) => few - many || (one < other ? -1 : 1))
    .slice(0, TOLD)
    .map(([of, entries]) => ({ of, entries }));
}

type Count = (policies: readonly Policy[], tables: Tables) => ReadonlyMap<string, number>;

const COUNTS: Readonly<Record<string, Count>> = {
  networks: (policies) => byPolicy(policies, cidrsOf),
  identities: (policies) => byPolicy(policies, cidrsOf),
  names: (policies) => byPolicy(policies, patternsOf),
  verdicts: (_, tables) =>
    byNamespace(
      tables,
      rowsByRuleset(tables, () => 1),
    ),
  ports: (_, tables) =>
    byNamespace(
      tables,
      rowsByRuleset(tables, (portSet) => tables.portSets.get(portSet)?.length ?? 0),
    ),
  workloads: (_, tables) => sum([...tables.workloads.values()].map(({ namespace }) => [namespaceName(namespace), 1])),
  selves: (_, tables) =>
    sum([...tables.workloads.values()].map(({ namespace, selves }) => [namespaceName(namespace), selves.length])),
};

function byPolicy(policies: readonly Policy[], partsOf: (policy: Policy) => readonly string[]): Map<string, number> {
  return sum(policies.map((policy) => [policyName(policy), new Set(partsOf(policy)).size]));
}

function cidrsOf({ rules }: Policy): string[] {
  return rules
    .flatMap(({ peers }) => peers)
    .flatMap((peer) => {
      if (peer.type === 'networks') return [...peer.cidrs, ...peer.except];
      return peer.type === 'entities' ? peer.except.cidrs : [];
    });
}

function patternsOf({ rules, allowedNames }: Policy): string[] {
  const peers = rules.flatMap((rule) => rule.peers);
  return [...peers.flatMap((peer) => (peer.type === 'domainNames' ? peer.names : [])), ...(allowedNames?.names ?? [])];
}

function rowsByRuleset({ rows }: Tables, entriesOf: (portSet: string) => number): ReadonlyMap<string, number> {
  return sum([...rows.values()].map(({ ruleset, portSet }) => [ruleset, entriesOf(portSet)]));
}

function byNamespace({ workloads }: Tables, byRuleset: ReadonlyMap<string, number>): Map<string, number> {
  const held = new Map<string, Set<string>>();
  for (const { namespace, enforced, shadow } of workloads.values()) {
    const rulesets = held.get(namespace) ?? new Set();
    held.set(namespace, rulesets.add(enforced).add(shadow));
  }
  return sum(
    [...held].flatMap(([namespace, rulesets]) =>
      [...rulesets].map((ruleset): [string, number] => [namespaceName(namespace), byRuleset.get(ruleset) ?? 0]),
    ),
  );
}

function namespaceName(namespace: string): string {
  return namespace === '' ? "the node's services" : `namespace ${namespace}`;
}

function sum(parts: readonly (readonly [of: string, entries: number])[]): Map<string, number> {
  const sums = new Map<string, number>();
  for (const [of, entries] of parts) sums.set(of, (sums.get(of) ?? 0) + entries);
  return sums;
}
