// SPDX-License-Identifier: Apache-2.0
// The guard's programs, frame by frame: what may leave a pod's interface, in whose name, and what opens an answer. Frames here have no
// socket of the pod's; what the guard believes of sockets is test/packets/interface.test.ts's.
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import { GUARD_HARDWARE_ADDRESS, HOOK_GUARD, ROW_ISOLATED, ROW_SILENT, UNKNOWN_DENY } from '#build/generated/abi.ts';
import { loadNative } from '#src/kernel/native.ts';
import * as packet from './packet.ts';
import {
  arp,
  ethernet,
  fragment,
  fromHardware,
  icmp4,
  icmp6,
  ipv4,
  ipv6,
  LOCAL4,
  LOCAL6,
  raw,
  tag,
  tcp,
  udp,
} from './packet.ts';
import { always, id, on, Programs, SLOT } from './programs.ts';

const TO4 = '198.18.1.1';
const TO6 = 'fd00::1:1';
const LINK_LOCAL = 'fe80::10';
const OTHER4 = '198.18.0.99';
const OTHER6 = 'fd00::99';
const RULESET = id(0xa);
const OPEN = id(0xb);
const NONE = id(0);
/** The interface that frames of test runs come through. */
const LOOPBACK = 1;
const PASSES = -1;
const REFUSED = 2;

let programs: Programs;
before(() => {
  programs = new Programs();
});
after(() => programs.close());

function fill(): void {
  programs.reset();
  programs.row({
    ruleset: RULESET,
    flags: ROW_ISOLATED,
    entries: [on(6, 80, 80, { policy: 0 }), on(17, 53, 53, { policy: 1 })],
  });
  programs.row({ ruleset: OPEN, flags: ROW_ISOLATED, entries: [always({ policy: 2 })] });
  programs.bind(RULESET);
  programs.guard(LOOPBACK, {}, LOCAL4, LOCAL6, LINK_LOCAL);
}
beforeEach(fill);

const leave = (frame: Buffer) => programs.run(frame, 1, 'guard_out');
const arrive = (frame: Buffer) => programs.object.testRun('guard_in', frame, 1).retval | 0;

/** Reason, and that the program's answer and the verdict are one. */
function reason(frame: Buffer): string {
  const outcome = leave(frame);
  assert.equal(outcome.retval, outcome.verdict === 'deny' ? REFUSED : PASSES, outcome.reason);
  assert.equal(outcome.packets, 1);
  return outcome.reason;
}

function table(rows: readonly (readonly [what: string, frame: Buffer, expected: string])[]): void {
  for (const [what, frame, expected] of rows) test(`${what}: ${expected}`, () => assert.equal(reason(frame), expected));
}

const syn = (from: string, to: string, port = 80) =>
  from.includes(':')
    ? ipv6({ from, to }, tcp({ to: port, flags: ['syn'] }))
    : ipv4({ from, to }, tcp({ to: port, flags: ['syn'] }));
const datagram = (from: string, to: string, port = 53) =>
  from.includes(':') ? ipv6({ from, to }, udp({ to: port })) : ipv4({ from, to }, udp({ to: port }));

