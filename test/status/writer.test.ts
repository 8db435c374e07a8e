// SPDX-License-Identifier: Apache-2.0
// A status is written when it differs, not more often than it should, and never over what somebody else wrote meanwhile.
import assert from 'node:assert/strict';
import test from 'node:test';
import type { Condition, WantedCondition } from '../../src/status/conditions.ts';
import { type StatusOf, StatusWriter } from '../../src/status/writer.ts';
import { FakeApi, FakeClock, failure } from './fake-api.ts';

const PATH = '/apis/postern.dev/v1alpha1/namespaces/shop/egresspolicies/web';
const KEY = 'EgressPolicy/shop/web';
const yes = () => true;

function writerOn(api: FakeApi, clock: FakeClock): StatusWriter {
  return new StatusWriter(api, clock, (key) => api.policies().get(key));
}

function world() {
  const [api, clock] = [new FakeApi(), new FakeClock()];
  api.put(PATH, { metadata: { name: 'web', uid: 'u1', generation: 3 }, spec: {} });
  return { api, clock, writer: writerOn(api, clock) };
}

const condition = (
  type: string,
  status: WantedCondition['status'],
  reason = 'Why',
  message = 'm',
): WantedCondition => ({
  ...{ type, status, reason, message },
});

function wanted(conditions: readonly WantedCondition[], workloads = 1, generation = 3): ReadonlyMap<string, StatusOf> {
  const own = new Set(['Accepted', 'Programmed', 'DNSAllowed']);
  const version = { uid: 'u1', generation };
  return new Map([
    [KEY, { path: PATH, version, fields: { workloads, nodes: { selected: 1, programmed: 1 } }, conditions, own }],
  ]);
}

function statusOf(api: FakeApi): { workloads?: number; conditions?: Condition[] } {
  return (api.objects.get(PATH)?.status ?? {}) as { workloads?: number; conditions?: Condition[] };
}

test('one write for a change, none for the same again, none for what is there already', async () => {
  const { api, clock, writer } = world();
  assert.equal(await writer.write(wanted([condition('Accepted', 'True')]), yes), null);
  assert.deepEqual(api.taken('PATCH'), [`PATCH ${PATH}/status`]);
  assert.deepEqual(statusOf(api), {
    ...{ workloads: 1, nodes: { selected: 1, programmed: 1 } },
    conditions: [
      {
        ...{ type: 'Accepted', status: 'True', observedGeneration: 3, lastTransitionTime: '2026-01-01T00:00:00Z' },
        ...{ reason: 'Why', message: 'm' },
      },
    ],
  });
  clock.pass(3600);
  await writer.write(wanted([condition('Accepted', 'True')]), yes);
  assert.deepEqual(api.taken('GET', 'PATCH'), []);

  // Another agent takes over: it looks, and finds nothing to write.
  const other = writerOn(api, clock);
  await other.write(wanted([condition('Accepted', 'True')]), yes);
  assert.deepEqual(api.taken('GET', 'PATCH'), []);
});

test('lastTransitionTime changes with status alone', async () => {
  const { api, clock, writer } = world();
  const times: string[] = [];
  for (const one of [
    condition('Programmed', 'False', 'Pending'),
    condition('Programmed', 'False', 'RefusedByNode'),
    condition('Programmed', 'True', 'Programmed'),
    condition('Programmed', 'True', 'Programmed', 'other words'),
    condition('Programmed', 'Unknown', 'AgentSilent'),
  ]) {
    await writer.write(wanted([one]), yes);
    times.push(statusOf(api).conditions?.[0]?.lastTransitionTime.slice(11) ?? '');
    clock.pass(60);
  }
  assert.deepEqual(times, ['00:00:00Z', '00:00:00Z', '00:02:00Z', '00:02:00Z', '00:04:00Z']);
});

