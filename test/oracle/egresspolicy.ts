// SPDX-License-Identifier: Apache-2.0
// Whom does an EgressPolicy or ClusterEgressPolicy hold, and what do its rules match? By api.md, section 2, a function a sentence.
import { type Address, coversText, equal, isOneOf } from './address.ts';
import {
  type Cluster,
  findService,
  isEnded,
  isHostNetwork,
  isOwnPod,
  isStatic,
  namespaceLabels,
  namespaceOf,
  nodeAddresses,
  podAt,
  podLabels,
  servicePorts,
  targets,
} from './cluster.ts';
import type { Destination } from './destination.ts';
import { isEntity } from './entity.ts';
import type { EgressPeer, EgressPolicy, EgressRule, LabelSelector, Pod, PodsPeer, SubjectItem } from './kubernetes.ts';
import { namesLead } from './name.ts';
import { portMatches, servicePortMatches } from './port.ts';
import { selects } from './selector.ts';

export function egressPolicySelects(cluster: Cluster, policy: EgressPolicy, pod: Pod): boolean {
  if (pod.unit !== undefined) return nodeServicesSelect(cluster, policy, pod.unit);
  if (isEnded(pod) || (isHostNetwork(pod) && !includesHostNetwork(policy, pod))) return false;
  return policy.kind === 'EgressPolicy' ? podSelectorSelects(policy, pod) : subjectSelects(cluster, policy, pod);
}

/** "hostNetwork: Exclude (default) | Include: hostNetwork pods that the selector matches are held too. Static pods are never selected." */
function includesHostNetwork(policy: EgressPolicy, pod: Pod): boolean {
  return policy.spec.hostNetwork === 'Include' && !isStatic(pod);
}

/** "nodeServices: systemd services by exact unit name. nodeSelector: default {}", of this node. What is not known of a node has no labels. */
function nodeServicesSelect(cluster: Cluster, policy: EgressPolicy, unit: string): boolean {
  const services = policy.kind === 'ClusterEgressPolicy' ? policy.spec.subject?.nodeServices : null;
  if (!services?.units.includes(unit)) return false;
  const selector = services.nodeSelector ?? {};
  const node = cluster.nodes.find((one) => one.metadata.name === cluster.host.node);
  if (node !== undefined) return selects(selector, node.metadata.labels ?? {});
  return Object.keys(selector.matchLabels ?? {}).length + (selector.matchExpressions ?? []).length === 0;
}

/** "podSelector: default {}: every pod of the namespace, as NetworkPolicy has it." */
function podSelectorSelects(policy: EgressPolicy, pod: Pod): boolean {
  return namespaceOf(policy) === namespaceOf(pod) && selects(policy.spec.podSelector ?? {}, podLabels(pod));
}

/** "subject: exactly one of namespaces, pods, nodeServices; except: items, each namespaces or pods." nodeServices select no pod. */
function subjectSelects(cluster: Cluster, policy: EgressPolicy, pod: Pod): boolean {
  const subject = policy.spec.subject ?? {};
  return (
    subjectItemHolds(cluster, subject, pod) &&
    !(subject.except ?? []).some((item) => subjectItemHolds(cluster, item, pod))
  );
}

function subjectItemHolds(cluster: Cluster, item: SubjectItem, pod: Pod): boolean {
  if (item.namespaces) return namespaceMatches(cluster, item.namespaces, pod);
  return item.pods ? podsHold(cluster, item.pods, null, pod) : false;
}

function namespaceMatches(cluster: Cluster, selector: LabelSelector, pod: Pod): boolean {
  return selects(selector, namespaceLabels(cluster, namespaceOf(pod)));
}

/** "pods: no namespaceSelector: own namespace (in ClusterEgressPolicy: refused)." */
function podsHold(cluster: Cluster, pods: PodsPeer, own: string | null, pod: Pod): boolean {
  const inNamespace = pods.namespaceSelector
    ? namespaceMatches(cluster, pods.namespaceSelector, pod)
    : namespaceOf(pod) === own;
  return inNamespace && selects(pods.podSelector ?? {}, podLabels(pod));
}

/** "What an agent can't enforce allows nothing": a rule with `tls.serverName: Match` or `via`. Else any peer of `to` must match, with `ports`. */
export function egressRuleMatches(
  cluster: Cluster,
  policy: EgressPolicy,
  rule: EgressRule,
  destination: Destination,
): boolean {
  if (rule.tls?.serverName === 'Match' || rule.via) return false;
  return (rule.to ?? []).some((peer) => peerAndPortsMatch(cluster, policy, rule, peer, destination));
}

