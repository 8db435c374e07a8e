// SPDX-License-Identifier: Apache-2.0
// An API server that has nothing but pods, made as they are sent, so that it costs no memory: pods of 7.8 KB as kubelet and the
// scheduler leave them, eight to an app. Runs as a process of its own: `pods.ts COUNT stream|pages`; prints its address.
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

const count = Number(process.argv[2]);
const canStream = process.argv[3] !== 'pages';
const VERSION = '900000';
const TIME = '2026-01-01T00:00:00Z';

const uid = (n: number): string => `00000000-0000-4000-8000-${n.toString(16).padStart(12, '0')}`;

function pod(n: number): object {
  const app = `app-${n >> 3}`;
  const address = `10.${n >> 16}.${(n >> 8) & 255}.${n & 255}`;
  const set = `${app}-6c9f7b8d5`;
  const image = `registry.example/team/${app}:v1.2.3`;
  const env = Array.from({ length: 20 }, (_, i) => ({ name: `SETTING_${i}`, value: `value ${i} of ${app}` }));
  const field = { '.': {}, 'f:name': {}, 'f:lastTransitionTime': {}, 'f:status': {} };
  const fieldsV1 = Object.fromEntries(Array.from({ length: 21 }, (_, i) => [`k:{"type":"Field${i}"}`, field]));
  return {
    kind: 'Pod',
    apiVersion: 'v1',
    metadata: {
      name: `${set}-${n.toString(36).padStart(5, '0')}`,
      generateName: `${set}-`,
      namespace: `ns-${n % 250}`,
      uid: uid(n),
      resourceVersion: String(1000 + n),
      creationTimestamp: TIME,
      labels: { app, 'pod-template-hash': '6c9f7b8d5', team: `team-${n % 20}`, version: 'v1' },
      annotations: { 'prometheus.io/scrape': 'true', checksum: 'abcdef0123'.repeat(6) },
      ownerReferences: [{ apiVersion: 'apps/v1', kind: 'ReplicaSet', name: set, uid: uid(n >> 3), controller: true }],
      managedFields: ['kube-controller-manager', 'kubelet'].map((manager) => ({
        manager,
        operation: 'Update',
        apiVersion: 'v1',
        time: TIME,
        fieldsType: 'FieldsV1',
        fieldsV1,
      })),
    },
    spec: {
      volumes: [{ name: 'kube-api-access', projected: { sources: [{ serviceAccountToken: { path: 'token' } }] } }],
      containers: [
        {
          name: 'main',
          image,
          ports: [
            { name: 'http', containerPort: 8080, protocol: 'TCP' },
            { name: 'metrics', containerPort: 9090, protocol: 'TCP' },
          ],
          env,
          resources: { limits: { cpu: '1', memory: '1Gi' }, requests: { cpu: '100m', memory: '128Mi' } },
          volumeMounts: [{ name: 'kube-api-access', mountPath: '/var/run/secrets/kubernetes.io/serviceaccount' }],
          imagePullPolicy: 'IfNotPresent',
        },
      ],
      restartPolicy: 'Always',
      dnsPolicy: 'ClusterFirst',
      serviceAccountName: 'default',
      nodeName: `node-${n % 1000}`,
      schedulerName: 'default-scheduler',
      tolerations: [{ key: 'node.kubernetes.io/not-ready', operator: 'Exists', effect: 'NoExecute' }],
    },
    status: {
      phase: 'Running',
      conditions: ['Initialized', 'Ready', 'ContainersReady', 'PodScheduled'].map((type) => ({
        type,
        status: 'True',
        lastProbeTime: null,
        lastTransitionTime: TIME,
      })),
      hostIP: `192.0.2.${n % 250}`,
      podIP: address,
      podIPs: [{ ip: address }],
      startTime: TIME,
      containerStatuses: [
        {
          name: 'main',
          state: { running: { startedAt: TIME } },
          ready: true,
          restartCount: 0,
          image,
          imageID: `${image}@sha256:${'0'.repeat(64)}`,
          containerID: `containerd://${'a'.repeat(64)}`,
        },
      ],
      qosClass: 'Burstable',
    },
  };
}

function objects(path: string, from: number, to: number): Iterable<object> {
  if (path === '/api/v1/pods') return numbers(from, to).map(pod);
  if (path !== '/api/v1/namespaces') return [];
  return numbers(0, 250).map((n) => ({ metadata: { name: `ns-${n}`, resourceVersion: '1' } }));
}

function* numbers(from: number, to: number): Generator<number, undefined> {
  for (let n = from; n < to; n++) yield n;
}

async function write(response: ServerResponse, text: string): Promise<void> {
  if (!response.write(text)) await new Promise((resolve) => response.once('drain', resolve));
}

async function watch(path: string, query: URLSearchParams, response: ServerResponse): Promise<void> {
  const isList = query.has('sendInitialEvents');
  if (isList && !canStream) {
    response.writeHead(422);
    response.end(
      JSON.stringify({ kind: 'Status', code: 422, reason: 'Invalid', message: 'sendInitialEvents: Forbidden' }),
    );
    return;
  }
  response.flushHeaders();
  if (!isList) return;
  for (const object of objects(path, 0, count)) await write(response, `${JSON.stringify({ type: 'ADDED', object })}\n`);
  const annotations = { 'k8s.io/initial-events-end': 'true' };
  const object = { metadata: { resourceVersion: VERSION, annotations } };
  await write(response, `${JSON.stringify({ type: 'BOOKMARK', object })}\n`);
}

async function list(path: string, query: URLSearchParams, response: ServerResponse): Promise<void> {
  const from = Number(query.get('continue') ?? 0);
  const to = Math.min(count, from + Number(query.get('limit') ?? count));
  const next = path === '/api/v1/pods' && to < count ? { continue: String(to) } : {};
  await write(response, `{"kind":"List","metadata":${JSON.stringify({ resourceVersion: VERSION, ...next })},"items":[`);
  let separator = '';
  for (const object of objects(path, from, to)) {
    await write(response, separator + JSON.stringify(object));
    separator = ',';
  }
  response.end(']}');
}

const server = createServer((request, response) => {
  const { pathname, searchParams } = new URL(request.url ?? '/', 'http://localhost');
  void (searchParams.has('watch') ? watch : list)(pathname, searchParams, response);
});
server.listen(0, '127.0.0.1', () => {
  process.stdout.write(`http://127.0.0.1:${(server.address() as AddressInfo).port}\n`);
});
process.stdin.resume().on('end', () => process.exit(0));
