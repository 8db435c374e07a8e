// SPDX-License-Identifier: Apache-2.0
// Do statuses, Leases and Events hold up against an API server with schemas, versions and access of its own, read by kubectl?
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import test, { type TestContext } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';
import { parseAllDocuments } from 'yaml';
import { compile } from '../../src/compile/compile.ts';
import { KubeSource } from '../../src/kube/source.ts';
import type { Contents } from '../../src/source/store.ts';
import type { Condition } from '../../src/status/conditions.ts';
import { Reporter } from '../../src/status/reporter.ts';
import { type ApiServer, type JsonObject, startApiServer } from '../support/apiserver/server.ts';
import { FakeClock } from './fake-api.ts';

const ROOT = path.join(import.meta.dirname, '../..');
const KUBECTL = path.join(ROOT, 'build/tools/kubectl');
const NAMESPACE = 'postern-system';
/** Far longer than anything takes: what has not come by then never will. */
const PATIENCE_MS = 60_000;
const run = promisify(execFile);

const crd = (file: string): JsonObject[] =>
  parseAllDocuments(readFileSync(path.join(ROOT, 'daemonset/crds', file), 'utf8'))
    .filter((one) => one.contents !== null)
    .map((one) => one.toJS() as JsonObject);

const pod = (name: string, node: string) => ({
  ...{ apiVersion: 'v1', kind: 'Pod', metadata: { namespace: 'shop', name, labels: { app: 'web' } } },
  spec: { nodeName: node, containers: [{ name: 'main', image: 'x' }] },
  status: { phase: 'Running', podIP: `198.18.2.${name.length}` },
});

const egress = (rules: readonly object[]) => ({
  ...{ apiVersion: 'postern.dev/v1alpha1', kind: 'EgressPolicy', metadata: { namespace: 'shop', name: 'web' } },
  spec: { podSelector: {}, egress: rules },
});

/** Allows nothing yet: nobody looks at server names. */
const NARROWED = { to: [{ domainNames: ['example.com'] }], ports: [{ port: 443 }], tls: { serverName: 'Match' } };
const RULE = { to: [{ networks: ['198.18.0.0/16'] }], ports: [{ port: 80 }] };

/** An agent without a kernel: what the source says is enforced at once, unless it is told to lag. */
class Agent {
  readonly source: KubeSource;
  readonly reporter: Reporter;
  lags = false;
  contents: Contents | null = null;
  readonly failures: string[] = [];

  private constructor(source: KubeSource, node: string, clock: FakeClock) {
    this.source = source;
    this.reporter = new Reporter({
      ...{
        api: source.api,
        objects: () => source.policies(),
        namespace: NAMESPACE,
        node,
        identity: `${node}-1`,
        clock,
        random: () => 0.5,
      },
      onFailure: (what, failure) => this.failures.push(`${what}: ${failure}`),
    });
    source.start((contents) => {
      this.contents = contents;
      this.apply();
    });
  }

  static async start(server: ApiServer, node: string, clock: FakeClock): Promise<Agent> {
    const options = { kubeconfig: server.kubeconfig, context: null, nodeName: node, state: null, kept: new Map() };
    return new Agent(await KubeSource.open(options), node, clock);
  }

  apply(): void {
    if (this.contents === null || this.lags) return;
    const { snapshot, problems } = this.contents;
    const compiled = compile(snapshot);
    const none = { bindings: new Map(), refused: [] };
    this.reporter.onApplied({ wanted: snapshot, enforced: snapshot, compiled, problems, ...none });
  }
}

async function world(t: TestContext) {
  const names = ['shop', NAMESPACE].map((name) => ({ apiVersion: 'v1', kind: 'Namespace', metadata: { name } }));
  const nodes = ['a', 'b'].map((name) => ({ apiVersion: 'v1', kind: 'Node', metadata: { name } }));
  const server = await startApiServer({
    objects: [...crd('egresspolicies.yaml'), ...crd('clusteregresspolicies.yaml'), ...names, ...nodes],
  });
  const clock = new FakeClock();
  const agents: Agent[] = [];
  t.after(async () => {
    for (const one of agents) await one.source.stop();
    await server.stop();
  });
  for (const one of [pod('p', 'a'), pod('pp', 'b'), egress([RULE])]) server.put(one);
  for (const node of ['a', 'b']) agents.push(await Agent.start(server, node, clock));
  /** Rounds of all agents, five seconds apart, until something holds. */
  const until = async (holds: () => boolean, only: readonly Agent[] = agents): Promise<void> => {
    const begunMs = performance.now();
    while (!holds()) {
      assert.ok(performance.now() - begunMs < PATIENCE_MS, JSON.stringify(policy(server)));
      for (const { reporter } of only) {
        await reporter.beat();
        await reporter.lead();
        await reporter.writeStatus();
        await reporter.writeEvents();
      }
      clock.pass(5);
      // What was written comes back to the sources by their watches.
      await pause(2);
    }
  };
  return { server, clock, agents, until };
}

