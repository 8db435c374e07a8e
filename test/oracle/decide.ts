// SPDX-License-Identifier: Apache-2.0
// What must the verdict be? The oracle: slow and plain, by the text of the API documentation and of api.md, "Composition".
// It may not know how the product resolves, compiles or judges, and shares no code with it.
import { type Address, coversText, isOneOf, parseAddress } from './address.ts';
import {
  type Cluster,
  clusterIPs,
  clusterOf,
  findService,
  isEnded,
  isHostNetwork,
  namespaceOf,
  podAddresses,
  serviceAt,
  targets,
} from './cluster.ts';
import { actionOn, clusterNetworkPolicySelects, hasEgressRules } from './clusternetworkpolicy.ts';
import type { Destination } from './destination.ts';
import { egressPolicySelects, egressRuleMatches } from './egresspolicy.ts';
import type { EgressPolicy, Host, Pod, Policy, Protocol } from './kubernetes.ts';
import { matchesAny, withoutEnd } from './name.ts';
import { affectsEgress, networkPolicyRuleMatches, networkPolicySelects } from './networkpolicy.ts';

export interface Query {
  /** `namespace/pod`, or `node/NAME.service`. */
  readonly from: string;
  /** `namespace/pod`, an IP address, or `service:namespace/name`. */
  readonly to: string;
  /** null for ICMP. */
  readonly port: number | null;
  readonly protocol: Protocol;
  /** An IcmpType of api.md; absent: any other type. */
  readonly icmpType?: string;
  /** What DNS told `from` leads to the address, as DNS writes it. Absent: nothing. */
  readonly names?: readonly string[];
}

export interface Decision {
  readonly verdict: 'allow' | 'deny' | 'audit';
  /** `NetworkPolicy/namespace/name`, `ClusterEgressPolicy/name`, or null. */
  readonly policy: string | null;
  /** The rule's index in its policy, or null. */
  readonly rule: number | null;
  /** bpf/abi.h, enum reason, in lower case; or no_address. */
  readonly reason: string;
}

/** The verdict on one flow. Throws where `from` names no pod, or `to` is neither of its three forms: a bug of the caller. */
export function decide(objects: readonly unknown[], host: Host, query: Query): Decision {
  const cluster = clusterOf(objects, host);
  const from = findPod(cluster, query.from) ?? unitOf(cluster, query.from);
  if (from === null) throw new TypeError(`no such pod: ${query.from}`);
  const address = addressOf(cluster, query.to);
  if (address === null) return told('deny', 'no_address');
  // "Replies, loopback and oneself … always pass."
  if (isLoopback(address)) return told('allow', 'loopback');
  const destination: Destination = {
    from,
    address,
    port: query.port,
    protocol: query.protocol,
    icmpType: query.icmpType ?? null,
    reachedBy: null,
    names: query.names ?? [],
  };
  const shadow = policiesOn(cluster, from);
  const enforced = shadow.filter((policy) => !isAudit(policy));
  return audit(judge(cluster, enforced, destination), judge(cluster, shadow, destination));
}

/** "queries: AllowedNamesOnly: other names may not be asked." Whether a resolver may be reached is another question. */
export function decideName(objects: readonly unknown[], host: Host, from: string, name: string): Decision {
  const cluster = clusterOf(objects, host);
  const pod = findPod(cluster, from) ?? unitOf(cluster, from);
  if (pod === null) throw new TypeError(`no such pod: ${from}`);
  const shadow = policiesOn(cluster, pod);
  const enforced = shadow.filter((policy) => !isAudit(policy));
  return audit(judgeName(host, enforced, name), judgeName(host, shadow, name));
}

/** "NXDOMAIN for an allowed name with a search domain behind it." */
function judgeName(host: Host, ruleset: readonly Policy[], name: string): Decision {
  const own = ruleset.filter((policy): policy is EgressPolicy => !isUpstream(policy));
  if (!own.some((policy) => policy.spec.dns?.queries === 'AllowedNamesOnly')) return told('allow', 'not_isolated');
  const refusedBy = refusingName(own, name);
  if (refusedBy === null) return told('allow', 'rule');
  for (const domain of host.searchDomains ?? []) {
    const before = withoutEnd(name, domain);
    if (before !== null && refusingName(own, before) === null) return told('allow', 'search_domain');
  }
  return told('deny', 'name_not_allowed', nameOf(refusedBy));
}

