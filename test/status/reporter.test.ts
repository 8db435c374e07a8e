// SPDX-License-Identifier: Apache-2.0
// Several agents on one API server and one clock: one writes, all report; what one cannot do another takes over.
import assert from 'node:assert/strict';
import test from 'node:test';
import type { Standing } from '../../src/agent/hooks.ts';
import { compile } from '../../src/compile/compile.ts';
import type { Pod, Policy, Problem, Snapshot } from '../../src/model/objects.ts';
import type { Condition } from '../../src/status/conditions.ts';
import { Reporter } from '../../src/status/reporter.ts';
import type { Refusal } from '../../src/tell/refusal.ts';
import { FakeApi, FakeClock, failure } from './fake-api.ts';

const LEASES = '/apis/coordination.k8s.io/v1/namespaces/postern-system/leases';
const POLICY = '/apis/postern.dev/v1alpha1/namespaces/shop/egresspolicies/web';

const pod = (name: string, node: string): Pod => ({
  ...{ namespace: 'shop', name, uid: `u-${name}`, labels: { app: 'web' }, node, hostNetwork: false, addresses: [] },
  ...{ ports: [], ended: false, isStatic: false, cgroup: null },
});

function policy(generation: number): Policy {
  return {
    ...{ kind: 'EgressPolicy', namespace: 'shop', name: 'web', effect: 'Isolate', priority: 0, mode: 'Enforce' },
    ...{ onDeny: 'Reject', hostNetwork: false, rules: [], version: { uid: 'u1', generation } },
    subject: { type: 'own', podSelector: { matchLabels: { app: 'web' }, matchExpressions: [] } },
  };
}

function snapshot(node: string, policies: readonly Policy[]): Snapshot {
  return {
    ...{ namespaces: [], services: [], endpointSlices: [], policies },
    nodes: ['a', 'b'].map((name) => ({ name, labels: {}, addresses: [], podCidrs: [] })),
    pods: [pod('p1', 'a'), pod('p2', 'b')],
    host: { node, addresses: [], resolvers: [] },
  };
}

function standing(node: string, policies: readonly Policy[], over: Partial<Standing> = {}): Standing {
  const wanted = snapshot(node, policies);
  const compiled = compile(wanted, { local: wanted.pods.filter((one) => one.node === node) });
  return { ...{ wanted, enforced: wanted, compiled, bindings: new Map(), refused: [], problems: [] }, ...over };
}

class Cluster {
  readonly api = new FakeApi();
  readonly clock = new FakeClock();
  readonly failures: string[] = [];
  readonly agents: readonly Reporter[];

  constructor() {
    this.api.put(POLICY, { metadata: { name: 'web', namespace: 'shop', uid: 'u1', generation: 1 } });
    this.agents = ['a', 'b'].map((node) => this.agent(node));
  }

  agent(node: string): Reporter {
    return new Reporter({
      ...{
        api: this.api,
        objects: () => this.api.policies(),
        clock: this.clock,
        namespace: 'postern-system',
        node,
        identity: `${node}-1`,
      },
      onFailure: (what, why) => this.failures.push(`${node} ${what}: ${why}`),
      random: () => 0.5,
    });
  }

  /** So many seconds, in steps of five, in which these agents do all that they do. */
  async run(seconds: number, agents = this.agents): Promise<void> {
    for (let passed = 0; passed < seconds; passed += 5) {
      for (const one of agents) {
        await one.beat();
        await one.lead();
      }
      for (const one of agents) {
        await one.writeStatus();
        await one.writeEvents();
      }
      this.clock.pass(5);
    }
  }

  get status(): { readonly nodes?: unknown; readonly conditions?: readonly Condition[] } {
    return (this.api.objects.get(POLICY)?.status ?? {}) as { nodes?: unknown; conditions?: Condition[] };
  }

  get programmed(): string {
    const found = this.status.conditions?.find(({ type }) => type === 'Programmed');
    return `${found?.status} ${found?.reason} ${found?.observedGeneration}`;
  }

