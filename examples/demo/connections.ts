// SPDX-License-Identifier: Apache-2.0
// What is tried, in which order, and what must be seen if `postern explain` is right? Data only; starts nothing.
import type { Explanation } from '../../src/judge/explain.ts';
import type { Seen } from './client.ts';
import type { Row } from './terminal.ts';
import { METADATA, PROVIDER, PROVIDER6, RESOLVER, STRANGER, STRANGER6 } from './world.ts';

/** One try of one client. `to` as `postern explain --to` takes it; `name`: what is at an address that no object has. */
export interface Connection {
  readonly from: string;
  readonly to: string;
  readonly name?: string;
  readonly port: number;
  readonly protocol: 'TCP' | 'UDP';
  readonly client: 'curl' | 'dig';
}

interface Section {
  readonly title: string;
  readonly connections: readonly Connection[];
}

export function http(from: string, to: string, port: number, name?: string): Connection {
  return { from, to, port, protocol: 'TCP', client: 'curl', ...(name !== undefined && { name }) };
}

export const SECTIONS: readonly Section[] = [
  {
    title: 'data-default-deny.yaml: a NetworkPolicy without rules denies by default',
    connections: [http('data/db', STRANGER, 80, 'a site')],
  },
  {
    title: 'shop-cart.yaml: a NetworkPolicy by pods and the name of a port; what the database replies passes',
    connections: [http('shop/cart', 'data/db', 5432), http('shop/cart', PROVIDER, 80, 'the provider')],
  },
  {
    title: 'shop-web.yaml: an EgressPolicy by networks of both families, and by a Service and the name of its port',
    connections: [
      http('shop/web', PROVIDER, 80, 'the provider'),
      http('shop/web', PROVIDER6, 80, 'the provider'),
      http('shop/web', STRANGER, 80, 'a site'),
      http('shop/web', STRANGER6, 80, 'a site'),
      http('shop/web', 'service:shop/cart', 80),
      http('shop/web', 'shop/cart', 8080),
      http('shop/web', 'service:shop/cart', 9090),
    ],
  },
  {
    title: "dns.yaml: a Grant for all pods; the cluster's resolver may be asked, another may not",
    connections: [
      { from: 'shop/web', to: 'service:kube-system/kube-dns', port: 53, protocol: 'UDP', client: 'dig' },
      { from: 'shop/web', to: RESOLVER, name: 'a resolver', port: 53, protocol: 'TCP', client: 'dig' },
    ],
  },
  {
    title: 'no-cloud-metadata.yaml: a Limit takes away, also from a namespace that allows itself everything',
    connections: [http('ops/debug', STRANGER, 80, 'a site'), http('ops/debug', METADATA, 80, 'metadata')],
  },
  {
    title: 'batch-report.yaml: onDeny: Drop is silent, where Reject fails at once',
    connections: [http('batch/report', STRANGER, 80, 'a site')],
  },
  {
    title: 'shop-checkout.yaml: mode: Audit lets pass, and tells what it would refuse',
    connections: [http('shop/checkout', STRANGER, 80, 'a site')],
  },
];

/** What a client must see if `told` is true. */
export function expected(told: Explanation): Seen['outcome'] {
  if (told.verdict !== 'deny') return 'passed';
  return told.onDeny === 'Drop' ? 'silence' : 'refused';
}

/** What the agent's log and `explain` both tell of a connection. */
export interface Told {
  readonly verdict: string;
  readonly policy: string | null;
  readonly rule: number | null;
  readonly ruleName: string | null;
  readonly reason: string;
}

export function rowOf(connection: Connection, address: string, seen: string, told: Told): Row {
  const { from, to, name, port, protocol } = connection;
  const what = name ?? (to.startsWith('service:') ? to.replace(':', ' ') : `pod ${to}`);
  const host = address.includes(':') ? `[${address}]` : address;
  const rule = told.rule === null ? '-' : told.ruleName === null ? String(told.rule) : `${told.rule} ${told.ruleName}`;
  return [
    from,
    `${what} ${host}:${port}/${protocol}`,
    seen,
    told.verdict.toUpperCase(),
    told.policy ?? '-',
    rule,
    told.reason,
  ];
}
