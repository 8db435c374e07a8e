// SPDX-License-Identifier: Apache-2.0
// What upstream's text gives every pod that a NetworkPolicy holds: "traffic to and from the node where a Pod is running is always
// allowed" (kubernetes.io, Network Policies). As a policy like any other, so that verdicts name it and Limits and tiers hold above it.
import type { Policy } from '../model/objects.ts';
import { byTold } from './order.ts';
import { EVERYTHING } from './selector.ts';

export const OWN_NODE: Policy = {
  ...{ kind: 'ClusterEgressPolicy', namespace: null, name: 'postern-own-node', effect: 'Grant', priority: 0 },
  ...{ mode: 'Enforce', onDeny: 'Reject', hostNetwork: false },
  subject: { type: 'pods', pods: { namespaceSelector: EVERYTHING, podSelector: EVERYTHING }, except: [] },
  rules: [
    {
      ...{ name: 'own-node', action: 'Accept', ports: null, notEnforced: null },
      peers: [{ type: 'entities', entities: ['Host'], except: { cidrs: [], entities: [] } }],
    },
  ],
};

const withIt = new WeakMap<readonly Policy[], readonly Policy[]>();

/** The policies on a workload and, where a NetworkPolicy is among them, its own node. The same list for the same list. */
export function andOwnNode(policies: readonly Policy[]): readonly Policy[] {
  if (!policies.some(({ kind }) => kind === 'NetworkPolicy')) return policies;
  let all = withIt.get(policies);
  if (all === undefined) {
    all = [...policies, OWN_NODE].sort(byTold);
    withIt.set(policies, all);
  }
  return all;
}
