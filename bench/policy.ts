// SPDX-License-Identifier: Apache-2.0
// The policies that are measured, as snapshots for the compiler, and the packets that ask about them. Knows no kernel and no clock.

import type { Cidr, Namespace, Peer, Pod, Policy, Port, Rule, Snapshot } from '../src/model/objects.ts';

const NAMESPACE = 'bench';
/** The workload that is measured, as the tables call it. */
export const WORKLOAD = `${NAMESPACE}/workload`;

/** Odd, so that multiplying by it is a bijection; neighbours by number become strangers by address. */
const FACTOR = 0x9e3779b1;
/** Ports that rules allow on each pod. */
const PORTS = 5;
const FIRST_PORT = 1000;
/** Addresses of one app, hence of one identity. */
const REPLICAS = 8;
/** Limits of the policy API: rules of a policy, networks of a peer, peers of a rule. */
const RULES = 100;
const NETWORKS = 100;

/** What bench.bpf.c needs to know to ask for any of the destinations: values of its constants. */
export interface Destinations {
  readonly destinations: number;
  readonly destination_factor: number;
  readonly destination_mask: number;
  readonly destination_shift: number;
  readonly destination_port: number;
}

export interface Scenario {
  readonly snapshot: Snapshot;
  readonly anywhere: Destinations;
  /** One destination that is allowed, and a port. */
  readonly allowed: { readonly address: string; readonly port: number };
}

/** Both families as a whole: for what does not depend on how many destinations there are. */
export function everything(): Scenario {
  const any = networks(['10.0.0.0/8', 'fd00::/8']);
  const port = 443;
  const ports: Port[] = [tcp(port), { protocol: 'UDP', port, endPort: null }];
  return {
    snapshot: snapshot([policy('everything', [rule([any], ports)])], []),
    anywhere: anywhere(1, 24),
    allowed: { address: '10.0.0.1', port },
  };
}

/** Where names are asked for, and where what looks the same is no question. */
export const RESOLVER = '198.18.0.53';
export const NO_RESOLVER = '198.18.0.54';
/** The names that policy speaks of are below it. */
export const DOMAIN = 'bench.example';

/** The same, and names: each may be asked, or only those that are allowed. What they allow is allowed anyway, so that all pass alike. */
export function names({ only }: { readonly only: boolean }): Scenario {
  const port = 443;
  const rules = [
    rule([networks(['10.0.0.0/8'])], [tcp(port)]),
    rule([networks([`${RESOLVER}/32`, `${NO_RESOLVER}/32`])], [{ protocol: 'UDP', port: 53, endPort: null }]),
    rule([{ type: 'domainNames', names: [`*.${DOMAIN}`], anywhere: false }], [tcp(port)]),
  ];
  const { host, ...rest } = snapshot([{ ...policy('names', rules), allowedNames: { only, names: [] } }], []);
  return {
    snapshot: { ...rest, host: { ...host, resolvers: [RESOLVER] } },
    anywhere: anywhere(1, 24),
    allowed: { address: '10.0.0.1', port },
  };
}

/** `count` addresses of pods, eight of each app; one rule allows them all. As many identities and verdict rows as apps. */
export function podAddresses(count: number): Scenario {
  const pods = Array.from({ length: count }, (_, index) =>
    peerPod(index, nth(index, 24), `app-${Math.floor(index / REPLICAS)}`),
  );
  const anyApp: Peer = {
    type: 'pods',
    namespaceSelector: null,
    podSelector: { matchLabels: {}, matchExpressions: [{ key: 'app', operator: 'Exists', values: [] }] },
  };
  return {
    snapshot: snapshot([policy('pods', [rule([anyApp], [tcp(FIRST_PORT)])])], pods),
    anywhere: anywhere(count, 24),
    allowed: { address: ipv4(nth(count >> 1, 24)), port: FIRST_PORT },
  };
}

/** `count` prefixes of 28 bits; rules list them. */
export function prefixes(count: number): Scenario {
  const cidrs = Array.from({ length: count }, (_, index) => `${ipv4(nth(index, 20))}/28`);
  const rules = chunks(chunks(cidrs, NETWORKS), 25).map((peers) => rule(peers.map(networks), [tcp(FIRST_PORT)]));
  return {
    snapshot: snapshot(policies('prefixes', rules), []),
    anywhere: anywhere(count, 20),
    allowed: { address: ipv4(nth(count >> 1, 20)), port: FIRST_PORT },
  };
}

/** `count` rules, each for one app and one port, five of each app; the last of an app's ports is asked for. */
export function rulesForPods(count: number): Scenario {
  const apps = Math.max(1, Math.floor(count / PORTS));
  const pods = Array.from({ length: apps }, (_, index) => peerPod(index, nth(index, 24), `app-${index}`));
  const rules = Array.from({ length: count }, (_, index) =>
    rule(
      [
        {
          type: 'pods',
          namespaceSelector: null,
          podSelector: { matchLabels: { app: `app-${Math.floor(index / PORTS)}` }, matchExpressions: [] },
        },
      ],
      [tcp(FIRST_PORT + (index % PORTS))],
    ),
  );
  return {
    snapshot: snapshot(policies('pods', rules), pods),
    anywhere: anywhere(apps, 24),
    allowed: { address: ipv4(nth(apps >> 1, 24)), port: FIRST_PORT + PORTS - 1 },
  };
}

