// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import * as abi from '#build/generated/abi.ts';
import {
  decodeEntries,
  encodeEntries,
  encodeKeys,
  GUARDS,
  IDENTITIES,
  type MapCodec,
  NETWORKS,
  PORTS,
  SELVES,
  SOURCES,
  VERDICTS,
  WORKLOADS,
} from '#src/kernel/encode.ts';
import { NO_ID } from '#src/model/tables.ts';
import { address, entry, id, row, SILENT } from './fixture.ts';

const hex = (bytes: number) =>
  fc.uint8Array({ minLength: bytes, maxLength: bytes }).map((array) => Buffer.from(array).toString('hex'));
const struct = <T>(model: { [K in keyof T]: fc.Arbitrary<T[K]> }) => fc.record(model, { noNullPrototype: true });
const u = (bits: number) => fc.integer({ min: 0, max: 2 ** bits - 1 });
const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const answer = struct({ admin: u(16), policy: u(16), baseline: u(16), limits: u(8), final: u(8) });
const rowEntry = struct({ protocol: u(8), first: u(16), last: u(16), answer });
const KIND = hex(4);

function roundTrips<K, V>(codec: MapCodec<K, V>, key: fc.Arbitrary<K>, value: fc.Arbitrary<V>): void {
  test(`${codec.map} comes back as it went`, () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(key, value), { maxLength: 5 }), (entries) => {
        const unique = [...new Map(entries)];
        assert.deepEqual([...decodeEntries(codec, encodeEntries(codec, unique))], unique);
      }),
      { seed: 2 },
    );
  });
}

roundTrips(WORKLOADS, u64, struct({ slot: u(32), enforced: hex(8), shadow: hex(8), netns: u64 }));
roundTrips(
  GUARDS,
  u(32),
  struct({
    cgroup: u64,
    netns: u64,
    nsid: fc.integer({ min: -1, max: 2 ** 31 - 1 }),
    flags: u(32),
    hardwareAddress: hex(6),
  }),
);
roundTrips(IDENTITIES, hex(16), struct({ id: hex(8), network: hex(8), kind: u(32) }));
roundTrips(
  NETWORKS,
  fc
    .tuple(fc.constantFrom(0 as const, 1 as const), hex(16), fc.integer({ min: 0, max: 128 }))
    .map(([space, at, bits]): `${0 | 1}/${string}/${number}` => `${space}/${at}/${bits}`),
  hex(8),
);
roundTrips(
  VERDICTS,
  fc
    .tuple(hex(8), hex(8), KIND)
    .map(([ruleset, subject, kind]): `${string}/${string}/${string}` => `${ruleset}/${subject}/${kind}`),
  struct({
    flags: u(3),
    limits: u(8),
    limitsSilent: u(8),
    portSet: fc.constant(NO_ID),
    entries: fc.array(rowEntry, { maxLength: 6 }),
  }),
);
roundTrips(
  PORTS,
  fc
    .tuple(hex(8), u(8), u(16), fc.integer({ min: 0, max: 32 }))
    .map(
      ([set, protocol, port, length]): `${string}/${number}/${number}/${number}` =>
        `${set}/${protocol}/${port}/${length}`,
    ),
  answer,
);
roundTrips(
  SELVES,
  fc.tuple(u(32), hex(16)).map(([slot, at]): `${number}/${string}` => `${slot}/${at}`),
  fc.constant(true as const),
);

roundTrips(
  SOURCES,
  fc.tuple(u(32), hex(16)).map(([ifindex, at]): `${number}/${string}` => `${ifindex}/${at}`),
  fc.constant(true as const),
);

const layouts: readonly { readonly what: string; readonly bytes: Buffer; readonly expected: string }[] = [
  { what: 'a cgroup id is little-endian', bytes: encodeKeys(WORKLOADS, [0x1234n]), expected: '3412000000000000' },
  {
    what: 'an id is its digits, byte for byte',
    bytes: encodeEntries(IDENTITIES, [[address(1), { id: '0123456789abcdef', network: NO_ID, kind: 1 }]]).values,
    expected: '0123456789abcdef' + '0000000000000000' + '01000000' + '00000000',
  },
  {
    what: 'a port key is a prefix of set, protocol, port; port in network order',
    bytes: encodeKeys(PORTS, ['0123456789abcdef/6/443/32']),
    expected: '60000000' + '0123456789abcdef' + '06' + '00' + '01bb',
  },
  {
    what: 'a network key counts the space in its length',
    bytes: encodeKeys(NETWORKS, [`1/${address(0)}/120`]),
    expected: `98000000${'01000000'}${address(0)}`,
  },
  {
    what: 'a self key',
    bytes: encodeKeys(SELVES, [`258/${address(7)}`]),
    expected: `02010000${'00000000'}${address(7)}`,
  },
  {
    what: 'a verdict key',
    bytes: encodeKeys(VERDICTS, [`${id('a')}/${id('b')}/0000000c`]),
    expected: `${id('a')}${id('b')}0c00000000000000`,
  },
];
for (const { what, bytes, expected } of layouts) {
  test(what, () => {
    assert.equal(bytes.toString('hex'), expected);
  });
}

test('a row with a port set keeps no entries of its own, and says so', () => {
  const entries = Array.from({ length: 7 }, (_, index) => entry(6, index));
  const crowded = row(id('a'), id('b'), { entries, portSet: id('c') });
  const [stored] = decodeEntries(
    VERDICTS,
    encodeEntries(VERDICTS, [[`${id('a')}/${id('b')}/00000000`, crowded]]),
  ).values();
  assert.deepEqual(stored, { flags: abi.ROW_PORT_SET, limits: 0, limitsSilent: 0, portSet: id('c'), entries: [] });
  const lost = { ...crowded, portSet: NO_ID };
  assert.throws(() => encodeEntries(VERDICTS, [[`${id('a')}/${id('b')}/00000000`, lost]]), RangeError);
});

test('what does not fit is refused, never cut', () => {
  assert.throws(() => encodeKeys(IDENTITIES, ['c612']), RangeError);
  assert.throws(() => encodeKeys(IDENTITIES, [`${address(1).slice(2)}zz`]), RangeError);
  assert.throws(() => encodeKeys(PORTS, [`${id('a')}/256/1/32`]), RangeError);
  assert.throws(() => encodeKeys(PORTS, [`${id('a')}/6/65536/32`]), RangeError);
  assert.throws(() => encodeKeys(SELVES, [`1/2/${address(1)}` as `${number}/${string}`]), RangeError);
  assert.throws(() => abi.encodeAnswer({ ...SILENT, policy: 0x10000 }, Buffer.alloc(abi.ANSWER_BYTES)), RangeError);
  assert.throws(() => abi.encodeAnswer(SILENT, Buffer.alloc(abi.ANSWER_BYTES - 1)), RangeError);
  assert.throws(() => decodeEntries(SELVES, { keys: Buffer.alloc(23), values: Buffer.alloc(1), count: 1 }), RangeError);
});
