// SPDX-License-Identifier: Apache-2.0
// ClusterNetworkPolicy in egress as truth tables: what upstream's conformance suite asks of an enforcer (rules by protocol, port ranges, named
// ports, nodes, networks, priorities, tiers, isolation), both channels, and both families at once.
import type { TruthTable } from './table.ts';

interface Options {
  readonly tier?: 'Admin' | 'Baseline';
  readonly priority?: number;
  readonly subject?: string;
}

const policy = (
  name: string,
  rules: readonly string[],
  { tier = 'Admin', priority = 50, subject = '{namespaces: {matchLabels: {ns: x}}}' }: Options = {},
) =>
  `---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: ${name}}\nspec:\n  tier: ${tier}\n  priority: ${priority}\n  subject: ${subject}\n  egress:\n${rules.map((rule) => `  - ${rule}\n`).join('')}`;
const isolate = (namespace: string, egress: string) =>
  `---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: np, namespace: ${namespace}}\nspec: {podSelector: {}, policyTypes: [Egress], egress: ${egress}}\n`;

const EVERY_POD = '{namespaces: {}}';
const ALL = '[{networks: [0.0.0.0/0, "::/0"]}]';
const to = (namespace: string) => `[{namespaces: {matchLabels: {ns: ${namespace}}}}]`;
const rule = (action: string, peers: string, protocols?: string) =>
  `{action: ${action}, to: ${peers}${protocols === undefined ? '' : `, protocols: ${protocols}`}}`;
const port = (protocol: string, number: number) => `[{${protocol}: {destinationPort: {number: ${number}}}}]`;
const range = (protocol: string, start: number, end: number) =>
  `[{${protocol}: {destinationPort: {range: {start: ${start}, end: ${end}}}}}]`;

/** The same rules in both tiers say the same of pods that no NetworkPolicy selects. */
function inBothTiers(title: string, rules: readonly string[], expected: string, subject?: string): TruthTable[] {
  return (['Admin', 'Baseline'] as const).map((tier) => ({
    title: `${tier}: ${title}`,
    policies: policy('p', rules, { tier, ...(subject === undefined ? {} : { subject }) }),
    expected,
  }));
}

const byProtocol = ['tcp', 'udp', 'sctp'].flatMap((protocol) => {
  const word = protocol.toUpperCase();
  return [
    ...inBothTiers(
      `${word}: accept, deny and pass a namespace each`,
      [
        rule('Accept', to('y'), port(protocol, 80)),
        rule('Deny', to('y')),
        rule('Pass', to('z'), port(protocol, 81)),
        rule('Deny', to('z'), port(protocol, 81)),
        rule('Deny', to('z'), port(protocol, 80)),
      ],
      `x/* -> y/* deny\nx/* -> y/* 80/${word} allow\nx/* -> z/* 80/${word} deny`,
    ),
    ...inBothTiers(
      `${word}: the order of rules decides`,
      [
        rule('Deny', to('y')),
        rule('Accept', to('y'), port(protocol, 80)),
        rule('Deny', to('z'), port(protocol, 80)),
        rule('Pass', to('z')),
      ],
      `x/* -> y/* deny\nx/* -> z/* 80/${word} deny`,
    ),
    ...inBothTiers(
      `${word}: a range of ports, both ends included`,
      [
        rule('Accept', to('y'), range(protocol, 79, 80)),
        rule('Deny', to('y'), range(protocol, 80, 82)),
        rule('Deny', to('z'), range(protocol, 81, 82)),
      ],
      `x/* -> y/* 81/${word} deny\nx/* -> z/* 81/${word} deny`,
    ),
  ];
});

