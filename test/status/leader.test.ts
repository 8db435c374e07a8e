// SPDX-License-Identifier: Apache-2.0
// At no time do two candidates believe that they lead, whatever the API server and the clocks do; and somebody leads again soon.
import assert from 'node:assert/strict';
import test from 'node:test';
import { Leader } from '../../src/status/leader.ts';
import { FakeApi, FakeClock, failure } from './fake-api.ts';

const PATH = '/apis/coordination.k8s.io/v1/namespaces/postern-system/leases/postern-status';

function candidate(api: FakeApi, clock: FakeClock, identity: string): Leader {
  return new Leader({ api, clock, namespace: 'postern-system', name: 'postern-status', identity });
}

function spec(api: FakeApi): Record<string, unknown> {
  return (api.objects.get(PATH)?.spec ?? {}) as Record<string, unknown>;
}

test('the first takes the Lease, the second waits, and takes over when the first is silent', async () => {
  const [api, clock] = [new FakeApi(), new FakeClock()];
  const [a, b] = [candidate(api, clock, 'a'), candidate(api, clock, 'b')];
  await a.step();
  await b.step();
  assert.deepEqual([a.isLeader, b.isLeader], [true, false]);
  assert.equal(spec(api).holderIdentity, 'a');
  assert.equal(spec(api).leaseTransitions, 0);
  const acquired = spec(api).acquireTime;

  clock.pass(10);
  await a.step();
  await b.step();
  assert.deepEqual([a.isLeader, b.isLeader], [true, false]);
  assert.equal(spec(api).acquireTime, acquired, 'a renewal is no acquisition');
  assert.match(String(spec(api).renewTime), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);

  // a is gone without a word.
  clock.pass(19);
  await b.step();
  assert.deepEqual([a.isLeader, b.isLeader], [true, false]);
  clock.pass(10);
  await b.step();
  assert.deepEqual([a.isLeader, b.isLeader], [false, false], 'a stops before b begins');
  clock.pass(2);
  await b.step();
  assert.deepEqual([a.isLeader, b.isLeader], [false, true]);
  assert.equal(spec(api).leaseTransitions, 1);

  await a.step();
  assert.deepEqual([a.isLeader, b.isLeader], [false, true], 'whoever comes back waits');
});

test('a released Lease is taken at once', async () => {
  const [api, clock] = [new FakeApi(), new FakeClock()];
  const [a, b] = [candidate(api, clock, 'a'), candidate(api, clock, 'b')];
  await a.step();
  await a.release();
  assert.equal(a.isLeader, false);
  assert.deepEqual(Object.keys(spec(api)).sort(), [
    ...['acquireTime', 'leaseDurationSeconds', 'leaseTransitions', 'renewTime'],
  ]);
  await b.step();
  assert.equal(b.isLeader, true);
  await a.release();
  await b.step();
  assert.equal(b.isLeader, true, 'who does not hold it cannot release it');
});

test('of two that see a free Lease at once, one gets it', async () => {
  const [api, clock] = [new FakeApi(), new FakeClock()];
  const [a, b] = [candidate(api, clock, 'a'), candidate(api, clock, 'b')];
  await Promise.all([a.step(), b.step()]);
  assert.equal([a, b].filter(({ isLeader }) => isLeader).length, 1);
  clock.pass(60);
  await Promise.all([a.step(), b.step()]);
  assert.equal([a, b].filter(({ isLeader }) => isLeader).length, 1);
});

test('no answer, or a refusal: the holder leads until its deadline, and says what was refused', async () => {
  const [api, clock] = [new FakeApi(), new FakeClock()];
  const a = candidate(api, clock, 'a');
  await a.step();
  assert.equal(a.failure, null);
  api.before = () => {
    throw failure(403, 'Forbidden');
  };
  clock.pass(10);
  await a.step();
  assert.deepEqual([a.isLeader, a.failure], [true, '403 Forbidden']);
  clock.pass(10);
  await a.step();
  assert.equal(a.isLeader, false);
  api.before = () => undefined;
  await a.step();
  assert.deepEqual([a.isLeader, a.failure], [true, null]);
});

test('a clock that differs takes nothing from anybody', async () => {
  const [api, clock, ahead] = [new FakeApi(), new FakeClock(), new FakeClock()];
  ahead.pass(86_400);
  const [a, b] = [candidate(api, clock, 'a'), candidate(api, ahead, 'b')];
  await a.step();
  for (let i = 0; i < 5; i += 1) {
    clock.pass(10);
    ahead.pass(10);
    await a.step();
    await b.step();
    assert.deepEqual([a.isLeader, b.isLeader], [true, false]);
  }
});

test('candidates ask the more rarely the more there are, and soon where the holder is late', async () => {
  const [api, clock] = [new FakeApi(), new FakeClock()];
  const [a, b] = [candidate(api, clock, 'a'), candidate(api, clock, 'b')];
  await a.step();
  await b.step();
  assert.equal(a.waitMs(5000, 0.5), 8000);
  for (const candidates of [1, 100, 1000, 5000, 10_000]) {
    const askedPerSecond = (candidates / b.waitMs(candidates, 0.5)) * 1000;
    assert.ok(askedPerSecond <= 50, `${candidates}: ${askedPerSecond}`);
  }
  clock.pass(200);
  const late = candidate(api, clock, 'c');
  await late.step();
  assert.equal(late.isLeader, false);
  assert.ok(late.waitMs(5000, 1) < 40_000);
});