/**
 * "AllowedNamesOnly holds if any policy on the workload says it: from an Isolate or Grant, the names of all its Isolate and Grant policies may
 * be asked; from a Limit, that Limit's own; the cluster's zone always." Where more Limits hold it than may be, none of them lists anything.
 */
function refusingName(policies: readonly EgressPolicy[], name: string): EgressPolicy | null {
  if (matchesAny(['cluster.local', '*.cluster.local'], name)) return null;
  const says = (policy: EgressPolicy) => policy.spec.dns?.queries === 'AllowedNamesOnly';
  const limits = policies.filter((policy) => effectOf(policy) === 'Limit');
  if (limits.length > 8) {
    if (limits.some(says)) return limits[8] ?? null;
  } else {
    const missing = limits.find((limit) => says(limit) && !matchesAny(listed(limit), name));
    if (missing !== undefined) return missing;
  }
  const union = policies.filter((policy) => effectOf(policy) !== 'Limit');
  const saying = union.find(says);
  return saying === undefined || matchesAny(union.flatMap(listed), name) ? null : saying;
}

/** "the names (`domainNames`, `dns.names`)": a rule that cannot be enforced yet has names, too. */
function listed({ spec }: EgressPolicy): string[] {
  const peers = (spec.egress ?? []).flatMap((rule) => rule.to ?? []);
  return [...(spec.dns?.names ?? []), ...peers.flatMap((peer) => peer.domainNames ?? [])];
}

function told(verdict: 'allow' | 'deny', reason: string, policy: string | null = null, rule: number | null = null) {
  return { verdict, policy, rule, reason } as const;
}

/** "Packets get enforced"; enforced allows but shadow denies: `audit`, told by shadow. */
function audit(enforced: Decision, shadow: Decision): Decision {
  return enforced.verdict === 'allow' && shadow.verdict === 'deny' ? { ...shadow, verdict: 'audit' } : enforced;
}

function findPod(cluster: Cluster, text: string): Pod | null {
  return cluster.pods.find((pod) => `${namespaceOf(pod)}/${pod.metadata.name}` === text) ?? null;
}

/** A service of this node: sends from its network, as a hostNetwork pod of it does. */
export function unitOf({ host }: Cluster, text: string): Pod | null {
  const unit = /^node\/(.*\.service)$/.exec(text)?.[1];
  if (unit === undefined) return null;
  const spec = { hostNetwork: true, nodeName: host.node };
  return { kind: 'Pod', metadata: { name: unit, namespace: '' }, unit, spec };
}

/** A pod's first address (an ended one has none any more), a Service's first clusterIP, or the address itself. */
function addressOf(cluster: Cluster, to: string): Address | null {
  if (to.startsWith('service:')) {
    const [namespace, name] = to.slice('service:'.length).split('/');
    const service = findService(cluster, namespace ?? '', name ?? '');
    return service === null ? null : parseAddress(clusterIPs(service)[0] ?? '');
  }
  if (to.includes('/')) {
    const pod = findPod(cluster, to);
    return pod === null || isEnded(pod) ? null : parseAddress(podAddresses(pod)[0] ?? '');
  }
  const address = parseAddress(to);
  if (address === null) throw new TypeError(`no destination: ${to}`);
  return address;
}

/** On Linux, to connect to the unspecified address is to connect to this host (ip_route_output_key_hash_rcu, tcp_v6_connect). */
function isLoopback(address: Address): boolean {
  return ['127.0.0.0/8', '0.0.0.0/32', '::1/128', '::/128'].some((cidr) => coversText(cidr, address));
}

/** The policies that hold a workload, in the order in which verdicts name them: kind, namespace, name. */
export function policiesOn(cluster: Cluster, from: Pod): Policy[] {
  return cluster.policies
    .filter((policy) => holds(cluster, policy, from))
    .sort(
      (a, b) =>
        compareText(a.kind, b.kind) ||
        compareText(scopeOf(a), scopeOf(b)) ||
        compareText(a.metadata.name, b.metadata.name),
    );
}

