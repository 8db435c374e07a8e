// SPDX-License-Identifier: Apache-2.0
// Which policies hold a pod? Answers for each pod, once for all pods that no selector can tell apart.

import type { Namespace, Pod, PodPeer, Policy, Snapshot } from '../model/objects.ts';
import { byTold } from './order.ts';
import { keysOf, matches, project } from './selector.ts';

/** The policies on a workload, in told order. */
export interface Selection {
  /** Audit policies left out. */
  readonly enforced: readonly Policy[];
  /** All, as if each were enforced. */
  readonly shadow: readonly Policy[];
}

const NONE: Selection = { enforced: [], shadow: [] };

/** A function from pod to selection. Ended pods are selected by nobody. */
export function selections(snapshot: Snapshot): (pod: Pod) => Selection {
  const namespaces = new Map(snapshot.namespaces.map((namespace) => [namespace.name, namespace]));
  const policies = snapshot.policies.filter(({ subject }) => subject.type !== 'nodeServices').sort(byTold);
  const { podKeys, namespaceKeys } = subjectKeys(policies);
  const memo = new Map<string, Selection>();

  return (pod) => {
    if (pod.ended) return NONE;
    const namespace = namespaces.get(pod.namespace) ?? implicit(pod.namespace);
    const group = JSON.stringify([
      pod.namespace,
      project(namespace.labels, namespaceKeys),
      project(pod.labels, podKeys),
      pod.hostNetwork,
      pod.isStatic,
    ]);
    let selection = memo.get(group);
    if (selection === undefined) {
      const shadow = policies.filter((policy) => selects(policy, pod, namespace));
      selection = { enforced: shadow.filter(({ mode }) => mode === 'Enforce'), shadow };
      memo.set(group, selection);
    }
    return selection;
  };
}

function subjectKeys(policies: readonly Policy[]): { podKeys: string[]; namespaceKeys: string[] } {
  const podKeys = new Set<string>();
  const namespaceKeys = new Set<string>();
  const add = (peer: PodPeer): void => {
    for (const key of keysOf(peer.podSelector)) podKeys.add(key);
    for (const key of peer.namespaceSelector === null ? [] : keysOf(peer.namespaceSelector)) namespaceKeys.add(key);
  };
  for (const { subject } of policies) {
    if (subject.type === 'own') add({ namespaceSelector: null, podSelector: subject.podSelector });
    if (subject.type === 'pods') [subject.pods, ...subject.except].forEach(add);
  }
  return { podKeys: [...podKeys].sort(), namespaceKeys: [...namespaceKeys].sort() };
}

/** A namespace that no object describes has the label that the API server gives every namespace. */
export function implicit(name: string): Namespace {
  return { name, labels: { 'kubernetes.io/metadata.name': name } };
}

function selects(policy: Policy, pod: Pod, namespace: Namespace): boolean {
  // Upstream kinds never hold hostNetwork pods; ours where they say so, and static pods never: such a mistake could not be
  // undone through the API server that it cut off.
  if (pod.hostNetwork && (!policy.hostNetwork || pod.isStatic)) return false;
  const { subject } = policy;
  switch (subject.type) {
    case 'own':
      return policy.namespace === pod.namespace && matches(subject.podSelector, pod.labels);
    case 'pods':
      return isPeer(subject.pods, pod, namespace) && !subject.except.some((except) => isPeer(except, pod, namespace));
    case 'nodeServices':
      return false;
  }
}

function isPeer(peer: PodPeer, pod: Pod, namespace: Namespace): boolean {
  return (
    (peer.namespaceSelector === null || matches(peer.namespaceSelector, namespace.labels)) &&
    matches(peer.podSelector, pod.labels)
  );
}
