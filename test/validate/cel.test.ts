// SPDX-License-Identifier: Apache-2.0
// Does each CEL rule of the CRDs hold for what it should, and refuse what it should? Each is broken once at least, by itself.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { crds, type Schema } from '../../src/schema/crds.ts';
import { brokenRules, compileRule, type SchemaWithRules } from '../../src/validate/cel.ts';
import { schemaOf } from '../../src/validate/crd.ts';

const peer = { pods: { podSelector: {} } };
const names = { domainNames: ['example.com'] };
const dns = { entities: ['DNS'] };
const tls = { serverName: 'Match' };
const web = [{ protocol: 'TCP', port: 443 }];
const rule = (more: object) => ({ egress: [{ to: [peer], ...more }] });
const to = (...peers: object[]) => ({ egress: [{ to: peers }] });
const ports = (...list: object[]) => rule({ ports: list.map((port) => ({ protocol: 'TCP', ...port })) });
const cluster = (subject: object, more: object = {}) => ({ hostNetwork: 'Exclude', subject, ...more });
const selecting = (expression: object) => ({ podSelector: { matchExpressions: [{ key: 'a', ...expression }] } });

/** What is broken (a part of the message), and specs that break just that. */
const broken: Readonly<Record<string, object[]>> = {
  'In and NotIn need values': [
    selecting({ operator: 'In' }),
    selecting({ operator: 'NotIn', values: [] }),
    selecting({ operator: 'Exists', values: ['a'] }),
    to({ namespaces: selecting({ operator: 'DoesNotExist', values: ['a'] }).podSelector }),
  ],
  'not a CIDR': [to({ networks: ['10.0.0.0'] }), to({ networks: ['10.0.0.0/8', 'x'] })],
  'an address is no domain name': [to({ domainNames: ['192.0.2.1'] }), { dns: { names: ['10.0.0.1'] } }],
  'exactly one of pods, namespaces, networks': [to({}), to({ ...peer, nodes: {} }), to({ ...peer, ...names })],
  'except goes with networks or entities only': [
    to({ ...peer, except: ['10.0.0.0/8'] }),
    to({ nodes: {}, except: [] }),
  ],
  'except beside networks takes CIDRs only': [to({ networks: ['10.0.0.0/8'], except: ['DNS'] })],
  'except goes with the entities All': [to({ entities: ['All', 'DNS'], except: ['10.0.0.0/8'] })],
  'except beside entities takes CIDRs and': [to({ entities: ['All'], except: ['World'] })],
  'endPort needs a numeric port': [
    ports({ endPort: 9 }),
    ports({ port: 10, endPort: 9 }),
    ports({ port: 'a', endPort: 9 }),
  ],
  'icmpType goes with protocol ICMP only': [ports({ icmpType: 'EchoRequest' })],
  'ICMP has no ports': [ports({ protocol: 'ICMP', port: 1 })],
  'KubeAPIServer and DNS bring their own ports': [
    { egress: [{ to: [dns], ports: [{ protocol: 'TCP', port: 53 }] }] },
    { egress: [{ to: [peer, { entities: ['World', 'KubeAPIServer'] }], ports: [{ protocol: 'TCP' }] }] },
  ],
  'a port name means something only': [
    { egress: [{ to: [{ nodes: {} }], ports: [{ protocol: 'TCP', port: 'http' }] }] },
    { egress: [{ to: [peer, { entities: ['World'] }], ports: [{ protocol: 'TCP', port: 'http' }] }] },
  ],
  'Match needs domainNames alone': [
    { egress: [{ to: [names, { networks: ['10.0.0.0/8'] }], ports: web, tls }] },
    { egress: [{ to: [{ nodes: {} }], ports: web, tls }] },
  ],
  'Match needs TCP ports': [
    { egress: [{ to: [names], tls }] },
    { egress: [{ to: [names], ports: [...web, { protocol: 'UDP', port: 443 }], tls }] },
  ],
  'via goes with networks': [
    rule({ via: { gateway: 'g' } }),
    { egress: [{ to: [names, { entities: ['World', 'Cluster'] }], via: { gateway: 'g' } }] },
  ],
  'two rules have the same name': [{ egress: ['a', 'b', 'a'].map((name) => ({ name, to: [peer] })) }],
};
const brokenInCluster: Readonly<Record<string, object[]>> = {
  'subject has exactly one of': [cluster({}), cluster({ namespaces: {}, nodeServices: { units: ['a.service'] } })],
  'an item of except has exactly one': [cluster({ namespaces: {}, except: [{}] })],
  'except does not go with nodeServices': [cluster({ nodeServices: { units: [] }, except: [{ namespaces: {} }] })],
  'hostNetwork does not go with nodeServices': [cluster({ nodeServices: { units: [] } }, { hostNetwork: 'Include' })],
};

