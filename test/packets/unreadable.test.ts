// SPDX-License-Identifier: Apache-2.0
// What can't be read is refused, each with its own reason; what is merely unusual is read and judged.
// The ruleset here allows everything, so that a refusal can only come from the packet.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { UNKNOWN_DENY } from '#build/generated/abi.ts';
import {
  authentication,
  cut,
  destinationOptions,
  fragment,
  hopByHop,
  icmp4,
  icmp6,
  ipv4,
  ipv6,
  mislabel,
  type Part,
  raw,
  routing,
  sctp,
  tcp,
  udp,
} from './packet.ts';
import { always, id, Programs } from './programs.ts';

const TO4 = '198.18.1.1';
const TO6 = 'fd00::1:1';
const RULESET = id(0xa);

let programs: Programs;
before(() => {
  programs = new Programs();
});
after(() => programs.close());

interface Row {
  readonly what: string;
  readonly packet: Buffer;
  /** `rule` is the reason of what is read: the one rule there is allows it. */
  readonly reason: string;
}

function table(name: string, rows: readonly Row[]): void {
  describe(name, () => {
    for (const { what, packet, reason } of rows) {
      test(what, () => {
        programs.reset();
        programs.row({ ruleset: RULESET, flags: 1, entries: [always({ policy: 0 })] });
        programs.bind(RULESET);
        const outcome = programs.run(packet);
        assert.equal(outcome.reason, reason);
        assert.equal(outcome.retval, reason === 'rule' ? 1 : 0);
        assert.equal(outcome.verdict, reason === 'rule' ? 'allow' : 'deny');
        assert.deepEqual([outcome.packets, outcome.bytes], [1, packet.length - 14]);
        assert.equal(outcome.events.length, reason === 'rule' ? 0 : 1);
      });
    }
  });
}

/** Both families, with the part cut short at each length that its header could end at. */
function truncations(name: string, whole: number, part4: Part, part6: Part): Row[] {
  return Array.from({ length: whole + 1 }, (_, length) => length).flatMap((length) => {
    const reason = length < whole ? 'truncated_header' : 'rule';
    return [
      { what: `${name} of ${length} bytes, IPv4`, packet: ipv4({ to: TO4 }, cut(length, part4)), reason },
      // A test run wants a payload to be there where the header says so.
      { what: `${name} of ${length} bytes, IPv6`, packet: ipv6({ to: TO6 }, cut(length, part6)), reason },
    ];
  });
}

table('truncated headers', [
  ...truncations('TCP', 20, tcp({ to: 80 }), tcp({ to: 80 })),
  ...truncations('UDP', 8, udp({ to: 53 }), udp({ to: 53 })),
  ...truncations('SCTP', 12, sctp({ to: 80 }), sctp({ to: 80 })),
  ...truncations('ICMP', 8, icmp4({ type: 8 }), icmp6({ type: 128 })),
]);