describe('policy, as at the socket', () =>
  table([
    ['TCP that a rule allows', syn(LOCAL4, TO4), 'rule'],
    ['TCP that none does', syn(LOCAL4, TO4, 81), 'no_rule'],
    ['IPv6 that a rule allows', syn(LOCAL6, TO6), 'rule'],
    ['IPv6 that none does', syn(LOCAL6, TO6, 81), 'no_rule'],
    ['UDP that a rule allows', datagram(LOCAL4, TO4), 'rule'],
    ['UDP that none does', datagram(LOCAL4, TO4, 54), 'no_rule'],
    ['to 127.0.0.1 by an interface', syn(LOCAL4, '127.0.0.1', 81), 'no_rule'],
    ['to itself by an interface', syn(LOCAL4, LOCAL4, 81), 'no_rule'],
    ['a ping', ipv4({ to: TO4 }, icmp4({ type: 8 })), 'no_rule'],
    ['a tunnel in IPv4', ipv4({ to: TO4 }, raw(4, syn(LOCAL4, TO4).subarray(14))), 'no_rule'],
    ['GRE', ipv4({ to: TO4 }, raw(47)), 'no_rule'],
    ['ESP', ipv6({ to: TO6 }, raw(50)), 'no_rule'],
    ['VXLAN', ipv4({ to: TO4 }, udp({ to: 4789, bytes: 40 })), 'no_rule'],
    ['a packet that ends early', ipv4({ to: TO4, totalLength: 21 }, raw(6, 1)), 'truncated_header'],
    ['a source route', ipv4({ to: TO4, options: '830704c6120101' }, tcp({ to: 80 })), 'source_route'],
    ['a routing header', ipv6({ to: TO6 }, packet.routing(), tcp({ to: 80 })), 'source_route'],
    ['options, and a rule', ipv4({ to: TO4, options: '0101' }, tcp({ to: 80, flags: ['syn'] })), 'rule'],
    ['extension headers, and a rule', ipv6({ to: TO6 }, packet.hopByHop(), udp({ to: 53 })), 'rule'],
    ['a mapped address', ipv6({ to: '::ffff:c612:101' }, udp({ to: 53 })), 'mapped_address'],
  ]));

describe('sources', () =>
  table([
    ["a neighbour's IPv4 address", datagram(OTHER4, TO4), 'spoofed_source'],
    ["a neighbour's IPv6 address", datagram(OTHER6, TO6), 'spoofed_source'],
    ['nobody', datagram('0.0.0.0', TO4), 'spoofed_source'],
    ['IPv6’s nobody', datagram('::', TO6), 'spoofed_source'],
    ['127.0.0.1', datagram('127.0.0.1', TO4), 'spoofed_source'],
    ['::1', datagram('::1', TO6), 'spoofed_source'],
    ['link-local, to the world', datagram(LINK_LOCAL, TO6), 'spoofed_source'],
    ['link-local, to the link', datagram(LINK_LOCAL, 'fe80::1'), 'rule'],
    ['link-local, to all on the link', datagram(LINK_LOCAL, 'ff02::1'), 'rule'],
    ["another's link-local", datagram('fe80::99', 'fe80::1'), 'spoofed_source'],
    ['TCP without a SYN', ipv4({ from: OTHER4, to: TO4 }, tcp({ to: 80 })), 'spoofed_source'],
    ['a later fragment', ipv4({ from: OTHER4, to: TO4, offset: 64 }, raw(17)), 'spoofed_source'],
    ['an ICMP error', ipv4({ from: OTHER4, to: TO4 }, icmp4({ type: 3, payload: Buffer.alloc(40) })), 'spoofed_source'],
  ]));

test('what one interface may send from, another may not', () => {
  programs.reset();
  programs.row({ ruleset: OPEN, flags: ROW_ISOLATED, entries: [always({ policy: 2 })] });
  programs.bind(OPEN);
  programs.guard(LOOPBACK, {}, LOCAL4);
  programs.guard(LOOPBACK + 1, {}, OTHER4);
  assert.equal(reason(datagram(LOCAL4, TO4)), 'rule');
  assert.equal(reason(datagram(OTHER4, TO4)), 'spoofed_source');
});

describe('frames', () =>
  table([
    ['a VLAN tag', tag(syn(LOCAL4, TO4), 5), 'vlan_tagged'],
    ['a priority tag', tag(syn(LOCAL4, TO4), 0), 'vlan_tagged'],
    ['802.1ad', tag(syn(LOCAL6, TO6), 5, 0x88a8), 'vlan_tagged'],
    ['two tags', tag(tag(syn(LOCAL4, TO4), 5), 6, 0x88a8), 'vlan_tagged'],
    ['LLDP', ethernet(0x88cc, Buffer.alloc(46)), 'not_ip'],
    ['PPPoE', ethernet(0x8864, Buffer.alloc(46)), 'not_ip'],
    ['MPLS', ethernet(0x8847, Buffer.alloc(46)), 'not_ip'],
    ['MACsec', ethernet(0x88e5, Buffer.alloc(46)), 'not_ip'],
    ['802.3 with a length', ethernet(46, Buffer.alloc(46)), 'not_ip'],
    ['IPv6 that says it is IPv4', packet.mislabel(syn(LOCAL6, TO6)), 'bad_version'],
    ['IPv4 that says it is IPv6', packet.mislabel(ipv4({ to: TO4 }, udp({ to: 53, bytes: 40 }))), 'bad_version'],
  ]));

