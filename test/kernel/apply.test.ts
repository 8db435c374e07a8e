// SPDX-License-Identifier: Apache-2.0
// Does what is applied reach the kernel, whole, in the documented order, or not at all?

import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as abi from '#build/generated/abi.ts';
import { Applier, type CgroupBindings } from '#src/kernel/apply.ts';
import { storedRow } from '#src/kernel/encode.ts';
import { LimitExceeded, RollbackFailed } from '#src/kernel/errors.ts';
import { KernelError, loadNative, type NativeObject } from '#src/kernel/native.ts';
import { loadPrograms } from '#src/kernel/programs.ts';
import { type Contents, readBack } from '#src/kernel/tables.ts';
import { NO_ID, type PortPrefix, type Step } from '#src/model/tables.ts';
import { FakeObject, failAt } from './fake.ts';
import { address, entry, id, row, SILENT, type Sketch, step } from './fixture.ts';

const OPTIONS = { unknown: 'allow', hostNetns: 7n } as const;
const WEB = 'shop/web';
const DB = 'shop/db';
const BOUND: CgroupBindings = new Map([
  [WEB, { cgroup: 100n, level: 3 }],
  [DB, { cgroup: 200n, level: 3 }],
]);

const NOTHING: CgroupBindings = new Map();
const PREFIXES: readonly PortPrefix[] = [
  { protocol: 6, port: 80, length: 32, answer: { ...SILENT, policy: 0 } },
  { protocol: 6, port: 0x100, length: 24, answer: { ...SILENT, policy: 1 } },
  { protocol: 0, port: 0, length: 0, answer: { ...SILENT, limits: 1 } },
];

const FIRST: Sketch = {
  rows: [
    row(id('a'), NO_ID, { flags: abi.ROW_ISOLATED }),
    row(id('a'), id('1'), { entries: [entry(6, 80), entry(17, 53)] }),
    row(id('b'), NO_ID, { flags: abi.ROW_ISOLATED }),
    row(id('b'), id('2'), { portSet: id('9'), entries: Array.from({ length: 9 }, (_, port) => entry(6, port)) }),
  ],
  identities: {
    [address(1)]: { id: id('1'), network: NO_ID, kind: 5 },
    [address(2)]: { id: id('2'), network: id('7'), kind: 5 },
  },
  networks: { [`0/${'0'.repeat(20)}ffff${'0'.repeat(8)}/96`]: id('7'), [`1/${address(0)}/120`]: id('8') },
  names: { 'api.example.org': id('4'), '*.example.org': id('5') },
  resolvers: [`${address(53)}/53`, `${'0'.repeat(31)}1/53`],
  portSets: { [id('9')]: PREFIXES },
  workloads: { [WEB]: id('a'), [DB]: [id('b'), id('a')] },
  selves: { [WEB]: [address(1)], [DB]: [address(2)] },
};

/** WEB goes from a to c; a new pod; the port set and the ruleset b are gone with DB's policy. */
const SECOND: Sketch = {
  ...FIRST,
  rows: [row(id('c'), NO_ID, { flags: abi.ROW_ISOLATED }), row(id('c'), id('1'), { entries: [entry(6, 443)] })],
  bridge: [row(id('a'), id('3'), { entries: [entry(6, 80)] })],
  identities: {
    [address(1)]: { id: id('1'), network: NO_ID, kind: 5 },
    [address(3)]: { id: id('3'), network: NO_ID, kind: 5 },
  },
  names: { '*.example.org': id('6'), 'example.org': id('4') },
  resolvers: [`${address(54)}/5353`],
  portSets: {},
  workloads: { [WEB]: id('c'), [DB]: NO_ID },
};

function expected({ tables }: Step, bindings: CgroupBindings, slots: Readonly<Record<string, number>>): Contents {
  const bound = [...bindings].map(([name, { cgroup }]) => {
    const { enforced, shadow, selves } = tables.workloads.get(name) ?? { enforced: NO_ID, shadow: NO_ID, selves: [] };
    return { cgroup, selves, workload: { slot: slots[name] ?? 0, enforced, shadow, netns: 0n } };
  });
  return {
    workloads: new Map(bound.map(({ cgroup, workload }) => [cgroup, workload])),
    identities: tables.identities,
    networks: tables.networks,
    names: tables.names,
    resolvers: new Map([...tables.resolvers].map((key) => [key, true])),
    rows: new Map([...tables.rows].map(([key, each]) => [key, storedRow(each)])),
    portSets: tables.portSets,
    selves: new Map(bound.flatMap(({ selves, workload }) => selves.map((at) => [`${workload.slot}/${at}`, true]))),
  };
}

