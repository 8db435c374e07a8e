// SPDX-License-Identifier: Apache-2.0
// Which names may be asked, from the text of policies to what explain says: by table, and as the oracle says on random clusters.
// `POSTERN_SEED=N` repeats a run.
import assert from 'node:assert/strict';
import test from 'node:test';
import { NAME_ASKED } from '#build/generated/abi.ts';
import { compile } from '../../src/compile/compile.ts';
import { explainer, type NameExplanation, QueryError } from '../../src/judge/explain.ts';
import type { Host, Snapshot } from '../../src/model/objects.ts';
import { NO_ID } from '../../src/model/tables.ts';
import { ObjectStore } from '../../src/source/store.ts';
import { decideName } from '../oracle/decide.ts';
import { generate } from '../oracle/generate.ts';
import { TOLD_NAMES } from '../oracle/generate-query.ts';
import type { Pod } from '../oracle/kubernetes.ts';

const HOST: Host = {
  ...{ node: null, addresses: [], resolvers: ['198.18.0.53'] },
  searchDomains: ['corp.example', 'b.example'],
};

function snapshotOf(text: string, host: Host = HOST): Snapshot {
  const { snapshot, problems } = new ObjectStore(null).update(
    { files: [{ path: 'a.yaml', text, hash: '' }], unreadable: [] },
    host,
  );
  assert.deepEqual(
    problems.filter(({ severity }) => severity === 'error'),
    [],
  );
  return snapshot;
}

const PODS = `
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop}, status: {podIP: 198.18.0.1}}
`;
const policy = (name: string, spec: string, kind = 'EgressPolicy'): string =>
  `---\n{apiVersion: postern.dev/v1alpha1, kind: ${kind}, metadata: {name: ${name}${kind === 'EgressPolicy' ? ', namespace: shop' : ''}}, spec: ${spec}}\n`;
const ONLY = 'queries: AllowedNamesOnly';

function asker(policies: readonly string[], host: Host = HOST): (name: string) => NameExplanation {
  const snapshot = snapshotOf(PODS + policies.join(''), host);
  const compiled = compile(snapshot);
  assert.deepEqual(compiled.problems, []);
  const { explainName } = explainer(snapshot, compiled);
  return (name) => explainName({ from: 'shop/web', ask: name });
}

const spelled = ({ verdict, reason, policy: by }: NameExplanation): string =>
  [verdict, reason, by ?? ''].join(' ').trim();

function check(policies: readonly string[], cases: Readonly<Record<string, string>>): void {
  const ask = asker(policies);
  for (const [name, expected] of Object.entries(cases)) assert.equal(spelled(ask(name)), expected, name);
}

test('where no policy says otherwise, any name may be asked', () => {
  const rules = 'egress: [{to: [{domainNames: [api.example.com]}]}]';
  check([policy('a', `{dns: {names: [x.example]}, ${rules}}`)], {
    'api.example.com': 'allow not_isolated',
    'evil.example': 'allow not_isolated',
  });
});

test('names of every Isolate and Grant together, and the cluster’s own', () => {
  const by = 'deny name_not_allowed EgressPolicy/shop/b';
  check(
    [
      policy('a', '{effect: Grant, egress: [{to: [{domainNames: ["*.example.org"]}]}]}'),
      policy(
        'b',
        `{dns: {${ONLY}, names: [_ldap._tcp.corp.test]}, egress: [{to: [{domainNames: [Api.Example.com.]}]}]}`,
      ),
      policy(
        'c',
        '{egress: [{to: [{domainNames: [pinned.example.net]}], ports: [{port: 443}], tls: {serverName: Match}}]}',
      ),
    ],
    {
      'api.example.com': 'allow rule',
      'API.EXAMPLE.COM.': 'allow rule',
      'www.api.example.com': by,
      'a.b.example.org': 'allow rule',
      'example.org': by,
      '_ldap._tcp.corp.test': 'allow rule',
      'pinned.example.net': 'allow rule',
      'db.data.svc.cluster.local': 'allow rule',
      'cluster.local': 'allow rule',
      'notcluster.local': by,
      '1.0.0.10.in-addr.arpa': by,
      'evil.example': by,
    },
  );
});

test('of each Limit that says so its own names, whoever else lists them', () => {
  const limit = (name: string, spec: string) =>
    policy(name, `{effect: Limit, subject: {namespaces: {}}, ${spec}}`, 'ClusterEgressPolicy');
  check(
    [
      limit('l1', `dns: {${ONLY}, names: ["*.example.com"]}`),
      limit('l2', 'dns: {names: [other.example]}'),
      policy('a', `{dns: {${ONLY}, names: [api.example.com, other.example]}}`),
    ],
    {
      'api.example.com': 'allow rule',
      'www.example.com': 'deny name_not_allowed EgressPolicy/shop/a',
      'other.example': 'deny name_not_allowed ClusterEgressPolicy/l1',
      'evil.example': 'deny name_not_allowed ClusterEgressPolicy/l1',
      'kubernetes.default.svc.cluster.local': 'allow rule',
    },
  );
});

test('an allowed name with a search domain behind it is no refusal', () => {
  const by = 'deny name_not_allowed EgressPolicy/shop/a';
  check([policy('a', `{dns: {${ONLY}, names: [api.example.com, "*.example.org", internal.corp.example]}}`)], {
    'api.example.com.corp.example': 'allow search_domain',
    'a.b.example.org.b.example': 'allow search_domain',
    'db.data.svc.cluster.local.corp.example': 'allow search_domain',
    'internal.corp.example': 'allow rule',
    'internal.b.example': by,
    'corp.example': by,
    'api.example.com.other.example': by,
    'evil.example.corp.example': by,
    'api.example.com.corp.example.b.example': by,
  });
  const long = `${'a'.repeat(63)}.${'b'.repeat(63)}.${'c'.repeat(63)}.${'d'.repeat(53)}.example`;
  assert.equal(long.length, 253);
  check([policy('a', `{dns: {${ONLY}, names: [${long}]}}`)], { [long]: 'allow rule', [long.slice(1)]: by });
});

