// SPDX-License-Identifier: Apache-2.0
// What passes whatever policy says: loopback, oneself, replies, neighbour discovery, errors of known flows. And what only looks so.
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import { HOOK_EGRESS, ROW_ISOLATED, UNKNOWN_DENY } from '#build/generated/abi.ts';
import { loadNative } from '#src/kernel/native.ts';
import { fragment, hopByHop, icmp4, icmp6, ipv4, ipv6, LOCAL4, LOCAL6, raw, tcp, udp } from './packet.ts';
import { always, id, Programs, SLOT } from './programs.ts';

const TO4 = '198.18.1.1';
const TO6 = 'fd00::1:1';
const RULESET = id(0xa);

let programs: Programs;
before(() => {
  programs = new Programs();
});
after(() => programs.close());
beforeEach(() => {
  programs.reset();
  programs.row({ ruleset: RULESET, flags: ROW_ISOLATED });
  programs.bind(RULESET);
});
const reason = (packet: Buffer) => programs.run(packet).reason;
const arrive = (packet: Buffer) => programs.object.testRun('ingress', packet, 1);

describe('loopback', () => {
  const rows: [string, Buffer, string][] = [
    ['127.0.0.1', ipv4({ to: '127.0.0.1' }, tcp({ to: 80, flags: ['syn'] })), 'loopback'],
    ['127.255.255.254', ipv4({ to: '127.255.255.254' }, udp({ to: 80 })), 'loopback'],
    ['126.255.255.255', ipv4({ to: '126.255.255.255' }, udp({ to: 80 })), 'no_rule'],
    ['128.0.0.0', ipv4({ to: '128.0.0.0' }, udp({ to: 80 })), 'no_rule'],
    ['0.0.0.0 on the wire', ipv4({ to: '0.0.0.0' }, udp({ to: 80 })), 'no_rule'],
    ['::1', ipv6({ from: '::1', to: '::1' }, tcp({ to: 80 })), 'loopback'],
    ['::1 from a stranger', ipv6({ from: TO6, to: '::1' }, tcp({ to: 80 })), 'spoofed_source'],
    ['::2', ipv6({ to: '::2' }, tcp({ to: 80 })), 'no_rule'],
    [':: on the wire', ipv6({ to: '::' }, tcp({ to: 80 })), 'no_rule'],
    ['::7f00:1', ipv6({ to: '::7f00:1' }, tcp({ to: 80 })), 'no_rule'],
    ['a later fragment to 127.0.0.1', ipv4({ to: '127.0.0.1', offset: 24 }, raw(17)), 'loopback'],
    ['a later fragment to ::1', ipv6({ to: '::1' }, fragment({ offset: 24, next: 17 }), raw(17)), 'loopback'],
  ];
  for (const [what, packet, expected] of rows) test(what, () => assert.equal(reason(packet), expected));
});

test('oneself, by either family', () => {
  assert.equal(reason(ipv4({ to: LOCAL4 }, udp({ to: 80 }))), 'no_rule');
  programs.self(LOCAL4);
  programs.self(LOCAL6);
  assert.equal(reason(ipv4({ to: LOCAL4 }, udp({ to: 80 }))), 'self');
  assert.equal(reason(ipv6({ to: LOCAL6 }, udp({ to: 80 }))), 'self');
  assert.equal(reason(ipv4({ to: TO4 }, udp({ to: 80 }))), 'no_rule');
});

test('oneself, from a stranger’s address, whatever a rule says', () => {
  programs.self(LOCAL6);
  programs.row({ ruleset: id(0xb), flags: ROW_ISOLATED, entries: [always({ policy: 4 })] });
  programs.bind(id(0xb));
  assert.equal(reason(ipv6({ from: LOCAL6, to: LOCAL6 }, udp({ to: 80 }))), 'rule');
  assert.equal(reason(ipv6({ from: '::1', to: LOCAL6 }, udp({ to: 80 }))), 'rule');
  assert.equal(reason(ipv6({ from: TO6, to: LOCAL6 }, udp({ to: 80 }))), 'spoofed_source');
  programs.self(TO6);
  assert.equal(reason(ipv6({ from: TO6, to: LOCAL6 }, udp({ to: 80 }))), 'rule', 'another address of its own');
});

test('oneself is not told where a rule allows it, nor audited where only shadow denies', () => {
  programs.self(LOCAL4);
  programs.row({ ruleset: id(0xb), flags: ROW_ISOLATED, entries: [always({ policy: 4 })] });
  programs.bind(id(0xb));
  assert.equal(reason(ipv4({ to: LOCAL4 }, udp({ to: 80 }))), 'rule');
  programs.bind(id(0xb), RULESET);
  const outcome = programs.run(ipv4({ to: LOCAL4 }, udp({ to: 80 })));
  assert.deepEqual(
    [outcome.verdict, outcome.reason, outcome.events.length],
    ['allow', 'rule', 0],
    'as enforced tells it',
  );
});

