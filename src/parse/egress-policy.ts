// SPDX-License-Identifier: Apache-2.0
// A valid EgressPolicy or ClusterEgressPolicy, its schema's defaults filled in, in the model's shape.
import type { ClusterEgressPolicy, EgressPolicy } from '#build/generated/policy-types.ts';
import type { NamePattern } from '../model/name.ts';
import type { Entity, Peer, PodPeer, Policy, Port, Rule, Subject } from '../model/objects.ts';
import { EVERYTHING } from '../resolve/selector.ts';
import { asciiName } from '../validate/domain-name.ts';
import { namespaceName } from './cluster-objects.ts';
import { cidrs } from './network-policy.ts';
import { type LabelSelector, parseSelector } from './selector.ts';

interface Metadata {
  readonly name: string;
  readonly namespace?: string | null;
}

type Spec = EgressPolicy['spec'] | ClusterEgressPolicy['spec'];
type RuleObject = NonNullable<Spec['egress']>[number];
type PeerObject = RuleObject['to'][number];
type PortObject = NonNullable<RuleObject['ports']>[number];

export function parseEgressPolicy(metadata: Metadata, spec: EgressPolicy['spec']): Policy {
  const namespace = namespaceName(metadata.namespace);
  const subject: Subject = { type: 'own', podSelector: parseSelector(spec.podSelector) };
  return {
    ...settings(spec),
    kind: 'EgressPolicy',
    namespace,
    name: metadata.name,
    subject,
    rules: rulesOf(spec, namespace),
  };
}

export function parseClusterEgressPolicy(metadata: Metadata, spec: ClusterEgressPolicy['spec']): Policy {
  return {
    ...settings(spec),
    kind: 'ClusterEgressPolicy',
    namespace: null,
    name: metadata.name,
    subject: parseSubject(spec.subject),
    rules: rulesOf(spec, ''),
  };
}

function settings(spec: Spec) {
  return {
    effect: spec.effect ?? 'Isolate',
    priority: 0,
    mode: spec.mode ?? 'Enforce',
    onDeny: spec.onDeny ?? 'Reject',
    hostNetwork: spec.hostNetwork === 'Include',
    ...allowedNames(spec),
  } as const;
}

function allowedNames({ dns }: Spec): Pick<Policy, 'allowedNames'> {
  const only = dns?.queries === 'AllowedNamesOnly';
  const names = asciiNames(dns?.names);
  return only || names.length > 0 ? { allowedNames: { only, names } } : {};
}

function asciiNames(names: readonly string[] | undefined | null): NamePattern[] {
  return [...new Set((names ?? []).flatMap((name) => asciiName(name) ?? []))];
}

export function parseSubject({
  namespaces,
  pods,
  nodeServices,
  except,
}: ClusterEgressPolicy['spec']['subject']): Subject {
  if (nodeServices) {
    return {
      type: 'nodeServices',
      nodeSelector: parseSelector(nodeServices.nodeSelector),
      units: [...nodeServices.units],
    };
  }
  return {
    type: 'pods',
    pods: podsOf({ namespaces, pods }),
    except: (except ?? []).map(podsOf),
  };
}

function podsOf({
  namespaces,
  pods,
}: {
  namespaces?: LabelSelector | undefined;
  pods?: PodsObject | undefined;
}): PodPeer {
  if (!pods) return { namespaceSelector: parseSelector(namespaces), podSelector: EVERYTHING };
  return {
    namespaceSelector: pods.namespaceSelector ? parseSelector(pods.namespaceSelector) : null,
    podSelector: parseSelector(pods.podSelector),
  };
}

interface PodsObject {
  readonly namespaceSelector?: LabelSelector | undefined;
  readonly podSelector: LabelSelector;
}

function rulesOf({ dns, egress }: Spec, namespace: string): Rule[] {
  const context = { namespace, anywhere: dns?.answers === 'Any' };
  const rules: readonly RuleObject[] = egress ?? [];
  return rules.map((rule) => ({
    name: rule.name ?? null,
    action: 'Accept',
    peers: rule.to.map((peer) => parsePeer(peer, context)),
    ports: rule.ports ? rule.ports.map(parsePort) : null,
    notEnforced: narrowing(rule),
  }));
}

/** What the rule asks of a connection that nothing can see to yet. */
function narrowing({ tls, via }: RuleObject): string | null {
  if (tls?.serverName === 'Match') return 'tls.serverName: Match is not yet enforced';
  if (via) return 'via is not yet enforced';
  return null;
}

/** @param namespace of the policy: where a Service is that names none. @param anywhere as its `dns.answers` say. */
function parsePeer(
  peer: PeerObject,
  { namespace, anywhere }: { readonly namespace: string; readonly anywhere: boolean },
): Peer {
  const except = peer.except ?? [];
  if (peer.pods) return { type: 'pods', ...podsOf({ pods: peer.pods }) };
  if (peer.namespaces) return { type: 'pods', ...podsOf({ namespaces: peer.namespaces }) };
  if (peer.networks) return { type: 'networks', cidrs: cidrs(peer.networks), except: cidrs(except) };
  if (peer.nodes) return { type: 'nodes', selector: parseSelector(peer.nodes) };
  if (peer.services) {
    return {
      type: 'services',
      services: peer.services.map((service) => ({ namespace: service.namespace ?? namespace, name: service.name })),
    };
  }
  if (peer.entities) {
    return {
      type: 'entities',
      entities: [...peer.entities],
      except: {
        cidrs: cidrs(except.filter((item) => item.includes('/'))),
        entities: except.filter((item): item is Entity => !item.includes('/')),
      },
    };
  }
  return {
    type: 'domainNames',
    names: asciiNames(peer.domainNames),
    anywhere,
  };
}

function parsePort({ protocol, port, endPort, icmpType }: PortObject): Port {
  if (protocol === 'ICMP') return { protocol, icmpType: icmpType ?? null };
  return { protocol: protocol ?? 'TCP', port: port ?? null, endPort: endPort ?? null };
}
