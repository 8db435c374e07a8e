// SPDX-License-Identifier: Apache-2.0
// One command deploys it: does the agent that install.yaml describes, in its container and with no more rights than install.yaml gives
// its account, hold this node's pods and tell the cluster so? The real kubectl applies; where no kubelet is, the test starts the pod.
import assert from 'node:assert/strict';
import path from 'node:path';
import test from 'node:test';
import { TestAgent } from '../support/agent.ts';
import { ApiServer, type JsonObject } from '../support/apiserver/server.ts';
import { RunningContainer } from '../support/container.ts';
import { Kubelet } from '../support/kubelet.ts';
import { Lab } from '../support/lab.ts';
import { containerOf, INSTALL, installed, kubectl, type Manifest, podSpecIn } from '../support/manifests.ts';

const NODE = 'node-a';
const NAMESPACE = 'postern-system';
const ACCOUNT = `system:serviceaccount:${NAMESPACE}:postern`;
const SERVER = '198.18.1.1';

const OBJECTS = [
  { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'shop' } },
  {
    ...{ apiVersion: 'v1', kind: 'Node', metadata: { name: NODE } },
    status: { addresses: [{ type: 'InternalIP', address: '198.18.9.1' }] },
  },
];

/** Of every kind that has a status. */
const POLICIES = `apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  egress: [{to: [{networks: [${SERVER}/32]}], ports: [{port: 80}]}]
---
apiVersion: postern.dev/v1alpha1
kind: ClusterEgressPolicy
metadata: {name: time}
spec:
  effect: Grant
  subject: {namespaces: {}}
  egress: [{to: [{networks: [${SERVER}/32]}], ports: [{protocol: UDP, port: 123}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: no-telnet}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  egress: [{name: telnet, action: Deny, to: [{networks: [0.0.0.0/0]}], protocols: [{tcp: {destinationPort: {number: 23}}}]}]
`;

/** `create leases.coordination.k8s.io postern-system`; without a namespace where it holds for all. */
type Right = string;

function rightsIn(manifests: readonly Manifest[]): Set<Right> {
  const rights = new Set<Right>();
  for (const { kind, metadata, rules } of manifests) {
    if ((kind !== 'ClusterRole' && kind !== 'Role') || metadata.name !== 'postern-agent') continue;
    for (const { apiGroups, resources, verbs } of rules as Record<string, string[]>[]) {
      for (const group of apiGroups ?? [])
        for (const resource of resources ?? [])
          for (const verb of verbs ?? []) rights.add(right(verb, resource, group, metadata.namespace ?? ''));
    }
  }
  return rights;
}

function right(verb: string, resource: string, group: string, namespace: string): Right {
  return [verb, group === '' ? resource : `${resource}.${group}`, namespace].filter((part) => part !== '').join(' ');
}

function statusOf(object: JsonObject | null): string {
  return JSON.stringify(object?.status ?? null);
}

/** Far longer than anything takes: a Lease is renewed every few seconds, statuses follow. */
const PATIENCE_MS = 120_000;

