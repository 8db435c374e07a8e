// SPDX-License-Identifier: Apache-2.0
// Each condition and reason of the API's table, from a snapshot, its problems and what nodes report.
import assert from 'node:assert/strict';
import test from 'node:test';
import type { Pod, Policy, Problem, Rule, Snapshot } from '../../src/model/objects.ts';
import { selections } from '../../src/resolve/selection.ts';
import { decodeReport, encodeReport, invalidPolicies, type NodeReport, policySet } from '../../src/status/report.ts';
import {
  type NodeState,
  type PolicyObject,
  policyStatuses,
  selectedBy,
  selectInSlices,
  type WantedStatus,
} from '../../src/status/status.ts';

const everything = { matchLabels: {}, matchExpressions: [] };
const label = (key: string, value: string) => ({ matchLabels: { [key]: value }, matchExpressions: [] });

function pod(name: string, over: Partial<Pod> = {}): Pod {
  return {
    ...{
      namespace: 'shop',
      name,
      uid: name,
      labels: { app: 'web' },
      node: 'a',
      hostNetwork: false,
      addresses: [],
      ports: [],
    },
    ...{ ended: false, isStatic: false, cgroup: null },
    ...over,
  };
}

function rule(over: Partial<Rule>): Rule {
  return { name: null, action: 'Accept', peers: [], ports: null, notEnforced: null, ...over };
}

const dns = rule({ peers: [{ type: 'entities', entities: ['DNS'], except: { cidrs: [], entities: [] } }] });
const names = rule({ peers: [{ type: 'domainNames', names: ['example.com'], anywhere: false }] });
const service = (name: string) => rule({ peers: [{ type: 'services', services: [{ namespace: 'shop', name }] }] });

function policy(name: string, over: Partial<Policy> = {}): Policy {
  return {
    ...{ kind: 'EgressPolicy', namespace: 'shop', name, effect: 'Isolate', priority: 0, mode: 'Enforce' },
    ...{ onDeny: 'Reject', hostNetwork: false, rules: [] },
    subject: { type: 'own', podSelector: label('app', 'web') },
    version: { uid: `u-${name}`, generation: 1 },
    ...over,
  };
}

function snapshot(over: Partial<Snapshot>): Snapshot {
  return {
    namespaces: [],
    nodes: ['a', 'b'].map((name) => ({ name, labels: { name }, addresses: [], podCidrs: [] })),
    ...{ pods: [], services: [], endpointSlices: [], policies: [] },
    host: { node: 'a', addresses: [], resolvers: [] },
    ...over,
  };
}

function problem(code: string, over: Partial<Problem> = {}): Problem {
  return {
    ...{ severity: 'error', code, file: null, line: 0, column: 0, path: 'spec.x', object: 'EgressPolicy/shop/web' },
    ...{ message: 'is wrong', advice: 'mend it', ...over },
  };
}

interface Given {
  readonly snapshot: Partial<Snapshot>;
  readonly problems?: readonly Problem[];
  readonly refused?: NodeReport['refused'];
  readonly units?: NodeReport['units'];
  /** By node: what it is besides one that enforces all of the snapshot. */
  readonly nodes?: Readonly<Record<string, Partial<NodeState> | null>>;
  readonly objects?: ReadonlyMap<string, PolicyObject>;
}

function statuses({ snapshot: over, problems = [], refused = [], units = {}, nodes = {}, objects }: Given) {
  const now = snapshot(over);
  const { hash, versions } = policySet(now.policies, invalidPolicies(problems));
  const report = decodeReport(encodeReport({ hash, refused, units }));
  const states = ['a', 'b'].flatMap((name): [string, NodeState][] => {
    const own = nodes[name];
    return own === null ? [] : [[name, { report, isSilent: false, versions, ...own }]];
  });
  return policyStatuses({ snapshot: now, problems, nodes: new Map(states), ...(objects && { objects }) });
}

function web(given: Given): WantedStatus {
  const status = statuses(given).get('EgressPolicy/shop/web');
  assert.ok(status !== undefined);
  return status;
}

function told(status: WantedStatus): string[] {
  return status.conditions.map(({ type, status: holds, reason }) => `${type} ${holds} ${reason}`);
}

const FINE = ['Accepted True Accepted', 'ResolvedRefs True Resolved', 'Programmed True Programmed'];

