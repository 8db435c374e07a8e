// SPDX-License-Identifier: Apache-2.0
// How CNIs wire a pod's sandbox to its node, each as its own plug-in leaves it. The node is the lab's outside.
import { isIPv6 } from 'node:net';
import type { Lab, Place } from './lab.ts';

/**
 * `routed`: a veth, and a route for each address (PTP, Cilium, the cloud providers'). `bridge`: a veth on a bridge with its gateway (bridge,
 * flannel). `calico`: a veth whose host's end answers for 169.254.1.1 and has one hardware address everywhere. `macvlan`: no end on the
 * host. `several`: routed, and a second interface of another network (Multus). `beside_macvlan`: routed, and a macvlan as second.
 * `none`: a sandbox without interfaces.
 */
export type Cni = 'routed' | 'bridge' | 'calico' | 'macvlan' | 'several' | 'beside_macvlan' | 'none';

const GATEWAYS = ['198.18.0.1', 'fd00:18::1'];
const bridges = new WeakSet<Lab>();
const uplinks = new WeakSet<Lab>();
let links = 0;

/** The addresses are of 198.18.0.0/15 and fd00::/8. `cgroup`: the container's, below the lab's root. */
export async function addNetwork(
  lab: Lab,
  cni: Cni,
  name: string,
  addresses: readonly string[],
  cgroup: string,
): Promise<Place> {
  if (cni === 'routed') return lab.workload(name, { addresses, cgroup });
  if (cni === 'several' || cni === 'beside_macvlan') {
    const place = await lab.workload(name, { addresses, cgroup });
    const namespace = `${lab.name}-${name}`;
    if (cni === 'several') await addSecond(lab, namespace);
    else await addMacvlan(lab, namespace, 'net1', []);
    return place;
  }
  const namespace = await lab.namespace(name);
  if (cni === 'bridge') await addToBridge(lab, namespace, addresses);
  if (cni === 'calico') await addCalico(lab, namespace, addresses);
  if (cni === 'macvlan') await addMacvlan(lab, namespace, 'eth0', addresses);
  return lab.placeIn(`/run/netns/${namespace}`, lab.cgroup(cgroup), addresses);
}

function nextLink(prefix: string): string {
  links += 1;
  return `${prefix}${links}`;
}

function added(addresses: readonly string[], device: string, length: (address: string) => number): string[] {
  return addresses.map(
    (address) => `addr add ${address}/${length(address)} dev ${device}${isIPv6(address) ? ' nodad' : ''}`,
  );
}

const whole = (address: string) => (isIPv6(address) ? 128 : 32);
const subnet = (address: string) => (isIPv6(address) ? 112 : 16);

async function addToBridge(lab: Lab, namespace: string, addresses: readonly string[]): Promise<void> {
  if (!bridges.has(lab)) {
    bridges.add(lab);
    // An address of its own: else it takes that of a port, and another one's when that goes.
    await lab.ip(null, [
      'link add cni0 address 02:00:00:18:00:01 type bridge',
      ...added(GATEWAYS, 'cni0', subnet),
      'link set cni0 up',
    ]);
  }
  const link = nextLink('veth');
  await lab.ip(null, [
    `link add ${link} type veth peer name eth0 netns ${namespace}`,
    `link set ${link} master cni0`,
    `link set ${link} up`,
    // It stays when the pod goes, and the next may have its address.
    ...addresses.filter((address) => isIPv6(address)).map((address) => `route replace ${address}/128 dev cni0`),
  ]);
  await lab.ip(namespace, [
    ...added(addresses, 'eth0', subnet),
    'link set eth0 up',
    'route add 198.18.0.0/15 via 198.18.0.1',
    'route add fd00:18::1/128 dev eth0',
    'route add fd00::/8 via fd00:18::1',
  ]);
}

/** felix and its plug-in (projectcalico/calico, cni-plugin/internal/pkg/dataplane/linux): /32, a gateway that nobody has, proxy ARP. */
async function addCalico(lab: Lab, namespace: string, addresses: readonly string[]): Promise<void> {
  const link = nextLink('cali');
  // Proxy ARP answers for what is routed elsewhere, as everything is by a node's default route.
  if (await addUplink(lab)) await lab.ip(null, ['route add 169.254.1.1/32 dev uplink']);
  await lab.ip(null, [
    `link add ${link} address ee:ee:ee:ee:ee:ee type veth peer name eth0 netns ${namespace}`,
    `addr add fe80::ecee:eeff:feee:eeee/64 dev ${link} nodad`,
    `link set ${link} up`,
    ...addresses.map((address) => `route add ${address}/${whole(address)} dev ${link} scope link`),
  ]);
  const { status, stderr } = await lab.outside.exec('sh', [
    '-c',
    `echo 1 >/proc/sys/net/ipv4/conf/${link}/proxy_arp; echo 0 >/proc/sys/net/ipv4/neigh/${link}/proxy_delay`,
  ]);
  if (status !== 0) throw new Error(stderr);
  await lab.ip(namespace, [
    ...added(addresses, 'eth0', whole),
    'link set eth0 up',
    'route add 169.254.1.1 dev eth0 scope link',
    'route add 198.18.0.0/15 via 169.254.1.1 dev eth0',
    'route add fd00::/8 via fe80::ecee:eeff:feee:eeee dev eth0',
  ]);
}

async function addSecond(lab: Lab, namespace: string): Promise<void> {
  const link = nextLink('second');
  await lab.ip(null, [
    `link add ${link} type veth peer name net1 netns ${namespace}`,
    `addr add 198.19.${links}.1/24 dev ${link}`,
    `link set ${link} up`,
  ]);
  await lab.ip(namespace, [`addr add 198.19.${links}.2/24 dev net1`, 'link set net1 up']);
}

async function addMacvlan(lab: Lab, namespace: string, device: string, addresses: readonly string[]): Promise<void> {
  await addUplink(lab);
  await lab.ip(null, [`link add link uplink name ${device} netns ${namespace} type macvlan mode bridge`]);
  await lab.ip(namespace, [...added(addresses, device, subnet), `link set ${device} up`]);
}

/** The node's uplink, with nobody at its other end. Whether there was none. */
async function addUplink(lab: Lab): Promise<boolean> {
  if (uplinks.has(lab)) return false;
  uplinks.add(lab);
  await lab.ip(null, ['link add uplink type veth peer name network', 'link set uplink up', 'link set network up']);
  return true;
}
