// SPDX-License-Identifier: Apache-2.0
// What became of each ClusterNetworkPolicy, as its `status.conditions` say it. Upstream's CRD has conditions alone and names no type of them
// ("Status is the status to be reported by the implementation"), and several implementations may enforce one object: so ours carry our domain,
// which the CRD's pattern for types allows. Pure; of ingress, in which we have no part, is said just that.
import { policyName } from '../resolve/order.ts';
import { invalidPolicies } from './report.ts';
import {
  accepted,
  inItsPlace,
  NOBODY,
  nodesOf,
  type PolicyObject,
  type StatusInput,
  selectedBy,
  type WantedStatus,
} from './status.ts';

/** Who reads conditions should not take silence on ingress for enforcement. */
const NOT_OURS = 'Its ingress rules are not enforced here: Postern enforces egress alone.';

/**
 * Accepted: Accepted, NoEgressRules, Invalid, LimitExceeded, NotYetEnforced (also: fails closed by a peer that is unknown). Programmed: Programmed,
 * NoWorkloads, Pending, RefusedByNode, AgentSilent. As of our own kinds, where the API's documentation has them.
 */
export const UPSTREAM_CONDITIONS: ReadonlySet<string> = new Set(['postern.dev/Accepted', 'postern.dev/Programmed']);

/** By `ClusterNetworkPolicy/name`: of every one that the snapshot or `objects` holds, and of those that are invalid. */
export function clusterNetworkPolicyStatuses(input: StatusInput): ReadonlyMap<string, WantedStatus> {
  const { snapshot, problems, objects = new Map<string, PolicyObject>() } = input;
  const kind = 'ClusterNetworkPolicy';
  const byObject = Map.groupBy(problems, ({ object }) => object ?? '');
  const invalid = invalidPolicies(problems);
  const selected = selectedBy(snapshot);
  const acceptedAs = (name: string, place: string | null) => {
    // Rules with such a peer are not as written either: an Accept allows nothing, a Deny or Pass denies everything.
    const told = (byObject.get(name) ?? []).map((one) =>
      one.code === 'unknown_peer' ? { ...one, code: 'not_yet_enforced' } : one,
    );
    const condition = accepted(told, place);
    const more = objects.get(name)?.hasIngress === true ? ` ${NOT_OURS}` : '';
    return { ...condition, message: `${condition.message}${more}`, type: 'postern.dev/Accepted' };
  };

  const statuses = new Map<string, WantedStatus>();
  for (const policy of snapshot.policies) {
    if (policy.kind !== kind) continue;
    const name = policyName(policy);
    const isInvalid = invalid.has(name);
    const { condition } = nodesOf(policy, selected.get(policy) ?? NOBODY, isInvalid, input);
    statuses.set(name, {
      ...{ kind, namespace: null, name: policy.name },
      uid: policy.version?.uid ?? null,
      version: isInvalid ? null : (policy.version ?? null),
      counts: null,
      conditions: [
        acceptedAs(name, isInvalid ? inItsPlace(policy, objects.get(name)) : null),
        { ...condition, type: 'postern.dev/Programmed' },
      ],
    });
  }
  for (const key of invalid) {
    if (!key.startsWith(`${kind}/`) || statuses.has(key)) continue;
    statuses.set(key, {
      ...{ kind, namespace: null, name: key.slice(kind.length + 1), uid: null, version: null, counts: null },
      conditions: [acceptedAs(key, inItsPlace(null, objects.get(key)))],
    });
  }
  for (const [key, { uid, generation, valid, hasIngress }] of objects) {
    // Known of a moment later than the snapshot, it may be a policy by now.
    if (!key.startsWith(`${kind}/`) || statuses.has(key) || valid !== null) continue;
    const message = `The policy has no egress rules, so it does nothing here.${hasIngress === true ? ` ${NOT_OURS}` : ''}`;
    statuses.set(key, {
      ...{ kind, namespace: null, name: key.slice(kind.length + 1), uid, version: { uid, generation }, counts: null },
      conditions: [{ type: 'postern.dev/Accepted', status: 'True', reason: 'NoEgressRules', message }],
    });
  }
  return statuses;
}
