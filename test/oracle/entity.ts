// SPDX-License-Identifier: Apache-2.0
// Which addresses (and, for KubeAPIServer and DNS, which ports) does a word stand for? By api.md, "Entities".
import { type Address, coversText, isOneOf } from './address.ts';
import {
  backends,
  type Cluster,
  clusterIPs,
  findService,
  isSomePods,
  nodeAddresses,
  podCidrs,
  protocolOf,
  servicePorts,
} from './cluster.ts';
import type { Destination } from './destination.ts';
import type { Pod } from './kubernetes.ts';

export function isEntity(cluster: Cluster, entity: string, destination: Destination): boolean {
  const { address, from } = destination;
  switch (entity) {
    // "All: every address."
    case 'All':
      return true;
    case 'Cluster':
      return isCluster(cluster, address);
    case 'Host':
      return isHost(cluster, from, address);
    case 'World':
      return isWorld(cluster, from, address);
    case 'Internet':
      return isInternet(cluster, from, address);
    case 'KubeAPIServer':
      return isOfService(cluster, 'default', 'kubernetes', destination);
    case 'DNS':
      return isResolver(cluster, destination) || isOfService(cluster, 'kube-system', 'kube-dns', destination);
    default:
      throw new TypeError(`no such entity: ${entity}`);
  }
}

/** "Cluster: the API server's pods, nodes and Services, and the ranges of podCIDRs, so that a pod not seen yet is never outside." */
function isCluster(cluster: Cluster, address: Address): boolean {
  return (
    isSomePods(cluster, address) ||
    cluster.nodes.some((node) => isOneOf(address, nodeAddresses(node))) ||
    cluster.nodes.some((node) => podCidrs(node).some((cidr) => coversText(cidr, address))) ||
    cluster.services.some((service) => isOneOf(address, clusterIPs(service)))
  );
}

/** "Host: the workload's own node": its Node object's addresses, and where that node is this machine, this machine's. */
function isHost(cluster: Cluster, from: Pod, address: Address): boolean {
  const name = from.spec?.nodeName ?? null;
  const node = cluster.nodes.find((n) => n.metadata.name === name);
  if (node !== undefined && isOneOf(address, nodeAddresses(node))) return true;
  const isHere = cluster.host.node === name;
  return isHere && isOneOf(address, cluster.host.addresses);
}

const NOT_WORLD = [
  // loopback
  '127.0.0.0/8',
  '::1/128',
  // link-local
  '169.254.0.0/16',
  'fe80::/10',
  // multicast
  '224.0.0.0/4',
  'ff00::/8',
  // broadcast
  '255.255.255.255/32',
  // unspecified
  '0.0.0.0/32',
  '::/128',
];

/** "World: all but Cluster, Host, loopback, link-local, multicast, broadcast." */
function isWorld(cluster: Cluster, from: Pod, address: Address): boolean {
  return (
    !isCluster(cluster, address) &&
    !isHost(cluster, from, address) &&
    !NOT_WORLD.some((cidr) => coversText(cidr, address))
  );
}

/** IANA's special-purpose address registries (RFC 6890 and its updates). */
const SPECIAL_PURPOSE = [
  '0.0.0.0/8',
  '10.0.0.0/8',
  '100.64.0.0/10',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '172.16.0.0/12',
  '192.0.0.0/24',
  '192.0.2.0/24',
  '192.88.99.0/24',
  '192.168.0.0/16',
  '198.18.0.0/15',
  '198.51.100.0/24',
  '203.0.113.0/24',
  '224.0.0.0/4',
  '240.0.0.0/4',
  '::/128',
  '::1/128',
  '64:ff9b:1::/48',
  '100::/64',
  '2001::/23',
  '2001:db8::/32',
  '3fff::/20',
  '5f00::/16',
  'fc00::/7',
  'fe80::/10',
  'fec0::/10',
  'ff00::/8',
];

/** "Internet: World less IANA's special-purpose ranges." */
function isInternet(cluster: Cluster, from: Pod, address: Address): boolean {
  return isWorld(cluster, from, address) && !isSpecialPurpose(addressInside(address) ?? address);
}

function isSpecialPurpose(address: Address): boolean {
  return SPECIAL_PURPOSE.some((cidr) => coversText(cidr, address));
}

/** "NAT64 and 6to4 by the address inside": the low 32 bits (RFC 6052), the 32 bits after the first 16 (RFC 3056). */
function addressInside(address: Address): Address | null {
  if (coversText('64:ff9b::/96', address)) return { family: 4, bits: address.bits & 0xffffffffn };
  if (coversText('2002::/16', address)) return { family: 4, bits: (address.bits >> 80n) & 0xffffffffn };
  return null;
}

/** "DNS: the trusted resolvers", on UDP and TCP 53. */
function isResolver(cluster: Cluster, { address, port, protocol }: Destination): boolean {
  return port === 53 && (protocol === 'UDP' || protocol === 'TCP') && isOneOf(address, cluster.host.resolvers);
}

/** A Service's clusterIPs on its ports, and its ready endpoints on their slice's ports. */
function isOfService(
  cluster: Cluster,
  namespace: string,
  name: string,
  { address, port, protocol }: Destination,
): boolean {
  const service = findService(cluster, namespace, name);
  if (service === null) return false;
  const isItsPort = servicePorts(service).some((p) => p.port === port && protocolOf(p) === protocol);
  if (isItsPort && isOneOf(address, clusterIPs(service))) return true;
  return backends(cluster, service).some(
    (b) =>
      b.port === port &&
      b.protocol === protocol &&
      b.address.family === address.family &&
      b.address.bits === address.bits,
  );
}
