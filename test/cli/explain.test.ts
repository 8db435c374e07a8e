// SPDX-License-Identifier: Apache-2.0
// `postern explain` as a user meets it: every form of a destination, both ways of asking, what is printed where, exit statuses.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import type { Explanation } from '../../src/judge/explain.ts';

const bin = new URL('../../bin/postern', import.meta.url).pathname;
const objects = `
apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  egress:
  - name: database
    to: [{services: [{name: db}]}, {networks: [fd00:18::/32]}]
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
status: {podIP: 198.18.0.10}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {containers: [{name: db, image: db, ports: [{containerPort: 5432}]}]}
status: {podIPs: [{ip: 198.18.0.11}, {ip: "fd00:18::11"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: pending, namespace: shop}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 198.18.96.1, ports: [{port: 80, targetPort: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: shop}
spec: {clusterIP: 198.18.96.2, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{port: 5432, protocol: TCP}]
endpoints: [{addresses: [198.18.0.11], targetRef: {kind: Pod, namespace: shop, name: db}}]
`;

let folder = '';
before(() => {
  folder = mkdtempSync(path.join(tmpdir(), `postern-explain-${process.pid}-`));
  writeFileSync(path.join(folder, 'objects.yaml'), objects);
});
after(() => rmSync(folder, { recursive: true, force: true }));

function explain(argv: readonly string[], input = ''): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(bin, ['explain', '--policies', folder, ...argv], { encoding: 'utf8', input });
}

function told(to: string, port: number, ...more: readonly string[]): Explanation {
  const { status, stdout, stderr } = explain([
    '--from',
    'shop/web',
    '--to',
    to,
    '--port',
    `${port}`,
    '-o',
    'json',
    ...more,
  ]);
  assert.deepEqual([status, stderr], [0, ''], to);
  return JSON.parse(stdout) as Explanation;
}

const destinations: readonly [to: string, port: number, verdict: string, reason: string, address: string | null][] = [
  ['shop/db', 5432, 'allow', 'rule', '198.18.0.11'],
  ['198.18.0.11', 5432, 'allow', 'rule', '198.18.0.11'],
  ['198.18.0.11', 22, 'deny', 'no_rule', '198.18.0.11'],
  ['fd00:18::77', 22, 'allow', 'rule', 'fd00:18::77'],
  ['::ffff:198.18.0.11', 22, 'deny', 'no_rule', '198.18.0.11'],
  ['service:shop/db', 80, 'allow', 'rule', '198.18.96.1'],
  ['service:shop/db', 81, 'deny', 'no_rule', '198.18.96.1'],
  ['example.com', 443, 'deny', 'no_rule', null],
  ['bücher.example.', 443, 'deny', 'no_rule', null],
  ['shop/pending', 80, 'deny', 'no_address', null],
  ['127.0.0.1', 80, 'allow', 'loopback', '127.0.0.1'],
  ['::1', 80, 'allow', 'loopback', '::1'],
  ['0.0.0.0', 80, 'allow', 'loopback', '127.0.0.1'],
  ['::', 80, 'allow', 'loopback', '::1'],
  ['shop/web', 80, 'allow', 'self', '198.18.0.10'],
];

for (const [to, port, verdict, reason, address] of destinations) {
  test(`${to} port ${port}: ${verdict}, ${reason}`, () => {
    const answer = told(to, port);
    assert.deepEqual([answer.verdict, answer.reason, answer.address], [verdict, reason, address]);
  });
}

test('a destination of both families is told where its addresses are answered differently, and only there', () => {
  assert.deepEqual(told('shop/db', 22).notes, ['at its other address fd00:18::11: allow (rule)']);
  assert.deepEqual(told('shop/db', 5432).notes, []);
});

const mistakes: readonly [argv: readonly string[], stderr: RegExp][] = [
  [['--to', 'shop/nobody', '--port', '80'], /there is no Pod shop\/nobody; write NAMESPACE\/NAME/],
  [['--to', 'service:shop/nobody', '--port', '80'], /there is no Service shop\/nobody; write service:/],
  [['--to', '300.1.1.1', '--port', '80'], /"300\.1\.1\.1" is no destination; write/],
  [['--to', '198.18.0.010', '--port', '80'], /"198\.18\.0\.010" is no destination; write/],
  [['--to', '198.18.1', '--port', '80'], /"198\.18\.1" is no destination; write/],
  [['--to', '*.example.com', '--port', '80'], /is no destination; write/],
  [['--to', 'fe80::1%eth0', '--port', '80'], /is no destination; write/],
  [['--to', 'shop/db'], /--port is needed for TCP; write --port N/],
  [['--to', 'shop/db', '--port', '0'], /a port is a number from 1 to 65535/],
  [['--to', 'shop/db', '--port', '80', '--icmp-type', 'EchoRequest'], /--icmp-type is of ICMP, not of TCP; write/],
  [['--port', '80'], /--from, and --to or --ask, are needed; or --queries FILE/],
  [['--queries', '/nonexistent'], /\/nonexistent: ENOENT/],
];

