// SPDX-License-Identifier: Apache-2.0
// What clusters are there? Namespaces, nodes, pods, Services and slices at random, small alphabets so that things collide.
// Every object is one that an API server would take. Knows no policies.
import type {
  Endpoint,
  EndpointSlice,
  Host,
  Labels,
  Namespace,
  Node,
  Pod,
  Service,
  ServicePort,
} from './kubernetes.ts';
import type { Random } from './random.ts';

export const LABEL_KEYS = ['app', 'tier', 'team'];
export const LABEL_VALUES = ['a', 'b', 'c', ''];
export const PORT_NAMES = ['http', 'metrics', 'dns'];
export const PORT_NUMBERS = [53, 80, 443, 5353, 8080, 9090];
export const TRANSPORTS = ['TCP', 'UDP', 'SCTP'] as const;

export type Families = readonly (4 | 6)[];
export interface GeneratedCluster {
  readonly namespaces: Namespace[];
  readonly nodes: Node[];
  readonly pods: Pod[];
  readonly services: Service[];
  readonly slices: EndpointSlice[];
  readonly host: Host;
}

export function generateCluster(random: Random): GeneratedCluster {
  const families = random.pick<Families>([[4], [6], [4, 6], [6, 4], [4, 6]]);
  const namespaces = generateNamespaces(random);
  const nodes = generateNodes(random, families);
  const pods = generatePods(random, families, namespaces, nodes);
  const cluster = { namespaces, nodes, pods, services: [], slices: [], host: generateHost(random, families, nodes) };
  addServices(random, families, cluster);
  return cluster;
}

export function labels(random: Random): Labels {
  return Object.fromEntries(
    random.sample(LABEL_KEYS, random.below(LABEL_KEYS.length + 1)).map((key) => [key, random.pick(LABEL_VALUES)]),
  );
}

function generateNamespaces(random: Random): Namespace[] {
  return ['default', 'kube-system', ...random.sample(['red', 'green', 'blue'], random.between(1, 3))].map((name) => ({
    kind: 'Namespace',
    metadata: { name, labels: labels(random) },
  }));
}

function generateNodes(random: Random, families: Families): Node[] {
  return random.sample([1, 2, 3], random.below(4)).map((n) => {
    const cidrs = families.map((family) => (family === 4 ? `10.244.${n}.0/24` : `fd00:244:${n}::/64`));
    const addresses = families.map((family) => ({
      type: 'InternalIP',
      address: family === 4 ? `198.18.0.${n}` : `fd00:18::${n}`,
    }));
    if (random.chance(0.3)) addresses.push({ type: 'ExternalIP', address: `8.8.4.${n}` });
    addresses.push({ type: 'Hostname', address: `node${n}` });
    const spec = random.pick([{ podCIDR: cidrs[0], podCIDRs: cidrs }, { podCIDR: cidrs[0] }, {}]);
    return {
      kind: 'Node',
      metadata: { name: `node${n}`, labels: { ...labels(random), 'kubernetes.io/hostname': `node${n}` } },
      spec,
      status: { addresses },
    };
  });
}

function internalAddresses(node: Node): string[] {
  return (node.status?.addresses ?? []).filter((a) => a.type === 'InternalIP').map((a) => a.address);
}

function generateHost(random: Random, families: Families, nodes: readonly Node[]): Host {
  const here = nodes.length > 0 && random.chance(0.6) ? random.pick(nodes) : null;
  const own = families.map((family) => (family === 4 ? '198.18.9.9' : 'fd00:18::99'));
  const resolvers = ['10.96.0.10', 'fd00:96::10', '198.18.0.53', '169.254.20.10', 'fd00::53', '9.9.9.9'];
  return {
    node: here?.metadata.name ?? random.pick([null, null, 'elsewhere']),
    addresses: here === null ? own : [...internalAddresses(here), ...(random.chance(0.5) ? own : [])],
    resolvers: random.sample(resolvers, random.below(4)),
    searchDomains: random.sample(['corp.example', 'example.org', 'org', 'b.example.org'], random.below(3)),
  };
}

type Containers = NonNullable<NonNullable<Pod['spec']>['containers']>;

function containers(random: Random): Containers {
  const list: Containers = [];
  for (let i = random.below(3); i > 0; i--) {
    const ports = random.sample(PORT_NAMES, random.below(3)).map((name) => {
      const protocol = random.pick([undefined, ...TRANSPORTS]);
      return {
        name,
        containerPort: random.pick(PORT_NUMBERS),
        ...(protocol === undefined ? {} : { protocol }),
      };
    });
    if (random.chance(0.2)) ports.push({ name: 'dns', protocol: 'UDP', containerPort: 5353 });
    list.push({ ports });
  }
  return list;
}

