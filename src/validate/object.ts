// SPDX-License-Identifier: Apache-2.0
// Everything that is wrong with one object of a kind that Postern knows, all at once. Knows neither files nor other objects.
import { checkAddresses } from './addresses.ts';
import { checkClusterNetworkPolicy } from './cluster-network-policy.ts';
import { checkTypes, mistyped } from './core-types.ts';
import { checkEgressPolicy } from './egress-policy.ts';
import { type Finding, pathText } from './finding.ts';
import { isObject, type Kind } from './kind.ts';
import { checkMetadata } from './metadata.ts';
import { checkNetworkPolicy } from './network-policy.ts';
import { checkCgroup } from './pod.ts';

export interface Checked {
  readonly findings: readonly Finding[];
  /** The object, with the defaults of its schema where that is ours. */
  readonly object: Readonly<Record<string, unknown>>;
  /** Of a Pod: the cgroup that its annotation names, where that is valid. */
  readonly cgroup: string | null;
}

export function checkObject(kind: Kind, object: Record<string, unknown>): Checked {
  const metadata = checkMetadata(kind, object.metadata);
  switch (kind) {
    case 'EgressPolicy':
    case 'ClusterEgressPolicy': {
      const { findings, defaulted } = checkEgressPolicy(kind, object);
      return { findings: [...metadata, ...findings], object: defaulted, cgroup: null };
    }
    case 'ClusterNetworkPolicy':
      return { findings: [...metadata, ...checkClusterNetworkPolicy(object)], object, cgroup: null };
    case 'NetworkPolicy': {
      // API servers of 1.24 to 1.27 print a status, which policies lost again since.
      const { status, ...said } = object;
      const findings = [...metadata, ...checkTypes(kind, said), ...checkNetworkPolicy(said)];
      if (status !== undefined && status !== null && !isObject(status)) {
        findings.push(mistyped('a mapping', status, ['status']));
      }
      return { findings, object, cgroup: null };
    }
    default: {
      const types = checkTypes(kind, object).map((finding) => (decides(kind, finding) ? finding : lessened(finding)));
      const common = [...metadata, ...types, ...checkAddresses(kind, object)];
      if (kind !== 'Pod') return { findings: common, object, cgroup: null };
      const { cgroup, findings } = checkCgroup(object.metadata);
      return { findings: [...common, ...findings], object, cgroup };
    }
  }
}

/** What of a Pod is read; the rest is much, and changes with each release of Kubernetes. */
const POD_FIELDS =
  /^(metadata|spec$|spec\.(nodeName|hostNetwork)|spec\.(initC|c)ontainers(\[\d+\](\.(ports|restartPolicy)|$)|$)|status$|status\.(podIP|phase))/;

/**
 * Whether this finding makes an object that is no policy unusable. An unknown field does not: a pod must not lose its place in
 * the cluster, and its confinement with it, by a field that Kubernetes may have learned since.
 */
function decides(kind: Kind, { code, path }: Finding): boolean {
  return code !== 'unknown_field' && (kind !== 'Pod' || POD_FIELDS.test(pathText(path)));
}

function lessened(finding: Finding): Finding {
  return { ...finding, severity: 'warning' };
}