/** `count` rules that meet on one destination, each for another port: one set of as many ports. */
export function rulesForPorts(count: number): Scenario {
  const address = ipv4(nth(1, 24));
  const rules = Array.from({ length: count }, (_, index) =>
    rule([networks([`${address}/32`])], [tcp(FIRST_PORT + index)]),
  );
  return {
    snapshot: snapshot(policies('ports', rules), []),
    anywhere: { ...anywhere(count, 24), destination_port: FIRST_PORT },
    allowed: { address, port: FIRST_PORT + (count >> 1) },
  };
}

/** An allowlist as administrators keep them: `rules` rules, each for its own port, single addresses and networks by half. */
export interface Allowlist {
  readonly rules: readonly { readonly port: number; readonly cidrs: readonly Cidr[] }[];
}

/** `count` entries; the first rules also allow `servers`. */
export function allowlist(count: number, servers: readonly Cidr[], ports: readonly number[]): Allowlist {
  const each = Math.ceil(count / RULES);
  const rules = Array.from({ length: RULES }, (_, index) => {
    const port = ports[index] ?? 7000 + index;
    const cidrs = Array.from({ length: each }, (_, entry) => {
      const number = index * each + entry;
      // Single addresses in the lower half of 10.0.0.0/8, networks in the upper, so that they don't overlap.
      return entry % 2 === 0
        ? `${ipv4(0x0a000000 + scatter(number, 23))}/32`
        : `${ipv4(0x0a800000 + scatter(number, 19) * 16)}/28`;
    });
    return { port, cidrs: ports[index] === undefined ? cidrs : [...servers, ...cidrs] };
  });
  return { rules };
}

export function allowlistSnapshot({ rules }: Allowlist): Snapshot {
  return snapshot(
    policies(
      'allowlist',
      rules.map(({ port, cidrs }) => rule(chunks(cidrs, NETWORKS).map(networks), [tcp(port)])),
    ),
    [],
  );
}

function anywhere(count: number, bits: number): Destinations {
  return {
    destinations: count,
    destination_factor: FACTOR,
    destination_mask: 2 ** bits - 1,
    destination_shift: 24 - bits,
    destination_port: 0,
  };
}

/** As bench.bpf.c computes it: destination `index` where addresses differ in `bits` of the low 24 bits of 10.0.0.0/8. */
function nth(index: number, bits: number): number {
  return 0x0a000000 + scatter(index, bits) * 2 ** (24 - bits);
}

function scatter(index: number, bits: number): number {
  return Math.imul(index, FACTOR) & (2 ** bits - 1);
}

function ipv4(address: number): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 0xff).join('.');
}

function tcp(port: number): Port {
  return { protocol: 'TCP', port, endPort: null };
}

function networks(cidrs: readonly Cidr[]): Peer {
  return { type: 'networks', cidrs, except: [] };
}

function rule(peers: readonly Peer[], ports: readonly Port[]): Rule {
  return { name: null, action: 'Accept', peers, ports, notEnforced: null };
}

function policies(name: string, rules: readonly Rule[]): Policy[] {
  return chunks(rules, RULES).map((some, index) => policy(`${name}-${index}`, some));
}

function policy(name: string, rules: readonly Rule[]): Policy {
  return {
    ...{ kind: 'EgressPolicy', namespace: NAMESPACE, name, effect: 'Isolate', priority: 0, mode: 'Enforce' },
    ...{ onDeny: 'Reject', hostNetwork: false, rules },
    subject: { type: 'own', podSelector: { matchLabels: { app: 'workload' }, matchExpressions: [] } },
  };
}

function pod(name: string, addresses: readonly string[], app: string): Pod {
  return {
    ...{ namespace: NAMESPACE, name, uid: null, labels: { app }, node: null, hostNetwork: false, addresses, ports: [] },
    ...{ ended: false, isStatic: false, cgroup: null },
  };
}

function peerPod(index: number, address: number, app: string): Pod {
  return pod(`peer-${index}`, [ipv4(address)], app);
}

function snapshot(policies: readonly Policy[], peers: readonly Pod[]): Snapshot {
  const namespace: Namespace = { name: NAMESPACE, labels: { 'kubernetes.io/metadata.name': NAMESPACE } };
  return {
    ...{ namespaces: [namespace], nodes: [], services: [], endpointSlices: [], policies },
    pods: [pod('workload', [], 'workload'), ...peers],
    host: { node: null, addresses: [], resolvers: [] },
  };
}

function chunks<T>(items: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, index) =>
    items.slice(index * size, (index + 1) * size),
  );
}
