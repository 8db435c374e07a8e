// SPDX-License-Identifier: Apache-2.0
// While policy A is replaced by policy B, every packet gets A's verdict or B's, whatever the order within a phase: the maps are
// written entry by entry here, and between any two writes no workload loses what both allow or gets what both deny.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { type Compiled, compile } from '../../src/compile/compile.ts';
import { rowKey } from '../../src/compile/row-table.ts';
import { transition } from '../../src/compile/transition.ts';
import { type Flow, judge, type TableReader } from '../../src/judge/decide.ts';
import { mask } from '../../src/model/address.ts';
import { wildcardsOver } from '../../src/model/name.ts';
import type { Peer, Pod, Policy, Port, Rule, Selector, Snapshot } from '../../src/model/objects.ts';
import type { AddressKey, Id, IdentityEntry, NetworkKey, Row, RowKey, Step } from '../../src/model/tables.ts';
import { NO_ID } from '../../src/model/tables.ts';

const selector = (matchLabels: Record<string, string>): Selector => ({ matchLabels, matchExpressions: [] });

function pod(
  namespace: string,
  name: string,
  labels: Record<string, string>,
  address: string,
  hostNetwork = false,
): Pod {
  return {
    ...{
      namespace,
      name,
      uid: null,
      labels,
      node: 'n1',
      hostNetwork,
      addresses: [address],
      ended: false,
      isStatic: false,
      cgroup: null,
    },
    ports: [{ name: 'web', protocol: 'TCP', port: labels.app === 'b' ? 8080 : 80 }],
  };
}

const PODS = [
  pod('x', 'a', { app: 'a', tier: 'front' }, '198.18.0.1'),
  pod('x', 'b', { app: 'b' }, '198.18.0.2'),
  pod('y', 'a', { app: 'a' }, '198.18.1.1'),
  pod('y', 'b', { app: 'b', tier: 'front' }, 'fd00::2'),
  pod('y', 'h', { app: 'a' }, '198.18.9.1', true),
];

const BASE: Omit<Snapshot, 'policies'> = {
  namespaces: [
    { name: 'x', labels: { 'kubernetes.io/metadata.name': 'x', team: 'red' } },
    { name: 'y', labels: { 'kubernetes.io/metadata.name': 'y', team: 'blue' } },
  ],
  nodes: [{ name: 'n1', labels: { zone: 'one' }, addresses: ['198.18.9.1'], podCidrs: ['198.18.0.0/16'] }],
  pods: PODS,
  services: [
    {
      ...{ namespace: 'y', name: 's', clusterIPs: ['198.19.0.1'], externalName: null },
      ports: [{ name: null, protocol: 'TCP', port: 80, nodePort: 30080 }],
    },
  ],
  endpointSlices: [
    {
      ...{ namespace: 'y', name: 's-1', service: 's', ports: [{ name: null, protocol: 'TCP', port: 8080 }] },
      endpoints: [
        { addresses: ['fd00::2'], ready: true, pod: { namespace: 'y', name: 'b' } },
        { addresses: ['198.18.0.2'], ready: true, pod: null },
      ],
    },
  ],
  host: { node: 'n1', addresses: ['198.18.9.1'], resolvers: ['198.19.53.53'] },
};

const labels = fc.constantFrom<Record<string, string>>({}, { app: 'a' }, { app: 'b' }, { tier: 'front' });
const namesPeer: fc.Arbitrary<Peer> = fc
  .tuple(
    fc.subarray(['api.example.org', '*.example.org', '*.b.example.org', '*.org', 'example.org'], { minLength: 1 }),
    fc.boolean(),
  )
  .map(([names, anywhere]) => ({ type: 'domainNames', names, anywhere }));
