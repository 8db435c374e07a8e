// SPDX-License-Identifier: Apache-2.0
// `postern agent --kube` on a large cluster: how long until it enforces, what it takes of memory, what a change costs. The API server
// is the tests' double, in this process; the agent is the real one, a child. Prints JSON. Argument: quick, or full.

import { spawn } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseAllDocuments } from 'yaml';
import { loadNative } from '../src/kernel/native.ts';
import { loadPrograms } from '../src/kernel/programs.ts';
import { TestAgent } from '../test/support/agent.ts';
import { ApiServer, type JsonObject } from '../test/support/apiserver/server.ts';
import { Lab } from '../test/support/lab.ts';
import { kernelMiB, processMiB } from './memory.ts';
import { rounded } from './statistics.ts';

export interface ClusterCosts {
  readonly pods: number;
  readonly services: number;
  readonly policies: number;
  readonly localPods: number;
  /** Bytes of a Pod as the API server sends it. */
  readonly podBytes: number;
  /** From the agent's start to its line `ready`. */
  readonly readyMs: number;
  /** Of all that is measured here, changes included. */
  readonly peakMiB: number;
  /** Resident, a while after it was ready. */
  readonly settledMiB: number;
  /** What the kernel holds more than before: unreclaimable slab and per-CPU memory. */
  readonly kernelMiB: number;
  /** Asked of the API server until ready. */
  readonly listMiB: number;
  /** From the answer to the write until the line `applied`. */
  readonly policyEditMs: Quantiles;
  readonly churn: {
    readonly changesPerSecond: number;
    readonly seconds: number;
    /** From the change's arrival until it is enforced: of what is applied at once, the oldest. */
    readonly enforcedMs: Quantiles;
    /** Of one CPU. */
    readonly agentCpu: number;
    readonly apiBytesPerSecond: number;
    /** What of this is the machine's: both CPUs are shared with the API server. */
    readonly beside: {
      /** Of the time, how much the agent's thread could have run and had no CPU. */
      readonly agentWaits: number;
      /** Until the kernel says that no program runs any more that ran before, which ends each change: asked ten times a second. */
      readonly programsEndedMs: Quantiles;
      /** Of the API server's process, which makes the changes, too: of one CPU, and how late its loop was. */
      readonly serverCpu: number;
      readonly serverLateMs: Quantiles;
    };
  };
}

export interface Quantiles {
  readonly median: number;
  readonly p99: number;
  readonly max: number;
  readonly count: number;
}

const NODE = 'node-0';
const BUILD = path.join(import.meta.dirname, '../build');
const CRDS = path.join(import.meta.dirname, '../daemonset/crds');
const APPS = 500;
const NAMESPACES = 100;

const isQuick = process.argv[2] === 'quick';
const SIZE = isQuick
  ? { pods: 2000, services: 200, policies: 50, edits: 5, seconds: 3 }
  : { pods: 50_000, services: 5000, policies: 500, edits: 40, seconds: 30 };
const PER_NODE = 250;
const CHANGES_PER_SECOND = 100;

const address = (index: number): string => `198.18.${(index >> 8) & 255}.${index & 255}`;
/** More pods than 198.18.0.0/15 has addresses would not do; nothing is sent to any of them. */
const podAddress = (index: number): string =>
  index < 65536 ? address(index) : `198.19.${(index >> 8) & 255}.${index & 255}`;

/** What a real Pod has besides what anybody reads, so that it has a real one's size. */
const BULK = {
  managedFields: Array.from({ length: 4 }, (_, index) => ({
    ...{
      manager: `manager-${index}`,
      operation: 'Update',
      apiVersion: 'v1',
      time: '2026-01-01T00:00:00Z',
      fieldsType: 'FieldsV1',
    },
    fieldsV1: Object.fromEntries(
      Array.from({ length: 14 }, (_, field) => [`f:field-${field}`, { '.': {}, 'f:name': {}, 'f:value': {} }]),
    ),
  })),
};

