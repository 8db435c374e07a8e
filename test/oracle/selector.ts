// SPDX-License-Identifier: Apache-2.0
// Does a label selector match labels? By the text of meta/v1 LabelSelector alone.
import type { LabelSelector, Labels } from './kubernetes.ts';

/** "A label selector is a label query over a set of resources. The result of matchLabels and matchExpressions are ANDed. An empty label selector matches all objects." */
export function selects(selector: LabelSelector, labels: Labels): boolean {
  return (
    Object.entries(selector.matchLabels ?? {}).every(([key, value]) => labels[key] === value) &&
    (selector.matchExpressions ?? []).every((e) => meets(e.key, e.operator, e.values ?? [], labels))
  );
}

/** Labels and Selectors, "Set-based requirement": NotIn also selects resources with no such key. */
function meets(key: string, operator: string, values: readonly string[], labels: Labels): boolean {
  const value = Object.hasOwn(labels, key) ? labels[key] : undefined;
  switch (operator) {
    case 'In':
      return value !== undefined && values.includes(value);
    case 'NotIn':
      return value === undefined || !values.includes(value);
    case 'Exists':
      return value !== undefined;
    case 'DoesNotExist':
      return value === undefined;
    default:
      throw new TypeError(`no such operator: ${operator}`);
  }
}
