// SPDX-License-Identifier: Apache-2.0
// What policies are there? All four kinds at random, with every feature; each is valid by its schema.
import { covers, parseCidr } from './address.ts';
import { clusterIPs, nodeAddresses, podAddresses } from './cluster.ts';
import {
  type GeneratedCluster,
  LABEL_KEYS,
  LABEL_VALUES,
  labels,
  PORT_NAMES,
  PORT_NUMBERS,
  TRANSPORTS,
} from './generate-cluster.ts';
import type {
  ClusterNetworkPolicy,
  EgressPeer,
  EgressPolicy,
  EgressRule,
  LabelSelector,
  NetworkPolicy,
  NetworkPolicyPeer,
  PodsPeer,
  Policy,
  Port,
  Protocol,
  SubjectItem,
  UpstreamPeer,
  UpstreamProtocol,
  UpstreamRule,
} from './kubernetes.ts';
import type { Random } from './random.ts';

const CIDRS = [
  '0.0.0.0/0',
  '0.0.0.0/1',
  '8.8.0.0/16',
  '8.8.4.0/30',
  '10.0.0.0/8',
  '10.96.0.0/16',
  '10.96.0.0/27',
  '10.244.0.0/16',
  '10.244.1.0/24',
  '10.244.1.4/30',
  '10.244.2.9/24',
  '169.254.0.0/16',
  '169.254.169.254/32',
  '192.0.2.0/24',
  '192.0.2.128/25',
  '198.18.0.0/15',
  '198.18.0.0/30',
  '203.0.113.5/32',
  '224.0.0.0/4',
  '::/0',
  '64:ff9b::/96',
  '64:ff9b::a00:0/104',
  '2000::/3',
  '2001:db8::/32',
  '2001:db8::/126',
  '2002::/16',
  'fc00::/7',
  'fd00::/8',
  'fd00:18::/64',
  'fd00:96::/112',
  'fd00:96::10/124',
  'fd00:244::/32',
  'fd00:244:1::/64',
  'fd00:244:1::7/126',
  'FD00:244:0001:0::/65',
  'fe80::/10',
];
const WIDE_ENTITIES = ['All', 'World', 'Internet', 'Cluster'];
const OTHER_ENTITIES = ['Host', 'KubeAPIServer', 'DNS'];
const ICMP_TYPES = [
  'EchoRequest',
  'EchoReply',
  'DestinationUnreachable',
  'PacketTooBig',
  'TimeExceeded',
  'ParameterProblem',
];
/** Names whose order as code units is not the order of any dictionary. */
const POLICY_NAMES = ['a', 'a-c', 'a.b', 'a0', 'ab', 'b', 'z-1', 'z10', 'z9'];
const MAX_LIMITS = 8;
const LIMIT_PORTS: readonly Port[][] = [
  [{ port: 1, endPort: 9090 }],
  [{ port: 53, endPort: 65535 }, { protocol: 'UDP' }],
  [{}, { protocol: 'UDP', port: 1, endPort: 5353 }],
  [{ port: 1, endPort: 443 }, { port: 444, endPort: 40000 }, { protocol: 'ICMP' }],
  [{}, { protocol: 'SCTP' }, { protocol: 'UDP' }],
  [
    { port: 80, endPort: 8080 },
    { protocol: 'UDP', port: 53 },
  ],
  [{}, { protocol: 'SCTP' }, { protocol: 'ICMP', icmpType: 'EchoRequest' }],
  [{ port: 80 }, { port: 443 }, { port: 8080, endPort: 40000 }, { protocol: 'UDP' }],
];
export const NAMES = [
  ...['api.example.com', '*.example.org', 'example.org', 'a.b.example.org', '*.b.example.org'],
  ...['WWW.Example.com.', '*.com', '*.bücher.example'],
];

export const UNITS = ['kubelet.service', 'containerd.service', 'sshd.service'];