export const CLUSTER_NETWORK_POLICY: readonly TruthTable[] = [
  ...byProtocol,
  ...inBothTiers('deny everything: every protocol, ICMP too', [rule('Deny', ALL)], 'x/* -> * deny'),
  ...inBothTiers(
    'deny every pod, which leaves nodes and the world',
    [rule('Deny', '[{namespaces: {}}]')],
    'x/* -> */* deny',
  ),
  ...inBothTiers(
    'deny by one family of networks',
    [rule('Deny', '[{networks: [198.18.2.0/24, "fd00:18:2::/48"]}]')],
    'x/* -> y/* deny',
  ),
  ...inBothTiers(
    'networks: the smaller accepted before the larger is denied; pods by address, too',
    [
      rule(
        'Accept',
        '[{networks: [198.18.2.1/32, "fd00:18:2::1/128"]}, {networks: [198.19.0.0/16, "fd00:19::/32"]}]',
        port('tcp', 80),
      ),
      rule('Deny', '[{networks: [198.18.0.0/15, "fd00::/8"]}]'),
    ],
    'x/* -> * deny\nx/* -> y/a 80/TCP allow\nx/* -> out 80/TCP allow',
  ),
  ...inBothTiers(
    'pass all pod traffic before a rule on networks',
    [rule('Pass', '[{namespaces: {}}]'), rule('Deny', ALL)],
    'x/* -> * deny\nx/* -> */* allow',
  ),
  ...inBothTiers(
    'nodes by label, and all',
    [rule('Accept', '[{nodes: {matchLabels: {node: n1}}}]', port('tcp', 80)), rule('Deny', '[{nodes: {}}]')],
    'x/* -> n1 deny\nx/* -> n2 deny\nx/* -> n1 80/TCP allow',
  ),
  ...inBothTiers(
    'nodes by expression: not the pods on them, nor the world',
    [rule('Deny', '[{nodes: {matchExpressions: [{key: node, operator: NotIn, values: [n1]}]}}]')],
    'x/* -> n2 deny',
  ),
  ...inBothTiers(
    'pods as subject and as peers',
    [rule('Deny', '[{pods: {namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: {pod: b}}}}]')],
    'x/a -> y/b deny',
    '{pods: {namespaceSelector: {matchLabels: {ns: x}}, podSelector: {matchLabels: {pod: a}}}}',
  ),
  ...inBothTiers(
    'a namespaceSelector that is left out selects all namespaces',
    [rule('Deny', '[{pods: {podSelector: {matchLabels: {pod: c}}}}]')],
    '*/b -> */c deny',
    '{pods: {podSelector: {matchLabels: {pod: b}}}}',
  ),
  ...inBothTiers(
    'peers of several kinds in one rule: any of them',
    [
      rule(
        'Deny',
        '[{namespaces: {matchLabels: {ns: y}}}, {nodes: {matchLabels: {node: n2}}}, {networks: [198.19.0.0/16, "fd00:19::/32"]}]',
        port('udp', 81),
      ),
    ],
    'x/* -> y/* 81/UDP deny\nx/* -> n2 81/UDP deny\nx/* -> out 81/UDP deny',
  ),
  ...inBothTiers(
    'named ports: a name is of one protocol',
    [
      rule('Accept', to('y'), '[{destinationNamedPort: serve-80-tcp}, {destinationNamedPort: serve-81-sctp}]'),
      rule('Deny', to('y')),
      rule('Deny', to('z'), '[{destinationNamedPort: serve-81-udp}, {destinationNamedPort: nobody}]'),
    ],
    'x/* -> y/* deny\nx/* -> y/* 80/TCP allow\nx/* -> y/* 81/SCTP allow\nx/* -> z/* 81/UDP deny',
  ),
  ...inBothTiers(
    'every namespace is isolated from every other',
    [rule('Accept', to('x')), rule('Deny', '[{namespaces: {}}]')],
    'x/* -> y/* deny\nx/* -> z/* deny',
  ),
  ...inBothTiers(
    'a subject that holds everyone, hostNetwork pods left out',
    [rule('Deny', ALL)],
    '*/* -> * deny',
    EVERY_POD,
  ),
  ...inBothTiers('a subject that holds nobody', [rule('Deny', ALL)], '', '{namespaces: {matchLabels: {ns: nobody}}}'),
  ...inBothTiers(
    'names are not enforced yet: an Accept of them accepts nothing, what is denied stays denied',
    [rule('Accept', '[{domainNames: [api.example.com]}]'), rule('Deny', ALL)],
    'x/* -> * deny',
  ),
  ...inBothTiers(
    'a peer of another version of the CRD: Accept matches nothing',
    [rule('Accept', '[{futures: {}}, {namespaces: {}}]'), rule('Deny', to('y'))],
    'x/* -> y/* deny',
  ),
  ...inBothTiers(
    'a peer of another version of the CRD: Deny denies all',
    [rule('Accept', to('y')), rule('Deny', '[{futures: {}}]', port('tcp', 80))],
    'x/* -> * deny\nx/* -> y/* allow',
  ),
  ...inBothTiers(
    'a peer of another version of the CRD: Pass denies all',
    [rule('Accept', to('y')), rule('Pass', '[{}]', port('tcp', 80)), rule('Accept', ALL)],
    'x/* -> * deny\nx/* -> y/* allow',
  ),
  ...(['Admin', 'Baseline'] as const).flatMap((tier): TruthTable[] => [
    {
      title: `${tier}: the lower priority value goes first`,
      policies:
        policy('late', [rule('Accept', to('y')), rule('Deny', to('z'))], { tier, priority: 51 }) +
        policy('early', [rule('Deny', to('y'), port('tcp', 80)), rule('Accept', to('z'), port('udp', 81))], {
          tier,
          priority: 50,
        }),
      expected: 'x/* -> y/* 80/TCP deny\nx/* -> z/* deny\nx/* -> z/* 81/UDP allow',
    },
    {
      title: `${tier}: priorities 0 and 1000`,
      policies:
        policy('last', [rule('Accept', ALL)], { tier, priority: 1000 }) +
        policy('first', [rule('Deny', to('y'))], { tier, priority: 0 }),
      expected: 'x/* -> y/* deny',
    },
    {
      title: `${tier}: Pass ends the tier: later policies of it are not asked`,
      policies:
        policy('early', [rule('Pass', to('y'))], { tier, priority: 1 }) +
        policy('late', [rule('Deny', '[{namespaces: {}}]')], { tier, priority: 2 }),
      expected: 'x/* -> x/* deny\nx/* -> z/* deny',
    },
    {
      title: `${tier}: one priority, other subjects and destinations: order makes no difference`,
      policies:
        policy('a', [rule('Deny', to('y'))], { tier }) +
        policy('b', [rule('Deny', to('z'))], { tier }) +
        policy('c', [rule('Deny', to('x'))], { tier, subject: '{namespaces: {matchLabels: {ns: y}}}' }),
      expected: 'x/* -> y/* deny\nx/* -> z/* deny\ny/* -> x/* deny',
    },
    {
      title: `${tier}: one priority, one destination: the first by name, where upstream leaves it open`,
      policies:
        policy('b', [rule('Accept', to('y'))], { tier }) +
        policy('a', [rule('Deny', to('y'), port('tcp', 80))], { tier }),
      expected: 'x/* -> y/* 80/TCP deny',
    },
  ]),
  {
    title: 'Admin over NetworkPolicy: what it accepts or denies is final, what it passes is not',
    policies:
      policy('p', [
        rule('Accept', to('y'), port('tcp', 80)),
        rule('Deny', to('z'), port('tcp', 80)),
        rule('Pass', ALL),
      ]) + isolate('x', '[{to: [{namespaceSelector: {matchLabels: {ns: z}}}]}]'),
    expected: 'x/* -> * deny\nx/* -> y/* 80/TCP allow\nx/* -> z/* allow\nx/* -> z/* 80/TCP deny',
  },
  {
    title: 'NetworkPolicy over Baseline: it makes the final decision for the pods that it selects',
    policies:
      policy('p', [rule('Accept', to('y')), rule('Deny', ALL)], { tier: 'Baseline', subject: EVERY_POD }) +
      isolate('x', '[{to: [{namespaceSelector: {matchLabels: {ns: z}}}]}]'),
    expected: '*/* -> * deny\n*/* -> y/* allow\nx/* -> y/* deny\nx/* -> z/* allow',
  },
  {
    title: 'all three tiers: Admin passes, NetworkPolicy decides where it selects, Baseline elsewhere',
    policies:
      policy('admin', [rule('Pass', to('y')), rule('Deny', '[{namespaces: {}}]')], { subject: EVERY_POD }) +
      policy('baseline', [rule('Deny', to('y'))], { tier: 'Baseline', subject: EVERY_POD }) +
      isolate('x', '[{to: [{namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: {pod: a}}}]}]'),
    expected: '*/* -> */* deny\nx/* -> * deny\nx/* -> y/a allow',
  },
  {
    title: 'Audit takes no part in what passes',
    policies: policy('p', [rule('Deny', ALL)]).replace(
      '{name: p}',
      '{name: p, annotations: {postern.dev/mode: Audit}}',
    ),
    expected: '',
  },
  {
    title: 'ingress alone does not affect egress',
    policies: policy('p', []).replace('egress:\n', 'ingress:\n  - {action: Deny, from: [{namespaces: {}}]}\n'),
    expected: '',
  },
  {
    title: "Admin over a Limit and a Grant of Postern's own",
    policies: `${policy('p', [rule('Accept', to('y'), port('tcp', 80)), rule('Deny', to('z'), port('tcp', 80))])}---
apiVersion: postern.dev/v1alpha1
kind: ClusterEgressPolicy
metadata: {name: limit}
spec: {effect: Limit, subject: {namespaces: {matchLabels: {ns: x}}}, egress: [{to: [{namespaces: {matchLabels: {ns: z}}}]}]}
---
apiVersion: postern.dev/v1alpha1
kind: ClusterEgressPolicy
metadata: {name: grant}
spec: {effect: Grant, subject: {namespaces: {}}, egress: [{to: [{entities: [All]}]}]}
`,
    expected: 'x/* -> * deny\nx/* -> y/* 80/TCP allow\nx/* -> z/* allow\nx/* -> z/* 80/TCP deny',
  },
];
