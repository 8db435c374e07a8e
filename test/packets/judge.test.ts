// SPDX-License-Identifier: Apache-2.0
// The algebra of rows: what each subject contributes, how contributions merge, in what order they decide.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import {
  ACTION_ACCEPT,
  ACTION_DENY,
  ACTION_PASS,
  type Entry,
  FINAL_SILENT,
  REASON_NO_READY_ENDPOINT,
  REASON_RULE,
  ROW_ISOLATED,
  ROW_SILENT,
  ROW_ZONES,
  SPACE_NETWORKS,
  SPACE_ZONES,
} from '#build/generated/abi.ts';
import { icmp4, icmp6, ipv4, ipv6, raw, sctp, tcp, udp } from './packet.ts';
import { always, id, type Outcome, on, Programs, type RowFields } from './programs.ts';

const TO4 = '198.18.1.1';
const TO6 = 'fd00::1:1';
const RULESET = id(0xa);
const SHADOW = id(0xb);
const POD = id(0x101);
const NETWORK = id(0x102);
const ZONE = id(0x103);
const KIND = 77;
const PORTS = '0102030405060708';

const accept = (precedence: number) => (precedence << 2) | ACTION_ACCEPT;
const deny = (precedence: number) => (precedence << 2) | ACTION_DENY;
const pass = (precedence: number) => (precedence << 2) | ACTION_PASS;

let programs: Programs;
before(() => {
  programs = new Programs();
});
after(() => programs.close());

type Told = readonly [reason: string, rule: number | null];
const told = (outcome: Outcome): Told => [outcome.reason, outcome.rule];

/** Subjects of TO4 and TO6 are all there: identity, network, zone. */
function place(): void {
  for (const address of [TO4, TO6]) programs.identity(address, { id: POD, kind: KIND });
  for (const [space, subject] of [
    [SPACE_NETWORKS, NETWORK],
    [SPACE_ZONES, ZONE],
  ] as const) {
    programs.network(space, '198.18.0.0', 96 + 15, subject);
    programs.network(space, 'fd00::', 8, subject);
  }
}

function verdict(
  rows: readonly Omit<RowFields, 'ruleset'>[],
  packet = ipv4({ to: TO4 }, tcp({ to: 80, flags: ['syn'] })),
) {
  programs.reset();
  place();
  for (const row of rows) programs.row({ ruleset: RULESET, ...row });
  programs.bind(RULESET);
  return programs.run(packet);
}

const header = (fields: Omit<RowFields, 'ruleset'> = {}) => ({ flags: ROW_ISOLATED | ROW_ZONES, ...fields });
const pod = (...entries: Entry[]) => ({ subject: POD, entries });
const network = (...entries: Entry[]) => ({ subject: NETWORK, entries });
const zone = (...entries: Entry[]) => ({ subject: ZONE, kind: KIND, entries });

