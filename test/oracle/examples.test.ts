// SPDX-License-Identifier: Apache-2.0
// Does the oracle decide the fifteen example policies as their descriptions say? Expectations are written by hand.
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { checkCases, documents } from './case.ts';

const read = (name: string) => readFileSync(new URL(name, import.meta.url), 'utf8');
const cluster = documents(read('cluster.yaml'));
const policies = read('examples.yaml')
  .split(/^(?=--- # \d+\.)/m)
  .slice(1)
  .map(documents);
const host = { node: 'here', addresses: ['198.18.0.1', '198.18.9.9'], resolvers: ['10.96.0.10', '198.18.0.53'] };

function example(title: string, numbers: readonly number[], cases: string): void {
  test(`example ${numbers.join(' with ')}: ${title}`, () => {
    checkCases([...cluster, ...numbers.flatMap((n) => policies[n - 1] ?? [])], host, cases);
  });
}

example(
  'DNS is open, names are not yet',
  [1],
  `
  payments/pay -> service:kube-system/kube-dns 53/UDP => allow rule EgressPolicy/payments/payments 0
  payments/pay -> kube-system/coredns 5353/UDP => allow rule EgressPolicy/payments/payments 0
  payments/pay -> kube-system/coredns 53/UDP => deny no_rule EgressPolicy/payments/payments
  payments/pay -> 198.18.0.53 53/TCP => allow rule EgressPolicy/payments/payments 0
  payments/pay -> 198.18.0.53 853/TCP => deny no_rule EgressPolicy/payments/payments
  payments/pay -> 8.8.8.8 443/TCP => deny no_rule EgressPolicy/payments/payments
  payments/pay -> 10.244.1.1 80/TCP => allow self
  payments/pay -> fd00:244:1::1 80/TCP => allow self
  payments/pay -> 127.0.0.1 80/TCP => allow loopback
  payments/pay -> ::1 80/TCP => allow loopback
  payments/bystander -> 8.8.8.8 443/TCP => allow not_isolated
`,
);
example(
  'a bucket by name is not yet open',
  [2],
  `
  backup/backup -> 198.18.0.53 53/UDP => allow rule EgressPolicy/backup/to-s3 0
  backup/backup -> 52.218.1.1 443/TCP => deny no_rule EgressPolicy/backup/to-s3
`,
);
example(
  'a hostNetwork workload',
  [3],
  `
  logging/shipper -> 198.18.0.2 6443/TCP => allow rule EgressPolicy/logging/log-shipper 0
  logging/shipper -> service:default/kubernetes 443/TCP => allow rule EgressPolicy/logging/log-shipper 0
  logging/shipper -> service:logging/loki-gateway 80/TCP => allow rule EgressPolicy/logging/log-shipper 0
  logging/shipper -> service:logging/loki-gateway 81/TCP => deny no_rule EgressPolicy/logging/log-shipper
  logging/shipper -> 198.18.0.2 30040/TCP => allow rule EgressPolicy/logging/log-shipper 0
  logging/shipper -> logging/loki 3100/TCP => allow rule EgressPolicy/logging/log-shipper 0
  logging/shipper -> logging/loki 9095/TCP => allow rule EgressPolicy/logging/log-shipper 0
  logging/shipper -> logging/loki 80/TCP => deny no_rule EgressPolicy/logging/log-shipper
  logging/shipper -> 198.18.0.1 22/TCP => deny no_rule EgressPolicy/logging/log-shipper
  logging/static-shipper -> 8.8.8.8 443/TCP => allow not_isolated
  kube-system/proxy -> 8.8.8.8 443/TCP => allow not_isolated
`,
);
example(
  'names alone',
  [4],
  `
  ci/runner -> service:kube-system/kube-dns 53/TCP => allow rule EgressPolicy/ci/runner 0
  ci/runner -> 140.82.112.3 443/TCP => deny no_rule EgressPolicy/ci/runner
  ci/runner -> 140.82.112.3 ICMP:EchoRequest => deny no_rule EgressPolicy/ci/runner
`,
);
example(
  'a Service and a named port',
  [5],
  `
  shop/orders -> service:data/postgres 5432/TCP => allow rule EgressPolicy/shop/orders-db 0
  shop/orders -> data/primary 5432/TCP => allow rule EgressPolicy/shop/orders-db 0
  shop/orders -> data/primary 5433/TCP => deny no_rule EgressPolicy/shop/orders-db
  shop/orders -> data/replica 5433/TCP => allow rule EgressPolicy/shop/orders-db 1
  shop/orders -> data/replica 5432/TCP => deny no_rule EgressPolicy/shop/orders-db
  shop/orders -> data/replica 5433/UDP => deny no_rule EgressPolicy/shop/orders-db
  shop/checkout -> 8.8.8.8 80/TCP => allow not_isolated
  shop/finished -> 8.8.8.8 80/TCP => allow not_isolated
`,
);
example(
  'a Grant isolates nobody',
  [6],
  `
  shop/orders -> 192.0.2.123 123/UDP => allow rule ClusterEgressPolicy/ntp 0
  shop/orders -> 192.0.2.123 123/TCP => allow not_isolated
`,
);
example(
  'a Grant adds to what isolates',
  [5, 6],
  `
  shop/orders -> 192.0.2.123 123/UDP => allow rule ClusterEgressPolicy/ntp 0
  shop/orders -> 2001:db8::123 123/UDP => allow rule ClusterEgressPolicy/ntp 0
  shop/orders -> 192.0.2.124 123/UDP => deny no_rule EgressPolicy/shop/orders-db
  shop/orders -> 192.0.2.123 123/TCP => deny no_rule EgressPolicy/shop/orders-db
`,
);
example(
  'Internet on one port',
  [7],
  `
  mail/relay -> 8.8.8.8 25/TCP => allow rule EgressPolicy/mail/relay 1
  mail/relay -> 2606:4700::1 25/TCP => allow rule EgressPolicy/mail/relay 1
  mail/relay -> 10.1.2.3 25/TCP => deny no_rule EgressPolicy/mail/relay
  mail/relay -> 8.8.8.8 587/TCP => deny no_rule EgressPolicy/mail/relay
  mail/relay -> 8.8.4.4 25/TCP => deny no_rule EgressPolicy/mail/relay
`,
);
example(
  'a Limit with two exceptions',
  [8],
  `
  shop/orders -> 169.254.169.254 80/TCP => deny limit ClusterEgressPolicy/no-cloud-metadata
  shop/orders -> fd00:ec2::254 80/TCP => deny limit ClusterEgressPolicy/no-cloud-metadata
  shop/orders -> 169.254.169.254 ICMP => deny limit ClusterEgressPolicy/no-cloud-metadata
  shop/orders -> fd00:ec2::253 80/TCP => allow not_isolated
  shop/orders -> 8.8.8.8 443/TCP => allow not_isolated
  shop/orders -> service:shop/payment 80/TCP => deny no_ready_endpoint
  kube-system/csi -> 169.254.169.254 80/TCP => allow not_isolated
  kube-system/proxy -> 169.254.169.254 80/TCP => allow not_isolated
`,
);
example(
  'a Limit allows nothing itself',
  [8, 10],
  `
  shop/orders -> 169.254.169.254 80/TCP => deny limit ClusterEgressPolicy/no-cloud-metadata
  shop/orders -> 8.8.8.8 443/TCP => deny no_rule EgressPolicy/shop/default-deny
`,
);
example(
  'an entity with ports, taken away',
  [9],
  `
  shop/orders -> service:default/kubernetes 443/TCP => deny limit ClusterEgressPolicy/apiserver-for-controllers
  shop/orders -> 198.18.0.2 6443/TCP => deny limit ClusterEgressPolicy/apiserver-for-controllers
  shop/orders -> 198.18.0.2 22/TCP => allow not_isolated
  shop/orders -> 198.18.0.2 6443/UDP => allow not_isolated
  shop/orders -> 198.18.0.2 ICMP => allow not_isolated
  shop/orders -> 10.96.0.1 80/TCP => allow not_isolated
  operators/operator -> service:default/kubernetes 443/TCP => allow not_isolated
`,
);
example(
  'deny by default',
  [10],
  `
  shop/cart -> 8.8.8.8 443/TCP => deny no_rule EgressPolicy/shop/default-deny
  shop/cart -> service:kube-system/kube-dns 53/TCP => allow rule EgressPolicy/shop/default-deny 0
  shop/cart -> service:kube-system/kube-dns 53/SCTP => deny no_rule EgressPolicy/shop/default-deny
  shop/cart -> service:shop/cart 80/TCP => deny no_rule EgressPolicy/shop/default-deny
  shop/cart -> shop/cart 8080/TCP => allow self
  shop/orders -> fd00:244:1::8 9/SCTP => allow self
  shop/orders -> shop/finished 80/TCP => deny no_address
`,
);
example(
  'Audit alone lets all pass',
  [11],
  `
  shop/checkout -> 8.8.8.8 443/TCP => audit no_rule EgressPolicy/shop/checkout
  shop/checkout -> service:shop/cart 80/TCP => allow not_isolated
  shop/checkout -> service:shop/payment 80/TCP => audit no_ready_endpoint
`,
);
example(
  'Audit beside Enforce has no part in it',
  [10, 11],
  `
  shop/checkout -> 8.8.8.8 443/TCP => deny no_rule EgressPolicy/shop/default-deny
  shop/checkout -> service:shop/cart 80/TCP => deny no_rule EgressPolicy/shop/default-deny
  shop/checkout -> service:kube-system/kube-dns 53/UDP => allow rule EgressPolicy/shop/default-deny 0
`,
);
example(
  'anything but private, link-local and cluster',
  [12],
  `
  hooks/sender -> 8.8.8.8 443/TCP => allow rule EgressPolicy/hooks/webhooks 1
  hooks/sender -> 8.8.8.8 80/TCP => allow rule EgressPolicy/hooks/webhooks 1
  hooks/sender -> 8.8.8.8 8443/TCP => deny no_rule EgressPolicy/hooks/webhooks
  hooks/sender -> 10.0.0.1 443/TCP => deny no_rule EgressPolicy/hooks/webhooks
  hooks/sender -> 169.254.169.254 80/TCP => deny no_rule EgressPolicy/hooks/webhooks
  hooks/sender -> fd00::1 443/TCP => deny no_rule EgressPolicy/hooks/webhooks
  hooks/sender -> 64:ff9b::808:808 443/TCP => allow rule EgressPolicy/hooks/webhooks 1
  hooks/sender -> 64:ff9b::a00:1 443/TCP => deny no_rule EgressPolicy/hooks/webhooks
  hooks/sender -> 2002:808:808::1 80/TCP => allow rule EgressPolicy/hooks/webhooks 1
  hooks/sender -> 2002:a00:1::1 80/TCP => deny no_rule EgressPolicy/hooks/webhooks
`,
);
example(
  'pings and a named port anywhere',
  [13],
  `
  monitoring/blackbox -> 198.18.0.2 ICMP:EchoRequest => allow rule EgressPolicy/monitoring/blackbox 0
  monitoring/blackbox -> fd00:18::1 ICMP:EchoRequest => allow rule EgressPolicy/monitoring/blackbox 0
  monitoring/blackbox -> 198.18.0.2 ICMP:EchoReply => deny no_rule EgressPolicy/monitoring/blackbox
  monitoring/blackbox -> 198.18.0.2 ICMP => deny no_rule EgressPolicy/monitoring/blackbox
  monitoring/blackbox -> 2001:db8:51::1 ICMP:EchoRequest => allow rule EgressPolicy/monitoring/blackbox 0
  monitoring/blackbox -> 198.51.100.7 80/TCP => deny no_rule EgressPolicy/monitoring/blackbox
  monitoring/blackbox -> kube-system/coredns 9153/TCP => allow rule EgressPolicy/monitoring/blackbox 1
  monitoring/blackbox -> kube-system/coredns 9153/UDP => deny no_rule EgressPolicy/monitoring/blackbox
  monitoring/blackbox -> data/primary 9153/TCP => deny no_rule EgressPolicy/monitoring/blackbox
`,
);
example(
  'a mesh stays inside, its gateway has a rule',
  [14],
  `
  payments/pay -> 8.8.8.8 443/TCP => deny limit ClusterEgressPolicy/mesh-stays-inside
  payments/pay -> 198.18.9.9 443/TCP => deny limit ClusterEgressPolicy/mesh-stays-inside
  payments/pay -> shop/cart 8080/TCP => allow not_isolated
  payments/pay -> 10.244.1.200 80/TCP => allow not_isolated
  payments/pay -> 8.8.4.4 80/TCP => allow not_isolated
  payments/pay -> 10.96.0.70 ICMP => allow not_isolated
  shop/orders -> 8.8.8.8 443/TCP => allow not_isolated
  istio-egress/gateway -> service:istio-system/istiod 15012/TCP => allow rule EgressPolicy/istio-egress/gateway 0
  istio-egress/gateway -> 8.8.8.8 443/TCP => deny no_rule EgressPolicy/istio-egress/gateway
`,
);
example(
  'node services select no pod',
  [15],
  `
  logging/shipper -> 8.8.8.8 443/TCP => allow not_isolated
  shop/orders -> 8.8.8.8 443/TCP => allow not_isolated
`,
);
