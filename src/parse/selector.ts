// SPDX-License-Identifier: Apache-2.0
// A validated LabelSelector in the model's shape. Absent or null selects what an empty one does: all.
import type { Requirement, Selector } from '../model/objects.ts';

/** meta/v1 LabelSelector, as far as decoded JSON may be trusted after validation. */
export interface LabelSelector {
  readonly matchLabels?: Readonly<Record<string, string>> | null;
  readonly matchExpressions?:
    | readonly { readonly key: string; readonly operator: string; readonly values?: readonly string[] | null }[]
    | null;
}

export const EVERYTHING: Selector = Object.freeze({ matchLabels: {}, matchExpressions: [] });

export function parseSelector(selector: LabelSelector | null | undefined): Selector {
  return {
    matchLabels: { ...selector?.matchLabels },
    matchExpressions: (selector?.matchExpressions ?? []).map(({ key, operator, values }) => ({
      key,
      operator: operator as Requirement['operator'],
      values: [...(values ?? [])],
    })),
  };
}
