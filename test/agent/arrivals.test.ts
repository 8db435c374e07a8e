// SPDX-License-Identifier: Apache-2.0
// Which pods got an address?
import assert from 'node:assert/strict';
import test from 'node:test';
import { arrivals } from '../../src/agent/arrivals.ts';
import type { Pod } from '../../src/model/objects.ts';

const pod = (name: string, addresses: readonly string[], ended = false): Pod => ({
  ...{ namespace: 'shop', name, uid: name, labels: {}, node: null, hostNetwork: false, addresses, ports: [] },
  ...{ ended, isStatic: false, cgroup: null },
});

test('pods with an address that they had not', () => {
  const [a, b, c] = [pod('a', ['198.18.0.1']), pod('b', []), pod('c', ['198.18.0.3'])];
  assert.deepEqual(arrivals([a, b, c], [a, b, c]), []);
  assert.deepEqual(arrivals([a, b, c], [a, pod('b', ['198.18.0.2']), c]), ['shop/b']);
  assert.deepEqual(arrivals([a, b, c], [a, pod('b', []), c]), [], 'another object, the same addresses');
  assert.deepEqual(arrivals([a, c], [a, b, c]), [], 'new, without an address');
  assert.deepEqual(arrivals([], [a, b, c]), ['shop/a', 'shop/c']);
  assert.deepEqual(arrivals([a, b, c], [b]), []);
  assert.deepEqual(arrivals([a, c], [c, a]), [], 'only the order changed');
  assert.deepEqual(arrivals([a], [pod('a', ['198.18.0.1', 'fd00::1'])]), ['shop/a'], 'a second family');
  assert.deepEqual(arrivals([b], [pod('b', ['198.18.0.2'], true)]), [], 'ended');
  assert.deepEqual(arrivals([a, a], [a]), []);
});
