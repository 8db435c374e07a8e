// SPDX-License-Identifier: Apache-2.0
// What is explained where a user asks by name, and where DNS told names of an address.
import assert from 'node:assert/strict';
import test from 'node:test';
import { compile } from '../../src/compile/compile.ts';
import { explainer, type Query, QueryError } from '../../src/judge/explain.ts';
import { ObjectStore } from '../../src/source/store.ts';

const TEXT = `
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop}, status: {podIP: 198.18.0.1}}
---
apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: api, namespace: shop}
spec:
  egress:
  - {to: [{domainNames: [api.example.com, "*.example.org"]}], ports: [{port: 443}]}
  - {to: [{domainNames: [pinned.example.net]}], ports: [{port: 443}], tls: {serverName: Match}}
  - {to: [{networks: [192.0.2.0/24]}], ports: [{port: 80}]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: no-test-nets}
spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [203.0.113.0/24]}]}]}
`;
const { snapshot } = new ObjectStore(null).update(
  { files: [{ path: 'a.yaml', text: TEXT, hash: '' }], unreadable: [] },
  { node: null, addresses: [], resolvers: ['198.18.0.53'] },
);
const compiled = compile(snapshot);
const { explain } = explainer(snapshot, compiled);
const ask = (to: string, more: Partial<Query> = {}) =>
  explain({ from: 'shop/web', to, port: 443, protocol: 'TCP', ...more });
const told = (to: string, more: Partial<Query> = {}): string => {
  const { verdict, reason, policy, rule } = ask(to, more);
  return [verdict, reason, policy, rule].filter((part) => part !== null).join(' ');
};

test('a name is judged as an address to which it led', () => {
  const allowed = 'allow rule EgressPolicy/shop/api 0';
  assert.equal(told('api.example.com'), allowed);
  assert.equal(told('API.Example.com.'), allowed);
  assert.equal(told('a.b.example.org'), allowed);
  for (const name of ['example.org', 'example.com', 'notexample.org', 'www.api.example.com', 'pinned.example.net']) {
    assert.equal(told(name), 'deny no_rule EgressPolicy/shop/api', name);
  }
  assert.equal(told('api.example.com', { port: 80 }), 'deny no_rule EgressPolicy/shop/api');
});

test('the notes say what was asked, whose address matters, and which rule is not as written', () => {
  const [asked, denying, ...none] = ask('api.example.com').notes;
  assert.match(asked ?? '', /for names were asked/);
  assert.match(denying ?? '', /^ClusterNetworkPolicy\/no-test-nets denies networks: ask for the address/);
  assert.deepEqual(none, []);
  assert.match(ask('pinned.example.net').notes.at(-1) ?? '', /rule 1 names it, but tls\.serverName: Match is not yet/);
});

test('an address with names that led there', () => {
  const names = ['www.example.org', 'other.example'];
  assert.equal(told('192.0.2.1'), 'deny no_rule EgressPolicy/shop/api');
  assert.equal(told('192.0.2.1', { names }), 'allow rule EgressPolicy/shop/api 0');
  assert.equal(told('192.0.2.1', { names: ['other.example'] }), 'deny no_rule EgressPolicy/shop/api');
  assert.equal(told('192.0.2.1', { port: 80, names }), 'allow rule EgressPolicy/shop/api 2');
  assert.equal(told('203.0.113.1', { names }), 'deny admin_deny ClusterNetworkPolicy/no-test-nets 0');
  assert.equal(told('169.254.169.254', { names }), 'deny no_rule EgressPolicy/shop/api', 'outside World');
  for (const name of ['*.example.org', '192.0.2.1', 'a b']) {
    assert.throws(() => ask('192.0.2.1', { names: [name] }), QueryError, name);
  }
});

test('the tables hold patterns, rows under classes, and resolvers, these also while no policy speaks of names', () => {
  const { names, resolvers, rows } = compiled.tables;
  assert.deepEqual([...names.keys()].sort(), ['*.example.org', 'api.example.com']);
  assert.deepEqual([...resolvers], [`${'0'.repeat(20)}ffffc6120035/53`]);
  for (const id of names.values()) assert([...rows.values()].some(({ subject }) => subject === id));
  const without = compile({ ...snapshot, policies: [] }).tables;
  assert.equal(without.names.size, 0);
  assert.deepEqual(without.resolvers, resolvers, 'the first name that a policy speaks of may have been told before');
});