describe('behind the datagram', () =>
  table([
    ['what fills up the shortest frame', ipv4({ to: TO4, trailer: 18 }, udp({ to: 53 })), 'rule'],
    ['more, of IPv4', ipv4({ to: TO4, trailer: 19 }, udp({ to: 53 })), 'bad_length'],
    ['more, of IPv6', ipv6({ to: TO6, trailer: 1 }, udp({ to: 53 })), 'bad_length'],
  ]));

describe('the Ethernet address', () => {
  const own = { flags: GUARD_HARDWARE_ADDRESS, hardwareAddress: '020000000001' };
  test('is compared where it is known', () => {
    programs.guard(LOOPBACK, own);
    assert.equal(reason(syn(LOCAL4, TO4)), 'rule');
    assert.equal(reason(fromHardware(syn(LOCAL4, TO4), '020000000003')), 'spoofed_hardware_address');
    assert.equal(reason(fromHardware(syn(LOCAL4, TO4), '030000000001')), 'spoofed_hardware_address');
    assert.equal(reason(fromHardware(arp({ from: LOCAL4, to: TO4 }), '020000000003')), 'spoofed_hardware_address');
  });
  test('is compared whatever is known of the flow', () => {
    programs.guard(LOOPBACK, own);
    for (const [local, remote] of [
      [LOCAL4, TO4],
      [LOCAL6, TO6],
    ] as const) {
      assert.equal(reason(datagram(local, remote)), 'rule');
      assert.equal(reason(fromHardware(datagram(local, remote), '020000000003')), 'spoofed_hardware_address');
      assert.equal(reason(datagram(local, remote)), 'rule');
    }
  });
  test('is not where it is not', () => {
    assert.equal(reason(fromHardware(syn(LOCAL4, TO4), '020000000003')), 'rule');
  });
});

describe('ARP', () =>
  table([
    ['a question', arp({ from: LOCAL4, to: TO4 }), 'neighbour_discovery'],
    ['an answer', arp({ from: LOCAL4, to: TO4, operation: 2 }), 'neighbour_discovery'],
    ['an announcement', arp({ from: LOCAL4, to: LOCAL4 }), 'neighbour_discovery'],
    ['a probe', arp({ from: '0.0.0.0', to: LOCAL4 }), 'neighbour_discovery'],
    ['an answer in nobody’s name', arp({ from: '0.0.0.0', to: LOCAL4, operation: 2 }), 'spoofed_arp'],
    ["a question in another's name", arp({ from: OTHER4, to: TO4 }), 'spoofed_arp'],
    ["an answer in another's name", arp({ from: OTHER4, to: TO4, operation: 2 }), 'spoofed_arp'],
    ["an announcement of another's address", arp({ from: OTHER4, to: OTHER4 }), 'spoofed_arp'],
    ['not of Ethernet', arp({ from: LOCAL4, to: TO4, hardware: 6 }), 'spoofed_arp'],
    ['that ends early', arp({ from: LOCAL4, to: TO4 }).subarray(0, 14 + 27), 'truncated_header'],
    ['in the shortest frame', Buffer.concat([arp({ from: LOCAL4, to: TO4 }), Buffer.alloc(18)]), 'neighbour_discovery'],
    ['with a message behind it', Buffer.concat([arp({ from: LOCAL4, to: TO4 }), Buffer.alloc(19)]), 'bad_length'],
  ]));

