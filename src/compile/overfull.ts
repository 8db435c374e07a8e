// SPDX-License-Identifier: Apache-2.0
// Which workloads do more Limits hold than fit into a row, and what is said of them? What they may do is ruleset.ts's to know; whether that
// is enforced, or all is refused, is for whoever enforces.
import { MAX_LIMITS } from '#build/generated/abi.ts';
import type { Policy, Problem } from '../model/objects.ts';
import { policyName } from '../resolve/order.ts';
import type { Selection } from '../resolve/selection.ts';
import { unitOf } from '../resolve/units.ts';
import { workloadName } from '../tell/workload.ts';
import { tooManyLimits } from './ruleset.ts';

export interface Overfull {
  /** Key of the workload. */
  readonly workload: string;
  /** All its Limits, in told order. */
  readonly limits: readonly Policy[];
  /** Too many only if Audit policies were enforced: nothing is refused. */
  readonly isAudit: boolean;
}

/** One, or none. */
export function overfull(workload: string, { enforced, shadow }: Selection): Overfull[] {
  const limits = tooManyLimits(shadow);
  return limits.length === 0 ? [] : [{ workload, limits, isAudit: tooManyLimits(enforced).length === 0 }];
}

/** Where this is enforced: of each such pod, and of each Limit that is one too many, with the first workload on which it is. */
export function overfullProblems(all: readonly Overfull[]): Problem[] {
  const ofPods = all
    .filter(({ workload }) => unitOf(workload) === null)
    .map((one) => {
      const limits = one.limits.map(policyName).join(', ');
      const message = `is held by ${one.limits.length} Limits, and may have ${MAX_LIMITS}: ${whatHolds(one)}; they are ${limits}`;
      return problem(`Pod/${one.workload}`, message, MEND);
    });
  const ofPolicies = new Map<Policy, Problem>();
  for (const one of all) {
    const message = `is the ninth Limit or later on ${workloadName(one.workload)}, which may have ${MAX_LIMITS}: ${whatHolds(one)}`;
    for (const policy of one.limits.slice(MAX_LIMITS)) {
      const others = one.limits.filter((other) => other !== policy).map(policyName);
      const made = problem(policyName(policy), message, `${MEND}; the others are ${others.join(', ')}`);
      if (!ofPolicies.has(policy)) ofPolicies.set(policy, made);
    }
  }
  return [...ofPods, ...ofPolicies.values()];
}

/** Where it is not, of a Limit that should not be there. */
export function limitProblem(policy: Policy, { workload }: Overfull): Problem {
  const who = workloadName(workload);
  return problem(policyName(policy), `would be the ninth Limit or later on ${who}, which may have ${MAX_LIMITS}`, MEND);
}

/** Of a workload alone: its Limits are listed elsewhere. */
export function overfullNote({ limits, ...one }: Overfull): string {
  return `it is held by ${limits.length} Limits, and may have ${MAX_LIMITS}: ${whatHolds(one)}`;
}

function whatHolds({ isAudit }: Pick<Overfull, 'isAudit'>): string {
  return isAudit
    ? 'with its Audit policies enforced it might do only what the Admin tier accepts'
    : 'until that is mended it may do only what the Admin tier accepts';
}

const MEND = 'merge Limits, narrow whom they select, or change the labels by which they select it';

function problem(object: string, message: string, advice: string): Problem {
  return {
    ...{ severity: 'error', code: 'limit_exceeded', file: null, line: 0, column: 0, path: '' },
    ...{ object, message, advice },
  };
}
