// SPDX-License-Identifier: Apache-2.0
// The order in which policies are told: kind, namespace, name, by code unit. It decides who is named, never what passes.

import type { Policy } from '../model/objects.ts';

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

export function byTold(a: Policy, b: Policy): number {
  return compare(a.kind, b.kind) || compare(a.namespace ?? '', b.namespace ?? '') || compare(a.name, b.name);
}

/** How a policy is written wherever a verdict names it: `NetworkPolicy/shop/db`, `ClusterEgressPolicy/ntp`. */
export function policyName(policy: {
  readonly kind: string;
  readonly namespace: string | null;
  readonly name: string;
}): string {
  return policy.namespace === null
    ? `${policy.kind}/${policy.name}`
    : `${policy.kind}/${policy.namespace}/${policy.name}`;
}
