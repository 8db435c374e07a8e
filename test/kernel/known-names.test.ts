// SPDX-License-Identifier: Apache-2.0
// What DNS told workloads keeps its meaning while policies change, and goes with the workload. On real maps, filled as the programs fill them.
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import * as abi from '#build/generated/abi.ts';
import { Applier, type CgroupBindings } from '#src/kernel/apply.ts';
import { NAMES } from '#src/kernel/encode.ts';
import { KnownNames } from '#src/kernel/known-names.ts';
import { loadNative, type NativeObject } from '#src/kernel/native.ts';
import { loadPrograms } from '#src/kernel/programs.ts';
import { reversedName } from '#src/model/name.ts';
import { NO_ID } from '#src/model/tables.ts';
import { address, id, type Sketch, step } from './fixture.ts';
import { learn, tellName } from './teach.ts';

const OPTIONS = { unknown: 'deny', hostNetns: 0n } as const;
const WEB: CgroupBindings = new Map([['shop/web', { cgroup: 101n, level: 2 }]]);
const API: CgroupBindings = new Map([['shop/api', { cgroup: 102n, level: 2 }]]);

function load(t: TestContext): NativeObject {
  const object = loadPrograms(loadNative());
  t.after(() => object.close());
  return object;
}

function count(object: NativeObject, slot: number, told: number, learned: number): void {
  const key = Buffer.from(Uint32Array.of(slot).buffer);
  const value = object.lookup('budgets', key) ?? assert.fail();
  const budget = Buffer.alloc(abi.BUDGET_BYTES);
  abi.encodeBudget({ ...abi.decodeBudget(value), told, learned, numbers: told }, budget);
  object.update('budgets', key, budget, 1, 0);
}

function classes(object: NativeObject): Record<string, string> {
  const { values, count: size } = object.dump('told');
  return Object.fromEntries(
    Array.from({ length: size }, (_, at) => abi.decodeTold(values, at * abi.TOLD_BYTES)).map(({ name, class: of }) => [
      name,
      of,
    ]),
  );
}

const names = (patterns: Record<string, string>): Sketch => ({ names: patterns, workloads: { 'shop/web': id('a') } });

test('the kernel finds the longest pattern that matches a name, and none for the bare domain of a wildcard', (t) => {
  const object = load(t);
  const long = `${`${'a'.repeat(63)}.`.repeat(3)}${'b'.repeat(61)}`;
  assert.equal(long.length, 253);
  const patterns = {
    ...{ 'api.example.org': id('1'), '*.example.org': id('2'), '*.b.example.org': id('3'), '*.org': id('4') },
    ...{ 'example.net': id('5'), [long]: id('6'), '*.c.d': id('7') },
  };
  new Applier(object, OPTIONS).apply(step(names(patterns)), WEB);
  const asked = {
    ...{
      'api.example.org': id('1'),
      'www.example.org': id('2'),
      'x.api.example.org': id('2'),
      'b.example.org': id('2'),
    },
    ...{ 'a.b.example.org': id('3'), 'example.org': id('4'), org: NO_ID, 'notexample.org': id('4') },
    ...{ 'example.net': id('5'), 'www.example.net': NO_ID, [long]: id('6'), [long.slice(0, -1)]: NO_ID },
    ...{ 'c.d': NO_ID, 'xc.d': NO_ID, 'x.c.d': id('7'), 'example.nets': NO_ID },
  };
  for (const [index, name] of Object.keys(asked).entries()) tellName(object, 1, index + 1, name);
  assert.deepEqual(
    classes(object),
    Object.fromEntries(Object.entries(asked).map(([name, of]) => [reversedName(name), of])),
  );
  // And the agent says the same of each, asked on its own.
  new KnownNames(object).reclassify(new Map());
  assert(Object.values(classes(object)).every((of) => of === NO_ID));
  new KnownNames(object).reclassify(new Map(Object.entries(patterns)));
  assert.deepEqual(
    classes(object),
    Object.fromEntries(Object.entries(asked).map(([name, of]) => [reversedName(name), of])),
  );
});

test('a policy that adds a name finds what was told before; one that goes takes its class away', (t) => {
  const object = load(t);
  const applier = new Applier(object, OPTIONS);
  applier.apply(step(names({})), WEB);
  tellName(object, 1, 1, 'api.example.org');
  tellName(object, 1, 2, 'example.com');
  applier.apply(step(names({ '*.example.org': id('2') })), WEB);
  assert.deepEqual(classes(object), { 'org.example.api': id('2'), 'com.example': NO_ID });
  applier.apply(step(names({ '*.example.org': id('2'), 'api.example.org': id('3') })), WEB);
  assert.deepEqual(classes(object), { 'org.example.api': id('3'), 'com.example': NO_ID });
  applier.apply(step(names({ 'example.com': id('4') })), WEB);
  assert.deepEqual(classes(object), { 'org.example.api': NO_ID, 'com.example': id('4') });
});

