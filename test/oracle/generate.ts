// SPDX-License-Identifier: Apache-2.0
// A whole case from a seed: a cluster, policies, queries. The same seed gives the same case.
import type { Query } from './decide.ts';
import { generateCluster } from './generate-cluster.ts';
import { generatePolicies } from './generate-policy.ts';
import { generateQueries } from './generate-query.ts';
import type { Host } from './kubernetes.ts';
import { seeded } from './random.ts';

export interface GeneratedCase {
  readonly seed: number;
  /** Kubernetes objects as from YAML, apiVersion included, in random order. */
  readonly objects: readonly unknown[];
  readonly host: Host;
  readonly queries: readonly Query[];
}

const API_VERSIONS: Readonly<Record<string, string>> = {
  Namespace: 'v1',
  Node: 'v1',
  Pod: 'v1',
  Service: 'v1',
  EndpointSlice: 'discovery.k8s.io/v1',
  NetworkPolicy: 'networking.k8s.io/v1',
  ClusterNetworkPolicy: 'policy.networking.k8s.io/v1alpha2',
  EgressPolicy: 'postern.dev/v1alpha1',
  ClusterEgressPolicy: 'postern.dev/v1alpha1',
};

export function generate(seed: number, queryCount = 200): GeneratedCase {
  const random = seeded(seed);
  const cluster = generateCluster(random);
  const policies = generatePolicies(random, cluster);
  const { namespaces, nodes, pods, services, slices, host } = cluster;
  // A folder of policies often lacks the Namespace objects.
  const told = random.chance(0.1) ? random.sample(namespaces, 1) : namespaces;
  const all = [...told, ...nodes, ...pods, ...services, ...slices, ...policies];
  const objects = random.sample(all, all.length).map((o) => ({ apiVersion: API_VERSIONS[o.kind], ...o }));
  return { seed, objects, host, queries: generateQueries(random, cluster, policies, queryCount) };
}
