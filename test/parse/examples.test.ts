// SPDX-License-Identifier: Apache-2.0
// Real input: the fifteen examples of the policy API, and the Online Boutique as it is shipped, read without an error.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import type { Peer, Policy } from '../../src/model/objects.ts';
import { type Parsed, readDocuments } from '../../src/parse/document.ts';

const fixtures = new URL('../fixtures/', import.meta.url);

function read(folder: string): Parsed[] {
  return readdirSync(new URL(folder, fixtures), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.yaml'))
    .sort()
    .flatMap((path) => readDocuments({ path, text: readFileSync(new URL(`${folder}${path}`, fixtures), 'utf8') }));
}

const examples = read('api/');

function policy(key: string): Policy {
  const parsed = examples.find((one) => one.key === key);
  assert.ok(parsed?.value && 'rules' in parsed.value, key);
  return parsed.value;
}

const everything = { matchLabels: {}, matchExpressions: [] };
const label = (key: string, value: string) => ({ matchLabels: { [key]: value }, matchExpressions: [] });

test('the fifteen examples are valid; what is told is what is not enforced yet', () => {
  assert.equal(new Set(examples.map(({ position }) => position.file)).size, 15);
  assert.equal(examples.length, 16);
  for (const { key, valid, value, standIn, problems } of examples) {
    assert.ok(valid && value, key ?? '');
    assert.equal(standIn, null);
    assert.deepEqual([...new Set(problems.map(({ code }) => code))], problems.length > 0 ? ['not_yet_enforced'] : []);
  }
});

test('a narrowing that cannot be enforced makes the rule allow nothing', () => {
  const { rules } = policy('EgressPolicy/payments/payments');
  assert.equal(rules[0]?.notEnforced, null);
  assert.match(rules[1]?.notEnforced ?? '', /tls/);
  assert.deepEqual(rules[1]?.peers, [
    { type: 'domainNames', names: ['api.stripe.com', 'api.adyen.com'], anywhere: false },
  ]);
  assert.deepEqual(rules[1]?.ports, [{ protocol: 'TCP', port: 443, endPort: null }]);
});

test('defaults, own namespaces and hostNetwork', () => {
  const { subject, effect, mode, onDeny, hostNetwork, namespace, rules } = policy('EgressPolicy/logging/log-shipper');
  assert.deepEqual(subject, { type: 'own', podSelector: label('app', 'log-shipper') });
  assert.deepEqual([effect, mode, onDeny, hostNetwork, namespace], ['Isolate', 'Enforce', 'Reject', true, 'logging']);
  assert.deepEqual(rules[0]?.peers, [
    { type: 'entities', entities: ['DNS', 'KubeAPIServer'], except: { cidrs: [], entities: [] } },
    { type: 'services', services: [{ namespace: 'logging', name: 'loki-gateway' }] },
  ]);
  assert.equal(rules[0]?.ports, null);
});

test('peers of every kind', () => {
  const peers = (key: string, rule: number) => policy(key).rules[rule]?.peers;
  assert.deepEqual(peers('EgressPolicy/shop/orders-db', 1), [
    {
      type: 'pods',
      namespaceSelector: label('kubernetes.io/metadata.name', 'data'),
      podSelector: label('role', 'replica'),
    },
  ]);
  assert.deepEqual(policy('EgressPolicy/shop/orders-db').rules[1]?.ports, [
    { protocol: 'TCP', port: 'postgres', endPort: null },
  ]);
  assert.deepEqual(peers('ClusterEgressPolicy/ntp', 0), [
    { type: 'networks', cidrs: ['192.0.2.123/32', '2001:db8::123/128'], except: [] },
  ]);
  assert.deepEqual(peers('ClusterEgressPolicy/no-cloud-metadata', 0), [
    {
      type: 'entities',
      entities: ['All'],
      except: { cidrs: ['169.254.169.254/32', 'fd00:ec2::254/128'], entities: [] },
    },
  ]);
  assert.deepEqual(peers('ClusterEgressPolicy/apiserver-for-controllers', 0), [
    { type: 'entities', entities: ['All'], except: { cidrs: [], entities: ['KubeAPIServer'] } },
  ]);
  const blackbox: Peer[] = [
    { type: 'nodes', selector: everything },
    { type: 'networks', cidrs: ['198.51.100.0/24', '2001:db8:51::/48'], except: [] },
  ];
  assert.deepEqual(peers('EgressPolicy/monitoring/blackbox', 0), blackbox);
  assert.deepEqual(policy('EgressPolicy/monitoring/blackbox').rules[0]?.ports, [
    { protocol: 'ICMP', icmpType: 'EchoRequest' },
  ]);
  assert.deepEqual(peers('EgressPolicy/monitoring/blackbox', 1), [
    { type: 'pods', namespaceSelector: everything, podSelector: everything },
  ]);
});

test('subjects of a cluster', () => {
  const all = { namespaceSelector: everything, podSelector: everything };
  assert.deepEqual(policy('ClusterEgressPolicy/ntp').subject, { type: 'pods', pods: all, except: [] });
  assert.equal(policy('ClusterEgressPolicy/ntp').namespace, null);
  assert.equal(policy('ClusterEgressPolicy/ntp').effect, 'Grant');
  assert.deepEqual(policy('ClusterEgressPolicy/no-cloud-metadata').subject, {
    type: 'pods',
    pods: all,
    except: [
      {
        namespaceSelector: label('kubernetes.io/metadata.name', 'kube-system'),
        podSelector: label('app', 'csi-node'),
      },
    ],
  });
  assert.deepEqual(policy('ClusterEgressPolicy/node-runtime').subject, {
    type: 'nodeServices',
    nodeSelector: everything,
    units: ['kubelet.service', 'containerd.service'],
  });
  assert.equal(policy('ClusterEgressPolicy/node-runtime').mode, 'Audit');
});

test('the Online Boutique: no problem, and each policy leaves its pods free to call', () => {
  const objects = read('online-boutique/');
  assert.deepEqual(
    objects.flatMap(({ problems }) => problems),
    [],
  );
  const count = (kind: string | null) => objects.filter((one) => one.kind === kind).length;
  assert.deepEqual(['Service', 'NetworkPolicy', null].map(count), [12, 13, 23]);
  for (const { key, kind, value } of objects) {
    if (kind !== 'NetworkPolicy' || key === 'NetworkPolicy/default/deny-all') continue;
    assert.deepEqual(
      value?.rules,
      [{ name: null, action: 'Accept', peers: [{ type: 'any' }], ports: null, notEnforced: null }],
      key ?? '',
    );
  }
  assert.deepEqual(objects.find(({ key }) => key === 'NetworkPolicy/default/deny-all')?.value, {
    kind: 'NetworkPolicy',
    namespace: 'default',
    name: 'deny-all',
    subject: { type: 'own', podSelector: everything },
    effect: 'Isolate',
    priority: 0,
    mode: 'Enforce',
    onDeny: 'Reject',
    hostNetwork: false,
    rules: [],
  });
});