/** Maps compare in any order, port sets too. */
function sorted(contents: Contents): unknown {
  const sort = (map: ReadonlyMap<unknown, unknown>) =>
    [...map]
      .map((pair) => JSON.stringify(pair, (_, value) => (typeof value === 'bigint' ? String(value) : value)))
      .sort();
  return Object.fromEntries(
    Object.entries({
      ...contents,
      portSets: new Map(
        [...contents.portSets].map(([set, prefixes]) => [
          set,
          prefixes
            .map((each) =>
              JSON.stringify(each, [
                'protocol',
                'port',
                'length',
                'answer',
                'admin',
                'policy',
                'baseline',
                'limits',
                'final',
              ]),
            )
            .sort(),
        ]),
      ),
    }).map(([name, map]) => [name, sort(map)]),
  );
}

function assertHolds(object: NativeObject, contents: Contents): void {
  const keyed = (value: Contents) => JSON.parse(JSON.stringify(sorted(normalised(value))));
  assert.deepEqual(keyed(readBack(object)), keyed(contents));
}

/** Fields in one order, so that text compares. */
function normalised(contents: Contents): Contents {
  const rows = new Map(
    [...contents.rows].map(([key, { flags, limits, limitsSilent, portSet, entries }]) => [
      key,
      {
        ...{ flags, limits, limitsSilent, portSet },
        entries: entries.map(({ protocol, first, last, answer: { admin, policy, baseline, limits: met, final } }) => ({
          ...{ protocol, first, last },
          answer: { admin, policy, baseline, limits: met, final },
        })),
      },
    ]),
  );
  const identities = new Map(
    [...contents.identities].map(([at, e]) => [at, { id: e.id, network: e.network, kind: e.kind }]),
  );
  return { ...contents, rows, identities };
}

function onKernel(maxEntries: Record<string, number>, body: (object: NativeObject) => void): () => void {
  return () => {
    const object = loadPrograms(loadNative(), maxEntries);
    try {
      body(object);
    } finally {
      object.close();
    }
  };
}

function epochs(object: NativeObject, count: number): number[] {
  return Array.from({ length: count }, (_, slot) => {
    const key = Buffer.alloc(4);
    key.writeUInt32LE(slot);
    const value = object.lookup('epochs', key);
    return value === null || value.length === 0 ? 0 : value.readUInt32LE();
  });
}

test(
  'the kernel holds what is desired, through changes and back to nothing',
  onKernel({}, (object) => {
    const applier = new Applier(object, OPTIONS);
    const slots = { [WEB]: 1, [DB]: 2 };

    applier.apply(step(FIRST), BOUND);
    assertHolds(object, expected(step(FIRST), BOUND, slots));
    assert.deepEqual(applier.readSettings(), {
      levels: 1 << 3,
      unknown: abi.UNKNOWN_ALLOW,
      hostNetns: 7n,
      pods: 0n,
      podsLevel: 0,
      shortestTtlS: abi.SHORTEST_TTL_S,
      longestQuery: 0,
      queriesPerSecond: 0,
    });
    applier.expectPods({ cgroup: 12n, level: 1 });
    assert.deepEqual([applier.readSettings().pods, applier.readSettings().podsLevel], [12n, 1]);
    assert.equal(applier.readSettings().levels, 1 << 3, 'all else stays');
    applier.expectPods(null);
    assert.equal(applier.readSettings().pods, 0n);
    assert.deepEqual(epochs(object, 4), [2, 2, 2, 0]);
    assert.deepEqual(
      applier.fills().map(({ map, entries }) => [map, entries]),
      [
        ['workloads', 2],
        ['identities', 2],
        ['networks', 2],
        ['names', 2],
        ['resolvers', 2],
        ['verdicts', 4],
        ['ports', 3],
        ['selves', 2],
        ['counters', 0],
      ],
    );

    const applied = applier.apply(step(SECOND), BOUND);
    assertHolds(object, expected(step(SECOND), BOUND, slots));
    assert.equal(applied.leftover, null);
    assert.deepEqual(epochs(object, 4), [2, 4, 4, 0], 'both were flipped; nobody was bound anew');

    applier.apply(step({}), NOTHING);
    assertHolds(object, expected(step({}), NOTHING, {}));
    assert.equal(applier.readSettings().levels, 0);
    assert.deepEqual(
      applier.fills().map(({ entries }) => entries),
      [0, 0, 0, 0, 0, 0, 0, 0, 0],
    );
  }),
);