describe('neighbour discovery', () => {
  const target = (address: string) => packet.addressBytes(address);
  const nd = (type: number, from: string, to: string, about: string, hopLimit = 255) =>
    ipv6({ from, to, hopLimit }, icmp6({ type, payload: target(about) }));
  table([
    ['a solicitation', nd(135, LOCAL6, 'ff02::1:ff01:1', TO6), 'neighbour_discovery'],
    ['a solicitation from link-local', nd(135, LINK_LOCAL, 'ff02::1:ff01:1', TO6), 'neighbour_discovery'],
    ['a solicitation to one neighbour', nd(135, LOCAL6, TO6, TO6), 'neighbour_discovery'],
    ['a solicitation from link-local to one neighbour', nd(135, LINK_LOCAL, TO6, TO6), 'neighbour_discovery'],
    ['the same from afar', nd(135, LINK_LOCAL, TO6, TO6, 64), 'spoofed_source'],
    ["a solicitation in another's name", nd(135, OTHER6, 'ff02::1:ff01:1', TO6), 'spoofed_source'],
    ['whether its own address is free', nd(135, '::', 'ff02::1:ff00:10', LOCAL6), 'neighbour_discovery'],
    ["whether another's address is free", nd(135, '::', 'ff02::1:ff00:99', OTHER6), 'spoofed_neighbour'],
    ['an advertisement', nd(136, LOCAL6, 'ff02::1', LOCAL6), 'neighbour_discovery'],
    ['an advertisement of its link-local', nd(136, LINK_LOCAL, 'fe80::1', LINK_LOCAL), 'neighbour_discovery'],
    ["an advertisement of another's address", nd(136, LOCAL6, 'ff02::1', OTHER6), 'spoofed_neighbour'],
    ["an advertisement of another's link-local", nd(136, LINK_LOCAL, 'ff02::1', 'fe80::99'), 'spoofed_neighbour'],
    ['a router advertisement', nd(134, LINK_LOCAL, 'ff02::1', LOCAL6), 'spoofed_neighbour'],
    ['a redirect', nd(137, LINK_LOCAL, 'fe80::1', OTHER6), 'spoofed_neighbour'],
    ['a router solicitation', nd(133, LINK_LOCAL, 'ff02::2', '::'), 'neighbour_discovery'],
    ['a router solicitation of nobody', nd(133, '::', 'ff02::2', '::'), 'neighbour_discovery'],
    [
      'a multicast report',
      ipv6({ from: LINK_LOCAL, to: 'ff02::16', hopLimit: 1 }, icmp6({ type: 143 })),
      'neighbour_discovery',
    ],
    [
      'a multicast report of nobody',
      ipv6({ from: '::', to: 'ff02::16', hopLimit: 1 }, icmp6({ type: 143 })),
      'neighbour_discovery',
    ],
    [
      'an advertisement without its target',
      ipv6({ to: 'ff02::1', hopLimit: 255 }, icmp6({ type: 136 })),
      'truncated_header',
    ],
    [
      'an advertisement whose target is behind the end of the packet',
      ipv6({ to: 'ff02::1', hopLimit: 255, payloadLength: 8 }, icmp6({ type: 136, payload: target(LOCAL6) })),
      'bad_length',
    ],
    ['an advertisement from afar', nd(136, LOCAL6, TO6, LOCAL6, 64), 'no_rule'],
  ]);
  test('a router advertisement is refused although a rule allows ICMP', () => {
    programs.bind(OPEN);
    assert.equal(reason(nd(134, LINK_LOCAL, 'ff02::1', LOCAL6)), 'spoofed_neighbour');
  });
});

describe('TCP that is no SYN, and of no connection', () =>
  table([
    ['a segment', ipv4({ to: TO4 }, tcp({ to: 81 })), 'no_rule'],
    ['an answer to a SYN', ipv6({ to: TO6 }, tcp({ to: 81, flags: ['syn', 'ack'] })), 'no_rule'],
    ['what a rule allows', ipv4({ to: TO4 }, tcp({ to: 80 })), 'rule'],
  ]));

