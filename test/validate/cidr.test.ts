// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readCidr } from '../../src/validate/cidr.ts';

test('the canonical form of a CIDR, or none', () => {
  const table: [string, string | null, boolean?][] = [
    ['10.0.0.0/8', '10.0.0.0/8'],
    ['10.255.0.1/8', '10.0.0.0/8', true],
    ['0.0.0.0/0', '0.0.0.0/0'],
    ['1.2.3.4/0', '0.0.0.0/0', true],
    ['192.0.2.1/32', '192.0.2.1/32'],
    ['2001:DB8:0::/32', '2001:db8::/32'],
    ['2001:db8::1/64', '2001:db8::/64', true],
    ['::/0', '::/0'],
    ['::1/128', '::1/128'],
    ['::/96', '::/96'],
    ['64:ff9b::1.2.3.4/128', '64:ff9b::102:304/128'],
    ['::ffff:10.0.0.0/104', null],
    ['::ffff:0:0/96', null],
    ['10.0.0.0', null],
    ['10.0.0.0/', null],
    ['10.0.0.0/33', null],
    ['10.0.0.0/08', null],
    ['10.0.0.0/-1', null],
    ['10.0.0.0/8 ', null],
    ['10.0.0/8', null],
    ['010.0.0.0/8', null],
    ['10.0.0.0/255.0.0.0', null],
    ['2001:db8::/129', null],
    ['fe80::1%eth0/64', null],
    ['example.com/8', null],
    ['', null],
    ['/8', null],
  ];
  for (const [text, cidr, masked = false] of table) {
    const read = readCidr(text);
    assert.equal(read?.cidr ?? null, cidr, text);
    if (read) assert.equal(read.masked, masked, text);
  }
});