test('whom a policy selects is counted: workloads, hostNetwork pods among them, nodes', () => {
  const pods = [
    pod('p1'),
    pod('p2', { node: 'b' }),
    pod('waiting', { node: null }),
    pod('done', { ended: true }),
    pod('other', { labels: {} }),
    pod('host', { hostNetwork: true, node: 'b' }),
  ];
  const of = (hostNetwork: boolean) => web({ snapshot: { pods, policies: [policy('web', { hostNetwork })] } });
  assert.deepEqual(of(false).counts, { workloads: 3, hostNetwork: 0, nodes: { selected: 2, programmed: 2 } });
  assert.deepEqual(of(true).counts, { workloads: 4, hostNetwork: 1, nodes: { selected: 2, programmed: 2 } });
  assert.deepEqual(told(of(true)), FINE);
  assert.deepEqual(of(true).version, { uid: 'u-web', generation: 1 });
});

test('Accepted: every reason', () => {
  const one = { pods: [pod('p')], policies: [policy('web')] };
  const accepted = (...problems: readonly Problem[]) => told(web({ snapshot: one, problems }))[0];
  assert.equal(accepted(), 'Accepted True Accepted');
  assert.equal(accepted(problem('type')), 'Accepted False Invalid');
  assert.equal(accepted(problem('host_bits', { severity: 'warning' })), 'Accepted True Accepted');
  assert.equal(accepted(problem('not_yet_enforced', { severity: 'warning' })), 'Accepted False NotYetEnforced');
  assert.equal(accepted(problem('limit_exceeded')), 'Accepted False LimitExceeded');
  assert.equal(accepted(problem('type', { object: 'EgressPolicy/shop/other' })), 'Accepted True Accepted');
  const refused = [{ policy: 'EgressPolicy/shop/web', code: 'limit_exceeded', message: 'ninth' }];
  assert.deepEqual(told(web({ snapshot: one, refused })), [
    'Accepted False LimitExceeded',
    'ResolvedRefs True Resolved',
    'Programmed False RefusedByNode',
  ]);
});

test('what holds in the place of an invalid policy is said as far as it is known', () => {
  const message = (now: Policy | null, object: Omit<PolicyObject, 'uid' | 'generation'> | null): string => {
    const own = object === null ? {} : { objects: new Map([[NAME, { uid: 'u-web', generation: 2, ...object }]]) };
    const status = web({ snapshot: { policies: now === null ? [] : [now] }, problems: [problem('type')], ...own });
    return (status.conditions[0]?.message ?? '').replace('spec.x: is wrong. ', '');
  };
  const [NAME, now] = ['EgressPolicy/shop/web', policy('web')];
  assert.match(message(now, null), /^Its last valid version holds; where none was seen, /);
  assert.match(message(now, { valid: now }), /^Its last valid version holds, on every node whose agent has seen it\.$/);
  assert.match(message(null, { valid: null }), /says nothing of egress, holds\.$/);
  const never = 'No valid version of it was ever seen: ';
  assert.equal(message(null, {}), `${never}whom it selects cannot be read, and it holds nobody.`);
  const standIn = (over: Partial<Policy>) =>
    message(policy('web', over), {}).replace(`${never}until it is mended, `, '');
  assert.equal(standIn({}), 'whom it selects is isolated, and it allows nothing.');
  assert.equal(standIn({ effect: 'Limit' }), 'it leaves whom it selects nothing.');
  assert.match(
    standIn({ effect: 'Grant', mode: 'Audit' }),
    /^it allows nothing\. It is in Audit, .* refuses nothing\.$/,
  );
});

test('an invalid policy of which nothing holds has a status all the same, of no known version', () => {
  const one = web({ snapshot: {}, problems: [problem('type', { path: 'spec.egress', message: 'must be a list' })] });
  assert.deepEqual([one.counts, one.version, told(one)], [null, null, ['Accepted False Invalid']]);
  assert.match(one.conditions[0]?.message ?? '', /^spec\.egress: must be a list\. /);
  const cluster = statuses({ snapshot: {}, problems: [problem('type', { object: 'ClusterEgressPolicy/c' })] });
  assert.deepEqual(
    [...cluster.values()].map(({ kind, namespace, name }) => [kind, namespace, name]),
    [['ClusterEgressPolicy', null, 'c']],
  );
  assert.equal(statuses({ snapshot: {}, problems: [problem('type', { object: 'NetworkPolicy/shop/n' })] }).size, 0);
});