interface PolicyObject {
  readonly metadata: { readonly generation: number; readonly resourceVersion: string };
  readonly status?: {
    readonly workloads?: number;
    readonly nodes?: object;
    readonly conditions?: readonly Condition[];
  };
}

function policy(server: ApiServer): PolicyObject {
  return server.get('postern.dev/v1alpha1', 'EgressPolicy', 'web', 'shop') as unknown as PolicyObject;
}

function says(server: ApiServer, type: string): string {
  const found = policy(server).status?.conditions?.find((one) => one.type === type);
  return found === undefined ? '' : `${found.status} ${found.reason} ${found.observedGeneration}`;
}

/** Holds when it was asked so many times. */
function after(rounds: number): () => boolean {
  let asked = 0;
  return () => {
    asked += 1;
    return asked > rounds;
  };
}

test('two agents, one writer: kubectl sees counts and conditions, and waits for them', async (t) => {
  const { server, agents, until } = await world(t);
  await until(() => says(server, 'Programmed') === 'True Programmed 1');
  assert.deepEqual(policy(server).status?.nodes, { selected: 2, programmed: 2 });
  const kubectl = async (...args: readonly string[]) =>
    (await run(KUBECTL, ['--kubeconfig', server.kubeconfig, ...args])).stdout;
  const columns = (await kubectl('get', 'egpol', '-n', 'shop', '--no-headers')).split(/\s+/);
  assert.deepEqual(columns.slice(0, 5), ['web', 'Isolate', 'Enforce', '2', 'True']);
  await kubectl('wait', '-n', 'shop', 'egpol/web', '--for=condition=Accepted', '--timeout=5s');
  const leases = (await kubectl('get', 'leases', '-n', NAMESPACE, '-o', 'name')).trim().split('\n').sort();
  assert.deepEqual(
    leases,
    ['a', 'b', 'status'].map((name) => `lease.coordination.k8s.io/postern-${name}`),
  );
  // Nothing changes any more, so nothing is written, however long it goes on.
  server.log.length = 0;
  await until(after(30));
  const writes = server.log.filter(({ method, resource }) => method === 'PATCH' && resource === 'egresspolicies');
  assert.deepEqual(writes, []);
  // No more than the shipped roles grant: policies are known by their watches and never read one by one.
  const asked = new Set(
    server.log
      .filter(({ resource }) => ['leases', 'events', 'egresspolicies'].includes(resource))
      .map(({ verb, resource, subresource }) => `${verb} ${resource}${subresource && `/${subresource}`}`),
  );
  assert.deepEqual([...asked].sort(), ['get leases', 'list leases', 'patch leases', 'update leases']);
  assert.deepEqual(
    agents.flatMap(({ failures }) => failures),
    [],
  );
});

test('an edit, a node that lags, an invalid version, names without DNS: each is said of its generation', async (t) => {
  const { server, agents, until } = await world(t);
  await until(() => says(server, 'Programmed') === 'True Programmed 1');
  const [, b] = agents;
  assert.ok(b !== undefined);
  b.lags = true;
  server.put(egress([RULE, NARROWED]));
  await until(() => says(server, 'Programmed') === 'False Pending 2');
  assert.equal(says(server, 'Accepted'), 'False NotYetEnforced 2');
  assert.equal(says(server, 'DNSAllowed'), 'False NoDNSRule 2');
  b.lags = false;
  b.apply();
  await until(() => says(server, 'Programmed') === 'True Programmed 2');
  server.put(egress([RULE]));
  await until(() => says(server, 'Programmed') === 'True Programmed 3');
  assert.equal(says(server, 'DNSAllowed'), '', 'a condition that does not apply any more goes');
  // What the schema lets through and the validation does not.
  server.put(egress([{ to: [{ networks: ['10.0.0.0/33'] }] }]));
  await until(() => says(server, 'Accepted') === 'False Invalid 4');
  assert.equal(says(server, 'Programmed'), 'False Pending 4');

  const events = server.list('events.k8s.io/v1', 'Event') as unknown as {
    reason: string;
    regarding: { uid?: string };
  }[];
  const reasons = events.map(({ reason }) => reason).sort();
  assert.deepEqual(reasons, ['Invalid', 'NoDNSRule', 'NotYetEnforced']);
  assert.ok(events.every(({ regarding }) => typeof regarding.uid === 'string'));
});

