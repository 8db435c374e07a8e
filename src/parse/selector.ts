// SPDX-License-Identifier: Apache-2.0
// A validated LabelSelector in the model's shape. Absent or null selects what an empty one does: all.
import type { Requirement, Selector } from '../model/objects.ts';

/** meta/v1 LabelSelector, as far as decoded JSON may be trusted after validation. */
export interface LabelSelector {
  readonly matchLabels?: Readonly<Record<string, string | null>> | null;
  readonly matchExpressions?:
    | readonly {
        readonly key: string;
        readonly operator: string;
        readonly values?: readonly (string | null)[] | null;
      }[]
    | null;
}

export function parseSelector(selector: LabelSelector | null | undefined): Selector {
  return {
    // null is what Go decodes to the empty string.
    matchLabels: Object.fromEntries(
      Object.entries(selector?.matchLabels ?? {}).map(([key, value]) => [key, value ?? '']),
    ),
    matchExpressions: (selector?.matchExpressions ?? []).map(({ key, operator, values }) => ({
      key,
      operator: operator as Requirement['operator'],
      values: (values ?? []).map((value) => value ?? ''),
    })),
  };
}