test('at most once in thirty seconds for a policy, and then what is wanted last', async () => {
  const { api, clock, writer } = world();
  await writer.write(wanted([condition('Accepted', 'True')], 1), yes);
  for (let workloads = 2; workloads <= 30; workloads += 1) {
    clock.pass(1);
    const waitMs = await writer.write(wanted([condition('Accepted', 'True')], workloads), yes);
    assert.equal(waitMs, (31 - workloads) * 1000);
  }
  assert.equal(api.taken('PATCH').length, 1);
  clock.pass(1);
  assert.equal(await writer.write(wanted([condition('Accepted', 'True')], 30), yes), null);
  assert.equal(api.taken('PATCH').length, 1);
  assert.equal(statusOf(api).workloads, 30);
});

test('a conflict is tried again with what came meanwhile; conditions of others stay, own ones that are not wanted go', async () => {
  const { api, clock, writer } = world();
  await writer.write(wanted([condition('Accepted', 'True'), condition('DNSAllowed', 'False')]), yes);
  clock.pass(60);
  const foreign = { ...condition('Foreign', 'True'), lastTransitionTime: '2020-01-01T00:00:00Z' };
  let raced = 0;
  api.before = (method) => {
    if (method !== 'PATCH' || raced > 0) return;
    raced += 1;
    const object = api.objects.get(PATH);
    api.put(PATH, {
      ...object,
      status: { ...statusOf(api), conditions: [...(statusOf(api).conditions ?? []), foreign] },
    });
  };
  assert.equal(await writer.write(wanted([condition('Accepted', 'True')], 2), yes), 2000, 'soon again');
  assert.equal(statusOf(api).workloads, 1);
  assert.equal(await writer.write(wanted([condition('Accepted', 'True')], 2), yes), null);
  assert.equal(writer.failure, null);
  assert.deepEqual(
    statusOf(api).conditions?.map(({ type }) => type),
    ['Accepted', 'Foreign'],
  );
  assert.deepEqual(statusOf(api).conditions?.[1], foreign);
});

test('a refusal is told, tried again when it rested, and holds up no other policy', async () => {
  const { api, clock, writer } = world();
  const second = PATH.replace('web', 'db');
  api.put(second, { metadata: { name: 'db', uid: 'u1', generation: 1 } });
  const both = new Map([
    ...wanted([condition('Accepted', 'True')]),
    ...[...wanted([condition('Accepted', 'True')])].map(
      ([, one]) => ['EgressPolicy/shop/db', { ...one, path: second }] as const,
    ),
  ]);
  api.before = (method, path) => {
    if (method === 'PATCH' && path.startsWith(PATH)) throw failure(403, 'Forbidden');
  };
  assert.equal(await writer.write(both, yes), 30_000);
  assert.equal(writer.failure, '403 Forbidden');
  assert.notEqual(api.objects.get(second)?.status, undefined);
  api.taken();
  clock.pass(10);
  await writer.write(both, yes);
  assert.deepEqual(api.taken('GET', 'PATCH'), []);
  clock.pass(20);
  api.before = () => undefined;
  assert.equal(await writer.write(both, yes), null);
  assert.equal(writer.failure, null);
  assert.deepEqual(api.taken('PATCH'), [`PATCH ${PATH}/status`]);
});

test('an object that is gone, or is another one, is left alone; one of no known version gets its own generation', async () => {
  const { api, clock, writer } = world();
  api.put(PATH, { metadata: { name: 'web', uid: 'u2', generation: 1 } });
  await writer.write(wanted([condition('Accepted', 'True')]), yes);
  api.objects.delete(PATH);
  clock.pass(60);
  await writer.write(wanted([condition('Accepted', 'True')], 2), yes);
  assert.deepEqual([api.taken('PATCH'), writer.failure], [[], null]);
  api.put(PATH, { metadata: { name: 'web', uid: 'u3', generation: 7 } });
  clock.pass(60);
  const [[key, one] = ['', null]] = [...wanted([condition('Accepted', 'False', 'Invalid')])];
  assert.ok(one !== null);
  await writer.write(new Map([[key, { ...one, version: null }]]), yes);
  assert.equal(statusOf(api).conditions?.[0]?.observedGeneration, 7);
});

test('who may not write any more stops between two policies', async () => {
  const { api, writer } = world();
  assert.equal(await writer.write(wanted([condition('Accepted', 'True')]), () => false), null);
  assert.deepEqual(api.log, []);
});