const FAMILIES = [
  {
    name: 'IPv4',
    asked: (from: number, to: number) => ipv4({ from: TO4, to: LOCAL4 }, udp({ from, to })),
    answer: (from: number, to: number) => ipv4({ to: TO4 }, udp({ from, to })),
    called: (from: number, to: number) => ipv4({ from: TO4, to: LOCAL4 }, tcp({ from, to, flags: ['syn'] })),
    segment: (from: number, to: number, ...flags: ('syn' | 'ack' | 'fin' | 'rst')[]) =>
      ipv4({ to: TO4 }, tcp({ from, to, flags })),
    pinged: (echo: number) => ipv4({ from: TO4, to: LOCAL4 }, icmp4({ type: 8, id: echo })),
    pong: (echo: number) => ipv4({ to: TO4 }, icmp4({ type: 0, id: echo })),
    unreachable: (quoted: Buffer) => ipv4({ to: TO4 }, icmp4({ type: 3, code: 3, payload: quoted.subarray(14) })),
  },
  {
    name: 'IPv6',
    asked: (from: number, to: number) => ipv6({ from: TO6, to: LOCAL6 }, udp({ from, to })),
    answer: (from: number, to: number) => ipv6({ to: TO6 }, udp({ from, to })),
    called: (from: number, to: number) => ipv6({ from: TO6, to: LOCAL6 }, tcp({ from, to, flags: ['syn'] })),
    segment: (from: number, to: number, ...flags: ('syn' | 'ack' | 'fin' | 'rst')[]) =>
      ipv6({ to: TO6 }, tcp({ from, to, flags })),
    pinged: (echo: number) => ipv6({ from: TO6, to: LOCAL6 }, icmp6({ type: 128, id: echo })),
    pong: (echo: number) => ipv6({ to: TO6 }, icmp6({ type: 129, id: echo })),
    unreachable: (quoted: Buffer) => ipv6({ to: TO6 }, icmp6({ type: 1, code: 4, payload: quoted.subarray(14) })),
  },
];

for (const { name, asked, answer, called, segment, pinged, pong, unreachable } of FAMILIES) {
  describe(`${name}: what came in by the interface`, () => {
    test('a datagram is answered, by exactly its ports', () => {
      assert.equal(reason(answer(53000, 1000)), 'no_rule');
      assert.equal(arrive(asked(1000, 53000)), PASSES);
      assert.equal(reason(answer(53000, 1000)), 'reply');
      assert.equal(reason(answer(53000, 1001)), 'no_rule');
      assert.equal(reason(answer(53001, 1000)), 'no_rule');
    });
    test('a ping is answered, by its id', () => {
      arrive(pinged(7));
      assert.equal(reason(pong(7)), 'reply');
      assert.equal(reason(pong(8)), 'no_rule');
    });
    test('a SYN is answered, and what follows it; but it allows no SYN', () => {
      arrive(called(1000, 8080));
      for (const flags of [['syn', 'ack'], ['ack'], ['fin', 'ack'], ['rst']] as const) {
        assert.equal(reason(segment(8080, 1000, ...flags)), 'reply', flags.join());
      }
      assert.equal(reason(segment(8080, 1000, 'syn')), 'no_rule');
      assert.equal(reason(segment(8080, 1001, 'ack')), 'no_rule');
    });
    test('an error about it may be told', () => {
      assert.equal(reason(unreachable(asked(1000, 53000))), 'no_rule');
      arrive(asked(1000, 53000));
      assert.equal(reason(unreachable(asked(1000, 53000))), 'icmp_error');
      assert.equal(
        reason(unreachable(called(1000, 53000))),
        'no_rule',
        'no socket is looked for in a namespace without number',
      );
    });
    test('segments that begin nothing, and answers to pings, are not noted', () => {
      const incoming = name === 'IPv4' ? { from: TO4, to: LOCAL4 } : { from: TO6, to: LOCAL6 };
      const make = name === 'IPv4' ? ipv4 : ipv6;
      arrive(name === 'IPv4' ? ipv4(incoming, icmp4({ type: 0, id: 7 })) : ipv6(incoming, icmp6({ type: 129, id: 7 })));
      arrive(make(incoming, tcp({ from: 1000, to: 8080 })));
      arrive(make(incoming, tcp({ from: 1000, to: 8080, flags: ['syn', 'ack'] })));
      arrive(tag(asked(1000, 53000), 5));
      assert.equal(programs.object.dump('flows').count, 0);
    });
    test('a note ends after 180 seconds, and is of its namespace and workload', () => {
      arrive(asked(1000, 53000));
      programs.ageFlows(181);
      assert.equal(reason(answer(53000, 1000)), 'no_rule');
      arrive(asked(1000, 53000));
      assert.equal(programs.moveFlows({ netns: 2n }), 1);
      assert.equal(reason(answer(53000, 1000)), 'no_rule');
    });
    for (const [what, pass] of [
      ['what was asked for is no question: an answer to it opens nothing', () => arrive(asked(53, 40000))],
      [
        'as long as either side goes on',
        () => {
          for (let minute = 0; minute < 4; minute += 1) {
            programs.ageFlows(60);
            arrive(asked(53, 40000));
          }
        },
      ],
    ] as const)
      test(what, () => {
        assert.equal(reason(answer(40000, 53)), 'rule');
        pass();
        programs.bind(id(0xc));
        programs.row({ ruleset: id(0xc), flags: ROW_ISOLATED });
        programs.bumpEpoch();
        assert.equal(reason(answer(40000, 53)), 'no_rule');
      });
  });
}

