// SPDX-License-Identifier: Apache-2.0
// Whom does a NetworkPolicy hold in egress, and what do its rules allow? By the text of networking/v1 (its Go doc comments)
// and of kubernetes.io's "Network Policies", a function a sentence.
import { type Address, coversText } from './address.ts';
import { type Cluster, isEnded, isHostNetwork, namespaceLabels, namespaceOf, podAt, podLabels } from './cluster.ts';
import type { Destination } from './destination.ts';
import type { NetworkPolicy, NetworkPolicyPeer, Pod, Port } from './kubernetes.ts';
import { portMatches } from './port.ts';
import { selects } from './selector.ts';

type Rule = NonNullable<NetworkPolicy['spec']['egress']>[number];

/** "podSelector selects the pods to which this NetworkPolicy object applies", in the policy's namespace; empty selects all. Pods that have ended, and hostNetwork pods (undefined upstream, excluded by design), are not selected. */
export function networkPolicySelects(policy: NetworkPolicy, pod: Pod): boolean {
  return (
    !isEnded(pod) &&
    !isHostNetwork(pod) &&
    namespaceOf(policy) === namespaceOf(pod) &&
    selects(policy.spec.podSelector ?? {}, podLabels(pod))
  );
}

/** "policyTypes … If this field is not specified, it will default based on the existence of ingress or egress rules; policies that contain an egress section are assumed to affect egress." */
export function affectsEgress(policy: NetworkPolicy): boolean {
  const types = policy.spec.policyTypes ?? [];
  return types.length > 0 ? types.includes('Egress') : (policy.spec.egress ?? []).length > 0;
}

/** NetworkPolicyEgressRule: "The traffic must match both ports and to." */
export function networkPolicyRuleMatches(
  cluster: Cluster,
  policy: NetworkPolicy,
  rule: Rule,
  destination: Destination,
): boolean {
  return (
    (toMatches(cluster, policy, rule, destination) && portsMatch(cluster, rule.ports ?? [], destination)) ||
    coversServiceAddress(rule, destination)
  );
}

/** "to … items in this list are combined using a logical OR operation. If this field is empty or missing, this rule matches all destinations." */
function toMatches(cluster: Cluster, policy: NetworkPolicy, rule: Rule, destination: Destination): boolean {
  const peers = rule.to ?? [];
  return peers.length === 0 || peers.some((peer) => peerMatches(cluster, policy, peer, destination));
}

/** "ports … combined using a logical OR. If this field is empty or missing, this rule matches all ports (traffic not restricted by port)." */
function portsMatch(cluster: Cluster, ports: readonly Port[], destination: Destination): boolean {
  return ports.length === 0 || ports.some((p) => portMatches(p, destination, podAt(cluster, destination.address)));
}

function peerMatches(
  cluster: Cluster,
  policy: NetworkPolicy,
  peer: NetworkPolicyPeer,
  destination: Destination,
): boolean {
  if (peer.ipBlock) return ipBlockCovers(peer.ipBlock, destination.address);
  const pod = podAt(cluster, destination.address);
  return pod !== null && selectorsMatch(cluster, policy, peer, pod);
}

/** "If namespaceSelector is also set, then the peer as a whole selects the pods matching podSelector in the namespaces selected by namespaceSelector. Otherwise it selects the pods matching podSelector in the policy's own namespace", and without podSelector "all pods in the namespaces selected by namespaceSelector". */
function selectorsMatch(cluster: Cluster, policy: NetworkPolicy, peer: NetworkPolicyPeer, pod: Pod): boolean {
  if (!peer.podSelector && !peer.namespaceSelector) return false;
  const inNamespace = peer.namespaceSelector
    ? selects(peer.namespaceSelector, namespaceLabels(cluster, namespaceOf(pod)))
    : namespaceOf(pod) === namespaceOf(policy);
  return inNamespace && (!peer.podSelector || selects(peer.podSelector, podLabels(pod)));
}

/** IPBlock: "a particular CIDR … The except entry describes CIDRs that should not be included within this rule." */
function ipBlockCovers(block: NonNullable<NetworkPolicyPeer['ipBlock']>, address: Address): boolean {
  return coversText(block.cidr, address) && !(block.except ?? []).some((cidr) => coversText(cidr, address));
}

/** An ipBlock that covers the Service's address, with ports that hold the Service's port, counts for each endpoint behind it; a hostNetwork workload is seen with the endpoint's address, too, and so needs a rule for that. */
function coversServiceAddress(rule: Rule, destination: Destination): boolean {
  const { reachedBy } = destination;
  if (reachedBy === null || isHostNetwork(destination.from)) return false;
  const asAddressed = { ...destination, address: reachedBy.address, port: reachedBy.port };
  const ports = rule.ports ?? [];
  return (
    (ports.length === 0 || ports.some((p) => portMatches(p, asAddressed, null))) &&
    (rule.to ?? []).some((peer) => peer.ipBlock && ipBlockCovers(peer.ipBlock, reachedBy.address))
  );
}