export function generatePolicies(random: Random, cluster: GeneratedCluster): Policy[] {
  const write = policyWriter(random, cluster);
  const names = (most: readonly number[]) => random.sample(POLICY_NAMES, random.pick(most));
  if (random.chance(0.2)) return [...names([0, 0, 1]).map(write.networkPolicy), write.endpointsPolicy('endpoints')];
  const policies: Policy[] = [
    ...names([0, 1, 1, 2, 3]).map(write.networkPolicy),
    ...names([0, 1, 1, 2, 3]).map(write.egressPolicy),
    ...names([0, 1, 2, 3]).map(write.clusterEgressPolicy),
    ...names([0, 1, 2, 3, 4]).map(write.clusterNetworkPolicy),
  ];
  if (random.chance(0.08)) policies.push(...manyLimits(policies, write.clusterEgressPolicy));
  return policies;
}

/** So many Limits that those of every workload are at most as many as may be. */
function manyLimits(others: readonly Policy[], write: (name: string) => EgressPolicy): EgressPolicy[] {
  const present = others.filter((policy) => 'effect' in policy.spec && policy.spec.effect === 'Limit').length;
  return Array.from({ length: MAX_LIMITS - present }, (_, i) => {
    const policy = write(`limit-${i}`);
    policy.spec.effect = 'Limit';
    policy.spec.egress = [...(policy.spec.egress ?? []), { to: [{ entities: ['All'] }], ports: LIMIT_PORTS[i] ?? [] }];
    return policy;
  });
}

