// SPDX-License-Identifier: Apache-2.0
// Which policies take names or the API server from what a cluster lives on: cluster DNS, hostNetwork pods, node services? A mistake there may
// not be mendable through the API server that it cut off. By what rules say; any network counts as the way.
import type { Entity, Peer, Pod, Policy, Snapshot } from '../model/objects.ts';
import { doubtful, type Finding } from '../validate/finding.ts';

/** What is needed, and the words beside its own that open it. */
const NEEDED: readonly { readonly entity: Entity; readonly words: readonly Entity[] }[] = [
  { entity: 'KubeAPIServer', words: ['KubeAPIServer', 'Cluster', 'All', 'Host'] },
  { entity: 'DNS', words: ['DNS', 'Cluster', 'All'] },
];

/**
 * @param held pods of the folder that it holds.
 * @param on the policies on one of them.
 * @param beside those that share a unit with it.
 */
export function checkCutOff(
  policy: Policy,
  held: readonly Pod[],
  on: (pod: Pod) => readonly Policy[],
  beside: readonly Policy[],
  snapshot: Snapshot,
): Finding[] {
  const { subject, effect } = policy;
  if (effect !== 'Isolate' && effect !== 'Limit') return [];
  if (subject.type === 'nodeServices') {
    const path = ['spec', 'subject', 'nodeServices', 'units'];
    // Of node services, kubelet alone is known to need the API server.
    const needed = NEEDED.filter(({ entity }) => entity === 'DNS' || subject.units.includes('kubelet.service'));
    const counted = countedWith(policy, beside);
    return needed
      .filter(({ entity, words }) => !reaches(counted, entity, words))
      .map(({ entity }) => told('node_service_cut_off', path, subject.units.join(', '), entity, 'the node needs it'));
  }
  const resolvers = clusterDns(snapshot);
  const path = ['spec', subject.type === 'own' ? 'podSelector' : 'subject'];
  return NEEDED.flatMap(({ entity, words }) => {
    const pod = held.find(
      (one) => (one.hostNetwork || resolvers.has(one)) && !reaches(countedWith(policy, on(one)), entity, words),
    );
    if (pod === undefined) return [];
    const what = resolvers.has(pod) ? 'which answers for the whole cluster' : 'a hostNetwork pod';
    const who = `${pod.namespace}/${pod.name}, ${what},`;
    return [told('cut_off', path, who, entity, 'it needs that')];
  });
}

/** Which rules may help: of a Limit, its own alone. */
function countedWith(policy: Policy, others: readonly Policy[]): readonly Policy[] {
  return policy.effect === 'Limit' ? [policy] : others.filter(({ effect }) => effect !== 'Limit');
}

function told(code: string, path: string[], who: string, entity: Entity, need: string): Finding {
  const message = `nothing here lets ${who} reach ${entity}`;
  return { ...doubtful(code, path, message, `add a rule to: [{entities: [${entity}]}], if ${need}`), at: 'key' };
}

function reaches(policies: readonly Policy[], entity: Entity, words: readonly Entity[]): boolean {
  return policies.some(({ rules }) =>
    rules.some(
      ({ action, peers, notEnforced }) =>
        action === 'Accept' && notEnforced === null && peers.some((peer) => opens(peer, entity, words)),
    ),
  );
}

function opens(peer: Peer, entity: Entity, words: readonly Entity[]): boolean {
  switch (peer.type) {
    case 'any':
    case 'networks':
      return true;
    case 'entities':
      return !peer.except.entities.includes(entity) && peer.entities.some((one) => words.includes(one));
    case 'nodes': // most API servers are on nodes
      return entity === 'KubeAPIServer';
    case 'services':
      return peer.services.some(({ namespace, name }) =>
        entity === 'DNS' ? /dns/.test(name) : namespace === 'default' && name === 'kubernetes',
      );
    case 'pods':
      return entity === 'DNS' && peer.namespaceSelector !== null;
    case 'domainNames':
      return false;
  }
}

/** By the label that every distribution's cluster DNS has: its Service selects by that. */
function clusterDns({ pods }: Snapshot): ReadonlySet<Pod> {
  return new Set(
    pods.filter(({ namespace, labels }) => namespace === 'kube-system' && labels['k8s-app'] === 'kube-dns'),
  );
}
