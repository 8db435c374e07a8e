// SPDX-License-Identifier: Apache-2.0
// What is said of objects that are right by themselves and make no sense together, and what is not said.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lintFiles } from '../../src/lint/lint.ts';

const pod = (name: string, app: string, more = '') =>
  `{apiVersion: v1, kind: Pod, metadata: {name: ${name}, namespace: shop, labels: {app: ${app}}}, spec: {${more}}}`;
const policy = (name: string, spec: string) =>
  `{apiVersion: postern.dev/v1alpha1, kind: EgressPolicy, metadata: {name: ${name}, namespace: shop}, spec: ${spec}}`;
const cluster = (name: string, spec: string) =>
  `{apiVersion: postern.dev/v1alpha1, kind: ClusterEgressPolicy, metadata: {name: ${name}}, spec: ${spec}}`;
const upstream = (name: string, spec: string) =>
  `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: ${name}, namespace: shop}, spec: ${spec}}`;
const service = (name: string, spec: string) =>
  `{apiVersion: v1, kind: Service, metadata: {name: ${name}, namespace: shop}, spec: ${spec}}`;

/** Codes with paths, but for what is not enforced yet. */
function told(...objects: string[]): string[] {
  return lintFiles([{ path: 'f', text: objects.join('\n---\n') }])
    .problems.filter(({ code }) => code !== 'not_yet_enforced')
    .map(({ code, path, severity }) => `${severity} ${code} ${path}`);
}

test('a policy that selects nobody, where the folder has pods that it could select', () => {
  const web = policy('a', '{podSelector: {matchLabels: {app: web}}}');
  assert.deepEqual(told(web), [], 'no pods: they are elsewhere');
  assert.deepEqual(told(web, pod('p', 'web')), []);
  assert.deepEqual(told(web, pod('p', 'api')), ['warning selects_nobody spec.podSelector']);
  assert.deepEqual(told(web, pod('p', 'web', 'hostNetwork: true')), ['warning selects_nobody spec.podSelector']);
  const other = '{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: elsewhere}}';
  assert.deepEqual(told(web, other), [], 'no pods of that namespace: they are elsewhere');
  const everywhere = cluster('a', '{subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}}');
  assert.deepEqual(told(everywhere, other), ['warning selects_nobody spec.subject']);
  assert.deepEqual(
    told(upstream('a', '{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}'), pod('p', 'api')),
    ['warning selects_nobody spec.podSelector'],
  );
});

test('names without a way to ask DNS', () => {
  const names = (more = '') => policy('a', `{egress: [{to: [{domainNames: [example.com]}]}${more}]}`);
  const missing = ['warning no_dns_rule spec.egress[0].to[0].domainNames'];
  assert.deepEqual(told(names()), missing);
  for (const rule of [
    '{to: [{entities: [DNS]}]}',
    '{to: [{entities: [Cluster]}]}',
    '{to: [{networks: [10.0.0.10/32]}], ports: [{protocol: UDP, port: 53}]}',
    '{to: [{services: [{namespace: kube-system, name: kube-dns}]}]}',
  ]) {
    assert.deepEqual(told(names(`, ${rule}`)), [], rule);
  }
  assert.deepEqual(told(names(', {to: [{networks: [10.0.0.10/32]}], ports: [{port: 443}]}')), missing);
  // Another policy on the same workload may allow it: a Grant on all, a NetworkPolicy; a Limit never does.
  const grant = (effect: string) =>
    cluster('dns', `{effect: ${effect}, subject: {namespaces: {}}, egress: [{to: [{entities: [DNS]}]}]}`);
  assert.deepEqual(told(names(), grant('Grant')), []);
  assert.deepEqual(told(names(), grant('Limit')), missing);
  assert.deepEqual(told(names(), pod('p', 'web'), grant('Grant')), []);
  assert.deepEqual(told(names(), pod('p', 'web'), upstream('b', '{podSelector: {}, egress: [{}]}')), []);
  assert.deepEqual(told(names(), pod('p', 'web'), upstream('b', '{podSelector: {}, policyTypes: [Egress]}')), missing);
});

