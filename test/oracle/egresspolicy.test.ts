// SPDX-License-Identifier: Apache-2.0
// Does the oracle read EgressPolicy and ClusterEgressPolicy as api.md has them, where the fifteen examples are silent?
import { test } from 'node:test';
import { checkCases, documents } from './case.ts';
import type { Host } from './kubernetes.ts';

const CLUSTER = documents(`
{kind: Namespace, metadata: {name: a, labels: {team: x}}}
---
{kind: Namespace, metadata: {name: b}}
---
{kind: Node, metadata: {name: n1, labels: {zone: z1}}, spec: {podCIDR: 10.244.1.0/24}, status: {addresses: [{type: InternalIP, address: 198.18.0.1}]}}
---
{kind: Node, metadata: {name: n2, labels: {zone: z2}}, status: {addresses: [{type: InternalIP, address: 198.18.0.2}, {type: InternalDNS, address: n2.example}]}}
---
{kind: Pod, metadata: {name: p, namespace: a, labels: {app: p}}, spec: {nodeName: n1}, status: {podIP: 10.244.1.1}}
---
{kind: Pod, metadata: {name: q, namespace: b, labels: {app: q}}, spec: {nodeName: n2}, status: {podIP: 10.244.2.1}}
---
{kind: Pod, metadata: {name: lost, namespace: a, labels: {app: lost}}, status: {podIP: 10.244.3.1}}
---
{kind: Pod, metadata: {name: h, namespace: b, labels: {app: h}}, spec: {nodeName: n2, hostNetwork: true}, status: {podIP: 198.18.0.2}}
---
kind: Service
metadata: {name: two, namespace: b}
spec: {clusterIPs: [10.96.0.1, "fd00:96::1"], ports: [{name: one, port: 80, nodePort: 30001}, {name: other, port: 81}]}
---
kind: EndpointSlice
metadata: {name: two-1, namespace: b, labels: {kubernetes.io/service-name: two}}
ports: [{name: one, port: 8080}, {name: other, port: 8081}]
endpoints: [{addresses: [10.244.2.1], targetRef: {kind: Pod, namespace: b, name: q}}, {addresses: [198.18.0.2], targetRef: {kind: Pod, namespace: b, name: h}}]
---
kind: Service
metadata: {name: foreign, namespace: b}
spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}
---
kind: EndpointSlice
metadata: {name: foreign-1, namespace: b, labels: {kubernetes.io/service-name: foreign}}
ports: [{port: 80}]
endpoints: [{addresses: [10.244.1.1], targetRef: {kind: Pod, namespace: a, name: p}}, {addresses: [203.0.113.1]}, {addresses: [8.8.8.8], targetRef: {kind: Pod, namespace: b, name: q}}]
---
{kind: Service, metadata: {name: headless, namespace: b}, spec: {clusterIP: None, ports: [{port: 80}]}}
---
kind: EndpointSlice
metadata: {name: headless-1, namespace: b, labels: {kubernetes.io/service-name: headless}}
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.2.1], targetRef: {kind: Pod, namespace: b, name: q}}]
---
{kind: Service, metadata: {name: elsewhere, namespace: b}, spec: {type: ExternalName, externalName: example.com, ports: [{port: 80}]}}
`);
const HOST: Host = { node: null, addresses: ['198.18.7.7'], resolvers: ['169.254.20.10'] };

function policies(title: string, texts: readonly string[], cases: string, host: Host = HOST): void {
  test(title, () => checkCases([...CLUSTER, ...texts.flatMap(documents)], host, cases));
}
const inA = (name: string, spec: string) =>
  `{kind: EgressPolicy, metadata: {name: ${name}, namespace: a}, spec: ${spec}}`;
const cluster = (name: string, spec: string) => `{kind: ClusterEgressPolicy, metadata: {name: ${name}}, spec: ${spec}}`;