function generatePods(
  random: Random,
  families: Families,
  namespaces: readonly Namespace[],
  nodes: readonly Node[],
): Pod[] {
  const pods: Pod[] = [];
  const count = random.between(1, 12);
  for (let i = 1; i <= count; i++) {
    const node = nodes.length > 0 && random.chance(0.9) ? random.pick(nodes) : null;
    const hostNetwork = node !== null && random.chance(0.2);
    const isStatic = hostNetwork && random.chance(0.25);
    const third = node !== null && random.chance(0.85) ? Number(node.metadata.name.slice(4)) : 99;
    // Few numbers, so that now and then two pods claim one address.
    const last = random.chance(0.92) ? i : random.between(1, 12);
    const fresh = families.map((family) => (family === 4 ? `10.244.${third}.${last}` : `fd00:244:${third}::${last}`));
    const addresses = node !== null && hostNetwork ? internalAddresses(node) : fresh;
    const phase = random.pick([
      'Running',
      'Running',
      'Running',
      'Running',
      'Running',
      'Running',
      'Succeeded',
      'Failed',
    ]);
    const isPending = random.chance(0.07);
    pods.push({
      kind: 'Pod',
      metadata: {
        name: `pod${i}`,
        namespace: random.pick(namespaces).metadata.name,
        labels: labels(random),
        ...(isStatic ? { annotations: { 'kubernetes.io/config.mirror': 'x' } } : {}),
      },
      spec: {
        ...(node === null ? {} : { nodeName: node.metadata.name }),
        ...(hostNetwork ? { hostNetwork } : {}),
        containers: containers(random),
      },
      status: isPending
        ? { phase: 'Pending' }
        : { phase, podIP: addresses[0], ...(random.chance(0.9) ? { podIPs: addresses.map((ip) => ({ ip })) } : {}) },
    });
  }
  return pods;
}

function addServices(random: Random, families: Families, cluster: GeneratedCluster): void {
  if (random.chance(0.8)) addKubernetes(random, families, cluster);
  if (random.chance(0.7)) addKubeDns(random, families, cluster);
  for (let i = random.below(6); i > 0; i--) addService(random, families, cluster, i);
}

/** A Service's addresses: `10.96.0.N` and `fd00:96::N`, in order of the cluster's families, one or both. */
function serviceAddresses(random: Random, families: Families, n: number): string[] {
  const all = families.map((family) => (family === 4 ? `10.96.0.${n}` : `fd00:96::${n}`));
  return random.chance(0.6) ? all : all.slice(0, 1);
}

function addKubernetes(random: Random, families: Families, cluster: GeneratedCluster): void {
  const ips = serviceAddresses(random, families.slice(0, 1), 1);
  const metadata = { name: 'kubernetes', namespace: 'default' };
  cluster.services.push({
    kind: 'Service',
    metadata,
    spec: { clusterIP: ips[0], clusterIPs: ips, ports: [{ name: 'https', protocol: 'TCP', port: 443 }] },
  });
  const node = cluster.nodes[0];
  const fallback = families[0] === 4 ? '198.18.8.8' : 'fd00:18::88';
  const address = node !== undefined && random.chance(0.8) ? (internalAddresses(node)[0] ?? fallback) : fallback;
  addSlice(cluster, metadata, 1, [{ name: 'https', protocol: 'TCP', port: 6443 }], [{ addresses: [address] }]);
}

function addKubeDns(random: Random, families: Families, cluster: GeneratedCluster): void {
  const ips = serviceAddresses(random, families, 10);
  const metadata = { name: 'kube-dns', namespace: 'kube-system' };
  const target = random.pick([53, 5353]);
  cluster.services.push({
    kind: 'Service',
    metadata,
    spec: {
      clusterIP: ips[0],
      clusterIPs: ips,
      ports: [
        { name: 'dns', protocol: 'UDP', port: 53 },
        { name: 'dns-tcp', protocol: 'TCP', port: 53 },
      ],
    },
  });
  const ports = [
    { name: 'dns', protocol: 'UDP', port: target },
    { name: 'dns-tcp', protocol: 'TCP', port: target },
  ];
  addSlices(
    cluster,
    metadata,
    ports,
    random.sample(cluster.pods, random.below(3)).flatMap((p) => endpointsOf(random, p)),
  );
}

/** A pod as kubelet and the EndpointSlice controller show it: an endpoint for each address, ready if the pod is. */
function endpointsOf(random: Random, pod: Pod): Endpoint[] {
  const live = pod.status?.phase === 'Running';
  const addresses = pod.status?.podIPs?.map((entry) => entry.ip) ?? (pod.status?.podIP ? [pod.status.podIP] : []);
  const ready = live && random.chance(0.85);
  return addresses.map((address) => ({
    addresses: [address],
    conditions: ready && random.chance(0.2) ? {} : { ready },
    targetRef: { kind: 'Pod', namespace: pod.metadata.namespace, name: pod.metadata.name },
  }));
}

/** One slice for each family, as EndpointSlices have it. */
function addSlices(
  cluster: GeneratedCluster,
  service: { name: string; namespace: string },
  ports: NonNullable<EndpointSlice['ports']>,
  endpoints: readonly Endpoint[],
): void {
  for (const isV6 of [false, true]) {
    const ofFamily = endpoints.filter((endpoint) => endpoint.addresses[0]?.includes(':') === isV6);
    if (ofFamily.length > 0) addSlice(cluster, service, cluster.slices.length + 1, ports, ofFamily);
  }
}

