// SPDX-License-Identifier: Apache-2.0
// Who has an address, and what stands behind a Service? Plain readings of Kubernetes objects, each from scratch.
// May not know policies.
import { type Address, compareMapped, isOneOf, parseAddress } from './address.ts';
import type {
  Endpoint,
  EndpointSlice,
  Host,
  KubernetesObject,
  Labels,
  Namespace,
  Node,
  Pod,
  Policy,
  Service,
  ServicePort,
} from './kubernetes.ts';

/** The objects as given, by kind, and this machine. */
export interface Cluster {
  readonly namespaces: readonly Namespace[];
  readonly nodes: readonly Node[];
  readonly pods: readonly Pod[];
  readonly services: readonly Service[];
  readonly slices: readonly EndpointSlice[];
  readonly policies: readonly Policy[];
  readonly host: Host;
}

export function clusterOf(objects: readonly unknown[], host: Host): Cluster {
  const all = objects as readonly KubernetesObject[];
  return {
    namespaces: all.filter((o) => o.kind === 'Namespace'),
    nodes: all.filter((o) => o.kind === 'Node'),
    pods: all.filter((o) => o.kind === 'Pod'),
    services: all.filter((o) => o.kind === 'Service'),
    slices: all.filter((o) => o.kind === 'EndpointSlice'),
    policies: all.filter(isPolicy),
    host,
  };
}

function isPolicy(object: KubernetesObject): object is Policy {
  return ['NetworkPolicy', 'ClusterNetworkPolicy', 'EgressPolicy', 'ClusterEgressPolicy'].includes(object.kind);
}

export function namespaceOf(object: KubernetesObject): string {
  return object.metadata.namespace ?? 'default';
}

/** The control plane sets the label kubernetes.io/metadata.name on every namespace to its name (Namespaces, "Automatic labelling"). */
export function namespaceLabels(cluster: Cluster, name: string): Labels {
  const labels = cluster.namespaces.find((n) => n.metadata.name === name)?.metadata.labels ?? {};
  return { ...labels, 'kubernetes.io/metadata.name': name };
}

export function podLabels(pod: Pod): Labels {
  return pod.metadata.labels ?? {};
}

export function isHostNetwork(pod: Pod): boolean {
  return pod.spec?.hostNetwork === true;
}

/** Pod lifecycle: in Succeeded and Failed all containers have terminated; such a pod holds no address any more. */
export function isEnded(pod: Pod): boolean {
  return pod.status?.phase === 'Succeeded' || pod.status?.phase === 'Failed';
}

/** A static pod's mirror carries the annotation kubernetes.io/config.mirror. */
export function isStatic(pod: Pod): boolean {
  return pod.metadata.annotations?.['kubernetes.io/config.mirror'] !== undefined;
}

/** PodStatus: podIPs holds the IP addresses allocated to the pod; podIP is the first of them. */
export function podAddresses(pod: Pod): string[] {
  const many = (pod.status?.podIPs ?? []).map((entry) => entry.ip);
  const one = pod.status?.podIP;
  return many.length > 0 ? many : one ? [one] : [];
}

/** Does this pod hold the address as its own? A hostNetwork pod's address is its node's, an ended pod has none. */
function holds(pod: Pod, address: Address): boolean {
  return !isHostNetwork(pod) && !isEnded(pod) && isOneOf(address, podAddresses(pod));
}

/** The pod that has an address. An address that two live pods claim has no pod. */
export function podAt(cluster: Cluster, address: Address): Pod | null {
  const claimants = cluster.pods.filter((pod) => holds(pod, address));
  return claimants.length === 1 ? (claimants[0] ?? null) : null;
}

export function isSomePods(cluster: Cluster, address: Address): boolean {
  return cluster.pods.some((pod) => holds(pod, address));
}

/** NodeStatus.addresses may hold host names too: only IP addresses count. */
export function nodeAddresses(node: Node): string[] {
  return (node.status?.addresses ?? []).map((a) => a.address).filter((text) => parseAddress(text) !== null);
}

/** NodeSpec: podCIDRs are the IP ranges assigned to the node for its pods; podCIDR is the first of them. */
export function podCidrs(node: Node): string[] {
  const one = node.spec?.podCIDR;
  return [...(node.spec?.podCIDRs ?? []), ...(one ? [one] : [])];
}

/** ServiceSpec.clusterIPs; clusterIP is the first. "None" is headless, and an ExternalName Service has none. */
export function clusterIPs(service: Service): string[] {
  if (service.spec.type === 'ExternalName') return [];
  const many = service.spec.clusterIPs ?? [];
  const texts = many.length > 0 ? many : [service.spec.clusterIP ?? ''];
  return texts.filter((text) => parseAddress(text) !== null);
}