test('the first fragment of a question is one, and the fragments of its answer pass', () => {
  arrive(ipv4({ from: TO4, to: LOCAL4, more: true, id: 1 }, udp({ from: 1000, to: 53000, bytes: 8 })));
  assert.equal(reason(ipv4({ to: TO4, more: true, id: 2 }, udp({ from: 53000, to: 1000, bytes: 8 }))), 'reply');
  assert.equal(reason(ipv4({ to: TO4, offset: 16, id: 2 }, raw(17))), 'fragment');
  assert.equal(reason(ipv4({ to: TO4, offset: 16, id: 3 }, raw(17))), 'fragment_untracked');
  assert.equal(reason(ipv6({ to: TO6 }, fragment({ offset: 8, next: 6 }), raw(6))), 'fragment_tiny');
});

test('the cgroup’s program notes nothing in the namespace that a guard watches, and what it needs elsewhere', () => {
  const own = loadNative().netnsCookie('/proc/self/ns/net');
  const question = ipv4({ from: TO4, to: LOCAL4 }, udp({ from: 1000, to: 53000 }));
  const answer = ipv4({ to: TO4 }, udp({ from: 53000, to: 1000 }));
  programs.bind(RULESET, RULESET, own);
  programs.object.testRun('ingress', question, 1);
  assert.equal(programs.run(answer).reason, 'no_rule');
  programs.bind(RULESET, RULESET, own + 1n);
  programs.object.testRun('ingress', question, 1);
  assert.equal(programs.run(answer).reason, 'reply');
});

test('what the guard notes lets the socket answer, too', () => {
  const own = loadNative().netnsCookie('/proc/self/ns/net');
  programs.guard(LOOPBACK, { netns: own });
  programs.bind(RULESET, RULESET, own);
  arrive(ipv4({ from: TO4, to: LOCAL4 }, udp({ from: 1000, to: 53000 })));
  assert.equal(programs.run(ipv4({ to: TO4 }, udp({ from: 53000, to: 1000 }))).reason, 'reply');
});

describe('a known datagram', () => {
  test('is judged again when the policy changes', () => {
    assert.equal(reason(datagram(LOCAL4, TO4)), 'rule');
    programs.row({ ruleset: id(0xc), flags: ROW_ISOLATED });
    programs.bind(id(0xc));
    assert.equal(reason(datagram(LOCAL4, TO4)), 'rule', 'under the epoch that it was judged under');
    programs.bumpEpoch();
    assert.equal(reason(datagram(LOCAL4, TO4)), 'no_rule');
  });
});

