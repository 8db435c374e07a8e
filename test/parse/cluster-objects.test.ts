// SPDX-License-Identifier: Apache-2.0
// Is what decides a verdict taken from each object of a cluster, and nothing else?
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readDocuments } from '../../src/parse/document.ts';
import { withImplicitNamespaces } from '../../src/parse/namespaces.ts';

function value(text: string): unknown {
  const [parsed, ...more] = readDocuments({ path: 'f', text });
  assert.ok(parsed);
  assert.deepEqual(more, []);
  assert.deepEqual(parsed.problems, []);
  return parsed.value;
}

test('a Namespace always has the label of its name', () => {
  assert.deepEqual(
    value('{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {x: z, kubernetes.io/metadata.name: b}}}'),
    {
      name: 'a',
      labels: { x: 'z', 'kubernetes.io/metadata.name': 'a' },
    },
  );
  const declared = [{ name: 'b', labels: { 'kubernetes.io/metadata.name': 'b' } }];
  assert.deepEqual(withImplicitNamespaces(declared, ['c', 'b', 'a', 'c']), [
    ...declared,
    { name: 'a', labels: { 'kubernetes.io/metadata.name': 'a' } },
    { name: 'c', labels: { 'kubernetes.io/metadata.name': 'c' } },
  ]);
});

test('a Node: addresses that are addresses, each once, and its ranges of pods', () => {
  const addresses =
    '[{type: Hostname, address: n1}, {type: InternalIP, address: 198.18.0.1}, {type: ExternalIP, address: 198.18.0.1}, {type: InternalIP, address: "FD00::0001"}]';
  assert.deepEqual(
    value(
      `{apiVersion: v1, kind: Node, metadata: {name: n1}, spec: {podCIDR: 10.0.0.0/24, podCIDRs: [10.0.0.0/24, "fd00:1::/64"]}, status: {addresses: ${addresses}}}`,
    ),
    { name: 'n1', labels: {}, addresses: ['198.18.0.1', 'fd00::1'], podCidrs: ['10.0.0.0/24', 'fd00:1::/64'] },
  );
  assert.deepEqual(value('{apiVersion: v1, kind: Node, metadata: {name: n1}, spec: {podCIDR: 10.0.0.0/24}}'), {
    ...{ name: 'n1', labels: {}, addresses: [], podCidrs: ['10.0.0.0/24'] },
  });
});

test('a Pod', () => {
  const bare = {
    ...{
      namespace: 'default',
      name: 'p',
      uid: null,
      labels: {},
      node: null,
      hostNetwork: false,
      addresses: [],
      ports: [],
    },
    ...{ ended: false, isStatic: false, cgroup: null },
  };
  const pod = (metadata: string, spec = '{}', status = '{}') =>
    value(`{apiVersion: v1, kind: Pod, metadata: {name: p${metadata}}, spec: ${spec}, status: ${status}}`);
  assert.deepEqual(pod(''), bare);
  assert.deepEqual(value('{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: null, status: null}'), bare);
  assert.deepEqual(pod(', namespace: n, uid: u, labels: {a: b}', '{nodeName: n1, hostNetwork: true}'), {
    ...bare,
    ...{ namespace: 'n', uid: 'u', labels: { a: 'b' }, node: 'n1', hostNetwork: true },
  });
  assert.deepEqual(pod(', annotations: {postern.dev/cgroup: /shop/cart/, kubernetes.io/config.mirror: x}'), {
    ...bare,
    ...{ cgroup: 'shop/cart', isStatic: true },
  });
  // A mirror is known by what kubelet called the static pod; no author of a Pod takes the place of another by it.
  const hash = '0123456789abcdef0123456789abcdef';
  for (const [mirrored, uid] of [
    [hash, hash],
    ['11111111-2222-4333-8444-555555555555', 'u'],
    [hash.toUpperCase(), 'u'],
  ]) {
    assert.deepEqual(pod(`, uid: u, annotations: {kubernetes.io/config.mirror: ${mirrored}}`), {
      ...bare,
      ...{ uid, isStatic: true },
    });
  }
  assert.deepEqual(pod('', '{}', '{podIP: 198.18.0.1}'), { ...bare, addresses: ['198.18.0.1'] });
  assert.deepEqual(pod('', '{}', '{podIP: 198.18.0.9, podIPs: [{ip: 198.18.0.1}, {ip: "fd00::1"}]}'), {
    ...bare,
    addresses: ['198.18.0.1', 'fd00::1'],
  });
  for (const phase of ['Succeeded', 'Failed'])
    assert.deepEqual(pod('', '{}', `{phase: ${phase}}`), { ...bare, ended: true });
  assert.deepEqual(pod('', '{}', '{phase: Pending}'), bare);
  const containers =
    'containers: [{name: c, ports: [{name: http, containerPort: 80}, {containerPort: 53, protocol: UDP}]}]';
  const init =
    'initContainers: [{name: i, ports: [{name: once, containerPort: 1}]}, {name: s, restartPolicy: Always, ports: [{name: side, containerPort: 2}]}]';
  assert.deepEqual(pod('', `{${containers}, ${init}}`), {
    ...bare,
    ports: [
      { name: 'http', protocol: 'TCP', port: 80 },
      { name: null, protocol: 'UDP', port: 53 },
      { name: 'side', protocol: 'TCP', port: 2 },
    ],
  });
});

