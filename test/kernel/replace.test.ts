// SPDX-License-Identifier: Apache-2.0
// A policy replaced a thousand times under continuous real traffic: what both versions allow never fails once, what both deny
// never passes once. The versions allow the same peer by ever other means, so that ids, labels, ranges and zones come and go.
import assert from 'node:assert/strict';
import path from 'node:path';
import test from 'node:test';
import type { Compiled } from '../../src/compile/compile.ts';
import { transition } from '../../src/compile/transition.ts';
import { Applier } from '../../src/kernel/apply.ts';
import { loadNative } from '../../src/kernel/native.ts';
import { attachPrograms, loadPrograms } from '../../src/kernel/programs.ts';
import type { Peer, Pod, Policy, Port, Rule, Snapshot } from '../../src/model/objects.ts';
import { seeded } from '../oracle/random.ts';
import { cgroupMount, Lab, type resultOf } from '../support/lab.ts';

const REPLACEMENTS = 1000;
const SEED = Number(process.env.POSTERN_SEED ?? 11);
const PORT = 7777;
const REACHABLE = ['198.18.60.1', 'fd00:60::1'];
const FORBIDDEN = ['198.18.60.2', 'fd00:60::2'];

function pod(name: string, labels: Record<string, string>, addresses: string[]): Pod {
  return {
    ...{
      namespace: 'x',
      name,
      uid: null,
      labels,
      node: null,
      hostNetwork: false,
      addresses,
      ended: false,
      isStatic: false,
    },
    ...{ ports: [{ name: 'echo', protocol: 'TCP', port: PORT }], cgroup: null },
  };
}

const BASE: Omit<Snapshot, 'policies'> = {
  namespaces: [{ name: 'x', labels: { 'kubernetes.io/metadata.name': 'x', team: 'red' } }],
  nodes: [{ name: 'n', labels: {}, addresses: ['198.18.61.1'], podCidrs: ['198.18.60.0/24', 'fd00:60::/64'] }],
  pods: [
    pod('client', { app: 'client' }, ['198.18.60.9', 'fd00:60::9']),
    pod('reachable', { app: 'echo', tier: 'front' }, REACHABLE),
    pod('forbidden', { app: 'secret', tier: 'back' }, FORBIDDEN),
  ],
  services: [],
  endpointSlices: [],
  host: { node: null, addresses: [], resolvers: [] },
};

const EXCEPT = { cidrs: ['198.18.60.2/32', 'fd00:60::2/128'], entities: [] };
const labels = (matchLabels: Record<string, string>) => ({ matchLabels, matchExpressions: [] });

/** Ways to say "the reachable pod, not the forbidden one". */
const WAYS: readonly Peer[] = [
  { type: 'pods', namespaceSelector: null, podSelector: labels({ app: 'echo' }) },
  { type: 'pods', namespaceSelector: labels({ team: 'red' }), podSelector: labels({ tier: 'front' }) },
  {
    ...{ type: 'pods', namespaceSelector: null },
    podSelector: {
      matchLabels: {},
      matchExpressions: [{ key: 'app', operator: 'NotIn', values: ['secret', 'client'] }],
    },
  },
  { type: 'networks', cidrs: ['198.18.60.1/32', 'fd00:60::1/128'], except: [] },
  { type: 'networks', cidrs: ['198.18.60.0/24', 'fd00:60::/64'], except: EXCEPT.cidrs },
  { type: 'networks', cidrs: ['0.0.0.0/0', '::/0'], except: ['198.18.60.2/31', 'fd00:60::2/127'] },
  { type: 'entities', entities: ['Cluster'], except: EXCEPT },
  { type: 'entities', entities: ['All'], except: EXCEPT },
];
/** Rules that come and go beside it, and match neither pod. */
const NOISE: readonly Peer[] = [
  { type: 'networks', cidrs: ['198.18.62.0/24'], except: [] },
  { type: 'networks', cidrs: ['198.18.60.128/25', 'fd00:61::/32'], except: ['198.18.60.200/32'] },
  { type: 'entities', entities: ['World'], except: { cidrs: [], entities: [] } },
  { type: 'pods', namespaceSelector: null, podSelector: labels({ stage: 'beta' }) },
];
const PORTS: readonly (Port[] | null)[] = [
  null,
  [
    { protocol: 'TCP', port: PORT, endPort: null },
    { protocol: 'UDP', port: PORT, endPort: null },
  ],
  [
    { protocol: 'TCP', port: 7000, endPort: 7999 },
    { protocol: 'UDP', port: null, endPort: null },
  ],
  [...Array(9).keys()].flatMap((n): Port[] => [
    { protocol: 'TCP', port: PORT - 8 * n, endPort: null },
    { protocol: 'UDP', port: PORT - 8 * n, endPort: null },
  ]),
];