function addSlice(
  cluster: GeneratedCluster,
  service: { name: string; namespace: string },
  n: number,
  ports: NonNullable<EndpointSlice['ports']>,
  endpoints: Endpoint[],
): void {
  const addressType = endpoints[0]?.addresses[0]?.includes(':') ? 'IPv6' : 'IPv4';
  const slice = {
    kind: 'EndpointSlice' as const,
    metadata: {
      name: `${service.name}-${n}`,
      namespace: service.namespace,
      labels: { 'kubernetes.io/service-name': service.name },
    },
    addressType,
    ports,
    endpoints,
  };
  cluster.slices.push(slice);
}

function servicePortList(random: Random, n: number): ServicePort[] {
  const isOne = random.chance(0.5);
  const names = isOne ? [random.pick([undefined, 'http'])] : random.sample(PORT_NAMES, 2);
  const taken = random.sample(PORT_NUMBERS, 2);
  return names.map((name, i) => {
    const protocol = random.pick([undefined, 'TCP', 'UDP', 'SCTP']);
    return {
      port: taken[i] ?? 80,
      ...(name === undefined ? {} : { name }),
      ...(protocol === undefined ? {} : { protocol }),
      ...(random.chance(0.3) ? { nodePort: 30000 + 10 * n + i } : {}),
    };
  });
}

function addService(random: Random, families: Families, cluster: GeneratedCluster, n: number): void {
  const namespace = random.pick(cluster.namespaces).metadata.name;
  const metadata = { name: `svc${n}`, namespace };
  const shape = random.pick(['pods', 'pods', 'pods', 'pods', 'addresses', 'forged', 'headless', 'external', 'nothing']);
  const ports = servicePortList(random, n);
  if (shape === 'external') {
    const spec = { type: 'ExternalName', externalName: 'example.com' };
    cluster.services.push({ kind: 'Service', metadata, spec });
    return;
  }
  const ips = shape === 'headless' ? ['None'] : serviceAddresses(random, families, 20 + n);
  const withoutNodePorts = ports.map(({ nodePort: _, ...port }) => port);
  cluster.services.push({
    kind: 'Service',
    metadata,
    spec: {
      type: ports.some((port) => port.nodePort) && shape !== 'headless' ? 'NodePort' : 'ClusterIP',
      clusterIP: ips[0],
      ...(random.chance(0.85) || ips.length > 1 ? { clusterIPs: ips } : {}),
      ports: shape === 'headless' ? withoutNodePorts : ports,
    },
  });
  const slicePorts = ports.map((port) => ({
    ...(port.name === undefined && random.chance(0.5) ? {} : { name: port.name ?? '' }),
    ...(port.protocol === undefined && random.chance(0.5) ? {} : { protocol: port.protocol ?? 'TCP' }),
    port: random.pick([port.port, ...PORT_NUMBERS]),
  }));
  const own = cluster.pods.filter((pod) => pod.metadata.namespace === namespace);
  const foreign = cluster.pods.filter((pod) => pod.metadata.namespace !== namespace);
  const ready = { conditions: { ready: true } };
  switch (shape) {
    case 'addresses': {
      // Written by hand: no targetRef, addresses outside, or of a pod all the same.
      const outside = families.map((family) => (family === 4 ? '203.0.113.5' : '2001:db8::5'));
      const pod = own.length > 0 && random.chance(0.4) ? (random.pick(own).status?.podIP ?? null) : null;
      const addresses = [...outside, ...(pod === null ? [] : [pod])];
      addSlices(
        cluster,
        metadata,
        slicePorts,
        addresses.map((address) => ({ addresses: [address], ...ready })),
      );
      return;
    }
    case 'forged': {
      // A slice that names a pod of the namespace with an address that is not this pod's, or a pod of another namespace.
      const named = own[0];
      const address = families[0] === 4 ? '198.18.77.7' : 'fd00:77::7';
      const reference = { kind: 'Pod', namespace, name: named?.metadata.name ?? 'nobody' };
      const lies = random.chance(0.5)
        ? [{ addresses: [address], ...ready, targetRef: reference }]
        : random.sample(foreign, 1).flatMap((pod) => endpointsOf(random, pod));
      addSlices(cluster, metadata, slicePorts, lies);
      return;
    }
    case 'nothing':
      return;
    default: {
      const chosen = random.sample(own, random.between(1, 4));
      // Pods that resolve a named target port to another number are in a slice of their own.
      const half = random.chance(0.3) ? random.below(chosen.length + 1) : chosen.length;
      const otherPorts = slicePorts.map((port) => ({ ...port, port: random.pick(PORT_NUMBERS) }));
      addSlices(
        cluster,
        metadata,
        slicePorts,
        chosen.slice(0, half).flatMap((pod) => endpointsOf(random, pod)),
      );
      addSlices(
        cluster,
        metadata,
        otherPorts,
        chosen.slice(half).flatMap((pod) => endpointsOf(random, pod)),
      );
    }
  }
}
