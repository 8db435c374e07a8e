// SPDX-License-Identifier: Apache-2.0
// What do policy files mean for one command? By table.
import assert from 'node:assert/strict';
import test from 'node:test';
import { destinationText, Report, reportText, summary } from '../../src/run/report.ts';
import { parsePasswd } from '../../src/run/user.ts';
import { runPolicies, runSnapshot } from '../../src/run/workload.ts';
import type { Refusal } from '../../src/tell/refusal.ts';

const EGRESS = `apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: web, namespace: shop}
spec: {podSelector: {matchLabels: {app: other}}, egress: [{name: cluster, to: [PEER]}]}
`;
const NETWORK_POLICY = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec: {podSelector: {matchLabels: {app: other}}, policyTypes: [TYPES], egress: [{to: [{ipBlock: {cidr: 198.18.0.0/16}}]}]}
`;
const egress = (peer: string) => [{ path: 'p.yaml', text: EGRESS.replace('PEER', peer) }];

test('every policy selects the command, whatever its namespace and selector', () => {
  const files = [
    {
      path: 'a.yaml',
      text: `${egress('{networks: [198.18.0.0/16]}')[0]?.text}---\n${NETWORK_POLICY.replace('TYPES', 'Egress')}`,
    },
  ];
  const { policies, problems, notes } = runPolicies(files, false);
  assert.deepEqual([problems, notes], [[], []]);
  assert.deepEqual(
    policies.map((one) => [one.kind, one.namespace, one.name, one.subject.type, one.mode]),
    [
      ['EgressPolicy', 'shop', 'web', 'pods', 'Enforce'],
      ['NetworkPolicy', 'shop', 'db', 'pods', 'Enforce'],
    ],
  );
  assert.deepEqual(
    runPolicies(files, true).policies.map((one) => one.mode),
    ['Audit', 'Audit'],
  );
});

test('without a policy nothing is allowed, and with --audit everything is told', () => {
  for (const [audit, mode] of [
    [false, 'Enforce'],
    [true, 'Audit'],
  ] as const) {
    const { policies } = runPolicies([], audit);
    assert.deepEqual(
      policies.map((one) => [one.effect, one.mode, one.rules.length]),
      [['Isolate', mode, 0]],
    );
  }
});

test('what needs a cluster is told once', () => {
  const table: [string, RegExp][] = [
    ['{pods: {podSelector: {}}}', /"pods" needs a cluster/],
    ['{nodes: {}}', /"nodes" needs a cluster/],
    ['{services: [{name: x}]}', /"services" needs a cluster/],
    ['{entities: [Cluster]}', /Cluster need a cluster/],
    ['{entities: [All], except: [KubeAPIServer]}', /KubeAPIServer in except/],
  ];
  for (const [peer, note] of table) {
    const { notes, problems } = runPolicies(egress(peer), false);
    assert.deepEqual(
      problems.filter((one) => one.severity === 'error'),
      [],
      peer,
    );
    assert.equal(notes.length, 1, peer);
    assert.match(notes[0] ?? '', note);
    assert.match(notes[0] ?? '', /EgressPolicy\/shop\/web, rule cluster/);
  }
});

test('a NetworkPolicy for ingress alone does nothing, and other kinds are refused', () => {
  const ingress = NETWORK_POLICY.replace('TYPES', 'Ingress').replace(/, egress: .*}]}]/, '');
  const { policies, notes, problems } = runPolicies([{ path: 'n.yaml', text: ingress }], false);
  assert.deepEqual([policies, problems], [[], []]);
  assert.match(notes[0] ?? '', /NetworkPolicy\/shop\/db has no Egress/);
  const pod = 'apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n';
  assert.deepEqual(
    runPolicies([{ path: 'x.yaml', text: pod }], false).problems.map((one) => one.code),
    ['kind_not_here'],
  );
  const twice = `${EGRESS}---\n${EGRESS}`.replaceAll('PEER', '{networks: [198.18.0.0/16]}');
  assert.deepEqual(
    runPolicies([{ path: 'x.yaml', text: twice }], false).problems.map((one) => one.code),
    ['duplicate_object'],
  );
});

test('the snapshot is one workload on no node', () => {
  const { policies } = runPolicies(egress('{networks: [198.18.0.0/16]}'), false);
  const snapshot = runSnapshot(policies, 'curl', 'a/b', { node: 'x', addresses: ['198.18.0.1'], resolvers: [] });
  assert.deepEqual(
    snapshot.pods.map((one) => [one.namespace, one.name, one.cgroup, one.hostNetwork]),
    [['run', 'curl', 'a/b', false]],
  );
  assert.deepEqual(
    snapshot.namespaces.map((one) => one.name),
    ['run', 'shop'],
  );
  assert.equal(snapshot.host.node, null);
});

const refusal: Refusal = {
  ...{
    verdict: 'deny',
    cgroup: null,
    workload: 'run/curl',
    address: '198.18.1.1',
    port: 443,
    protocol: 'TCP',
    process: 'curl',
    pid: 7,
  },
  ...{
    policy: 'EgressPolicy/shop/web',
    rule: null,
    ruleName: null,
    isolatedBy: [],
    reason: 'no_rule',
    shadow: null,
    icmp: null,
    name: null,
  },
};

test('the report sums what is the same, and makes names of processes harmless', () => {
  const report = new Report();
  report.add(refusal);
  report.add({ ...refusal, pid: 8 });
  report.add({ ...refusal, address: 'fd00::1', process: '\x1b[31mx', verdict: 'audit' });
  const lines = reportText(report, 3).split('\n');
  assert.match(lines[1] ?? '', /^refused +198\.18\.1\.1:443 +TCP +curl +EgressPolicy\/shop\/web +- +no_rule +2$/);
  assert.match(lines[2] ?? '', /^would be refused +\[fd00::1\]:443 +TCP +\\x1b\[31mx /);
  assert.equal(lines[3], 'and 3 more that are not listed');
  assert.equal(reportText(new Report(), 0), '');
  const outcome = { command: ['curl'], user: 'u', status: 7, audit: false };
  const parsed = summary(outcome, report, 3, ['note']) as {
    refused: { count: number }[];
    status: number;
    eventsLost: number;
  };
  assert.deepEqual([parsed.status, parsed.eventsLost, parsed.refused.map((one) => one.count)], [7, 3, [2, 1]]);
});

test('destinations are written as users type them', () => {
  assert.equal(destinationText({ ...refusal, port: 0 }), '198.18.1.1');
  assert.equal(destinationText({ ...refusal, address: 'fd00::1', port: 0 }), 'fd00::1');
  assert.equal(destinationText({ ...refusal, address: 'fd00::1' }), '[fd00::1]:443');
  assert.equal(destinationText({ ...refusal, name: 'api.example.com' }), '198.18.1.1:443 (api.example.com)');
});

test('a line of passwd', () => {
  assert.deepEqual(parsePasswd('nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n'), {
    ...{ name: 'nobody', uid: 65534, gid: 65534, home: '/nonexistent', shell: '/usr/sbin/nologin' },
  });
  for (const bad of ['', 'x', 'x:y:a:b']) assert.equal(parsePasswd(bad), null);
});
