// SPDX-License-Identifier: Apache-2.0
// What of a snapshot can be enforced where all of it goes over a limit? Pure; which limits there are is the compiler's to know.
import { MAX_LIMITS } from '#build/generated/abi.ts';
import { limitProblem, type Overfull } from '../compile/overfull.ts';
import type { Policy, Problem, Snapshot } from '../model/objects.ts';
import { policyName } from '../resolve/order.ts';

export interface Lessened {
  readonly snapshot: Snapshot;
  /** Of each policy that is not in it as it is written now. */
  readonly problems: readonly Problem[];
}

/**
 * Less the policies to blame: as they were in `before`; where they were not, a Limit is gone, and any other isolates and allows nothing.
 * What `before` held already is left alone, so that a policy that comes on top never opens what another closed. null: nobody is to blame.
 * @param before what is enforced; null: nothing yet.
 * @param problems why `snapshot` is not; such as name no policy count for nothing here.
 */
export function lessened(snapshot: Snapshot, before: Snapshot | null, problems: readonly Problem[]): Lessened | null {
  const reasons = new Map(problems.map((problem) => [problem.object, problem]));
  const former = new Map((before?.policies ?? []).map((policy) => [policyName(policy), policy]));
  const mayGo = (policy: Policy): boolean =>
    !isSame(former.get(policyName(policy)), policy) && (policy.effect === 'Limit' || policy.rules.length > 0);
  const named = snapshot.policies.filter((policy) => reasons.has(policyName(policy)));
  const atOnce = named.filter(mayGo);
  // The one that is named, being the last in order, may have been there before the others.
  const beside = snapshot.policies.filter(
    (policy) => mayGo(policy) && before !== null && named.some(({ effect }) => effect === policy.effect),
  );
  const blamed = new Set(atOnce.length > 0 ? atOnce : beside);
  const [first] = named;
  const why = first === undefined ? undefined : reasons.get(policyName(first));
  if (blamed.size === 0 || why === undefined) return null;
  const policies = snapshot.policies.flatMap((policy) => {
    if (!blamed.has(policy)) return [policy];
    const earlier = former.get(policyName(policy));
    if (earlier !== undefined) return [earlier];
    return policy.effect === 'Limit' ? [] : [{ ...policy, rules: [] }];
  });
  return {
    snapshot: { ...snapshot, policies },
    problems: [...blamed].map((policy) => {
      const object = policyName(policy);
      return { ...(reasons.get(object) ?? why), object };
    }),
  };
}

/**
 * Of Limits that came since `before` (or were widened since) and put a workload over what it may have: why they are to be left out. Without
 * them it must have few enough, and none of one namespace keeps out one of the cluster: else its author could make his pods immune. Of
 * other workloads nothing is said: they came, or got labels, and it is they who are closed, or all others would lose a Limit by them.
 * @param before null: nothing is enforced yet, so that nobody knows who came last.
 */
export function blamed(overfull: readonly Overfull[], before: Snapshot | null): readonly Problem[] {
  if (before === null || overfull.length === 0) return [];
  const former = new Map(before.policies.map((policy) => [policyName(policy), policy]));
  const problems = new Map<Policy, Problem>();
  for (const one of overfull) {
    const stayed = one.limits.filter((policy) => isHeldAlike(former.get(policyName(policy)), policy));
    if (stayed.length > MAX_LIMITS) continue;
    for (const policy of one.limits.filter((each) => !stayed.includes(each))) {
      const rivals = policy.namespace === null ? stayed.filter(({ namespace }) => namespace === null) : stayed;
      if (rivals.length < MAX_LIMITS) stayed.push(policy);
      else problems.set(policy, problems.get(policy) ?? limitProblem(policy, one));
    }
  }
  return [...problems.values()];
}

/** It was a Limit, too, and selected the same. */
function isHeldAlike(former: Policy | undefined, policy: Policy): boolean {
  if (former === undefined || former === policy) return former !== undefined;
  const selecting = ({ effect, mode, hostNetwork, subject }: Policy) =>
    JSON.stringify([effect, mode, hostNetwork, subject]);
  return selecting(former) === selecting(policy);
}

function isSame(a: Policy | undefined, b: Policy): boolean {
  return a === b || JSON.stringify(a) === JSON.stringify(b);
}
