// SPDX-License-Identifier: Apache-2.0
// Does the oracle read NetworkPolicy as kubernetes.io and the Go doc comments of networking/v1 have it? By hand-written cases.
import { test } from 'node:test';
import { checkCases, documents } from './case.ts';

// Two families, two namespaces with labels; the pods' last byte tells them apart.
const CLUSTER = documents(`
{kind: Namespace, metadata: {name: shop, labels: {team: x}}}
---
{kind: Namespace, metadata: {name: data, labels: {team: y}}}
---
{kind: Node, metadata: {name: n}, spec: {podCIDRs: [10.244.0.0/24]}, status: {addresses: [{type: InternalIP, address: 198.18.0.1}]}}
---
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: n, containers: [{ports: [{name: http, containerPort: 8080}]}]}
status: {podIPs: [{ip: 10.244.0.1}, {ip: "fd00::1"}]}
---
kind: Pod
metadata: {name: api, namespace: shop, labels: {app: api, tier: back}}
spec: {nodeName: n, containers: [{ports: [{name: http, containerPort: 80}, {name: http, protocol: UDP, containerPort: 81}]}, {ports: [{name: admin, containerPort: 9000}]}]}
status: {podIPs: [{ip: 10.244.0.2}, {ip: "fd00::2"}]}
---
kind: Pod
metadata: {name: db, namespace: data, labels: {app: db, tier: back}}
spec: {nodeName: n, containers: [{ports: [{name: http, containerPort: 8000}]}]}
status: {podIP: 10.244.0.3}
---
kind: Pod
metadata: {name: host, namespace: shop, labels: {app: api}}
spec: {nodeName: n, hostNetwork: true}
status: {podIPs: [{ip: 198.18.0.1}]}
---
kind: Pod
metadata: {name: done, namespace: shop, labels: {app: web}}
status: {phase: Failed, podIPs: [{ip: 10.244.0.2}]}
---
kind: Pod
metadata: {name: twin, namespace: data, labels: {app: twin}}
status: {podIPs: [{ip: 10.244.0.9}]}
---
kind: Pod
metadata: {name: twin, namespace: shop, labels: {app: twin}}
status: {podIPs: [{ip: 10.244.0.9}]}
---
{kind: Pod, metadata: {name: pending, namespace: shop, labels: {app: web}}}
---
kind: Service
metadata: {name: api, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: a, port: 80, targetPort: 8080, nodePort: 30080}]}
---
kind: EndpointSlice
metadata: {name: api-1, namespace: shop, labels: {kubernetes.io/service-name: api}}
ports: [{name: a, port: 8080}]
endpoints: [{addresses: [10.244.0.2]}, {addresses: [10.244.0.3]}]
`);
const HOST = { node: 'n', addresses: ['198.18.0.1'], resolvers: [] };

function policies(title: string, specs: readonly string[], cases: string): void {
  test(title, () => {
    const objects = specs.flatMap((spec, index) =>
      documents(`{kind: NetworkPolicy, metadata: {name: p${index}, namespace: shop}, spec: ${spec}}`),
    );
    checkCases([...CLUSTER, ...objects], HOST, cases);
  });
}

