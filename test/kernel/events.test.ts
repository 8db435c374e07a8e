// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as abi from '#build/generated/abi.ts';
import type { CounterNames } from '#src/kernel/counters.ts';
import { type FlowEvent, readEvent } from '#src/kernel/events.ts';
import { NO_ID } from '#src/model/tables.ts';
import { address, id, info } from './fixture.ts';

const names: CounterNames = {
  workload: (slot) => (slot === 4 ? 'shop/web' : null),
  ruleset: (ruleset) => (ruleset === id('a') || ruleset === id('b') ? info(ruleset) : undefined),
  slot: () => null,
};

const RAW: abi.Event = {
  timeNs: 5n,
  cgroup: 77n,
  ruleset: id('a'),
  shadow: NO_ID,
  socketCookie: 2n ** 63n,
  netnsCookie: 1n,
  slot: 4,
  pid: 1234,
  length: 60,
  rule: abi.RULE_NONE,
  shadowRule: abi.RULE_NONE,
  reason: abi.REASON_NO_RULE,
  shadowReason: 0,
  verdict: abi.VERDICT_DENY,
  hook: abi.HOOK_CONNECT,
  protocol: 6,
  icmp: 0,
  flags: abi.EVENT_PROCESS,
  localPort: 40000,
  remotePort: 443,
  name: 0,
  local: address(1),
  remote: '20010db8000000000000000000000001',
  command: 'curl',
};

const told = (slot: number, number: number): string | null =>
  slot === RAW.slot && number === 7 ? 'api.example.com' : null;

const READ: FlowEvent = {
  timeNs: 5n,
  workload: 'shop/web',
  cgroup: 77n,
  verdict: 'deny',
  reason: 'no_rule',
  policy: 'NetworkPolicy/test/a',
  rule: null,
  ruleName: null,
  isolatedBy: ['NetworkPolicy/test/a'],
  shadow: null,
  hook: 'connect',
  protocol: 6,
  icmp: null,
  local: { address: '198.18.0.1', key: address(1), port: 40000 },
  remote: { address: '2001:db8::1', key: RAW.remote, port: 443 },
  name: null,
  length: 60,
  silent: false,
  cut: false,
  pid: 1234,
  command: 'curl',
  isSender: true,
  socketCookie: 2n ** 63n,
  netnsCookie: 1n,
};

const cases: readonly { readonly what: string; readonly raw: Partial<abi.Event>; readonly read: Partial<FlowEvent> }[] =
  [
    { what: 'a default denial names who isolates', raw: {}, read: {} },
    {
      what: 'a rule is told by index and name',
      raw: { reason: abi.REASON_RULE, rule: 0, verdict: abi.VERDICT_ALLOW },
      read: { verdict: 'allow', reason: 'rule', rule: 3, ruleName: 'web', isolatedBy: [] },
    },
    {
      what: 'a denial that Audit policies would lift',
      raw: { shadow: id('b'), shadowReason: abi.REASON_RULE, shadowRule: 0 },
      read: { shadow: { reason: 'rule', policy: 'NetworkPolicy/test/b', rule: 3, ruleName: 'web', isolatedBy: [] } },
    },
    {
      what: 'flags',
      raw: { flags: abi.EVENT_SILENT | abi.EVENT_CUT, pid: 0, command: '', hook: abi.HOOK_EGRESS },
      read: { silent: true, cut: true, isSender: false, pid: 0, command: '', hook: 'egress' },
    },
    {
      what: 'ICMP by its kind',
      raw: { protocol: 1, icmp: abi.ICMP_ECHO_REQUEST, localPort: 0, remotePort: 0 },
      read: {
        protocol: 1,
        icmp: 'echo_request',
        local: { ...READ.local, port: 0 },
        remote: { ...READ.remote, port: 0 },
      },
    },
    {
      what: 'a ruleset and a workload that nobody knows',
      raw: { ruleset: id('f'), slot: 9 },
      read: { workload: null, policy: null, isolatedBy: [] },
    },
    {
      what: 'a name as long as the kernel keeps them',
      raw: { command: 'a'.repeat(15) },
      read: { command: 'a'.repeat(15) },
    },
    { what: 'the name by which the address was known', raw: { name: 7 }, read: { name: 'api.example.com' } },
    { what: 'a name that was forgotten since', raw: { name: 8 }, read: { name: null } },
  ];
for (const { what, raw, read } of cases) {
  test(what, () => {
    const record = Buffer.alloc(abi.EVENT_BYTES);
    abi.encodeEvent({ ...RAW, ...raw }, record);
    assert.deepEqual(readEvent(record, names, told), { ...READ, ...read });
  });
}

test('a record of another size is refused', () => {
  assert.throws(() => readEvent(Buffer.alloc(abi.EVENT_BYTES - 1), names, told), RangeError);
  assert.throws(() => readEvent(Buffer.alloc(abi.EVENT_BYTES + 1), names, told), RangeError);
});
