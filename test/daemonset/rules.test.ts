// SPDX-License-Identifier: Apache-2.0
// Do the alerts fire when they should, by the real promtool and in a real Prometheus that scrapes a real agent?
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { parse } from 'yaml';
import { PolicyFolder, startAgent } from '../support/agent.ts';
import { Lab } from '../support/lab.ts';
import { CHART, helmTemplate, manifestsIn, only } from '../support/manifests.ts';
import { hastened, Prometheus } from '../support/prometheus.ts';

interface Rules {
  readonly groups: readonly { readonly rules: readonly { readonly alert?: string; readonly expr: string }[] }[];
}

const RULES = path.join(CHART, 'rules.yaml');
const rules = parse(readFileSync(RULES, 'utf8')) as Rules;
const ALERTS = rules.groups.flatMap((group) => group.rules.flatMap(({ alert }) => alert ?? []));

function promtool(...args: readonly string[]): void {
  execFileSync('promtool', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

test('promtool takes the rules, and each alert passes its unit tests: where it fires, and where it is silent', () => {
  const units = path.join(import.meta.dirname, 'rules.test.yaml');
  promtool('check', 'rules', RULES);
  promtool('test', 'rules', units);
  const { tests } = parse(readFileSync(units, 'utf8')) as {
    tests: { alert_rule_test: { alertname: string; exp_alerts: unknown[] }[] }[];
  };
  const fired = tests.flatMap((one) => one.alert_rule_test.filter(({ exp_alerts }) => exp_alerts.length > 0));
  assert.deepEqual(new Set(fired.map(({ alertname }) => alertname)), new Set(ALERTS));
});

test('each alert has its entry in docs/alerts.md', () => {
  const text = readFileSync(path.join(CHART, '../../docs/alerts.md'), 'utf8');
  const entries = [...text.matchAll(/^## (Postern\w+)$/gm)].map(([, name]) => name);
  assert.deepEqual(entries, ALERTS);
});

test('a PrometheusRule has the same rules, and is there only if asked for', () => {
  assert.doesNotMatch(helmTemplate(), /PrometheusRule/);
  const rule = only(
    manifestsIn(helmTemplate('metrics.prometheusRule.enabled=true', 'metrics.prometheusRule.labels.release=main')),
    'PrometheusRule',
  );
  assert.deepEqual(rule.spec, rules);
  assert.equal(rule.metadata.labels?.release, 'main');
});

const SERVER = '198.18.1.1';

function egress(name: string, app: string, ports: string): string {
  return `apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: ${name}, namespace: shop}
spec:
  podSelector: {matchLabels: {app: ${app}}}
  egress: [{to: [{networks: [${SERVER}/32]}], ports: [{port: ${ports}}]}]
`;
}

test('in a real Prometheus that scrapes a real agent, what should be heard of is: a burst, something new, a wrong policy, a full map, a pod without a guard, a hand in the kernel, an agent that is gone', async (t) => {
  const lab = await Lab.create();
  const folder = new PolicyFolder();
  t.after(async () => {
    await lab.close();
    folder.close();
  });
  await lab.addOutside(SERVER);
  await lab.outside.actor.listen('TCP', SERVER, 80);
  const web = await lab.workload('web', { addresses: ['198.18.2.1'] });
  folder.write(
    'pod.yaml',
    `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}, annotations: {postern.dev/cgroup: ${web.cgroupPath}}}
spec: {containers: [{name: c, image: i}]}
status: {podIPs: [{ip: 198.18.2.1}]}
`,
  );
  folder.write('web.yaml', egress('web', 'web', '80'));
  const agent = await startAgent(lab, folder, '--bpf-map-max', 'identities=1', '--check-interval', '1');
  const { metrics } = await agent.line(({ event }) => event === 'ready');
  const prometheus = await Prometheus.start(String(metrics), hastened(readFileSync(RULES, 'utf8')));
  t.after(() => prometheus.close());

  assert.equal(await web.actor.tryTcp(SERVER, 80), 'ok');
  const full = await prometheus.firing('PosternMapNearFull');
  assert.equal(full.labels.map, 'identities');
  // The other end of this pod's interface is in another namespace than the agent.
  assert.equal((await prometheus.firing('PosternWithoutGuard')).labels.why, 'peer_elsewhere');
  assert.equal((await prometheus.alerts()).length, 2, 'what was let pass is no refusal');

  let isOver = false;
  const burst = (async () => {
    while (!isOver) assert.equal(await web.actor.tryTcp(SERVER, 81), 'EPERM');
  })();
  const [bursting, fresh] = await Promise.all([
    prometheus.firing('PosternDropBurst'),
    prometheus.firing('PosternNewRefusal'),
  ]);
  isOver = true;
  await burst;
  assert.deepEqual(
    [bursting.labels.workload, bursting.labels.policy, bursting.labels.reason],
    ['shop/web', 'EgressPolicy/shop/web', 'no_rule'],
  );
  assert.match(bursting.annotations.summary ?? '', /^shop\/web is refused \d+\.\d packets a second$/);
  assert.deepEqual([fresh.labels.namespace, fresh.labels.policy], ['shop', 'EgressPolicy/shop/web']);

  folder.write('wrong.yaml', egress('wrong', 'db', '99999'));
  assert.match((await prometheus.firing('PosternPolicyNotEnforced')).annotations.summary ?? '', /: 1$/);

  rmSync(path.join(folder.bpffs, 'links/connect4'));
  assert.equal((await prometheus.firing('PosternDrift')).labels.what, 'pin');

  await agent.stop('SIGKILL');
  await prometheus.firing('PosternAgentAway');
  assert.equal(await web.actor.tryTcp(SERVER, 81), 'EPERM', 'as the alert says, what was enforced goes on');
});
