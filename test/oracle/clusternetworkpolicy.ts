// SPDX-License-Identifier: Apache-2.0
// Whom does a ClusterNetworkPolicy hold in egress, and what do its rules say of a destination? By the descriptions in upstream's CRD
// (policy.networking.k8s.io/v1alpha2), a function a sentence.
import { coversText, isOneOf } from './address.ts';
import {
  type Cluster,
  isEnded,
  isHostNetwork,
  namespaceLabels,
  namespaceOf,
  nodeAddresses,
  podAt,
  podLabels,
} from './cluster.ts';
import type { Destination } from './destination.ts';
import type {
  ClusterNetworkPolicy,
  LabelSelector,
  Pod,
  PodsPeer,
  UpstreamPeer,
  UpstreamProtocol,
  UpstreamRule,
} from './kubernetes.ts';
import { namesLead } from './name.ts';
import { selects } from './selector.ts';

/** "Subject defines the pods to which this ClusterNetworkPolicy applies": namespaces or pods; "host-networked pods are not included". */
export function clusterNetworkPolicySelects(cluster: Cluster, policy: ClusterNetworkPolicy, pod: Pod): boolean {
  if (isEnded(pod) || isHostNetwork(pod)) return false;
  const { namespaces, pods } = policy.spec.subject;
  if (namespaces) return namespaceMatches(cluster, namespaces, pod);
  return pods ? podsHold(cluster, pods, pod) : false;
}

/** "CNPs with no egress rules do not affect egress traffic." */
export function hasEgressRules(policy: ClusterNetworkPolicy): boolean {
  return (policy.spec.egress ?? []).length > 0;
}

function namespaceMatches(cluster: Cluster, selector: LabelSelector, pod: Pod): boolean {
  return selects(selector, namespaceLabels(cluster, namespaceOf(pod)));
}

/** "Pods is used to select pods via namespace AND pod selectors. NamespaceSelector … if empty, it selects all Namespaces"; so it does if it is left out. */
function podsHold(cluster: Cluster, pods: PodsPeer, pod: Pod): boolean {
  return (
    namespaceMatches(cluster, pods.namespaceSelector ?? {}, pod) && selects(pods.podSelector ?? {}, podLabels(pod))
  );
}

export type Action = 'Accept' | 'Deny' | 'Pass';

/** What a rule does with a destination; null: it does not match. */
export function actionOn(cluster: Cluster, rule: UpstreamRule, destination: Destination): Action | null {
  if (rule.to.some(isUnknown)) return failClosed(rule);
  return ruleMatches(cluster, rule, destination) ? rule.action : null;
}

const PEERS = ['namespaces', 'pods', 'nodes', 'networks', 'domainNames'];

/** "If an implementation sees no fields are set then it can infer that the deployed CRD is of an incompatible version with an unknown field. In that case it should fail closed." */
function isUnknown(peer: UpstreamPeer): boolean {
  return Object.keys(peer).every((field) => !PEERS.includes(field));
}

/** "For "Accept" rules, "fail closed" means: "treat the rule as matching no traffic". For "Deny" and "Pass" rules, "fail closed" means: "treat the rule as a 'Deny all' rule"." */
function failClosed(rule: UpstreamRule): Action | null {
  return rule.action === 'Accept' ? null : 'Deny';
}

/** "To is the list of destinations whose traffic this rule applies to. If any element matches the destination of outgoing traffic then the specified action is applied." */
function ruleMatches(cluster: Cluster, rule: UpstreamRule, destination: Destination): boolean {
  return rule.to.some(
    (peer) =>
      (peerMatches(cluster, peer, destination) && protocolsMatch(cluster, rule, destination)) ||
      coversServiceAddress(cluster, rule, peer, destination),
  );
}

/** "Exactly one of the fields must be set for a given peer." */
function peerMatches(cluster: Cluster, peer: UpstreamPeer, destination: Destination): boolean {
  const { address } = destination;
  if (peer.networks) return peer.networks.some((cidr) => coversText(cidr, address));
  if (peer.nodes) return isNode(cluster, peer.nodes, destination);
  if (peer.domainNames) return namesLead(cluster, peer.domainNames, null, destination);
  const pod = podAt(cluster, address);
  if (pod === null) return false;
  if (peer.namespaces) return namespaceMatches(cluster, peer.namespaces, pod);
  return peer.pods ? podsHold(cluster, peer.pods, pod) : false;
}

/** "It selects the nodeIPs as the peer type by matching on the IPs present in the node.Status.Addresses field of the node … if present but empty, it selects all Nodes." */
function isNode(cluster: Cluster, selector: LabelSelector, { address }: Destination): boolean {
  return cluster.nodes.some(
    (node) => selects(selector, node.metadata.labels ?? {}) && isOneOf(address, nodeAddresses(node)),
  );
}

/** "Protocols … If unspecified, protocol-specific attributes will not be used to match traffic." */
function protocolsMatch(cluster: Cluster, rule: UpstreamRule, destination: Destination): boolean {
  return !rule.protocols || rule.protocols.some((protocol) => protocolMatches(cluster, protocol, destination));
}

/** "additional protocol-specific match rules. Exactly one field must be set." */
function protocolMatches(cluster: Cluster, protocol: UpstreamProtocol, destination: Destination): boolean {
  if (destination.port === null) return false;
  if (protocol.destinationNamedPort !== undefined) {
    return isNamedPort(cluster, protocol.destinationNamedPort, destination);
  }
  const transport = { TCP: protocol.tcp, UDP: protocol.udp, SCTP: protocol.sctp, ICMP: undefined }[
    destination.protocol
  ];
  return transport !== undefined && destinationPortMatches(transport.destinationPort, destination.port);
}

/** "Number defines a network port value. Range defines a contiguous range of ports", both ends included. */
function destinationPortMatches(
  wanted: { number?: number; range?: { start: number; end: number } },
  port: number,
): boolean {
  return wanted.range ? wanted.range.start <= port && port <= wanted.range.end : wanted.number === port;
}

/** "DestinationNamedPort selects a destination port on a pod based on the ContainerPort name": with that port's own protocol, TCP by default. */
function isNamedPort(cluster: Cluster, name: string, { address, port, protocol }: Destination): boolean {
  const containers = podAt(cluster, address)?.spec?.containers ?? [];
  return containers.some((container) =>
    (container.ports ?? []).some(
      (own) => own.name === name && own.containerPort === port && (own.protocol ?? 'TCP') === protocol,
    ),
  );
}

/** As in networkpolicy.ts: networks that cover the Service's address, with protocols that hold its port, count for each endpoint behind it. */
function coversServiceAddress(
  cluster: Cluster,
  rule: UpstreamRule,
  { networks }: UpstreamPeer,
  destination: Destination,
): boolean {
  const { reachedBy } = destination;
  if (reachedBy === null || isHostNetwork(destination.from) || !networks) return false;
  const asAddressed = { ...destination, address: reachedBy.address, port: reachedBy.port };
  return (
    networks.some((cidr) => coversText(cidr, reachedBy.address)) &&
    (!rule.protocols || rule.protocols.some((protocol) => protocolMatches(cluster, protocol, asAddressed)))
  );
}
