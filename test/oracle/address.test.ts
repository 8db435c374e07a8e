// SPDX-License-Identifier: Apache-2.0
// Is the oracle's arithmetic on addresses right, at the edges above all?
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { compareMapped, coversText, format, last, move, parseAddress, parseCidr } from './address.ts';

function address(text: string) {
  const parsed = parseAddress(text);
  assert.ok(parsed, text);
  return parsed;
}

test('addresses are read and written', () => {
  for (const [text, canonical] of [
    ['0.0.0.0', '0.0.0.0'],
    ['255.255.255.255', '255.255.255.255'],
    ['::', '::'],
    ['::1', '::1'],
    ['FD00:0:0:1::', 'fd00:0:0:1::'],
    ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['64:ff9b::10.0.0.1', '64:ff9b::a00:1'],
    ['1:2:3:4:5:6:7:8', '1:2:3:4:5:6:7:8'],
    ['ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'],
    ['100::', '100::'],
    ['0:1::', '0:1::'],
  ] as const) {
    assert.equal(format(address(text)), canonical);
    assert.deepEqual(parseAddress(canonical), parseAddress(text));
  }
});

test('what is no address is null', () => {
  for (const text of [
    '',
    '1.2.3',
    '1.2.3.256',
    '01.2.3.4',
    '1.2.3.4.5',
    ':',
    ':::',
    '1::2::3',
    '1:2:3',
    'fe80::1%eth0',
  ]) {
    assert.equal(parseAddress(text), null, text);
  }
  for (const text of ['1.2.3.4', '1.2.3.4/33', '::/129', '::/', '1.2.3.4/8/8', '1.2.3.4/08']) {
    assert.equal(parseCidr(text), null, text);
  }
});

test('a CIDR covers its edges, nothing beyond, nothing of the other family', () => {
  for (const [cidr, first, end] of [
    ['10.0.0.0/8', '10.0.0.0', '10.255.255.255'],
    ['10.1.2.3/8', '10.0.0.0', '10.255.255.255'],
    ['192.0.2.7/32', '192.0.2.7', '192.0.2.7'],
    ['fd00::/8', 'fd00::', 'fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'],
    ['2001:db8::/33', '2001:db8::', '2001:db8:7fff:ffff:ffff:ffff:ffff:ffff'],
  ] as const) {
    const parsed = parseCidr(cidr);
    assert.ok(parsed);
    assert.equal(format(parsed.first), first);
    assert.equal(format(last(parsed)), end);
    for (const [inside, step] of [
      [first, -1n],
      [end, 1n],
    ] as const) {
      assert.ok(coversText(cidr, address(inside)));
      const beyond = move(address(inside), step);
      assert.ok(beyond === null || !coversText(cidr, beyond));
    }
  }
  assert.ok(!coversText('::/0', address('1.2.3.4')));
  assert.ok(!coversText('0.0.0.0/0', address('::')));
  assert.equal(move(address('0.0.0.0'), -1n), null);
  assert.equal(move(address('255.255.255.255'), 1n), null);
});

test('IPv4 sorts where ::ffff:0:0/96 is', () => {
  const sorted = ['2001:db8::1', '10.0.0.2', '::1', '9.255.0.0'].map(address).sort(compareMapped).map(format);
  assert.deepEqual(sorted, ['::1', '9.255.0.0', '10.0.0.2', '2001:db8::1']);
});
