// SPDX-License-Identifier: Apache-2.0
// What is left of a snapshot that goes over a limit, less what is to blame? Pure.
import type { Problem, Snapshot } from '../model/objects.ts';
import { policyName } from '../resolve/order.ts';

/** Less the policies that the problems name: a Limit is gone, any other isolates as before and allows nothing. null: none is left to lessen. */
export function withoutRulesOf(snapshot: Snapshot, problems: readonly Problem[]): Snapshot | null {
  const named = new Set(problems.map(({ object }) => object));
  const policies = snapshot.policies.flatMap((policy) => {
    if (!named.has(policyName(policy))) return [policy];
    return policy.effect === 'Limit' ? [] : [policy.rules.length === 0 ? policy : { ...policy, rules: [] }];
  });
  const isSame =
    policies.length === snapshot.policies.length && policies.every((one) => snapshot.policies.includes(one));
  return isSame ? null : { ...snapshot, policies };
}