describe('neighbour discovery', () => {
  const nd = (type: number, to: string, hopLimit = 255, code = 0, bytes = 16) =>
    ipv6({ to, hopLimit }, icmp6({ type, code, payload: Buffer.alloc(bytes) }));
  const mld = (type: number, to: string, hopLimit = 1) =>
    ipv6({ to, hopLimit }, hopByHop(1, '050200000100'), icmp6({ type }));
  const rows: [string, Buffer, boolean][] = [
    ['router solicitation to all routers', nd(133, 'ff02::2'), true],
    ['router solicitation to a unicast address', nd(133, TO6), false],
    ['solicitation to its multicast group', nd(135, 'ff02::1:ff00:1'), true],
    ['solicitation to a link-local address', nd(135, 'fe80::1'), true],
    ['fe80::/10 ends at febf', nd(135, 'febf::1'), true],
    ['fec0::', nd(133, 'fec0::1'), false],
    ['solicitation to a neighbour', nd(135, TO6), true],
    ['solicitation of 33 bytes to a neighbour', nd(135, TO6, 255, 0, 25), false],
    ['solicitation of 32 bytes to a neighbour', nd(135, TO6, 255, 0, 24), true],
    ['solicitation of 40 bytes on the link', nd(135, 'ff02::1', 255, 0, 32), true],
    ['solicitation of 41 bytes on the link', nd(135, 'ff02::1', 255, 0, 33), false],
    ['advertisement of 41 bytes to link-local', nd(136, 'fe80::1', 255, 0, 33), false],
    ['router solicitation of 41 bytes', nd(133, 'ff02::2', 255, 0, 33), false],
    ['MLD report of 25 bytes', nd(131, 'ff02::7', 1, 0, 17), false],
    ['MLDv2 report to others than its routers', nd(143, 'ff02::17', 1), false],
    ['advertisement', nd(136, TO6), true],
    ['advertisement from afar', nd(136, TO6, 254), false],
    ['solicitation with a code', nd(135, 'ff02::1', 255, 1), false],
    ['router advertisement', nd(134, 'ff02::1'), false],
    ['redirect', nd(137, 'fe80::1'), false],
    ['MLDv2 report', mld(143, 'ff02::16'), true],
    ['MLD report', mld(131, 'ff02::1:3'), true],
    ['MLD done', mld(132, 'ff02::2'), true],
    ['MLD report beyond the link', mld(131, 'ff05::1:3'), false],
    ['MLD report with hop limit 64', mld(131, 'ff02::1:3', 64), false],
    ['MLD query', mld(130, 'ff02::1'), false],
    ['echo request with hop limit 255 to a link-local address', nd(128, 'fe80::1'), false],
    [
      'solicitation in fragments',
      ipv6(
        { to: 'ff02::1', hopLimit: 255 },
        fragment({ more: true, id: 1 }),
        icmp6({ type: 135, payload: Buffer.alloc(16) }),
      ),
      false,
    ],
    ['type 135 of IPv4', ipv4({ to: TO4, ttl: 255 }, icmp4({ type: 135 })), false],
  ];
  for (const [what, packet, passes] of rows) {
    test(what, () => assert.equal(reason(packet), passes ? 'neighbour_discovery' : 'no_rule'));
  }
});

