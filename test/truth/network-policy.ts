// SPDX-License-Identifier: Apache-2.0
// NetworkPolicy in egress as truth tables: what the end-to-end suite of Kubernetes asks of an enforcer, and both families at once.
import type { TruthTable } from './table.ts';

const policy = (name: string, spec: string, namespace = 'x') =>
  `---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: ${name}, namespace: ${namespace}}\nspec: ${spec}\n`;
const from = (selector: string, egress: string) =>
  `{podSelector: ${selector}, policyTypes: [Egress], egress: ${egress}}`;
const A = '{matchLabels: {pod: a}}';

export const NETWORK_POLICY: readonly TruthTable[] = [
  {
    title: 'no policy',
    policies: '',
    expected: '',
  },
  {
    title: 'deny all egress of a namespace',
    policies: policy('deny', from('{}', '[]')),
    expected: 'x/* -> * deny',
  },
  {
    title: 'deny all egress of one pod; policyTypes without egress is the same',
    policies: policy('deny', `{podSelector: ${A}, policyTypes: [Egress]}`),
    expected: 'x/a -> * deny',
  },
  {
    title: 'ingress alone does not isolate for egress; nor does an empty egress without policyTypes',
    policies:
      policy('in', '{podSelector: {}, policyTypes: [Ingress]}') + policy('none', '{podSelector: {}, egress: []}'),
    expected: '',
  },
  {
    title: 'an egress section without policyTypes isolates',
    policies: policy('p', '{podSelector: {}, egress: [{ports: [{port: 80}]}]}'),
    expected: 'x/* -> * deny\nx/* -> * 80/TCP allow',
  },
  {
    title: 'allow all beside deny all: the union',
    policies: policy('deny', from('{}', '[]')) + policy('allow', from('{}', '[{}]')),
    expected: '',
  },
  {
    title: 'to pods of the own namespace',
    policies: policy('p', from(A, '[{to: [{podSelector: {matchLabels: {pod: b}}}]}]')),
    expected: 'x/a -> * deny\nx/a -> x/b allow',
  },
  {
    title: 'an empty podSelector is every pod of the own namespace',
    policies: policy('p', from('{}', '[{to: [{podSelector: {}}]}]')),
    expected: 'x/* -> * deny\nx/* -> x/* allow',
  },
  {
    title: 'to namespaces by label',
    policies: policy('p', from('{}', '[{to: [{namespaceSelector: {matchLabels: {ns: y}}}]}]')),
    expected: 'x/* -> * deny\nx/* -> y/* allow',
  },
  {
    title: 'to a namespace by its name',
    policies: policy('p', from('{}', '[{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: z}}}]}]')),
    expected: 'x/* -> * deny\nx/* -> z/* allow',
  },
  {
    title: 'an empty namespaceSelector is every pod of the cluster, and nothing else',
    policies: policy('p', from('{}', '[{to: [{namespaceSelector: {}}]}]')),
    expected: 'x/* -> * deny\nx/* -> */* allow',
  },
  {
    title: 'namespace and pod selector in one peer: both',
    policies: policy('p', from('{}', `[{to: [{namespaceSelector: {matchLabels: {ns: y}}, podSelector: ${A}}]}]`)),
    expected: 'x/* -> * deny\nx/* -> y/a allow',
  },
  {
    title: 'namespace and pod selector in two peers: either',
    policies: policy('p', from('{}', `[{to: [{namespaceSelector: {matchLabels: {ns: y}}}, {podSelector: ${A}}]}]`)),
    expected: 'x/* -> * deny\nx/* -> y/* allow\nx/* -> x/a allow',
  },
  {
    title: 'matchExpressions of namespaces: In, NotIn, Exists, DoesNotExist',
    policies:
      policy(
        'in',
        from(A, '[{to: [{namespaceSelector: {matchExpressions: [{key: ns, operator: In, values: [y, z]}]}}]}]'),
      ) +
      policy(
        'not-in',
        from(
          '{matchLabels: {pod: b}}',
          '[{to: [{namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: [x]}]}}]}]',
        ),
      ) +
      policy(
        'exists',
        from(
          '{matchLabels: {pod: c}}',
          '[{to: [{namespaceSelector: {matchExpressions: [{key: ns, operator: Exists}, {key: other, operator: DoesNotExist}]}}]}]',
        ),
      ),
    expected: 'x/* -> * deny\nx/a -> y/* allow\nx/a -> z/* allow\nx/b -> y/* allow\nx/b -> z/* allow\nx/c -> */* allow',
  },
  {
    title: 'matchExpressions of pods, in the subject and in a peer',
    policies: policy(
      'p',
      from(
        '{matchExpressions: [{key: pod, operator: NotIn, values: [c]}]}',
        '[{to: [{podSelector: {matchExpressions: [{key: pod, operator: In, values: [b, c]}]}}]}]',
      ),
    ),
    expected: 'x/a -> * deny\nx/b -> * deny\nx/a -> x/b allow\nx/a -> x/c allow\nx/b -> x/c allow',
  },
  {
    title: 'one port of one protocol',
    policies: policy('p', from(A, '[{ports: [{port: 81, protocol: UDP}]}]')),
    expected: 'x/a -> * deny\nx/a -> * 81/UDP allow',
  },
  {
    title: 'the protocol is TCP by default; a protocol without a port is all its ports',
    policies: policy('p', from(A, '[{ports: [{port: 80}, {protocol: SCTP}]}]')),
    expected: 'x/a -> * deny\nx/a -> * 80/TCP allow\nx/a -> * */SCTP allow',
  },
  {
    title: 'a port by its name, which only pods have',
    policies: policy('p', from(A, '[{ports: [{port: serve-81-udp, protocol: UDP}, {port: serve-80-sctp}]}]')),
    expected: 'x/a -> * deny\nx/a -> */* 81/UDP allow',
  },
  {
    title: 'a range of ports, both ends included',
    policies:
      policy('p', from(A, '[{ports: [{port: 79, endPort: 80}]}]')) +
      policy('q', from('{matchLabels: {pod: b}}', '[{ports: [{port: 80, endPort: 81, protocol: SCTP}]}]')),
    expected: 'x/a -> * deny\nx/b -> * deny\nx/a -> * 80/TCP allow\nx/b -> * */SCTP allow',
  },
  {
    title: 'peers and ports of a rule: both; of two rules: either',
    policies: policy(
      'p',
      from(
        A,
        '[{to: [{namespaceSelector: {matchLabels: {ns: y}}}], ports: [{port: 80}]}, {to: [{podSelector: {}}], ports: [{port: 81, protocol: UDP}]}]',
      ),
    ),
    expected: 'x/a -> * deny\nx/a -> y/* 80/TCP allow\nx/a -> x/* 81/UDP allow',
  },
  {
    title: 'ipBlock: by address, whoever has it',
    policies: policy('p', from(A, '[{to: [{ipBlock: {cidr: 198.18.2.0/24}}, {ipBlock: {cidr: "fd00:18:2::/48"}}]}]')),
    expected: 'x/a -> * deny\nx/a -> y/* allow',
  },
  {
    title: 'ipBlock with except, which takes nothing from another rule',
    policies:
      policy(
        'p',
        from(
          '{}',
          '[{to: [{ipBlock: {cidr: 198.18.0.0/15, except: [198.18.2.0/24, 198.19.0.0/16]}}, {ipBlock: {cidr: "fd00::/16", except: ["fd00:18:2::/48", "fd00:19::/32"]}}]}]',
        ),
      ) + policy('q', from(A, '[{to: [{ipBlock: {cidr: 198.18.2.3/32}}, {ipBlock: {cidr: "fd00:18:2::3/128"}}]}]')),
    expected: 'x/* -> y/* deny\nx/* -> out deny\nx/a -> y/c allow',
  },
  {
    title: 'an address outside, which no selector selects',
    policies: policy(
      'p',
      from(
        '{}',
        '[{to: [{ipBlock: {cidr: 198.19.0.1/32}}, {ipBlock: {cidr: "fd00:19::1/128"}}], ports: [{port: 80}]}]',
      ),
    ),
    expected: 'x/* -> * deny\nx/* -> out 80/TCP allow',
  },
  {
    title: 'policies of several namespaces, each for its own pods',
    policies:
      policy('p', from('{}', '[{to: [{namespaceSelector: {matchLabels: {ns: y}}}]}]')) +
      policy('p', from(A, '[{to: [{podSelector: {}}]}]'), 'y') +
      policy('p', from(A, '[]'), 'z'),
    expected: 'x/* -> * deny\nx/* -> y/* allow\ny/a -> * deny\ny/a -> y/* allow\nz/a -> * deny',
  },
  {
    title: 'several policies on one pod: the union of what they allow',
    policies:
      policy('p', from('{}', '[{to: [{podSelector: {matchLabels: {pod: b}}}], ports: [{port: 80}]}]')) +
      policy('q', from(A, '[{to: [{podSelector: {matchLabels: {pod: b}}}], ports: [{port: 81}]}]')) +
      policy('r', from(A, '[{to: [{namespaceSelector: {matchLabels: {ns: z}}}]}]')),
    expected: 'x/* -> * deny\nx/* -> x/b 80/TCP allow\nx/a -> x/b 81/TCP allow\nx/a -> z/* allow',
  },
];
