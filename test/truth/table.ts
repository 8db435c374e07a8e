// SPDX-License-Identifier: Apache-2.0
// How is a truth table written, and what does it say in full? A small cluster; policies; lines that each change a part of "everything is
// allowed", the later over the earlier. Each is every sender × every destination × both families × every port × every protocol.
// May not know how anything is decided.
import assert from 'node:assert/strict';
import { parseAllDocuments } from 'yaml';

export interface TruthTable {
  readonly title: string;
  /** YAML documents. */
  readonly policies: string;
  /**
   * `FROM -> TO [PORT/PROTOCOL] allow|deny` a line. FROM: `x/a`, or `host`, the hostNetwork pod on n1. TO: also `n1`, `n2` (nodes) and `out`.
   * `*` stands for any text without a slash, alone for everything. PORT/PROTOCOL absent: every one, ICMP too.
   */
  readonly expected: string;
}

export const NAMESPACES = ['x', 'y', 'z'];
export const PODS = ['a', 'b', 'c'];
export const PORTS = [80, 81];
export const PROTOCOLS = ['TCP', 'UDP', 'SCTP'] as const;
export const HOST = { node: 'n1', addresses: ['198.18.0.1', 'fd00:18::1'], resolvers: [] };

/** Both addresses of each destination, IPv4 first. The third byte of a pod's is its namespace, the last is the pod. */
export const ADDRESSES: ReadonlyMap<string, readonly [string, string]> = new Map([
  ...NAMESPACES.flatMap((namespace, i) =>
    PODS.map((pod, j): [string, [string, string]] => [
      `${namespace}/${pod}`,
      [`198.18.${i + 1}.${j + 1}`, `fd00:18:${i + 1}::${j + 1}`],
    ]),
  ),
  ['n1', ['198.18.0.1', 'fd00:18::1']],
  ['n2', ['198.18.0.2', 'fd00:18::2']],
  ['out', ['198.19.0.1', 'fd00:19::1']],
]);

/** Where a sender is found in explain. */
export const SENDERS: ReadonlyMap<string, string> = new Map([
  ...NAMESPACES.flatMap((namespace) =>
    PODS.map((pod): [string, string] => [`${namespace}/${pod}`, `${namespace}/${pod}`]),
  ),
  ['host', 'x/host'],
]);

export const CLUSTER: readonly object[] = [
  ...NAMESPACES.map((name) => ({ apiVersion: 'v1', kind: 'Namespace', metadata: { name, labels: { ns: name } } })),
  ...['n1', 'n2'].map((name) => ({
    ...{ apiVersion: 'v1', kind: 'Node', metadata: { name, labels: { node: name } } },
    status: { addresses: addressesOf(name).map((address) => ({ type: 'InternalIP', address })) },
  })),
  ...NAMESPACES.flatMap((namespace) => PODS.map((name) => pod(namespace, name))),
  {
    ...{ apiVersion: 'v1', kind: 'Pod', metadata: { name: 'host', namespace: 'x', labels: { pod: 'a' } } },
    spec: { nodeName: 'n1', hostNetwork: true, containers: [{ name: 'c', image: 'c' }] },
    status: { phase: 'Running', podIPs: addressesOf('n1').map((ip) => ({ ip })) },
  },
];

function addressesOf(name: string): readonly string[] {
  return ADDRESSES.get(name) ?? assert.fail(name);
}

/** Serves every port by every protocol, each under a name such as serve-80-tcp. */
function pod(namespace: string, name: string): object {
  const ports = PORTS.flatMap((port) =>
    PROTOCOLS.map((protocol) => ({
      name: `serve-${port}-${protocol.toLowerCase()}`,
      containerPort: port,
      protocol,
    })),
  );
  return {
    ...{ apiVersion: 'v1', kind: 'Pod', metadata: { name, namespace, labels: { pod: name } } },
    spec: { nodeName: name === 'a' ? 'n1' : 'n2', containers: [{ name: 'c', image: 'c', ports }] },
    status: { phase: 'Running', podIPs: addressesOf(`${namespace}/${name}`).map((ip) => ({ ip })) },
  };
}

export function objectsOf({ policies }: TruthTable): object[] {
  const parsed = parseAllDocuments(policies).map((document) => {
    assert.deepEqual(document.errors, []);
    return document.toJS() as object | null;
  });
  return [...CLUSTER, ...parsed.filter((object) => object !== null)];
}

export interface Flow {
  readonly from: string;
  readonly to: string;
  readonly address: string;
  /** null for ICMP. */
  readonly port: number | null;
  readonly protocol: (typeof PROTOCOLS)[number] | 'ICMP';
  readonly allowed: boolean;
}

/** The whole table. A pod may always talk to itself. */
export function flowsOf({ expected }: TruthTable): Flow[] {
  const lines = expected
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '')
    .map(parseLine);
  const flows: Flow[] = [];
  const kinds = [
    ...PORTS.flatMap((port) => PROTOCOLS.map((protocol) => ({ port, protocol }))),
    { port: null, protocol: 'ICMP' as const },
  ];
  for (const from of SENDERS.keys()) {
    for (const [to, addresses] of ADDRESSES) {
      for (const { port, protocol } of kinds) {
        const last = lines.findLast((line) => line.matches(from, to, port, protocol));
        const allowed = from === to || (last?.allowed ?? true);
        for (const address of addresses) flows.push({ from, to, address, port, protocol, allowed });
      }
    }
  }
  return flows;
}

interface Line {
  readonly allowed: boolean;
  matches(from: string, to: string, port: number | null, protocol: string): boolean;
}

const LINE = /^(?<from>\S+) -> (?<to>\S+)(?: (?<port>\d+|\*)\/(?<protocol>TCP|UDP|SCTP|\*))? (?<verdict>allow|deny)$/;

function parseLine(text: string): Line {
  const found = LINE.exec(text)?.groups;
  assert.ok(found, `not a line of a truth table: ${text}`);
  const { from = '', to = '', port, protocol, verdict } = found;
  const [isFrom, isTo] = [glob(from), glob(to)];
  return {
    allowed: verdict === 'allow',
    matches: (sender, destination, number, kind) =>
      isFrom(sender) &&
      isTo(destination) &&
      (port === undefined || (number !== null && (port === '*' || Number(port) === number))) &&
      (protocol === undefined || (kind !== 'ICMP' && (protocol === '*' || protocol === kind))),
  };
}

function glob(pattern: string): (text: string) => boolean {
  if (pattern === '*') return () => true;
  const expression = new RegExp(`^${pattern.replaceAll('*', '[^/]*')}$`);
  return (text) => expression.test(text);
}

/** Where they differ from the table, a line each: short enough to be read. */
export function differences(table: TruthTable, allows: (flow: Flow) => boolean): string[] {
  return flowsOf(table)
    .filter((flow) => allows(flow) !== flow.allowed)
    .map(
      ({ from, to, address, port, protocol, allowed }) =>
        `${from} -> ${to} (${address}) ${port ?? ''}/${protocol} should be ${allowed ? 'allowed' : 'denied'}`,
    );
}