test('the same again writes nothing and waits for nothing', () => {
  const object = new FakeObject();
  const applier = new Applier(object, OPTIONS);
  applier.apply(step(FIRST), BOUND);
  object.calls.length = 0;
  assert.deepEqual(applier.apply(step(FIRST), BOUND), { written: 0, deleted: 0, rejudged: 0, leftover: null });
  assert.deepEqual(object.calls, []);
});

test('writes come in the documented order', () => {
  const object = new FakeObject();
  const applier = new Applier(object, OPTIONS);
  object.calls.length = 0;
  applier.apply(step(FIRST), BOUND);
  assert.deepEqual(object.calls, [
    'update ports 3',
    'update verdicts 4',
    'update epochs 3',
    'update selves 2',
    'update identities 2',
    'update networks 2',
    'update resolvers 2',
    'update names 2',
    'wait',
    'update settings 1',
    'update workloads 2',
    'update epochs 3',
  ]);
  object.calls.length = 0;
  applier.apply(step(SECOND), BOUND);
  assert.deepEqual(object.calls, [
    'update verdicts 3',
    'update epochs 2',
    'update identities 1',
    'remove identities 1',
    'update resolvers 1',
    'remove resolvers 2',
    'update names 2',
    'remove names 1',
    'wait',
    'update workloads 2',
    'update epochs 2',
    'wait',
    'remove verdicts 5',
    'remove ports 3',
  ]);
});

test(
  'what programs may be reading while it changes is written over in place, which the kernel takes for these maps alone',
  onKernel({}, (object) => {
    const IN_PLACE = 4;
    const fake = new FakeObject();
    new Applier(fake, OPTIONS).apply(step(FIRST), BOUND);
    for (const map of ['workloads', 'identities', 'networks', 'names', 'resolvers', 'verdicts', 'ports', 'selves']) {
      const { keySize = 0, valueSize = 0 } = object.maps()[map] ?? {};
      const write = () => object.update(map, Buffer.alloc(keySize), Buffer.alloc(valueSize), 1, IN_PLACE);
      if (fake.flags.get(map) === IN_PLACE) write();
      else assert.throws(write, KernelError, map);
    }
    assert.deepEqual(
      [...fake.flags].filter(([, flags]) => flags === IN_PLACE).map(([map]) => map),
      ['identities', 'workloads'],
    );
  }),
);

test('a level is looked at before somebody is there, and no longer than that', () => {
  const object = new FakeObject();
  const applier = new Applier(object, OPTIONS);
  const at = (level: number): CgroupBindings => new Map([[WEB, { cgroup: BigInt(level), level }]]);
  applier.apply(step(FIRST), at(2));
  const seen: number[] = [];
  object.onCall = (call) => {
    if (/workloads/.test(call)) seen.push(applier.readSettings().levels);
  };
  applier.apply(step(FIRST), at(5));
  assert.deepEqual(seen, [(1 << 2) | (1 << 5), (1 << 2) | (1 << 5)]);
  assert.equal(applier.readSettings().levels, 1 << 5);
});

test('a binding without a workload is known and has no policy', () => {
  const object = new FakeObject();
  const applier = new Applier(object, { ...OPTIONS, unknown: 'deny' });
  applier.apply(step({}), new Map([['postern', { cgroup: 1n, level: 1 }]]));
  assert.deepEqual([...readBack(object).workloads], [[1n, { slot: 1, enforced: NO_ID, shadow: NO_ID, netns: 0n }]]);
  assert.equal(applier.readSettings().unknown, abi.UNKNOWN_DENY);
});

// ---- Which flows are judged again ----