function holds(cluster: Cluster, policy: Policy, from: Pod): boolean {
  // No upstream kind knows services of a node.
  if (from.unit !== undefined && isUpstream(policy)) return false;
  switch (policy.kind) {
    case 'NetworkPolicy':
      return networkPolicySelects(policy, from) && affectsEgress(policy);
    case 'ClusterNetworkPolicy':
      return clusterNetworkPolicySelects(cluster, policy, from) && hasEgressRules(policy);
    default:
      return egressPolicySelects(cluster, policy, from);
  }
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function isUpstream({ kind }: Policy): boolean {
  return kind === 'NetworkPolicy' || kind === 'ClusterNetworkPolicy';
}

function isClusterScoped(policy: Policy): boolean {
  return policy.kind === 'ClusterEgressPolicy' || policy.kind === 'ClusterNetworkPolicy';
}

function scopeOf(policy: Policy): string {
  return isClusterScoped(policy) ? '' : namespaceOf(policy);
}

function nameOf(policy: Policy): string {
  return isClusterScoped(policy)
    ? `${policy.kind}/${policy.metadata.name}`
    : `${policy.kind}/${namespaceOf(policy)}/${policy.metadata.name}`;
}

/** "mode: Enforce (default) | Audit"; on upstream's kinds the annotation postern.dev/mode, of which any other value means Enforce. */
function isAudit(policy: Policy): boolean {
  return policy.kind === 'NetworkPolicy' || policy.kind === 'ClusterNetworkPolicy'
    ? policy.metadata.annotations?.['postern.dev/mode'] === 'Audit'
    : policy.spec.mode === 'Audit';
}

/** "effect: Isolate (default) | Grant | Limit"; NetworkPolicy isolates; ClusterNetworkPolicy has its tier. */
function effectOf(policy: Policy): string {
  switch (policy.kind) {
    case 'NetworkPolicy':
      return 'Isolate';
    case 'ClusterNetworkPolicy':
      return policy.spec.tier;
    default:
      return policy.spec.effect ?? 'Isolate';
  }
}

/** One ruleset's verdict on a destination: as a Service, if it is one on one of its ports, else as the address that it is. */
function judge(cluster: Cluster, ruleset: readonly Policy[], destination: Destination): Decision {
  // "A workload without any policy": whatever stands behind a Service, nothing is refused.
  if (ruleset.length === 0) return told('allow', 'not_isolated');
  const { address, port, protocol } = destination;
  const found = serviceAt(cluster, address, port, protocol);
  if (found === null || port === null) return judgeAddress(cluster, ruleset, destination);
  // Behind an address stand the endpoints of its family: a Service's proxy never crosses from one to the other.
  const behind = targets(cluster, found.service, found.port).filter(
    (target) => target.address.family === address.family,
  );
  const verdicts = behind.map((target) =>
    judgeAddress(cluster, ruleset, {
      ...destination,
      address: target.address,
      port: target.port,
      reachedBy: { address, port },
    }),
  );
  return judgeService(verdicts);
}

/** design.md: "A Service address is allowed exactly where every ready endpoint behind it is allowed on its target port." "No ready endpoint: deny." Told by the first endpoint that is denied, or else the first. */
function judgeService(verdicts: readonly Decision[]): Decision {
  return verdicts.find((v) => v.verdict === 'deny') ?? verdicts[0] ?? told('deny', 'no_ready_endpoint');
}

/** "Loopback and oneself always pass"; told as self only where nothing else allows it. A Service is not oneself, whoever stands behind it. */
function judgeAddress(cluster: Cluster, ruleset: readonly Policy[], destination: Destination): Decision {
  const decision = compose(cluster, ruleset, destination);
  return decision.verdict === 'deny' && destination.reachedBy === null && isSelf(destination)
    ? told('allow', 'self')
    : decision;
}

/** A hostNetwork pod's address is its node's: it has no self. */
function isSelf({ from, address }: Destination): boolean {
  return !isHostNetwork(from) && !isEnded(from) && isOneOf(address, podAddresses(from));
}

/** "For the rest, the first that decides": the steps of api.md's composition. "Then: allowed." */
function compose(cluster: Cluster, ruleset: readonly Policy[], destination: Destination): Decision {
  return (
    tierDecision(cluster, ruleset, 'Admin', destination) ??
    unsatisfiedLimit(cluster, ruleset, destination) ??
    allowingRule(cluster, ruleset, destination) ??
    defaultDeny(ruleset) ??
    tierDecision(cluster, ruleset, 'Baseline', destination) ??
    told('allow', 'not_isolated')
  );
}

/**
 * "Policies with lower priority values have higher precedence, and are checked before policies with higher priority values in the same
 * tier"; of equal ones the first by name (upstream leaves it open). "A rule that appears at the top of the egress rules would take the
 * highest precedence." Accept and Deny are final; "Pass: Skips all further ClusterNetworkPolicy rules in the current tier for the selected
 * traffic, and passes evaluation to the next tier."
 */
function tierDecision(
  cluster: Cluster,
  ruleset: readonly Policy[],
  tier: 'Admin' | 'Baseline',
  destination: Destination,
): Decision | null {
  const policies = ruleset
    .filter((policy) => policy.kind === 'ClusterNetworkPolicy')
    .filter((policy) => policy.spec.tier === tier)
    .sort((a, b) => a.spec.priority - b.spec.priority || compareText(a.metadata.name, b.metadata.name));
  for (const policy of policies) {
    for (const [index, rule] of (policy.spec.egress ?? []).entries()) {
      const action = actionOn(cluster, rule, destination);
      if (action === 'Pass') return null;
      if (action === 'Accept') return told('allow', `${tier.toLowerCase()}_accept`, nameOf(policy), index);
      if (action === 'Deny') return told('deny', `${tier.toLowerCase()}_deny`, nameOf(policy), index);
    }
  }
  return null;
}

/**
 * "Limits: each one on the workload needs a rule that allows the flow, else it is denied." Told: that Limit. "At most 8 on one workload":
 * where more hold it, nothing passes that the Admin tier did not accept (docs/limits.md); told: the ninth.
 */
function unsatisfiedLimit(cluster: Cluster, ruleset: readonly Policy[], destination: Destination): Decision | null {
  const ninth = ruleset.filter((policy) => effectOf(policy) === 'Limit')[8];
  if (ninth !== undefined) return told('deny', 'limit', nameOf(ninth));
  for (const policy of ruleset) {
    if (effectOf(policy) === 'Limit' && firstMatch(cluster, policy, destination) === null) {
      return told('deny', 'limit', nameOf(policy));
    }
  }
  return null;
}

/** "Any rule of a NetworkPolicy, Isolate or Grant on the workload: allowed." Told: the first rule by kind, namespace, name, index. */
function allowingRule(cluster: Cluster, ruleset: readonly Policy[], destination: Destination): Decision | null {
  for (const policy of ruleset) {
    const allows = effectOf(policy) === 'Isolate' || effectOf(policy) === 'Grant';
    const index = allows ? firstMatch(cluster, policy, destination) : null;
    if (index !== null) return told('allow', 'rule', nameOf(policy), index);
  }
  return null;
}

/** "Else, if the workload has an Isolate, or a NetworkPolicy with egress: denied." Told: the first that isolates. */
function defaultDeny(ruleset: readonly Policy[]): Decision | null {
  const isolating = ruleset.find((policy) => effectOf(policy) === 'Isolate');
  return isolating === undefined ? null : told('deny', 'no_rule', nameOf(isolating));
}

/** The index of the first rule that matches, or null. Rules of one policy are a union. */
function firstMatch(cluster: Cluster, policy: Policy, destination: Destination): number | null {
  if (policy.kind === 'ClusterNetworkPolicy') return null; // its tiers are asked by themselves
  const index =
    policy.kind === 'NetworkPolicy'
      ? (policy.spec.egress ?? []).findIndex((rule) => networkPolicyRuleMatches(cluster, policy, rule, destination))
      : (policy.spec.egress ?? []).findIndex((rule) => egressRuleMatches(cluster, policy, rule, destination));
  return index < 0 ? null : index;
}
