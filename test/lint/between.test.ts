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
  assert.deepEqual(
    problems.map(({ object, line }) => [object, line > 0]),
    [
      ['Pod/shop/p', true],
      ['EgressPolicy/shop/l8', true],
    ],
  );
  assert.match(problems[0]?.message ?? '', /9 Limits, and may have 8: .*EgressPolicy\/shop\/l0, /);
  assert.match(problems[1]?.message ?? '', /ninth Limit or later on shop\/p/);
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

const in_ = (namespace: string, name: string, labels: string, spec = '') =>
  `{apiVersion: v1, kind: Pod, metadata: {name: ${name}, namespace: ${namespace}, labels: {${labels}}}, spec: {${spec}}}`;

test('cluster DNS and hostNetwork pods that are cut off from what they live on', () => {
  const coredns = in_('kube-system', 'coredns', 'k8s-app: kube-dns');
  const cut = (field: string) => [`warning cut_off spec.${field}`, `warning cut_off spec.${field}`];
  const np = (egress: string) =>
    `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: np, namespace: kube-system}, spec: {podSelector: {}, policyTypes: [Egress], egress: ${egress}}}`;
  assert.deepEqual(told(np('[]'), coredns), cut('podSelector'));
  assert.deepEqual(told(np('[]'), in_('kube-system', 'other', 'app: x')), [], 'only what others live on');
  assert.deepEqual(told(np('[{}]'), coredns), []);
  assert.deepEqual(told(np('[{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}]'), coredns), []);
  const all = (more: string) => cluster('c', `{subject: {namespaces: {}}, ${more}}`);
  assert.deepEqual(told(all('effect: Grant, egress: []'), coredns), [], 'it takes nothing from anybody');
  assert.deepEqual(told(all('egress: [{to: [{entities: [DNS]}]}]'), coredns), ['warning cut_off spec.subject']);
  assert.deepEqual(told(all('egress: [{to: [{entities: [DNS, KubeAPIServer]}]}]'), coredns), []);
  assert.deepEqual(told(np('[]'), all('effect: Grant, egress: [{to: [{entities: [Cluster]}]}]'), coredns), []);
  // A Limit is helped by nobody.
  const guard = all('effect: Limit, egress: [{to: [{entities: [All], except: [KubeAPIServer]}]}]');
  const helped = all('effect: Grant, egress: [{to: [{entities: [KubeAPIServer]}]}]').replace('{name: c}', '{name: d}');
  assert.deepEqual(
    told(guard, helped, coredns).filter((one) => one.includes('cut_off')),
    ['warning cut_off spec.subject'],
  );
  // hostNetwork pods, where a policy holds them.
  const host = in_('shop', 'shipper', 'app: shipper', 'hostNetwork: true');
  const shipper = (hostNetwork: string, egress: string) =>
    policy('s', `{hostNetwork: ${hostNetwork}, egress: ${egress}}`);
  assert.deepEqual(told(shipper('Include', '[]'), host), cut('podSelector'));
  assert.deepEqual(told(shipper('Include', '[{to: [{entities: [DNS, KubeAPIServer]}]}]'), host), []);
  assert.deepEqual(told(shipper('Exclude', '[]'), host), ['warning selects_nobody spec.podSelector']);
  const { problems } = lintFiles([{ path: 'f', text: [np('[]'), coredns].join('\n---\n') }]);
  assert.deepEqual(
    problems.map(({ message, advice }) => `${message}; ${advice}`)[1],
    'nothing here lets kube-system/coredns, which answers for the whole cluster, reach DNS; add a rule to: [{entities: [DNS]}], if it needs that',
  );
});