const KUBE_DNS = [
  '{apiVersion: v1, kind: Service, metadata: {name: kube-dns, namespace: kube-system}, spec: {clusterIP: 198.18.96.10, ports: [{name: dns, protocol: UDP, port: 53, targetPort: 53}]}}',
  '{apiVersion: v1, kind: Pod, metadata: {name: coredns, namespace: kube-system, labels: {k8s-app: kube-dns}}, status: {podIP: 198.18.3.3}}',
];
const READY =
  '{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: d, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}, addressType: IPv4, ports: [{name: dns, protocol: UDP, port: 53}], endpoints: [{addresses: [198.18.3.3], targetRef: {kind: Pod, namespace: kube-system, name: coredns}}]}';

test('where the cluster has a resolver, names ask for a way to that one', () => {
  const names = (more: string) => policy('a', `{egress: [{to: [{domainNames: [example.com]}]}, ${more}]}`);
  const missing = ['warning no_dns_rule spec.egress[0].to[0].domainNames'];
  const of = (rule: string, ...more: string[]) => told(names(rule), pod('p', 'web'), ...KUBE_DNS, ...more);
  const udp = 'ports: [{protocol: UDP, port: 53}]';
  const elsewhere = `{to: [{networks: [198.18.7.7/32]}], ${udp}}`;
  assert.deepEqual(of(elsewhere, READY), missing);
  assert.deepEqual(of(elsewhere), [], 'nothing stands behind the resolver: by what rules say');
  assert.deepEqual(of('{to: [{entities: [DNS]}]}', READY), []);
  assert.deepEqual(of(`{to: [{networks: [198.18.3.0/24]}], ${udp}}`, READY), [], 'by the pod behind it');
  assert.deepEqual(of('{to: [{services: [{namespace: kube-system, name: kube-dns}]}]}', READY), []);
  const byLabel = (app: string) =>
    `{to: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: ${app}}}}}], ${udp}}`;
  assert.deepEqual(of(byLabel('kube-dns'), READY), []);
  assert.deepEqual(of(byLabel('coredns'), READY), missing, 'a selector that misses');
  // One of two that it selects.
  const asks = policy('b', '{podSelector: {matchLabels: {app: api}}, egress: [{to: [{entities: [DNS]}]}]}');
  const one = '{to: [{networks: [198.18.1.0/24]}]}';
  const { problems } = lintFiles([
    { path: 'f', text: [names(one), asks, pod('p', 'api'), pod('q', 'web'), ...KUBE_DNS, READY].join('\n---\n') },
  ]);
  assert.deepEqual(
    problems.filter(({ code }) => code === 'no_dns_rule').map(({ message }) => message),
    ['shop/q may not ask DNS, so it learns no address of these names'],
  );
});

test('services: not there, and not followed', () => {
  const uses = policy('a', '{egress: [{to: [{services: [{name: db}, {namespace: data, name: db}]}]}]}');
  assert.deepEqual(told(uses), [], 'no services: they are elsewhere');
  assert.deepEqual(told(uses, service('db', '{clusterIP: 198.18.0.1}')), []);
  assert.deepEqual(told(uses, service('web', '{clusterIP: 198.18.0.1}')), [
    'warning service_not_found spec.egress[0].to[0].services[0].name',
  ]);
  assert.deepEqual(told(uses, service('db', '{type: ExternalName, externalName: db.example.com}')), [
    'warning service_not_usable spec.egress[0].to[0].services[0].name',
  ]);
});