test('ResolvedRefs: every reason', () => {
  const services = [
    { namespace: 'shop', name: 'db', clusterIPs: ['10.0.0.1'], ports: [], externalName: null },
    { namespace: 'shop', name: 'far', clusterIPs: [], ports: [], externalName: 'far.example' },
    { namespace: 'shop', name: 'odd', clusterIPs: ['10.0.0.2'], ports: [], externalName: null },
  ];
  const endpointSlices = [
    {
      ...{ namespace: 'shop', name: 'odd-1', service: 'odd', ports: [] },
      endpoints: [{ addresses: ['192.0.2.1'], ready: true, pod: null }],
    },
  ];
  const refs = (...rules: readonly Rule[]) =>
    told(web({ snapshot: { pods: [pod('p')], services, endpointSlices, policies: [policy('web', { rules })] } }))[1];
  assert.equal(refs(service('db')), 'ResolvedRefs True Resolved');
  assert.equal(refs(service('db'), service('gone')), 'ResolvedRefs False ServiceNotFound');
  assert.equal(refs(service('far')), 'ResolvedRefs False ServiceNotUsable');
  assert.equal(refs(service('odd')), 'ResolvedRefs False ServiceNotUsable');
  assert.equal(refs(service('odd'), service('gone')), 'ResolvedRefs False ServiceNotFound');
  assert.equal(refs(rule({ notEnforced: 'via is not yet enforced' })), 'ResolvedRefs False GatewayNotFound');
});

test('Programmed: every reason, and which nodes', () => {
  const one = { pods: [pod('p1'), pod('p2', { node: 'b' })], policies: [policy('web')] };
  const of = (given: Partial<Given>) => {
    const status = web({ snapshot: one, ...given });
    const [, , programmed] = status.conditions;
    return [told(status)[2], status.counts?.nodes.programmed, programmed?.message ?? ''] as const;
  };
  assert.deepEqual(of({}).slice(0, 2), ['Programmed True Programmed', 2]);
  assert.deepEqual(of({ snapshot: { policies: [policy('web')] } }).slice(0, 2), ['Programmed True NoWorkloads', 0]);

  const pending = of({ nodes: { b: { versions: new Set(['u-web:0']) } } });
  assert.deepEqual(pending.slice(0, 2), ['Programmed False Pending', 1]);
  assert.match(pending[2], /\bb\b/);

  for (const nodes of [{ b: null }, { b: { isSilent: true } }, { b: { report: null } }]) {
    const silent = of({ nodes });
    assert.deepEqual(silent.slice(0, 2), ['Programmed Unknown AgentSilent', 1]);
    assert.match(silent[2], /\bb\b/);
  }

  const why = [{ policy: 'EgressPolicy/shop/web', code: 'limit_exceeded', message: 'too many Limits' }];
  const refused = of({ refused: why });
  assert.deepEqual(refused.slice(0, 2), ['Programmed False RefusedByNode', 0]);
  assert.match(refused[2], /^a; b: too many Limits\.$/);
  // A map that is full refuses what is new, and nothing that was enforced before.
  const whole = [{ policy: null, code: 'limit_exceeded', message: 'a change is refused whole' }];
  assert.equal(of({ refused: whole })[0], 'Programmed True Programmed');
});

test('a refusal of everything new names each policy that is not enforced yet', () => {
  const whole = { hash: '', units: {}, refused: [{ policy: null, code: 'limit_exceeded', message: 'rows is full' }] };
  const status = web({
    snapshot: { pods: [pod('p')], policies: [policy('web')] },
    nodes: { a: { report: whole, versions: new Set() } },
  });
  assert.equal(told(status)[2], 'Programmed False RefusedByNode');
  assert.match(status.conditions[2]?.message ?? '', /a: rows is full/);
});

test('what is written now and is invalid is on no node, whatever holds in its place', () => {
  const status = web({ snapshot: { pods: [pod('p')], policies: [policy('web')] }, problems: [problem('type')] });
  assert.deepEqual(told(status), ['Accepted False Invalid', 'ResolvedRefs True Resolved', 'Programmed False Pending']);
  assert.deepEqual([status.version, status.uid], [null, 'u-web']);
  assert.equal(status.conditions[2]?.message, 'What is written now is invalid, and on no node.');
  assert.equal(status.counts?.workloads, 1);
});