test('a Service: only its cluster IPs', () => {
  const service = (spec: string) =>
    value(`{apiVersion: v1, kind: Service, metadata: {name: s, namespace: n}, spec: ${spec}}`);
  const bare = { namespace: 'n', name: 's', clusterIPs: [], ports: [], externalName: null };
  assert.deepEqual(
    service(
      '{clusterIP: 198.18.0.1, externalIPs: [198.18.0.2], ports: [{name: a, port: 80, targetPort: http, nodePort: 30080}, {port: 53, protocol: UDP}]}',
    ),
    {
      ...bare,
      clusterIPs: ['198.18.0.1'],
      ports: [
        { name: 'a', protocol: 'TCP', port: 80, nodePort: 30080 },
        { name: null, protocol: 'UDP', port: 53, nodePort: null },
      ],
    },
  );
  assert.deepEqual(service('{clusterIP: None, clusterIPs: [None]}'), bare);
  assert.deepEqual(service('{clusterIP: 198.18.0.1, clusterIPs: [198.18.0.1, "fd00::1"]}'), {
    ...bare,
    clusterIPs: ['198.18.0.1', 'fd00::1'],
  });
  assert.deepEqual(service('{type: ExternalName, externalName: db.example.com}'), {
    ...bare,
    externalName: 'db.example.com',
  });
});

test('an EndpointSlice: ready unless it says no, pods in its own namespace', () => {
  const ports = '[{name: http, port: 8080}, {name: "", port: 53, protocol: UDP}, {}]';
  const endpoints =
    '[{addresses: [198.18.0.1], targetRef: {kind: Pod, name: p}}, {addresses: [198.18.0.2], conditions: {ready: false}, targetRef: {kind: Node, name: x}}, {addresses: [198.18.0.3], conditions: {ready: null}}]';
  assert.deepEqual(
    value(
      `{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e, namespace: n, labels: {kubernetes.io/service-name: s}}, addressType: IPv4, ports: ${ports}, endpoints: ${endpoints}}`,
    ),
    {
      namespace: 'n',
      name: 'e',
      service: 's',
      ports: [
        { name: 'http', protocol: 'TCP', port: 8080 },
        { name: null, protocol: 'UDP', port: 53 },
        { name: null, protocol: 'TCP', port: null },
      ],
      endpoints: [
        { addresses: ['198.18.0.1'], ready: true, pod: { namespace: 'n', name: 'p' } },
        { addresses: ['198.18.0.2'], ready: false, pod: null },
        { addresses: ['198.18.0.3'], ready: true, pod: null },
      ],
    },
  );
});

test('what the API server writes into objects is no problem', () => {
  const metadata =
    '{name: p, namespace: n, uid: u, resourceVersion: "1", creationTimestamp: "2024-01-01T00:00:00Z", generation: 1, managedFields: [{manager: kubectl, operation: Update, apiVersion: v1, time: "2024-01-01T00:00:00Z", fieldsType: FieldsV1, fieldsV1: {"f:metadata": {}}}], ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: r, uid: x, controller: true}], annotations: {kubectl.kubernetes.io/last-applied-configuration: "{}"}}';
  value(
    `{apiVersion: v1, kind: Pod, metadata: ${metadata}, spec: {containers: [{name: c, image: i, resources: {limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 0.5}}, env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1}}}]}], volumes: [{name: v, emptyDir: {sizeLimit: 1}}]}, status: {phase: Running, conditions: [{type: Ready, status: "True"}]}}`,
  );
  value(
    '{apiVersion: postern.dev/v1alpha1, kind: EgressPolicy, metadata: {name: p, generation: 2, labels: {a: b}}, spec: {}, status: {workloads: 1, conditions: [{type: Accepted, status: "True", observedGeneration: 2, lastTransitionTime: "2024-01-01T00:00:00Z", reason: Accepted, message: ""}]}}',
  );
});
