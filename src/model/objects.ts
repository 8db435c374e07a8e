// SPDX-License-Identifier: Apache-2.0
// What a snapshot holds: Kubernetes objects cut to what decides a verdict, and policies of every kind in one shape.
// Plain frozen data; knows neither YAML, nor files, nor the API server, nor the kernel.

import type { List } from './list-change.ts';
import type { NamePattern } from './name.ts';

/** A node of parsed policy: `LabelSelector` of apimachinery meta/v1. Both lists empty: matches everything. */
export interface Selector {
  readonly matchLabels: Readonly<Record<string, string>>;
  readonly matchExpressions: readonly Requirement[];
}
export interface Requirement {
  readonly key: string;
  readonly operator: 'In' | 'NotIn' | 'Exists' | 'DoesNotExist';
  readonly values: readonly string[];
}

export interface Namespace {
  readonly name: string;
  /** Always holds `kubernetes.io/metadata.name`, as the API server sets it. */
  readonly labels: Readonly<Record<string, string>>;
}

export interface Node {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Addresses of `status.addresses` that are IPs. */
  readonly addresses: readonly string[];
  readonly podCidrs: readonly string[];
}

export type PortProtocol = 'TCP' | 'UDP' | 'SCTP';

export interface ContainerPort {
  readonly name: string | null;
  readonly protocol: PortProtocol;
  readonly port: number;
}

export interface Pod {
  readonly namespace: string;
  readonly name: string;
  /**
   * As the pod's cgroup is named: of a static pod's mirror the static pod's, not the object's. null: the object has none, or the pod is
   * known to be another node's.
   */
  readonly uid: string | null;
  readonly labels: Readonly<Record<string, string>>;
  readonly node: string | null;
  readonly hostNetwork: boolean;
  /** `status.podIPs`, or `status.podIP`. */
  readonly addresses: readonly string[];
  readonly ports: readonly ContainerPort[];
  /** Phase Succeeded or Failed: holds no address any more. */
  readonly ended: boolean;
  /** A static pod (annotation `kubernetes.io/config.mirror`), which our kinds never select by `hostNetwork: Include`. */
  readonly isStatic: boolean;
  /** Annotation `postern.dev/cgroup`: a path below the cgroup2 mount. Set by the folder source only. */
  readonly cgroup: string | null;
}

export interface ServicePort {
  readonly name: string | null;
  readonly protocol: PortProtocol;
  readonly port: number;
  readonly nodePort: number | null;
}

export interface Service {
  readonly namespace: string;
  readonly name: string;
  /** `spec.clusterIPs` (or `clusterIP`) without `None`. Empty: headless or ExternalName. */
  readonly clusterIPs: readonly string[];
  readonly ports: readonly ServicePort[];
  readonly externalName: string | null;
}

export interface EndpointSlice {
  readonly namespace: string;
  readonly name: string;
  /** Label `kubernetes.io/service-name`. */
  readonly service: string | null;
  readonly ports: readonly {
    readonly name: string | null;
    readonly protocol: PortProtocol;
    readonly port: number | null;
  }[];
  readonly endpoints: readonly {
    readonly addresses: readonly string[];
    readonly ready: boolean;
    /** `targetRef` where it is a Pod. */
    readonly pod: { readonly namespace: string; readonly name: string } | null;
  }[];
}

export type PolicyKind = 'ClusterEgressPolicy' | 'ClusterNetworkPolicy' | 'EgressPolicy' | 'NetworkPolicy';
export type Entity = 'All' | 'World' | 'Internet' | 'Cluster' | 'Host' | 'KubeAPIServer' | 'DNS';
export type IcmpType =
  | 'EchoRequest'
  | 'EchoReply'
  | 'DestinationUnreachable'
  | 'PacketTooBig'
  | 'TimeExceeded'
  | 'ParameterProblem';

export interface PodPeer {
  /** null: the policy's own namespace. */
  readonly namespaceSelector: Selector | null;
  readonly podSelector: Selector;
}

/** Whom a policy holds. */
export type Subject =
  /** Pods of the policy's own namespace (NetworkPolicy, EgressPolicy). */
  | { readonly type: 'own'; readonly podSelector: Selector }
  /** Pods anywhere (ClusterEgressPolicy, ClusterNetworkPolicy), less those of `except`. */
  | { readonly type: 'pods'; readonly pods: PodPeer; readonly except: readonly PodPeer[] }
  /** systemd units of the nodes that `nodeSelector` matches, by exact name. */
  | { readonly type: 'nodeServices'; readonly nodeSelector: Selector; readonly units: readonly string[] };

/** A CIDR in canonical form, host bits masked: `10.0.0.0/8`, `2001:db8::/32`. */
export type Cidr = string;