test('an Audit policy that is programmed is not said to be enforced', () => {
  const told = (mode: Policy['mode']) =>
    web({ snapshot: { pods: [pod('p')], policies: [policy('web', { mode })] } }).conditions[2];
  assert.equal(told('Enforce')?.message, 'Enforced on 1 of 1 nodes.');
  assert.equal(told('Audit')?.message, 'In Audit, so that it refuses nothing, on 1 of 1 nodes.');
  assert.equal(told('Audit')?.status, 'True');
});

test('DNSAllowed: only with names, and which workloads may not ask', () => {
  const pods = [pod('p1'), pod('p2'), pod('q', { labels: { app: 'web', asks: 'yes' } })];
  const of = (rules: readonly Rule[], ...others: readonly Policy[]) =>
    web({ snapshot: { pods, policies: [policy('web', { rules }), ...others] } });
  assert.equal(of([dns]).conditions.length, 3);
  assert.equal(told(of([names, dns]))[3], 'DNSAllowed True Allowed');
  assert.equal(told(of([names]))[3], 'DNSAllowed False NoDNSRule');
  const asks = policy('asks', {
    ...{ effect: 'Grant', rules: [dns], subject: { type: 'own', podSelector: label('asks', 'yes') } },
  });
  const some = of([names], asks);
  assert.equal(told(some)[3], 'DNSAllowed False NoDNSRule');
  assert.match(some.conditions[3]?.message ?? '', /lets shop\/p1 and 1 like it ask/);
  const all = policy('all', { effect: 'Grant', rules: [dns], subject: { type: 'own', podSelector: everything } });
  assert.equal(told(of([names], all))[3], 'DNSAllowed True Allowed');
  const limit = policy('limit', { effect: 'Limit', rules: [names] });
  assert.equal(told(of([names, dns], limit))[3], 'DNSAllowed False NoDNSRule');
});

test('DNSAllowed goes by the resolver that the cluster has, and by what rules say while nothing stands behind it', () => {
  const udp53 = [{ protocol: 'UDP' as const, port: 53, endPort: null }];
  const to = (cidr: string) => rule({ peers: [{ type: 'networks', cidrs: [cidr], except: [] }], ports: udp53 });
  const resolver = pod('coredns', { namespace: 'kube-system', labels: {}, addresses: ['198.18.3.3'] });
  const kubeDns = {
    ...{ namespace: 'kube-system', name: 'kube-dns', clusterIPs: ['198.18.96.10'], externalName: null },
    ports: [{ name: 'dns', protocol: 'UDP' as const, port: 53, nodePort: null }],
  };
  const slice = (ready: boolean) => ({
    ...{ namespace: 'kube-system', name: 'kube-dns-1', service: 'kube-dns' },
    ports: [{ name: 'dns', protocol: 'UDP' as const, port: 53 }],
    endpoints: [{ addresses: ['198.18.3.3'], ready, pod: { namespace: 'kube-system', name: 'coredns' } }],
  });
  const of = (allow: Rule, ready: boolean, mode: Policy['mode'] = 'Enforce') =>
    told(
      web({
        snapshot: {
          pods: [pod('p'), resolver],
          ...{ services: [kubeDns], endpointSlices: [slice(ready)] },
          policies: [policy('web', { rules: [names, allow], mode })],
        },
      }),
    )[3];
  assert.equal(of(dns, true), 'DNSAllowed True Allowed');
  assert.equal(of(to('198.18.3.3/32'), true), 'DNSAllowed True Allowed');
  assert.equal(of(to('198.18.7.7/32'), true), 'DNSAllowed False NoDNSRule');
  assert.equal(of(to('198.18.7.7/32'), true, 'Audit'), 'DNSAllowed False NoDNSRule', 'as if it were enforced');
  assert.equal(of(to('198.18.7.7/32'), false), 'DNSAllowed True Allowed');
  assert.equal(of(dns, false), 'DNSAllowed True Allowed', 'a restart of the resolver is no change of policy');
});

