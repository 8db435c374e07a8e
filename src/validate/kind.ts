// SPDX-License-Identifier: Apache-2.0
// Is this document an object that Postern reads, one that it has no part in, or a misspelling of one? Looks at apiVersion and kind alone.
import { doubtful, type Finding, quote, wrong, wrongKey } from './finding.ts';
import { distance, nearest } from './spelling.ts';

export type CoreKind = 'Namespace' | 'Node' | 'Pod' | 'Service' | 'EndpointSlice' | 'NetworkPolicy';
export type OwnKind = 'EgressPolicy' | 'ClusterEgressPolicy';
/** Kinds that a CRD in daemonset/crds/ describes: ours, and upstream's. */
export type CrdKind = OwnKind | 'ClusterNetworkPolicy';
export type Kind = CoreKind | CrdKind;

interface Known {
  readonly apiVersion: string;
  readonly namespaced: boolean;
}

export const kinds: Readonly<Record<Kind, Known>> = {
  Namespace: { apiVersion: 'v1', namespaced: false },
  Node: { apiVersion: 'v1', namespaced: false },
  Pod: { apiVersion: 'v1', namespaced: true },
  Service: { apiVersion: 'v1', namespaced: true },
  EndpointSlice: { apiVersion: 'discovery.k8s.io/v1', namespaced: true },
  NetworkPolicy: { apiVersion: 'networking.k8s.io/v1', namespaced: true },
  EgressPolicy: { apiVersion: 'postern.dev/v1alpha1', namespaced: true },
  ClusterEgressPolicy: { apiVersion: 'postern.dev/v1alpha1', namespaced: false },
  ClusterNetworkPolicy: { apiVersion: 'policy.networking.k8s.io/v1alpha2', namespaced: false },
};

export const isPolicy = (kind: Kind): kind is 'NetworkPolicy' | CrdKind => kind.endsWith('Policy');

export function isKind(kind: unknown): kind is Kind {
  return typeof kind === 'string' && Object.hasOwn(kinds, kind);
}

export type Classified =
  | { readonly type: 'known'; readonly kind: Kind }
  | { readonly type: 'list'; readonly items: readonly unknown[]; readonly kind: Kind | null }
  /** `kind` is what was meant, where that is plain. */
  | { readonly type: 'wrong'; readonly kind: Kind | null; readonly finding: Finding }
  /** `finding`: a policy that someone may take for enforced here. */
  | { readonly type: 'other'; readonly finding: Finding | null };

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/**
 * Kinds of other groups are passed over, whatever their name: Calico has a NetworkPolicy and Knative a Service of its own. Told is
 * only what no one else can mean: Kubernetes' own groups, ours, and near misses of them; and, as a warning, that others' network
 * policies are others' to enforce.
 */
export function classify(value: unknown): Classified {
  if (!isObject(value)) {
    return mistaken(
      null,
      wrong('not_an_object', [], 'the document is no Kubernetes object', 'write apiVersion, kind, metadata and spec'),
    );
  }
  const { kind, apiVersion } = value;
  if (typeof kind !== 'string' || kind === '') {
    const message = kind === undefined ? 'kind is missing' : `kind is ${quote(kind)}`;
    return mistaken(null, wrong('kind', ['kind'], message, 'write kind: NetworkPolicy, kind: EgressPolicy, …'));
  }
  if (typeof apiVersion !== 'string' || apiVersion === '') {
    const meant = isKind(kind) ? kind : null;
    const advice = `write apiVersion: ${meant ? kinds[meant].apiVersion : '…, as the kind has it'}`;
    const message = apiVersion === undefined ? 'apiVersion is missing' : `apiVersion is ${quote(apiVersion)}`;
    return mistaken(meant, wrong('api_version', ['apiVersion'], message, advice));
  }
  if (isKind(kind)) {
    const right = kinds[kind].apiVersion;
    if (apiVersion === right) return { type: 'known', kind };
    if (!isOurs(apiVersion) && distance(apiVersion, right, 3) > 3) return other(kind, apiVersion);
    const message = `${kind} has no apiVersion ${quote(apiVersion)} here`;
    return mistaken(kind, wrong('api_version', ['apiVersion'], message, `write apiVersion: ${right}`));
  }
  if (kind.endsWith('List')) {
    const item = kind.slice(0, -'List'.length);
    const itemKind = isKind(item) ? item : null;
    if (item === '' || (itemKind && apiVersion === kinds[itemKind].apiVersion)) {
      if (Array.isArray(value.items)) return { type: 'list', items: value.items, kind: itemKind };
      return mistaken(null, wrongKey('list', ['items'], `${kind} has no list of items`, 'write items: [ … ]'));
    }
  }
  const meant = nearest(kind, Object.keys(kinds)) as Kind | null;
  if (meant && (kinds[meant].apiVersion === apiVersion || apiVersion.startsWith('postern.dev/'))) {
    const message = `there is no kind ${quote(kind)} in ${apiVersion}`;
    return mistaken(meant, wrong('kind', ['kind'], message, `write kind: ${meant}`));
  }
  if (apiVersion.startsWith('postern.dev/')) {
    const message = `there is no kind ${quote(kind)} in ${apiVersion}`;
    return mistaken(null, wrong('kind', ['kind'], message, 'write kind: EgressPolicy or kind: ClusterEgressPolicy'));
  }
  return other(kind, apiVersion);
}

function other(kind: string, apiVersion: string): Classified {
  if (!kind.endsWith('NetworkPolicy')) return { type: 'other', finding: null };
  const message = `${kind} of ${apiVersion} is not Postern's: it has no effect here`;
  const advice = 'write a NetworkPolicy, EgressPolicy or ClusterEgressPolicy, or keep it elsewhere';
  return { type: 'other', finding: doubtful('other_policy', ['kind'], message, advice) };
}

function mistaken(kind: Kind | null, finding: Finding): Classified {
  return { type: 'wrong', kind, finding };
}

/** A group of Kubernetes itself (`v1`, `extensions/v1beta1`, `networking.k8s.io/…`) or ours. */
function isOurs(apiVersion: string): boolean {
  const [group = '', version] = apiVersion.split('/');
  return version === undefined || !group.includes('.') || group.endsWith('.k8s.io') || group === 'postern.dev';
}
