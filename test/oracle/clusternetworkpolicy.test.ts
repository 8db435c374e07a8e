// SPDX-License-Identifier: Apache-2.0
// Does the oracle read ClusterNetworkPolicy as the descriptions in upstream's CRD have it? By hand-written cases.
import { test } from 'node:test';
import { checkCases, documents } from './case.ts';

const CLUSTER = documents(`
{kind: Namespace, metadata: {name: shop, labels: {team: x}}}
---
{kind: Namespace, metadata: {name: data, labels: {team: y}}}
---
{kind: Node, metadata: {name: n, labels: {zone: a}}, status: {addresses: [{type: InternalIP, address: 198.18.0.1}]}}
---
{kind: Node, metadata: {name: m, labels: {zone: b}}, status: {addresses: [{type: InternalIP, address: 198.18.0.2}]}}
---
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: n, containers: [{ports: [{name: http, containerPort: 8080}]}]}
status: {podIPs: [{ip: 10.244.0.1}, {ip: "fd00::1"}]}
---
kind: Pod
metadata: {name: db, namespace: data, labels: {app: db}}
spec: {nodeName: n, containers: [{ports: [{name: sql, containerPort: 5432}, {name: sql, protocol: UDP, containerPort: 99}]}]}
status: {podIPs: [{ip: 10.244.0.3}, {ip: "fd00::3"}]}
---
kind: Pod
metadata: {name: host, namespace: shop, labels: {app: web}}
spec: {nodeName: n, hostNetwork: true}
status: {podIPs: [{ip: 198.18.0.1}]}
---
kind: Service
metadata: {name: db, namespace: data}
spec: {clusterIP: 10.96.0.1, ports: [{name: a, port: 80}]}
---
kind: EndpointSlice
metadata: {name: db-1, namespace: data, labels: {kubernetes.io/service-name: db}}
ports: [{name: a, port: 5432}]
endpoints: [{addresses: [10.244.0.3]}]
`);
const HOST = { node: 'n', addresses: ['198.18.0.1'], resolvers: [] };
const ALL = '[{networks: [0.0.0.0/0, "::/0"]}]';

/** Policies named p0, p1, … of these specs, `subject` all pods where they have none; other objects as they are. */
function policies(title: string, specs: readonly string[], cases: string, others = ''): void {
  test(title, () => {
    const objects = specs.flatMap((spec, index) => {
      const [policy] = documents(`{kind: ClusterNetworkPolicy, metadata: {name: p${index}}, spec: ${spec}}`) as {
        spec: object;
      }[];
      return [{ ...policy, spec: { tier: 'Admin', priority: 1, subject: { namespaces: {} }, ...policy?.spec } }];
    });
    checkCases([...CLUSTER, ...objects, ...documents(others)], HOST, cases);
  });
}