table('lengths that contradict the packet', [
  { what: 'IHL 4', packet: ipv4({ to: TO4, headerWords: 4 }, tcp({ to: 80 })), reason: 'bad_length' },
  { what: 'IHL 0', packet: ipv4({ to: TO4, headerWords: 0 }, tcp({ to: 80 })), reason: 'bad_length' },
  { what: 'IHL beyond the packet', packet: ipv4({ to: TO4, headerWords: 15 }, udp({ to: 53 })), reason: 'bad_length' },
  { what: 'total length under IHL', packet: ipv4({ to: TO4, totalLength: 19 }, tcp({ to: 80 })), reason: 'bad_length' },
  { what: 'total length 0', packet: ipv4({ to: TO4, totalLength: 0 }, tcp({ to: 80 })), reason: 'bad_length' },
  {
    what: 'total length beyond the packet',
    packet: ipv4({ to: TO4, totalLength: 41 }, tcp({ to: 80 })),
    reason: 'bad_length',
  },
  { what: 'bytes behind the datagram', packet: ipv4({ to: TO4, trailer: 6 }, tcp({ to: 80 })), reason: 'rule' },
  {
    what: 'a transport header that only the trailer completes',
    packet: ipv4({ to: TO4, trailer: 6 }, cut(19, tcp({ to: 80 }))),
    reason: 'truncated_header',
  },
  {
    what: 'payload length beyond the packet',
    packet: ipv6({ to: TO6, payloadLength: 21 }, tcp({ to: 80 })),
    reason: 'bad_length',
  },
  {
    what: 'payload length 0 with a payload',
    packet: ipv6({ to: TO6, payloadLength: 0 }, tcp({ to: 80 })),
    reason: 'bad_length',
  },
  { what: 'bytes behind the payload', packet: ipv6({ to: TO6, trailer: 5 }, tcp({ to: 80 })), reason: 'rule' },
  { what: 'no payload, no next header', packet: ipv6({ to: TO6 }), reason: 'rule' },
  {
    what: 'jumbogram without offload',
    packet: ipv6({ to: TO6, payloadLength: 0 }, hopByHop(1, 'c20400010010'), udp({ to: 53 })),
    reason: 'bad_length',
  },
  { what: 'TCP data offset 4', packet: ipv4({ to: TO4 }, tcp({ to: 80, headerWords: 4 })), reason: 'bad_length' },
  { what: 'TCP data offset 0', packet: ipv6({ to: TO6 }, tcp({ to: 80, headerWords: 0 })), reason: 'bad_length' },
  {
    what: 'TCP data offset beyond the packet',
    packet: ipv4({ to: TO4 }, tcp({ to: 80, headerWords: 7, bytes: 7 })),
    reason: 'bad_length',
  },
  { what: 'TCP with options', packet: ipv4({ to: TO4 }, tcp({ to: 80, headerWords: 7, bytes: 8 })), reason: 'rule' },
  { what: 'UDP length 7', packet: ipv4({ to: TO4 }, udp({ to: 53, length: 7 })), reason: 'bad_length' },
  { what: 'UDP length 0', packet: ipv6({ to: TO6 }, udp({ to: 53, length: 0 })), reason: 'bad_length' },
  { what: 'UDP length beyond', packet: ipv6({ to: TO6 }, udp({ to: 53, length: 13, bytes: 4 })), reason: 'bad_length' },
  {
    what: 'UDP length short of the packet',
    packet: ipv4({ to: TO4 }, udp({ to: 53, length: 8, bytes: 4 })),
    reason: 'rule',
  },
]);

table('versions', [
  { what: 'IPv4 with version 5', packet: ipv4({ to: TO4, version: 5 }, tcp({ to: 80 })), reason: 'bad_version' },
  { what: 'IPv6 with version 0', packet: ipv6({ to: TO6, version: 0 }, tcp({ to: 80 })), reason: 'bad_version' },
  {
    what: 'IPv6 under the EtherType of IPv4',
    packet: mislabel(ipv6({ to: TO6 }, tcp({ to: 80 }))),
    reason: 'bad_version',
  },
  {
    what: 'IPv4 under the EtherType of IPv6',
    packet: mislabel(ipv4({ to: TO4 }, tcp({ to: 80, bytes: 20 }))),
    reason: 'bad_version',
  },
]);