function policyWriter(random: Random, cluster: GeneratedCluster) {
  const namespaces = cluster.namespaces.map((n) => n.metadata.name);
  const own = cluster.pods.map((pod) => pod.metadata.namespace ?? 'default');
  const hosts = addressesOf(cluster).map((text) => `${text}/${text.includes(':') ? 128 : 32}`);
  const cidrs = [...new Set([...CIDRS, ...hosts])];
  const numbers = [
    ...PORT_NUMBERS,
    ...PORT_NUMBERS,
    1,
    6443,
    30010,
    65535,
    random.between(1, 65535),
    random.between(1, 65535),
  ];

  const namespace = () => (random.chance(0.9) ? random.pick(own) : random.pick(namespaces));

  function selector(): LabelSelector {
    if (random.chance(0.42)) return {};
    if (random.chance(0.5)) {
      const [key, value] = [random.pick(LABEL_KEYS), random.pick(LABEL_VALUES)];
      return { matchLabels: random.chance(0.8) ? { [key]: value } : labels(random) };
    }
    const requirements = Array.from({ length: random.between(1, 2) }, () => {
      const key = random.pick(LABEL_KEYS);
      return random.chance(0.6)
        ? { key, operator: random.pick(['In', 'NotIn']), values: random.sample(LABEL_VALUES, random.between(1, 2)) }
        : { key, operator: random.pick(['Exists', 'DoesNotExist']) };
    });
    return { matchExpressions: requirements, ...(random.chance(0.2) ? { matchLabels: labels(random) } : {}) };
  }

  function namespaceSelector(): LabelSelector {
    return random.chance(0.3)
      ? { matchLabels: { 'kubernetes.io/metadata.name': random.pick(namespaces) } }
      : selector();
  }

  function excepts(of: readonly string[]): string[] {
    const inside = cidrs.filter((cidr) => of.some((outer) => isInside(cidr, outer)));
    return random.sample(inside, random.pick([0, 0, 1, 1, 2, 3]));
  }

  function transportPort(named: readonly string[]): Port {
    const protocol = random.pick([undefined, 'TCP' as const, ...TRANSPORTS]);
    const base: Port = protocol === undefined ? {} : { protocol };
    if (random.chance(0.15)) return base;
    if (named.length > 0 && random.chance(0.35)) return { ...base, port: random.pick(named) };
    const port = random.pick(numbers);
    if (random.chance(0.7)) return { ...base, port };
    return {
      ...base,
      port,
      endPort: random.pick([port, Math.min(port + 1, 65535), 9090, 40000, 65535].filter((n) => n >= port)),
    };
  }

  /** Now and then more entries than fit where few are held. */
  const mostPorts = () => (random.chance(0.1) ? 20 : 4);

  const some = <T>(make: () => T, most: number): T[] => Array.from({ length: random.between(1, most) }, make);

  function networkPolicyPeer(): NetworkPolicyPeer {
    switch (random.below(5)) {
      case 0:
        return { podSelector: selector() };
      case 1:
        return { namespaceSelector: namespaceSelector() };
      case 2:
        return { podSelector: selector(), namespaceSelector: namespaceSelector() };
      default: {
        const cidr = random.pick(cidrs);
        const except = excepts([cidr]);
        return { ipBlock: { cidr, ...(except.length > 0 ? { except } : {}) } };
      }
    }
  }

  function networkPolicyRule() {
    if (random.chance(0.08)) {
      const { ports } = serviceNetworksRule();
      const to = ['10.96.0.0/16', 'fd00:96::/112', '198.18.0.0/24'].map((cidr) => ({ ipBlock: { cidr } }));
      return { to, ...(ports ? { ports } : {}) };
    }
    return {
      ...(random.chance(0.85) ? { to: random.chance(0.05) ? [] : some(networkPolicyPeer, 3) } : {}),
      ...(random.chance(0.7)
        ? { ports: random.chance(0.05) ? [] : some(() => transportPort(PORT_NAMES), mostPorts()) }
        : {}),
    };
  }

  function networkPolicy(name: string): NetworkPolicy {
    const egress = Array.from({ length: random.below(4) }, networkPolicyRule);
    const policyTypes = random.pick([undefined, [], ['Egress'], ['Egress', 'Ingress'], ['Egress'], ['Ingress']]);
    const mode = random.pick([undefined, undefined, undefined, 'Audit', 'Enforce']);
    const annotations = mode === undefined ? {} : { annotations: { 'postern.dev/mode': mode } };
    return {
      kind: 'NetworkPolicy',
      metadata: { name, namespace: namespace(), ...annotations },
      spec: {
        podSelector: selector(),
        ...(policyTypes === undefined ? {} : { policyTypes }),
        ...(egress.length > 0 || random.chance(0.5) ? { egress } : {}),
      },
    };
  }

  /** A PodsPeer; without namespaceSelector only where that means an own namespace. */
  function podsPeer(hasOwn: boolean): PodsPeer {
    return {
      podSelector: selector(),
      ...(hasOwn && random.chance(0.4) ? {} : { namespaceSelector: namespaceSelector() }),
    };
  }

  function podLikePeer(hasOwn: boolean): EgressPeer {
    const kind = random.below(3);
    if (kind === 0) return { pods: podsPeer(hasOwn) };
    if (kind === 1 || cluster.services.length === 0) return { namespaces: namespaceSelector() };
    return {
      services: random.sample(cluster.services, random.between(1, 2)).map((service) => {
        const { name, namespace: home } = service.metadata;
        if (hasOwn && random.chance(0.3)) return { name };
        return random.chance(0.95)
          ? { namespace: home ?? 'default', name }
          : { namespace: random.pick(namespaces), name };
      }),
    };
  }

  function entitiesPeer(): EgressPeer {
    const entities = random.sample(WIDE_ENTITIES, random.pick([1, 1, 1, 2]));
    const away = random.sample(['Internet', 'Cluster', 'Host', 'KubeAPIServer', 'DNS'], random.below(3));
    const except = [...away, ...random.sample(cidrs, random.below(3))];
    return { entities, ...(except.length > 0 && random.chance(0.7) ? { except } : {}) };
  }

  function networksPeer(): EgressPeer {
    const networks = random.sample(cidrs, random.between(1, 3));
    const except = random.chance(0.9) ? excepts(networks) : random.sample(cidrs, 1);
    return { networks, ...(except.length > 0 ? { except } : {}) };
  }

  function addressPeer(): EgressPeer {
    return random.pick([
      networksPeer,
      networksPeer,
      entitiesPeer,
      entitiesPeer,
      () => ({ entities: ['Host', ...random.sample(WIDE_ENTITIES, random.below(2))] }),
      () => ({ nodes: random.chance(0.5) ? {} : selector() }),
      () => ({ domainNames: random.sample(NAMES, random.between(1, 2)) }),
    ])();
  }

  /** KubeAPIServer and DNS bring their ports: the rule takes none. */
  function ruleOfOwnPorts(hasOwn: boolean): EgressRule {
    const entities = random.sample(OTHER_ENTITIES, random.between(1, 3)).filter((e) => e !== 'Host');
    const first = {
      entities:
        entities.length > 0
          ? [...entities, ...random.sample(['World', 'Cluster', 'Host'], random.pick([0, 0, 0, 1]))]
          : ['DNS'],
    };
    return { to: [first, ...(random.chance(0.3) ? [podLikePeer(hasOwn)] : [])] };
  }

  function egressPort(named: readonly string[]): Port {
    if (random.chance(0.8)) return transportPort(named);
    return { protocol: 'ICMP', ...(random.chance(0.6) ? { icmpType: random.pick(ICMP_TYPES) } : {}) };
  }

  /** The clusterIPs by address, on the Services' own ports or some of them. */
  function serviceNetworksRule(): EgressRule {
    const ports = cluster.services.flatMap((service) => service.spec.ports ?? []);
    const wanted = random.sample(ports, random.below(4)).map(({ protocol, port }) => ({
      ...(protocol ? { protocol: protocol as Protocol } : {}),
      port,
    }));
    const networks = ['10.96.0.0/16', 'fd00:96::/112', '198.18.0.0/24'];
    return { to: [{ networks }], ...(wanted.length > 0 ? { ports: wanted } : {}) };
  }

  function egressRule(hasOwn: boolean): EgressRule {
    const kind = random.below(20);
    if (kind < 3) return ruleOfOwnPorts(hasOwn);
    if (kind === 3) {
      return { to: [{ domainNames: NAMES.slice(0, 2) }], ports: [{ port: 443 }], tls: { serverName: 'Match' } };
    }
    if (kind === 4)
      return { to: [random.chance(0.5) ? networksPeer() : { entities: ['World'] }], via: { gateway: 'gw' } };
    const isPodLike = random.chance(0.5);
    const to = isPodLike
      ? some(() => podLikePeer(hasOwn), 3)
      : some(() => (random.chance(0.7) ? addressPeer() : podLikePeer(hasOwn)), 3);
    return {
      to,
      ...(random.chance(0.7) ? { ports: some(() => egressPort(isPodLike ? PORT_NAMES : []), mostPorts()) } : {}),
    };
  }

  function dns(): EgressPolicy['spec']['dns'] {
    const names = random.sample(NAMES, random.below(3));
    return {
      ...random.pick([{ answers: 'Any' }, { answers: 'World' }, {}]),
      ...random.pick([{ queries: 'AllowedNamesOnly' }, { queries: 'AllowedNamesOnly' }, { queries: 'Any' }, {}]),
      ...(names.length > 0 ? { names } : {}),
    };
  }

  function egressSpec(hasOwn: boolean): EgressPolicy['spec'] {
    const rules = Array.from({ length: random.below(4) }, () => egressRule(hasOwn)).map((rule, i) =>
      random.chance(0.2) ? { name: `rule-${i}`, ...rule } : rule,
    );
    const effect = random.pick([undefined, 'Isolate', 'Isolate', 'Grant', 'Limit']);
    // A Limit of narrow rules denies everything: give it a wide one, often.
    if (effect === 'Limit' && random.chance(0.6)) rules.push({ to: [entitiesPeer()] });
    const mode = random.pick([undefined, undefined, undefined, 'Enforce', 'Audit']);
    return {
      ...(effect === undefined ? {} : { effect }),
      ...(mode === undefined ? {} : { mode }),
      ...(random.chance(0.2) ? { onDeny: random.pick(['Drop', 'Reject']) } : {}),
      ...(random.chance(0.4) ? { dns: dns() } : {}),
      ...(rules.length > 0 || random.chance(0.5) ? { egress: rules } : {}),
    };
  }

  function egressPolicy(name: string): EgressPolicy {
    return {
      kind: 'EgressPolicy',
      metadata: { name, namespace: namespace() },
      spec: {
        ...(random.chance(0.8) ? { podSelector: selector() } : {}),
        ...(random.chance(0.35) ? { hostNetwork: random.pick(['Include', 'Include', 'Exclude']) } : {}),
        ...egressSpec(true),
      },
    };
  }

  const subjectItem = (): SubjectItem =>
    random.chance(0.5) ? { namespaces: namespaceSelector() } : { pods: podsPeer(false) };

  function clusterEgressPolicy(name: string): EgressPolicy {
    const isNodeServices = random.chance(0.15);
    const subject = isNodeServices
      ? {
          nodeServices: {
            ...(random.chance(0.6) ? {} : { nodeSelector: selector() }),
            units: random.sample(UNITS, random.between(1, 2)),
          },
        }
      : { ...subjectItem(), ...(random.chance(0.3) ? { except: some(subjectItem, 2) } : {}) };
    const hostNetwork =
      isNodeServices || random.chance(0.5) ? {} : { hostNetwork: random.pick(['Include', 'Include', 'Exclude']) };
    return {
      kind: 'ClusterEgressPolicy',
      metadata: { name },
      spec: { subject, ...hostNetwork, ...egressSpec(false) },
    };
  }

  function upstreamPods(): PodsPeer {
    return { podSelector: selector(), ...(random.chance(0.2) ? {} : { namespaceSelector: namespaceSelector() }) };
  }

  function upstreamPodPeer(): UpstreamPeer {
    return random.chance(0.5) ? { namespaces: namespaceSelector() } : { pods: upstreamPods() };
  }

  function upstreamPeer(action: string): UpstreamPeer {
    const wide = () => ({ networks: random.pick([['0.0.0.0/0'], ['::/0'], ['0.0.0.0/0', '::/0'], ['10.0.0.0/8']]) });
    const peers: (() => UpstreamPeer)[] = [
      upstreamPodPeer,
      upstreamPodPeer,
      () => ({ networks: random.sample(cidrs, random.between(1, 3)) }),
      () => ({ networks: random.sample(cidrs, random.between(1, 3)) }),
      wide,
      () => ({ nodes: random.chance(0.5) ? {} : selector() }),
      // Of another version of the CRD: pruned by an API server, or kept.
      () => (random.chance(0.2) ? random.pick([{}, { futures: {} } as UpstreamPeer]) : upstreamPodPeer()),
      () => (action === 'Accept' ? { domainNames: random.sample(NAMES.slice(0, -2), random.between(1, 2)) } : wide()),
    ];
    return random.pick(peers)();
  }

  function upstreamProtocol(mayBeNamed: boolean): UpstreamProtocol {
    if (mayBeNamed && random.chance(0.3)) return { destinationNamedPort: random.pick(PORT_NAMES) };
    const number = random.pick(numbers);
    const ends = [number + 1, 9090, 40000, 65535].filter((port) => port > number && port <= 65535);
    const destinationPort =
      ends.length > 0 && random.chance(0.3) ? { range: { start: number, end: random.pick(ends) } } : { number };
    return { [random.pick(TRANSPORTS).toLowerCase()]: { destinationPort } };
  }

  function upstreamRule(): UpstreamRule {
    const action = random.pick(['Accept', 'Deny', 'Pass'] as const);
    const isPodLike = random.chance(0.4);
    const to = isPodLike ? some(upstreamPodPeer, 3) : some(() => upstreamPeer(action), random.pick([1, 1, 2, 3]));
    const protocols = { protocols: some(() => upstreamProtocol(isPodLike), mostPorts()) };
    if (random.chance(0.08)) {
      const { ports } = serviceNetworksRule();
      const wanted = (ports ?? []).map(({ protocol = 'TCP', port }) => ({
        [String(protocol).toLowerCase()]: { destinationPort: { number: Number(port) } },
      }));
      const networks = ['10.96.0.0/16', 'fd00:96::/112', '198.18.0.0/24'];
      return { action, to: [{ networks }], ...(wanted.length > 0 ? { protocols: wanted } : {}) };
    }
    return { action, to, ...(random.chance(0.6) ? protocols : {}) };
  }

  function clusterNetworkPolicy(name: string): ClusterNetworkPolicy {
    const rules = Array.from({ length: random.below(5) }, upstreamRule).map((rule, i) =>
      random.chance(0.2) ? { name: `rule-${i}`, ...rule } : rule,
    );
    const mode = random.pick([undefined, undefined, undefined, 'Audit', 'Enforce']);
    return {
      kind: 'ClusterNetworkPolicy',
      metadata: { name, ...(mode === undefined ? {} : { annotations: { 'postern.dev/mode': mode } }) },
      spec: {
        tier: random.pick(['Admin', 'Admin', 'Baseline'] as const),
        priority: random.pick([0, 1, 1, 10, 500, 1000]),
        subject: random.chance(0.4) ? { namespaces: {} } : upstreamPodPeer(),
        ...(random.chance(0.2) ? { ingress: [{ action: 'Deny', from: [{ namespaces: {} }] }] } : {}),
        ...(rules.length > 0 || random.chance(0.5) ? { egress: rules } : {}),
      },
    };
  }

  /** Holds everyone, and tells the endpoints of one Service apart: some allowed, some not, each by another rule. */
  function endpointsPolicy(name: string): EgressPolicy {
    const endpoint = () =>
      random.pick([() => ({ namespaces: namespaceSelector() }), () => ({ pods: podsPeer(false) })])();
    const rules: EgressRule[] = [
      ...some(() => ({ to: [endpoint()] }), 4),
      ...(random.chance(0.5) ? [{ to: [{ nodes: {} }] }] : []),
      ...(random.chance(0.5) ? [serviceNetworksRule()] : []),
    ];
    return {
      kind: 'ClusterEgressPolicy',
      metadata: { name },
      spec: {
        subject: { namespaces: {} },
        hostNetwork: 'Include',
        effect: random.pick(['Isolate', 'Isolate', 'Limit']),
        egress: random.sample(rules, rules.length),
      },
    };
  }

  return { networkPolicy, egressPolicy, clusterEgressPolicy, clusterNetworkPolicy, endpointsPolicy };
}

/** Every address that the cluster's objects have. */
export function addressesOf(cluster: GeneratedCluster): string[] {
  return [
    ...new Set([
      ...cluster.pods.flatMap(podAddresses),
      ...cluster.nodes.flatMap(nodeAddresses),
      ...cluster.services.flatMap(clusterIPs),
      ...cluster.slices.flatMap((slice) => (slice.endpoints ?? []).flatMap((endpoint) => endpoint.addresses)),
      ...cluster.host.addresses,
      ...cluster.host.resolvers,
    ]),
  ];
}

/** A strict part of it, as upstream wants of an ipBlock's except. */
function isInside(inner: string, outer: string): boolean {
  const [a, b] = [parseCidr(inner), parseCidr(outer)];
  return a !== null && b !== null && a.length > b.length && covers(b, a.first);
}
