// SPDX-License-Identifier: Apache-2.0
// Does the example of docs/cluster-network-policy.md say what the text says of it, and is every code of lint that the page names one of lint's?
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { compile } from '../../src/compile/compile.ts';
import { explainer } from '../../src/judge/explain.ts';
import { lintFiles } from '../../src/lint/lint.ts';
import { ObjectStore } from '../../src/source/store.ts';

const page = readFileSync(new URL('../../docs/cluster-network-policy.md', import.meta.url), 'utf8');
const example = /```yaml\n([\s\S]*?)```/.exec(page)?.[1] ?? assert.fail('no example');

const cluster = `
{apiVersion: v1, kind: Namespace, metadata: {name: kube-system}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: t, labels: {tenant: "true"}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: dns, namespace: kube-system, labels: {k8s-app: kube-dns}}, status: {podIP: 198.18.0.10}}
---
{apiVersion: v1, kind: Pod, metadata: {name: open, namespace: t, labels: {app: open}}, status: {podIP: 198.18.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: closed, namespace: t}, status: {podIP: 198.18.0.2}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: open, namespace: t}
spec: {podSelector: {matchLabels: {app: open}}, egress: [{ports: [{port: 443}, {port: 80}]}]}
`;

test('the example', () => {
  const text = `${example}---${cluster}`;
  assert.deepEqual(lintFiles([{ path: 'f', text }]).problems, []);
  const { snapshot } = new ObjectStore(null).update(
    { files: [{ path: 'f', text, hash: '' }], unreadable: [] },
    { node: null, addresses: [], resolvers: [] },
  );
  const { answer } = explainer(snapshot, compile(snapshot));
  const told = (from: string, to: string, port: number, protocol: 'TCP' | 'UDP') => {
    const { verdict, reason } = answer({ from, to, port, protocol });
    return `${verdict} ${reason}`;
  };
  for (const pod of ['t/open', 't/closed']) {
    assert.equal(told(pod, 'kube-system/dns', 53, 'UDP'), 'allow admin_accept');
    assert.equal(told(pod, '169.254.169.254', 80, 'TCP'), 'deny admin_deny');
  }
  assert.equal(told('t/open', '192.0.2.1', 443, 'TCP'), 'allow rule');
  assert.equal(told('t/open', '192.0.2.1', 22, 'TCP'), 'deny no_rule');
  assert.equal(told('t/closed', '192.0.2.1', 443, 'TCP'), 'deny baseline_deny');
  assert.equal(told('kube-system/dns', '192.0.2.1', 443, 'TCP'), 'allow not_isolated');
});

test('codes of lint are those of lint', () => {
  const source = ['lint/tiers.ts', 'lint/between.ts', 'validate/cluster-network-policy.ts', 'validate/domain-name.ts']
    .map((name) => readFileSync(new URL(`../../src/${name}`, import.meta.url), 'utf8'))
    .join('');
  const codes = [...page.matchAll(/`([a-z]+(?:_[a-z]+)+)`/g)].flatMap(([, code]) => code ?? []);
  assert.ok(codes.length >= 6, codes.join());
  for (const code of codes) assert.ok(source.includes(`'${code}'`), code);
});