const peer: fc.Arbitrary<Peer> = fc.oneof(
  fc.constant<Peer>({ type: 'any' }),
  fc
    .tuple(fc.constantFrom(null, selector({}), selector({ team: 'red' })), labels)
    .map(([namespaceSelector, chosen]): Peer => ({ type: 'pods', namespaceSelector, podSelector: selector(chosen) })),
  fc
    .tuple(
      fc.constantFrom(
        ['198.18.0.0/16'],
        ['198.18.0.0/24', 'fd00::/8'],
        ['198.18.0.2/32'],
        ['0.0.0.0/0', '::/0'],
        ['198.19.0.0/16'],
      ),
      fc.constantFrom<string[]>([], ['198.18.0.2/32'], ['198.18.0.0/25'], ['fd00::/16']),
    )
    .map(([cidrs, except]): Peer => ({ type: 'networks', cidrs, except })),
  fc.constant<Peer>({ type: 'nodes', selector: selector({ zone: 'one' }) }),
  namesPeer,
  fc.constant<Peer>({ type: 'services', services: [{ namespace: 'y', name: 's' }] }),
  fc
    .tuple(
      fc.constantFrom(
        'All' as const,
        'World' as const,
        'Internet' as const,
        'Cluster' as const,
        'Host' as const,
        'DNS' as const,
      ),
      fc.constantFrom<{ cidrs: string[]; entities: ('Host' | 'Cluster' | 'DNS')[] }>(
        { cidrs: [], entities: [] },
        { cidrs: ['198.18.0.0/24'], entities: [] },
        { cidrs: [], entities: ['Host'] },
        { cidrs: ['203.0.113.0/24'], entities: ['DNS', 'Cluster'] },
      ),
    )
    .map(([entity, except]): Peer => ({ type: 'entities', entities: [entity], except })),
);
const port: fc.Arbitrary<Port> = fc.constantFrom<Port>(
  { protocol: 'TCP', port: 80, endPort: null },
  { protocol: 'TCP', port: 8080, endPort: null },
  { protocol: 'TCP', port: 'web', endPort: null },
  { protocol: 'TCP', port: 1, endPort: 443 },
  { protocol: 'UDP', port: null, endPort: null },
  { protocol: 'ICMP', icmpType: 'EchoRequest' },
);
const ruleTo = (peer: fc.Arbitrary<Peer>): fc.Arbitrary<Rule> =>
  fc.record({
    name: fc.constant(null),
    action: fc.constant('Accept' as const),
    peers: fc.array(peer, { minLength: 1, maxLength: 2 }),
    ports: fc.option(fc.array(port, { minLength: 1, maxLength: 2 }), { nil: null }),
    notEnforced: fc.constant(null),
  });
const policiesTo = (peer: fc.Arbitrary<Peer>): fc.Arbitrary<Policy[]> =>
  fc
    .array(
      fc.record({
        namespace: fc.constantFrom('x', 'y'),
        effect: fc.constantFrom('Isolate' as const, 'Isolate' as const, 'Grant' as const, 'Limit' as const),
        mode: fc.constantFrom('Enforce' as const, 'Enforce' as const, 'Audit' as const),
        onDeny: fc.constantFrom('Reject' as const, 'Drop' as const),
        chosen: labels,
        hostNetwork: fc.boolean(),
        rules: fc.array(ruleTo(peer), { maxLength: 3 }),
      }),
      { maxLength: 4 },
    )
    .map((list) =>
      list.map(
        ({ chosen, ...rest }, index): Policy => ({
          ...rest,
          ...{
            kind: 'EgressPolicy',
            name: `p${index}`,
            priority: 0,
            subject: { type: 'own', podSelector: selector(chosen) },
          },
        }),
      ),
    );

/** What DNS told of every address; the last was never told before, so that its class is asked of the trie. */
const NAMES = ['api.example.org', 'example.org', 'a.b.example.org', 'new.example.org'];
const [NEW_NAME = ''] = NAMES.slice(-1);

const FLOWS: Flow[] = [
  ...[
    '198.18.0.1',
    '198.18.0.2',
    '198.18.1.1',
    '198.18.9.1',
    '198.19.0.1',
    '198.19.53.53',
    '198.18.77.7',
    '203.0.113.9',
    '192.0.2.1',
  ],
  ...['fd00::2', 'fd00::77', '2001:470::1'],
].flatMap((address) =>
  [
    { protocol: 6, port: 80 },
    { protocol: 6, port: 443, names: NAMES },
    { protocol: 6, port: 443, names: [NEW_NAME] },
    { protocol: 6, port: 8080 },
    { protocol: 6, port: 30080 },
    { protocol: 17, port: 53 },
    { protocol: 1, port: 1 },
  ].map((rest) => ({ ...rest, address: keyOf(address) })),
);

function keyOf(text: string): AddressKey {
  const found = compile({ ...BASE, policies: [] }).tables.workloads; // touches nothing: only here to fail early if BASE is broken
  assert.ok(found.size > 0);
  return text.includes(':')
    ? Buffer.from(expand(text)).toString('hex')
    : `00000000000000000000ffff${text
        .split('.')
        .map((part) => Number(part).toString(16).padStart(2, '0'))
        .join('')}`;
}

