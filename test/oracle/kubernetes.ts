// SPDX-License-Identifier: Apache-2.0
// How do Kubernetes objects look as they come from YAML? Only the fields that the oracle reads; nothing here is checked,
// since the oracle is given valid objects.

type Maybe<T> = T | null | undefined;
export type Labels = Readonly<Record<string, string>>;
export type Protocol = 'TCP' | 'UDP' | 'SCTP' | 'ICMP';

export interface LabelSelector {
  matchLabels?: Maybe<Labels>;
  matchExpressions?: Maybe<{ key: string; operator: string; values?: Maybe<string[]> }[]>;
}
export interface Metadata {
  name: string;
  namespace?: Maybe<string>;
  labels?: Maybe<Labels>;
  annotations?: Maybe<Labels>;
}
export interface Port {
  protocol?: Maybe<Protocol>;
  port?: Maybe<number | string>;
  endPort?: Maybe<number>;
  icmpType?: Maybe<string>;
}
export interface Namespace {
  kind: 'Namespace';
  metadata: Metadata;
}
export interface Node {
  kind: 'Node';
  metadata: Metadata;
  spec?: Maybe<{ podCIDR?: Maybe<string>; podCIDRs?: Maybe<string[]> }>;
  status?: Maybe<{ addresses?: Maybe<{ type: string; address: string }[]> }>;
}
export interface Pod {
  kind: 'Pod';
  metadata: Metadata;
  /** Of no API: this sender is no pod but the systemd service of this name, on the host's network. */
  unit?: string;
  spec?: Maybe<{
    nodeName?: Maybe<string>;
    hostNetwork?: Maybe<boolean>;
    containers?: Maybe<
      { ports?: Maybe<{ name?: Maybe<string>; protocol?: Maybe<string>; containerPort: number }[]> }[]
    >;
  }>;
  status?: Maybe<{ phase?: Maybe<string>; podIP?: Maybe<string>; podIPs?: Maybe<{ ip: string }[]> }>;
}
export interface ServicePort {
  name?: Maybe<string>;
  protocol?: Maybe<string>;
  port: number;
  nodePort?: Maybe<number>;
}
export interface Service {
  kind: 'Service';
  metadata: Metadata;
  spec: {
    type?: Maybe<string>;
    clusterIP?: Maybe<string>;
    clusterIPs?: Maybe<string[]>;
    ports?: Maybe<ServicePort[]>;
  };
}
export interface Endpoint {
  addresses: string[];
  conditions?: Maybe<{ ready?: Maybe<boolean> }>;
  targetRef?: Maybe<{ kind?: Maybe<string>; namespace?: Maybe<string>; name?: Maybe<string> }>;
}
export interface EndpointSlice {
  kind: 'EndpointSlice';
  metadata: Metadata;
  ports?: Maybe<{ name?: Maybe<string>; protocol?: Maybe<string>; port?: Maybe<number> }[]>;
  endpoints?: Maybe<Endpoint[]>;
}
export interface NetworkPolicyPeer {
  podSelector?: Maybe<LabelSelector>;
  namespaceSelector?: Maybe<LabelSelector>;
  ipBlock?: Maybe<{ cidr: string; except?: Maybe<string[]> }>;
}
export interface NetworkPolicy {
  kind: 'NetworkPolicy';
  metadata: Metadata;
  spec: {
    podSelector?: Maybe<LabelSelector>;
    policyTypes?: Maybe<string[]>;
    egress?: Maybe<{ to?: Maybe<NetworkPolicyPeer[]>; ports?: Maybe<Port[]> }[]>;
  };
}
export interface PodsPeer {
  namespaceSelector?: Maybe<LabelSelector>;
  podSelector?: Maybe<LabelSelector>;
}
export interface EgressPeer {
  pods?: Maybe<PodsPeer>;
  namespaces?: Maybe<LabelSelector>;
  networks?: Maybe<string[]>;
  nodes?: Maybe<LabelSelector>;
  services?: Maybe<{ namespace?: Maybe<string>; name: string }[]>;
  entities?: Maybe<string[]>;
  domainNames?: Maybe<string[]>;
  except?: Maybe<string[]>;
}
export interface EgressRule {
  name?: Maybe<string>;
  to?: Maybe<EgressPeer[]>;
  ports?: Maybe<Port[]>;
  tls?: Maybe<{ serverName?: Maybe<string> }>;
  via?: Maybe<{ gateway?: Maybe<string> }>;
}
export interface SubjectItem {
  namespaces?: Maybe<LabelSelector>;
  pods?: Maybe<PodsPeer>;
}
export interface NodeServices {
  nodeSelector?: Maybe<LabelSelector>;
  units: string[];
}
export interface EgressPolicy {
  kind: 'EgressPolicy' | 'ClusterEgressPolicy';
  metadata: Metadata;
  spec: {
    podSelector?: Maybe<LabelSelector>;
    subject?: Maybe<SubjectItem & { nodeServices?: Maybe<NodeServices>; except?: Maybe<SubjectItem[]> }>;
    hostNetwork?: Maybe<string>;
    effect?: Maybe<string>;
    mode?: Maybe<string>;
    onDeny?: Maybe<string>;
    dns?: Maybe<{ answers?: Maybe<string>; queries?: Maybe<string>; names?: Maybe<string[]> }>;
    egress?: Maybe<EgressRule[]>;
  };
}
export interface UpstreamPeer {
  namespaces?: LabelSelector;
  pods?: PodsPeer;
  nodes?: LabelSelector;
  networks?: string[];
  domainNames?: string[];
}
export interface UpstreamTransport {
  destinationPort: { number?: number; range?: { start: number; end: number } };
}
export interface UpstreamProtocol {
  tcp?: UpstreamTransport;
  udp?: UpstreamTransport;
  sctp?: UpstreamTransport;
  destinationNamedPort?: string;
}
export interface UpstreamRule {
  name?: string;
  action: 'Accept' | 'Deny' | 'Pass';
  to: UpstreamPeer[];
  protocols?: UpstreamProtocol[];
}
export interface ClusterNetworkPolicy {
  kind: 'ClusterNetworkPolicy';
  metadata: Metadata;
  spec: {
    tier: 'Admin' | 'Baseline';
    priority: number;
    subject: { namespaces?: LabelSelector; pods?: PodsPeer };
    ingress?: unknown[];
    egress?: UpstreamRule[];
  };
}
export type Policy = NetworkPolicy | ClusterNetworkPolicy | EgressPolicy;
export type KubernetesObject = Namespace | Node | Pod | Service | EndpointSlice | Policy;

/** This machine, as far as entities need it. */
export interface Host {
  readonly node: string | null;
  readonly addresses: readonly string[];
  readonly resolvers: readonly string[];
  /** Of resolv.conf. Absent: none. */
  readonly searchDomains?: readonly string[];
}
