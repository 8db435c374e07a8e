// SPDX-License-Identifier: Apache-2.0
// How are many workloads or policies named in one line of the log?
import { workloadName } from '../tell/workload.ts';

const MAX_NAMES = 20;

/** As users see them; of many, the first, and how many more there are. */
export function names(all: readonly string[]): readonly string[] {
  const told = all.slice(0, MAX_NAMES).map(workloadName);
  return all.length <= MAX_NAMES ? told : [...told, `and ${all.length - MAX_NAMES} more`];
}
