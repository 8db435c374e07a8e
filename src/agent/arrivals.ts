// SPDX-License-Identifier: Apache-2.0
// Which pods have an address that they had not before? Costs what changed: objects that stayed are one and the same.
import { changeBetween, type List } from '../model/list-change.ts';
import type { Pod } from '../model/objects.ts';

/** Pods of `after`, by `namespace/name`, with an address that the pod of that name in `before` does not have. */
export function arrivals(before: List<Pod>, after: List<Pod>): readonly string[] {
  const { gone, come } = changeBetween(before, after);
  const old = new Map(gone.map((pod) => [nameOf(pod), pod]));
  return come
    .filter((pod) => {
      const known = old.get(nameOf(pod));
      return known !== pod && !pod.ended && pod.addresses.some((address) => !known?.addresses.includes(address));
    })
    .map(nameOf);
}

function nameOf({ namespace, name }: Pod): string {
  return `${namespace}/${name}`;
}
