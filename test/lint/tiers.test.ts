// SPDX-License-Identifier: Apache-2.0
// What is said of the order of ClusterNetworkPolicies, and what is not said.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lintFiles } from '../../src/lint/lint.ts';

const ALL = '[{networks: [0.0.0.0/0]}, {networks: ["::/0"]}]';
const policy = (
  name: string,
  rules: string,
  { tier = 'Admin', priority = 1, subject = '{namespaces: {}}', mode = '' } = {},
) =>
  `{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: ${name}, annotations: {${mode === '' ? '' : `postern.dev/mode: ${mode}`}}}, spec: {tier: ${tier}, priority: ${priority}, subject: ${subject}, egress: [${rules}]}}`;
const pod = (name: string, namespace = 'shop') =>
  `{apiVersion: v1, kind: Pod, metadata: {name: ${name}, namespace: ${namespace}, labels: {app: ${name}}}, spec: {containers: [{name: c, image: c, ports: [{name: http, containerPort: 80}]}]}}`;

/** Codes with paths and objects, but for what is not enforced yet. */
function told(...objects: string[]): string[] {
  return lintFiles([{ path: 'f', text: objects.join('\n---\n') }])
    .problems.filter(({ code }) => code !== 'not_yet_enforced')
    .map(({ code, path, object }) => `${object?.split('/').at(-1)} ${code} ${path}`);
}

test('a rule behind one that means as much is never reached', () => {
  const behind = (first: string, second: string) => told(policy('a', `${first}, ${second}`));
  const unreachable = ['a unreachable_rule spec.egress[1]'];
  const deny = (to: string, more = '') => `{action: Deny, to: ${to}${more}}`;
  const accept = (to: string, more = '') => `{action: Accept, to: ${to}${more}}`;
  const tcp = ', protocols: [{tcp: {destinationPort: {number: 80}}}]';
  const range = ', protocols: [{tcp: {destinationPort: {range: {start: 1, end: 90}}}}]';
  const web = '[{pods: {podSelector: {matchLabels: {app: web}}}}]';
  for (const [first, second, expected] of [
    [deny(ALL), accept('[{namespaces: {}}]'), unreachable],
    ['{action: Pass, to: [{namespaces: {}}]}', deny(web), unreachable],
    [accept(ALL), deny('[{nodes: {}}]', tcp), unreachable],
    [deny('[{networks: [10.0.0.0/8]}]'), accept('[{networks: [10.1.0.0/16, 10.2.0.0/16]}]'), unreachable],
    [deny(web, range), accept(web, tcp), unreachable],
    [deny(web, tcp), accept(web, range), []],
    [deny(web, tcp), accept(web), []],
    [deny('[{networks: [10.1.0.0/16]}]'), accept('[{networks: [10.0.0.0/8]}]'), []],
    [deny('[{networks: [0.0.0.0/0]}]'), accept('[{namespaces: {}}]'), []],
    [deny('[{namespaces: {}}]'), accept('[{networks: [10.0.0.0/8]}]'), []],
    [deny('[{namespaces: {}}]'), accept('[{nodes: {}}]'), []],
  ] as const) {
    assert.deepEqual(behind(first, second), expected, `${first} ${second}`);
  }
});

test('by an earlier policy of the same tier that holds at least as many', () => {
  const deny = `{action: Deny, to: ${ALL}}`;
  const accept = '{action: Accept, to: [{namespaces: {}}]}';
  const shop = { subject: '{namespaces: {matchLabels: {kubernetes.io/metadata.name: shop}}}' };
  const unreachable = ['b unreachable_rule spec.egress[0]'];
  assert.deepEqual(told(policy('a', deny), policy('b', accept, { priority: 2, ...shop })), unreachable);
  assert.deepEqual(told(policy('a', deny, shop), policy('b', accept, { priority: 2, ...shop })), unreachable);
  assert.deepEqual(told(policy('a', deny, shop), policy('b', accept, { priority: 2 })), [], 'it holds others, too');
  assert.deepEqual(told(policy('a', deny), policy('b', accept, { priority: 0 })), [], 'it goes first');
  assert.deepEqual(told(policy('a', deny), policy('b', accept, { tier: 'Baseline', priority: 2 })), [], 'another tier');
  assert.deepEqual(told(policy('a', deny, { mode: 'Audit' }), policy('b', accept, { priority: 2 })), [], 'only tried');
});