test('a rule of which a Limit leaves nothing', () => {
  const of = (rule: string, limit: string, more: readonly string[] = [pod('p', 'web')], setting = '') =>
    told(
      policy('a', `{egress: [{to: [{networks: [198.18.0.0/15]}]}, ${rule}]}`),
      policy('l', `{effect: Limit, ${setting}egress: [${limit}]}`),
      ...more,
    ).filter((one) => one.includes('voided_by_limit spec.egress[1]'));
  const voided = ['warning voided_by_limit spec.egress[1]'];
  const cases: [rule: string, limit: string, isVoided: boolean][] = [
    ['{to: [{networks: [203.0.113.0/24]}]}', '{to: [{networks: [192.0.2.0/24]}]}', true],
    ['{to: [{networks: [203.0.113.0/24]}]}', '{to: [{networks: [203.0.113.7/32]}]}', false],
    ['{to: [{networks: [203.0.113.0/24]}]}', '{to: [{networks: [0.0.0.0/0], except: [203.0.0.0/16]}]}', true],
    ['{to: [{networks: [203.0.0.0/16]}]}', '{to: [{networks: [0.0.0.0/0], except: [203.0.113.0/24]}]}', false],
    ['{to: [{networks: ["2001:db8::/32"]}]}', '{to: [{networks: [0.0.0.0/0]}]}', true],
    [
      '{to: [{networks: [203.0.113.0/24]}], ports: [{port: 80}]}',
      '{to: [{entities: [All]}], ports: [{port: 443}]}',
      true,
    ],
    [
      '{to: [{networks: [203.0.113.0/24]}], ports: [{port: 80, endPort: 500}]}',
      '{to: [{entities: [All]}], ports: [{port: 443}]}',
      false,
    ],
    [
      '{to: [{networks: [203.0.113.0/24]}], ports: [{port: 80}]}',
      '{to: [{entities: [All]}], ports: [{protocol: UDP}]}',
      true,
    ],
    [
      '{to: [{networks: [203.0.113.0/24]}], ports: [{protocol: ICMP}]}',
      '{to: [{entities: [All]}], ports: [{protocol: ICMP, icmpType: EchoRequest}]}',
      false,
    ],
    [
      '{to: [{networks: [203.0.113.0/24]}], ports: [{protocol: ICMP, icmpType: EchoReply}]}',
      '{to: [{entities: [All]}], ports: [{protocol: ICMP, icmpType: EchoRequest}]}',
      true,
    ],
    ['{to: [{entities: [World]}]}', '{to: [{entities: [Cluster]}]}', true],
    ['{to: [{entities: [Internet, DNS]}]}', '{to: [{entities: [Cluster]}]}', false],
    ['{to: [{entities: [KubeAPIServer]}]}', '{to: [{entities: [All], except: [KubeAPIServer]}]}', true],
    ['{to: [{networks: [169.254.169.254/32]}]}', '{to: [{entities: [All], except: [169.254.169.254/32]}]}', true],
    ['{to: [{networks: [10.1.0.0/16]}]}', '{to: [{entities: [Internet]}]}', true],
    ['{to: [{networks: [10.1.0.0/16]}]}', '{to: [{entities: [World]}]}', false],
    ['{to: [{pods: {podSelector: {}}}]}', '{to: [{entities: [World]}]}', true],
    ['{to: [{pods: {podSelector: {}}}]}', '{to: [{entities: [Cluster]}]}', false],
    [
      '{to: [{pods: {podSelector: {matchLabels: {a: b}}}}]}',
      '{to: [{pods: {podSelector: {matchLabels: {a: c}}}}]}',
      true,
    ],
    [
      '{to: [{pods: {podSelector: {matchLabels: {a: b}}}}]}',
      '{to: [{pods: {podSelector: {matchLabels: {x: c}}}}]}',
      false,
    ],
    ['{to: [{nodes: {}}]}', '{to: [{pods: {podSelector: {}}}]}', true],
    ['{to: [{nodes: {}}]}', '{to: [{entities: [Host]}]}', false],
    ['{to: [{services: [{name: db}]}]}', '{to: [{entities: [Host, Internet]}]}', true],
    ['{to: [{services: [{name: db}]}]}', '{to: [{pods: {podSelector: {}}}]}', false],
    ['{to: [{domainNames: [a.example.com]}]}', '{to: [{entities: [Cluster]}]}', false],
  ];
  for (const [rule, limit, isVoided] of cases)
    assert.deepEqual(of(rule, limit), isVoided ? voided : [], `${rule} ${limit}`);
  const [rule, limit] = ['{to: [{entities: [World]}]}', '{to: [{entities: [Cluster]}]}'];
  assert.deepEqual(of(rule, limit, []), [], 'no pods: whom it holds is not known');
  assert.deepEqual(of(rule, limit, [pod('p', 'web')], 'mode: Audit, '), [], 'it takes nothing away yet');
  const some = 'podSelector: {matchLabels: {app: api}}, ';
  assert.deepEqual(of(rule, limit, [pod('p', 'web'), pod('q', 'api')], some), [], 'it is not on all of them');
});