policies(
  'no egress allows nothing',
  [inA('none', '{}')],
  `
  a/p -> 192.0.2.1 1/TCP => deny no_rule EgressPolicy/a/none
  b/q -> 192.0.2.1 1/TCP => allow not_isolated
`,
);
policies(
  'services: ports mean the Service’s own, by name; hostNetwork pods are among them',
  [inA('s', '{egress: [{to: [{services: [{namespace: b, name: two}]}], ports: [{port: one}]}]}')],
  `
  a/p -> service:b/two 80/TCP => allow rule EgressPolicy/a/s 0
  a/p -> fd00:96::1 80/TCP => deny no_ready_endpoint
  a/p -> 10.96.0.1 81/TCP => deny no_rule EgressPolicy/a/s
  a/p -> 10.96.0.1 80/UDP => deny no_rule EgressPolicy/a/s
  a/p -> 10.96.0.1 ICMP => deny no_rule EgressPolicy/a/s
  a/p -> b/q 8080/TCP => allow rule EgressPolicy/a/s 0
  a/p -> b/q 8081/TCP => deny no_rule EgressPolicy/a/s
  a/p -> b/q 80/TCP => deny no_rule EgressPolicy/a/s
  a/p -> 198.18.0.2 8080/TCP => allow rule EgressPolicy/a/s 0
  a/p -> 198.18.0.1 30001/TCP => allow rule EgressPolicy/a/s 0
  a/p -> 198.18.0.1 30001/UDP => deny no_rule EgressPolicy/a/s
`,
);
policies(
  'services: a range of its own ports; no namespace means the own one',
  [
    inA(
      's',
      '{egress: [{to: [{services: [{namespace: b, name: two}]}], ports: [{port: 81, endPort: 90}]}, {to: [{services: [{name: two}]}]}]}',
    ),
  ],
  `
  a/p -> service:b/two 81/TCP => allow rule EgressPolicy/a/s 0
  a/p -> service:b/two 80/TCP => deny no_rule EgressPolicy/a/s
`,
);
policies(
  'services: endpoints that are no pods of the namespace are not followed, and so deny the Service',
  [
    inA(
      's',
      '{egress: [{to: [{services: [{namespace: b, name: foreign}, {namespace: b, name: elsewhere}, {namespace: b, name: missing}]}]}]}',
    ),
  ],
  `
  a/lost -> 10.244.1.1 80/TCP => deny no_rule EgressPolicy/a/s
  a/lost -> 203.0.113.1 80/TCP => deny no_rule EgressPolicy/a/s
  a/lost -> 8.8.8.8 80/TCP => deny no_rule EgressPolicy/a/s
  a/lost -> service:b/foreign 80/TCP => deny no_rule EgressPolicy/a/s
  a/lost -> service:b/elsewhere 80/TCP => deny no_address
  a/lost -> service:b/missing 80/TCP => deny no_address
`,
);
policies(
  'services: a headless one is its pods',
  [inA('s', '{egress: [{to: [{services: [{namespace: b, name: headless}]}], ports: [{port: 80}]}]}')],
  `
  a/p -> b/q 8080/TCP => allow rule EgressPolicy/a/s 0
  a/p -> b/q 80/TCP => deny no_rule EgressPolicy/a/s
  a/p -> service:b/headless 80/TCP => deny no_address
`,
);
policies(
  'a Service is told by its first endpoint, or the first that is denied: addresses as bytes, v4 before public v6',
  [
    inA('s', '{podSelector: {matchLabels: {app: p}}, egress: [{to: [{nodes: {}}]}, {to: [{namespaces: {}}]}]}'),
    inA('t', '{podSelector: {matchLabels: {app: lost}}, egress: [{to: [{nodes: {}}]}]}'),
  ],
  `
  a/p -> service:b/two 80/TCP => allow rule EgressPolicy/a/s 1
  a/lost -> service:b/two 80/TCP => deny no_rule EgressPolicy/a/t
`,
);
policies(
  'networks over the Service’s address count for a pod, not for a hostNetwork workload',
  [
    cluster(
      'c',
      '{subject: {namespaces: {}}, hostNetwork: Include, egress: [{to: [{networks: [10.96.0.0/16, 198.18.0.0/24]}], ports: [{port: 80}, {port: 30001}]}]}',
    ),
  ],
  `
  a/p -> service:b/two 80/TCP => allow rule ClusterEgressPolicy/c 0
  a/p -> 198.18.0.1 30001/TCP => allow rule ClusterEgressPolicy/c 0
  b/h -> service:b/two 80/TCP => deny no_rule ClusterEgressPolicy/c
  b/h -> 10.96.0.1 82/TCP => deny no_rule ClusterEgressPolicy/c
`,
);
policies(
  'nodes by label; networks less their except; pods of the own namespace; other namespaces',
  [
    inA(
      'm',
      '{egress: [{to: [{nodes: {matchLabels: {zone: z2}}}], ports: [{port: 1}]}, {to: [{networks: [10.0.0.0/8, "fd00::/8"], except: [10.1.0.0/16]}], ports: [{port: 2}]}, {to: [{pods: {podSelector: {}}}], ports: [{port: 3}]}, {to: [{namespaces: {matchExpressions: [{key: team, operator: DoesNotExist}]}}], ports: [{port: 4}]}]}',
    ),
  ],
  `
  a/p -> 198.18.0.2 1/TCP => allow rule EgressPolicy/a/m 0
  a/p -> 198.18.0.1 1/TCP => deny no_rule EgressPolicy/a/m
  a/p -> 10.2.0.0 2/TCP => allow rule EgressPolicy/a/m 1
  a/p -> 10.1.255.255 2/TCP => deny no_rule EgressPolicy/a/m
  a/p -> fdff::1 2/TCP => allow rule EgressPolicy/a/m 1
  a/p -> b/q 2/TCP => allow rule EgressPolicy/a/m 1
  a/p -> a/lost 3/TCP => allow rule EgressPolicy/a/m 2
  a/p -> b/q 3/TCP => deny no_rule EgressPolicy/a/m
  a/p -> b/q 4/TCP => allow rule EgressPolicy/a/m 3
  a/p -> a/lost 4/TCP => deny no_rule EgressPolicy/a/m
`,
);
policies(
  'Host is the workload’s own node, or this machine for a pod that names none',
  [cluster('h', '{subject: {namespaces: {}}, egress: [{to: [{entities: [Host]}]}]}')],
  `
  a/p -> 198.18.0.1 1/TCP => allow rule ClusterEgressPolicy/h 0
  a/p -> 198.18.0.2 1/TCP => deny no_rule ClusterEgressPolicy/h
  a/p -> 198.18.7.7 1/TCP => deny no_rule ClusterEgressPolicy/h
  a/lost -> 198.18.7.7 1/TCP => allow rule ClusterEgressPolicy/h 0
  a/lost -> 198.18.0.1 1/TCP => deny no_rule ClusterEgressPolicy/h
`,
);
policies(
  'Host on a node that is known',
  [cluster('h', '{subject: {namespaces: {}}, egress: [{to: [{entities: [Host]}]}]}')],
  `
  b/q -> 198.18.7.7 1/TCP => allow rule ClusterEgressPolicy/h 0
  a/p -> 198.18.7.7 1/TCP => deny no_rule ClusterEgressPolicy/h
  a/lost -> 198.18.7.7 1/TCP => deny no_rule ClusterEgressPolicy/h
`,
  { ...HOST, node: 'n2' },
);
policies(
  'World is all but the cluster, the own node, and what is no place in the world',
  [inA('w', '{egress: [{to: [{entities: [World]}]}]}')],
  `
  a/p -> 192.168.0.1 1/TCP => allow rule EgressPolicy/a/w 0
  a/p -> 0.0.0.1 1/TCP => allow rule EgressPolicy/a/w 0
  a/p -> 0.0.0.0 1/TCP => allow loopback
  a/p -> 255.255.255.254 1/UDP => allow rule EgressPolicy/a/w 0
  a/p -> 255.255.255.255 1/UDP => deny no_rule EgressPolicy/a/w
  a/p -> 169.254.20.10 53/UDP => deny no_rule EgressPolicy/a/w
  a/p -> 239.1.1.1 1/UDP => deny no_rule EgressPolicy/a/w
  a/p -> ff02::1 1/UDP => deny no_rule EgressPolicy/a/w
  a/p -> fe80::1 1/UDP => deny no_rule EgressPolicy/a/w
  a/p -> fec0::1 1/UDP => allow rule EgressPolicy/a/w 0
  a/p -> 10.244.1.77 1/TCP => deny no_rule EgressPolicy/a/w
  a/p -> 10.96.0.1 9/TCP => deny no_rule EgressPolicy/a/w
  a/p -> 198.18.0.2 1/TCP => deny no_rule EgressPolicy/a/w
  a/p -> 198.18.7.7 1/TCP => allow rule EgressPolicy/a/w 0
  a/lost -> 198.18.7.7 1/TCP => deny no_rule EgressPolicy/a/w
`,
);
policies(
  'DNS is its resolvers on port 53; in an except it takes away just that',
  [inA('d', '{egress: [{to: [{entities: [DNS]}]}, {to: [{entities: [All], except: [DNS, Host, Cluster]}]}]}')],
  `
  a/p -> 169.254.20.10 53/UDP => allow rule EgressPolicy/a/d 0
  a/p -> 169.254.20.10 54/UDP => allow rule EgressPolicy/a/d 1
  a/p -> 169.254.20.10 53/SCTP => allow rule EgressPolicy/a/d 1
  a/p -> 198.18.0.1 1/TCP => deny no_rule EgressPolicy/a/d
  a/p -> b/q 1/TCP => deny no_rule EgressPolicy/a/d
`,
);
policies(
  'a rule with tls.serverName Match or via allows nothing, whatever name led to the address',
  [
    inA(
      't',
      '{egress: [{to: [{domainNames: [example.com]}], tls: {serverName: Match}, ports: [{port: 1}]}, {to: [{networks: [0.0.0.0/0]}], via: {gateway: g}}, {to: [{domainNames: [example.com]}, {networks: [192.0.2.0/24]}], tls: {serverName: Ignore}}]}',
    ),
  ],
  `
  a/p -> 192.0.2.1 1/TCP => allow rule EgressPolicy/a/t 2
  a/p -> 192.0.3.1 1/TCP => deny no_rule EgressPolicy/a/t
  a/p -> 192.0.3.1(example.com) 1/TCP => allow rule EgressPolicy/a/t 2
`,
);
policies(
  'domainNames: exact, wildcards of one or more whole labels, case, a final dot, U-labels; with ports',
  [
    inA(
      'd',
      '{egress: [{to: [{domainNames: [Api.Example.com., "*.example.org"]}], ports: [{port: 443}, {protocol: ICMP}]}, {to: [{domainNames: ["*.BÜCHER.example"]}]}]}',
    ),
  ],
  `
  a/p -> 192.0.2.1(api.example.com) 443/TCP => allow rule EgressPolicy/a/d 0
  a/p -> 192.0.2.1(x.example,API.example.COM.) 443/TCP => allow rule EgressPolicy/a/d 0
  a/p -> 192.0.2.1(api.example.com) 444/TCP => deny no_rule EgressPolicy/a/d
  a/p -> 192.0.2.1(api.example.com) 443/UDP => deny no_rule EgressPolicy/a/d
  a/p -> 192.0.2.1(api.example.com) ICMP:EchoRequest => allow rule EgressPolicy/a/d 0
  a/p -> 192.0.2.1(www.api.example.com) 443/TCP => deny no_rule EgressPolicy/a/d
  a/p -> 192.0.2.1(www.example.org) 443/TCP => allow rule EgressPolicy/a/d 0
  a/p -> 192.0.2.1(a.b.example.org) 443/TCP => allow rule EgressPolicy/a/d 0
  a/p -> 192.0.2.1(example.org) 443/TCP => deny no_rule EgressPolicy/a/d
  a/p -> 192.0.2.1(notexample.org) 443/TCP => deny no_rule EgressPolicy/a/d
  a/p -> 192.0.2.1(www.xn--bcher-kva.example) 1/TCP => allow rule EgressPolicy/a/d 1
  a/p -> 192.0.2.1 443/TCP => deny no_rule EgressPolicy/a/d
`,
);
policies(
  'names lead to addresses of World, unless that very policy says answers: Any',
  [
    inA('any', '{dns: {answers: Any}, egress: [{to: [{domainNames: [any.example]}]}]}'),
    inA('world', '{egress: [{to: [{domainNames: ["*.example"]}]}]}'),
  ],
  `
  a/p -> 192.0.2.1(any.example) 1/TCP => allow rule EgressPolicy/a/any 0
  a/p -> 192.0.2.1(other.example) 1/TCP => allow rule EgressPolicy/a/world 0
  a/p -> b/q(any.example) 1/TCP => allow rule EgressPolicy/a/any 0
  a/p -> b/q(other.example) 1/TCP => deny no_rule EgressPolicy/a/any
  a/p -> 169.254.169.254(any.example) 1/TCP => allow rule EgressPolicy/a/any 0
  a/p -> 169.254.169.254(other.example) 1/TCP => deny no_rule EgressPolicy/a/any
`,
);
policies(
  'a Limit by name holds whoever allows; a Grant by name adds',
  [
    inA('g', '{effect: Grant, egress: [{to: [{entities: [World]}]}]}'),
    inA(
      'l',
      '{effect: Limit, egress: [{to: [{domainNames: [a.example]}], ports: [{port: 1}]}, {to: [{networks: [192.0.2.0/24]}]}]}',
    ),
  ],
  `
  a/p -> 192.0.2.1 1/TCP => allow rule EgressPolicy/a/g 0
  a/p -> 192.0.3.1 1/TCP => deny limit EgressPolicy/a/l
  a/p -> 192.0.3.1(a.example) 1/TCP => allow rule EgressPolicy/a/g 0
  a/p -> 192.0.3.1(a.example) 2/TCP => deny limit EgressPolicy/a/l
`,
);
policies(
  'each Limit needs a rule; the first that has none is told; a Limit comes before what allows',
  [
    inA('allow', '{effect: Grant, egress: [{to: [{entities: [All]}]}]}'),
    inA('l1', '{effect: Limit, egress: [{to: [{networks: [192.0.2.0/24]}]}]}'),
    inA('l2', '{effect: Limit, egress: [{to: [{entities: [All]}], ports: [{port: 1}]}]}'),
  ],
  `
  a/p -> 192.0.2.1 1/TCP => allow rule EgressPolicy/a/allow 0
  a/p -> 192.0.2.1 2/TCP => deny limit EgressPolicy/a/l2
  a/p -> 192.0.3.1 1/TCP => deny limit EgressPolicy/a/l1
  a/p -> 192.0.3.1 2/TCP => deny limit EgressPolicy/a/l1
  a/p -> 10.244.1.1 2/TCP => allow self
`,
);
policies(
  'an Audit Limit tightens in shadow alone; a denial by what is enforced is told by that',
  [
    inA('allow', '{egress: [{to: [{networks: [192.0.2.0/24]}]}]}'),
    cluster(
      'tight',
      '{effect: Limit, mode: Audit, subject: {namespaces: {}}, egress: [{to: [{entities: [All]}], ports: [{port: 1}]}]}',
    ),
    inA('widen', '{mode: Audit, egress: [{to: [{entities: [All]}]}]}'),
  ],
  `
  a/p -> 192.0.2.1 1/TCP => allow rule EgressPolicy/a/allow 0
  a/p -> 192.0.2.1 2/TCP => audit limit ClusterEgressPolicy/tight
  a/p -> 192.0.3.1 1/TCP => deny no_rule EgressPolicy/a/allow
  a/p -> 10.244.1.1 2/TCP => allow self
  b/q -> 192.0.2.1 2/TCP => audit limit ClusterEgressPolicy/tight
  b/q -> 192.0.2.1 1/TCP => allow not_isolated
`,
);
policies(
  'a subject by pods, less its except',
  [
    cluster(
      's',
      '{subject: {pods: {namespaceSelector: {}, podSelector: {matchExpressions: [{key: app, operator: Exists}]}}, except: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: p}}}}, {namespaces: {matchLabels: {kubernetes.io/metadata.name: b}}}]}}',
    ),
  ],
  `
  a/lost -> 192.0.2.1 1/TCP => deny no_rule ClusterEgressPolicy/s
  a/p -> 192.0.2.1 1/TCP => allow not_isolated
  b/q -> 192.0.2.1 1/TCP => allow not_isolated
`,
);
policies(
  'kinds are ordered by name, then namespace, name, index',
  [
    '{kind: NetworkPolicy, metadata: {name: a, namespace: a}, spec: {egress: [{}]}}',
    inA('b', '{egress: [{to: [{entities: [All]}], ports: [{port: 1}]}]}'),
    inA('B', '{egress: [{to: [{entities: [All]}], ports: [{port: 2}]}]}'),
    cluster(
      'z',
      '{subject: {namespaces: {matchLabels: {team: x}}}, egress: [{to: [{entities: [All]}], ports: [{port: 3}]}]}',
    ),
  ],
  `
  a/p -> 192.0.2.1 1/TCP => allow rule EgressPolicy/a/b 0
  a/p -> 192.0.2.1 2/TCP => allow rule EgressPolicy/a/B 0
  a/p -> 192.0.2.1 3/TCP => allow rule ClusterEgressPolicy/z 0
  a/p -> 192.0.2.1 4/TCP => allow rule NetworkPolicy/a/a 0
  b/q -> 192.0.2.1 1/TCP => allow not_isolated
`,
);
