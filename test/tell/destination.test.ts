// SPDX-License-Identifier: Apache-2.0
// What is an address called in a drop line?
import assert from 'node:assert/strict';
import test from 'node:test';
import { addressKey } from '../../src/model/address.ts';
import type { Pod, Snapshot } from '../../src/model/objects.ts';
import { destinations } from '../../src/tell/destination.ts';

const pod = (name: string, addresses: readonly string[], over: Partial<Pod> = {}): Pod => ({
  ...{ namespace: 'shop', name, uid: null, labels: {}, node: null, hostNetwork: false, addresses, ports: [] },
  ...{ ended: false, isStatic: false, cgroup: null },
  ...over,
});

test('addresses are named by Service, node or pod; ended, hostNetwork and contested pods name none', () => {
  const snapshot: Snapshot = {
    namespaces: [],
    nodes: [{ name: 'a', labels: {}, addresses: ['198.18.0.9'], podCidrs: [] }],
    pods: [
      pod('cart', ['198.18.1.1', 'fd00::1']),
      pod('done', ['198.18.1.2'], { ended: true }),
      pod('host', ['198.18.0.9'], { hostNetwork: true }),
      pod('x', ['198.18.1.3']),
      pod('y', ['198.18.1.3']),
    ],
    services: [{ namespace: 'data', name: 'db', clusterIPs: ['198.18.5.1'], ports: [], externalName: null }],
    endpointSlices: [],
    policies: [],
    host: { node: null, addresses: [], resolvers: [] },
  };
  const names = destinations(snapshot);
  const table: [string, string | undefined][] = [
    ['198.18.1.1', 'pod shop/cart'],
    ['fd00:0::1', 'pod shop/cart'],
    ['198.18.1.2', undefined],
    ['198.18.1.3', undefined],
    ['198.18.0.9', 'node a'],
    ['198.18.5.1', 'service data/db'],
  ];
  for (const [address, name] of table) assert.equal(names.get(addressKey(address) ?? ''), name, address);
});
