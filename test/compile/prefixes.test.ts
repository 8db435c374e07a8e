// SPDX-License-Identifier: Apache-2.0
// A trie's class at an address is the set of blocks that cover it, asked one by one; families don't mix.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { NO_BLOCKS, trie } from '../../src/compile/prefixes.ts';
import { block } from '../../src/compile/ruleset.ts';
import { addressKey, addressText, contains, isIPv4, mask, type Prefix, prefix } from '../../src/model/address.ts';

const key = (text: string): string => addressKey(text) ?? assert.fail(text);
const parsed = (cidr: string): Prefix => prefix(cidr) ?? assert.fail(cidr);

// Few bits differ, so that prefixes nest often.
const v4 = fc
  .tuple(
    fc.constantFrom(10, 11),
    fc.integer({ min: 0, max: 3 }),
    fc.constantFrom(0, 128, 255),
    fc.integer({ min: 0, max: 3 }),
  )
  .map((parts) => parts.join('.'));
const v6 = fc
  .tuple(fc.constantFrom('fd00', '::', '2001:db8'), fc.integer({ min: 0, max: 3 }))
  .map(([head, tail]) => (head === '::' ? `::${tail}` : `${head}::${tail}`));
const cidr = fc.oneof(
  fc
    .tuple(v4, fc.constantFrom(0, 1, 7, 8, 15, 16, 17, 23, 24, 25, 31, 32))
    .map(([address, bits]) => `${address}/${bits}`),
  fc.tuple(v6, fc.constantFrom(0, 1, 16, 64, 79, 96, 126, 127, 128)).map(([address, bits]) => `${address}/${bits}`),
);
const blocks = fc.array(fc.tuple(fc.array(cidr, { minLength: 1, maxLength: 4 }), fc.array(cidr, { maxLength: 3 })), {
  maxLength: 8,
});

function within(cidrText: string, address: string): boolean {
  const v4Cidr = cidrText.includes('.');
  return v4Cidr === isIPv4(address) && contains(parsed(cidrText), address);
}

test('the class of an address is the set of blocks that cover it', () => {
  fc.assert(
    fc.property(blocks, fc.array(fc.oneof(v4, v6), { minLength: 1, maxLength: 12 }), (pairs, addresses) => {
      const all = pairs.map(([cidrs, except]) => block(cidrs, except));
      const { lookUp } = trie(all);
      for (const address of addresses.map(key)) {
        const covering = new Set(
          all
            .filter(
              ({ cidrs, except }) => cidrs.some((c) => within(c, address)) && !except.some((c) => within(c, address)),
            )
            .map(({ id }) => id),
        );
        assert.deepEqual(lookUp(address).blocks, covering, addressText(address));
      }
    }),
    { numRuns: 2000 },
  );
});

test('IPv6 everything leaves IPv4 alone, and the other way round', () => {
  const { lookUp, prefixes } = trie([block(['::/0'], [])]);
  assert.equal(lookUp(key('10.0.0.1')), NO_BLOCKS);
  assert.equal(lookUp(key('fd00::1')).blocks.size, 1);
  assert.ok(prefixes.has('00000000000000000000ffff00000000/96'), 'the barrier is always there');
  assert.equal(trie([block(['0.0.0.0/0'], [])]).lookUp(key('fd00::1')), NO_BLOCKS);
});

test('nothing asked, nothing held', () => {
  assert.equal(trie([]).prefixes.size, 0);
});

test('addresses are read as the kernel holds them, or not at all', () => {
  assert.equal(key('198.18.0.1'), '00000000000000000000ffffc6120001');
  assert.equal(key('fd00::1'), 'fd000000000000000000000000000001');
  for (const bad of ['', '1.2.3', '1.2.3.256', '01.2.3.4', 'fe80::1%eth0', 'fd00::1::2', 'example.com', '1.2.3.4/8']) {
    assert.equal(addressKey(bad), null, bad);
  }
  assert.equal(addressText(key('2001:DB8:0:0:1:0:0:1')), '2001:db8::1:0:0:1');
});

test('host bits are masked', () => {
  assert.deepEqual(prefix('10.1.2.3/9'), { key: '00000000000000000000ffff0a000000', bits: 105 });
  assert.deepEqual(prefix('fd00::ff/125'), { key: `${'fd00'.padEnd(30, '0')}f8`, bits: 125 });
  assert.equal(mask('f'.repeat(32), 5), 'f8'.padEnd(32, '0'));
  for (const bad of ['10.0.0.0', '10.0.0.0/33', 'fd00::/129', '10.0.0.0/', '10.0.0.0/-1'])
    assert.equal(prefix(bad), null, bad);
});