export function servicePorts(service: Service): readonly ServicePort[] {
  return service.spec.ports ?? [];
}

/** ServicePort and EndpointPort: protocol defaults to TCP. */
export function protocolOf(port: { protocol?: string | null | undefined }): string {
  return port.protocol ?? 'TCP';
}

export function findService(cluster: Cluster, namespace: string, name: string): Service | null {
  return cluster.services.find((s) => namespaceOf(s) === namespace && s.metadata.name === name) ?? null;
}

/** EndpointSlices belong to the Service that their label kubernetes.io/service-name names, in their own namespace. */
export function slicesOf(cluster: Cluster, service: Service): EndpointSlice[] {
  return cluster.slices.filter(
    (slice) =>
      namespaceOf(slice) === namespaceOf(service) &&
      slice.metadata.labels?.['kubernetes.io/service-name'] === service.metadata.name,
  );
}

/** EndpointConditions.ready: "A nil value should be interpreted as 'true'." */
function isReady(endpoint: Endpoint): boolean {
  return endpoint.conditions?.ready ?? true;
}

/** Endpoint.addresses: "No semantics are defined for additional addresses beyond the first". */
function endpointAddress(endpoint: Endpoint): Address | null {
  return parseAddress(endpoint.addresses[0] ?? '');
}

export interface Backend {
  readonly address: Address;
  readonly port: number;
  readonly protocol: string;
  readonly endpoint: Endpoint;
}

/** Every ready endpoint of a Service on every port of its slice. A slice's port without a number stands for no target. */
export function backends(cluster: Cluster, service: Service): Backend[] {
  const found: Backend[] = [];
  for (const slice of slicesOf(cluster, service)) {
    for (const endpoint of (slice.endpoints ?? []).filter(isReady)) {
      for (const port of slice.ports ?? []) {
        const address = endpointAddress(endpoint);
        const number = port.port ?? null;
        if (address === null || number === null) continue;
        found.push({ address, port: number, protocol: protocolOf(port), endpoint });
      }
    }
  }
  return found;
}

/**
 * The targets of one port of a Service: its ready endpoints on the slice's port of the same name and protocol, in order of
 * address bytes, then port. Whatever their family: see README.md.
 */
export function targets(cluster: Cluster, service: Service, port: ServicePort): Backend[] {
  const found: Backend[] = [];
  for (const slice of slicesOf(cluster, service)) {
    for (const slicePort of slice.ports ?? []) {
      if ((slicePort.name ?? '') !== (port.name ?? '') || protocolOf(slicePort) !== protocolOf(port)) continue;
      for (const endpoint of (slice.endpoints ?? []).filter(isReady)) {
        const address = endpointAddress(endpoint);
        const number = slicePort.port ?? null;
        if (address === null || number === null) continue;
        found.push({ address, port: number, protocol: protocolOf(port), endpoint });
      }
    }
  }
  return found.sort((a, b) => compareMapped(a.address, b.address) || a.port - b.port);
}

/**
 * Is this endpoint a pod of the Service's namespace? targetRef must name a live pod there that has this address (a
 * hostNetwork pod its node's): else whoever writes EndpointSlices would write policy.
 */
export function isOwnPod(cluster: Cluster, service: Service, backend: Backend): boolean {
  const reference = backend.endpoint.targetRef;
  if (reference?.kind !== 'Pod' || reference.namespace !== namespaceOf(service)) return false;
  const pod = cluster.pods.find((p) => namespaceOf(p) === reference.namespace && p.metadata.name === reference.name);
  return pod !== undefined && !isEnded(pod) && isOneOf(backend.address, podAddresses(pod));
}

/** The Service and port that an address and port stand for: a clusterIP on one of its ports, or a node's address on a node port. */
export function serviceAt(
  cluster: Cluster,
  address: Address,
  port: number | null,
  protocol: string,
): { service: Service; port: ServicePort } | null {
  for (const service of cluster.services) {
    for (const candidate of servicePorts(service)) {
      if (protocolOf(candidate) !== protocol || port === null) continue;
      if (candidate.port === port && isOneOf(address, clusterIPs(service))) return { service, port: candidate };
      if (candidate.nodePort === port && cluster.nodes.some((node) => isOneOf(address, nodeAddresses(node)))) {
        return { service, port: candidate };
      }
    }
  }
  return null;
}
