// SPDX-License-Identifier: Apache-2.0
// Names and labels by the rules of k8s.io/apimachinery/pkg/util/validation; the cases are those rules' edges.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isDns1123Label, isDns1123Subdomain, isLabelKey, isLabelValue } from '../../src/validate/metadata.ts';
import { isPortName, isPortNumber } from '../../src/validate/network-policy.ts';

const each = (rule: (text: string) => boolean, right: string[], wrong: string[]) => {
  for (const text of right) assert.ok(rule(text), text);
  for (const text of wrong) assert.ok(!rule(text), text);
};
const long = (length: number) => 'a'.repeat(length);

test('DNS-1123 labels', () => {
  each(isDns1123Label, ['a', '0', 'a-b', 'a0', long(63)], ['', '-a', 'a-', 'A', 'a.b', 'a_b', 'a b', 'é', long(64)]);
});

test('DNS-1123 subdomains', () => {
  const most = `${long(63)}.${long(63)}.${long(63)}.${long(61)}`;
  each(
    isDns1123Subdomain,
    ['a', 'a.b', '0.0', 'a-b.c', most],
    ['', '.', 'a.', '.a', 'a..b', 'a.-b', 'A.b', `${most}a`],
  );
});

test('label keys', () => {
  each(
    isLabelKey,
    ['a', 'A.b_c-d', '0', 'example.com/a', `${long(63)}`, `a/${long(63)}`],
    ['', '/', 'a/', '/a', 'a/b/c', '-a', 'a-', 'a b', 'Example.com/a', long(64), `a/${long(64)}`, 'a\n'],
  );
});

test('label values', () => {
  each(isLabelValue, ['', 'a', 'A.b_c-d', long(63)], ['-a', 'a-', 'a b', 'a/b', long(64), '.', '_']);
});

test('ports and their names', () => {
  each(
    isPortName,
    ['a', 'http', 'a-b', '0a', 'a23456789012345'],
    ['', '80', 'A', 'a--b', '-a', 'a-', 'a_b', 'a234567890123456'],
  );
  assert.deepEqual([0, 1, 65535, 65536].map(isPortNumber), [false, true, true, false]);
});
