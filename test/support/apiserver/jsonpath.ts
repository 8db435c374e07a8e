// SPDX-License-Identifier: Apache-2.0
// Which values does a printer column's jsonPath name? The part of client-go's JSONPath that CRDs use.
import { isObject, type Json, same } from './json.ts';

const STEP =
  /\.?\[\?\(@\.([\w.]+)\s*==\s*(?:"([^"]*)"|'([^']*)'|(\S+?))\s*\)\]|\.?\[\*\]|\.?\[(\d+)\]|\.?\['([^']+)'\]|\.((?:\\.|[\w-])+)/y;

/** `.status.conditions[?(@.type=="Ready")].status`; null where the path cannot be read. */
export function jsonPath(path: string): ((value: Json) => Json[]) | null {
  const steps: ((values: readonly Json[]) => Json[])[] = [];
  STEP.lastIndex = 0;
  let end = 0;
  for (let match = STEP.exec(path); match !== null; match = STEP.exec(path)) {
    end = STEP.lastIndex;
    const [, filterPath, double, single, bare, index, quoted, field] = match;
    if (filterPath !== undefined) {
      const keys = filterPath.split('.');
      const wanted = double ?? single ?? bare ?? '';
      steps.push((values) =>
        values.flatMap((value) =>
          Array.isArray(value)
            ? value.filter((item) => {
                const found = keys.reduce<Json | undefined>(
                  (here, key) => (isObject(here) ? here[key] : undefined),
                  item,
                );
                return same(found, wanted) || String(found) === wanted;
              })
            : [],
        ),
      );
    } else if (index !== undefined) {
      steps.push((values) =>
        values.flatMap((value) => (Array.isArray(value) ? value.slice(Number(index)).slice(0, 1) : [])),
      );
    } else if (quoted !== undefined || field !== undefined) {
      const key = quoted ?? (field ?? '').replaceAll('\\.', '.');
      steps.push((values) => values.flatMap((value) => (isObject(value) && key in value ? [value[key] ?? null] : [])));
    } else steps.push((values) => values.flatMap((value) => (Array.isArray(value) ? value : [])));
  }
  if (end !== path.length) return null;
  return (value) => steps.reduce((values, next) => next(values), [value]);
}