describe('one tier after another', () => {
  const rows: [string, Omit<RowFields, 'ruleset'>[], Told][] = [
    ['no header', [], ['missing_row', null]],
    ['an empty header isolates nobody', [{}], ['not_isolated', null]],
    ['isolated, nothing allows', [header()], ['no_rule', null]],
    ['a rule for everybody', [header({ entries: [always({ policy: 9 })] })], ['rule', 9]],
    ['a rule by identity', [header(), pod(always({ policy: 3 }))], ['rule', 3]],
    ['a rule by network', [header(), network(always({ policy: 4 }))], ['rule', 4]],
    ['a rule by zone', [header(), zone(always({ policy: 5 }))], ['rule', 5]],
    ['a zone row without ROW_ZONES', [header({ flags: ROW_ISOLATED }), zone(always({ policy: 5 }))], ['no_rule', null]],
    ['a zone row of another kind', [header(), { ...zone(always({ policy: 5 })), kind: 1 }], ['no_rule', null]],
    [
      'the smallest precedence is told',
      [header({ entries: [always({ policy: 4 })] }), pod(always({ policy: 2 })), network(always({ policy: 3 }))],
      ['rule', 2],
    ],
    ['a rule is told although nobody isolates', [{}, pod(always({ policy: 0 }))], ['rule', 0]],
    ['Admin accepts before isolation', [header(), pod(always({ admin: accept(6) }))], ['admin_accept', 6]],
    ['Admin denies what a rule allows', [header(), pod(always({ admin: deny(6), policy: 0 }))], ['admin_deny', 6]],
    [
      'Admin: the smaller precedence of two subjects',
      [header(), pod(always({ admin: deny(6) })), network(always({ admin: accept(5) }))],
      ['admin_accept', 5],
    ],
    [
      'Pass goes on to the rules',
      [header(), pod(always({ admin: pass(1), policy: 8 })), network(always({ admin: deny(2) }))],
      ['rule', 8],
    ],
    ['Pass goes on to isolation', [header(), pod(always({ admin: pass(1) }))], ['no_rule', null]],
    ['Baseline accepts', [{}, pod(always({ baseline: accept(7) }))], ['baseline_accept', 7]],
    ['Baseline denies', [{}, network(always({ baseline: deny(8) }))], ['baseline_deny', 8]],
    ['Baseline passes', [{}, network(always({ baseline: pass(8) }))], ['not_isolated', null]],
    ['Baseline does not reach the isolated', [header(), pod(always({ baseline: accept(7) }))], ['no_rule', null]],
    ['a Limit that nobody satisfies', [header({ limits: 0b100, entries: [always({ policy: 0 })] })], ['limit', 2]],
    ['a Limit that is satisfied', [header({ limits: 0b100 }), pod(always({ policy: 1, limits: 0b100 }))], ['rule', 1]],
    [
      'Limits satisfied by different subjects',
      [
        header({ limits: 0b111, entries: [always({ limits: 0b1 })] }),
        pod(always({ limits: 0b10 })),
        network(always({ limits: 0b100, policy: 3 })),
      ],
      ['rule', 3],
    ],
    [
      'the lowest missing Limit is told',
      [header({ limits: 0b1110 }), pod(always({ limits: 0b10, policy: 0 }))],
      ['limit', 2],
    ],
    ['a satisfied Limit allows nothing', [header({ limits: 0b1 }), pod(always({ limits: 0b1 }))], ['no_rule', null]],
    ['Admin accepts before Limits', [header({ limits: 0b1 }), pod(always({ admin: accept(0) }))], ['admin_accept', 0]],
    ['Pass does not', [header({ limits: 0b1 }), pod(always({ admin: pass(0), policy: 0 }))], ['limit', 0]],
    ['all eight Limits', [header({ limits: 0xff }), pod(always({ limits: 0x7f, policy: 0 }))], ['limit', 7]],
    [
      'a final answer allows',
      [header({ limits: 1 }), pod(always({ policy: 12, final: REASON_RULE })), network(always({ admin: deny(0) }))],
      ['rule', 12],
    ],
    [
      'a final answer denies',
      [header(), pod(always({ final: REASON_NO_READY_ENDPOINT })), network(always({ policy: 0 }))],
      ['no_ready_endpoint', null],
    ],
    [
      'only an identity can be final',
      [header(), network(always({ policy: 3, final: REASON_NO_READY_ENDPOINT }))],
      ['rule', 3],
    ],
  ];
  for (const [what, given, expected] of rows) {
    test(what, () => {
      assert.deepEqual(told(verdict(given)), expected);
      assert.deepEqual(told(verdict(given, ipv6({ to: TO6 }, tcp({ to: 80, flags: ['syn'] })))), expected);
    });
  }
});

