// SPDX-License-Identifier: Apache-2.0
// Is a ClusterNetworkPolicy read as upstream's CRD defines it, and what stands for one that is broken?
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Policy, Rule } from '../../src/model/objects.ts';
import { readDocuments } from '../../src/parse/document.ts';

function read(spec: string, annotations = '{}') {
  const text = `apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: a, annotations: ${annotations}}\nspec: ${spec}\n`;
  const [parsed] = readDocuments({ path: 'f', text });
  assert.ok(parsed);
  return { ...parsed, value: parsed.value as Policy | null };
}

const spec = (egress: string, more = 'tier: Admin, priority: 7, subject: {namespaces: {}}') =>
  `{${more}, egress: ${egress}}`;

function rule(text: string): Rule {
  const { value, valid } = read(spec(`[${text}]`));
  assert.ok(valid, text);
  const [first] = value?.rules ?? [];
  assert.ok(first);
  return first;
}

const everything = { matchLabels: {}, matchExpressions: [] };
const label = (key: string, value: string) => ({ matchLabels: { [key]: value }, matchExpressions: [] });
const DENY = '{action: Deny, to: [{namespaces: {}}]}';

test('tier, priority, subject, and what upstream never says', () => {
  const pods = '{pods: {podSelector: {matchLabels: {app: web}}}}';
  const { value, problems } = read(spec(`[${DENY}]`, `tier: Baseline, priority: 0, subject: ${pods}`));
  assert.deepEqual(problems, []);
  assert.ok(value);
  const { rules, ...rest } = value;
  assert.equal(rules.length, 1);
  assert.deepEqual(rest, {
    ...{ kind: 'ClusterNetworkPolicy', namespace: null, name: 'a', effect: 'Baseline', priority: 0 },
    ...{ mode: 'Enforce', onDeny: 'Reject', hostNetwork: false },
    subject: {
      type: 'pods',
      // An absent namespaceSelector is an empty one: all namespaces, never the policy's own.
      pods: { namespaceSelector: everything, podSelector: label('app', 'web') },
      except: [],
    },
  });
  const shop = read(spec(`[${DENY}]`, 'tier: Admin, priority: 1000, subject: {namespaces: {matchLabels: {ns: shop}}}'));
  assert.deepEqual(shop.value?.subject, {
    type: 'pods',
    pods: { namespaceSelector: label('ns', 'shop'), podSelector: everything },
    except: [],
  });
  assert.equal(shop.value?.effect, 'Admin');
});

test('without egress rules there is no policy, whatever it says of ingress', () => {
  for (const text of [
    '{tier: Admin, priority: 1, subject: {namespaces: {}}}',
    '{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: []}',
    '{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}',
  ]) {
    const { valid, value, standIn, key } = read(text);
    assert.deepEqual([valid, value, standIn, key], [true, null, null, 'ClusterNetworkPolicy/a'], text);
  }
});

test('peers', () => {
  const peers = (to: string) => rule(`{name: x, action: Accept, to: [${to}]}`).peers;
  assert.deepEqual(peers('{namespaces: {matchLabels: {a: b}}}'), [
    { type: 'pods', namespaceSelector: label('a', 'b'), podSelector: everything },
  ]);
  assert.deepEqual(peers('{pods: {podSelector: {}}}'), [
    { type: 'pods', namespaceSelector: everything, podSelector: everything },
  ]);
  assert.deepEqual(peers('{nodes: {matchLabels: {a: b}}}, {networks: [10.0.0.1/8, "::/0"]}'), [
    { type: 'nodes', selector: label('a', 'b') },
    { type: 'networks', cidrs: ['10.0.0.0/8', '::/0'], except: [] },
  ]);
  assert.deepEqual(peers('{domainNames: ["*.Example.org.", api.example.com]}'), [
    { type: 'domainNames', names: ['*.example.org', 'api.example.com'], anywhere: false },
  ]);
});