table('IPv4 options', [
  { what: 'router alert', packet: ipv4({ to: TO4, options: '94040000' }, tcp({ to: 80 })), reason: 'rule' },
  { what: 'no operations to the end', packet: ipv4({ to: TO4, options: '01010101' }, tcp({ to: 80 })), reason: 'rule' },
  { what: 'all 40 bytes', packet: ipv4({ to: TO4, options: '01'.repeat(40) }, tcp({ to: 80 })), reason: 'rule' },
  {
    what: 'end of options, then anything',
    packet: ipv4({ to: TO4, options: '00830304' }, tcp({ to: 80 })),
    reason: 'rule',
  },
  {
    what: 'loose source route',
    packet: ipv4({ to: TO4, options: '830704c612020100' }, tcp({ to: 80 })),
    reason: 'source_route',
  },
  {
    what: 'strict source route',
    packet: ipv4({ to: TO4, options: '890704c612020100' }, tcp({ to: 80 })),
    reason: 'source_route',
  },
  {
    what: 'source route behind others',
    packet: ipv4({ to: TO4, options: '0194040000830304' }, tcp({ to: 80 })),
    reason: 'source_route',
  },
  {
    what: 'source route in the last bytes',
    packet: ipv4({ to: TO4, options: `${'01'.repeat(37)}830304` }, tcp({ to: 80 })),
    reason: 'source_route',
  },
  { what: 'option of length 0', packet: ipv4({ to: TO4, options: '94000000' }, tcp({ to: 80 })), reason: 'bad_length' },
  { what: 'option of length 1', packet: ipv4({ to: TO4, options: '94010000' }, tcp({ to: 80 })), reason: 'bad_length' },
  {
    what: 'option beyond the header',
    packet: ipv4({ to: TO4, options: '94050000' }, tcp({ to: 80 })),
    reason: 'bad_length',
  },
  {
    what: 'option without its length',
    packet: ipv4({ to: TO4, options: '01010194' }, tcp({ to: 80 })),
    reason: 'bad_length',
  },
  {
    what: 'options, then a cut header',
    packet: ipv4({ to: TO4, options: '01010101' }, cut(19, tcp({ to: 80 }))),
    reason: 'truncated_header',
  },
]);

const many = (count: number) => Array.from({ length: count }, () => destinationOptions());
table('IPv6 extension headers', [
  { what: 'hop-by-hop', packet: ipv6({ to: TO6 }, hopByHop(), tcp({ to: 80 })), reason: 'rule' },
  { what: 'hop-by-hop of 2048 bytes', packet: ipv6({ to: TO6 }, hopByHop(256), tcp({ to: 80 })), reason: 'rule' },
  { what: 'destination options', packet: ipv6({ to: TO6 }, destinationOptions(3), udp({ to: 53 })), reason: 'rule' },
  { what: 'authentication', packet: ipv6({ to: TO6 }, authentication(), tcp({ to: 80 })), reason: 'rule' },
  { what: 'eight of them', packet: ipv6({ to: TO6 }, ...many(8), tcp({ to: 80 })), reason: 'rule' },
  {
    what: 'nine of them',
    packet: ipv6({ to: TO6 }, ...many(9), tcp({ to: 80 })),
    reason: 'too_many_extension_headers',
  },
  { what: 'routing', packet: ipv6({ to: TO6 }, routing(), tcp({ to: 80 })), reason: 'source_route' },
  {
    what: 'routing behind hop-by-hop',
    packet: ipv6({ to: TO6 }, hopByHop(), routing(), tcp({ to: 80 })),
    reason: 'source_route',
  },
  ...[135, 139, 140, 253, 254].map((protocol) => ({
    what: `unknown: ${protocol}`,
    packet: ipv6({ to: TO6 }, raw(protocol, 24)),
    reason: 'unknown_extension_header',
  })),
  {
    what: 'unknown behind a known one',
    packet: ipv6({ to: TO6 }, destinationOptions(), raw(135, 24)),
    reason: 'unknown_extension_header',
  },
  { what: 'no next header behind options', packet: ipv6({ to: TO6 }, destinationOptions()), reason: 'rule' },
  {
    what: 'options that end before their length',
    packet: ipv6({ to: TO6 }, cut(15, destinationOptions(2))),
    reason: 'truncated_header',
  },
  { what: 'options of seven bytes', packet: ipv6({ to: TO6 }, cut(7, hopByHop())), reason: 'truncated_header' },
  {
    what: 'TCP cut behind options',
    packet: ipv6({ to: TO6 }, hopByHop(), cut(19, tcp({ to: 80 }))),
    reason: 'truncated_header',
  },
  {
    what: 'two fragment headers',
    packet: ipv6({ to: TO6 }, fragment({}), fragment({ offset: 64, more: true }), udp({ to: 53 })),
    reason: 'too_many_extension_headers',
  },
  { what: 'ESP has no ports', packet: ipv6({ to: TO6 }, raw(50, 24)), reason: 'rule' },
]);