function peerAndPortsMatch(
  cluster: Cluster,
  policy: EgressPolicy,
  rule: EgressRule,
  peer: EgressPeer,
  destination: Destination,
): boolean {
  if (peer.services) {
    return peer.services.some((s) =>
      isServiceTarget(cluster, s.namespace ?? ownNamespace(policy), s.name, rule, destination),
    );
  }
  return (
    (peerCovers(cluster, policy, peer, destination) && portsMatch(cluster, rule, destination)) ||
    coversServiceAddress(rule, peer, destination)
  );
}

function ownNamespace(policy: EgressPolicy): string | null {
  return policy.kind === 'EgressPolicy' ? namespaceOf(policy) : null;
}

/** "ports: absent: every port and protocol." */
function portsMatch(cluster: Cluster, rule: EgressRule, destination: Destination): boolean {
  const pod = podAt(cluster, destination.address);
  return !rule.ports || rule.ports.some((port) => portMatches(port, destination, pod));
}

/** "each peer is exactly one of seven keys." */
function peerCovers(cluster: Cluster, policy: EgressPolicy, peer: EgressPeer, destination: Destination): boolean {
  const { address } = destination;
  if (peer.networks) return networksCover(peer.networks, peer.except ?? [], address);
  if (peer.entities) return entitiesCover(cluster, peer.entities, peer.except ?? [], destination);
  if (peer.nodes) return isNode(cluster, peer.nodes, address);
  if (peer.domainNames) return namesLead(cluster, peer.domainNames, policy.spec.dns?.answers, destination);
  const pod = podAt(cluster, address);
  if (pod === null) return false;
  if (peer.pods) return podsHold(cluster, peer.pods, ownNamespace(policy), pod);
  if (peer.namespaces) return namespaceMatches(cluster, peer.namespaces, pod);
  return false;
}

/** "networks: by address, whoever has it. except: taken from this item only." */
function networksCover(networks: readonly string[], except: readonly string[], address: Address): boolean {
  return networks.some((c) => coversText(c, address)) && !except.some((c) => coversText(c, address));
}

/** "nodes: LabelSelector; their status.addresses." */
function isNode(cluster: Cluster, selector: LabelSelector, address: Address): boolean {
  return cluster.nodes.some(
    (node) => selects(selector, node.metadata.labels ?? {}) && isOneOf(address, nodeAddresses(node)),
  );
}

/** "entities, except: CIDRs or Internet, Cluster, Host, KubeAPIServer, DNS": these take away what they would allow. */
function entitiesCover(
  cluster: Cluster,
  entities: readonly string[],
  except: readonly string[],
  destination: Destination,
): boolean {
  const isTakenAway = (item: string) =>
    item.includes('/') ? coversText(item, destination.address) : isEntity(cluster, item, destination);
  return entities.some((entity) => isEntity(cluster, entity, destination)) && !except.some(isTakenAway);
}

/** "services: its clusterIPs on its ports, its pods (hostNetwork too) on their target ports; `ports` means the Service's own." The clusterIPs are judged by what stands behind them (see decide.ts), so only endpoints are asked for here; those of a Service without clusterIP count as well. */
function isServiceTarget(
  cluster: Cluster,
  namespace: string | null,
  name: string,
  rule: EgressRule,
  destination: Destination,
): boolean {
  const service = namespace === null ? null : findService(cluster, namespace, name);
  if (service === null || service.spec.type === 'ExternalName') return false;
  return servicePorts(service)
    .filter((port) => !rule.ports || rule.ports.some((wanted) => servicePortMatches(wanted, port)))
    .flatMap((port) => targets(cluster, service, port))
    .some(
      (target) =>
        equal(target.address, destination.address) &&
        target.port === destination.port &&
        target.protocol === destination.protocol &&
        isOwnPod(cluster, service, target),
    );
}

/** As in networkpolicy.ts: `networks` that cover the Service's address, with ports that hold its port, count for each endpoint behind it. */
function coversServiceAddress(rule: EgressRule, peer: EgressPeer, destination: Destination): boolean {
  const { reachedBy } = destination;
  if (reachedBy === null || isHostNetwork(destination.from) || !peer.networks) return false;
  const asAddressed = { ...destination, address: reachedBy.address, port: reachedBy.port };
  return (
    networksCover(peer.networks, peer.except ?? [], reachedBy.address) &&
    (!rule.ports || rule.ports.some((port) => portMatches(port, asAddressed, null)))
  );
}
