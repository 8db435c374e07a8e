// SPDX-License-Identifier: Apache-2.0
// Online Boutique as a cluster: pods of its Deployments, endpoints of its Services, egress policies got by inverting the ingress
// rules that its authors ship. Which calls the shop makes is read from elsewhere: the addresses in its containers' environment.
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { parseAllDocuments, stringify } from 'yaml';

const FIXTURE = path.join(import.meta.dirname, '../fixtures/online-boutique');

export interface ShopService {
  readonly app: string;
  /** Ports of its containers. */
  readonly ports: readonly number[];
  readonly ipv4: string;
  readonly ipv6: string;
}

export interface Shop {
  readonly services: readonly ShopService[];
  /** `caller->callee:containerPort`, from the environment of the callers' containers. */
  readonly calls: ReadonlySet<string>;
  /** Namespace, Pods, Services and EndpointSlices; `cgroup` names a pod's, or null. */
  readonly objects: (cgroup: (app: string) => string | null) => object[];
  /** EgressPolicies, one for each caller. */
  readonly policies: readonly object[];
}

interface Workload {
  metadata: { name: string };
  spec: {
    template: {
      metadata: { labels: Record<string, string> };
      spec: { containers: Container[]; initContainers?: Container[] };
    };
  };
}
interface Container {
  ports?: { containerPort: number }[];
  env?: { name: string; value?: string }[];
}
interface ShopServiceObject {
  metadata: { name: string };
  spec: { selector: { app: string }; ports: { name?: string; port: number; targetPort: number }[] };
}
interface ShopPolicy {
  metadata: { name: string };
  spec: {
    podSelector: { matchLabels?: { app?: string } };
    ingress?: {
      from?: { podSelector: { matchLabels: { app: string } } }[];
      ports?: { port: number; protocol?: string }[];
    }[];
  };
}

function read<T>(file: string, kind: string): T[] {
  return parseAllDocuments(readFileSync(file, 'utf8'))
    .map((document) => document.toJS())
    .filter((object) => object?.kind === kind);
}

export function readShop(): Shop {
  const manifests = path.join(FIXTURE, 'kubernetes-manifests.yaml');
  const deployments = read<Workload>(manifests, 'Deployment');
  const services = read<ShopServiceObject>(manifests, 'Service').filter(
    ({ metadata }) => !metadata.name.endsWith('-external'),
  );
  const shop = deployments.map(({ spec }, index): ShopService => {
    const { labels } = spec.template.metadata;
    const ports = spec.template.spec.containers.flatMap((container) =>
      (container.ports ?? []).map((port) => port.containerPort),
    );
    return { app: labels.app ?? '', ports, ipv4: `198.18.12.${index + 1}`, ipv6: `fd00:18:12::${index + 1}` };
  });

  const calls = new Set<string>();
  for (const { spec } of deployments) {
    const { containers, initContainers = [] } = spec.template.spec;
    for (const { value } of [...containers, ...initContainers].flatMap(({ env = [] }) => env)) {
      const [name, port] = (value ?? '').split(':');
      const service = services.find(({ metadata }) => metadata.name === name);
      const target = service?.spec.ports.find((each) => each.port === Number(port))?.targetPort;
      if (target !== undefined)
        calls.add(`${spec.template.metadata.labels.app}->${service?.spec.selector.app}:${target}`);
    }
  }

  const folder = path.join(FIXTURE, 'network-policies');
  const shipped = readdirSync(folder).flatMap((file) => read<ShopPolicy>(path.join(folder, file), 'NetworkPolicy'));
  return {
    services: shop,
    calls,
    policies: invert(shop, shipped),
    objects: (cgroup) => objectsOf(shop, services, cgroup),
  };
}

/** What each caller may call, by what each callee admits. A callee that admits anyone to anything
 * (the frontend) is visited by the shop's own load generator, on the ports that it serves. */
function invert(shop: readonly ShopService[], shipped: readonly ShopPolicy[]): object[] {
  const rules = new Map(shop.map(({ app }) => [app, [] as object[]]));
  for (const { spec } of shipped) {
    const callee = spec.podSelector.matchLabels?.app;
    if (callee === undefined) continue;
    for (const { from, ports } of spec.ingress ?? []) {
      const callers = from?.map((peer) => peer.podSelector.matchLabels.app) ?? ['loadgenerator'];
      for (const caller of callers) {
        const peer = { pods: { podSelector: { matchLabels: { app: callee } } } };
        rules.get(caller)?.push({ name: `to-${callee}`, to: [peer], ports: ports ?? served(shop, callee) });
      }
    }
  }
  return [...rules].map(([app, egress]) => ({
    ...{ apiVersion: 'postern.dev/v1alpha1', kind: 'EgressPolicy', metadata: { name: app, namespace: 'shop' } },
    spec: { podSelector: { matchLabels: { app } }, egress },
  }));
}

function served(shop: readonly ShopService[], app: string): { port: number }[] {
  return (shop.find((service) => service.app === app)?.ports ?? []).map((port) => ({ port }));
}

function objectsOf(
  shop: readonly ShopService[],
  services: readonly ShopServiceObject[],
  cgroup: (app: string) => string | null,
): object[] {
  const pods = shop.map(({ app, ports, ipv4, ipv6 }) => {
    const below = cgroup(app);
    return {
      ...{ apiVersion: 'v1', kind: 'Pod' },
      metadata: {
        name: app,
        namespace: 'shop',
        labels: { app },
        ...(below && { annotations: { 'postern.dev/cgroup': below } }),
      },
      spec: { containers: [{ name: 'server', ports: ports.map((containerPort) => ({ containerPort })) }] },
      status: { phase: 'Running', podIP: ipv4, podIPs: [{ ip: ipv4 }, { ip: ipv6 }] },
    };
  });
  const fronts = services.flatMap(({ metadata, spec }, index) => {
    const backend = shop.find(({ app }) => app === spec.selector.app);
    const slice = (family: 'IPv4' | 'IPv6', address: string) => ({
      ...{ apiVersion: 'discovery.k8s.io/v1', kind: 'EndpointSlice', addressType: family },
      metadata: {
        name: `${metadata.name}-${family.toLowerCase()}`,
        namespace: 'shop',
        labels: { 'kubernetes.io/service-name': metadata.name },
      },
      ports: spec.ports.map(({ name, targetPort }) => ({ ...(name && { name }), port: targetPort, protocol: 'TCP' })),
      endpoints: [
        {
          addresses: [address],
          conditions: { ready: true },
          targetRef: { kind: 'Pod', namespace: 'shop', name: spec.selector.app },
        },
      ],
    });
    return [
      {
        ...{ apiVersion: 'v1', kind: 'Service', metadata: { name: metadata.name, namespace: 'shop' } },
        spec: { ...spec, clusterIP: `198.19.12.${index + 1}`, clusterIPs: [`198.19.12.${index + 1}`] },
      },
      ...(backend === undefined ? [] : [slice('IPv4', backend.ipv4), slice('IPv6', backend.ipv6)]),
    ];
  });
  return [{ apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'shop' } }, ...pods, ...fronts];
}

export function asYaml(objects: readonly object[]): string {
  return objects.map((object) => stringify(object)).join('---\n');
}
