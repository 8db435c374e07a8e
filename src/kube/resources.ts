// SPDX-License-Identifier: Apache-2.0
// Which resources are watched, and which of their fields are read? The shapes are what src/parse reads, and no more; policies are
// taken whole, since whatever is wrong with one is told.
import { type Kind, kinds } from '../validate/kind.ts';
import type { Shape } from './scan.ts';

export interface Resource {
  readonly kind: Kind;
  /** `/apis/networking.k8s.io/v1/networkpolicies`: of all namespaces. */
  readonly path: string;
  /** As RBAC names it: `networkpolicies.networking.k8s.io`. */
  readonly name: string;
  readonly shape: Shape;
  /** Comes with a CRD: may not be there. */
  readonly isOptional: boolean;
}

const NAMED = { name: 'text', resourceVersion: 'text' } as const;
const NAMESPACED = { ...NAMED, namespace: 'text' } as const;

const CONTAINERS: Shape = {
  items: {
    fields: {
      restartPolicy: 'text',
      ports: { items: { fields: { name: 'text', protocol: 'text', containerPort: 'number' } } },
    },
  },
};

/** managedFields alone is left out: it is most of what a policy weighs. */
const POLICY: Shape = {
  fields: {
    metadata: {
      fields: { ...NAMESPACED, uid: 'text', generation: 'number', labels: 'any', annotations: 'any' },
    },
    spec: 'any',
    status: 'any',
  },
};

const SHAPES: Readonly<Record<Kind, Shape>> = {
  Namespace: { fields: { metadata: { fields: { ...NAMED, labels: 'any' } } } },
  Node: {
    fields: {
      metadata: { fields: { ...NAMED, labels: 'any' } },
      spec: { fields: { podCIDR: 'text', podCIDRs: { items: 'text' } } },
      status: { fields: { addresses: { items: { fields: { address: 'text' } } } } },
    },
  },
  Pod: {
    fields: {
      metadata: {
        fields: {
          ...NAMESPACED,
          uid: 'text',
          labels: 'any',
          annotations: { fields: { 'kubernetes.io/config.mirror': 'text' } },
        },
      },
      spec: {
        fields: { nodeName: 'text', hostNetwork: 'flag', initContainers: CONTAINERS, containers: CONTAINERS },
      },
      status: { fields: { phase: 'text', podIP: 'text', podIPs: { items: { fields: { ip: 'text' } } } } },
    },
  },
  Service: {
    fields: {
      metadata: { fields: NAMESPACED },
      spec: {
        fields: {
          type: 'text',
          clusterIP: 'text',
          clusterIPs: { items: 'text' },
          externalName: 'text',
          ports: { items: { fields: { name: 'text', protocol: 'text', port: 'number', nodePort: 'number' } } },
        },
      },
    },
  },
  EndpointSlice: {
    fields: {
      metadata: { fields: { ...NAMESPACED, labels: { fields: { 'kubernetes.io/service-name': 'text' } } } },
      ports: { items: { fields: { name: 'text', protocol: 'text', port: 'number' } } },
      endpoints: {
        items: {
          fields: {
            addresses: { items: 'text' },
            conditions: { fields: { ready: 'flag' } },
            targetRef: { fields: { kind: 'text', namespace: 'text', name: 'text' } },
          },
        },
      },
    },
  },
  NetworkPolicy: POLICY,
  ClusterNetworkPolicy: POLICY,
  EgressPolicy: POLICY,
  ClusterEgressPolicy: POLICY,
};

/** By apiserver's plural; the others are the kind in lower case with an s. */
const PLURALS: Partial<Readonly<Record<Kind, string>>> = {
  NetworkPolicy: 'networkpolicies',
  ClusterNetworkPolicy: 'clusternetworkpolicies',
  EgressPolicy: 'egresspolicies',
  ClusterEgressPolicy: 'clusteregresspolicies',
};

export const resources: readonly Resource[] = (Object.keys(SHAPES) as Kind[]).map((kind) => {
  const { apiVersion } = kinds[kind];
  const group = apiVersion.includes('/') ? apiVersion.split('/')[0] : undefined;
  const plural = PLURALS[kind] ?? `${kind.toLowerCase()}s`;
  return {
    kind,
    path: `${group === undefined ? '/api' : '/apis'}/${apiVersion}/${plural}`,
    name: group === undefined ? plural : `${plural}.${group}`,
    shape: SHAPES[kind],
    isOptional: kind === 'ClusterNetworkPolicy' || kind === 'EgressPolicy' || kind === 'ClusterEgressPolicy',
  };
});