function pod(index: number, ip: string): JsonObject {
  const app = `app-${index % APPS}`;
  const node = `node-${Math.floor(index / PER_NODE)}`;
  return {
    ...{ apiVersion: 'v1', kind: 'Pod' },
    metadata: {
      ...{ name: `${app}-${index}`, namespace: `ns-${index % NAMESPACES}`, uid: `0000-${index}` },
      labels: { app, 'pod-template-hash': `${(index * 7919) % 100_000}`, 'app.kubernetes.io/version': '1.2.3' },
      annotations: { 'example.com/checksum': 'c'.repeat(64) },
      managedFields: BULK.managedFields,
    },
    spec: {
      nodeName: node,
      containers: [
        {
          ...{
            name: 'main',
            image: `registry.example.com/team/${app}:1.2.3`,
            ports: [{ name: 'http', containerPort: 8080, protocol: 'TCP' }],
          },
          env: Array.from({ length: 20 }, (_, variable) => ({
            name: `VARIABLE_${variable}`,
            value: `value-of-${variable}`.repeat(3),
          })),
          resources: { requests: { cpu: '100m', memory: '128Mi' }, limits: { memory: '256Mi' } },
          volumeMounts: Array.from({ length: 4 }, (_, volume) => ({
            name: `volume-${volume}`,
            mountPath: `/var/lib/data/${volume}`,
          })),
        },
      ],
      volumes: Array.from({ length: 4 }, (_, volume) => ({
        name: `volume-${volume}`,
        configMap: { name: `map-${volume}`, defaultMode: 420 },
      })),
      tolerations: [
        { key: 'node.kubernetes.io/not-ready', operator: 'Exists', effect: 'NoExecute', tolerationSeconds: 300 },
      ],
    },
    status: {
      ...{ phase: 'Running', podIP: ip, podIPs: [{ ip }], hostIP: '198.19.255.1' },
      conditions: ['Initialized', 'Ready', 'ContainersReady', 'PodScheduled'].map((type) => ({
        type,
        status: 'True',
        lastTransitionTime: '2026-01-01T00:00:00Z',
      })),
      containerStatuses: [
        {
          name: 'main',
          ready: true,
          restartCount: 0,
          image: 'i',
          imageID: `sha256:${'a'.repeat(64)}`,
          containerID: `containerd://${'b'.repeat(64)}`,
          state: { running: { startedAt: '2026-01-01T00:00:00Z' } },
        },
      ],
    },
  } as unknown as JsonObject;
}

/** Half of each kind; app n may talk to app n + 100 of its namespace, and to a range. */
function policy(index: number, port: number): JsonObject {
  const namespace = `ns-${index % NAMESPACES}`;
  const peer = { podSelector: { matchLabels: { app: `app-${(index + 100) % APPS}` } } };
  const range = `198.19.${index % 250}.0/28`;
  const common = { podSelector: { matchLabels: { app: `app-${index}` } } };
  return (index % 2 === 0
    ? {
        ...{
          apiVersion: 'networking.k8s.io/v1',
          kind: 'NetworkPolicy',
          metadata: { name: `policy-${index}`, namespace },
        },
        spec: {
          ...common,
          policyTypes: ['Egress'],
          egress: [{ to: [peer, { ipBlock: { cidr: range } }], ports: [{ port }] }],
        },
      }
    : {
        ...{
          apiVersion: 'postern.dev/v1alpha1',
          kind: 'EgressPolicy',
          metadata: { name: `policy-${index}`, namespace },
        },
        spec: {
          ...common,
          egress: [{ to: [{ entities: ['DNS'] }] }, { to: [{ pods: peer }, { networks: [range] }], ports: [{ port }] }],
        },
      }) as unknown as JsonObject;
}

