// SPDX-License-Identifier: Apache-2.0
// What does the API server add to an object that a client writes? Only what a reader of these kinds can notice.
import { at, isObject, type Json, type JsonObject, listAt, objectAt, textAt } from './json.ts';
import type { ResourceType } from './resources.ts';

/** Defaulting of built-in kinds (pkg/apis/KIND/v1/defaults.go); custom ones have theirs in their schema. */
export function withDefaults(type: ResourceType, object: JsonObject, allocate: () => number): JsonObject {
  const spec = objectAt(object, 'spec');
  switch (type.storage) {
    case 'namespaces': {
      const name = textAt(object, 'metadata', 'name');
      const labels = { ...objectAt(object, 'metadata', 'labels'), 'kubernetes.io/metadata.name': name };
      return {
        ...object,
        metadata: { ...objectAt(object, 'metadata'), labels },
        spec: { finalizers: ['kubernetes'], ...spec },
        status: { phase: 'Active', ...objectAt(object, 'status') },
      };
    }
    case 'pods':
      return {
        ...object,
        spec: {
          restartPolicy: 'Always',
          dnsPolicy: 'ClusterFirst',
          schedulerName: 'default-scheduler',
          ...spec,
          containers: listAt(spec, 'containers').map((one) =>
            at(one, 'ports') === undefined
              ? one
              : { ...(one as JsonObject), ports: withProtocol(listAt(one, 'ports')) },
          ),
        },
        status: { phase: 'Pending', ...objectAt(object, 'status') },
      };
    case 'services':
      return {
        ...object,
        spec: serviceSpec(spec, allocate),
        status: { loadBalancer: {}, ...objectAt(object, 'status') },
      };
    case 'networkpolicies.networking.k8s.io':
      return { ...object, spec: networkPolicySpec(spec) };
    case 'endpointslices.discovery.k8s.io':
      return { ...object, ports: withProtocol(listAt(object, 'ports')) };
    default:
      return object;
  }
}

function serviceSpec(spec: JsonObject, allocate: () => number): JsonObject {
  const type = textAt(spec, 'type') || 'ClusterIP';
  const ports = withProtocol(listAt(spec, 'ports')).map((port) => ({ targetPort: at(port, 'port') ?? null, ...port }));
  const common = { sessionAffinity: 'None', type, ...spec, ...(ports.length === 0 ? {} : { ports }) };
  if (type === 'ExternalName') return common;
  const number = at(spec, 'clusterIP') === undefined && at(spec, 'clusterIPs') === undefined ? allocate() : 0;
  const clusterIP =
    textAt(spec, 'clusterIP') || textAt(spec, 'clusterIPs', 0) || `10.96.${number >> 8}.${number & 255}`;
  return { ...common, clusterIP, clusterIPs: at(spec, 'clusterIPs') ?? [clusterIP] };
}

function networkPolicySpec(spec: JsonObject): JsonObject {
  const rules = (key: string): JsonObject =>
    at(spec, key) === undefined
      ? {}
      : {
          [key]: listAt(spec, key).map((rule) =>
            at(rule, 'ports') === undefined
              ? rule
              : { ...(rule as JsonObject), ports: withProtocol(listAt(rule, 'ports')) },
          ),
        };
  const policyTypes = at(spec, 'policyTypes') ?? ['Ingress', ...(listAt(spec, 'egress').length > 0 ? ['Egress'] : [])];
  return { podSelector: {}, ...spec, ...rules('ingress'), ...rules('egress'), policyTypes };
}

const withProtocol = (ports: readonly Json[]): JsonObject[] =>
  ports.filter(isObject).map((port) => ({ protocol: 'TCP', ...port }));