table('addresses that are not what they seem', [
  {
    what: 'to a v4-mapped address',
    packet: ipv6({ to: '::ffff:c612:101' }, tcp({ to: 80 })),
    reason: 'mapped_address',
  },
  {
    what: 'from a v4-mapped address',
    packet: ipv6({ to: TO6, from: '::ffff:c612:a' }, tcp({ to: 80 })),
    reason: 'mapped_address',
  },
  { what: 'to a v4-compatible address', packet: ipv6({ to: '::c612:101' }, tcp({ to: 80 })), reason: 'rule' },
]);

table('fragments that no datagram can hold', [
  {
    what: 'IPv4 to byte 65535',
    packet: ipv4({ to: TO4, offset: 65504, id: 1 }, raw(47, 11)),
    reason: 'fragment_untracked',
  },
  { what: 'IPv4 to byte 65536', packet: ipv4({ to: TO4, offset: 65504, id: 1 }, raw(47, 12)), reason: 'bad_length' },
  {
    what: 'IPv4 to byte 65536, its options counted',
    packet: ipv4({ to: TO4, offset: 65504, id: 1, options: '01010101' }, raw(47, 8)),
    reason: 'bad_length',
  },
  {
    what: 'IPv6 to byte 65535',
    packet: ipv6({ to: TO6 }, fragment({ offset: 65528, next: 47 }), raw(47, 7)),
    reason: 'fragment_untracked',
  },
  {
    what: 'IPv6 to byte 65536',
    packet: ipv6({ to: TO6 }, fragment({ offset: 65528, next: 47 }), raw(47, 8)),
    reason: 'bad_length',
  },
  {
    what: 'IPv6 to byte 65536, the options before it counted',
    packet: ipv6({ to: TO6 }, hopByHop(), fragment({ offset: 65520, next: 47 }), raw(47, 8)),
    reason: 'bad_length',
  },
  {
    what: 'a later one inside the header of SCTP',
    packet: ipv4({ to: TO4, offset: 8, id: 1 }, raw(132, 8)),
    reason: 'fragment_tiny',
  },
]);

table('odd protocols', [
  ...[0, 2, 4, 41, 47, 50, 51, 58, 89, 103, 136, 255].map((protocol) => ({
    what: `IPv4 protocol ${protocol}`,
    packet: ipv4({ to: TO4 }, raw(protocol, 16)),
    reason: 'rule',
  })),
  ...[1, 2, 4, 41, 47, 89, 136, 255].map((protocol) => ({
    what: `IPv6 protocol ${protocol}`,
    packet: ipv6({ to: TO6 }, raw(protocol, 16)),
    reason: 'rule',
  })),
]);

describe('who has no policy', () => {
  const broken = ipv4({ to: TO4 }, cut(3, tcp({ to: 80 })));

  test('a workload without a ruleset may send what can not be read', () => {
    programs.reset();
    programs.bind(id(0));
    const outcome = programs.run(broken);
    assert.deepEqual([outcome.retval, outcome.reason], [1, 'not_isolated']);
  });

  test('one with a shadow ruleset only is told of it', () => {
    programs.reset();
    programs.row({ ruleset: RULESET, entries: [always({ policy: 0 })] });
    programs.bind(id(0), RULESET);
    const outcome = programs.run(broken);
    assert.deepEqual([outcome.retval, outcome.verdict, outcome.reason], [1, 'audit', 'truncated_header']);
    assert.deepEqual([outcome.ruleset, outcome.events.length], [RULESET, 1]);
  });

  test('unknown workloads pass, unless they must not', () => {
    programs.reset();
    assert.equal(programs.run(broken).reason, 'unknown_allowed');
    programs.settings({ unknown: UNKNOWN_DENY });
    assert.equal(programs.run(broken).reason, 'truncated_header');
    const outcome = programs.run(ipv4({ to: TO4 }, tcp({ to: 80 })));
    assert.deepEqual([outcome.retval, outcome.reason, outcome.slot], [0, 'unknown_workload', 0]);
  });
});
