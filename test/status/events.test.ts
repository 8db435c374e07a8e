// SPDX-License-Identifier: Apache-2.0
// However much happens, Events are few: equal ones are a series, similar ones are one, and no object nor agent floods the API server.
import assert from 'node:assert/strict';
import test from 'node:test';
import { EventRecorder, type ObjectReference, type Occurrence } from '../../src/status/events.ts';
import { FakeApi, FakeClock, failure } from './fake-api.ts';

const EVENTS = '/apis/events.k8s.io/v1/namespaces/shop/events';
const pod = (name: string): ObjectReference => ({
  apiVersion: 'v1',
  kind: 'Pod',
  namespace: 'shop',
  name,
  uid: `u-${name}`,
});

function refused(name: string, note: string, count = 1): Occurrence {
  return { regarding: pod(name), type: 'Warning', reason: 'EgressRefused', action: 'Connect', note, count };
}

function world(limits = {}) {
  const [api, clock] = [new FakeApi(), new FakeClock()];
  return { api, clock, recorder: new EventRecorder({ api, clock, instance: 'node-a', limits }) };
}

const events = (api: FakeApi) => [...api.objects.values()] as unknown as Record<string, unknown>[];

test('an Event says what events.k8s.io/v1 asks for', async () => {
  const { api, recorder } = world();
  recorder.record(refused('web', 'TCP to 192.0.2.1:80 was refused'));
  await recorder.flush();
  const [{ metadata, ...event } = { metadata: {} }] = events(api);
  assert.deepEqual(event, {
    ...{ apiVersion: 'events.k8s.io/v1', kind: 'Event', eventTime: '2026-01-01T00:00:00.000000Z' },
    ...{ reportingController: 'postern.dev/agent', reportingInstance: 'node-a' },
    ...{ type: 'Warning', reason: 'EgressRefused', action: 'Connect', note: 'TCP to 192.0.2.1:80 was refused' },
    regarding: { apiVersion: 'v1', kind: 'Pod', name: 'web', namespace: 'shop', uid: 'u-web' },
  });
  const { name, namespace } = metadata as { name: string; namespace: string };
  assert.match(name, /^web\.[0-9a-f]{16}$/);
  assert.equal(namespace, 'shop');
});

test('repeats are one series: written at the second, then every six minutes, with every count', async () => {
  const { api, clock, recorder } = world();
  for (let i = 0; i < 1000; i += 1) {
    recorder.record(refused('web', 'same'));
    await recorder.flush();
    clock.pass(1);
  }
  assert.deepEqual(
    api.log.map(({ method }) => method),
    ['POST', 'PATCH', 'PATCH', 'PATCH'],
  );
  assert.equal(events(api).length, 1);
  assert.deepEqual(events(api)[0]?.series, { count: 722, lastObservedTime: '2026-01-01T00:12:01.000000Z' });
  assert.deepEqual(api.log[1]?.body, { series: { count: 2, lastObservedTime: '2026-01-01T00:00:01.000000Z' } });

  // After six quiet minutes it is another one.
  clock.pass(400);
  recorder.record(refused('web', 'same', 5));
  await recorder.flush();
  assert.equal(events(api).length, 2);
  assert.deepEqual(
    events(api).map(({ series }) => (series as { count: number }).count),
    [722, 5],
  );
});

test('a series whose Event expired is made anew', async () => {
  const { api, clock, recorder } = world();
  recorder.record(refused('web', 'same'));
  await recorder.flush();
  api.objects.clear();
  clock.pass(1);
  recorder.record(refused('web', 'same'));
  await recorder.flush();
  assert.deepEqual(
    events(api).map(({ series }) => (series as { count: number }).count),
    [2],
  );
});