export type Peer =
  /** NetworkPolicy's absent or empty `to`: every destination. */
  | { readonly type: 'any' }
  | ({ readonly type: 'pods' } & PodPeer)
  | { readonly type: 'networks'; readonly cidrs: readonly Cidr[]; readonly except: readonly Cidr[] }
  | { readonly type: 'nodes'; readonly selector: Selector }
  | { readonly type: 'services'; readonly services: readonly { readonly namespace: string; readonly name: string }[] }
  | {
      readonly type: 'entities';
      readonly entities: readonly Entity[];
      readonly except: { readonly cidrs: readonly Cidr[]; readonly entities: readonly Entity[] };
    }
  /**
   * Addresses that DNS told the workload of these names. `anywhere`: also those outside World, as `dns.answers: Any` of the policy says;
   * upstream's kind says nothing of it.
   */
  | { readonly type: 'domainNames'; readonly names: readonly NamePattern[]; readonly anywhere: boolean };

export type Port =
  | {
      readonly protocol: PortProtocol;
      /** A number, a container port's name, or null for every port. */
      readonly port: number | string | null;
      readonly endPort: number | null;
    }
  | { readonly protocol: 'ICMP' /** null: every type. */; readonly icmpType: IcmpType | null };

export interface Rule {
  readonly name: string | null;
  /** ClusterNetworkPolicy's action; every other kind accepts. */
  readonly action: 'Accept' | 'Deny' | 'Pass';
  readonly peers: readonly Peer[];
  /** null: every port and protocol. An empty list matches nothing. */
  readonly ports: readonly Port[] | null;
  /** A narrowing that cannot be enforced yet (`tls`, `via`): the rule then allows nothing, and this says why. */
  readonly notEnforced: string | null;
}

/** `dns` of our kinds: what else than the `domainNames` of its rules may be asked, and whether that is all. */
export interface AllowedNames {
  /** `queries: AllowedNamesOnly`. */
  readonly only: boolean;
  /** `names`. */
  readonly names: readonly NamePattern[];
}

/** Which object of the API server this is, and which version of its spec (ObjectMeta of apimachinery meta/v1). */
export interface ObjectVersion {
  readonly uid: string;
  readonly generation: number;
}

export interface Policy {
  readonly kind: PolicyKind;
  /** null for cluster-scoped kinds. */
  readonly namespace: string | null;
  readonly name: string;
  readonly subject: Subject;
  /** NetworkPolicy is Isolate; Admin and Baseline are ClusterNetworkPolicy's tiers. */
  readonly effect: 'Isolate' | 'Grant' | 'Limit' | 'Admin' | 'Baseline';
  /** ClusterNetworkPolicy's; 0 elsewhere. Lower goes first. */
  readonly priority: number;
  readonly mode: 'Enforce' | 'Audit';
  readonly onDeny: 'Reject' | 'Drop';
  /** hostNetwork pods are held too. */
  readonly hostNetwork: boolean;
  /** What may be asked of DNS, where the policy says so. Absent: any name. */
  readonly allowedNames?: AllowedNames;
  readonly rules: readonly Rule[];
  /** Of the object that it was read from, where that says so: a file mostly does not. No verdict depends on it. */
  readonly version?: ObjectVersion;
}

/** The cluster as it stands, and what the node knows of itself. */
export interface Snapshot {
  readonly namespaces: readonly Namespace[];
  readonly nodes: readonly Node[];
  readonly pods: List<Pod>;
  readonly services: readonly Service[];
  readonly endpointSlices: readonly EndpointSlice[];
  readonly policies: readonly Policy[];
  readonly host: Host;
}

/** This machine: what the entities Host and DNS mean where no cluster says so. */
export interface Host {
  /** The Node object that is this machine, or null. */
  readonly node: string | null;
  /** Its own addresses, loopback excluded. */
  readonly addresses: readonly string[];
  /** Trusted resolvers (resolv.conf). */
  readonly resolvers: readonly string[];
  /** What libc puts behind names (resolv.conf), as DNS compares names. Absent: none. */
  readonly searchDomains?: readonly string[];
  /** The zone of the cluster's own names; null: there is no cluster. Absent: `CLUSTER_DOMAIN`. */
  readonly clusterDomain?: string | null;
}

/** Something wrong with the input that a user can mend. Data, never an exception. */
export interface Problem {
  readonly severity: 'error' | 'warning';
  /** Stable snake_case word. */
  readonly code: string;
  readonly file: string | null;
  /** 1-based; 0 where there is no file. */
  readonly line: number;
  readonly column: number;
  /** `spec.egress[0].to[1].ipBlock.cidr`; empty for a whole document. */
  readonly path: string;
  /** `NetworkPolicy/shop/db`, or null where the object could not be read. */
  readonly object: string | null;
  readonly message: string;
  /** What to write instead. */
  readonly advice: string;
}
