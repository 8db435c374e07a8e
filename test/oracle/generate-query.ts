// SPDX-License-Identifier: Apache-2.0
// Which flows are worth asking about? Destinations and ports at every edge that the objects name, from every pod.
import { type Address, coversText, format, last, move, parseCidr } from './address.ts';
import { clusterOf } from './cluster.ts';
import { policiesOn, type Query, unitOf } from './decide.ts';
import { type GeneratedCluster, TRANSPORTS } from './generate-cluster.ts';
import { addressesOf, UNITS } from './generate-policy.ts';
import type { EgressRule, Pod, Policy, Port, Protocol, UpstreamRule } from './kubernetes.ts';
import type { Random } from './random.ts';

const NOTABLE_ADDRESSES = [
  '0.0.0.0',
  '0.0.0.1',
  '1.1.1.1',
  '8.8.8.8',
  '10.244.1.200',
  '100.64.0.0',
  '100.127.255.255',
  '100.128.0.0',
  '127.0.0.1',
  '127.255.255.255',
  '128.0.0.0',
  '169.254.169.254',
  '172.16.0.0',
  '172.32.0.0',
  '192.0.0.255',
  '192.0.1.0',
  '192.88.99.1',
  '192.168.255.255',
  '198.17.255.255',
  '198.20.0.0',
  '223.255.255.255',
  '224.0.0.251',
  '240.0.0.1',
  '255.255.255.254',
  '255.255.255.255',
  '::',
  '::1',
  '::2',
  '64:ff9b::808:808',
  '64:ff9b::a00:1',
  '64:ff9b::7f00:1',
  '64:ff9b:1::1',
  '64:ff9b:2::1',
  '100::1',
  '2001:1ff::1',
  '2001:200::1',
  '2001:db8::1',
  '2002:808:808::1',
  '2002:a00:1::1',
  '2606:4700::1111',
  '3fff:fff::1',
  '3fff:1000::1',
  '5f00::1',
  'fd00:244:1::ffff',
  'fe80::1',
  'febf::1',
  'fec0::1',
  'ff02::1',
];
const ICMP_TYPES = [
  'EchoRequest',
  'EchoReply',
  'DestinationUnreachable',
  'PacketTooBig',
  'TimeExceeded',
  'ParameterProblem',
];

/** `count` queries on these objects, without mapped (::ffff:0:0/96) destinations, which the wire never carries. */
export function generateQueries(
  random: Random,
  cluster: GeneratedCluster,
  policies: readonly Policy[],
  count: number,
): Query[] {
  const pods = cluster.pods.map(nameOf);
  const services = cluster.services.map((s) => `service:${s.metadata.namespace}/${s.metadata.name}`);
  const objects = [...addressesOf(cluster), ...pods, ...services];
  const edges = stringsUnder(policies).flatMap(edgesOf);
  const ports = [...new Set(numbersUnder([cluster.services, cluster.slices, cluster.pods, policies]).flatMap(around))];
  const toServices = cluster.services.flatMap((service) => serviceFlows(cluster, service));
  const likely = [
    toServices,
    toServices,
    cluster.pods.flatMap(containerFlows),
    cluster.host.resolvers.flatMap((to) =>
      (['UDP', 'TCP', 'SCTP'] as const).map((protocol) => ({ to, port: 53, protocol })),
    ),
    policies.flatMap((policy) => (policy.spec.egress ?? []).flatMap(ruleFlows)),
    policies.flatMap((policy) => (policy.spec.egress ?? []).flatMap((rule) => nameFlows(rule as EgressRule))),
  ].filter((flows) => flows.length > 0);
  // Most from pods that a policy holds: of the others there is little to tell.
  const whole = clusterOf(policies, cluster.host);
  const held = cluster.pods.filter((pod) => policiesOn({ ...whole, namespaces: cluster.namespaces }, pod).length > 0);
  const units = UNITS.map((unit) => `node/${unit}`).filter((name) => {
    const unit = unitOf(whole, name);
    return unit !== null && policiesOn({ ...whole, nodes: cluster.nodes }, unit).length > 0;
  });
  const senders = [...pods, ...held.flatMap((pod) => Array<string>(5).fill(nameOf(pod))), ...units, ...units, ...units];

  function one(): Query {
    const query = unnamed();
    return random.chance(0.4) ? { ...query, names: random.sample(TOLD_NAMES, random.pick([1, 1, 2, 3])) } : query;
  }

  function unnamed(): Query {
    const from = random.pick(senders);
    const kind = random.below(10);
    if (kind < 5 && likely.length > 0) return { from, ...random.pick(random.pick(likely)) };
    const to =
      kind < 7
        ? random.pick(objects)
        : kind < 9 && edges.length > 0
          ? random.pick(edges)
          : random.pick(NOTABLE_ADDRESSES);
    if (random.chance(0.15)) {
      const icmp = { from, to, port: null, protocol: 'ICMP' as const };
      return random.chance(0.8) ? { ...icmp, icmpType: random.pick(ICMP_TYPES) } : icmp;
    }
    const port = random.chance(0.05) ? random.between(1, 65535) : random.pick([53, 80, 443, ...ports]);
    return { from, to, port, protocol: random.pick(['TCP', 'TCP', 'TCP', 'UDP', 'UDP', 'SCTP']) };
  }
  return Array.from({ length: count }, one);
}

type Flow = Omit<Query, 'from'>;

function nameOf(pod: Pod): string {
  return `${pod.metadata.namespace}/${pod.metadata.name}`;
}

