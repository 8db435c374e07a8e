// SPDX-License-Identifier: Apache-2.0
// Which pods have an address that they had not before? Costs what changed: objects that stayed are one and the same.
import type { Pod } from '../model/objects.ts';

/** Pods of `after`, by `namespace/name`, with an address that the pod of that name in `before` does not have. */
export function arrivals(before: readonly Pod[], after: readonly Pod[]): readonly string[] {
  const isInPlace = before.length === after.length;
  const gone = isInPlace ? before.filter((pod, index) => pod !== after[index]) : before.filter(not(new Set(after)));
  const come = isInPlace ? after.filter((pod, index) => pod !== before[index]) : after.filter(not(new Set(before)));
  const old = new Map(gone.map((pod) => [nameOf(pod), pod]));
  return come
    .filter((pod) => {
      const known = old.get(nameOf(pod));
      return known !== pod && !pod.ended && pod.addresses.some((address) => !known?.addresses.includes(address));
    })
    .map(nameOf);
}

function not(pods: ReadonlySet<Pod>): (pod: Pod) => boolean {
  return (pod) => !pods.has(pod);
}

function nameOf({ namespace, name }: Pod): string {
  return `${namespace}/${name}`;
}