function* objects(): Generator<object> {
  for (const file of ['egresspolicies.yaml', 'clusteregresspolicies.yaml']) {
    for (const document of parseAllDocuments(readFileSync(path.join(CRDS, file), 'utf8')))
      yield document.toJS() as object;
  }
  for (let index = 0; index < NAMESPACES; index++)
    yield { apiVersion: 'v1', kind: 'Namespace', metadata: { name: `ns-${index}` } };
  for (let index = 0; index < SIZE.pods / PER_NODE; index++) {
    yield {
      ...{ apiVersion: 'v1', kind: 'Node', metadata: { name: `node-${index}`, labels: { zone: `zone-${index % 3}` } } },
      ...{
        spec: { podCIDR: '198.18.0.0/16' },
        status: { addresses: [{ type: 'InternalIP', address: `198.19.254.${index % 250}` }] },
      },
    };
  }
  for (let index = 0; index < SIZE.pods; index++) yield pod(index, podAddress(index));
  for (let index = 0; index < SIZE.services; index++) {
    const namespace = `ns-${index % NAMESPACES}`;
    yield {
      ...{ apiVersion: 'v1', kind: 'Service', metadata: { name: `service-${index}`, namespace } },
      spec: {
        clusterIP: `198.19.${128 + (index >> 8)}.${index & 255}`,
        clusterIPs: [`198.19.${128 + (index >> 8)}.${index & 255}`],
        ports: [{ port: 80, targetPort: 8080, protocol: 'TCP' }],
      },
    };
    yield {
      ...{
        apiVersion: 'discovery.k8s.io/v1',
        kind: 'EndpointSlice',
        addressType: 'IPv4',
        ports: [{ port: 8080, protocol: 'TCP' }],
      },
      metadata: { name: `service-${index}-x`, namespace, labels: { 'kubernetes.io/service-name': `service-${index}` } },
      endpoints: [0, 1, 2].map((replica) => {
        const behind = (index + NAMESPACES * replica) % SIZE.pods;
        return {
          addresses: [podAddress(behind)],
          conditions: { ready: true },
          targetRef: { kind: 'Pod', namespace, name: `app-${behind % APPS}-${behind}` },
        };
      }),
    };
  }
  for (let index = 0; index < SIZE.policies; index++) yield policy(index, 8080);
}

function quantiles(values: readonly number[]): Quantiles {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (part: number): number =>
    rounded(sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))] ?? Number.NaN);
  return { median: at(0.5), p99: at(0.99), max: at(1), count: sorted.length };
}

function delays(late: ReturnType<typeof monitorEventLoopDelay>): Quantiles {
  const ms = (ns: number): number => rounded(ns / 1e6);
  return { median: ms(late.percentile(50)), p99: ms(late.percentile(99)), max: ms(late.max), count: late.count };
}