const rejudged: readonly {
  readonly what: string;
  readonly first?: Sketch;
  readonly change: Sketch;
  readonly bumped: readonly number[];
}[] = [
  { what: 'nobody for what is as it was', change: {}, bumped: [] },
  {
    what: 'who gets another ruleset',
    change: { workloads: { [WEB]: id('b'), [DB]: [id('b'), id('a')] } },
    bumped: [1],
  },
  { what: 'who gets another shadow', change: { workloads: { [WEB]: id('a'), [DB]: [id('b'), NO_ID] } }, bumped: [2] },
  {
    what: 'who has a row for an address that changed hands',
    change: { identities: { ...FIRST.identities, [address(2)]: { id: id('3'), network: id('7'), kind: 5 } } },
    bumped: [2],
  },
  {
    what: 'who has a row for an address that is gone',
    change: { identities: { [address(2)]: { id: id('2'), network: id('7'), kind: 5 } } },
    bumped: [1, 2],
  },
  {
    what: 'nobody for a newcomer that no ruleset has a row for',
    change: { identities: { ...FIRST.identities, [address(9)]: { id: id('3'), network: NO_ID, kind: 5 } } },
    bumped: [],
  },
  { what: 'everybody with a policy when networks change', change: { networks: {} }, bumped: [1, 2] },
  { what: 'whose own address changed', change: { selves: { ...FIRST.selves, [WEB]: [] } }, bumped: [1] },
  { what: 'nobody whose ruleset has no names, when resolvers change', change: { resolvers: [] }, bumped: [] },
  {
    what: 'who has names, when resolvers change',
    first: { ...FIRST, rows: (FIRST.rows ?? []).with(2, row(id('b'), NO_ID, { flags: abi.ROW_NAMES })) },
    change: { resolvers: [] },
    bumped: [2],
  },
  {
    what: 'who may not ask every name, when resolvers change',
    first: { ...FIRST, rows: [...(FIRST.rows ?? []), row(id('b'), NO_ID, { kind: abi.NAME_ASKED })] },
    change: { resolvers: [] },
    bumped: [2],
  },
];
for (const { what, first = FIRST, change, bumped } of rejudged) {
  test(`judged again: ${what}`, () => {
    const object = new FakeObject();
    const applier = new Applier(object, OPTIONS);
    applier.apply(step(first), BOUND);
    const before = epochs(object, 3);
    applier.apply(step({ ...first, ...change }), BOUND);
    const after = epochs(object, 3);
    assert.deepEqual(
      [0, 1, 2].filter((slot) => after[slot] !== before[slot]),
      bumped,
    );
  });
}

// ---- Slots ----

test('a slot stays with its name, rests when given up, and is used again under a new epoch', () => {
  const object = new FakeObject();
  const applier = new Applier(object, OPTIONS);
  const bind = (...names: string[]): CgroupBindings =>
    new Map(names.map((name) => [name, { cgroup: BigInt(name.charCodeAt(0)), level: 1 }]));
  const slotsNow = () =>
    new Map([...readBack(object).workloads].map(([cgroup, { slot }]) => [String.fromCharCode(Number(cgroup)), slot]));

  applier.apply(step({}), bind('a', 'b'));
  assert.deepEqual(
    slotsNow(),
    new Map([
      ['a', 1],
      ['b', 2],
    ]),
  );
  applier.apply(step({}), bind('b', 'c'));
  assert.deepEqual(
    slotsNow(),
    new Map([
      ['b', 2],
      ['c', 3],
    ]),
    'the slot of a is not given on within the same step',
  );
  const epoch = epochs(object, 2)[1];
  applier.apply(step({}), bind('b', 'c', 'd'));
  assert.equal(slotsNow().get('d'), 1);
  assert.notEqual(epochs(object, 2)[1], epoch);
  assert.equal(applier.names.workload(1), 'd');
  assert.equal(applier.names.workload(2), 'b');
  assert.equal(applier.names.workload(0), null);
});

// ---- Refused before a byte is written ----