test('kubectl apply -f install.yaml: what it makes holds a pod, reports, and uses every right it is given and no other', {
  timeout: PATIENCE_MS,
}, async (t) => {
  const lab = await Lab.create();
  // Lists and then watches, as the agent does where lists can't be streamed: more rights are needed for that.
  const api = await ApiServer.start({ tls: true, objects: OBJECTS, streamingLists: false });
  t.after(async () => {
    await lab.close();
    await api.stop();
  });
  await lab.addOutside(SERVER);
  for (const port of [80, 81]) await lab.outside.actor.listen('TCP', SERVER, port);

  const applied = await kubectl(api.kubeconfig, ['apply', '-f', INSTALL]);
  assert.deepEqual([applied.status, applied.stderr], [0, '']);
  assert.match(applied.stdout, /^daemonset\.apps\/postern created$/m);
  const upstream = path.join(path.dirname(INSTALL), 'crds/network-policy-api/clusternetworkpolicies.standard.yaml');
  assert.equal((await kubectl(api.kubeconfig, ['apply', '-f', upstream])).status, 0);
  assert.equal((await kubectl(api.kubeconfig, ['apply', '-f', '-'], POLICIES)).status, 0);

  const kubelet = new Kubelet(lab, { node: NODE, driver: 'systemd', cluster: api });
  kubelet.makeRoot();
  const stored = api.get('apps/v1', 'DaemonSet', 'postern', NAMESPACE);
  assert.ok(stored !== null);
  const spec = podSpecIn([stored as unknown as Manifest]);
  const url = new URL(api.url);
  const container = new RunningContainer(
    spec,
    [
      ...containerOf(spec).args,
      '--metrics-address=127.0.0.1:0',
      '--bpffs=none',
      `--cgroup-root=${path.relative(path.dirname(lab.root), kubelet.root)}`,
    ],
    {
      fields: { 'spec.nodeName': NODE, 'status.hostIP': '127.0.0.1' },
      fresh: ['/run/postern', '/var/lib/postern'],
      binds: {
        '/run/secrets/kubernetes.io/serviceaccount': path.join(
          api.mountServiceAccount(NAMESPACE, 'postern').root,
          'var/run/secrets/kubernetes.io/serviceaccount',
        ),
      },
      env: { KUBERNETES_SERVICE_HOST: url.hostname, KUBERNETES_SERVICE_PORT: url.port },
    },
  );
  t.after(() => container.close());
  const agent = new TestAgent(container.child);
  const ready = await agent.line((line) => line.event === 'ready');
  const { startupProbe, livenessProbe, readinessProbe, ports } = containerOf(spec);
  for (const { httpGet } of [startupProbe, livenessProbe, readinessProbe]) {
    assert.deepEqual(
      [httpGet.port],
      ports.map(({ name }) => name),
    );
    assert.equal((await fetch(new URL(httpGet.path, String(ready.metrics)))).status, 200, httpGet.path);
  }

  const web = await kubelet.run({ namespace: 'shop', name: 'web', labels: { app: 'web' }, addresses: ['198.18.2.1'] });
  await agent.line((line) => JSON.stringify(line.bound) === '["shop/web"]');
  assert.equal(await web.place.actor.tryTcp(SERVER, 80), 'ok');
  assert.equal(await web.place.actor.tryTcp(SERVER, 81), 'EPERM');

  // A second refusal, once the first was told: it is counted in the same Event.
  await api.until((server) => server.list('events.k8s.io/v1', 'Event').length > 0);
  assert.equal(await web.place.actor.tryTcp(SERVER, 81), 'EPERM');
  await api.until(() =>
    statusOf(api.get('postern.dev/v1alpha1', 'EgressPolicy', 'web', 'shop')).includes('Programmed'),
  );
  const told = (verb: string, resource: string) =>
    api.log.some((one) => one.user === ACCOUNT && one.verb === verb && one.resource === resource && one.code < 300);
  await api.until(() => told('patch', 'events') && told('list', 'leases'));

  const policies = await container.exec(['/usr/bin/postern', 'policies']);
  assert.deepEqual([policies.status, policies.stderr], [0, '']);
  assert.match(policies.stdout, /^EgressPolicy +shop +web +Isolate +Enforce +1\/1 +True$/m);
  assert.equal(await agent.stop(), 0);

  const asked = api.log.filter((one) => one.user === ACCOUNT && one.resource !== '');
  const denied = asked.filter((one) => one.code === 403).map((one) => `${one.verb} ${one.path}`);
  assert.deepEqual([...new Set(denied)], [], 'install.yaml gives what is asked for');
  const rights = rightsIn(installed());
  const used = new Set(
    asked.map(({ verb, resource, subresource, group, namespace }) => {
      const name = subresource === '' ? resource : `${resource}/${subresource}`;
      return right(verb, name, group, resource === 'leases' ? namespace : '');
    }),
  );
  const unused = [...rights].filter((one) => !used.has(one)).sort();
  assert.deepEqual(unused, [
    // Leases of nodes that have been gone for an hour.
    'delete leases.coordination.k8s.io postern-system',
  ]);
});