test('a port scan is ten notes and one for the rest, of each pod', async () => {
  const { api, clock, recorder } = world({ objectBurst: 100, agentBurst: 1000 });
  for (let port = 1; port <= 500; port += 1) {
    for (const name of ['web', 'db']) recorder.record(refused(name, `TCP to 192.0.2.1:${port}`));
    await recorder.flush();
    clock.pass(0.1);
  }
  assert.equal(events(api).length, 22);
  const combined = events(api).filter(({ note }) => String(note).startsWith('and more'));
  assert.equal(combined.length, 2);
});

test('one object has a bucket of its own, and leaves other objects theirs', async () => {
  const { api, clock, recorder } = world({ notes: 1000, objectBurst: 5, objectRefillMs: 60_000 });
  for (let i = 0; i < 50; i += 1) recorder.record(refused('web', `note ${i}`));
  recorder.record(refused('db', 'note'));
  await recorder.flush();
  const of = (name: string) => events(api).filter(({ regarding }) => (regarding as { name: string }).name === name);
  assert.deepEqual([of('web').length, of('db').length, recorder.suppressed], [5, 1, 45]);
  clock.pass(125);
  for (let i = 100; i < 110; i += 1) recorder.record(refused('web', `note ${i}`));
  await recorder.flush();
  assert.equal(of('web').length, 7);
});

test('the agent has a bucket for all objects, and what waits is written when it fills', async () => {
  const { api, clock, recorder } = world({ agentBurst: 20, agentRefillMs: 5000 });
  for (let i = 0; i < 30; i += 1) recorder.record(refused(`pod-${i}`, 'note'));
  await recorder.flush();
  assert.equal(events(api).length, 20);
  clock.pass(10);
  await recorder.flush();
  assert.equal(events(api).length, 22);
  for (let i = 0; i < 10_000; i += 1) recorder.record(refused(`pod-${i}`, 'note'));
  clock.pass(3600);
  await recorder.flush();
  assert.deepEqual([events(api).length, api.log.length], [30, 42]);
});

test('an API server that is busy is left alone for as long as it asks; one that refuses is not asked again for the same', async () => {
  const { api, clock, recorder } = world();
  api.before = () => {
    throw failure(429, 'TooManyRequests', 60_000);
  };
  for (const name of ['a', 'b', 'c']) recorder.record(refused(name, 'note'));
  await recorder.flush();
  assert.deepEqual([api.log.length, recorder.failure], [1, '429 TooManyRequests']);
  api.before = () => undefined;
  clock.pass(59);
  await recorder.flush();
  assert.equal(api.log.length, 1);
  clock.pass(2);
  await recorder.flush();
  assert.deepEqual([api.log.length, recorder.failure], [3, null]);

  api.before = () => {
    throw failure(403, 'Forbidden');
  };
  for (const name of ['d', 'e']) recorder.record(refused(name, 'note'));
  await recorder.flush();
  await recorder.flush();
  assert.deepEqual([api.log.length, recorder.failure], [5, '403 Forbidden']);
});

test('Events of cluster-scoped objects are in default, and notes are no longer than they may be', async () => {
  const { api, recorder } = world();
  const long = { ...pod(`${'a'.repeat(229)}-b`), namespace: 'default' };
  recorder.record({ ...refused('x', 'note'), regarding: long });
  await recorder.flush();
  assert.match([...api.objects.keys()][0] ?? '', /\/a{229}\.[0-9a-f]{16}$/);
  api.objects.clear();
  const regarding = { apiVersion: 'v1', kind: 'Node', namespace: null, name: 'a', uid: null };
  recorder.record({ ...refused('x', 'é'.repeat(2000)), regarding });
  await recorder.flush();
  const [[path] = ['']] = [...api.objects];
  assert.ok(path.startsWith(EVENTS.replace('shop', 'default')));
  const [event] = events(api);
  assert.deepEqual(event?.regarding, { apiVersion: 'v1', kind: 'Node', name: 'a' });
  assert.ok(Buffer.byteLength(String(event?.note)) <= 1024);
});
