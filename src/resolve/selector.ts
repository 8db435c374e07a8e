// SPDX-License-Identifier: Apache-2.0
// Does a label selector match? The rule is apimachinery's `LabelSelectorAsSelector` (meta/v1): all requirements hold.

import type { Requirement, Selector } from '../model/objects.ts';

export const EVERYTHING: Selector = Object.freeze({ matchLabels: {}, matchExpressions: [] });

type Labels = Readonly<Record<string, string>>;

export function matches(selector: Selector, labels: Labels): boolean {
  for (const key in selector.matchLabels) {
    if (!Object.hasOwn(labels, key) || labels[key] !== selector.matchLabels[key]) return false;
  }
  return selector.matchExpressions.every((requirement) => holds(requirement, labels));
}

function holds({ key, operator, values }: Requirement, labels: Labels): boolean {
  const value = Object.hasOwn(labels, key) ? labels[key] : undefined;
  switch (operator) {
    case 'In':
      return value !== undefined && values.includes(value);
    case 'NotIn': // also where the label is absent
      return value === undefined || !values.includes(value);
    case 'Exists':
      return value !== undefined;
    case 'DoesNotExist':
      return value === undefined;
  }
}

/** The label keys whose values a selector looks at. */
export function keysOf(selector: Selector): string[] {
  return [...Object.keys(selector.matchLabels), ...selector.matchExpressions.map(({ key }) => key)];
}

/** Labels cut to `keys`, in the order of `keys`: what of a pod's labels can make a difference. */
export function project(labels: Labels, keys: readonly string[]): Record<string, string> {
  const projected: Record<string, string> = {};
  for (const key of keys) {
    if (Object.hasOwn(labels, key)) projected[key] = labels[key] as string;
  }
  return projected;
}
