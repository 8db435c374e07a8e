// SPDX-License-Identifier: Apache-2.0
// What does one decoded object of a kind that Postern knows come to, and what is wrong with it? Knows neither where it was read
// (a file, the API server) nor any other object.
import type { ClusterEgressPolicy, ClusterNetworkPolicy, EgressPolicy } from '#build/generated/policy-types.ts';
import type { EndpointSlice, Namespace, Node, Pod, Policy, Service } from '../model/objects.ts';
import type { Finding } from '../validate/finding.ts';
import { isObject, isPolicy, type Kind, kinds } from '../validate/kind.ts';
import { checkObject } from '../validate/object.ts';
import { parseClusterNetworkPolicy } from './cluster-network-policy.ts';
import {
  DEFAULT_NAMESPACE,
  parseEndpointSlice,
  parseNamespace,
  parseNode,
  parsePod,
  parseService,
} from './cluster-objects.ts';
import { parseClusterEgressPolicy, parseEgressPolicy } from './egress-policy.ts';
import { type NetworkPolicyObject, parseNetworkPolicy } from './network-policy.ts';
import { standInFor } from './stand-in.ts';

export interface ReadObject {
  /** `Kind/namespace/name`, cluster-scoped `Kind/name`; null where the name is missing. */
  readonly key: string | null;
  /** null: invalid, or nothing to do with egress (a NetworkPolicy for ingress alone). */
  readonly value: Namespace | Node | Pod | Service | EndpointSlice | Policy | null;
  /** No finding of severity error. */
  readonly valid: boolean;
  /** For an invalid policy whose subject can be read: isolates that subject and allows nothing. */
  readonly standIn: Policy | null;
  readonly findings: readonly Finding[];
}

/** @param told what is wrong with it, where the caller knows more than the object says; else it is checked. */
export function readObject(kind: Kind, object: Record<string, unknown>, told: readonly Finding[] | null): ReadObject {
  const checked = checkObject(kind, object);
  const findings = told ?? checked.findings;
  const key = keyOf(kind, object);
  const valid = !findings.some(({ severity }) => severity === 'error');
  return {
    key,
    value: valid ? versioned(parse(kind, checked.object, checked.cgroup), object) : null,
    valid,
    standIn: valid || key === null || !isPolicy(kind) ? null : versioned(standInFor(kind, object, findings), object),
    findings,
  };
}

/** A policy with the version that its object tells of itself. */
function versioned<T extends ReadObject['value']>(value: T, { metadata }: Record<string, unknown>): T {
  if (value === null || !('effect' in value) || !isObject(metadata)) return value;
  const { uid, generation } = metadata;
  return typeof uid === 'string' && typeof generation === 'number' ? { ...value, version: { uid, generation } } : value;
}

/** What the model makes of a valid object. The types hold because validation said so. */
function parse(kind: Kind, object: Readonly<Record<string, unknown>>, cgroup: string | null): ReadObject['value'] {
  const metadata = object.metadata as { name: string; namespace?: string | null };
  switch (kind) {
    case 'Namespace':
      return parseNamespace(object);
    case 'Node':
      return parseNode(object);
    case 'Pod':
      return parsePod(object, cgroup);
    case 'Service':
      return parseService(object);
    case 'EndpointSlice':
      return parseEndpointSlice(object);
    case 'NetworkPolicy':
      return parseNetworkPolicy(object as unknown as NetworkPolicyObject);
    case 'EgressPolicy':
      return parseEgressPolicy(metadata, object.spec as EgressPolicy['spec']);
    case 'ClusterEgressPolicy':
      return parseClusterEgressPolicy(metadata, object.spec as ClusterEgressPolicy['spec']);
    case 'ClusterNetworkPolicy':
      return parseClusterNetworkPolicy(metadata, object.spec as ClusterNetworkPolicy['spec']);
  }
}

/** `Kind/namespace/name`, cluster-scoped `Kind/name`; null where the name is missing. */
export function keyOf(kind: Kind, object: Record<string, unknown>): string | null {
  const metadata = object.metadata;
  if (!isObject(metadata)) return null;
  const { name, namespace } = metadata;
  if (typeof name !== 'string' || name === '') return null;
  if (!kinds[kind].namespaced) return `${kind}/${name}`;
  return `${kind}/${typeof namespace === 'string' && namespace !== '' ? namespace : DEFAULT_NAMESPACE}/${name}`;
}