for (const [argv, expected] of mistakes) {
  test(`${argv.join(' ')}: an error with what to write, and status 1`, () => {
    const { status, stdout, stderr } = explain(['--from', 'shop/web', ...argv]);
    assert.deepEqual([status, stdout], [1, '']);
    assert.match(stderr, expected);
  });
}

test('each query gets a line, in order; one that cannot be answered gets its error, and status 1', () => {
  const from = 'shop/web';
  const queries = [
    JSON.stringify({ from, to: '198.18.0.11', port: 22, protocol: 'TCP' }),
    '',
    JSON.stringify({ from, to: 'shop/db', port: 5432 }),
    JSON.stringify({ from, to: '198.18.0.11', protocol: 'ICMP', icmpType: 'EchoRequest' }),
    'no JSON',
    'null',
    JSON.stringify({ from, to: 'shop/db', port: '80' }),
    JSON.stringify({ from, to: 'shop/db', port: 80, icmpType: 'EchoRequest' }),
  ];
  const policy = 'EgressPolicy/shop/web';
  const denied = { verdict: 'deny', policy, rule: null, reason: 'no_rule' };
  const { status, stdout } = explain(['--queries', '-'], queries.join('\r\n'));
  const lines = stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as { error?: string });
  assert.equal(status, 1);
  assert.deepEqual(lines.slice(0, 3), [denied, { verdict: 'allow', policy, rule: 0, reason: 'rule' }, denied]);
  assert.equal(lines.length, 7);
  for (const line of lines.slice(3)) assert.equal(typeof line.error, 'string');
});

test('answers may be read in part: whoever goes away early is no failure', () => {
  const question = JSON.stringify({ from: 'shop/web', to: 'shop/db', port: 80, protocol: 'TCP' });
  const script =
    'yes "$1" | head -n 50000 | { "$2" explain --policies "$3" --queries -; echo "status $?" >&2; } | head -n 1';
  const { stdout, stderr } = spawnSync('sh', ['-c', script, 'sh', question, bin, folder], { encoding: 'utf8' });
  assert.equal(stdout, '{"verdict":"deny","policy":"EgressPolicy/shop/web","rule":null,"reason":"no_rule"}\n');
  assert.equal(stderr, 'status 0\n');
});

test('a refusal by what does not mean what it says is told as that', () => {
  const other = mkdtempSync(path.join(tmpdir(), `postern-explain-${process.pid}-`));
  try {
    const cnp = (name: string, tier: string, rule: string) => `---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: ${name}}
spec: {tier: ${tier}, priority: 1, subject: {pods: {podSelector: {matchLabels: {app: ${name}}}}}, egress: [${rule}]}
`;
    const pod = (name: string) =>
      `---\napiVersion: v1\nkind: Pod\nmetadata: {name: ${name}, namespace: shop, labels: {app: ${name}}}\n`;
    const egress = (name: string, rule: string) => `---
apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: ${name}, namespace: shop}
spec: {podSelector: {matchLabels: {app: ${name}}}, egress: [${rule}]}
`;
    writeFileSync(
      path.join(other, 'a.yaml'),
      ['future', 'broken', 'via', 'names', 'tls', 'plain', 'deny'].map(pod).join('') +
        cnp('future', 'Admin', '{name: later, action: Deny, to: [{futures: {}}]}') +
        cnp('deny', 'Admin', '{action: Deny, to: [{networks: [198.18.0.0/15]}]}') +
        egress('broken', '{to: [{networks: [198.18.0.0/99]}]}') +
        egress('via', '{to: [{networks: [198.18.0.0/16]}], via: {gateway: out}}') +
        egress('names', '{to: [{domainNames: [a.example.com]}]}') +
        egress('tls', '{to: [{domainNames: [a.example.com]}], ports: [{port: 80}], tls: {serverName: Match}}') +
        egress('plain', '{to: [{networks: [198.19.0.0/24]}]}'),
    );
    const notes = (name: string, to = '198.18.1.1') => {
      const asked = ['--from', `shop/${name}`, '--to', to, '--port', '80', '-o', 'json'];
      const { stdout } = spawnSync(bin, ['explain', '--policies', other, ...asked], { encoding: 'utf8' });
      const { verdict, reason, notes: all } = JSON.parse(stdout) as Explanation;
      return [verdict, reason, ...all];
    };
    assert.deepEqual(notes('future'), [
      'deny',
      'admin_deny',
      'ClusterNetworkPolicy/future spec.egress[0].to[0]: this version does not know this peer: the rule denies everything, as the API says',
    ]);
    assert.deepEqual(notes('broken'), [
      'deny',
      'no_rule',
      'EgressPolicy/shop/broken is invalid, and something else holds in its place: spec.egress[0].to[0].networks[0]: "198.18.0.0/99" is no CIDR',
    ]);
    const [, , via = ''] = notes('via');
    assert.match(via, /^EgressPolicy\/shop\/via spec\.egress\[0\]\.via: /);
    assert.deepEqual(notes('names'), ['deny', 'no_rule']);
    assert.deepEqual(notes('names', 'a.example.com').slice(0, 2), ['allow', 'rule']);
    const [, , tls = ''] = notes('tls', 'a.example.com').filter((note) => !note.startsWith('only its name'));
    assert.match(tls, /names it, but tls\.serverName: Match is not yet enforced: it allows nothing$/);
    assert.deepEqual(notes('plain'), ['deny', 'no_rule']);
    assert.deepEqual(notes('deny', 'a.example.com'), [
      ...[
        'allow',
        'not_isolated',
        'only its name is known: rules for every destination and for names were asked, as of an address in World that DNS told this workload',
      ],
      'ClusterNetworkPolicy/deny denies networks: ask for the address, which may be among them',
    ]);
    assert.deepEqual(notes('plain', '198.19.0.1'), ['allow', 'rule']);
  } finally {
    rmSync(other, { recursive: true });
  }
});

