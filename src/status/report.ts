// SPDX-License-Identifier: Apache-2.0
// What a node says of itself to whoever writes status: what it enforces, and what it cannot. Small, since every node's is read
// by one: which policies it enforces is one hash, which the reader compares with those that it made itself.
import { idOf } from '../model/hash.ts';
import type { Policy, Problem } from '../model/objects.ts';
import type { Id } from '../model/tables.ts';
import { policyName } from '../resolve/order.ts';
import { isRecord } from './api.ts';

export const REPORT_ANNOTATION = 'postern.dev/node-report';

export interface NodeReport {
  /** Of every policy that is enforced, in the version that it is enforced in; see `policySet`. */
  readonly hash: Id;
  /** What this node cannot hold, and why. `policy` null: everything that is newer than what it enforces. */
  readonly refused: readonly { readonly policy: string | null; readonly code: string; readonly message: string }[];
  /** By policy name: units that it selects here, and how many of them are held. */
  readonly units: Readonly<Record<string, { readonly selected: number; readonly held: number }>>;
}

/** Bounds on what one node can make every reader read. */
const MAX_REFUSED = 20;
const MAX_UNITS = 50;
const MAX_MESSAGE = 300;

/** Policies by their versions, with the hash of all of them. */
export interface PolicySet {
  readonly hash: Id;
  /** `uid:generation`. */
  readonly versions: ReadonlySet<string>;
}

/**
 * Which versions of which policies a snapshot holds. Those in `invalid` (by name) are left out: one node may remember a valid
 * version of them and another not.
 */
export function policySet(policies: readonly Policy[], invalid: ReadonlySet<string>): PolicySet {
  const versions = policies.flatMap((policy) => {
    const version = versionOf(policy);
    return version === null || invalid.has(policyName(policy)) ? [] : [version];
  });
  versions.sort();
  return { hash: idOf(versions.join('\n')), versions: new Set(versions) };
}

/** null: its object does not say. */
export function versionOf({ version }: Policy): string | null {
  return version === undefined ? null : `${version.uid}:${version.generation}`;
}

/** Problems that are a node's and not of what an object says: other nodes may not have them. */
const OF_NODE: ReadonlySet<string> = new Set([
  ...['unit_not_found', 'unit_outside_root', 'unit_ambiguous', 'unit_is_agent'],
  ...['cgroup_clash', 'cgroup_refused', 'limit_exceeded', 'id_clash', 'enforcement_failed'],
]);

export function isOfNode({ code }: Pick<Problem, 'code'>): boolean {
  return OF_NODE.has(code);
}

/** Names of the policies that are invalid as they are written now. */
export function invalidPolicies(problems: readonly Problem[]): ReadonlySet<string> {
  const invalid = problems.filter((one) => one.severity === 'error' && one.object !== null && !isOfNode(one));
  return new Set(invalid.map(({ object }) => object ?? ''));
}

/** What is refused, and what helps, of a node's own problems; a warning (a unit that is not there yet) refuses nothing. */
export function refusalsOf(problems: readonly Problem[]): NodeReport['refused'] {
  return problems
    .filter((one) => one.severity === 'error' && isOfNode(one))
    .filter(({ object }) => object === null || !object.startsWith('Pod/'))
    .map(({ object, code, message, advice }) => ({ policy: object, code, message: `${message}; ${advice}` }));
}

/** The value of the annotation. */
export function encodeReport({ hash, refused, units }: NodeReport): string {
  return JSON.stringify({
    hash,
    refused: refused
      .slice(0, MAX_REFUSED)
      .map(({ policy, code, message }) => [policy, code, message.slice(0, MAX_MESSAGE)]),
    units: Object.fromEntries(
      Object.entries(units)
        .slice(0, MAX_UNITS)
        .map(([policy, { selected, held }]) => [policy, [selected, held]]),
    ),
  });
}

/** null: not a report. Another version's may have more fields. */
export function decodeReport(text: string | undefined): NodeReport | null {
  if (text === undefined) return null;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  if (!isRecord(value) || typeof value.hash !== 'string') return null;
  const refused = Array.isArray(value.refused) ? value.refused : [];
  const units = isRecord(value.units) ? Object.entries(value.units) : [];
  return {
    hash: value.hash,
    refused: refused.flatMap((one: unknown) => {
      if (!Array.isArray(one)) return [];
      const [policy, code, message] = one as unknown[];
      return [{ policy: typeof policy === 'string' ? policy : null, code: String(code), message: String(message) }];
    }),
    units: Object.fromEntries(
      units.flatMap(([policy, counts]) =>
        Array.isArray(counts) ? [[policy, { selected: Number(counts[0]) || 0, held: Number(counts[1]) || 0 }]] : [],
      ),
    ),
  };
}