describe('silence', () => {
  const rows: [string, Omit<RowFields, 'ruleset'>[], number][] = [
    ['a default denial', [header()], 0],
    ['a silent default denial', [header({ flags: ROW_ISOLATED | ROW_SILENT })], 2],
    ['a Limit', [header({ limits: 0b11, limitsSilent: 0b01 })], 0],
    ['a silent Limit', [header({ limits: 0b11, limitsSilent: 0b01 }), pod(always({ limits: 0b10 }))], 2],
    ['a Limit beside a silent default', [header({ flags: ROW_ISOLATED | ROW_SILENT, limits: 1 })], 0],
    ['a final denial', [header(), pod(always({ final: REASON_NO_READY_ENDPOINT }))], 0],
    ['a silent final denial', [header(), pod(always({ final: FINAL_SILENT | REASON_NO_READY_ENDPOINT }))], 2],
    ['an Admin denial', [header({ flags: ROW_ISOLATED | ROW_SILENT }), pod(always({ admin: deny(0) }))], 0],
  ];
  for (const [what, given, retval] of rows) {
    test(`${what} returns ${retval}`, () => {
      const outcome = verdict(given);
      assert.equal(outcome.retval, retval);
      assert.equal((outcome.events[0]?.flags ?? 0) & 1, retval === 2 ? 1 : 0);
    });
  }
});

describe('protocols and ports', () => {
  const rules = header({
    entries: [
      on(6, 80, 90, { policy: 0 }),
      on(17, 53, 53, { policy: 1 }),
      on(132, 5000, 5000, { policy: 2 }),
      on(1, 1, 1, { policy: 3 }),
      on(6, 85, 65535, { policy: 4 }),
    ],
  });
  const rows: [string, Buffer, Told][] = [
    ['below the range', ipv4({ to: TO4 }, tcp({ to: 79, flags: ['syn'] })), ['no_rule', null]],
    ['its first port', ipv4({ to: TO4 }, tcp({ to: 80, flags: ['syn'] })), ['rule', 0]],
    ['its last port', ipv4({ to: TO4 }, tcp({ to: 90, flags: ['syn'] })), ['rule', 0]],
    ['the first entry that matches answers', ipv4({ to: TO4 }, tcp({ to: 91, flags: ['syn'] })), ['rule', 4]],
    ['the highest port', ipv6({ to: TO6 }, tcp({ to: 65535, flags: ['syn'] })), ['rule', 4]],
    ['UDP on its port', ipv4({ to: TO4 }, udp({ to: 53 })), ['rule', 1]],
    ['UDP on a port of TCP', ipv4({ to: TO4 }, udp({ to: 80 })), ['no_rule', null]],
    ['SCTP on its port', ipv6({ to: TO6 }, sctp({ to: 5000 })), ['rule', 2]],
    ['SCTP on another', ipv6({ to: TO6 }, sctp({ to: 80 })), ['no_rule', null]],
    ['echo request', ipv4({ to: TO4 }, icmp4({ type: 8 })), ['rule', 3]],
    ['echo request, IPv6', ipv6({ to: TO6 }, icmp6({ type: 128 })), ['rule', 3]],
    ['timestamp request', ipv4({ to: TO4 }, icmp4({ type: 13 })), ['no_rule', null]],
    ['echo reply', ipv4({ to: TO4 }, icmp4({ type: 0 })), ['no_rule', null]],
    ["IPv6's ICMP inside IPv4", ipv4({ to: TO4 }, raw(58, Buffer.from('8000000000000000', 'hex'))), ['no_rule', null]],
    ["IPv4's ICMP inside IPv6", ipv6({ to: TO6 }, raw(1, Buffer.from('0800000000000000', 'hex'))), ['no_rule', null]],
    ['GRE', ipv4({ to: TO4 }, raw(47)), ['no_rule', null]],
    ['protocol 0 is no wildcard', ipv4({ to: TO4 }, raw(0)), ['no_rule', null]],
  ];
  for (const [what, packet, expected] of rows) {
    test(what, () => assert.deepEqual(told(verdict([rules], packet)), expected));
  }
  test('an entry for every protocol covers those without ports', () => {
    assert.deepEqual(told(verdict([header({ entries: [always({ policy: 5 })] })], ipv4({ to: TO4 }, raw(47)))), [
      'rule',
      5,
    ]);
  });
  test('ICMP kinds of both families', () => {
    const kinds: [number, Buffer][] = [
      [1, ipv4({ to: TO4 }, icmp4({ type: 8 }))],
      [2, ipv4({ to: TO4 }, icmp4({ type: 0 }))],
      [3, ipv4({ to: TO4 }, icmp4({ type: 3, code: 1 }))],
      [4, ipv4({ to: TO4 }, icmp4({ type: 3, code: 4 }))],
      [5, ipv4({ to: TO4 }, icmp4({ type: 11 }))],
      [6, ipv4({ to: TO4 }, icmp4({ type: 12 }))],
      [0, ipv4({ to: TO4 }, icmp4({ type: 5 }))],
      [1, ipv6({ to: TO6 }, icmp6({ type: 128 }))],
      [2, ipv6({ to: TO6 }, icmp6({ type: 129 }))],
      [3, ipv6({ to: TO6 }, icmp6({ type: 1 }))],
      [4, ipv6({ to: TO6 }, icmp6({ type: 2 }))],
      [5, ipv6({ to: TO6 }, icmp6({ type: 3 }))],
      [6, ipv6({ to: TO6 }, icmp6({ type: 4 }))],
      [0, ipv6({ to: TO6 }, icmp6({ type: 137 }))],
    ];
    for (const [kind, packet] of kinds) {
      assert.deepEqual(told(verdict([header({ entries: [on(1, kind, kind, { policy: kind })] })], packet)), [
        'rule',
        kind,
      ]);
    }
  });
});

