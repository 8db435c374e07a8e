// SPDX-License-Identifier: Apache-2.0
// Clusters as they change, and what must pass after each change. Each verdict follows from the API's text, not from the code.
import { type StateList, stateList } from './states.ts';

const pod = (name: string, labels: string, addresses: readonly string[], more = '', spec = '') => `---
apiVersion: v1
kind: Pod
metadata: {namespace: ${name.split('/')[0]}, name: ${name.split('/')[1]}, uid: uid-${name.replace('/', '-')}, labels: ${labels}}
spec: {nodeName: a, containers: [{name: c, image: i${more}}]${spec}}
status: {phase: Running, podIPs: [${addresses.map((ip) => `{ip: "${ip}"}`).join(', ')}]}
`;

const POSTGRES = ', ports: [{name: pg, containerPort: 5432}]';
const BASE = `---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a}}
---
apiVersion: v1
kind: Namespace
metadata: {name: data, labels: {team: b}}
---
apiVersion: v1
kind: Node
metadata: {name: a, labels: {zone: east}}
spec: {podCIDRs: [198.18.2.0/24]}
status: {addresses: [{type: InternalIP, address: 198.18.0.10}]}
${pod('shop/web', '{app: web}', ['198.18.2.1', 'fd00:18:2::1'])}
${pod('shop/cart', '{app: cart}', ['198.18.2.2'])}
${pod('data/db', '{app: db}', ['198.18.2.10'], POSTGRES)}
`;

const np = (name: string, spec: string, namespace = 'shop') => `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: ${name}, namespace: ${namespace}}
spec: ${spec}
`;
const egress = (name: string, spec: string, namespace = 'shop') => `---
apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: ${name}, namespace: ${namespace}}
spec: ${spec}
`;
const cnp = (name: string, tier: string, priority: number, rules: string) => `---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: ${name}}
spec: {tier: ${tier}, priority: ${priority}, subject: {namespaces: {matchLabels: {team: a}}}, egress: ${rules}}
`;
const TO_DB = `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {team: b}}, podSelector: {matchLabels: {app: db}}}], ports: [{port: pg}]}]}`;

