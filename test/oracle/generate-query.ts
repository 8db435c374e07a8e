// SPDX-License-Identifier: Apache-2.0
// Which flows are worth asking about? Destinations and ports at every edge that the objects name, from every pod.
import { type Address, coversText, format, last, move, parseCidr } from './address.ts';
import type { Query } from './decide.ts';
import type { GeneratedCluster } from './generate-cluster.ts';
import { addressesOf } from './generate-policy.ts';
import type { Policy, Protocol } from './kubernetes.ts';
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
  const pods = cluster.pods.map((pod) => `${pod.metadata.namespace}/${pod.metadata.name}`);
  const services = cluster.services.map((s) => `service:${s.metadata.namespace}/${s.metadata.name}`);
  const objects = [...addressesOf(cluster), ...pods, ...services];
  const edges = stringsUnder(policies).flatMap(edgesOf);
  const ports = [...new Set(numbersUnder([cluster.services, cluster.slices, cluster.pods, policies]).flatMap(around))];
  const likely = cluster.services.flatMap((service) => likelyFlows(cluster, service));

  function one(): Query {
    const from = random.pick(pods);
    const kind = random.below(10);
    if (kind < 3 && likely.length > 0) return { from, ...random.pick(likely) };
    const to =
      kind < 6
        ? random.pick(objects)
        : kind < 9 && edges.length > 0
          ? random.pick(edges)
          : random.pick(NOTABLE_ADDRESSES);
    if (random.chance(0.12)) {
      const icmp = { from, to, port: null, protocol: 'ICMP' as const };
      return random.chance(0.8) ? { ...icmp, icmpType: random.pick(ICMP_TYPES) } : icmp;
    }
    const port = random.chance(0.05) ? random.between(1, 65535) : random.pick([53, 80, 443, ...ports]);
    return { from, to, port, protocol: random.pick(['TCP', 'TCP', 'TCP', 'UDP', 'UDP', 'SCTP']) };
  }
  return Array.from({ length: count }, one);
}

/** A Service asked on its own ports, its endpoints on their targets, every node on its node ports. */
function likelyFlows(cluster: GeneratedCluster, service: GeneratedCluster['services'][number]): Omit<Query, 'from'>[] {
  const { namespace, name } = service.metadata;
  const flows: Omit<Query, 'from'>[] = [];
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