  events(): string[] {
    return [...this.api.objects]
      .filter(([path]) => path.includes('/events/'))
      .map(([, event]) => {
        const { kind, name } = event.regarding as { kind: string; name: string };
        return `${kind}/${name} ${event.reason}: ${event.note}`;
      });
  }
}

function applied(cluster: Cluster, policies: readonly Policy[]): void {
  for (const [index, node] of ['a', 'b'].entries()) cluster.agents[index]?.onApplied(standing(node, policies));
}

test('all report at a fixed rate, one writes, and writes no more than what changes', async () => {
  const cluster = new Cluster();
  await cluster.run(10);
  assert.deepEqual(cluster.api.log, [], 'nothing is known yet, and nothing asked');

  applied(cluster, [policy(1)]);
  await cluster.run(60);
  assert.equal(cluster.programmed, 'True Programmed 1');
  assert.deepEqual(cluster.status.nodes, { selected: 2, programmed: 2 });
  assert.deepEqual(
    [...cluster.api.objects.keys()].filter((path) => path.startsWith(LEASES)).sort(),
    ['postern-a', 'postern-b', 'postern-status'].map((name) => `${LEASES}/${name}`),
  );
  cluster.api.taken();
  await cluster.run(300);
  const statusWrites = cluster.api.taken('PATCH').filter((one) => one.includes('egresspolicies'));
  assert.deepEqual(statusWrites, []);
  assert.deepEqual(cluster.failures, []);
});

test('an edit is Pending until every node enforces it, and a burst of edits is few writes', async () => {
  const cluster = new Cluster();
  applied(cluster, [policy(1)]);
  await cluster.run(60);
  cluster.api.taken();
  // Node b lags behind.
  for (let generation = 2; generation <= 12; generation += 1) {
    cluster.agents[0]?.onApplied(standing('a', [policy(generation)]));
    await cluster.run(5);
  }
  await cluster.run(30);
  assert.equal(cluster.programmed, 'False Pending 12');
  assert.deepEqual(cluster.status.nodes, { selected: 2, programmed: 1 });
  const writes = cluster.api.taken('PATCH').filter((one) => one.includes('egresspolicies'));
  assert.ok(writes.length <= 4, `${writes.length} writes in 85 seconds`);
  cluster.agents[1]?.onApplied(standing('b', [policy(12)]));
  await cluster.run(60);
  assert.equal(cluster.programmed, 'True Programmed 12');
});

test('the one that writes dies: the other takes over, and says that it is silent', async () => {
  const cluster = new Cluster();
  applied(cluster, [policy(1)]);
  await cluster.run(60);
  const survivor = cluster.agents.slice(1);
  await cluster.run(120, survivor);
  assert.equal(cluster.programmed, 'Unknown AgentSilent 1');
  assert.equal(cluster.api.objects.get(`${LEASES}/postern-status`)?.spec instanceof Object, true);
  assert.equal(Reflect.get(cluster.api.objects.get(`${LEASES}/postern-status`)?.spec ?? {}, 'holderIdentity'), 'b-1');
  // It comes back.
  await cluster.run(60);
  assert.equal(cluster.programmed, 'True Programmed 1');
});

test('a node that was not heard of yet is waited for, before it is called silent', async () => {
  const cluster = new Cluster();
  const [a] = cluster.agents;
  assert.ok(a !== undefined);
  a.onApplied(standing('a', [policy(1)]));
  await cluster.run(40, [a]);
  assert.equal(cluster.programmed, 'False Pending 1');
  assert.deepEqual(cluster.status.nodes, { selected: 2, programmed: 1 });
  await cluster.run(60, [a]);
  assert.equal(cluster.programmed, 'Unknown AgentSilent 1');
});

test('the one that stops lets go: the other writes within one look', async () => {
  const cluster = new Cluster();
  applied(cluster, [policy(1)]);
  await cluster.run(30);
  await cluster.agents[0]?.onStop();
  cluster.agents[1]?.onApplied(standing('b', [policy(2)]));
  await cluster.run(10, cluster.agents.slice(1));
  assert.equal(cluster.status.conditions?.[0]?.observedGeneration, 2);
});