describe('whom it holds', () => {
  const refusable: [string, Buffer][] = [
    ['a source that is none of its own', datagram(OTHER4, TO4)],
    ['a VLAN tag', tag(syn(LOCAL4, TO4), 5)],
    ['no IP', ethernet(0x88cc, Buffer.alloc(46))],
    ["another's ARP", arp({ from: OTHER4, to: TO4 })],
    ['what no rule allows', syn(LOCAL4, TO4, 81)],
    ['what cannot be read', ipv4({ to: TO4, totalLength: 21 }, raw(6, 1))],
  ];
  for (const [what, frame] of refusable) {
    test(`a workload without a policy, nobody: ${what}`, () => {
      programs.bind(NONE);
      assert.equal(reason(frame), 'not_isolated');
    });
    test(`under audit alone nothing is refused, and all of it told: ${what}`, () => {
      programs.bind(NONE, RULESET);
      const outcome = leave(frame);
      assert.deepEqual([outcome.retval, outcome.verdict, outcome.ruleset], [PASSES, 'audit', RULESET]);
      assert.equal(outcome.events.length, 1);
    });
    test(`an unknown workload is let pass, or refused: ${what}`, () => {
      for (const unknown of [() => programs.guard(LOOPBACK, { cgroup: 1n }), () => programs.guard(LOOPBACK, {})]) {
        programs.reset();
        unknown();
        assert.equal(reason(frame), 'unknown_allowed');
        programs.settings({ unknown: UNKNOWN_DENY, hostNetns: loadNative().netnsCookie('/proc/self/ns/net') });
        const arps = frame.readUInt16BE(12) === 0x0806;
        const outcome = leave(frame);
        assert.equal(outcome.retval, arps ? PASSES : REFUSED, outcome.reason);
      }
    });
  }
  test('what a pod that is gone has left behind is refused, ARP too, whatever the unknown may do', () => {
    for (const [what, frame] of [...refusable, ['what a rule allows', syn(LOCAL4, TO4)] as const]) {
      programs.guard(LOOPBACK, { cgroup: 0n });
      assert.equal(reason(frame), 'unknown_workload', what);
    }
    arrive(ipv4({ from: TO4, to: LOCAL4 }, udp({ from: 7, to: 8 })));
    assert.equal(programs.flows().length, 0, 'nobody is there who could answer');
  });
  test('an interface that nobody has named is an unknown workload’s, never the host’s', () => {
    programs.reset();
    programs.row({ ruleset: RULESET, flags: ROW_ISOLATED });
    programs.bind(RULESET);
    assert.equal(reason(syn(LOCAL4, TO4, 81)), 'unknown_allowed');
    programs.settings({ unknown: UNKNOWN_DENY, hostNetns: loadNative().netnsCookie('/proc/self/ns/net') });
    assert.equal(reason(syn(LOCAL4, TO4, 81)), 'unknown_workload');
    assert.equal(reason(arp({ from: LOCAL4, to: TO4 })), 'neighbour_discovery');
  });
});

test('a refusal tells what it was, where', () => {
  const outcome = leave(ipv4({ to: TO4 }, udp({ from: 1000, to: 54 })));
  assert.equal(outcome.slot, SLOT);
  assert.equal(outcome.bytes, 28);
  const [event] = outcome.events;
  assert.deepEqual(
    [
      event?.hook,
      event?.localPort,
      event?.remotePort,
      event?.length,
      event?.protocol,
      event?.netnsCookie,
      event?.cgroup,
    ],
    [HOOK_GUARD, 1000, 54, 28, 17, 1n, programs.cgroup],
  );
  const [spoof] = leave(arp({ from: OTHER4, to: TO4 })).events;
  assert.deepEqual(
    [spoof?.local, spoof?.remote, spoof?.length],
    [packet.addressKey(OTHER4), packet.addressKey(TO4), 28],
  );
});

test('a Drop tells by no refusal that it is one', () => {
  programs.row({ ruleset: id(0xc), flags: ROW_ISOLATED | ROW_SILENT });
  programs.bind(id(0xc));
  assert.equal(leave(syn(LOCAL4, TO4)).retval, REFUSED);
});
