// SPDX-License-Identifier: Apache-2.0
// Namespace, Node, Pod, Service and EndpointSlice cut to what decides a verdict. Total on objects of the right types; fields whose values make
// no sense (an address that is none) are left out, since a status is written by machines and nobody could mend it here.
import type { V1Container, V1EndpointSlice, V1Namespace, V1Node, V1Pod, V1Service } from '@kubernetes/client-node';
import { addressKey, addressText } from '../model/address.ts';
import type { ContainerPort, EndpointSlice, Namespace, Node, Pod, PortProtocol, Service } from '../model/objects.ts';
import { readCidr } from '../validate/cidr.ts';

export const DEFAULT_NAMESPACE = 'default';
const NAME_LABEL = 'kubernetes.io/metadata.name';
/** Written by kubelet on the mirror of a static pod (core/v1 annotation_key_constants.go, MirrorPodAnnotationKey). */
const MIRROR_ANNOTATION = 'kubernetes.io/config.mirror';
/**
 * The uid that kubelet gave the static pod, and named its cgroup by: an MD5 in hex (kubernetes pkg/kubelet/config/common.go,
 * applyDefaults). No other form is read: whoever may create a Pod may write the annotation, and must not name another Pod's uid.
 */
const STATIC_UID = /^[0-9a-f]{32}$/;
/** discovery/v1 LabelServiceName. */
const SERVICE_NAME_LABEL = 'kubernetes.io/service-name';

/** Decoded JSON: every field may be absent or null. */
type Json<T> = T extends (infer Item)[]
  ? Json<Item>[] | null | undefined
  : T extends Date
    ? string | null | undefined
    : T extends object
      ? { readonly [Field in keyof T]?: Json<T[Field]> } | null | undefined
      : T | null | undefined;

/** A namespace's labels always hold its name, as the API server sees to. */
export function parseNamespace(object: Json<V1Namespace>): Namespace {
  return namespaceOf(object?.metadata?.name ?? '', labelsOf(object?.metadata?.labels));
}

export function namespaceOf(name: string, labels: Readonly<Record<string, string>> = {}): Namespace {
  return { name, labels: { ...labels, [NAME_LABEL]: name } };
}

export function parseNode(object: Json<V1Node>): Node {
  const { podCIDRs, podCIDR } = object?.spec ?? {};
  return {
    name: object?.metadata?.name ?? '',
    labels: labelsOf(object?.metadata?.labels),
    addresses: addressesOf((object?.status?.addresses ?? []).map((item) => item?.address)),
    podCidrs: [...new Set(podCIDRs && podCIDRs.length > 0 ? podCIDRs : [podCIDR])].flatMap((text) => {
      const read = text ? readCidr(text) : null;
      return read ? [read.cidr] : [];
    }),
  };
}

/** @param cgroup the annotation as it was found valid, or null. */
export function parsePod(object: Json<V1Pod>, cgroup: string | null): Pod {
  const { metadata, spec, status } = object ?? {};
  const podIPs = (status?.podIPs ?? []).map((item) => item?.ip);
  return {
    namespace: namespaceName(metadata?.namespace),
    name: metadata?.name ?? '',
    uid: staticUid(metadata?.annotations?.[MIRROR_ANNOTATION]) ?? (metadata?.uid || null),
    labels: labelsOf(metadata?.labels),
    node: spec?.nodeName || null,
    hostNetwork: spec?.hostNetwork === true,
    addresses: addressesOf(podIPs.length > 0 ? podIPs : [status?.podIP]),
    ports: containersOf(spec).flatMap((container) => (container?.ports ?? []).flatMap(containerPort)),
    ended: status?.phase === 'Succeeded' || status?.phase === 'Failed',
    isStatic: metadata?.annotations?.[MIRROR_ANNOTATION] !== undefined,
    cgroup,
  };
}

/** Those whose ports have names that count: containers, and init containers that stay (k8s.io/kubernetes/pkg/api/v1/pod, FindPort). */
function containersOf(spec: Exclude<Json<V1Pod>, null | undefined>['spec']): Json<V1Container>[] {
  const staying = (spec?.initContainers ?? []).filter((container) => container?.restartPolicy === 'Always');
  return [...(spec?.containers ?? []), ...staying];
}

function containerPort(port: Json<{ name: string; protocol: string; containerPort: number }>): ContainerPort[] {
  if (typeof port?.containerPort !== 'number') return [];
  return [{ name: port.name || null, protocol: protocolOf(port.protocol), port: port.containerPort }];
}

export function parseService(object: Json<V1Service>): Service {
  const { metadata, spec } = object ?? {};
  const clusterIPs = spec?.clusterIPs && spec.clusterIPs.length > 0 ? spec.clusterIPs : [spec?.clusterIP];
  const external = spec?.type === 'ExternalName';
  return {
    namespace: namespaceName(metadata?.namespace),
    name: metadata?.name ?? '',
    clusterIPs: external ? [] : addressesOf(clusterIPs),
    ports: (spec?.ports ?? []).flatMap((port) =>
      typeof port?.port === 'number'
        ? [
            {
              name: port.name || null,
              protocol: protocolOf(port.protocol),
              port: port.port,
              nodePort: port.nodePort || null,
            },
          ]
        : [],
    ),
    externalName: external ? (spec?.externalName ?? '') : null,
  };
}

export function parseEndpointSlice(object: Json<V1EndpointSlice>): EndpointSlice {
  const namespace = namespaceName(object?.metadata?.namespace);
  return {
    namespace,
    name: object?.metadata?.name ?? '',
    service: object?.metadata?.labels?.[SERVICE_NAME_LABEL] ?? null,
    ports: (object?.ports ?? []).map((port) => ({
      name: port?.name || null,
      protocol: protocolOf(port?.protocol),
      port: port?.port ?? null,
    })),
    endpoints: (object?.endpoints ?? []).map((endpoint) => {
      const target = endpoint?.targetRef;
      return {
        addresses: addressesOf(endpoint?.addresses ?? []),
        // "A nil value should be interpreted as true" (discovery/v1, EndpointConditions.Ready).
        ready: endpoint?.conditions?.ready !== false,
        pod:
          target?.kind === 'Pod' && target.name
            ? // One string for all, where it is the slice's own, as it has to be for anybody to go by it.
              {
                namespace: target.namespace === namespace ? namespace : target.namespace || namespace,
                name: target.name,
              }
            : null,
      };
    }),
  };
}

export const namespaceName = (namespace: string | null | undefined): string => namespace || DEFAULT_NAMESPACE;

function labelsOf(labels: Json<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(labels ?? {}).map(([key, value]) => [key, value ?? '']));
}

function protocolOf(protocol: string | null | undefined): PortProtocol {
  return protocol === 'UDP' || protocol === 'SCTP' ? protocol : 'TCP';
}

/** Each address once, in the form of addressText; `None` and names are no addresses. */
function addressesOf(texts: readonly (string | null | undefined)[]): string[] {
  const found = texts.flatMap((text) => {
    const key = text ? addressKey(text) : null;
    return key === null ? [] : [addressText(key)];
  });
  return [...new Set(found)];
}

function staticUid(mirrored: unknown): string | null {
  return typeof mirrored === 'string' && STATIC_UID.test(mirrored) ? mirrored : null;
}