test('an Audit policy refuses in the shadow alone', () => {
  check([policy('a', `{mode: Audit, dns: {${ONLY}, names: [a.example]}}`)], {
    'a.example': 'allow not_isolated',
    'evil.example': 'audit name_not_allowed EgressPolicy/shop/a',
  });
  const both = [
    policy('a', `{dns: {${ONLY}}}`),
    policy('b', '{mode: Audit, effect: Grant, dns: {names: [a.example]}}'),
  ];
  check(both, { 'a.example': 'deny name_not_allowed EgressPolicy/shop/a' });
});

test('a refusal is silent if all who have a part in it say Drop', () => {
  const drop = (name: string, only: boolean) =>
    policy(name, `{onDeny: Drop, dns: {${only ? ONLY : 'names: [x.example]'}}}`);
  const reject = (name: string, only: boolean) => policy(name, `{dns: {${only ? ONLY : 'names: [x.example]'}}}`);
  const told = (...policies: readonly string[]) => asker(policies)('evil.example').onDeny;
  assert.equal(told(drop('a', true), reject('b', false)), 'Drop');
  assert.equal(told(drop('a', true), reject('b', true)), 'Reject');
  assert.equal(told(reject('a', true), drop('b', false)), 'Reject');
  assert.equal(asker([drop('a', true)])('x.cluster.local').onDeny, null);
});

test('another zone, and none', () => {
  const only = [policy('a', `{dns: {${ONLY}}}`)];
  const with_ = (clusterDomain: string | null) => asker(only, { ...HOST, clusterDomain });
  assert.equal(with_('k8s.test')('a.k8s.test').verdict, 'allow');
  assert.equal(with_('k8s.test')('a.cluster.local').verdict, 'deny');
  assert.equal(with_(null)('a.cluster.local').verdict, 'deny');
});

test('who lists a name, and who limits them, is told; what is no whole name is refused', () => {
  const ask = asker([
    policy('a', `{mode: Audit, dns: {${ONLY}}}`),
    policy('b', '{egress: [{to: [{domainNames: ["*.example.com"]}]}]}'),
  ]);
  const { listedBy, limitedBy } = ask('api.example.com');
  assert.deepEqual([listedBy, limitedBy], [['EgressPolicy/shop/b'], ['EgressPolicy/shop/a']]);
  for (const name of ['*.example.com', '192.0.2.1', 'a b', '']) assert.throws(() => ask(name), QueryError, name);
});

test('tables: a header row under NAME_ASKED, rows of classes that differ from it, resolvers even without a pattern', () => {
  const tables = (text: string) => compile(snapshotOf(PODS + text, { ...HOST, clusterDomain: null })).tables;
  const none = tables(policy('a', `{dns: {${ONLY}}}`));
  assert.deepEqual([none.names.size, none.resolvers.size], [0, 1]);
  assert.deepEqual(
    [...none.rows.values()].filter(({ kind }) => kind === NAME_ASKED).map(({ subject }) => subject),
    [NO_ID],
  );
  const some = tables(
    policy('a', `{dns: {${ONLY}, names: [a.example]}, egress: [{to: [{domainNames: ["*.b.example"]}]}]}`),
  );
  assert.deepEqual(
    [...some.names.keys()].sort(),
    [
      'a.example',
      'a.example.b.example',
      'a.example.corp.example',
      '*.b.example',
      '*.b.example.b.example',
      '*.b.example.corp.example',
    ].sort(),
  );
  const any = tables(policy('a', '{dns: {names: [a.example]}, egress: [{to: [{domainNames: ["*.b.example"]}]}]}'));
  assert.deepEqual([...any.names.keys()], ['*.b.example']);
  assert(![...any.rows.values()].some(({ kind }) => kind === NAME_ASKED));
});

test('explain decides as the oracle does which names may be asked', () => {
  const seed = Number(process.env.POSTERN_SEED ?? 20261125);
  const tally = new Map<string, number>();
  for (let at = seed; at < seed + 150; at++) {
    const { objects, host } = generate(at, 0);
    const text = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects });
    const snapshot = snapshotOf(text, host);
    const { explainName } = explainer(snapshot, compile(snapshot));
    const plain = [...TOLD_NAMES, 'x.example', 'a.svc.cluster.local'];
    const names = [
      ...plain,
      ...(host.searchDomains ?? []).flatMap((domain) => plain.map((name) => `${name.replace(/\.$/, '')}.${domain}`)),
    ];
    const pods = objects.filter((object): object is Pod => (object as Pod).kind === 'Pod');
    for (const from of pods.map(({ metadata }) => `${metadata.namespace ?? 'default'}/${metadata.name}`)) {
      for (const name of names) {
        const { verdict, reason, policy: by } = explainName({ from, ask: name });
        const expected = decideName(objects, host, from, name);
        assert.deepEqual(
          [verdict, reason, by],
          [expected.verdict, expected.reason, expected.policy],
          `seed ${at}: ${from} asks ${name}`,
        );
        tally.set(`${verdict} ${reason}`, (tally.get(`${verdict} ${reason}`) ?? 0) + 1);
      }
    }
  }
  for (const seen of [
    'allow not_isolated',
    'allow rule',
    'allow search_domain',
    'deny name_not_allowed',
    'audit name_not_allowed',
  ]) {
    assert.ok((tally.get(seen) ?? 0) >= 50, `${seen} came up ${tally.get(seen) ?? 0} times`);
  }
});