test('node services: nodes by their labels, units where they are held', () => {
  const runtime = (nodeSelector: typeof everything) =>
    policy('runtime', {
      ...{ kind: 'ClusterEgressPolicy', namespace: null, rules: [names] },
      subject: { type: 'nodeServices', nodeSelector, units: ['kubelet.service', 'containerd.service'] },
    });
  const name = 'ClusterEgressPolicy/runtime';
  const of = (nodeSelector: typeof everything, given: Partial<Given> = {}) => {
    const status = statuses({ snapshot: { policies: [runtime(nodeSelector)] }, ...given }).get(name);
    assert.ok(status !== undefined);
    return status;
  };
  const units = { [name]: { selected: 2, held: 1 } };
  assert.deepEqual(of(everything, { units }).counts, {
    ...{ workloads: 2, hostNetwork: 0, nodes: { selected: 2, programmed: 2 } },
  });
  assert.match(of(everything, { units }).conditions[2]?.message ?? '', /Some of its units are not there on a; b\.$/);
  assert.deepEqual(of(label('name', 'b')).counts?.nodes, { selected: 1, programmed: 1 });
  assert.deepEqual(told(of(label('name', 'c'))), [
    ...['Accepted True Accepted', 'ResolvedRefs True Resolved', 'Programmed True NoWorkloads'],
    'DNSAllowed False NoDNSRule',
  ]);
  const refused = [{ policy: name, code: 'unit_outside_root', message: 'kubelet.service has its cgroup outside' }];
  assert.match(
    of(everything, { refused }).conditions[2]?.message ?? '',
    /^a; b: kubelet\.service has its cgroup outside\.$/,
  );
});

test('a report is read as it was written, and anything else is none', () => {
  const report: NodeReport = {
    hash: '0123456789abcdef',
    refused: [{ policy: null, code: 'x', message: 'y' }],
    units: { 'ClusterEgressPolicy/r': { selected: 2, held: 1 } },
  };
  assert.deepEqual(decodeReport(encodeReport(report)), report);
  for (const text of [undefined, '', '[]', 'null', '{', '{"hash":1}']) assert.equal(decodeReport(text), null);
  assert.deepEqual(decodeReport('{"hash":"a","refused":[1,["p"]],"units":{"x":1}}'), {
    ...{ hash: 'a', refused: [{ policy: 'p', code: 'undefined', message: 'undefined' }], units: {} },
  });
  const huge = {
    ...report,
    refused: Array.from({ length: 1000 }, () => ({ policy: 'p'.repeat(300), code: 'c', message: 'm'.repeat(5000) })),
  };
  assert.ok(encodeReport(huge).length < 16_384);
});

test('the set of policies has one hash whatever their order, and invalid ones are no part of it', () => {
  const [a, b] = [policy('a'), policy('b')];
  const hash = (policies: readonly Policy[], ...invalid: readonly string[]) =>
    policySet(policies, new Set(invalid)).hash;
  assert.equal(hash([a, b]), hash([b, a]));
  assert.notEqual(hash([a, b]), hash([a]));
  assert.notEqual(hash([a]), hash([policy('a', { version: { uid: 'u-a', generation: 2 } })]));
  assert.equal(hash([a, b], 'EgressPolicy/shop/b'), hash([a]));
});

test('whom policies select is the same worked out in slices, and others have their turn between them', async () => {
  const policies = [
    policy('web', { hostNetwork: true }),
    policy('odd', { subject: { type: 'own', podSelector: label('parity', '1') } }),
    policy('nobody', { subject: { type: 'own', podSelector: label('app', 'none') } }),
  ];
  const pods = Array.from({ length: 9001 }, (_, index) =>
    pod(`p${index}`, {
      ...{ labels: { app: index % 3 === 0 ? 'web' : 'other', parity: `${index % 2}` }, node: `n${index % 7}` },
      ...{ hostNetwork: index % 5 === 0, ended: index % 11 === 0 },
    }),
  );
  const now = snapshot({ pods, policies });
  let turns = 0;
  await selectInSlices(now, async () => {
    turns += 1;
  });
  assert.equal(turns, 5, 'four whole slices, and the sum');
  await selectInSlices(now, () => assert.fail('it is known'));

  const select = selections(now);
  for (const one of policies) {
    const held = pods.filter((each) => select(each).shadow.includes(one));
    const told = selectedBy(now).get(one);
    if (held.length === 0) {
      assert.equal(told, undefined);
      continue;
    }
    assert.ok(told !== undefined);
    const { workloads, hostNetwork, nodes, kinds } = told;
    assert.deepEqual([workloads, hostNetwork], [held.length, held.filter((each) => each.hostNetwork).length]);
    assert.deepEqual([...nodes].sort(), [...new Set(held.map(({ node }) => node))].sort());
    const kindsOf = Map.groupBy(held, select);
    assert.deepEqual(
      [...kinds].map(([, { pod: first, count }]) => [first.name, count]),
      [...kindsOf.values()].map((all) => [all[0]?.name, all.length]),
    );
  }
  const whole = selectedBy({ ...now });
  assert.deepEqual([...whole.values()], [...selectedBy(now).values()]);
});
