// SPDX-License-Identifier: Apache-2.0
// What is at an address, in the cluster's words? `pod shop/cart`, `service data/postgres`, `node a`; never a guess by name.
import { addressKey } from '../model/address.ts';
import type { Snapshot } from '../model/objects.ts';
import type { AddressKey } from '../model/tables.ts';

/** By address. Of several claims the Service counts, then the node, then the pod; an address that two pods claim is nobody's. */
export function destinations(snapshot: Snapshot): ReadonlyMap<AddressKey, string> {
  const names = new Map<AddressKey, string>();
  const contested = new Set<AddressKey>();
  for (const pod of snapshot.pods) {
    if (pod.ended || pod.hostNetwork) continue;
    for (const address of pod.addresses) {
      const key = addressKey(address);
      if (key === null) continue;
      if (names.has(key)) contested.add(key);
      names.set(key, `pod ${pod.namespace}/${pod.name}`);
    }
  }
  for (const key of contested) names.delete(key);
  for (const node of snapshot.nodes) {
    for (const address of node.addresses) {
      const key = addressKey(address);
      if (key !== null) names.set(key, `node ${node.name}`);
    }
  }
  for (const service of snapshot.services) {
    for (const address of service.clusterIPs) {
      const key = addressKey(address);
      if (key !== null) names.set(key, `service ${service.namespace}/${service.name}`);
    }
  }
  return names;
}