/** CPU time of a process, in seconds: proc(5), fields 14 and 15 in ticks of 10 ms. */
function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/** How long a process's first thread could have run and did not, in seconds: the second number of schedstat (sched-stats.rst), in ns. */
function waitedSeconds(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/task/${pid}/schedstat`, 'latin1').split(' ')[1]) / 1e9;
}

const lab = await Lab.create();
const folder = mkdtempSync(path.join(tmpdir(), 'postern-bench-'));
/** As the image runs it: a bundle with package.json and build/ beside it, and little room for what is young; and as the DaemonSet does. */
const app = path.join(folder, 'app');
cpSync(path.join(BUILD, 'bundle/dist'), path.join(app, 'dist'), { recursive: true });
cpSync(path.join(BUILD, '../package.json'), path.join(app, 'package.json'));
symlinkSync(BUILD, path.join(app, 'build'));
const postern = ['--max-semi-space-size=2', '--disable-sigusr1', path.join(app, 'dist/cli/main.js')];
const api = await ApiServer.start({ objects: objects(), history: 100_000 });
try {
  for (let index = 0; index < PER_NODE; index++) lab.cgroup(`kubepods/burstable/pod0000-${index}`);
  const bytes = (): number => api.log.reduce((sum, { responseBytes }) => sum + responseBytes, 0);
  const before = kernelMiB();
  const started = performance.now();
  const options = [
    '--kube',
    '--kubeconfig',
    api.kubeconfig,
    '--node-name',
    NODE,
    '--cgroup-root',
    path.join(lab.root, 'kubepods'),
  ];
  const places = [
    '--bpffs',
    'none',
    '--state-dir',
    path.join(folder, 'state'),
    '--socket',
    path.join(folder, 'socket'),
    '--metrics-address',
    '127.0.0.1:0',
  ];
  const child = lab.adopt(
    spawn(process.execPath, [...postern, 'agent', ...options, ...places], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, MALLOC_ARENA_MAX: '1', MALLOC_TRIM_THRESHOLD_: '131072' },
    }),
  );
  const agent = new TestAgent(child);
  await agent.line((line) => line.event === 'ready');
  const readyMs = performance.now() - started;
  const pid = child.pid ?? 0;
  const listMiB = bytes() / 2 ** 20;
  await sleep(isQuick ? 1000 : 10_000);
  const settledMiB = processMiB(pid, 'VmRSS');
  const grownMiB = kernelMiB() - before;

  const edits: number[] = [];
  for (let edit = 0; edit < SIZE.edits; edit++) {
    const index = edit % Math.min(PER_NODE, SIZE.policies);
    let asked = 0;
    await agent.applied(async () => {
      await api.put(policy(index, 8081 + edit));
      asked = performance.now();
    });
    edits.push(performance.now() - asked);
    await sleep(50);
  }

  const late = monitorEventLoopDelay({ resolution: 1 });
  const grace = loadPrograms(loadNative());
  const graces: number[] = [];
  const asking = setInterval(async () => {
    const asked = performance.now();
    await grace.programsEnded();
    graces.push(performance.now() - asked);
  }, 100);
  asking.unref();
  late.enable();
  const from = agent.lines.length;
  const [cpu, serverCpu, waited] = [cpuSeconds(pid), cpuSeconds(process.pid), waitedSeconds(pid)];
  const [bytesBefore, churnStarted] = [bytes(), performance.now()];
  let changes = 0;
  while (performance.now() - churnStarted < SIZE.seconds * 1000) {
    // Peers of this node's pods among them: every pod has an app that some local policy may allow.
    const index = PER_NODE + ((changes * 101) % (SIZE.pods - PER_NODE));
    await api.put(pod(index, `198.19.${(changes >> 7) % 120}.${128 + (changes & 127)}`));
    changes++;
    await sleep(Math.max(0, churnStarted + (changes * 1000) / CHANGES_PER_SECOND - performance.now()));
  }
  const seconds = (performance.now() - churnStarted) / 1000;
  const agentCpu = (cpuSeconds(pid) - cpu) / seconds;
  const beside = {
    agentWaits: rounded((waitedSeconds(pid) - waited) / seconds),
    programsEndedMs: quantiles(graces),
    serverCpu: rounded((cpuSeconds(process.pid) - serverCpu) / seconds),
    serverLateMs: delays(late),
  };
  late.disable();
  clearInterval(asking);
  const apiBytesPerSecond = (bytes() - bytesBefore) / seconds;
  await sleep(1000);
  const peakMiB = processMiB(pid, 'VmHWM');
  const enforced = agent.lines
    .slice(from)
    .filter(({ event }) => event === 'applied')
    .map(({ ms }) => Number(ms));
  const costs: ClusterCosts = {
    ...{ pods: SIZE.pods, services: SIZE.services, policies: SIZE.policies, localPods: PER_NODE },
    podBytes: JSON.stringify(pod(0, podAddress(0))).length,
    ...{
      readyMs: rounded(readyMs),
      peakMiB: rounded(peakMiB),
      settledMiB: rounded(settledMiB),
      kernelMiB: rounded(grownMiB),
      listMiB: rounded(listMiB),
    },
    policyEditMs: quantiles(edits),
    churn: {
      ...{ changesPerSecond: rounded(changes / seconds), seconds: rounded(seconds), enforcedMs: quantiles(enforced) },
      ...{ agentCpu: rounded(agentCpu), apiBytesPerSecond: Math.round(apiBytesPerSecond), beside },
    },
  };
  grace.close();
  await agent.stop();
  process.stdout.write(`${JSON.stringify(costs)}\n`);
} finally {
  await lab.close();
  await api.stop();
  rmSync(folder, { recursive: true, force: true });
}