test('a rule that names one IP family, where the destination has two', () => {
  const both = (name: string) =>
    `{apiVersion: v1, kind: Pod, metadata: {name: ${name}, namespace: shop, labels: {app: ${name}}}, status: {podIPs: [{ip: 198.18.0.7}, {ip: "fd00:18::7"}]}}`;
  const node =
    '{apiVersion: v1, kind: Node, metadata: {name: n}, status: {addresses: [{type: InternalIP, address: 198.18.9.1}, {type: InternalIP, address: "fd00:9::1"}]}}';
  const dual =
    '{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {clusterIPs: [198.18.96.1, "fd00:96::1"], ports: [{port: 5432}]}}';
  const of = (egress: string, ...more: string[]) =>
    told(policy('a', `{podSelector: {matchLabels: {app: web}}, egress: ${egress}}`), pod('p', 'web'), ...more);
  const one = ['warning one_family spec.egress[0]'];
  const v4 = '{to: [{networks: [198.18.0.0/15]}]}';
  assert.deepEqual(of(`[${v4}]`, both('db')), one);
  assert.deepEqual(of(`[${v4}]`, node), one);
  assert.deepEqual(of('[{to: [{networks: ["fd00::/8"]}]}]', both('db')), one);
  assert.deepEqual(of('[{to: [{networks: [0.0.0.0/0]}], ports: [{port: 443}]}]', both('db')), one);
  assert.deepEqual(of('[{to: [{networks: [0.0.0.0/0, "::/0"]}], ports: [{port: 443}]}]', both('db')), []);
  assert.deepEqual(of(`[${v4}, {to: [{networks: ["fd00::/8"]}]}]`, both('db')), [], 'the other rule has it');
  assert.deepEqual(of(`[${v4}, {to: [{pods: {podSelector: {}}}]}]`, both('db')), [], 'pods are meant by both');
  assert.deepEqual(of('[{to: [{networks: [198.19.0.0/16]}]}]', both('db')), [], 'another destination');
  assert.deepEqual(of(`[${v4}]`), [], 'nobody has two');
  assert.deepEqual(
    of('[{to: [{networks: [198.18.0.7/32], except: []}], ports: [{port: http}]}]', both('db')).length,
    1,
  );
  // A denial of one family lets the other get past.
  const cnp = (networks: string) =>
    `{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: c}, spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: ${networks}}]}]}}`;
  assert.deepEqual(told(cnp('[0.0.0.0/0]'), pod('p', 'web'), both('db')), one);
  assert.deepEqual(told(cnp('[0.0.0.0/0, "::/0"]'), pod('p', 'web'), both('db')), []);
  assert.deepEqual(told(cnp('[0.0.0.0/0]').replace('Deny', 'Pass'), pod('p', 'web'), both('db')), []);
  // Of a Service its own ports, which its endpoints decide: none is there.
  assert.deepEqual(of(`[${v4}]`, dual), []);
  const { problems } = lintFiles([
    {
      path: 'f',
      text: [
        policy('a', `{podSelector: {matchLabels: {app: web}}, egress: [${v4}]}`),
        pod('p', 'web'),
        both('db'),
      ].join('\n---\n'),
    },
  ]);
  assert.equal(
    problems[0]?.message,
    'Pod shop/db is allowed at 198.18.0.7 and not at fd00:18::7: the rule names one IP family only',
  );
});

test('names that may be connected to, but not asked for', () => {
  const dns = '{to: [{entities: [DNS]}]}';
  const names = (list: string) => policy('a', `{egress: [${dns}, {to: [{domainNames: [${list}]}]}]}`);
  const only = (list: string) => `dns: {queries: AllowedNamesOnly, names: [${list}]}`;
  const all = `egress: [${dns}, {to: [{entities: [World]}]}]`;
  const limit = (list: string) => cluster('l', `{effect: Limit, subject: {namespaces: {}}, ${only(list)}, ${all}}`);
  const web = pod('p', 'web');
  const missing = ['warning name_not_asked spec.egress[1].to[0].domainNames'];
  const of = (...objects: string[]) => told(...objects).filter((one) => one.includes('name_not_asked'));
  assert.deepEqual(of(web, names('a.example, "*.b.example"')), []);
  assert.deepEqual(of(web, names('a.example'), policy('b', `{${only('x.example')}}`)), [], 'one union');
  assert.deepEqual(of(web, names('a.example'), limit('x.example')), missing);
  for (const [listed, asked, isTold] of [
    ['a.example', 'a.example', false],
    ['"*.example"', 'a.example', false],
    ['"*.b.example"', '"*.b.example"', false],
    ['"*.example"', '"*.b.example"', false],
    ['"*.c.b.example"', '"*.b.example"', true],
    ['b.example', '"*.b.example"', true],
    ['x.b.example', '"*.b.example"', true],
    ['"*.b.example"', 'b.example', true],
    ['x.example', 'db.data.svc.cluster.local', false],
  ] as const) {
    assert.deepEqual(of(web, names(asked), limit(listed)), isTold ? missing : [], `${listed} ${asked}`);
  }
  assert.deepEqual(of(names('a.example'), limit('x.example')), [], 'no pods: they are elsewhere');
  const accept =
    '{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: c}, spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Accept, to: [{domainNames: [c.example]}]}]}}';
  assert.deepEqual(of(web, accept, policy('b', `{${only('x.example')}}`)), [
    'warning name_not_asked spec.egress[0].to[0].domainNames',
  ]);
});