test('a change that fails leaves every name the class that it had', (t) => {
  const object = load(t);
  let isBroken = false;
  const update: NativeObject['update'] = (map, ...rest) => {
    if (isBroken && map === 'workloads') {
      isBroken = false;
      throw new Error('cannot be written');
    }
    object.update(map, ...rest);
  };
  const breaking = new Proxy(object, {
    get: (of, method: keyof NativeObject) => (method === 'update' ? update : of[method].bind(of)),
  });
  const applier = new Applier(breaking, OPTIONS);
  applier.apply(step(names({ '*.example.org': id('2') })), WEB);
  tellName(object, 1, 1, 'api.example.org');
  isBroken = true;
  const next = step({ names: { 'api.example.org': id('3') }, workloads: { 'shop/web': id('b') } });
  assert.throws(() => applier.apply(next, WEB), /cannot be written/);
  assert.deepEqual(applier.readBack().names, new Map([['*.example.org', id('2')]]));
  assert.deepEqual(classes(object), { 'org.example.api': id('2') });
  applier.apply(next, WEB);
  assert.deepEqual(classes(object), { 'org.example.api': id('3') });
});

test('nothing of what a workload was told is left for the next that gets its slot', (t) => {
  const object = load(t);
  const applier = new Applier(object, OPTIONS);
  applier.apply(step(names({ '*.example.org': id('2') })), WEB);
  tellName(object, 1, 1, 'api.example.org');
  tellName(object, 1, 2, 'www.example.org');
  learn(object, 1, 0, address(9), 1, 1000);
  learn(object, 1, 1, address(10), 2, 1000);
  count(object, 1, 2, 2);
  const held = () => ['told', 'texts', 'told_order', 'learned', 'learned_order'].map((map) => object.dump(map).count);
  assert.deepEqual(held(), [2, 2, 2, 2, 2]);
  assert.deepEqual(
    applier
      .readNames()
      .map(({ workload, address: at, name }) => [workload, at, name])
      .sort(),
    [
      ['shop/web', address(10), 'www.example.org'],
      ['shop/web', address(9), 'api.example.org'],
    ].sort(),
  );
  applier.apply(step({ workloads: { 'shop/api': id('b') } }), API);
  assert.deepEqual(held(), [0, 0, 0, 0, 0]);
  assert.deepEqual(applier.readNames(), []);
});

test('an agent that died before names had their new classes is finished by the next', (t) => {
  const object = load(t);
  const applier = new Applier(object, OPTIONS);
  applier.apply(step(names({ '*.example.org': id('2') })), WEB);
  tellName(object, 1, 1, 'api.example.org');
  // As it dies: the pattern is another's now, the name's class not yet.
  const key = Buffer.alloc(NAMES.keyBytes);
  NAMES.encodeKey('*.example.org', key, 0);
  object.update('names', key, Buffer.from(id('3'), 'hex'), 1, 0);
  assert.deepEqual(classes(object), { 'org.example.api': id('2') });
  const workloads = applier.readBack().workloads;
  const nothing = { epochs: new Map(), guards: new Map(), sources: new Map() };
  const next = new Applier(object, OPTIONS, { workloads, ...nothing, isInPlace: true, mustRaise: false });
  assert.deepEqual(classes(object), { 'org.example.api': id('3') });
  next.apply(step(names({ '*.example.org': id('2') })), WEB);
  assert.deepEqual(classes(object), { 'org.example.api': id('2') });
});

test('whoever takes over forgets what slots hold that are nobody’s', (t) => {
  const object = load(t);
  tellName(object, 5, 1, 'api.example.org');
  count(object, 5, 1, 0);
  tellName(object, 6, 1, 'api.example.org');
  count(object, 6, 1, 0);
  new KnownNames(object).forgetOthers(new Set([6]));
  const { keys, count: left } = object.dump('told');
  assert.deepEqual([left, keys.readUInt32LE()], [1, 6]);
});

test('a pattern is told back as it was written', () => {
  for (const pattern of ['a', 'api.example.org', '*.example.org', '*.org', '_x._tcp.a-b.example']) {
    const key = Buffer.alloc(NAMES.keyBytes);
    NAMES.encodeKey(pattern, key, 0);
    assert.equal(NAMES.decodeKey(key, 0), pattern);
  }
});