const valid: object[] = [
  {},
  to(peer, dns, names, { nodes: {} }, { services: [{ name: 'a' }] }, { namespaces: {} }),
  to({ networks: ['10.0.0.0/8', '2001:db8::/32'], except: ['10.1.0.0/16'] }),
  to({ entities: ['All', 'World', 'Internet', 'Cluster'], except: ['Host', 'DNS', '169.254.169.254/32'] }),
  ports({ port: 1 }, { port: 65535 }, { port: 'http' }, { port: 80, endPort: 80 }, { port: 80, endPort: 90 }, {}),
  ports({ protocol: 'ICMP' }, { protocol: 'ICMP', icmpType: 'EchoReply' }),
  {
    egress: [
      { to: [names], ports: web, tls },
      { to: [peer], tls: { serverName: 'Ignore' } },
    ],
  },
  { egress: [{ to: [names, { networks: ['10.0.0.0/8'] }, { entities: ['Internet'] }], via: { gateway: 'g' } }] },
  { egress: [{ name: 'a', to: [peer] }, { to: [peer] }, { name: 'b', to: [peer] }, { to: [peer] }] },
  selecting({ operator: 'In', values: ['a'] }),
  selecting({ operator: 'Exists' }),
  selecting({ operator: 'DoesNotExist', values: [] }),
];

const messages = (kind: 'EgressPolicy' | 'ClusterEgressPolicy', spec: object) =>
  brokenRules(schemaOf(kind), { spec }, []).map(({ message }) => message);

for (const [kind, table] of [
  ['EgressPolicy', broken],
  ['ClusterEgressPolicy', brokenInCluster],
] as const) {
  for (const [part, specs] of Object.entries(table)) {
    test(`${kind}: ${part}`, () => {
      for (const spec of specs) {
        const told = messages(kind, spec);
        assert.deepEqual(
          told.map((message) => message.includes(part)),
          [true],
          `${JSON.stringify(spec)}: ${told.join(' | ')}`,
        );
      }
    });
  }
}

test('what is right breaks no rule', () => {
  for (const spec of valid) assert.deepEqual(messages('EgressPolicy', spec), [], JSON.stringify(spec));
  const subjects = [{ namespaces: {} }, { pods: {}, except: [{ pods: {} }, { namespaces: {} }] }, { nodeServices: {} }];
  for (const subject of subjects) assert.deepEqual(messages('ClusterEgressPolicy', cluster(subject)), []);
});

test('every rule of the CRDs is in these tables', () => {
  const all = new Set<string>();
  const collect = (schema: Schema): void => {
    for (const { message } of schema['x-kubernetes-validations'] ?? []) all.add(message);
    for (const property of Object.values(schema.properties ?? {})) collect(property);
    if (schema.items) collect(schema.items);
  };
  for (const { spec } of Object.values(crds)) {
    const schema = spec.versions[0]?.schema.openAPIV3Schema;
    assert.ok(schema);
    collect(schema);
  }
  const parts = [...Object.keys(broken), ...Object.keys(brokenInCluster)];
  for (const message of all) assert.equal(parts.filter((part) => message.includes(part)).length, 1, message);
  assert.equal(all.size, parts.length);
});

test('a rule that fails to evaluate has failed, and one that is no condition is a bug', () => {
  const schema: SchemaWithRules = { 'x-kubernetes-validations': [{ rule: 'self.nothing > 1', message: 'm; a' }] };
  assert.deepEqual(brokenRules(schema, {}, []), [{ path: [], rule: 'self.nothing > 1', message: 'm; a' }]);
  assert.deepEqual(brokenRules(schema, {}, [['nothing']]), [], 'what is missing was told already');
  assert.throws(() => compileRule('1 +'));
  assert.throws(() => compileRule('1 + 1'));
});
