// SPDX-License-Identifier: Apache-2.0
// A flow that was judged once is counted, not told, until its epoch ends; and what cannot be kept is counted as lost.
// One test run has one socket: its repeats are the later packets of a flow.
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import { EVENT_PROCESS, EVENTS_BURST, LOSS_COUNTERS, LOSS_EVENTS_RATE, ROW_ISOLATED } from '#build/generated/abi.ts';
import { ipv4, ipv6, tcp, udp } from './packet.ts';
import { id, on, Programs } from './programs.ts';

const TO4 = '198.18.1.1';
const TO6 = 'fd00::1:1';
const RULESET = id(0xa);
const SHADOW = id(0xb);

let programs: Programs;
before(() => {
  programs = new Programs({ counters: 4 });
});
after(() => programs.close());
beforeEach(() => {
  programs.reset();
  programs.row({
    ruleset: RULESET,
    flags: ROW_ISOLATED,
    entries: [on(6, 80, 80, { policy: 0 }), on(17, 53, 53, { policy: 1 })],
  });
  programs.row({ ruleset: SHADOW, flags: ROW_ISOLATED });
  programs.bind(RULESET);
});

const flows: [string, Buffer][] = [
  ['TCP over IPv4', ipv4({ to: TO4 }, tcp({ to: 80, bytes: 100 }))],
  ['TCP over IPv6', ipv6({ to: TO6 }, tcp({ to: 80, bytes: 100 }))],
  ['UDP over IPv4', ipv4({ to: TO4 }, udp({ to: 53, bytes: 100 }))],
  ['UDP over IPv6', ipv6({ to: TO6 }, udp({ to: 53, bytes: 100 }))],
];

for (const [what, packet] of flows) {
  test(`${what}: every packet is counted under the verdict of the first`, () => {
    const outcome = programs.run(packet, 5);
    assert.deepEqual([outcome.retval, outcome.verdict, outcome.reason, outcome.packets], [1, 'allow', 'rule', 5]);
    assert.equal(outcome.bytes, 5 * (packet.length - 14));
    assert.equal(outcome.events.length, 0);
  });

  test(`${what}: what is audited is told once`, () => {
    programs.bind(RULESET, SHADOW);
    const outcome = programs.run(packet, 5);
    assert.deepEqual([outcome.retval, outcome.verdict, outcome.ruleset, outcome.packets], [1, 'audit', SHADOW, 5]);
    assert.equal(outcome.events.length, 1);
  });
}

test('a SYN is judged each time', () => {
  programs.bind(RULESET, SHADOW);
  const outcome = programs.run(ipv4({ to: TO4 }, tcp({ to: 80, flags: ['syn'] })), 5);
  assert.deepEqual([outcome.packets, outcome.events.length], [5, 5]);
});

test('a refusal is counted and told each time, with who sends it', () => {
  const outcome = programs.run(ipv4({ to: TO4 }, udp({ from: 1000, to: 54 })), 5);
  assert.deepEqual([outcome.retval, outcome.packets, outcome.events.length], [0, 5, 5]);
  const [event] = outcome.events;
  assert.deepEqual(
    [event?.localPort, event?.remotePort, event?.length, event?.protocol, event?.pid],
    [1000, 54, 28, 17, process.pid],
  );
  assert.equal(event?.flags, EVENT_PROCESS);
  assert.equal(event?.cgroup, programs.cgroup);
});

test('a SYN-ACK of a socket that does not listen is no reply', () => {
  const outcome = programs.run(ipv4({ to: TO4 }, tcp({ to: 81, flags: ['syn', 'ack'] })));
  assert.deepEqual([outcome.retval, outcome.reason], [0, 'no_rule']);
});

describe('events', () => {
  test('have a budget, and what exceeds it is counted as lost', () => {
    const before = programs.lost(LOSS_EVENTS_RATE);
    const outcome = programs.run(ipv4({ to: TO4 }, udp({ to: 54 })), 2000);
    assert.equal(outcome.packets, 2000);
    assert.equal(outcome.events.length + programs.lost(LOSS_EVENTS_RATE) - before, 2000);
    assert(outcome.events.length >= EVENTS_BURST);
  });
  test('of one workload do not use up those of the unknown', () => {
    programs.run(ipv4({ to: TO4 }, udp({ to: 54 })), 2000);
    programs.settings({ levels: 0, unknown: 1, hostNetns: 1n });
    assert.equal(programs.run(ipv4({ to: TO4 }, udp({ to: 54 }))).events.length, 1);
  });
});

test('where counters are full, packets are still judged, and the loss is counted', () => {
  const before = programs.lost(LOSS_COUNTERS);
  const rulesets = Array.from({ length: 64 }, (_, index) => id(0x100 + index));
  for (const ruleset of rulesets) {
    programs.row({ ruleset, flags: ROW_ISOLATED });
    programs.bind(ruleset);
    assert.equal(programs.object.testRun('egress', ipv4({ to: TO4 }, udp({ to: 53 })), 1).retval, 0);
  }
  assert.equal(programs.packets('no_rule') + programs.lost(LOSS_COUNTERS) - before, rulesets.length);
  assert(programs.lost(LOSS_COUNTERS) > before);
});