test('a node that cannot hold a change says so, and what it held stays programmed', async () => {
  const cluster = new Cluster();
  applied(cluster, [policy(1)]);
  await cluster.run(60);
  cluster.agents[0]?.onApplied(standing('a', [policy(2)]));
  const refused: Problem = {
    ...{ severity: 'error', code: 'limit_exceeded', file: null, line: 0, column: 0, path: '', object: null },
    ...{ message: 'rows can hold 10', advice: 'less' },
  };
  const before = standing('b', [policy(1)]);
  const after = standing('b', [policy(2)], { enforced: before.wanted, refused: [refused], problems: [refused] });
  cluster.agents[1]?.onApplied(after);
  await cluster.run(60);
  assert.equal(cluster.programmed, 'False RefusedByNode 2');
  const message = cluster.status.conditions?.find(({ type }) => type === 'Programmed')?.message;
  assert.match(message ?? '', /^b: a change is refused whole: it rows can hold 10/);
});

test('what is refused is told once, and once when it is taken again', async () => {
  const cluster = new Cluster();
  applied(cluster, [policy(1)]);
  cluster.api.before = (method, path) => {
    if (path.includes('egresspolicies') && method === 'PATCH') throw failure(403, 'Forbidden');
  };
  await cluster.run(120);
  assert.deepEqual(cluster.failures, ['a status: 403 Forbidden']);
  cluster.api.before = () => undefined;
  await cluster.run(60);
  assert.deepEqual(cluster.failures.slice(1), ['a status: null']);
  assert.equal(cluster.programmed, 'True Programmed 1');
});

const refusal: Refusal = {
  ...{
    verdict: 'deny',
    cgroup: null,
    workload: 'shop/p1',
    address: '192.0.2.1',
    name: null,
    port: 443,
    protocol: 'TCP',
    icmp: null,
  },
  ...{ process: 'curl', pid: 1, policy: 'EgressPolicy/shop/web', rule: null, ruleName: null },
  ...{ isolatedBy: ['EgressPolicy/shop/web'], reason: 'no_rule', shadow: null },
};

test('a refused connection is an Event on its pod, one of a unit on the node, others on nothing', async () => {
  const cluster = new Cluster();
  applied(cluster, [policy(1)]);
  const [agent] = cluster.agents;
  agent?.onDrop(refusal, 3, 'service shop/db');
  agent?.onDrop(
    { ...refusal, verdict: 'audit', address: 'fd00::1', name: 'a.example', rule: 2, ruleName: 'r', reason: 'limit' },
    1,
    null,
  );
  agent?.onDrop({ ...refusal, workload: 'node/kubelet.service' }, 1, null);
  agent?.onDrop({ ...refusal, workload: 'unknown' }, 1, null);
  agent?.onDrift({ what: 'pin', name: 'links/egress', count: 1 });
  agent?.onFilling({ map: 'ports', entries: 95, maxEntries: 100 });
  await cluster.run(5, cluster.agents.slice(0, 1));
  assert.deepEqual(cluster.events().sort(), [
    'Node/a EgressRefused: TCP to 192.0.2.1:443 was refused: EgressPolicy/shop/web, no_rule',
    'Node/a EnforcementRepaired: somebody removed or replaced the pin links/egress: it is back',
    'Node/a MapFilling: the map ports holds 95 of 100 entries: a change beyond that will be refused; give it more room with --bpf-map-max ports=200',
    'Pod/p1 EgressRefused: TCP to 192.0.2.1:443 (service shop/db) was refused: EgressPolicy/shop/web, no_rule',
    'Pod/p1 EgressWouldBeRefused: TCP to [fd00::1]:443 (a.example) passed, and would be refused if Audit policies were enforced: EgressPolicy/shop/web rule 2 "r", limit',
  ]);
});