test('port sets: the longest prefix answers, inline entries are not asked', () => {
  const ask = (packet: Buffer) => {
    programs.reset();
    place();
    programs.row({ ruleset: RULESET, flags: ROW_ISOLATED });
    programs.row({ ruleset: RULESET, subject: POD, portSet: PORTS, entries: [always({ policy: 99 })] });
    programs.port(PORTS, 0, 0, 0, { policy: 1 });
    programs.port(PORTS, 6, 0, 16, { policy: 2 });
    programs.port(PORTS, 6, 0x1000, 16 + 4, { policy: 3 });
    programs.port(PORTS, 6, 0x1001, 16 + 16, { policy: 4 });
    programs.port('0102030405060709', 6, 0x1001, 16 + 16, { policy: 5 });
    programs.bind(RULESET);
    return told(programs.run(packet));
  };
  assert.deepEqual(ask(ipv4({ to: TO4 }, tcp({ to: 0x1001, flags: ['syn'] }))), ['rule', 4]);
  assert.deepEqual(ask(ipv4({ to: TO4 }, tcp({ to: 0x1fff, flags: ['syn'] }))), ['rule', 3]);
  assert.deepEqual(ask(ipv6({ to: TO6 }, tcp({ to: 80, flags: ['syn'] }))), ['rule', 2]);
  assert.deepEqual(ask(ipv6({ to: TO6 }, udp({ to: 80 }))), ['rule', 1]);
  assert.deepEqual(ask(ipv4({ to: TO4 }, raw(47))), ['rule', 1]);
});