function version(random: ReturnType<typeof seeded>): Policy[] {
  const rule = (peers: readonly Peer[], ports: Rule['ports']): Rule => ({
    ...{ name: null, action: 'Accept', peers, ports, notEnforced: null },
  });
  const policy = (name: string, effect: Policy['effect'], rules: readonly Rule[]): Policy => ({
    ...{
      kind: 'EgressPolicy',
      namespace: 'x',
      name,
      effect,
      priority: 0,
      mode: 'Enforce',
      onDeny: 'Reject',
      hostNetwork: false,
    },
    ...{ subject: { type: 'own', podSelector: labels({ app: 'client' }) }, rules },
  });
  const noise = random.sample(NOISE, random.between(0, NOISE.length)).map((peer) => rule([peer], null));
  const way = (): Rule => rule([random.pick(WAYS)], random.pick(PORTS));
  const policies = [policy('isolate', 'Isolate', [...noise, way(), ...(random.chance(0.3) ? [way()] : [])])];
  if (random.chance(0.3)) policies.push(policy('limit', 'Limit', [way(), ...noise]));
  if (random.chance(0.2)) policies.push(policy('grant', 'Grant', noise));
  return policies;
}

test('a thousand replacements under traffic: nothing that stays allowed fails, nothing that stays denied passes', async () => {
  const native = loadNative();
  const lab = await Lab.create();
  try {
    const { netns } = await lab.workload('any', { addresses: ['198.18.60.9', 'fd00:60::9'], cgroup: null });
    const server = lab.placeIn(netns, lab.cgroup('server'));
    const client = lab.placeIn(netns, lab.cgroup('held/client'));
    for (const args of [
      ['link', 'set', 'lo', 'up'],
      ...[...REACHABLE, ...FORBIDDEN].map((address) => [
        'addr',
        'add',
        address,
        'dev',
        'lo',
        ...(address.includes(':') ? ['nodad'] : []),
      ]),
    ]) {
      assert.equal((await server.exec('ip', args)).status, 0, args.join(' '));
    }
    for (const address of [...REACHABLE, ...FORBIDDEN]) {
      await server.actor.listen('TCP', address, PORT);
      await server.actor.listen('UDP', address, PORT);
    }

    const object = loadPrograms(native, {
      workloads: 16,
      identities: 64,
      networks: 256,
      verdicts: 1024,
      ports: 4096,
      selves: 16,
    });
    const applier = new Applier(object, { unknown: 'deny', hostNetns: 0n });
    const folder = lab.cgroup('held/client');
    const level = path.relative(cgroupMount(), folder).split('/').length;
    const bindings = new Map([['x/client', { cgroup: native.cgroupId(folder), level }]]);
    const random = seeded(SEED);
    let compiled: Compiled | null = null;
    const replace = (): void => {
      const next = transition(compiled, { ...BASE, policies: version(random) });
      assert.deepEqual(next.compiled.problems, []);
      for (const step of next.steps) assert.equal(applier.apply(step, bindings).leftover, null);
      compiled = next.compiled;
    };
    replace();
    const attached = attachPrograms(object, lab.cgroup('held'));
    try {
      const traffic = client.spawn(process.execPath, [
        path.join(import.meta.dirname, 'traffic.ts'),
        ...[`${PORT}`, ...REACHABLE, '--', ...FORBIDDEN],
      ]);
      const result = resultOfRunning(traffic);
      for (let done = 0; done < REPLACEMENTS; done++) {
        replace();
        await new Promise((resolve) => setImmediate(resolve));
      }
      traffic.stdin?.end();
      const { stdout, stderr } = await result;
      const outcomes = JSON.parse(stdout || assert.fail(stderr)) as Record<string, Record<string, number>>;
      const at = `POSTERN_SEED=${SEED}: ${stdout}`;
      for (const kind of ['connect', 'send', 'exchange']) {
        assert.deepEqual(Object.keys(outcomes[kind] ?? {}), ['ok'], `${kind}: ${at}`);
        assert.ok((outcomes[kind]?.ok ?? 0) > 100, `${kind} hardly ran: ${at}`);
      }
      for (const kind of ['forbidden connect', 'forbidden send']) {
        assert.deepEqual(Object.keys(outcomes[kind] ?? {}), ['EPERM'], `${kind}: ${at}`);
        assert.ok((outcomes[kind]?.EPERM ?? 0) > 100, `${kind} hardly ran: ${at}`);
      }
      assert.equal((await server.actor.received()) > 0, true);
    } finally {
      attached.detach();
      object.close();
    }
  } finally {
    await lab.close();
  }
});

/** As resultOf, but its input stays open until the caller ends it. */
function resultOfRunning(child: Parameters<typeof resultOf>[0]): Promise<{ stdout: string; stderr: string }> {
  return new Promise((resolve, reject) => {
    let stdout = '';
    let stderr = '';
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    child.on('error', reject);
    child.on('close', () => resolve({ stdout, stderr }));
  });
}
