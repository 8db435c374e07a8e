// SPDX-License-Identifier: Apache-2.0
// A valid ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2) in the model's shape, egress alone.
import type { ClusterNetworkPolicy } from '#build/generated/policy-types.ts';
import type { Peer, PodPeer, Policy, Port, PortProtocol, Rule, Subject } from '../model/objects.ts';
import { EVERYTHING } from '../resolve/selector.ts';
import { isUnknownPeer } from '../validate/cluster-network-policy.ts';
import { asciiName } from '../validate/domain-name.ts';
import { AUDIT_ANNOTATION } from '../validate/network-policy.ts';
import { cidrs } from './network-policy.ts';
import { parseSelector } from './selector.ts';

type Spec = ClusterNetworkPolicy['spec'];
type RuleObject = NonNullable<Spec['egress']>[number];
type PeerObject = RuleObject['to'][number];
type ProtocolObject = NonNullable<RuleObject['protocols']>[number];

interface Metadata {
  readonly name: string;
  readonly annotations?: Readonly<Record<string, string>> | null;
}

/** null: "CNPs with no egress rules do not affect egress traffic." */
export function parseClusterNetworkPolicy(metadata: Metadata, spec: Spec): Policy | null {
  const { egress = [] } = spec;
  if (egress.length === 0) return null;
  return {
    kind: 'ClusterNetworkPolicy',
    namespace: null,
    name: metadata.name,
    subject: parseUpstreamSubject(spec.subject),
    effect: spec.tier,
    priority: spec.priority,
    mode: metadata.annotations?.[AUDIT_ANNOTATION] === 'Audit' ? 'Audit' : 'Enforce',
    onDeny: 'Reject',
    hostNetwork: false, // "host-networked pods are not included in subject selection"
    rules: egress.map(parseRule),
  };
}

export function parseUpstreamSubject(subject: Spec['subject']): Subject {
  return { type: 'pods', pods: podsOf(subject), except: [] };
}

/** An absent namespaceSelector is an empty one, which "selects all Namespaces". */
function podsOf({ namespaces, pods }: Spec['subject']): PodPeer {
  if (!pods) return { namespaceSelector: parseSelector(namespaces), podSelector: EVERYTHING };
  return {
    namespaceSelector: parseSelector(pods.namespaceSelector),
    podSelector: parseSelector(pods.podSelector),
  };
}

/** All that there is: what "Deny all" denies. */
export const DENY_ALL: Rule = Object.freeze({
  name: null,
  action: 'Deny',
  peers: [{ type: 'any' }],
  ports: null,
  notEnforced: null,
} satisfies Rule);

/**
 * With a peer that is unknown, a rule fails closed: an Accept is treated "as matching no traffic", Deny and Pass "as a 'Deny all' rule"
 * (ClusterNetworkPolicyEgressPeer).
 */
function parseRule(rule: RuleObject): Rule {
  const name = rule.name || null;
  const isUnknown = rule.to.some((peer) => isUnknownPeer(peer));
  if (isUnknown && rule.action !== 'Accept') return { ...DENY_ALL, name };
  return {
    name,
    action: rule.action,
    peers: isUnknown ? [] : rule.to.map(parsePeer),
    ports: rule.protocols ? rule.protocols.flatMap(parseProtocol) : null,
    notEnforced: isUnknown ? 'a peer is unknown to this version' : null,
  };
}

function parsePeer(peer: PeerObject): Peer {
  if (peer.networks) return { type: 'networks', cidrs: cidrs(peer.networks), except: [] };
  if (peer.nodes) return { type: 'nodes', selector: parseSelector(peer.nodes) };
  if (peer.domainNames) {
    const names = [...new Set(peer.domainNames.flatMap((name) => asciiName(name) ?? []))];
    return { type: 'domainNames', names, anywhere: false };
  }
  return { type: 'pods', ...podsOf(peer) };
}

const PROTOCOLS: readonly PortProtocol[] = ['TCP', 'UDP', 'SCTP'];

/** A named port says no protocol: it is that of the container port. */
function parseProtocol({ destinationNamedPort, ...transports }: ProtocolObject): Port[] {
  if (destinationNamedPort !== undefined) {
    return PROTOCOLS.map((protocol) => ({ protocol, port: destinationNamedPort, endPort: null }));
  }
  return PROTOCOLS.flatMap((protocol): Port[] => {
    const transport = transports[protocol.toLowerCase() as Lowercase<PortProtocol>];
    if (transport === undefined) return [];
    const { number, range } = transport.destinationPort ?? {};
    return [{ protocol, port: range?.start ?? number ?? null, endPort: range?.end ?? null }];
  });
}