describe('where a destination is', () => {
  const ask = (given: () => void, packet = ipv4({ to: TO4 }, udp({ to: 1 }))) => {
    programs.reset();
    given();
    programs.row({ ruleset: RULESET, flags: ROW_ISOLATED | ROW_ZONES });
    programs.row({ ruleset: RULESET, subject: NETWORK, entries: [always({ policy: 1 })] });
    programs.row({ ruleset: RULESET, subject: id(0x104), entries: [always({ policy: 2 })] });
    programs.row({ ruleset: RULESET, subject: ZONE, kind: 1, entries: [always({ policy: 3 })] });
    programs.row({ ruleset: RULESET, subject: ZONE, kind: KIND, entries: [always({ policy: 4 })] });
    programs.bind(RULESET);
    return told(programs.run(packet));
  };
  test('nowhere', () =>
    assert.deepEqual(
      ask(() => undefined),
      ['no_rule', null],
    ));
  test('in the longest prefix', () => {
    const given = () => {
      programs.network(SPACE_NETWORKS, '198.18.0.0', 96 + 15, NETWORK);
      programs.network(SPACE_NETWORKS, '198.18.1.0', 96 + 24, id(0x104));
    };
    assert.deepEqual(ask(given), ['rule', 2]);
  });
  test("in its own class where its entry has one, and not in its prefix's", () => {
    const given = () => {
      programs.network(SPACE_NETWORKS, '198.18.0.0', 96 + 15, NETWORK);
      programs.identity(TO4, { network: id(0x104) });
    };
    assert.deepEqual(ask(given), ['rule', 2]);
  });
  test('a stranger in a zone', () => {
    assert.deepEqual(
      ask(() => programs.network(SPACE_ZONES, '198.18.0.0', 96 + 15, ZONE)),
      ['rule', 3],
    );
  });
  test('an entry without an id is a stranger, whatever its kind says', () => {
    const given = () => {
      programs.network(SPACE_ZONES, '198.18.0.0', 96 + 15, ZONE);
      programs.identity(TO4, { kind: KIND });
    };
    assert.deepEqual(ask(given), ['rule', 3]);
  });
  test('a known one in a zone', () => {
    const given = () => {
      programs.network(SPACE_ZONES, '198.18.0.0', 96 + 15, ZONE);
      programs.identity(TO4, { id: POD, kind: KIND });
    };
    assert.deepEqual(ask(given), ['rule', 4]);
  });
  test('the two spaces are apart', () => {
    assert.deepEqual(
      ask(() => programs.network(SPACE_ZONES, '198.18.0.0', 96 + 15, NETWORK)),
      ['no_rule', null],
    );
  });
  test('::/0 holds IPv4 too, unless ::ffff:0:0/96 is there', () => {
    const everything = () => programs.network(SPACE_NETWORKS, '::', 0, NETWORK);
    assert.deepEqual(ask(everything), ['rule', 1]);
    const apart = () => {
      everything();
      programs.network(SPACE_NETWORKS, '::ffff:0:0', 96, id(0x105));
    };
    assert.deepEqual(ask(apart), ['no_rule', null]);
    assert.deepEqual(ask(apart, ipv6({ to: TO6 }, udp({ to: 1 }))), ['rule', 1]);
  });
});

describe('two rulesets', () => {
  const ask = (enforced: boolean | null, shadow: boolean | null) => {
    programs.reset();
    for (const [ruleset, allows] of [
      [RULESET, enforced],
      [SHADOW, shadow],
    ] as const) {
      if (allows !== null)
        programs.row({
          ruleset,
          flags: ROW_ISOLATED,
          entries: allows ? [always({ policy: ruleset === SHADOW ? 2 : 1 })] : [],
        });
    }
    programs.bind(enforced === null ? id(0) : RULESET, shadow === null ? id(0) : SHADOW);
    return programs.run(ipv4({ to: TO4 }, tcp({ to: 80, flags: ['syn'] })));
  };
  const rows: [boolean | null, boolean | null, string, string, number | null, string, number][] = [
    [true, true, 'allow', RULESET, 1, 'rule', 0],
    [true, false, 'audit', SHADOW, null, 'no_rule', 1],
    [false, true, 'deny', RULESET, null, 'no_rule', 1],
    [false, false, 'deny', RULESET, null, 'no_rule', 1],
    [null, false, 'audit', SHADOW, null, 'no_rule', 1],
    [null, true, 'allow', id(0), null, 'not_isolated', 0],
    [true, null, 'allow', RULESET, 1, 'rule', 0],
    [null, null, 'allow', id(0), null, 'not_isolated', 0],
  ];
  for (const [enforced, shadow, expected, ruleset, rule, reason, events] of rows) {
    test(`enforced ${enforced}, shadow ${shadow}: ${expected}`, () => {
      const outcome = ask(enforced, shadow);
      assert.deepEqual(
        [outcome.verdict, outcome.ruleset, outcome.rule, outcome.reason, outcome.events.length],
        [expected, ruleset, rule, reason, events],
      );
      assert.equal(outcome.retval, expected === 'deny' ? 0 : 1);
    });
  }
  test('a denial tells what shadow would allow, and by which rule', () => {
    const [event] = ask(false, true).events;
    assert.deepEqual(
      [event?.ruleset, event?.shadow, event?.shadowRule, event?.shadowReason],
      [RULESET, SHADOW, 2, REASON_RULE],
    );
  });
  test('a denial of both tells one', () => {
    const [event] = ask(false, false).events;
    assert.deepEqual([event?.ruleset, event?.shadow, event?.shadowReason], [RULESET, id(0), 0]);
  });
});