describe('answers to what came from outside', () => {
  const families = [
    {
      name: 'IPv4',
      asked: (from: number, to: number) => ipv4({ from: TO4, to: LOCAL4 }, udp({ from, to })),
      answer: (from: number, to: number) => ipv4({ to: TO4 }, udp({ from, to })),
      pinged: (echo: number) => ipv4({ from: TO4, to: LOCAL4 }, icmp4({ type: 8, id: echo })),
      pong: (echo: number) => ipv4({ to: TO4 }, icmp4({ type: 0, id: echo })),
      ping: (echo: number) => ipv4({ to: TO4 }, icmp4({ type: 8, id: echo })),
    },
    {
      name: 'IPv6',
      asked: (from: number, to: number) => ipv6({ from: TO6, to: LOCAL6 }, udp({ from, to })),
      answer: (from: number, to: number) => ipv6({ to: TO6 }, udp({ from, to })),
      pinged: (echo: number) => ipv6({ from: TO6, to: LOCAL6 }, icmp6({ type: 128, id: echo })),
      pong: (echo: number) => ipv6({ to: TO6 }, icmp6({ type: 129, id: echo })),
      ping: (echo: number) => ipv6({ to: TO6 }, icmp6({ type: 128, id: echo })),
    },
  ];
  for (const { name, asked, answer, pinged, pong, ping } of families) {
    test(`${name}: UDP, of exactly the ports that were asked`, () => {
      assert.equal(reason(answer(53, 1000)), 'no_rule');
      assert.equal(arrive(asked(1000, 53)).retval, 1);
      assert.equal(reason(answer(53, 1000)), 'reply');
      assert.equal(reason(answer(53, 1001)), 'no_rule');
      assert.equal(reason(answer(54, 1000)), 'no_rule');
    });
    test(`${name}: what was denied before it was asked for still counts as denied only then`, () => {
      programs.bind(id(0));
      arrive(asked(1000, 53));
      programs.bind(RULESET);
      assert.equal(reason(answer(53, 1000)), 'no_rule', 'a workload without a ruleset notes nothing');
    });
    test(`${name}: an echo reply to an echo request with its id`, () => {
      arrive(pinged(7));
      assert.equal(reason(pong(7)), 'reply');
      assert.equal(reason(pong(8)), 'no_rule');
      assert.equal(reason(ping(7)), 'no_rule');
    });
    test(`${name}: another workload's note opens nothing`, () => {
      arrive(asked(1000, 53));
      assert.equal(programs.moveFlows({ slot: SLOT + 1 }), 1);
      assert.equal(reason(answer(53, 1000)), 'no_rule');
    });
    test(`${name}: a note of another network namespace opens nothing`, () => {
      arrive(asked(1000, 53));
      assert.equal(programs.moveFlows({ netns: 1n }), 1);
      assert.equal(reason(answer(53, 1000)), 'no_rule');
    });
    test(`${name}: a note ends 180 seconds after the last packet`, () => {
      arrive(asked(1000, 53));
      assert.equal(programs.ageFlows(179), 1);
      assert.equal(reason(answer(53, 1000)), 'reply');
      programs.ageFlows(2);
      assert.equal(reason(answer(53, 1000)), 'no_rule');
      arrive(asked(1000, 53));
      assert.equal(reason(answer(53, 1000)), 'reply');
    });
  }
  test('fragments and what can not be read note nothing', () => {
    arrive(ipv4({ from: TO4, to: LOCAL4, more: true }, udp({ from: 1000, to: 53, bytes: 8 })));
    arrive(ipv4({ from: TO4, to: LOCAL4, totalLength: 0 }, udp({ from: 1000, to: 53 })));
    assert.equal(programs.object.dump('flows').count, 0);
  });
});

