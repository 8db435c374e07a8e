// SPDX-License-Identifier: Apache-2.0
// A fragment goes where its first one was let, and nowhere else. The ruleset allows UDP to port 53 and TCP to 80.
import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import { cut, destinationOptions, fragment, icmp4, ipv4, ipv6, type Part, raw, tcp, udp } from './packet.ts';
import { always, id, on, Programs } from './programs.ts';

const TO4 = '198.18.1.1';
const TO6 = 'fd00::1:1';
const RULESET = id(0xa);
const SHADOW = id(0xb);
const ALLOWING = [on(17, 53, 53, { policy: 0 }), on(6, 80, 80, { policy: 1 }), on(1, 1, 1, { policy: 2 })];

let programs: Programs;
before(() => {
  programs = new Programs();
});
after(() => programs.close());
beforeEach(() => {
  programs.reset();
  programs.row({ ruleset: RULESET, flags: 1, entries: ALLOWING });
  programs.bind(RULESET);
});

/** The families' two ways to say the same. */
const FAMILIES = [
  {
    name: 'IPv4',
    make: (fields: { offset?: number; more?: boolean; id?: number; to?: string; from?: string }, part: Part) =>
      ipv4({ to: TO4, from: '198.18.0.10', ...fields }, part),
    other: '198.18.1.2',
  },
  {
    name: 'IPv6',
    make: (fields: { offset?: number; more?: boolean; id?: number; to?: string; from?: string }, part: Part) =>
      ipv6({ to: fields.to ?? TO6, from: fields.from ?? 'fd00::10' }, fragment(fields), part),
    other: 'fd00::1:2',
  },
];

function reasons(...packets: readonly Buffer[]): string[] {
  return packets.map((packet) => programs.run(packet).reason);
}

for (const { name, make, other } of FAMILIES) {
  test(`${name}: first, then later ones in any order, and again`, () => {
    const first = make({ more: true, id: 7 }, udp({ to: 53, bytes: 16, length: 56 }));
    const middle = make({ offset: 24, more: true, id: 7 }, raw(17, 16));
    const last = make({ offset: 40, id: 7 }, raw(17, 16));
    assert.deepEqual(reasons(first, last, middle, last), ['rule', 'fragment', 'fragment', 'fragment']);
  });

  test(`${name}: a later one before the first is refused, and after it passes`, () => {
    const first = make({ more: true, id: 7 }, udp({ to: 53, bytes: 16, length: 40 }));
    const last = make({ offset: 24, id: 7 }, raw(17, 16));
    assert.deepEqual(reasons(last, first, last), ['fragment_untracked', 'rule', 'fragment']);
  });

  test(`${name}: another id, destination, source or protocol is another datagram`, () => {
    const first = make({ more: true, id: 7 }, udp({ to: 53, bytes: 16, length: 40 }));
    assert.deepEqual(
      reasons(
        first,
        make({ offset: 24, id: 8 }, raw(17, 16)),
        make({ offset: 24, id: 7, to: other }, raw(17, 16)),
        make({ offset: 24, id: 7, from: other }, raw(17, 16)),
        make({ offset: 24, id: 7 }, raw(47, 16)),
      ),
      ['rule', 'fragment_untracked', 'fragment_untracked', 'fragment_untracked', 'fragment_untracked'],
    );
  });

  test(`${name}: what follows a refused first one is refused`, () => {
    const first = make({ more: true, id: 7 }, udp({ to: 54, bytes: 16, length: 40 }));
    assert.deepEqual(reasons(first, make({ offset: 24, id: 7 }, raw(17, 16))), ['no_rule', 'fragment_untracked']);
  });

  test(`${name}: tiny first fragments`, () => {
    assert.deepEqual(
      reasons(
        make({ more: true, id: 1 }, cut(16, tcp({ to: 80, flags: ['syn'] }))),
        make({ more: true, id: 2 }, cut(0, udp({ to: 53 }))),
        make({ more: true, id: 3 }, tcp({ to: 80, headerWords: 10, bytes: 12 })),
        make({ more: true, id: 4 }, tcp({ to: 80, bytes: 12 })),
      ),
      ['fragment_tiny', 'fragment_tiny', 'fragment_tiny', 'rule'],
    );
  });

  test(`${name}: later ones that begin inside the transport header`, () => {
    const first = make({ more: true, id: 7 }, tcp({ to: 80, bytes: 12 }));
    assert.deepEqual(
      reasons(
        first,
        make({ offset: 8, id: 7, more: true }, raw(6, 24)),
        make({ offset: 16, id: 7 }, raw(6, 24)),
        make({ offset: 24, id: 7 }, raw(6, 24)),
      ),
      ['rule', 'fragment_tiny', 'fragment_tiny', 'fragment'],
    );
  });

  test(`${name}: lengths that no datagram has`, () => {
    assert.deepEqual(
      reasons(
        make({ more: true, id: 1 }, udp({ to: 53, bytes: 15, length: 40 })),
        make({ offset: 65528, id: 2 }, raw(17, 16)),
        make({ offset: 24, more: true, id: 3 }, raw(17, 12)),
      ),
      ['bad_length', 'bad_length', 'bad_length'],
    );
  });

  test(`${name}: a first fragment of a UDP datagram may be shorter than the length it states`, () => {
    assert.deepEqual(reasons(make({ more: true, id: 1 }, udp({ to: 53, bytes: 8, length: 4000 }))), ['rule']);
  });

  test(`${name}: a policy's end ends what follows`, () => {
    const first = make({ more: true, id: 7 }, udp({ to: 53, bytes: 16, length: 40 }));
    assert.deepEqual(reasons(first), ['rule']);
    programs.bind(id(0));
    assert.deepEqual(reasons(make({ offset: 24, id: 9 }, raw(17, 16))), ['not_isolated']);
  });

  test(`${name}: would-be refusals are told for the whole datagram`, () => {
    programs.row({ ruleset: SHADOW, flags: 1, entries: [] });
    programs.bind(RULESET, SHADOW);
    const first = programs.run(make({ more: true, id: 7 }, udp({ to: 53, bytes: 16, length: 40 })));
    assert.deepEqual([first.retval, first.verdict, first.reason, first.events.length], [1, 'audit', 'no_rule', 1]);
    const later = programs.run(make({ offset: 24, id: 7 }, raw(17, 16)));
    assert.deepEqual([later.retval, later.verdict, later.reason, later.events.length], [1, 'audit', 'no_rule', 0]);
  });
}