export const LISTS: readonly StateList[] = [
  stateList('policies come and go', BASE, [
    {
      name: 'no policy',
      verdicts: ['shop/web > data/db:5432/TCP allow', 'shop/web > 198.19.0.1:80/TCP allow'],
    },
    {
      name: 'a NetworkPolicy isolates web but for the database',
      put: np('web', TO_DB),
      verdicts: [
        'shop/web > data/db:5432/TCP allow NetworkPolicy/shop/web',
        'shop/web > data/db:5433/TCP deny NetworkPolicy/shop/web',
        'shop/web > data/db:5432/UDP deny NetworkPolicy/shop/web',
        'shop/web > 198.19.0.1:80/TCP deny NetworkPolicy/shop/web',
        'shop/web > fd00:19::1:80/TCP deny NetworkPolicy/shop/web',
        'shop/cart > 198.19.0.1:80/TCP allow',
      ],
    },
    {
      name: 'an Isolate adds a network, less a part of it',
      put: egress(
        'more',
        '{podSelector: {matchLabels: {app: web}}, egress: [{to: [{networks: [198.19.0.0/16], except: [198.19.1.0/24]}], ports: [{port: 80, endPort: 90}]}]}',
      ),
      verdicts: [
        'shop/web > data/db:5432/TCP allow NetworkPolicy/shop/web',
        'shop/web > 198.19.0.1:80/TCP allow EgressPolicy/shop/more',
        'shop/web > 198.19.0.1:91/TCP deny EgressPolicy/shop/more',
        'shop/web > 198.19.1.1:80/TCP deny EgressPolicy/shop/more',
      ],
    },
    {
      name: 'a Limit takes all but the database',
      put: egress(
        'limit',
        '{effect: Limit, podSelector: {}, egress: [{to: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: db}}}}]}]}',
      ),
      verdicts: [
        'shop/web > data/db:5432/TCP allow NetworkPolicy/shop/web',
        'shop/web > 198.19.0.1:80/TCP deny EgressPolicy/shop/limit',
        'shop/cart > data/db:1/TCP allow',
        'shop/cart > 198.19.0.1:80/TCP deny EgressPolicy/shop/limit',
      ],
    },
    {
      name: 'the NetworkPolicy goes, the Limit is Audit',
      gone: ['NetworkPolicy/shop/web'],
      put: egress(
        'limit',
        '{effect: Limit, mode: Audit, podSelector: {}, egress: [{to: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: db}}}}]}]}',
      ),
      verdicts: [
        'shop/web > data/db:5432/TCP deny EgressPolicy/shop/more',
        'shop/web > 198.19.0.1:80/TCP audit EgressPolicy/shop/limit',
        'shop/cart > 198.19.0.1:80/TCP audit EgressPolicy/shop/limit',
        'shop/cart > data/db:5432/TCP allow',
      ],
    },
    {
      name: 'nothing is left',
      gone: ['EgressPolicy/shop/more', 'EgressPolicy/shop/limit'],
      verdicts: ['shop/web > 198.19.1.1:80/TCP allow', 'shop/cart > 198.19.0.1:80/TCP allow'],
    },
  ]),

  stateList('pods come, change and hand on their addresses', `${BASE}${np('web', TO_DB)}`, [
    {
      name: 'as they are',
      verdicts: [
        'shop/web > 198.18.2.10:5432/TCP allow NetworkPolicy/shop/web',
        'shop/web > 198.18.2.11:5432/TCP deny NetworkPolicy/shop/web',
      ],
    },
    {
      name: 'a second database without an address',
      put: pod('data/db2', '{app: db}', [], POSTGRES),
      verdicts: ['shop/web > 198.18.2.11:5432/TCP deny NetworkPolicy/shop/web'],
    },
    {
      name: 'it gets one; its port is another',
      put: pod('data/db2', '{app: db}', ['198.18.2.11'], ', ports: [{name: pg, containerPort: 5000}]'),
      verdicts: [
        'shop/web > 198.18.2.11:5000/TCP allow NetworkPolicy/shop/web',
        'shop/web > 198.18.2.11:5432/TCP deny NetworkPolicy/shop/web',
        'shop/web > 198.18.2.10:5432/TCP allow NetworkPolicy/shop/web',
      ],
    },
    {
      name: 'the first is no database any more',
      put: pod('data/db', '{app: other}', ['198.18.2.10'], POSTGRES),
      verdicts: [
        'shop/web > 198.18.2.10:5432/TCP deny NetworkPolicy/shop/web',
        'shop/web > 198.18.2.11:5000/TCP allow NetworkPolicy/shop/web',
      ],
    },
    {
      name: 'the second ends, and a stranger of another namespace has its address',
      put: `${pod('data/db2', '{app: db}', ['198.18.2.11'], POSTGRES).replace('Running', 'Succeeded')}${pod('shop/db', '{app: db}', ['198.18.2.11'], POSTGRES)}`,
      verdicts: ['shop/web > 198.18.2.11:5432/TCP deny NetworkPolicy/shop/web'],
    },
    {
      name: "the stranger's namespace joins team b; web is web no more",
      put: `---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: b}}\n${pod('shop/web', '{app: front}', ['198.18.2.1'])}${pod('shop/cart', '{app: web}', ['198.18.2.2'])}`,
      gone: ['Pod/data/db2'],
      verdicts: [
        'shop/web > 198.19.0.1:80/TCP allow',
        'shop/cart > 198.18.2.11:5432/TCP allow NetworkPolicy/shop/web',
        'shop/cart > 198.19.0.1:80/TCP deny NetworkPolicy/shop/web',
      ],
    },
    {
      name: 'everybody but cart is gone',
      gone: ['Pod/shop/web', 'Pod/shop/db', 'Pod/data/db'],
      verdicts: ['shop/cart > 198.18.2.11:5432/TCP deny NetworkPolicy/shop/web'],
    },
  ]),

  stateList(
    'a Service and what stands behind it',
    `${BASE}${egress('web', '{podSelector: {matchLabels: {app: web}}, egress: [{to: [{services: [{namespace: data, name: db}]}]}]}')}`,
    [
      {
        name: 'no such Service',
        verdicts: [
          'shop/web > 198.18.9.1:5432/TCP deny EgressPolicy/shop/web',
          'shop/web > data/db:5432/TCP deny EgressPolicy/shop/web',
        ],
      },
      {
        name: 'a Service without endpoints',
        put: `---
apiVersion: v1
kind: Service
metadata: {namespace: data, name: db}
spec: {clusterIP: 198.18.9.1, clusterIPs: [198.18.9.1], ports: [{name: pg, port: 5432, targetPort: pg}]}
`,
        verdicts: [
          'shop/web > service:data/db:5432/TCP deny',
          'shop/web > data/db:5432/TCP deny EgressPolicy/shop/web',
        ],
      },
      {
        name: 'one that is not ready',
        put: slice(false, 5432),
        verdicts: ['shop/web > service:data/db:5432/TCP deny'],
      },
      {
        name: 'it is ready',
        put: slice(true, 5432),
        verdicts: [
          'shop/web > service:data/db:5432/TCP allow EgressPolicy/shop/web',
          'shop/web > data/db:5432/TCP allow EgressPolicy/shop/web',
          'shop/web > data/db:5433/TCP deny EgressPolicy/shop/web',
          'shop/web > service:data/db:80/TCP deny EgressPolicy/shop/web',
        ],
      },
      {
        name: 'its target is another port',
        put: slice(true, 5433),
        verdicts: [
          'shop/web > service:data/db:5432/TCP allow EgressPolicy/shop/web',
          'shop/web > data/db:5433/TCP allow EgressPolicy/shop/web',
          'shop/web > data/db:5432/TCP deny EgressPolicy/shop/web',
        ],
      },
      {
        name: 'the Service is deleted before its slice is',
        gone: ['Service/data/db'],
        verdicts: [
          'shop/web > 198.18.9.1:5432/TCP deny EgressPolicy/shop/web',
          'shop/web > data/db:5433/TCP deny EgressPolicy/shop/web',
        ],
      },
    ],
  ),

  stateList('tiers around namespaces that decide for themselves', BASE, [
    {
      name: 'Admin denies the database, with a Pass before it for one port',
      put: cnp(
        'guard',
        'Admin',
        10,
        '[{action: Pass, to: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: db}}}}], protocols: [{tcp: {destinationPort: {number: 5432}}}]}, {action: Deny, to: [{networks: [198.18.2.0/24]}]}]',
      ),
      verdicts: [
        'shop/web > data/db:5432/TCP allow',
        'shop/web > data/db:5433/TCP deny ClusterNetworkPolicy/guard',
        'shop/web > 198.19.0.1:80/TCP allow',
        'data/db > shop/web:80/TCP allow',
      ],
    },
    {
      name: 'the namespace isolates web, which the Pass leaves to it',
      put: np('none', '{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}'),
      verdicts: [
        'shop/web > data/db:5432/TCP deny NetworkPolicy/shop/none',
        'shop/web > data/db:5433/TCP deny ClusterNetworkPolicy/guard',
        'shop/cart > data/db:5432/TCP allow',
      ],
    },
    {
      name: 'a stronger Admin accepts what both deny',
      put: cnp('accept', 'Admin', 5, '[{action: Accept, to: [{namespaces: {matchLabels: {team: b}}}]}]'),
      verdicts: [
        'shop/web > data/db:5433/TCP allow ClusterNetworkPolicy/accept',
        'shop/web > 198.19.0.1:80/TCP deny NetworkPolicy/shop/none',
      ],
    },
    {
      name: 'it becomes the weaker; Baseline denies the rest',
      put: `${cnp('accept', 'Admin', 20, '[{action: Accept, to: [{namespaces: {matchLabels: {team: b}}}]}]')}${cnp('floor', 'Baseline', 1, '[{action: Deny, to: [{networks: [0.0.0.0/0]}]}]')}`,
      verdicts: [
        'shop/web > data/db:5433/TCP deny ClusterNetworkPolicy/guard',
        'shop/web > data/db:5432/TCP deny NetworkPolicy/shop/none',
        'shop/cart > data/db:5432/TCP deny ClusterNetworkPolicy/floor',
        'shop/cart > 198.19.0.1:80/TCP deny ClusterNetworkPolicy/floor',
        'shop/cart > fd00:19::1:80/TCP allow',
      ],
    },
    {
      name: 'the namespace leaves the team',
      put: '---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: c}}\n',
      verdicts: ['shop/cart > 198.19.0.1:80/TCP allow', 'shop/web > data/db:5432/TCP deny NetworkPolicy/shop/none'],
    },
  ]),

  stateList(
    'the world, the cluster and the node',
    `${BASE}${egress('web', '{podSelector: {matchLabels: {app: web}}, egress: [{to: [{entities: [World]}]}]}')}`,
    [
      {
        name: 'what nobody has is the world',
        verdicts: [
          'shop/web > 198.19.0.1:80/TCP allow EgressPolicy/shop/web',
          'shop/web > data/db:5432/TCP deny EgressPolicy/shop/web',
          'shop/web > 198.18.2.77:80/TCP deny EgressPolicy/shop/web',
          'shop/web > 198.18.0.10:80/TCP deny EgressPolicy/shop/web',
          'shop/web > 169.254.169.254:80/TCP deny EgressPolicy/shop/web',
        ],
      },
      {
        name: 'another node takes a range out of it',
        put: '---\napiVersion: v1\nkind: Node\nmetadata: {name: b}\nspec: {podCIDRs: [198.19.0.0/24]}\nstatus: {addresses: [{type: InternalIP, address: 198.19.7.7}]}\n',
        verdicts: [
          'shop/web > 198.19.0.1:80/TCP deny EgressPolicy/shop/web',
          'shop/web > 198.19.1.1:80/TCP allow EgressPolicy/shop/web',
          'shop/web > 198.19.7.7:80/TCP deny EgressPolicy/shop/web',
        ],
      },
      {
        name: 'the cluster instead of the world',
        put: egress('web', '{podSelector: {matchLabels: {app: web}}, egress: [{to: [{entities: [Cluster]}]}]}'),
        verdicts: [
          'shop/web > 198.19.0.1:80/TCP allow EgressPolicy/shop/web',
          'shop/web > data/db:5432/TCP allow EgressPolicy/shop/web',
          'shop/web > 198.19.1.1:80/TCP deny EgressPolicy/shop/web',
        ],
      },
      {
        name: 'nodes by label',
        put: egress(
          'web',
          '{podSelector: {matchLabels: {app: web}}, egress: [{to: [{nodes: {matchLabels: {zone: east}}}]}]}',
        ),
        verdicts: [
          'shop/web > 198.18.0.10:80/TCP allow EgressPolicy/shop/web',
          'shop/web > 198.19.7.7:80/TCP deny EgressPolicy/shop/web',
        ],
      },
      {
        name: 'the labels move to the other node',
        put: '---\napiVersion: v1\nkind: Node\nmetadata: {name: b, labels: {zone: east}}\nstatus: {addresses: [{type: InternalIP, address: 198.19.7.7}]}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: a}\nstatus: {addresses: [{type: InternalIP, address: 198.18.0.10}]}\n',
        verdicts: [
          'shop/web > 198.18.0.10:80/TCP deny EgressPolicy/shop/web',
          'shop/web > 198.19.7.7:80/TCP allow EgressPolicy/shop/web',
        ],
      },
    ],
  ),
];

function slice(ready: boolean, port: number): string {
  return `---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: data, name: db-1, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: pg, port: ${port}}]
endpoints: [{addresses: [198.18.2.10], conditions: {ready: ${ready}}, targetRef: {kind: Pod, namespace: data, name: db}}]
`;
}