/** A pod asked on its containers' ports. */
function containerFlows(pod: Pod): Flow[] {
  const ports = (pod.spec?.containers ?? []).flatMap((container) => container.ports ?? []);
  return ports.flatMap((port) =>
    TRANSPORTS.map((protocol) => ({ to: nameOf(pod), port: port.containerPort, protocol })),
  );
}

/** Names that DNS may have told: some that patterns mean, and their neighbours. */
export const TOLD_NAMES = [
  ...['api.example.com', 'www.example.com', 'example.com', 'example.org', 'www.example.org', 'a.b.example.org'],
  ...['b.example.org', 'x.a.b.example.org', 'notexample.org', 'WWW.Example.Org.', 'www.xn--bcher-kva.example'],
];
/** In World for most clusters; some pods and nodes among what names are told of comes from the other flows. */
const NAMED_ADDRESSES = ['203.0.113.9', '8.8.8.8', '2001:db8::9', '2606:4700::1111', '172.16.0.1'];

/** Where rules speak of names: what they might have led to, on the edges of the rule's ports. */
function nameFlows(rule: EgressRule | UpstreamRule): Flow[] {
  const isNamed = (rule.to ?? []).some((peer) => peer.domainNames);
  if (!isNamed) return [];
  const networks = NAMED_ADDRESSES.map((address) => `${address}/${address.includes(':') ? 128 : 32}`);
  const flows = ruleFlows({ ...rule, to: [{ networks }] } as typeof rule);
  return flows.filter(({ to }) => NAMED_ADDRESSES.includes(to));
}

/** The edges of a rule's CIDRs on the edges of its ports. */
function ruleFlows(rule: { ports?: Port[] | null | undefined } | UpstreamRule): Flow[] {
  const flows: Flow[] = [];
  const ports = 'action' in rule ? upstreamPorts(rule) : rule.ports;
  for (const to of stringsUnder(rule).flatMap(edgesOf)) {
    for (const port of ports ?? [{}]) {
      if (port.protocol === 'ICMP') {
        flows.push({ to, port: null, protocol: 'ICMP', ...(port.icmpType ? { icmpType: port.icmpType } : {}) });
      } else {
        const protocol = port.protocol ?? 'TCP';
        const numbers = [port.port, port.endPort].filter((n) => typeof n === 'number');
        flows.push(...(numbers.length > 0 ? numbers : [80]).map((number) => ({ to, port: number, protocol })));
      }
    }
  }
  return flows;
}

/** The numbers of a ClusterNetworkPolicy's rule as another kind would write them. */
function upstreamPorts({ protocols }: UpstreamRule): Port[] | undefined {
  return protocols?.map(({ tcp, udp, sctp }) => {
    const { number, range } = (tcp ?? udp ?? sctp)?.destinationPort ?? {};
    return {
      protocol: udp ? 'UDP' : sctp ? 'SCTP' : 'TCP',
      port: range?.start ?? number ?? null,
      endPort: range?.end ?? null,
    };
  });
}

/** A Service asked on its own ports, its endpoints on their targets, every node on its node ports. */
function serviceFlows(cluster: GeneratedCluster, service: GeneratedCluster['services'][number]): Flow[] {
  const { namespace, name } = service.metadata;
  const flows: Flow[] = [];
  for (const port of service.spec.ports ?? []) {
    const protocol = (port.protocol ?? 'TCP') as Protocol;
    flows.push({ to: `service:${namespace}/${name}`, port: port.port, protocol });
    for (const to of service.spec.clusterIPs ?? []) {
      if (to !== 'None') flows.push({ to, port: port.port, protocol });
    }
    if (port.nodePort) {
      const { nodePort } = port;
      const nodes = cluster.nodes.flatMap((node) => node.status?.addresses ?? []).filter((a) => a.type !== 'Hostname');
      flows.push(...nodes.map((a) => ({ to: a.address, port: nodePort, protocol })));
    }
  }
  for (const slice of cluster.slices) {
    if (slice.metadata.namespace !== namespace || !slice.metadata.name.startsWith(`${name}-`)) continue;
    for (const port of slice.ports ?? []) {
      const protocol = (port.protocol ?? 'TCP') as Protocol;
      for (const to of (slice.endpoints ?? []).flatMap((endpoint) => endpoint.addresses)) {
        flows.push({ to, port: port.port ?? 80, protocol });
      }
    }
  }
  return flows;
}

/** Both ends of a CIDR, and the addresses before and after it; none for any other string. */
function edgesOf(text: string): string[] {
  const cidr = parseCidr(text);
  if (cidr === null) return [];
  const [first, end] = [cidr.first, last(cidr)];
  const edges: (Address | null)[] = [first, end, move(first, -1n), move(end, 1n)];
  return edges
    .filter((address) => address !== null)
    .filter((address) => !coversText('::ffff:0:0/96', address))
    .map(format);
}

function stringsUnder(value: unknown): string[] {
  if (typeof value === 'string') return [value];
  return typeof value === 'object' && value !== null ? Object.values(value).flatMap(stringsUnder) : [];
}

function numbersUnder(value: unknown): number[] {
  if (typeof value === 'number') return [value];
  return typeof value === 'object' && value !== null ? Object.values(value).flatMap(numbersUnder) : [];
}

function around(port: number): number[] {
  return [port - 1, port, port, port + 1].filter((n) => n >= 1 && n <= 65535);
}