test('whoever writes dies: another takes over; a write in between is a conflict, and is read again', async (t) => {
  const { server, agents, until } = await world(t);
  await until(() => says(server, 'Programmed') === 'True Programmed 1');
  const rest = agents.slice(1);
  await until(() => says(server, 'Programmed') === 'Unknown AgentSilent 1', rest);
  const mend = server.break({
    kind: 'status',
    code: 409,
    times: 2,
    where: { resource: 'egresspolicies', verb: 'patch' },
  });
  await until(() => says(server, 'Programmed') === 'True Programmed 1');
  mend();
  assert.deepEqual(
    agents.flatMap(({ failures }) => failures),
    [],
  );
});

test('access refused: told by what it is, everything else goes on, and it is taken up when it is granted', async (t) => {
  const { server, agents, until } = await world(t);
  const grants = [
    server.deny({ verbs: ['patch'], resource: 'egresspolicies/status' }),
    server.deny({ verbs: ['create', 'patch'], resource: 'events' }),
  ];
  server.put(egress([NARROWED]));
  const told = () => agents.flatMap(({ failures }) => failures);
  await until(() => told().length >= 2);
  assert.ok(
    told().some((one) => one.startsWith('status: ') && one.includes('egresspolicies')),
    told().join('\n'),
  );
  assert.ok(
    told().some((one) => one.startsWith('events: ') && one.includes('events')),
    told().join('\n'),
  );
  assert.equal(policy(server).status?.conditions, undefined);
  for (const grant of grants) grant();
  await until(() => says(server, 'Accepted') === 'False NotYetEnforced 2');
  await until(() => told().includes('status: null'));
});

test('the API server is away: nothing crashes, and afterwards one of them writes again', async (t) => {
  const { server, clock, until } = await world(t);
  await until(() => says(server, 'Programmed') === 'True Programmed 1');
  await server.refuse();
  await until(after(20));
  await server.listen();
  server.put(egress([RULE, RULE]));
  await until(() => says(server, 'Programmed') === 'True Programmed 2');
  assert.ok(clock.now() > 0);
});

test("a ClusterNetworkPolicy's conditions: ours beside those of others", async (t) => {
  const { server, until } = await world(t);
  for (const one of crd('network-policy-api/clusternetworkpolicies.standard.yaml')) server.put(one);
  const foreign = {
    ...{ type: 'example.com/Accepted', status: 'True', reason: 'Fine', message: 'by another' },
    lastTransitionTime: '2020-01-01T00:00:00Z',
  };
  server.put({
    ...{ apiVersion: 'policy.networking.k8s.io/v1alpha2', kind: 'ClusterNetworkPolicy', metadata: { name: 'guard' } },
    spec: {
      ...{ tier: 'Admin', priority: 10, subject: { namespaces: {} } },
      egress: [{ action: 'Deny', to: [{ networks: ['198.18.0.0/16'] }] }],
    },
    status: { conditions: [foreign] },
  });
  const conditions = () => {
    const found = server.get('policy.networking.k8s.io/v1alpha2', 'ClusterNetworkPolicy', 'guard', '');
    const { conditions: all } = (found?.status ?? {}) as { conditions?: Condition[] };
    return (all ?? []).map(({ type, status, reason }) => `${type} ${status} ${reason}`);
  };
  await until(() => conditions().includes('postern.dev/Programmed True Programmed'));
  assert.deepEqual(conditions().sort(), [
    'example.com/Accepted True Fine',
    'postern.dev/Accepted True Accepted',
    'postern.dev/Programmed True Programmed',
  ]);
});
