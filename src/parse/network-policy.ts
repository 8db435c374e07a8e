// SPDX-License-Identifier: Apache-2.0
// A valid NetworkPolicy in the model's shape, egress alone: defaults as SetDefaults_NetworkPolicy (k8s.io/kubernetes/pkg/apis/networking/v1) sets them.
import type { Peer, Policy, Port, PortProtocol, Rule } from '../model/objects.ts';
import { EVERYTHING } from '../resolve/selector.ts';
import { readCidr } from '../validate/cidr.ts';
import { isObject } from '../validate/kind.ts';
import { AUDIT_ANNOTATION } from '../validate/network-policy.ts';
import { namespaceName } from './cluster-objects.ts';
import { type LabelSelector, parseSelector } from './selector.ts';

export interface NetworkPolicyObject {
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string | null;
    readonly annotations?: Readonly<Record<string, string>> | null;
  };
  readonly spec: {
    readonly podSelector?: LabelSelector | null;
    readonly policyTypes?: readonly string[] | null;
    readonly egress?: readonly (NetworkPolicyRule | null)[] | null;
  };
}

interface NetworkPolicyRule {
  readonly to?: readonly NetworkPolicyPeer[] | null;
  readonly ports?:
    | readonly ({
        readonly protocol?: string | null;
        readonly port?: number | string | null;
        readonly endPort?: number | null;
      } | null)[]
    | null;
}

interface NetworkPolicyPeer {
  readonly podSelector?: LabelSelector | null;
  readonly namespaceSelector?: LabelSelector | null;
  readonly ipBlock?: { readonly cidr: string; readonly except?: readonly string[] | null } | null;
}

/** null: the policy is about ingress alone. */
export function parseNetworkPolicy({ metadata, spec }: NetworkPolicyObject): Policy | null {
  if (!isAboutEgress(spec)) return null;
  return {
    kind: 'NetworkPolicy',
    namespace: namespaceName(metadata.namespace),
    name: metadata.name,
    subject: { type: 'own', podSelector: parseSelector(spec.podSelector) },
    effect: 'Isolate',
    priority: 0,
    mode: metadata.annotations?.[AUDIT_ANNOTATION] === 'Audit' ? 'Audit' : 'Enforce',
    onDeny: 'Reject',
    hostNetwork: false,
    rules: (spec.egress ?? []).map(parseRule),
  };
}

/**
 * By policyTypes; where that is absent or empty, by whether there is an egress rule: `egress: []` alone isolates nobody ("a policy that
 * specifies that no egress is allowed … must specify a policyTypes value that include Egress", networking/v1 types.go).
 */
export function isAboutEgress(spec: Record<string, unknown> | NetworkPolicyObject['spec']): boolean {
  const { policyTypes, egress } = spec;
  if (Array.isArray(policyTypes) && policyTypes.length > 0) return policyTypes.includes('Egress');
  return Array.isArray(egress) && egress.length > 0;
}

function parseRule(rule: NetworkPolicyRule | null): Rule {
  const { to, ports } = rule ?? {};
  return {
    name: null,
    action: 'Accept',
    // "If this field is empty or missing, this rule matches all destinations" (all ports).
    peers: to && to.length > 0 ? to.map(parsePeer) : [{ type: 'any' }],
    ports: ports && ports.length > 0 ? ports.map(parsePort) : null,
    notEnforced: null,
  };
}

function parsePeer({ podSelector, namespaceSelector, ipBlock }: NetworkPolicyPeer): Peer {
  if (isObject(ipBlock)) {
    return { type: 'networks', cidrs: cidrs([ipBlock.cidr]), except: cidrs(ipBlock.except ?? []) };
  }
  return {
    type: 'pods',
    namespaceSelector: namespaceSelector ? parseSelector(namespaceSelector) : null,
    podSelector: podSelector ? parseSelector(podSelector) : EVERYTHING,
  };
}

function parsePort(
  port: { protocol?: string | null; port?: number | string | null; endPort?: number | null } | null,
): Port {
  return {
    protocol: (port?.protocol || 'TCP') as PortProtocol,
    port: port?.port ?? null,
    endPort: port?.endPort ?? null,
  };
}

export function cidrs(texts: readonly string[]): string[] {
  return [...new Set(texts.flatMap((text) => readCidr(text)?.cidr ?? []))];
}