test('protocols: none is all; a name has the protocol of its port', () => {
  const ports = (protocols: string) => rule(`{action: Pass, to: [{namespaces: {}}]${protocols}}`).ports;
  assert.equal(ports(''), null);
  assert.deepEqual(
    ports(
      ', protocols: [{tcp: {destinationPort: {number: 80}}}, {udp: {destinationPort: {range: {start: 5, end: 9}}}}, {sctp: {destinationPort: {number: 1}}}]',
    ),
    [
      { protocol: 'TCP', port: 80, endPort: null },
      { protocol: 'UDP', port: 5, endPort: 9 },
      { protocol: 'SCTP', port: 1, endPort: null },
    ],
  );
  assert.deepEqual(
    ports(', protocols: [{destinationNamedPort: http}]'),
    ['TCP', 'UDP', 'SCTP'].map((protocol) => ({ protocol, port: 'http', endPort: null })),
  );
});

test('an unknown peer: an Accept matches nothing, Deny and Pass deny all', () => {
  const to = 'to: [{namespaces: {}}, {futures: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}]';
  const accept = rule(`{name: x, action: Accept, ${to}}`);
  assert.deepEqual([accept.action, accept.peers, accept.name], ['Accept', [], 'x']);
  assert.notEqual(accept.notEnforced, null);
  for (const action of ['Deny', 'Pass']) {
    assert.deepEqual(rule(`{name: x, action: ${action}, ${to}}`), {
      ...{ name: 'x', action: 'Deny', peers: [{ type: 'any' }], ports: null, notEnforced: null },
    });
  }
});

test('the annotation makes it Audit, and nothing else does', () => {
  const mode = (annotations: string) => read(spec(`[${DENY}]`), annotations).value?.mode;
  assert.equal(mode('{}'), 'Enforce');
  assert.equal(mode('{postern.dev/mode: Audit}'), 'Audit');
  assert.equal(mode('{postern.dev/mode: audit}'), 'Enforce');
  assert.equal(read(spec(`[${DENY}]`), '{postern.dev/mode: audit}').problems[0]?.code, 'mode');
});

test('stand-ins: Admin isolates, Baseline denies all, Audit stays Audit; nothing where the subject or egress is no part of it', () => {
  const stand = (text: string, annotations?: string) => {
    const { valid, standIn } = read(text, annotations);
    assert.equal(valid, false, text);
    if (standIn === null) return null;
    assert.deepEqual([standIn.hostNetwork, standIn.onDeny, standIn.namespace], [false, 'Reject', null]);
    return [
      standIn.effect,
      standIn.mode,
      standIn.rules.map(({ action, peers }) => `${action} ${peers[0]?.type}`).join(),
    ];
  };
  const wrong = '[{action: Deny, to: []}]';
  const baseline = 'tier: Baseline, priority: 7, subject: {namespaces: {}}';
  assert.deepEqual(stand(spec(wrong)), ['Isolate', 'Enforce', '']);
  assert.deepEqual(stand(spec(wrong, baseline)), ['Baseline', 'Enforce', 'Deny any']);
  assert.deepEqual(stand(spec(wrong), '{postern.dev/mode: Audit}'), ['Isolate', 'Audit', '']);
  assert.deepEqual(stand(spec(wrong, 'tier: Nowhere, priority: 7, subject: {namespaces: {}}')), [
    'Isolate',
    'Enforce',
    '',
  ]);
  assert.deepEqual(stand('{tier: Admin, priority: 1, subject: {namespaces: {}}, egres: []}'), [
    'Isolate',
    'Enforce',
    '',
  ]);
  assert.deepEqual(stand('{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: {}}'), [
    'Isolate',
    'Enforce',
    '',
  ]);
  assert.equal(stand('{tier: Admin, priority: -1, subject: {namespaces: {}}}'), null, 'no egress: ingress alone');
  assert.equal(stand(spec(wrong, 'tier: Admin, priority: 7, subject: {}')), null);
  assert.equal(stand(spec(wrong, 'tier: Admin, priority: 7')), null);
  const operator = '{matchExpressions: [{key: a, operator: in, values: [b]}]}';
  assert.equal(stand(spec(`[${DENY}]`, `tier: Admin, priority: 7, subject: {namespaces: ${operator}}`)), null);
});