test('Pass in the Baseline tier', () => {
  const pass = '{action: Pass, to: [{namespaces: {}}]}';
  assert.deepEqual(told(policy('a', pass, { tier: 'Baseline' })), ['a baseline_pass spec.egress[0].action']);
  assert.deepEqual(told(policy('a', pass)), []);
});

test('one priority for two that differ on the same traffic of the same pods', () => {
  const accept = '{action: Accept, to: [{namespaces: {}}]}';
  const deny = (to: string) => `{action: Deny, to: ${to}}`;
  const every = deny('[{namespaces: {}}]');
  const tie = ['b same_priority spec.priority'];
  const web = { subject: '{pods: {podSelector: {matchLabels: {app: web}}}}' };
  const api = { subject: '{pods: {podSelector: {matchLabels: {app: api}}}}' };
  const ties = (...objects: string[]) => told(...objects).filter((line) => line.includes('same_priority'));
  const named = policy('a', '{action: Accept, to: [{domainNames: [api.example.com]}]}');
  assert.deepEqual(ties(named, policy('b', deny('[{networks: [203.0.113.0/24]}]'))), tie, 'a name may lead there');
  assert.deepEqual(ties(named, policy('b', every)), [], 'no name leads to a pod');
  assert.deepEqual(ties(policy('a', accept), policy('b', every)), tie);
  assert.deepEqual(ties(policy('a', accept), policy('b', every, { priority: 2 })), []);
  assert.deepEqual(ties(policy('a', accept), policy('b', every, { tier: 'Baseline' })), []);
  assert.deepEqual(ties(policy('a', every), policy('b', every)), [], 'they say the same');
  assert.deepEqual(ties(policy('a', accept), policy('b', deny('[{nodes: {}}]'))), [], 'other destinations');
  assert.deepEqual(ties(policy('a', accept, web), policy('b', every, api)), [], 'other pods, as far as can be told');
  assert.deepEqual(ties(policy('a', accept, web), policy('b', every), pod('web')), tie);
  assert.deepEqual(ties(policy('a', accept, web), policy('b', every, api), pod('web'), pod('api')), []);
});

test('a subject that selects nobody, names without DNS, ports that nobody has: as of other kinds', () => {
  const db = { subject: '{pods: {podSelector: {matchLabels: {app: db}}}}' };
  const accept = (protocols: string) => `{action: Accept, to: [{namespaces: {}}], protocols: [${protocols}]}`;
  assert.deepEqual(told(policy('a', accept('{destinationNamedPort: http}'), db), pod('web')), [
    'a selects_nobody spec.subject',
  ]);
  const ports = '{tcp: {destinationPort: {number: 1}}}, {destinationNamedPort: http}, {destinationNamedPort: grpc}';
  assert.deepEqual(told(policy('a', accept(ports)), pod('web')), [
    'a port_not_found spec.egress[0].protocols[2].destinationNamedPort',
  ]);
  const names = '{action: Accept, to: [{domainNames: [api.example.com]}]}';
  const dns = '{action: Accept, to: [{namespaces: {}}], protocols: [{udp: {destinationPort: {number: 53}}}]}';
  const deny = `{action: Deny, to: ${ALL}}`;
  assert.deepEqual(told(policy('a', names)), [], 'nothing denies DNS');
  assert.deepEqual(told(policy('a', `${names}, ${deny}`)), ['a no_dns_rule spec.egress[0].to[0].domainNames']);
  assert.deepEqual(told(policy('a', `${names}, ${deny}, ${dns}`)).sort(), [
    'a no_dns_rule spec.egress[0].to[0].domainNames',
    'a unreachable_rule spec.egress[2]',
  ]);
  assert.deepEqual(told(policy('a', `${names}, ${dns}, ${deny}`)), []);
});
