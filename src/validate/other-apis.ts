// SPDX-License-Identifier: Apache-2.0
// What to write where a word of another API stands: Cilium's, Calico's, NetworkPolicy's and ClusterNetworkPolicy's.
import type { Path } from '../yaml/documents.ts';
import type { CrdKind } from './kind.ts';

/** Words of other projects for what we have by another name. */
const FOREIGN_ENTITIES: Readonly<Record<string, string>> = {
  all: 'All',
  world: 'World (or Internet, which leaves private ranges out)',
  'world-ipv4': 'networks: [0.0.0.0/0], or World',
  'world-ipv6': 'networks: ["::/0"], or World',
  host: 'Host',
  'remote-node': 'nodes: {}, in an item of its own',
  'kube-apiserver': 'KubeAPIServer',
  cluster: 'Cluster',
  'kube-dns': 'DNS',
  init: 'pods, in an item of its own',
  unmanaged: 'Cluster, or pods in an item of its own',
  health: 'Host, or nodes in an item of its own',
  ingress: 'pods, in an item of its own',
  none: 'no rule at all: what no rule allows is denied',
};

export function foreignEntity(word: string): string | undefined {
  return Object.hasOwn(FOREIGN_ENTITIES, word) ? FOREIGN_ENTITIES[word] : undefined;
}

/** What to write where another API's field stands, by its place. */
export function meantField(name: string, path: Path, kind: CrdKind): string | undefined {
  if (kind === 'ClusterNetworkPolicy') return meantUpstream(name, path);
  const inPeer = path.at(-2) === 'to';
  const inRule = path.at(-2) === 'egress';
  const inSpec = path.length === 1 && path[0] === 'spec';
  const peers: Readonly<Record<string, string>> = {
    podSelector: 'write pods: {podSelector: …}',
    namespaceSelector: 'write namespaces: …, or pods: {namespaceSelector: …, podSelector: …}',
    ipBlock: 'write networks: [CIDR], and except beside it',
    cidr: 'write networks: [CIDR]',
    cidrs: 'write networks: [CIDR, …]',
    cidrSet: 'write networks: [CIDR, …] and except',
    fqdn: 'write domainNames: [name]',
    fqdns: 'write domainNames: [name, …]',
    matchName: 'write domainNames: [name]',
    matchPattern: 'write domainNames: ["*.name"]',
    toFQDNs: 'write domainNames: [name, …]',
    toEntities: 'write entities: [ … ]',
    toCIDR: 'write networks: [CIDR, …]',
    ports: 'write ports beside `to`, not in it',
  };
  const rules: Readonly<Record<string, string>> = {
    toFQDNs: 'write to: [{domainNames: [name, …]}]',
    toEntities: 'write to: [{entities: [ … ]}]',
    toCIDR: 'write to: [{networks: [CIDR, …]}]',
    toCIDRSet: 'write to: [{networks: [CIDR, …], except: [ … ]}]',
    toEndpoints: 'write to: [{pods: {podSelector: …}}]',
    toServices: 'write to: [{services: [{namespace: …, name: …}]}]',
    toPorts: 'write ports: [{port: …, protocol: …}]',
    protocols: 'write ports: [{port: …, protocol: …}]',
    from: 'write to: a policy of this kind is about egress',
    action: 'remove it: every rule allows; what is denied is what no rule allows',
    ...Object.fromEntries(
      ['pods', 'namespaces', 'networks', 'nodes', 'services', 'entities', 'domainNames'].map((peer) => [
        peer,
        `write to: [{${peer}: …}]`,
      ]),
    ),
  };
  const specs: Readonly<Record<string, string>> = {
    ingress: 'remove it: this kind is about egress; NetworkPolicy has ingress',
    policyTypes: 'remove it: this kind is about egress; effect says whether it isolates',
    priority: 'remove it: policies of this kind have no order',
    tier: 'remove it: policies of this kind have no tiers; effect: Limit binds whoever allows',
    order: 'remove it: policies of this kind have no order',
    endpointSelector: kind === 'EgressPolicy' ? 'write podSelector' : 'write subject: {pods: …}',
    selector: kind === 'EgressPolicy' ? 'write podSelector' : 'write subject: {pods: …}',
    enableDefaultDeny: 'write effect: Grant for a policy that isolates nobody',
    egressDeny: 'write effect: Limit, with what remains allowed as egress',
    ...(kind === 'EgressPolicy'
      ? {
          subject: 'write podSelector, or kind: ClusterEgressPolicy',
          namespaceSelector: 'write kind: ClusterEgressPolicy with subject: {namespaces: …}',
        }
      : {
          podSelector: 'write subject: {pods: {namespaceSelector: …, podSelector: …}}',
          namespaceSelector: 'write subject: {namespaces: …}',
        }),
  };
  const ports: Readonly<Record<string, string>> = {
    number: 'write port',
    name: 'write port: it takes a name, too',
    range: 'write port and endPort',
    type: 'write icmpType',
  };
  const known = inPeer ? peers : inRule ? rules : inSpec ? specs : path.at(-2) === 'ports' ? ports : {};
  return Object.hasOwn(known, name) ? known[name] : undefined;
}

/** The same for ClusterNetworkPolicy: words of its forerunners (v1alpha1), of NetworkPolicy and of ours. */
function meantUpstream(name: string, path: Path): string | undefined {
  const peers: Readonly<Record<string, string>> = {
    podSelector: 'write pods: {namespaceSelector: …, podSelector: …}',
    namespaceSelector: 'write namespaces: …, or pods: {namespaceSelector: …, podSelector: …}',
    ipBlock: 'write networks: [CIDR]; for an except, Pass or Accept the excepted ones in a rule before this',
    except: 'remove it; write a rule for the excepted networks before this one',
    entities: 'write networks, or a ClusterEgressPolicy, which has entities',
    services: 'write pods, or a ClusterEgressPolicy, which has services',
  };
  const rules: Readonly<Record<string, string>> = {
    ports: 'write protocols: [{tcp: {destinationPort: {number: …}}}]',
    tls: 'write a ClusterEgressPolicy, which has tls',
  };
  const specs: Readonly<Record<string, string>> = {
    mode: 'write the annotation postern.dev/mode: Audit',
    podSelector: 'write subject: {pods: {namespaceSelector: …, podSelector: …}}',
    policyTypes: 'remove it: a policy is about egress if it has egress rules',
  };
  const protocols: Readonly<Record<string, string>> = {
    portNumber: 'write tcp: {destinationPort: {number: …}}',
    portRange: 'write tcp: {destinationPort: {range: {start: …, end: …}}}',
    namedPort: 'write destinationNamedPort',
    port: 'write tcp: {destinationPort: {number: …}}',
    protocol: 'write tcp, udp or sctp: {destinationPort: …}',
  };
  const known =
    path.at(-2) === 'to'
      ? peers
      : path.at(-2) === 'egress'
        ? rules
        : path.at(-2) === 'protocols'
          ? protocols
          : path.length === 1 && path[0] === 'spec'
            ? specs
            : {};
  return Object.hasOwn(known, name) ? known[name] : undefined;
}