test("a pod's own node is what the agent of a cluster, or of a folder, makes of it", () => {
  const other = mkdtempSync(path.join(tmpdir(), `postern-explain-${process.pid}-`));
  try {
    writeFileSync(
      path.join(other, 'a.yaml'),
      `{apiVersion: v1, kind: Node, metadata: {name: n}, status: {addresses: [{type: InternalIP, address: 198.18.9.1}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: shop, labels: {app: a}}, spec: {nodeName: n}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: np, namespace: shop}, spec: {podSelector: {}, policyTypes: [Egress]}}
`,
    );
    const asked = (...more: string[]) => {
      const argv = ['--from', 'shop/a', '--port', '80', '-o', 'json', ...more];
      const { stdout } = spawnSync(bin, ['explain', '--policies', other, ...argv], { encoding: 'utf8' });
      const { verdict, policy, notes } = JSON.parse(stdout) as Explanation;
      return [verdict, policy, notes.length > 0 && notes.every((note) => note.includes('--own-node allow'))];
    };
    const np = 'NetworkPolicy/shop/np';
    assert.deepEqual(asked('--to', '198.18.9.1'), ['deny', np, true]);
    assert.deepEqual(asked('--to', '198.18.9.2'), ['deny', np, false]);
    const allow = ['--own-node', 'allow'];
    assert.deepEqual(asked('--to', '198.18.9.1', ...allow), ['allow', 'ClusterEgressPolicy/postern-own-node', false]);
    assert.deepEqual(asked('--to', '198.18.9.2', ...allow), ['deny', np, false]);
  } finally {
    rmSync(other, { recursive: true });
  }
});

test('--resolver says what DNS means beside kube-dns: an address of the node, or a Service of another name with all behind it', () => {
  const other = mkdtempSync(path.join(tmpdir(), `postern-explain-${process.pid}-`));
  try {
    writeFileSync(
      path.join(other, 'a.yaml'),
      `{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: shop}}
---
{apiVersion: postern.dev/v1alpha1, kind: EgressPolicy, metadata: {name: p, namespace: shop}, spec: {egress: [{to: [{entities: [DNS]}]}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: dns-default, namespace: platform-dns}, spec: {clusterIP: 198.18.96.10, ports: [{name: dns, protocol: UDP, port: 53, targetPort: 5353}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: dns, namespace: platform-dns}, status: {podIP: 198.18.3.3}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: d, namespace: platform-dns, labels: {kubernetes.io/service-name: dns-default}}, addressType: IPv4, ports: [{name: dns, protocol: UDP, port: 5353}], endpoints: [{addresses: [198.18.3.3], targetRef: {kind: Pod, namespace: platform-dns, name: dns}}]}
`,
    );
    const asked = (to: string, port: number, ...more: string[]) => {
      const argv = ['--from', 'shop/a', '--to', to, '--port', `${port}`, '--protocol', 'UDP', '-o', 'json', ...more];
      const { stdout, stderr } = spawnSync(bin, ['explain', '--policies', other, ...argv], { encoding: 'utf8' });
      return stdout === '' ? stderr : (JSON.parse(stdout) as Explanation).verdict;
    };
    const local = ['--resolver', '169.254.20.10'];
    assert.equal(asked('169.254.20.10', 53), 'deny');
    assert.equal(asked('169.254.20.10', 53, ...local), 'allow');
    assert.equal(asked('169.254.20.10', 54, ...local), 'deny');
    assert.equal(asked('198.18.96.10', 53, ...local), 'deny');
    const service = [...local, '--resolver', '198.18.96.10'];
    assert.deepEqual(
      [
        asked('169.254.20.10', 53, ...service),
        asked('198.18.96.10', 53, ...service),
        asked('service:platform-dns/dns-default', 53, ...service),
        asked('198.18.3.3', 5353, ...service),
        asked('198.18.3.3', 53, ...service),
      ],
      ['allow', 'allow', 'allow', 'allow', 'deny'],
    );
    assert.match(asked('198.18.3.3', 53, '--resolver', 'nowhere'), /write an IP address, such as 169\.254\.20\.10/);
  } finally {
    rmSync(other, { recursive: true });
  }
});