const limits: readonly { readonly map: string; readonly max: number; readonly needed: number }[] = [
  { map: 'ports', max: 2, needed: 3 },
  { map: 'verdicts', max: 3, needed: 4 },
  { map: 'selves', max: 1, needed: 2 },
  { map: 'identities', max: 1, needed: 2 },
  { map: 'networks', max: 1, needed: 2 },
  { map: 'workloads', max: 1, needed: 2 },
  { map: 'epochs', max: 2, needed: 3 },
];
for (const { map, max, needed } of limits) {
  test(`more than ${map} can hold is refused before anything is written`, () => {
    const object = new FakeObject({ [map]: max });
    const applier = new Applier(object, OPTIONS);
    object.calls.length = 0;
    assert.throws(
      () => applier.apply(step(FIRST), BOUND),
      (error) => {
        assert(error instanceof LimitExceeded);
        assert.deepEqual([error.map, error.limit, error.needed], [map, max, needed]);
        return true;
      },
    );
    assert.deepEqual(object.calls, []);
    applier.apply(step({}), NOTHING);
  });
}

test(
  'what the limit allows, the kernel holds; one more is refused and what was enforced stays',
  onKernel({ verdicts: 4 }, (object) => {
    const applier = new Applier(object, OPTIONS);
    const rows = [...(FIRST.rows ?? [])];
    applier.apply(step(FIRST), BOUND);
    assert.throws(
      () => applier.apply(step({ ...FIRST, rows: [...rows, row(id('a'), id('5'))] }), BOUND),
      LimitExceeded,
    );
    assertHolds(object, expected(step(FIRST), BOUND, { [WEB]: 1, [DB]: 2 }));
    assert.throws(() => applier.apply(step(SECOND), BOUND), LimitExceeded, 'old and new must fit side by side');
  }),
);

// ---- Failures half-way ----

for (const call of ['update verdicts', 'update identities', 'remove identities', 'update workloads', 'update epochs']) {
  test(`a failure of "${call}" is taken back, and the change can be made afterwards`, () => {
    const object = new FakeObject();
    const applier = new Applier(object, OPTIONS);
    const slots = { [WEB]: 1, [DB]: 2 };
    applier.apply(step(FIRST), BOUND);
    failAt(object, call);
    assert.throws(
      () => applier.apply(step(SECOND), BOUND),
      (error) => error instanceof KernelError && error.code === 'ENOMEM',
    );
    assertHolds(object, expected(step(FIRST), BOUND, slots));
    applier.apply(step(SECOND), BOUND);
    assertHolds(object, expected(step(SECOND), BOUND, slots));
  });
}

test('what is written in parts is taken back whole: of 10,000 addresses the second part fails', () => {
  const object = new FakeObject();
  const applier = new Applier(object, OPTIONS);
  const slots = { [WEB]: 1, [DB]: 2 };
  applier.apply(step(FIRST), BOUND);
  const many: Sketch = {
    ...FIRST,
    identities: Object.fromEntries(
      Array.from({ length: 10_000 }, (_, index) => [
        index.toString(16).padStart(32, '0'),
        { id: id('1'), network: NO_ID, kind: 5 },
      ]),
    ),
  };
  let parts = 0;
  object.onCall = (call) => {
    if (!call.startsWith('update identities') || ++parts < 2) return;
    object.onCall = () => {};
    throw new KernelError(call, 'ENOMEM', call);
  };
  assert.throws(() => applier.apply(step(many), BOUND), KernelError);
  assert.equal(parts, 2);
  assertHolds(object, expected(step(FIRST), BOUND, slots));
  const from = object.calls.length;
  applier.apply(step(many), BOUND);
  assertHolds(object, expected(step(many), BOUND, slots));
  const written = object.calls.slice(from).filter((call) => call.startsWith('update identities'));
  assert.deepEqual(written, ['update identities 4096', 'update identities 4096', 'update identities 1808']);
});

test('what a change leaves behind goes once programs have ended, or before the next change', async () => {
  const object = new FakeObject();
  const applier = new Applier(object, OPTIONS);
  applier.apply(step(FIRST), BOUND);
  applier.flip(step(SECOND), BOUND);
  object.calls.length = 0;
  assert.equal(await applier.finished(), null);
  assert.deepEqual(object.calls, ['wait', 'remove verdicts 5', 'remove ports 3']);
  assert.equal(await applier.finished(), null);
  applier.finish();
  assert.deepEqual(object.calls.length, 3, 'once');

  applier.flip(step(FIRST), BOUND);
  const late = applier.finished();
  object.calls.length = 0;
  applier.flip(step(SECOND), BOUND);
  assert.deepEqual(object.calls.slice(0, 2), ['wait', 'remove verdicts 2'], 'what is put back goes first');
  assert.equal(await late, null);
  assert(!object.calls.includes('remove ports 3'), 'a wait that began before the flip ends nothing after it');
  applier.finish();
  assertHolds(object, expected(step(SECOND), BOUND, { [WEB]: 1, [DB]: 2 }));

  applier.flip(step(FIRST), BOUND);
  applier.abandon();
  object.calls.length = 0;
  applier.finish();
  assert.deepEqual(object.calls, []);
});

