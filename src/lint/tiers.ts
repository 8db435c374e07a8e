// SPDX-License-Identifier: Apache-2.0
// What makes no sense in the order of ClusterNetworkPolicies: rules that nothing reaches, a Pass to nowhere, an order that the API leaves open.
// By what rules say alone: said is only what holds wherever pods come to be.
import { contains, prefix } from '../model/address.ts';
import type { Peer, Pod, PodPeer, Policy, Port, Rule, Selector } from '../model/objects.ts';
import { policyName } from '../resolve/order.ts';
import { doubtful, type Finding } from '../validate/finding.ts';

/** @param beside all policies. @param held the pods in the folder that each policy holds. */
export function checkTier(
  policy: Policy,
  beside: readonly Policy[],
  held: ReadonlyMap<Policy, readonly Pod[]>,
): Finding[] {
  if (policy.effect !== 'Admin' && policy.effect !== 'Baseline') return [];
  const tier = beside.filter(({ effect }) => effect === policy.effect);
  return [...checkReach(policy, tier), ...checkPass(policy), ...checkTies(policy, tier, held)];
}

/** The first by priority, then by name, then by index decides. */
function goesFirst(a: Policy, b: Policy): boolean {
  return a.priority === b.priority ? a.name < b.name : a.priority < b.priority;
}

function checkReach(policy: Policy, tier: readonly Policy[]): Finding[] {
  const before = tier.filter(
    (other) =>
      goesFirst(other, policy) &&
      includes(other.subject, policy.subject) &&
      (other.mode === 'Enforce' || policy.mode === 'Audit'),
  );
  return policy.rules.flatMap((rule, index) => {
    const earlier = [...before, { ...policy, rules: policy.rules.slice(0, index) }].flatMap((one) =>
      one.rules.map((other, i) => ({ rule: other, name: one.name === policy.name ? '' : `${policyName(one)} `, i })),
    );
    // What is not enforced matches nothing: there is another finding for it.
    if (rule.notEnforced !== null || rule.peers.every(({ type }) => type === 'domainNames')) return [];
    const first = joined(rule.peers).map((peer) => earlier.find((other) => covers(other.rule, peer, rule.ports)));
    const [one] = first;
    if (one === undefined || first.some((other) => other === undefined)) return [];
    const message = `this rule never decides: ${one.name}egress[${one.i}] (${one.rule.action}) goes first for all that it means`;
    const finding = doubtful(
      'unreachable_rule',
      ['spec', 'egress', index],
      message,
      'move it before that, or remove it',
    );
    return [finding];
  });
}

function checkPass({ effect, rules }: Policy): Finding[] {
  if (effect !== 'Baseline') return [];
  return rules.flatMap(({ action }, index) => {
    if (action !== 'Pass') return [];
    const message = 'nothing comes after the Baseline tier: Pass allows, as Accept does';
    const path = ['spec', 'egress', index, 'action'];
    return [doubtful('baseline_pass', path, message, 'write Accept if that is meant')];
  });
}

/** Told once for each pair, at the later one. */
function checkTies(policy: Policy, tier: readonly Policy[], held: ReadonlyMap<Policy, readonly Pod[]>): Finding[] {
  const pods = new Set(held.get(policy));
  const isEmpty = [...held.values()].every((some) => some.length === 0);
  const shares = (other: Policy): boolean =>
    isEmpty
      ? includes(other.subject, policy.subject) || includes(policy.subject, other.subject)
      : (held.get(other) ?? []).some((pod) => pods.has(pod));
  const tied = tier.find(
    (other) => other.priority === policy.priority && goesFirst(other, policy) && shares(other) && differ(other, policy),
  );
  if (tied === undefined) return [];
  const message = `${policyName(tied)} has priority ${tied.priority} in the same tier, and they differ on the same traffic: the API leaves open which goes first (here, the first by name)`;
  return [doubtful('same_priority', ['spec', 'priority'], message, 'write another priority for one of them')];
}

function differ(a: Policy, b: Policy): boolean {
  return a.rules.some((rule) => b.rules.some((other) => other.action !== rule.action && mayMeet(rule, other)));
}

/** Unless it is plain that no flow is meant by both. */
function mayMeet(a: Rule, b: Rule): boolean {
  const ports =
    a.ports === null || b.ports === null || a.ports.some((one) => b.ports?.some((other) => portsMayMeet(one, other)));
  return ports && a.peers.some((one) => b.peers.some((other) => peersMayMeet(one, other)));
}