function expand(text: string): Uint8Array {
  const [head = '', tail = ''] = text.split('::');
  const words = (part: string): number[] =>
    part
      .split(':')
      .filter(Boolean)
      .map((word) => Number.parseInt(word, 16));
  const front = words(head);
  const back = words(tail);
  const all = [...front, ...Array<number>(8 - front.length - back.length).fill(0), ...back];
  return new Uint8Array(all.flatMap((word) => [word >> 8, word & 255]));
}

/** The kernel's maps, written one entry at a time. */
class Maps implements TableReader {
  readonly rows = new Map<RowKey, Row>();
  readonly identities = new Map<AddressKey, IdentityEntry>();
  readonly networks = new Map<NetworkKey, Id>();
  readonly pointers = new Map<string, { enforced: Id; shadow: Id }>();
  readonly names = new Map<string, Id>();
  /** Of names that were told already, the classes that they had when these were last worked out. */
  readonly texts = new Map<string, Id>(NAMES.filter((name) => name !== NEW_NAME).map((name) => [name, NO_ID]));

  row = (ruleset: Id, subject: Id, kind: number): Row | undefined => this.rows.get(rowKey(ruleset, subject, kind));
  identity = (address: AddressKey): IdentityEntry | undefined => this.identities.get(address);
  networkClass = (address: AddressKey): Id => this.#longest(0, address);
  zoneClass = (address: AddressKey): Id => this.#longest(1, address);

  notWorldClass = (address: AddressKey): Id => this.#longest(2, address);
  nameClass = (name: string): Id => this.texts.get(name) ?? this.trieClass(name);

  trieClass(name: string): Id {
    for (const pattern of [name, ...wildcardsOver(name)]) {
      const found = this.names.get(pattern);
      if (found !== undefined) return found;
    }
    return NO_ID;
  }

  #longest(space: 0 | 1 | 2, address: AddressKey): Id {
    for (let bits = 128; bits >= 0; bits--) {
      const found = this.networks.get(`${space}/${mask(address, bits)}/${bits}`);
      if (found !== undefined) return found;
    }
    return NO_ID;
  }
}

type Write = () => void;

/** The phases of a step, as `Step` in tables.ts says; writes within one may come in any order. */
function phases(maps: Maps, { tables, bridge }: Step): Write[][] {
  const grow = [...tables.rows, ...bridge].map(
    ([key, row]) =>
      () =>
        maps.rows.set(key, row),
  );
  const flip: Write[] = [
    ...[...tables.identities].map(
      ([key, entry]) =>
        () =>
          maps.identities.set(key, entry),
    ),
    ...[...tables.networks].map(
      ([key, id]) =>
        () =>
          maps.networks.set(key, id),
    ),
    ...[...maps.identities.keys()]
      .filter((key) => !tables.identities.has(key))
      .map((key) => () => maps.identities.delete(key)),
    ...[...maps.networks.keys()]
      .filter((key) => !tables.networks.has(key))
      .map((key) => () => maps.networks.delete(key)),
  ];
  // What is longer hides what is shorter: so nothing is taken away before all is there.
  const name = [...tables.names].map(
    ([pattern, id]) =>
      () =>
        maps.names.set(pattern, id),
  );
  const unname = [...maps.names.keys()]
    .filter((pattern) => !tables.names.has(pattern))
    .map((pattern) => () => maps.names.delete(pattern));
  const text = [...maps.texts.keys()].map((told) => () => maps.texts.set(told, maps.trieClass(told)));
  const point = [...tables.workloads].map(
    ([key, { enforced, shadow }]) =>
      () =>
        maps.pointers.set(key, { enforced, shadow }),
  );
  const shrink = [...maps.rows.keys(), ...bridge.keys()]
    .filter((key) => !tables.rows.has(key))
    .map((key) => () => maps.rows.delete(key));
  return [grow, flip, name, unname, text, point, shrink];
}

function denies(maps: Maps, workload: string, flow: Flow): boolean {
  const pointer = maps.pointers.get(workload) ?? assert.fail(workload);
  return judge(maps, pointer.enforced, flow).denied;
}

function verdicts(compiled: Compiled): Map<string, boolean> {
  const maps = new Maps();
  for (const writes of phases(maps, { tables: compiled.tables, bridge: new Map(), bridgePortSets: new Map() })) {
    for (const write of writes) write();
  }
  return new Map(
    [...maps.pointers.keys()].flatMap((workload) =>
      FLOWS.map((flow, index): [string, boolean] => [`${workload} ${index}`, denies(maps, workload, flow)]),
    ),
  );
}

