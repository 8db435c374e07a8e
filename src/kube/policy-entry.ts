// SPDX-License-Identifier: Apache-2.0
// What holds of a policy object, given what it says and what it last said validly? The rule is the folder's: valid as written: that.
// Invalid: its last valid version. None: its stand-in, which isolates what the policy selects. Another uid is another object.
import type { Policy, PolicyKind, Problem } from '../model/objects.ts';
import { readObject } from '../parse/object.ts';
import { pathText } from '../validate/finding.ts';
import { isObject } from '../validate/kind.ts';
import { equal } from './equal.ts';
import type { Cut } from './reflector.ts';

export interface PolicyEntry {
  /** `Kind/namespace/name`, cluster-scoped `Kind/name`. */
  readonly key: string;
  readonly kind: PolicyKind;
  readonly namespace: string | null;
  readonly name: string;
  readonly uid: string;
  readonly generation: number;
  readonly resourceVersion: string;
  /** As the API server has it: for whoever writes it. */
  readonly status: unknown;
  /** What holds; null: nothing. */
  readonly policy: Policy | null;
  /** The last valid version, null where that is not about egress; undefined: there never was one. */
  readonly valid: Policy | null | undefined;
  /** It has ingress rules, as it is written now; they are not our affair. */
  readonly hasIngress: boolean;
  readonly problems: readonly Problem[];
}

/** What is kept of a policy for the next start. */
export interface KeptPolicy {
  readonly uid: string;
  readonly policy: Policy | null;
}

/** @param kept what an earlier run last found valid under this key. */
export function readPolicy(
  kind: PolicyKind,
  object: Cut,
  before: PolicyEntry | undefined,
  kept: KeptPolicy | undefined,
): PolicyEntry {
  const metadata = object.metadata as {
    readonly name: string;
    readonly namespace?: string;
    readonly uid?: string;
    readonly generation?: number;
    readonly resourceVersion: string;
  };
  const { status, ...said } = object;
  const { key, value, valid, standIn, findings } = readObject(kind, said, null);
  if (key === null) throw new TypeError(`${kind} without a name`);
  const uid = metadata.uid ?? '';
  const known = before?.uid === uid ? before : undefined;
  const earlier = known !== undefined ? known.valid : kept?.uid === uid ? kept.policy : undefined;
  const last = valid ? same(earlier, value as Policy | null) : earlier;
  const policy = valid ? (last ?? null) : last !== undefined ? last : same(before?.policy, standIn);
  const problems = findings.map(
    ({ severity, code, path, message, advice }): Problem => ({
      severity,
      code,
      file: null,
      line: 0,
      column: 0,
      path: pathText(path),
      object: key,
      message,
      advice,
    }),
  );
  return {
    key,
    kind,
    namespace: metadata.namespace ?? null,
    name: metadata.name,
    uid,
    generation: metadata.generation ?? 0,
    resourceVersion: metadata.resourceVersion,
    status,
    policy,
    valid: last,
    hasIngress: hasIngress(said.spec),
    problems: before !== undefined && equal(before.problems, problems) ? before.problems : problems,
  };
}

function hasIngress(spec: unknown): boolean {
  return isObject(spec) && Array.isArray(spec.ingress) && spec.ingress.length > 0;
}

function same<T>(before: T | undefined, now: T): T {
  return before !== undefined && equal(before, now) ? before : now;
}
