// SPDX-License-Identifier: Apache-2.0
// Which rules allow nothing, since a Limit on all whom they are for contains none of it? By what rules say alone: told is only what holds
// wherever pods and Services come to be.
import type { Entity, Peer, Pod, Policy, Rule, Snapshot } from '../model/objects.ts';
import { entityRanges } from '../resolve/entities.ts';
import { policyName } from '../resolve/order.ts';
import { doubtful, type Finding } from '../validate/finding.ts';
import { isWithin, podsMayMeet, portsMayMeet } from './tiers.ts';

/**
 * @param held the pods of the folder that it holds.
 * @param on the policies on one of them.
 */
export function checkVoided(
  policy: Policy,
  held: readonly Pod[],
  on: (pod: Pod) => readonly Policy[],
  snapshot: Snapshot,
): Finding[] {
  if (policy.effect !== 'Isolate' && policy.effect !== 'Grant') return [];
  const [first, ...others] = held;
  if (first === undefined) return [];
  const limits = on(first).filter(
    (limit) =>
      limit.effect === 'Limit' &&
      (limit.mode === 'Enforce' || policy.mode === 'Audit') &&
      others.every((pod) => on(pod).includes(limit)),
  );
  if (limits.length === 0) return [];
  const { World, Internet } = entityRanges(snapshot);
  const outside: Outside = { World: World.except, Internet: Internet.except };
  return policy.rules.flatMap((rule, index) => {
    // What is not enforced yet allows nothing for another reason, and there is a finding for that.
    if (rule.notEnforced !== null) return [];
    const limit = limits.find(({ rules }) => !rules.some((one) => mayMeet(rule, one, outside)));
    if (limit === undefined) return [];
    const message = `nothing of this is within ${policyName(limit)}, a Limit on all that ${policyName(policy)} holds: the rule allows nothing`;
    const advice = `widen that Limit, take these pods out of it by its subject, or remove the rule`;
    return [doubtful('voided_by_limit', ['spec', 'egress', index], message, advice)];
  });
}

/** What an entity is not, whoever has the address. */
interface Outside {
  readonly World: readonly string[];
  readonly Internet: readonly string[];
}

function mayMeet(rule: Rule, limit: Rule, outside: Outside): boolean {
  const ports =
    rule.ports === null ||
    limit.ports === null ||
    rule.ports.some((one) => limit.ports?.some((other) => portsMayMeet(one, other)));
  return ports && rule.peers.some((one) => limit.peers.some((other) => peersMayMeet(one, other, outside)));
}

function peersMayMeet(a: Peer, b: Peer, outside: Outside): boolean {
  if (a.type === 'entities' && b.type === 'entities') return entitiesMayMeet(a, b);
  if (a.type === 'entities') return b.type === 'entities' || mayBeIn(b, a, outside);
  if (b.type === 'entities') return mayBeIn(a, b, outside);
  if (a.type === 'networks' && b.type === 'networks') {
    const overlap = a.cidrs.some((one) => b.cidrs.some((other) => isWithin(one, other) || isWithin(other, one)));
    return overlap && !areWithin(a.cidrs, b.except) && !areWithin(b.cidrs, a.except);
  }
  if (a.type === 'pods' && b.type === 'pods') return podsMayMeet(a, b);
  // A node's address is never a pod's, nor a Service's.
  const isNode = (peer: Peer) => peer.type === 'nodes';
  const isInside = (peer: Peer) => peer.type === 'pods' || peer.type === 'services';
  return !((isNode(a) && isInside(b)) || (isNode(b) && isInside(a)));
}

type Entities = Extract<Peer, { type: 'entities' }>;

function entitiesMayMeet(a: Entities, b: Entities): boolean {
  const left = (one: Entities, other: Entities) => one.entities.filter((word) => !other.except.entities.includes(word));
  return left(a, b).some((one) => left(b, a).some((other) => !areApart(one, other) && !areApart(other, one)));
}

function areApart(one: Entity, other: Entity): boolean {
  return (one === 'World' || one === 'Internet') && (other === 'Cluster' || other === 'Host');
}

function mayBeIn(peer: Exclude<Peer, Entities>, { entities, except }: Entities, outside: Outside): boolean {
  if (peer.type === 'any' || peer.type === 'domainNames') return true;
  if (peer.type === 'networks') {
    return entities.some((word) => {
      const never = word === 'World' || word === 'Internet' ? outside[word] : [];
      return !areWithin(peer.cidrs, [...except.cidrs, ...never]);
    });
  }
  if (except.entities.includes('Cluster')) return false;
  // A hostNetwork pod's address is its node's, and no peer means it.
  const never: readonly Entity[] = peer.type === 'nodes' ? ['World', 'Internet'] : ['World', 'Internet', 'Host'];
  return entities.some((word) => !never.includes(word));
}

function areWithin(inner: readonly string[], outer: readonly string[]): boolean {
  return inner.every((one) => outer.some((other) => isWithin(one, other)));
}