test('a wait that fails takes nothing back, and nothing is written until one succeeds', async () => {
  // Nothing is told anew: that waits, too, and is taken back where it fails.
  const NEXT = { ...SECOND, names: FIRST.names ?? {} };
  const object = new FakeObject();
  const applier = new Applier(object, OPTIONS);
  const isNoMemory = (error: unknown): boolean => error instanceof KernelError && error.code === 'ENOMEM';
  applier.apply(step(FIRST), BOUND);
  failAt(object, 'wait');
  assert(isNoMemory(applier.apply(step(NEXT), BOUND).leftover));
  failAt(object, 'wait');
  assert(isNoMemory(await applier.finished()));
  object.calls.length = 0;
  failAt(object, 'wait');
  assert.throws(() => applier.flip(step(FIRST), BOUND), isNoMemory);
  assert.deepEqual(object.calls, ['wait']);
  applier.apply(step(NEXT), BOUND);
  assertHolds(object, expected(step(NEXT), BOUND, { [WEB]: 1, [DB]: 2 }));
});

test('nobody keeps a verdict of a ruleset that was taken back', () => {
  const object = new FakeObject();
  const applier = new Applier(object, OPTIONS);
  applier.apply(step(FIRST), BOUND);
  const [, before] = epochs(object, 2);
  // At the end of the change, when all else is written.
  object.onCall = (call) => {
    if (call.startsWith('update workloads')) failAt(object, 'update epochs');
  };
  assert.throws(() => applier.apply(step(SECOND), BOUND), KernelError);
  assert.equal(
    epochs(object, 2)[1],
    (before ?? 0) + 4,
    'once for the flip, once for taking it back, each begun and ended',
  );
  const flippedBack = object.calls.lastIndexOf('update workloads 2');
  const waited = object.calls.indexOf('wait', flippedBack);
  const erased = object.calls.findLastIndex((call) => call.startsWith('remove verdicts'));
  assert(flippedBack < waited && waited < erased, object.calls.join(', '));
});

test('a change that cannot be taken back is told as that, and mended by the next', () => {
  const object = new FakeObject();
  const applier = new Applier(object, OPTIONS);
  applier.apply(step(FIRST), BOUND);
  object.onCall = (call) => {
    if (!call.startsWith('update epochs')) return;
    object.onCall = () => {
      throw new KernelError('still failing', 'ENOMEM', 'undo');
    };
    throw new KernelError(call, 'ENOMEM', call);
  };
  assert.throws(
    () => applier.apply(step(SECOND), BOUND),
    (error) =>
      error instanceof RollbackFailed && error.cause instanceof KernelError && error.undo instanceof KernelError,
  );
  object.onCall = () => {};
  applier.apply(step(SECOND), BOUND);
  assertHolds(object, expected(step(SECOND), BOUND, { [WEB]: 1, [DB]: 2 }));
});

test('rows that could not be deleted are told, and deleted the next time', () => {
  const object = new FakeObject();
  const applier = new Applier(object, OPTIONS);
  applier.apply(step(FIRST), BOUND);
  failAt(object, 'remove verdicts');
  const { leftover } = applier.apply(step(SECOND), BOUND);
  assert(leftover instanceof KernelError);
  assert.equal(readBack(object).rows.size, 7);
  assert.equal(applier.apply(step(SECOND), BOUND).leftover, null);
  assertHolds(object, expected(step(SECOND), BOUND, { [WEB]: 1, [DB]: 2 }));
});

test('two workloads on one cgroup are a bug of the caller', () => {
  const applier = new Applier(new FakeObject(), OPTIONS);
  const twice = new Map([
    [WEB, { cgroup: 1n, level: 1 }],
    [DB, { cgroup: 1n, level: 1 }],
  ]);
  assert.throws(() => applier.apply(step(FIRST), twice), /two workloads/);
});