test('IPv6: an atomic fragment is a whole packet', () => {
  assert.deepEqual(
    reasons(
      ipv6({ to: TO6 }, fragment({ id: 1 }), udp({ to: 53 })),
      ipv6({ to: TO6 }, fragment({ id: 1 }), udp({ to: 54 })),
      ipv6({ to: TO6 }, fragment({ id: 1 }), cut(7, udp({ to: 53 }))),
      ipv6({ to: TO6 }, fragment({ id: 1, offset: 24, next: 17 }), raw(17, 16)),
    ),
    ['rule', 'no_rule', 'truncated_header', 'fragment_untracked'],
  );
});

test('IPv6: extension headers inside the fragmented part are part of what may not be rewritten', () => {
  const first = ipv6(
    { to: TO6 },
    fragment({ more: true, id: 7 }),
    destinationOptions(4),
    udp({ to: 53, bytes: 16, length: 56 }),
  );
  const at = (offset: number) => ipv6({ to: TO6 }, fragment({ offset, id: 7, next: 60 }), raw(60, 16));
  assert.deepEqual(reasons(first, at(16), at(32), at(40)), ['rule', 'fragment_tiny', 'fragment_tiny', 'fragment']);
});

test('IPv6: a chain that the first fragment does not finish', () => {
  assert.deepEqual(reasons(ipv6({ to: TO6 }, fragment({ more: true, id: 7 }), cut(16, destinationOptions(4)))), [
    'fragment_tiny',
  ]);
});

test('an ICMP echo in fragments', () => {
  const first = ipv4({ to: TO4, more: true, id: 7 }, icmp4({ type: 8, payload: Buffer.alloc(16) }));
  assert.deepEqual(reasons(first, ipv4({ to: TO4, offset: 24, id: 7 }, raw(1, 16))), ['rule', 'fragment']);
});

test('a protocol without ports in fragments', () => {
  programs.row({ ruleset: RULESET, flags: 1, entries: [always({ policy: 0 })] });
  const first = ipv4({ to: TO4, more: true, id: 7 }, raw(47, 16));
  assert.deepEqual(reasons(first, ipv4({ to: TO4, offset: 16, id: 7 }, raw(47, 16))), ['rule', 'fragment']);
});
