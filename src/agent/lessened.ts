// SPDX-License-Identifier: Apache-2.0
// What of a snapshot can be enforced where all of it goes over a limit? Pure; which limits there are is the compiler's to know.
import type { Policy, Problem, Snapshot } from '../model/objects.ts';
import { policyName } from '../resolve/order.ts';

export interface Lessened {
  readonly snapshot: Snapshot;
  /** Of each policy that is not in it as it is written now. */
  readonly problems: readonly Problem[];
}

/**
 * Less the policies to blame: as they were in `before`; where they were not, a Limit is gone, and any other isolates and allows nothing.
 * What `before` held already is left alone, so that a policy that comes on top never opens what another closed. null: nobody is to blame
 * (a pod that another label put under nine Limits).
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
  // The ninth by name may have been there before the others.
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

function isSame(a: Policy | undefined, b: Policy): boolean {
  return a === b || JSON.stringify(a) === JSON.stringify(b);
}