test('a policy with a problem is one Event, by the one that writes; a node tells what is wrong with its pods', async () => {
  const cluster = new Cluster();
  const names: Policy = {
    ...policy(1),
    rules: [
      {
        ...{ name: null, action: 'Accept', ports: null, notEnforced: null },
        peers: [{ type: 'domainNames', names: ['example.com'], anywhere: false }],
      },
    ],
  };
  const wrong: Problem = {
    ...{ severity: 'warning', code: 'not_yet_enforced', file: null, line: 0, column: 0, path: 'spec.egress[0]' },
    ...{ object: 'EgressPolicy/shop/web', message: 'allows nothing', advice: '' },
  };
  for (const [index, node] of ['a', 'b'].entries()) {
    cluster.agents[index]?.onApplied(standing(node, [names], { problems: [wrong] }));
    cluster.agents[index]?.onProblem('problem', wrong);
  }
  const clash: Problem = {
    ...{ ...wrong, severity: 'error', code: 'cgroup_clash', object: 'Pod/shop/p2' },
    ...{ message: 'its cgroup is that of another', advice: 'move it' },
  };
  cluster.agents[1]?.onProblem('problem', clash);
  await cluster.run(120);
  assert.deepEqual(cluster.events().sort(), [
    'EgressPolicy/web NoDNSRule: No rule lets shop/p1 and 1 like it ask DNS, so the names open nothing. Add a rule to: [{entities: [DNS]}].',
    'EgressPolicy/web NotYetEnforced: spec.egress[0]: allows nothing. The rest holds.',
    'Pod/p2 NotEnforced: on node b: its cgroup is that of another; move it',
  ]);
});

test('the Lease of a node that is gone goes after an hour', async () => {
  const cluster = new Cluster();
  applied(cluster, [policy(1)]);
  cluster.api.put(`${LEASES}/postern-gone`, {
    metadata: { name: 'postern-gone', labels: { 'postern.dev/node': 'gone' } },
    spec: { holderIdentity: 'gone', leaseDurationSeconds: 40, renewTime: '' },
  });
  await cluster.run(600);
  assert.ok(cluster.api.objects.has(`${LEASES}/postern-gone`));
  await cluster.run(3100);
  assert.deepEqual(
    [...cluster.api.objects.keys()].filter((path) => path.startsWith(LEASES)).sort(),
    ['postern-a', 'postern-b', 'postern-status'].map((name) => `${LEASES}/${name}`),
  );
});

test('what is wrong with a NetworkPolicy is an Event on it, once', async () => {
  const cluster = new Cluster();
  const problem = (object: string, code: string, severity: Problem['severity'] = 'warning'): Problem => ({
    ...{ severity, code, file: null, line: 0, column: 0, path: 'spec.x', object, message: 'is odd', advice: 'mend it' },
  });
  const tell = (...problems: readonly Problem[]) => {
    for (const [index, node] of ['a', 'b'].entries()) {
      cluster.agents[index]?.onApplied(standing(node, [policy(1)], { problems }));
    }
  };
  const odd = problem('NetworkPolicy/shop/np', 'policy_types');
  tell(odd, problem('ClusterNetworkPolicy/all', 'mode'), problem('ClusterNetworkPolicy/all', 'unknown_peer'));
  await cluster.run(60);
  const told = [
    'ClusterNetworkPolicy/all Doubtful: spec.x: is odd; mend it',
    'NetworkPolicy/np Doubtful: spec.x: is odd; mend it',
  ];
  assert.deepEqual(cluster.events().sort(), told, 'by one agent, once');
  const paths = [...cluster.api.objects.keys()].filter((path) => path.includes('/events/'));
  assert.deepEqual(paths.map((path) => /namespaces\/(\w+)\//.exec(path)?.[1]).sort(), ['default', 'shop']);

  tell(odd, problem('NetworkPolicy/shop/np', 'cidr', 'error'), problem('EgressPolicy/shop/web', 'wide_name'));
  await cluster.run(30);
  assert.deepEqual(cluster.events().sort(), [...told, 'NetworkPolicy/np Invalid: spec.x: is odd; mend it'].sort());
});
