// SPDX-License-Identifier: Apache-2.0
// Which names may a workload ask DNS for, all policies on it taken together? By api.md, "Settings of several policies". Knows neither
// destinations nor ports.

import { REASON_NAME_NOT_ALLOWED, REASON_RULE, REASON_SEARCH_DOMAIN, RULE_NONE } from '#build/generated/abi.ts';
import { NAME_BYTES, type NamePattern, WILDCARD } from '../model/name.ts';
import type { Policy } from '../model/objects.ts';
import type { Outcome } from './compose.ts';

/** What holds on the node, whatever policies say. */
export interface Domains {
  /** The cluster's own names may always be asked; null: there is no cluster. */
  readonly cluster: string | null;
  /** What libc puts behind names. */
  readonly search: readonly string[];
}

interface Allowance {
  readonly patterns: ReadonlySet<NamePattern>;
  /** Those who say that there is no more say Drop. */
  readonly silent: boolean;
}

export interface Asking {
  /** Of every Isolate and Grant; null: none of them says that there is no more. */
  readonly union: Allowance | null;
  /** Of each Limit that says so, by its bit number. */
  readonly limits: ReadonlyMap<number, Allowance>;
  readonly cluster: ReadonlySet<NamePattern>;
  readonly search: readonly string[];
}

export function limitsQueries({ allowedNames }: Policy): boolean {
  return allowedNames?.only === true;
}

export function isOfUnion({ effect }: Policy): boolean {
  return effect === 'Isolate' || effect === 'Grant';
}

/** @param limits by bit number. null: every name may be asked. */
export function askingOf(
  union: readonly Policy[],
  limits: readonly Policy[],
  { cluster, search }: Domains,
): Asking | null {
  const saying = union.filter(limitsQueries);
  const limiting = [...limits.entries()].filter(([, policy]) => limitsQueries(policy));
  if (saying.length === 0 && limiting.length === 0) return null;
  return {
    union: saying.length === 0 ? null : { patterns: namesOf(union), silent: saying.every(isDrop) },
    limits: new Map(
      limiting.map(([bit, policy]) => [bit, { patterns: namesOf([policy]), silent: isDrop(policy) }] as const),
    ),
    cluster: new Set(cluster === null ? [] : [cluster, WILDCARD + cluster]),
    search,
  };
}

/** A rule that allows nothing yet names what it is about all the same. */
function namesOf(policies: readonly Policy[]): Set<NamePattern> {
  return new Set(
    policies.flatMap(({ allowedNames, rules }) => [
      ...(allowedNames?.names ?? []),
      ...rules.flatMap(({ peers }) => peers.flatMap((peer) => (peer.type === 'domainNames' ? peer.names : []))),
    ]),
  );
}

function isDrop({ onDeny }: Policy): boolean {
  return onDeny === 'Drop';
}

/** All that makes a difference to what may be asked. */
export function askedPatterns({ union, limits, cluster, search }: Asking): Set<NamePattern> {
  const patterns = new Set<NamePattern>(cluster);
  for (const allowance of [...(union === null ? [] : [union]), ...limits.values()]) {
    for (const pattern of allowance.patterns) patterns.add(pattern);
  }
  for (const pattern of [...patterns]) {
    for (const domain of search) {
      const longer = `${pattern}.${domain}`;
      if (longer.length <= NAME_BYTES) patterns.add(longer);
    }
  }
  return patterns;
}

/**
 * May a name be asked? An allowed name with a search domain behind it may not, but is told that there is none: where REFUSED ended the search,
 * the name itself would never be asked.
 * @param patterns all of `askedPatterns` that match it.
 */
export function askedOutcome(asking: Asking, patterns: readonly NamePattern[]): Outcome {
  const outcome = whole(asking, patterns);
  if (!outcome.denied) return outcome;
  const isSearched = asking.search.some((domain) => {
    const end = `.${domain}`;
    const before = patterns.filter((pattern) => pattern.endsWith(end)).map((pattern) => pattern.slice(0, -end.length));
    return before.length > 0 && !whole(asking, before).denied;
  });
  return isSearched ? allowed(REASON_SEARCH_DOMAIN) : outcome;
}

function whole({ union, limits, cluster }: Asking, patterns: readonly NamePattern[]): Outcome {
  const allows = (allowance: Allowance): boolean => patterns.some((pattern) => allowance.patterns.has(pattern));
  if (patterns.some((pattern) => cluster.has(pattern))) return allowed(REASON_RULE);
  const missing = [...limits].filter(([, allowance]) => !allows(allowance));
  const [first] = missing;
  if (first !== undefined)
    return refused(
      first[0],
      missing.every(([, { silent }]) => silent),
    );
  if (union !== null && !allows(union)) return refused(RULE_NONE, union.silent);
  return allowed(REASON_RULE);
}

function allowed(reason: number): Outcome {
  return { denied: false, reason, rule: RULE_NONE, silent: false };
}

function refused(rule: number, silent: boolean): Outcome {
  return { denied: true, reason: REASON_NAME_NOT_ALLOWED, rule, silent };
}