describe('ICMP errors', () => {
  const quoted4 = ipv4({ from: TO4, to: LOCAL4 }, udp({ from: 1000, to: 53 })).subarray(14);
  const quoted6 = ipv6({ from: TO6, to: LOCAL6 }, udp({ from: 1000, to: 53 })).subarray(14);
  const rows: [string, Buffer][] = [
    ['unreachable', ipv4({ to: TO4 }, icmp4({ type: 3, code: 3, payload: quoted4 }))],
    ['too big', ipv4({ to: TO4 }, icmp4({ type: 3, code: 4, payload: quoted4 }))],
    ['time exceeded', ipv4({ to: TO4 }, icmp4({ type: 11, payload: quoted4 }))],
    ['parameter problem', ipv4({ to: TO4 }, icmp4({ type: 12, payload: quoted4 }))],
    ['unreachable, IPv6', ipv6({ to: TO6 }, icmp6({ type: 1, payload: quoted6 }))],
    ['too big, IPv6', ipv6({ to: TO6 }, icmp6({ type: 2, payload: quoted6 }))],
    ['time exceeded, IPv6', ipv6({ to: TO6 }, icmp6({ type: 3, payload: quoted6 }))],
    ['parameter problem, IPv6', ipv6({ to: TO6 }, icmp6({ type: 4, payload: quoted6 }))],
  ];
  for (const [what, packet] of rows) {
    test(`${what}: passes where it quotes a flow that is known`, () => {
      assert.equal(reason(packet), 'no_rule');
      arrive(ipv4({ from: TO4, to: LOCAL4 }, udp({ from: 1000, to: 53 })));
      arrive(ipv6({ from: TO6, to: LOCAL6 }, udp({ from: 1000, to: 53 })));
      assert.equal(reason(packet), 'icmp_error');
    });
  }
  const other = ipv4({ from: '198.18.1.2', to: LOCAL4 }, udp({ from: 1000, to: 53 })).subarray(14);
  const backwards = ipv4({ from: LOCAL4, to: TO4 }, udp({ from: 53, to: 1000 })).subarray(14);
  const tcpQuote = ipv4({ from: TO4, to: LOCAL4 }, tcp({ from: 1000, to: 53 })).subarray(14);
  /** An error of which everything behind `bytes` of ICMP lies behind the datagram. */
  const behind = (bytes: number) => {
    const packet = ipv4({ to: TO4 }, icmp4({ type: 3, code: 3, payload: quoted4 }));
    packet.writeUInt16BE(20 + bytes, 14 + 2);
    return packet;
  };
  /** The quote with one byte changed. */
  const changed = (at: number, value: number, payload = quoted4) => {
    const copy = Buffer.from(payload);
    copy.writeUInt8(value, at);
    return ipv4({ to: TO4 }, icmp4({ type: 3, code: 3, payload: copy }));
  };
  const pinged = ipv4({ from: TO4, to: LOCAL4 }, icmp4({ type: 8, id: 7 })).subarray(14);
  test('quoting a ping that is known', () => {
    arrive(ipv4({ from: TO4, to: LOCAL4 }, icmp4({ type: 8, id: 7 })));
    assert.equal(reason(changed(20, 8, pinged)), 'icmp_error');
    assert.equal(reason(changed(20, 13, pinged)), 'no_rule', 'which is a ping only by its type');
  });
  const refused: [string, Buffer][] = [
    ['quoting behind the end of the datagram', behind(8)],
    ['quoting half behind the end of the datagram', behind(8 + 27)],
    ['quoting a later fragment', changed(7, 1)],
    ['quoting a header of no length', changed(0, 0x40)],
    ['quoting a header that overlaps what follows', changed(0, 0x44)],
    ['to somebody else than it quotes', ipv4({ to: TO4 }, icmp4({ type: 3, code: 3, payload: other }))],
    ['quoting what it sent', ipv4({ to: TO4 }, icmp4({ type: 3, code: 3, payload: backwards }))],
    ['quoting too little', ipv4({ to: TO4 }, icmp4({ type: 3, code: 3, payload: quoted4.subarray(0, 27) }))],
    ['quoting nothing', ipv4({ to: TO4 }, icmp4({ type: 3, code: 3 }))],
    ['quoting another family', ipv4({ to: TO4 }, icmp4({ type: 3, code: 3, payload: quoted6 }))],
    ['quoting TCP without a socket', ipv4({ to: TO4 }, icmp4({ type: 3, code: 3, payload: tcpQuote }))],
    [
      'in fragments',
      ipv4({ to: TO4, more: true }, icmp4({ type: 3, code: 3, payload: Buffer.concat([quoted4, Buffer.alloc(4)]) })),
    ],
    ['a redirect', ipv4({ to: TO4 }, icmp4({ type: 5, payload: quoted4 }))],
  ];
  for (const [what, packet] of refused) {
    test(`${what}: judged like any other`, () => {
      arrive(ipv4({ from: TO4, to: LOCAL4 }, udp({ from: 1000, to: 53 })));
      assert.equal(reason(packet), 'no_rule');
    });
  }
});

describe('the unknown', () => {
  const packet = ipv4({ to: TO4 }, udp({ to: 53 }));
  test('in the host’s namespace pass', () => {
    programs.settings({ levels: 0, unknown: UNKNOWN_DENY, hostNetns: loadNative().netnsCookie('/proc/self/ns/net') });
    assert.equal(reason(packet), 'unknown_host');
  });
  test('outside the cgroup of all pods pass, whatever their namespace; inside they do not', () => {
    const settings = { levels: 0, unknown: UNKNOWN_DENY, hostNetns: 1n };
    programs.settings({ ...settings, pods: programs.cgroup + 1n, podsLevel: programs.level });
    assert.equal(reason(packet), 'unknown_host');
    // Deeper than this process is: it cannot be inside.
    programs.settings({ ...settings, pods: programs.cgroup, podsLevel: programs.level + 1 });
    assert.equal(reason(packet), 'unknown_host');
    programs.settings({ ...settings, pods: programs.cgroup, podsLevel: programs.level });
    assert.equal(reason(packet), 'unknown_workload');
  });
  test('elsewhere are refused, and told by their own cgroup', () => {
    programs.settings({ levels: 0, unknown: UNKNOWN_DENY, hostNetns: 1n });
    const outcome = programs.run(packet);
    assert.deepEqual(
      [outcome.reason, outcome.slot, outcome.ruleset, outcome.retval],
      ['unknown_workload', 0, id(0), 0],
    );
    assert.deepEqual([outcome.events[0]?.cgroup, outcome.events[0]?.hook], [programs.cgroup, HOOK_EGRESS]);
  });
  test('may loop back and find neighbours', () => {
    programs.settings({ levels: 0, unknown: UNKNOWN_DENY, hostNetns: 1n });
    assert.equal(reason(ipv4({ to: '127.0.0.1' }, udp({ to: 53 }))), 'loopback');
    assert.equal(reason(ipv6({ to: 'ff02::1', hopLimit: 255 }, icmp6({ type: 135 }))), 'neighbour_discovery');
  });
});
