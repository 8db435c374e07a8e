// SPDX-License-Identifier: Apache-2.0
// Which pods have an address that they had not before? Costs what changed: objects that stayed are one and the same.
import type { Pod } from '../model/objects.ts';

/** Pods of `after`, by `namespace/name`, with an address that the pod of that name in `before` does not have. */
export function arrivals(before: readonly Pod[], after: readonly Pod[]): readonly string[] {
  let start = 0;
  const shorter = Math.min(before.length, after.length);
  while (start < shorter && before[start] === after[start]) start += 1;
  let end = 0;
  while (end < shorter - start && before[before.length - 1 - end] === after[after.length - 1 - end]) end += 1;
  const old = new Map(before.slice(start, before.length - end).map((pod) => [nameOf(pod), pod]));
  return after
    .slice(start, after.length - end)
    .filter((pod) => {
      const known = old.get(nameOf(pod));
      return known !== pod && !pod.ended && pod.addresses.some((address) => !known?.addresses.includes(address));
    })
    .map(nameOf);
}

function nameOf({ namespace, name }: Pod): string {
  return `${namespace}/${name}`;
}
