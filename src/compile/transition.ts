// SPDX-License-Identifier: Apache-2.0
// From what is enforced to what should be, in steps that no packet can fall between. While rulesets are exchanged, old ones must
// answer for new subjects; so subjects first hold what both ask, and shrink when the old rulesets are gone.

import type { Snapshot } from '../model/objects.ts';
import type { Step } from '../model/tables.ts';
import { type Compiled, compile, type Options, portSetsOf, RowMemo, rowsOf } from './compile.ts';
import { covers, union } from './demand.ts';

export interface Transition {
  /** In order. The last step's tables are those of `compiled`. */
  readonly steps: readonly Step[];
  readonly compiled: Compiled;
}

/** `previous` is what the last transition ended in; null where nothing is enforced yet. */
export function transition(previous: Compiled | null, snapshot: Snapshot, options: Options = {}): Transition {
  const after = (earlier: Compiled | null): Options =>
    earlier === null ? options : { ...options, memo: earlier.memo };
  const compiled = compile(snapshot, after(previous));
  if (previous === null || covers(compiled.demand, previous.demand)) {
    return { steps: [step(previous, compiled)], compiled };
  }
  const both = compile(snapshot, { ...after(previous), extraDemand: union(previous.demand, compiled.demand) });
  return { steps: [step(previous, both), step(both, compiled)], compiled };
}

function step(previous: Compiled | null, next: Compiled): Step {
  const old = previous === null ? [] : [...previous.rulesets.values()].filter(({ id }) => !next.rulesets.has(id));
  const rows = rowsOf(old, next.destinations, new RowMemo(next.memo));
  const bridge = new Map([...rows].filter(([key]) => !next.tables.rows.has(key)));
  return { tables: next.tables, bridge, bridgePortSets: portSetsOf(bridge.values()) };
}