function peersMayMeet(a: Peer, b: Peer): boolean {
  // Names lead to addresses of World alone, which no pod and no node has.
  if (a.type === 'domainNames' || b.type === 'domainNames')
    return [a.type, b.type].every((type) => type === 'domainNames' || type === 'networks' || type === 'any');
  if (a.type === 'networks' && b.type === 'networks') {
    return a.cidrs.some((one) => b.cidrs.some((other) => isWithin(one, other) || isWithin(other, one)));
  }
  // A node's address is never a pod's.
  if (a.type !== 'pods' || b.type !== 'pods')
    return ![a.type, b.type].every((type) => type === 'pods' || type === 'nodes') || a.type === b.type;
  return podsMayMeet(a, b);
}

export function podsMayMeet(a: PodPeer, b: PodPeer): boolean {
  return (
    !excludes(a.podSelector, b.podSelector) &&
    (a.namespaceSelector === null ||
      b.namespaceSelector === null ||
      !excludes(a.namespaceSelector, b.namespaceSelector))
  );
}

/** One label cannot have two values. */
function excludes(a: Selector, b: Selector): boolean {
  return Object.entries(a.matchLabels).some(([key, value]) => {
    const other = Object.hasOwn(b.matchLabels, key) ? b.matchLabels[key] : undefined;
    return other !== undefined && other !== value;
  });
}

/** Unless it is plain that no flow has both. */
export function portsMayMeet(a: Port, b: Port): boolean {
  if (a.protocol === 'ICMP') {
    return b.protocol === 'ICMP' && (a.icmpType === null || b.icmpType === null || a.icmpType === b.icmpType);
  }
  if (b.protocol === 'ICMP') return false;
  if (a.protocol !== b.protocol) return false;
  const [first, second] = [rangeOf(a), rangeOf(b)];
  return first === null || second === null || (first[0] <= second[1] && second[0] <= first[1]);
}

/** null: a name. */
function rangeOf({ port, endPort }: Exclude<Port, { protocol: 'ICMP' }>): readonly [number, number] | null {
  if (port === null) return [0, 0xffff];
  return typeof port === 'string' ? null : [port, endPort ?? port];
}

type Subject = Policy['subject'];

function includes(outer: Subject, inner: Subject): boolean {
  if (outer.type !== 'pods' || inner.type !== 'pods') return false;
  return podsInclude(outer.pods, inner.pods);
}

function podsInclude(outer: PodPeer, inner: PodPeer): boolean {
  const isPart = (a: Selector | null, b: Selector | null): boolean =>
    isEverything(a) || JSON.stringify(a) === JSON.stringify(b);
  return isPart(outer.namespaceSelector, inner.namespaceSelector) && isPart(outer.podSelector, inner.podSelector);
}

function isEverything(selector: Selector | null): boolean {
  return selector !== null && Object.keys(selector.matchLabels).length === 0 && selector.matchExpressions.length === 0;
}

/** A rule's networks as one peer: both families may stand in two. */
function joined(peers: readonly Peer[]): Peer[] {
  const networks = peers.filter((peer) => peer.type === 'networks');
  if (networks.length < 2) return [...peers];
  const cidrs = networks.flatMap((peer) => peer.cidrs);
  return [...peers.filter(({ type }) => type !== 'networks'), { type: 'networks', cidrs, except: [] }];
}

/** Does `rule` mean all that a rule with this peer and these ports means? */
function covers(rule: Rule, peer: Peer, ports: Rule['ports']): boolean {
  if (rule.notEnforced !== null) return false;
  if (rule.ports !== null) {
    if (ports === null) return false;
    if (!ports.every((port) => rule.ports?.some((other) => portCovers(other, port)))) return false;
  }
  return joined(rule.peers).some((other) => peerCovers(other, peer));
}

function portCovers(outer: Port, inner: Port): boolean {
  if (outer.protocol === 'ICMP' || inner.protocol === 'ICMP' || outer.protocol !== inner.protocol) return false;
  const [all, part] = [rangeOf(outer), rangeOf(inner)];
  if (part === null) return outer.port === null || outer.port === inner.port;
  return all !== null && all[0] <= part[0] && part[1] <= all[1];
}

function peerCovers(outer: Peer, inner: Peer): boolean {
  if (outer.type === 'any') return true;
  if (outer.type === 'networks') {
    if (outer.cidrs.includes('0.0.0.0/0') && outer.cidrs.includes('::/0')) return true;
    return inner.type === 'networks' && inner.cidrs.every((cidr) => outer.cidrs.some((other) => isWithin(cidr, other)));
  }
  if (outer.type === 'pods' && inner.type === 'pods') return podsInclude(outer, inner);
  if (outer.type === 'nodes' && inner.type === 'nodes') {
    return isEverything(outer.selector) || JSON.stringify(outer.selector) === JSON.stringify(inner.selector);
  }
  return false;
}

export function isWithin(inner: string, outer: string): boolean {
  const [a, b] = [prefix(inner), prefix(outer)];
  return (
    a !== null && b !== null && inner.includes(':') === outer.includes(':') && a.bits >= b.bits && contains(b, a.key)
  );
}