test('port names that no destination has', () => {
  const http = 'containers: [{name: c, ports: [{name: http, containerPort: 80}]}]';
  const uses = (port: string) =>
    policy('a', `{egress: [{to: [{pods: {podSelector: {matchLabels: {app: web}}}}], ports: [${port}]}]}`);
  assert.deepEqual(told(uses('{port: http}'), pod('p', 'web', http)), []);
  assert.deepEqual(told(uses('{port: htpp}'), pod('p', 'web', http)), [
    'warning port_not_found spec.egress[0].ports[0].port',
  ]);
  assert.deepEqual(told(uses('{port: http, protocol: UDP}'), pod('p', 'web', http)), [
    'warning port_not_found spec.egress[0].ports[0].port',
  ]);
  assert.deepEqual(told(uses('{port: htpp}'), pod('p', 'other', http)), [], 'no destination here: it is elsewhere');
  const named = policy('a', '{egress: [{to: [{services: [{name: db}]}], ports: [{port: sql}]}]}');
  assert.deepEqual(told(named, service('db', '{clusterIP: 198.18.0.1, ports: [{name: sql, port: 1}]}')), []);
  assert.deepEqual(told(named, service('db', '{clusterIP: 198.18.0.1, ports: [{name: x, port: 1}]}')), [
    'warning port_not_found spec.egress[0].ports[0].port',
  ]);
});

test('names that there is a better word for', () => {
  const names = (name: string) =>
    told(policy('a', `{egress: [{to: [{entities: [DNS]}]}, {to: [{domainNames: ["${name}"]}]}]}`));
  assert.deepEqual(names('db.data.svc.cluster.local'), ['warning cluster_name spec.egress[1].to[0].domainNames[0]']);
  assert.deepEqual(names('*.com'), ['warning wide_name spec.egress[1].to[0].domainNames[0]']);
  assert.deepEqual(names('*.example.com'), []);
});

test('a limit of the enforcement is told of its object', () => {
  const limits = Array.from({ length: 9 }, (_, i) =>
    policy(`l${i}`, '{effect: Limit, egress: [{to: [{entities: [All]}]}]}'),
  );
  const { problems } = lintFiles([{ path: 'f', text: [pod('p', 'web'), ...limits].join('\n---\n') }]);
  assert.equal(problems.length, 1);
  assert.match(problems[0]?.message ?? '', /8|Limit/);
});

test('node services that are cut off from what a node lives on', () => {
  const units = (egress: string, more = '') =>
    cluster('a', `{subject: {nodeServices: {units: [kubelet.service]}}, ${more}egress: ${egress}}`);
  const cut = 'warning node_service_cut_off spec.subject.nodeServices.units';
  assert.deepEqual(told(units('[]')), [cut, cut]);
  assert.deepEqual(told(units('[{to: [{entities: [DNS]}]}]')), [cut]);
  assert.deepEqual(told(units('[{to: [{entities: [DNS, KubeAPIServer]}]}]')), []);
  assert.deepEqual(told(units('[]', 'effect: Grant, ')), []);
  const beside = cluster(
    'b',
    '{effect: Grant, subject: {nodeServices: {units: [kubelet.service]}}, egress: [{to: [{entities: [Cluster]}]}]}',
  );
  assert.deepEqual(told(units('[]'), beside), []);
  assert.deepEqual(told(units('[]', 'effect: Limit, '), beside), [cut, cut]);
});

test('an address that two have', () => {
  const at = (name: string, ip: string, more = '') =>
    `{apiVersion: v1, kind: Pod, metadata: {name: ${name}, namespace: shop}, spec: {${more}}, status: ${ip}}`;
  const twice = ['warning address_twice status'];
  assert.deepEqual(told(at('a', '{podIP: 198.18.0.1}'), at('b', '{podIP: 198.18.0.2}')), []);
  assert.deepEqual(told(at('a', '{podIP: 198.18.0.1}'), at('b', '{podIPs: [{ip: 198.18.0.1}]}')), twice);
  assert.deepEqual(told(at('a', '{podIP: "fd00::1"}'), at('b', '{podIP: "fd00:0::1"}')), twice);
  assert.deepEqual(told(service('s', '{clusterIP: 198.18.0.1}'), at('a', '{podIP: 198.18.0.1}')), twice);
  assert.deepEqual(
    told(at('a', '{podIP: 198.18.0.1}', 'hostNetwork: true'), at('b', '{podIP: 198.18.0.1}', 'hostNetwork: true')),
    [],
    "a hostNetwork pod's address is its node's",
  );
  assert.deepEqual(
    told(at('a', '{podIP: 198.18.0.1, phase: Succeeded}'), at('b', '{podIP: 198.18.0.1}')),
    [],
    'a pod that has ended gave its address back',
  );
});