policies(
  'By default, a pod is non-isolated for egress; all outbound connections are allowed',
  [],
  `
  shop/web -> 192.0.2.1 80/TCP => allow not_isolated
  shop/web -> service:shop/api 80/TCP => allow not_isolated
  shop/web -> shop/pending 80/TCP => deny no_address
`,
);
policies(
  'a pod is isolated for egress if any policy selects it and has Egress in its policyTypes',
  ['{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}'],
  `
  shop/web -> 192.0.2.1 80/TCP => deny no_rule NetworkPolicy/shop/p0
  shop/web -> 192.0.2.1 ICMP:EchoRequest => deny no_rule NetworkPolicy/shop/p0
  shop/api -> 192.0.2.1 80/TCP => allow not_isolated
  data/db -> 192.0.2.1 80/TCP => allow not_isolated
  shop/done -> 192.0.2.1 80/TCP => allow not_isolated
`,
);
policies(
  'an empty podSelector selects all pods of the namespace, hostNetwork ones excluded by design',
  ['{podSelector: {}, policyTypes: [Ingress, Egress]}'],
  `
  shop/api -> 192.0.2.1 80/TCP => deny no_rule NetworkPolicy/shop/p0
  shop/host -> 192.0.2.1 80/TCP => allow not_isolated
  data/db -> 192.0.2.1 80/TCP => allow not_isolated
`,
);
policies(
  'policyTypes defaults to Egress only where there are egress rules',
  ['{podSelector: {matchLabels: {app: web}}}', '{podSelector: {matchLabels: {app: api}}, egress: []}'],
  `
  shop/web -> 192.0.2.1 80/TCP => allow not_isolated
  shop/api -> 192.0.2.1 80/TCP => allow not_isolated
`,
);
policies(
  'policyTypes that lack Egress leave its egress section without effect',
  ['{podSelector: {}, policyTypes: [Ingress], egress: [{ports: [{port: 1}]}]}'],
  'shop/web -> 192.0.2.1 80/TCP => allow not_isolated',
);
policies(
  'an empty rule allows all egress, whatever isolates beside it',
  ['{podSelector: {}, policyTypes: [Egress]}', '{podSelector: {}, egress: [{}]}'],
  `
  shop/web -> 192.0.2.1 80/TCP => allow rule NetworkPolicy/shop/p1 0
  shop/web -> 2001:db8::1 65535/SCTP => allow rule NetworkPolicy/shop/p1 0
  shop/web -> 192.0.2.1 ICMP => allow rule NetworkPolicy/shop/p1 0
`,
);
policies(
  'empty lists are as absent ones',
  ['{podSelector: {}, egress: [{to: [], ports: []}]}'],
  `
  shop/web -> 192.0.2.1 80/UDP => allow rule NetworkPolicy/shop/p0 0
  shop/web -> ::1 80/UDP => allow loopback
`,
);
policies(
  "the documentation's sample: 10.0.0.0/24 on TCP 5978",
  [
    '{podSelector: {matchLabels: {app: web}}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/24}}], ports: [{protocol: TCP, port: 5978}]}]}',
  ],
  `
  shop/web -> 10.0.0.0 5978/TCP => allow rule NetworkPolicy/shop/p0 0
  shop/web -> 10.0.0.255 5978/TCP => allow rule NetworkPolicy/shop/p0 0
  shop/web -> 10.0.1.0 5978/TCP => deny no_rule NetworkPolicy/shop/p0
  shop/web -> 9.255.255.255 5978/TCP => deny no_rule NetworkPolicy/shop/p0
  shop/web -> 10.0.0.1 5979/TCP => deny no_rule NetworkPolicy/shop/p0
  shop/web -> 10.0.0.1 5978/UDP => deny no_rule NetworkPolicy/shop/p0
`,
);
policies(
  "the documentation's range of ports: 32000 to 32768, inclusive",
  ['{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/24}}], ports: [{port: 32000, endPort: 32768}]}]}'],
  `
  shop/web -> 10.0.0.1 31999/TCP => deny no_rule NetworkPolicy/shop/p0
  shop/web -> 10.0.0.1 32000/TCP => allow rule NetworkPolicy/shop/p0 0
  shop/web -> 10.0.0.1 32768/TCP => allow rule NetworkPolicy/shop/p0 0
  shop/web -> 10.0.0.1 32769/TCP => deny no_rule NetworkPolicy/shop/p0
`,
);
policies(
  'except takes away from its own block, not from another rule or policy',
  [
    '{podSelector: {matchLabels: {app: web}}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]}',
    '{podSelector: {matchLabels: {app: web}}, egress: [{to: [{ipBlock: {cidr: 10.1.2.0/24}}]}]}',
  ],
  `
  shop/web -> 10.0.255.255 80/TCP => allow rule NetworkPolicy/shop/p0 0
  shop/web -> 10.1.0.0 80/TCP => deny no_rule NetworkPolicy/shop/p0
  shop/web -> 10.1.255.255 80/TCP => deny no_rule NetworkPolicy/shop/p0
  shop/web -> 10.2.0.0 80/TCP => allow rule NetworkPolicy/shop/p0 0
  shop/web -> 10.1.2.3 80/TCP => allow rule NetworkPolicy/shop/p1 0
`,
);
policies(
  'a block of one family covers nothing of the other',
  [
    '{podSelector: {matchLabels: {app: web}}, egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}',
    '{podSelector: {matchLabels: {app: api}}, egress: [{to: [{ipBlock: {cidr: "::/0"}}]}]}',
  ],
  `
  shop/web -> 192.0.2.1 80/TCP => allow rule NetworkPolicy/shop/p0 0
  shop/web -> 2001:db8::1 80/TCP => deny no_rule NetworkPolicy/shop/p0
  shop/api -> 2001:db8::1 80/TCP => allow rule NetworkPolicy/shop/p1 0
  shop/api -> 192.0.2.1 80/TCP => deny no_rule NetworkPolicy/shop/p1
`,
);
policies(
  'host bits of a CIDR are masked',
  ['{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.77/24}}]}]}'],
  `
  shop/web -> 10.0.0.1 80/TCP => allow rule NetworkPolicy/shop/p0 0
  shop/web -> 10.0.1.77 80/TCP => deny no_rule NetworkPolicy/shop/p0
`,
);
policies(
  'a podSelector alone means the own namespace; an ipBlock reaches pods as well',
  [
    '{podSelector: {matchLabels: {app: web}}, egress: [{to: [{podSelector: {matchLabels: {tier: back}}}]}, {to: [{ipBlock: {cidr: 10.244.0.3/32}}], ports: [{port: 5432}]}]}',
  ],
  `
  shop/web -> shop/api 80/TCP => allow rule NetworkPolicy/shop/p0 0
  shop/web -> fd00::2 80/TCP => allow rule NetworkPolicy/shop/p0 0
  shop/web -> data/db 80/TCP => deny no_rule NetworkPolicy/shop/p0
  shop/web -> data/db 5432/TCP => allow rule NetworkPolicy/shop/p0 1
`,
);
policies(
  'a namespaceSelector alone means all pods there; both in one item are ANDed, in two items ORed',
  [
    '{podSelector: {matchLabels: {app: web}}, egress: [{to: [{namespaceSelector: {matchLabels: {team: y}}, podSelector: {matchLabels: {tier: back}}}]}]}',
    '{podSelector: {matchLabels: {app: api}}, egress: [{to: [{namespaceSelector: {matchLabels: {team: z}}}, {podSelector: {matchLabels: {app: web}}}]}]}',
  ],
  `
  shop/web -> data/db 80/TCP => allow rule NetworkPolicy/shop/p0 0
  shop/web -> shop/api 80/TCP => deny no_rule NetworkPolicy/shop/p0
  shop/api -> shop/web 80/TCP => allow rule NetworkPolicy/shop/p1 0
  shop/api -> data/db 80/TCP => deny no_rule NetworkPolicy/shop/p1
`,
);
policies(
  'a namespace by its name: kubernetes.io/metadata.name is set on every one',
  ['{podSelector: {}, egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: data}}}]}]}'],
  `
  shop/web -> data/db 80/TCP => allow rule NetworkPolicy/shop/p0 0
  shop/web -> shop/api 80/TCP => deny no_rule NetworkPolicy/shop/p0
`,
);
policies(
  'In and Exists want the key; NotIn and DoesNotExist hold without it',
  [
    '{podSelector: {matchExpressions: [{key: app, operator: In, values: [web]}]}, egress: [{to: [{podSelector: {matchExpressions: [{key: tier, operator: Exists}]}}], ports: [{port: 1}]}, {to: [{podSelector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}}], ports: [{port: 2}]}, {to: [{podSelector: {matchExpressions: [{key: tier, operator: NotIn, values: [back]}]}}], ports: [{port: 3}]}, {to: [{podSelector: {matchExpressions: [{key: tier, operator: In, values: [front, back]}]}}], ports: [{port: 4}]}]}',
  ],
  `
  shop/web -> shop/api 1/TCP => allow rule NetworkPolicy/shop/p0 0
  shop/web -> shop/api 2/TCP => deny no_rule NetworkPolicy/shop/p0
  shop/web -> shop/api 3/TCP => deny no_rule NetworkPolicy/shop/p0
  shop/web -> shop/api 4/TCP => allow rule NetworkPolicy/shop/p0 3
  shop/web -> shop/web 1/TCP => allow self
  shop/web -> shop/web 2/TCP => allow rule NetworkPolicy/shop/p0 1
  shop/web -> shop/web 3/TCP => allow rule NetworkPolicy/shop/p0 2
  shop/web -> shop/web 4/TCP => allow self
  shop/api -> shop/web 1/TCP => allow not_isolated
`,
);
policies(
  'a hostNetwork pod is no pod as a peer: its address is the node',
  ['{podSelector: {matchLabels: {app: web}}, egress: [{to: [{podSelector: {}}]}]}'],
  `
  shop/web -> shop/host 80/TCP => deny no_rule NetworkPolicy/shop/p0
  shop/web -> 198.18.0.1 80/TCP => deny no_rule NetworkPolicy/shop/p0
`,
);
policies(
  'an address that two live pods claim is no pod; one that an ended pod had is its present holder',
  ['{podSelector: {matchLabels: {app: web}}, egress: [{to: [{podSelector: {}}, {namespaceSelector: {}}]}]}'],
  `
  shop/web -> shop/twin 80/TCP => deny no_rule NetworkPolicy/shop/p0
  shop/web -> 10.244.0.2 80/TCP => allow rule NetworkPolicy/shop/p0 0
`,
);
policies(
  'an entry without protocol is TCP, without port is every port of its protocol, and never ICMP',
  [
    '{podSelector: {matchLabels: {app: web}}, egress: [{ports: [{}]}]}',
    '{podSelector: {matchLabels: {app: api}}, egress: [{ports: [{protocol: SCTP}]}]}',
  ],
  `
  shop/web -> 192.0.2.1 1/TCP => allow rule NetworkPolicy/shop/p0 0
  shop/web -> 192.0.2.1 1/UDP => deny no_rule NetworkPolicy/shop/p0
  shop/web -> 192.0.2.1 ICMP:EchoRequest => deny no_rule NetworkPolicy/shop/p0
  shop/api -> 192.0.2.1 65535/SCTP => allow rule NetworkPolicy/shop/p1 0
  shop/api -> 192.0.2.1 65535/TCP => deny no_rule NetworkPolicy/shop/p1
`,
);
policies(
  'a named port is the destination pod’s own, by name and protocol; what is no pod has none',
  [
    '{podSelector: {matchLabels: {app: web}}, egress: [{to: [{namespaceSelector: {}}, {ipBlock: {cidr: 0.0.0.0/0}}], ports: [{port: http}]}]}',
  ],
  `
  shop/web -> shop/api 80/TCP => allow rule NetworkPolicy/shop/p0 0
  shop/web -> shop/api 81/TCP => deny no_rule NetworkPolicy/shop/p0
  shop/web -> shop/api 81/UDP => deny no_rule NetworkPolicy/shop/p0
  shop/web -> data/db 8000/TCP => allow rule NetworkPolicy/shop/p0 0
  shop/web -> data/db 80/TCP => deny no_rule NetworkPolicy/shop/p0
  shop/web -> 192.0.2.1 80/TCP => deny no_rule NetworkPolicy/shop/p0
  shop/web -> 198.18.0.1 80/TCP => deny no_rule NetworkPolicy/shop/p0
`,
);
policies(
  'a named port of any container, to any destination that is a pod with it',
  ['{podSelector: {matchLabels: {app: web}}, egress: [{ports: [{port: admin}, {protocol: UDP, port: http}]}]}'],
  `
  shop/web -> shop/api 9000/TCP => allow rule NetworkPolicy/shop/p0 0
  shop/web -> shop/api 81/UDP => allow rule NetworkPolicy/shop/p0 0
  shop/web -> data/db 9000/TCP => deny no_rule NetworkPolicy/shop/p0
`,
);
policies(
  'the order of evaluation does not matter; the first rule by name and index is told',
  [
    '{podSelector: {matchLabels: {app: web}}, egress: [{ports: [{port: 2}]}, {ports: [{port: 1}]}, {ports: [{port: 1}]}]}',
    '{podSelector: {}, egress: [{ports: [{port: 1, endPort: 3}]}]}',
  ],
  `
  shop/web -> 192.0.2.1 1/TCP => allow rule NetworkPolicy/shop/p0 1
  shop/web -> 192.0.2.1 2/TCP => allow rule NetworkPolicy/shop/p0 0
  shop/web -> 192.0.2.1 3/TCP => allow rule NetworkPolicy/shop/p1 0
  shop/web -> 192.0.2.1 4/TCP => deny no_rule NetworkPolicy/shop/p0
  shop/api -> 192.0.2.1 1/TCP => allow rule NetworkPolicy/shop/p1 0
`,
);
policies(
  'a Service is allowed where every ready endpoint is, on its target port',
  [
    '{podSelector: {matchLabels: {app: web}}, egress: [{to: [{podSelector: {}}, {namespaceSelector: {}}], ports: [{port: 8080}]}]}',
    '{podSelector: {matchLabels: {app: twin}}, egress: [{to: [{podSelector: {}}]}]}',
    '{podSelector: {matchLabels: {app: api}}, egress: [{to: [{namespaceSelector: {}}], ports: [{port: 80}]}]}',
  ],
  `
  shop/web -> service:shop/api 80/TCP => allow rule NetworkPolicy/shop/p0 0
  shop/web -> 198.18.0.1 30080/TCP => allow rule NetworkPolicy/shop/p0 0
  shop/web -> 198.18.0.1 80/TCP => deny no_rule NetworkPolicy/shop/p0
  shop/twin -> service:shop/api 80/TCP => deny no_rule NetworkPolicy/shop/p1
  shop/api -> service:shop/api 80/TCP => deny no_rule NetworkPolicy/shop/p2
`,
);
policies(
  'an ipBlock over the Service’s own address and port counts for what stands behind it',
  [
    '{podSelector: {matchLabels: {app: web}}, egress: [{to: [{ipBlock: {cidr: 10.96.0.0/16}}], ports: [{port: 80}]}]}',
    '{podSelector: {matchLabels: {app: twin}}, egress: [{to: [{ipBlock: {cidr: 10.96.0.0/16, except: [10.96.0.1/32]}}, {ipBlock: {cidr: 198.18.0.1/32}}], ports: [{port: 80}]}]}',
  ],
  `
  shop/web -> service:shop/api 80/TCP => allow rule NetworkPolicy/shop/p0 0
  shop/web -> 10.96.0.1 8080/TCP => deny no_rule NetworkPolicy/shop/p0
  shop/web -> shop/api 80/TCP => deny no_rule NetworkPolicy/shop/p0
  shop/web -> 198.18.0.1 30080/TCP => deny no_rule NetworkPolicy/shop/p0
  shop/twin -> service:shop/api 80/TCP => deny no_rule NetworkPolicy/shop/p1
  shop/twin -> 198.18.0.1 80/TCP => allow rule NetworkPolicy/shop/p1 0
`,
);
test('the annotation postern.dev/mode: Audit makes a NetworkPolicy report only; any other value enforces', () => {
  const policy = (mode: string) =>
    documents(
      `{kind: NetworkPolicy, metadata: {name: p, namespace: shop, annotations: {postern.dev/mode: ${mode}}}, spec: {policyTypes: [Egress]}}`,
    );
  checkCases(
    [...CLUSTER, ...policy('Audit')],
    HOST,
    'shop/web -> 192.0.2.1 1/TCP => audit no_rule NetworkPolicy/shop/p',
  );
  checkCases(
    [...CLUSTER, ...policy('audit')],
    HOST,
    'shop/web -> 192.0.2.1 1/TCP => deny no_rule NetworkPolicy/shop/p',
  );
});