policies(
  'CNPs with no egress rules do not affect egress traffic',
  ['{egress: []}', '{ingress: [{action: Deny, from: [{namespaces: {}}]}]}'],
  'shop/web -> data/db 5432/TCP => allow not_isolated',
);
policies(
  'a rule that appears at the top would take the highest precedence',
  [
    `{egress: [{action: Accept, to: [{networks: [10.244.0.3/32]}]}, {action: Deny, to: ${ALL}}]}`,
    `{egress: [{action: Accept, to: ${ALL}}]}`,
  ],
  `
  shop/web -> data/db 5432/TCP => allow admin_accept ClusterNetworkPolicy/p0 0
  shop/web -> 192.0.2.1 80/UDP => deny admin_deny ClusterNetworkPolicy/p0 1
  shop/web -> 2001:db8::1 ICMP => deny admin_deny ClusterNetworkPolicy/p0 1
  shop/web -> fd00::1 ICMP => allow self
`,
);
policies(
  'policies with lower priority values are checked before those with higher ones; of equal ones the first by name',
  [
    `{priority: 7, egress: [{action: Deny, to: ${ALL}}]}`,
    '{priority: 0, egress: [{action: Accept, to: [{networks: [192.0.2.0/24]}]}]}',
    '{priority: 7, egress: [{action: Accept, to: [{networks: [198.51.100.0/24]}]}]}',
  ],
  `
  shop/web -> 192.0.2.1 80/TCP => allow admin_accept ClusterNetworkPolicy/p1 0
  shop/web -> 198.51.100.1 80/TCP => deny admin_deny ClusterNetworkPolicy/p0 0
`,
);
policies(
  'Pass skips all further rules in the current tier, and passes evaluation to the next tier',
  [
    `{priority: 1, egress: [{action: Pass, to: [{namespaces: {}}]}, {action: Deny, to: ${ALL}}]}`,
    `{priority: 2, egress: [{action: Deny, to: ${ALL}}]}`,
    `{tier: Baseline, priority: 1, egress: [{action: Pass, to: [{pods: {podSelector: {matchLabels: {app: web}}}}]}, {action: Deny, to: ${ALL}}]}`,
  ],
  `
  shop/web -> 192.0.2.1 80/TCP => deny admin_deny ClusterNetworkPolicy/p0 1
  shop/web -> data/db 5432/TCP => deny baseline_deny ClusterNetworkPolicy/p2 1
  data/db -> shop/web 8080/TCP => allow not_isolated
`,
);
policies(
  'v1.NetworkPolicy always makes a final decision for selected pods; Baseline only for the others',
  [`{tier: Baseline, egress: [{action: Accept, to: [{namespaces: {}}]}, {action: Deny, to: ${ALL}}]}`],
  `
  shop/web -> data/db 5432/TCP => allow rule NetworkPolicy/shop/np 0
  shop/web -> data/db 80/TCP => deny no_rule NetworkPolicy/shop/np
  data/db -> shop/web 80/TCP => allow baseline_accept ClusterNetworkPolicy/p0 0
  data/db -> 192.0.2.1 80/TCP => deny baseline_deny ClusterNetworkPolicy/p0 1
`,
  '{kind: NetworkPolicy, metadata: {name: np, namespace: shop}, spec: {podSelector: {}, egress: [{ports: [{port: 5432}]}]}}',
);
policies(
  'Admin goes before Limits, whose denial it voids; Pass leaves it to them',
  ['{egress: [{action: Accept, to: [{networks: [192.0.2.0/25]}]}, {action: Pass, to: [{networks: [192.0.2.0/24]}]}]}'],
  `
  shop/web -> 192.0.2.1 80/TCP => allow admin_accept ClusterNetworkPolicy/p0 0
  shop/web -> 192.0.2.200 80/TCP => deny limit ClusterEgressPolicy/limit
`,
  '{kind: ClusterEgressPolicy, metadata: {name: limit}, spec: {effect: Limit, subject: {namespaces: {}}, egress: []}}',
);
policies(
  'host-networked pods are not included, neither in the subject nor in peers',
  [`{egress: [{action: Deny, to: [{namespaces: {}}]}]}`],
  `
  shop/host -> data/db 5432/TCP => allow not_isolated
  shop/web -> 198.18.0.1 80/TCP => allow not_isolated
  shop/web -> data/db 5432/TCP => deny admin_deny ClusterNetworkPolicy/p0 0
`,
);
policies(
  'subjects: namespaces; pods, where no namespaceSelector is an empty one, which selects all',
  [
    '{subject: {namespaces: {matchLabels: {team: x}}}, egress: [{action: Deny, to: [{networks: [192.0.2.1/32]}]}]}',
    '{subject: {pods: {podSelector: {matchLabels: {app: db}}}}, egress: [{action: Deny, to: [{networks: [192.0.2.2/32]}]}]}',
    '{subject: {pods: {namespaceSelector: {matchLabels: {team: y}}, podSelector: {matchLabels: {app: web}}}}, egress: [{action: Deny, to: [{networks: [192.0.2.3/32]}]}]}',
  ],
  `
  shop/web -> 192.0.2.1 80/TCP => deny admin_deny ClusterNetworkPolicy/p0 0
  shop/web -> 192.0.2.2 80/TCP => allow not_isolated
  shop/web -> 192.0.2.3 80/TCP => allow not_isolated
  data/db -> 192.0.2.1 80/TCP => allow not_isolated
  data/db -> 192.0.2.2 80/TCP => deny admin_deny ClusterNetworkPolicy/p1 0
`,
);
policies(
  'nodes: by the addresses in their status, and by label',
  ['{egress: [{action: Accept, to: [{nodes: {matchLabels: {zone: a}}}]}, {action: Deny, to: [{nodes: {}}]}]}'],
  `
  shop/web -> 198.18.0.1 6443/TCP => allow admin_accept ClusterNetworkPolicy/p0 0
  shop/web -> 198.18.0.2 6443/TCP => deny admin_deny ClusterNetworkPolicy/p0 1
  shop/web -> 198.18.0.3 6443/TCP => allow not_isolated
`,
);
policies(
  'networks match cluster-internal traffic as well, and 0.0.0.0/0 is IPv4 alone',
  ['{egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]}'],
  `
  shop/web -> data/db 5432/TCP => deny admin_deny ClusterNetworkPolicy/p0 0
  shop/web -> fd00::3 5432/TCP => allow not_isolated
  shop/web -> 192.0.2.1 ICMP:EchoRequest => deny admin_deny ClusterNetworkPolicy/p0 0
`,
);
policies(
  'protocols: number, range with both ends, port names of the pod with their own protocol; other protocols are not matched',
  [
    `{egress: [
      {action: Deny, to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}, {udp: {destinationPort: {range: {start: 10, end: 20}}}}]},
      {action: Deny, to: [{namespaces: {}}], protocols: [{destinationNamedPort: sql}, {sctp: {destinationPort: {number: 9}}}]}]}`,
  ],
  `
  shop/web -> data/db 80/TCP => deny admin_deny ClusterNetworkPolicy/p0 0
  shop/web -> data/db 80/UDP => allow not_isolated
  shop/web -> data/db 9/UDP => allow not_isolated
  shop/web -> data/db 10/UDP => deny admin_deny ClusterNetworkPolicy/p0 0
  shop/web -> data/db 20/UDP => deny admin_deny ClusterNetworkPolicy/p0 0
  shop/web -> data/db 21/UDP => allow not_isolated
  shop/web -> data/db 5432/TCP => deny admin_deny ClusterNetworkPolicy/p0 1
  shop/web -> data/db 99/UDP => deny admin_deny ClusterNetworkPolicy/p0 1
  shop/web -> data/db 99/TCP => allow not_isolated
  shop/web -> data/db 9/SCTP => deny admin_deny ClusterNetworkPolicy/p0 1
  shop/web -> data/db ICMP => allow not_isolated
  data/db -> shop/web 5432/TCP => allow not_isolated
`,
);
policies(
  'an unknown peer fails closed: an Accept matches no traffic, Deny and Pass are a Deny all',
  [
    `{priority: 0, subject: {namespaces: {matchLabels: {team: x}}}, egress: [{action: Accept, to: [{}, {namespaces: {}}]}, {action: Accept, to: [{namespaces: {}}]}]}`,
    '{priority: 1, subject: {namespaces: {matchLabels: {team: x}}}, egress: [{action: Pass, to: [{futures: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}',
    '{priority: 2, subject: {namespaces: {matchLabels: {team: y}}}, egress: [{action: Deny, to: [{}]}]}',
  ],
  `
  shop/web -> data/db 80/TCP => allow admin_accept ClusterNetworkPolicy/p0 1
  shop/web -> 192.0.2.1 53/UDP => deny admin_deny ClusterNetworkPolicy/p1 0
  data/db -> 192.0.2.1 ICMP => deny admin_deny ClusterNetworkPolicy/p2 0
`,
);
policies(
  'domainNames match addresses to which a name led; what stands beside them matches, too',
  [`{egress: [{action: Accept, to: [{domainNames: [a.example]}, {namespaces: {}}]}, {action: Deny, to: ${ALL}}]}`],
  `
  shop/web -> data/db 80/TCP => allow admin_accept ClusterNetworkPolicy/p0 0
  shop/web -> 192.0.2.1 443/TCP => deny admin_deny ClusterNetworkPolicy/p0 1
  shop/web -> 192.0.2.1(a.example) 443/TCP => allow admin_accept ClusterNetworkPolicy/p0 0
  shop/web -> 2001:db8::1(b.example,A.Example.) 443/UDP => allow admin_accept ClusterNetworkPolicy/p0 0
  shop/web -> 192.0.2.1(b.example) 443/TCP => deny admin_deny ClusterNetworkPolicy/p0 1
  shop/web -> 192.0.2.1(x.a.example) 443/TCP => deny admin_deny ClusterNetworkPolicy/p0 1
`,
);
policies(
  "'*', the wildcard specifier, matches one or more entire labels",
  [
    `{egress: [{action: Accept, to: [{domainNames: [kubernetes.io]}], protocols: [{tcp: {destinationPort: {number: 1}}}]}, {action: Accept, to: [{domainNames: ["*.kubernetes.io"]}], protocols: [{tcp: {destinationPort: {number: 2}}}]}, {action: Deny, to: ${ALL}}]}`,
  ],
  `
  shop/web -> 192.0.2.1(kubernetes.io) 1/TCP => allow admin_accept ClusterNetworkPolicy/p0 0
  shop/web -> 192.0.2.1(kubernetes.io) 2/TCP => deny admin_deny ClusterNetworkPolicy/p0 2
  shop/web -> 192.0.2.1(www.kubernetes.io) 1/TCP => deny admin_deny ClusterNetworkPolicy/p0 2
  shop/web -> 192.0.2.1(www.kubernetes.io) 2/TCP => allow admin_accept ClusterNetworkPolicy/p0 1
  shop/web -> 192.0.2.1(latest.blog.kubernetes.io) 2/TCP => allow admin_accept ClusterNetworkPolicy/p0 1
  shop/web -> 192.0.2.1(my-kubernetes.io) 2/TCP => deny admin_deny ClusterNetworkPolicy/p0 2
  shop/web -> 192.0.2.1(wikipedia.org) 2/TCP => deny admin_deny ClusterNetworkPolicy/p0 2
`,
);
const NAMED = '{action: Accept, to: [{domainNames: [a.example]}]}';
const CIDR = (action: string) => `{action: ${action}, to: [{networks: [192.0.2.0/24]}]}`;
const TO_NAME = (rest: string) => `shop/web -> 192.0.2.1(a.example) 443/TCP => ${rest}`;
/** Beneath: nothing of the Admin tier may be told where it passes. */
const BASELINE = `{tier: Baseline, egress: [{action: Deny, to: ${ALL}}]}`;
policies(
  'a name rule after a Deny of its address is not asked',
  [`{egress: [${CIDR('Deny')}, ${NAMED}]}`],
  TO_NAME('deny admin_deny ClusterNetworkPolicy/p0 0'),
);
policies(
  'a name rule before a Deny of its address accepts',
  [`{egress: [${NAMED}, ${CIDR('Deny')}]}`],
  TO_NAME('allow admin_accept ClusterNetworkPolicy/p0 0'),
);
policies(
  'a name rule after a Pass of its address is not asked: the next tier decides',
  [`{egress: [${CIDR('Pass')}, ${NAMED}]}`, BASELINE],
  TO_NAME('deny baseline_deny ClusterNetworkPolicy/p1 0'),
);
policies(
  'a name rule before a Pass of its address accepts',
  [`{egress: [${NAMED}, ${CIDR('Pass')}]}`, BASELINE],
  TO_NAME('allow admin_accept ClusterNetworkPolicy/p0 0'),
);
policies(
  'the same over two policies: a lower priority value is checked first, whatever the names',
  [`{priority: 2, egress: [${NAMED}]}`, `{priority: 1, egress: [${CIDR('Deny')}]}`],
  TO_NAME('deny admin_deny ClusterNetworkPolicy/p1 0'),
);
policies(
  'a name rule of lower priority value comes before a Deny and a Pass in others',
  [`{priority: 3, egress: [${CIDR('Deny')}]}`, `{priority: 2, egress: [${CIDR('Pass')}]}`, `{egress: [${NAMED}]}`],
  TO_NAME('allow admin_accept ClusterNetworkPolicy/p2 0'),
);
policies(
  'passed in the Admin tier, a name is accepted in the Baseline tier, before what denies there',
  [`{egress: [${CIDR('Pass')}]}`, `{tier: Baseline, egress: [${NAMED}, {action: Deny, to: ${ALL}}]}`],
  `
  ${TO_NAME('allow baseline_accept ClusterNetworkPolicy/p1 0')}
  shop/web -> 192.0.2.1 443/TCP => deny baseline_deny ClusterNetworkPolicy/p1 1
`,
);
policies(
  'domainNames lead to addresses of World alone, and not behind a Service',
  [`{egress: [${NAMED}, {action: Deny, to: ${ALL}}]}`],
  `
  shop/web -> data/db(a.example) 5432/TCP => deny admin_deny ClusterNetworkPolicy/p0 1
  shop/web -> 198.18.0.2(a.example) 22/TCP => deny admin_deny ClusterNetworkPolicy/p0 1
  shop/web -> 169.254.169.254(a.example) 80/TCP => deny admin_deny ClusterNetworkPolicy/p0 1
  shop/web -> service:data/db(a.example) 80/TCP => deny admin_deny ClusterNetworkPolicy/p0 1
  shop/web -> 10.1.2.3(a.example) 80/TCP => allow admin_accept ClusterNetworkPolicy/p0 0
`,
);
policies(
  'a Service is judged by what stands behind it, networks that cover its own address among it',
  [
    '{subject: {namespaces: {matchLabels: {team: x}}}, egress: [{action: Deny, to: [{pods: {podSelector: {matchLabels: {app: db}}}}], protocols: [{tcp: {destinationPort: {number: 5432}}}]}]}',
    '{subject: {namespaces: {matchLabels: {team: y}}}, egress: [{action: Deny, to: [{networks: [10.96.0.0/16]}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}',
  ],
  `
  shop/web -> service:data/db 80/TCP => deny admin_deny ClusterNetworkPolicy/p0 0
  data/db -> service:data/db 80/TCP => deny admin_deny ClusterNetworkPolicy/p1 0
`,
);
test('the annotation postern.dev/mode: Audit takes a policy out of what passes, and tells what it would do', () => {
  const policy = (tier: string, mode: string) =>
    documents(
      `{kind: ClusterNetworkPolicy, metadata: {name: a, annotations: {postern.dev/mode: ${mode}}}, spec: {tier: ${tier}, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: ${ALL}}]}}`,
    );
  const told = (tier: string, verdict: string) =>
    `shop/web -> 192.0.2.1 80/TCP => ${verdict} ${tier.toLowerCase()}_deny ClusterNetworkPolicy/a 0`;
  for (const tier of ['Admin', 'Baseline']) {
    checkCases([...CLUSTER, ...policy(tier, 'Audit')], HOST, told(tier, 'audit'));
    checkCases([...CLUSTER, ...policy(tier, 'audit')], HOST, told(tier, 'deny'));
  }
});
