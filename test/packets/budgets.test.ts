// SPDX-License-Identifier: Apache-2.0
// What one workload's flood takes from others: nothing. Each has a budget of flows, and loses its own oldest first.
import assert from 'node:assert/strict';
import path from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import {
  encodeWorkload,
  FLOWS_PER_WORKLOAD,
  FRAGMENTS_PER_WORKLOAD,
  LOSS_FLOWS,
  LOSS_FLOWS_EVICTED,
  ROW_ISOLATED,
  WORKLOAD_BYTES,
} from '#build/generated/abi.ts';
import { cgroupMount } from '../support/lab.ts';
import { ipv4, LOCAL4, udp } from './packet.ts';
import { always, id, Maps, Programs, SLOT } from './programs.ts';

const PEER = '198.18.1.1';
const CLOSED = id(0xa);
const OPEN = id(0xb);
const LOOPBACK = 1;
const TRANSPORT = FLOWS_PER_WORKLOAD - FRAGMENTS_PER_WORKLOAD;
/** Another workload, in no cgroup that there is. */
const OTHER = { cgroup: 2n, netns: 2n };

let programs: Programs;
before(() => {
  programs = new Programs({ flows: 4 * FLOWS_PER_WORKLOAD, flow_order: 4 * FLOWS_PER_WORKLOAD });
});
after(() => programs.close());
beforeEach(() => {
  programs.reset();
  programs.row({ ruleset: CLOSED, flags: ROW_ISOLATED });
  programs.row({ ruleset: OPEN, flags: ROW_ISOLATED, entries: [always({ policy: 0 })] });
  programs.bind(CLOSED);
  const key = Buffer.alloc(8);
  key.writeBigUInt64LE(OTHER.cgroup);
  const value = Buffer.alloc(WORKLOAD_BYTES);
  encodeWorkload({ slot: SLOT + 1, enforced: CLOSED, shadow: CLOSED, netns: OTHER.netns }, value);
  programs.object.update('workloads', key, value, 1, 0);
  programs.guard(LOOPBACK, {}, LOCAL4);
});

/** Question number `n` from outside; its answer. */
const ends = (n: number) => ({ from: 1024 + (n % 60_000), to: 1024 + Math.floor(n / 60_000) });
const ask = (n: number) => programs.object.testRun('guard_in', ipv4({ from: PEER, to: LOCAL4 }, udp(ends(n))), 1);
function isAnswered(n: number): boolean {
  const { from, to } = ends(n);
  return (programs.object.testRun('guard_out', ipv4({ to: PEER }, udp({ from: to, to: from })), 1).retval | 0) === -1;
}
const answered = (from: number, to: number) =>
  Array.from({ length: to - from }, (_, n) => from + n).filter(isAnswered).length;

test('200,000 flows of one workload leave all 1,000 of another', () => {
  const evicted = programs.lost(LOSS_FLOWS_EVICTED);
  const lost = programs.lost(LOSS_FLOWS);
  for (let n = 0; n < 1000; n += 1) ask(n);
  programs.guard(LOOPBACK, OTHER, LOCAL4);
  for (let n = 0; n < 200_000; n += 1) ask(n);
  assert.equal(programs.object.dump('flows').count, 1000 + TRANSPORT);
  assert.equal(programs.object.dump('flow_order').count, 1000 + TRANSPORT, 'and the order holds no more than there is');
  assert.equal(programs.lost(LOSS_FLOWS_EVICTED) - evicted, 200_000 - TRANSPORT);
  assert.equal(programs.lost(LOSS_FLOWS), lost);
  assert.equal(answered(200_000 - TRANSPORT, 200_000), TRANSPORT, 'the newest are all there');
  assert.equal(answered(200_000 - TRANSPORT - 1000, 200_000 - TRANSPORT), 0, 'the oldest are gone');
  programs.guard(LOOPBACK, {}, LOCAL4);
  assert.equal(answered(0, 1000), 1000);
});

test('a flow that is used again takes no more room', () => {
  for (let round = 0; round < 3; round += 1) for (let n = 0; n < TRANSPORT; n += 1) ask(n);
  assert.equal(answered(0, TRANSPORT), TRANSPORT);
  programs.ageFlows(200);
  for (let n = 0; n < TRANSPORT; n += 1) ask(n);
  assert.equal(answered(0, TRANSPORT), TRANSPORT, 'nor one that begins anew');
});

test('fragments have a room of their own', () => {
  programs.bind(OPEN);
  const cut = (n: number) => ipv4({ to: PEER, more: true, id: n }, udp({ to: 53, bytes: 8 }));
  for (let n = 0; n < 1000; n += 1) ask(n);
  for (let n = 0; n < 5000; n += 1) programs.object.testRun('egress', cut(n), 1);
  assert.equal(programs.object.dump('flows').count, 1000 + FRAGMENTS_PER_WORKLOAD);
  programs.bind(CLOSED);
  assert.equal(answered(0, 1000), 1000);
});

test('what is evicted long after it counted is no loss', () => {
  for (let n = 0; n < TRANSPORT; n += 1) ask(n);
  programs.ageFlows(200);
  const evicted = programs.lost(LOSS_FLOWS_EVICTED);
  for (let n = TRANSPORT; n < 2 * TRANSPORT; n += 1) ask(n);
  assert.equal(programs.lost(LOSS_FLOWS_EVICTED), evicted);
  assert.equal(answered(TRANSPORT, 2 * TRANSPORT), TRANSPORT);
});

test('where the map itself is full, what finds no room is refused, and counted', () => {
  // Of the same cgroup, which the other programs have made.
  const small = new Maps(path.join(cgroupMount(), `postern-${process.pid}-0`), { flows: 16, flow_order: 16 });
  try {
    small.row({ ruleset: CLOSED, flags: ROW_ISOLATED });
    small.bind(CLOSED);
    small.guard(LOOPBACK, {}, LOCAL4);
    for (let n = 0; n < 100; n += 1) {
      small.object.testRun('guard_in', ipv4({ from: PEER, to: LOCAL4 }, udp(ends(n))), 1);
    }
    const kept = small.object.dump('flows').count;
    assert(kept > 0 && kept < 100);
    assert.equal(small.lost(LOSS_FLOWS), 100 - kept);
  } finally {
    small.close();
  }
});