/** Deterministic from its seed, so that a failing order can be seen again. */
function shuffled<T>(items: readonly T[], seed: number): T[] {
  let state = seed;
  const next = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  return items
    .map((item) => ({ item, at: next() }))
    .sort((a, b) => a.at - b.at)
    .map(({ item }) => item);
}

/** `stride`: after how many writes it is looked again. */
function checkReplacement(policies: fc.Arbitrary<Policy[]>, stride: number, numRuns: number): void {
  fc.assert(checked(policies, policies, stride), { numRuns });
}

function checked(from: fc.Arbitrary<Policy[]>, to: fc.Arbitrary<Policy[]>, stride: number): fc.IProperty<unknown> {
  return fc.property(from, to, fc.integer({ min: 1 }), (before, after, seed) => {
    const a = transition(null, { ...BASE, policies: before });
    const maps = new Maps();
    for (const step of a.steps) for (const writes of phases(maps, step)) for (const write of writes) write();
    const b = transition(a.compiled, { ...BASE, policies: after });
    const old = verdicts(a.compiled);
    const fresh = verdicts(b.compiled);
    let writesDone = 0;
    for (const step of b.steps) {
      for (const writes of phases(maps, step)) {
        for (const write of shuffled(writes, seed)) {
          write();
          writesDone++;
          if (writesDone % stride !== 0) continue; // every write of some order is looked at across runs
          for (const workload of maps.pointers.keys()) {
            FLOWS.forEach((flow, index) => {
              const key = `${workload} ${index}`;
              if (old.get(key) === fresh.get(key)) assert.equal(denies(maps, workload, flow), old.get(key), key);
            });
          }
        }
      }
    }
    // And at the end the maps are those of a fresh start.
    const end = new Maps();
    for (const writes of phases(end, { tables: b.compiled.tables, bridge: new Map(), bridgePortSets: new Map() })) {
      for (const write of writes) write();
    }
    assert.deepEqual(maps.rows, end.rows);
    assert.deepEqual(new Map(maps.identities), new Map(end.identities));
    assert.deepEqual(maps.networks, end.networks);
    assert.deepEqual(maps.names, end.names);
    assert.deepEqual(maps.texts, end.texts);
    assert.deepEqual(maps.pointers, end.pointers);
  });
}

test('between any two writes, every flow has the verdict of the old policies or of the new', () => {
  checkReplacement(policiesTo(peer), 7, 150);
});

test('the same where policies speak of names, of which some were told before and others are only now', () => {
  checkReplacement(policiesTo(fc.oneof({ weight: 3, arbitrary: namesPeer }, peer)), 3, 40);
});

test('the last policy goes: until it is gone, a Service is judged by what stands behind it', () => {
  const rule: Rule = {
    ...{ name: null, action: 'Accept', peers: [{ type: 'any' }], notEnforced: null },
    ports: [{ protocol: 'TCP', port: 8080, endPort: null }],
  };
  const last: Policy = {
    ...{ kind: 'EgressPolicy', namespace: 'x', name: 'last', priority: 0, effect: 'Isolate', mode: 'Enforce' },
    ...{ onDeny: 'Reject', hostNetwork: false, rules: [rule], subject: { type: 'own', podSelector: selector({}) } },
  };
  fc.assert(checked(fc.constant([last]), fc.constant([]), 1), { numRuns: 1 });
});

test('the same policies again change nothing, and equal policies on two workloads are one ruleset', () => {
  const both: Policy[] = ['x', 'y'].map((namespace) => ({
    ...{ kind: 'ClusterEgressPolicy', namespace: null, name: 'all', priority: 0, effect: 'Isolate', mode: 'Enforce' },
    ...{ onDeny: 'Reject', hostNetwork: false, rules: [] },
    subject: {
      type: 'pods',
      pods: { namespaceSelector: selector({ 'kubernetes.io/metadata.name': namespace }), podSelector: selector({}) },
      except: [],
    },
  }));
  const first = compile({ ...BASE, policies: both });
  assert.equal(first.rulesets.size, 1);
  const again = transition(first, { ...BASE, policies: structuredClone(both) });
  assert.deepEqual(again.compiled.tables, first.tables);
  assert.equal(again.steps.length, 1);
  assert.equal(again.steps[0]?.bridge.size, 0);
});
