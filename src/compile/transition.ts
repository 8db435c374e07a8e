// SPDX-License-Identifier: Apache-2.0
// From what is enforced to what should be, in steps that no packet can fall between. While rulesets are exchanged, old ones must
// answer for new subjects; so subjects first hold what both ask, and shrink when the old rulesets are gone.

import type { Snapshot } from '../model/objects.ts';
import type { Step } from '../model/tables.ts';
import { type Compiled, compile, type Options, portSetsOf } from './compile.ts';
import { covers, union } from './demand.ts';
import { rowTable } from './row-table.ts';
import type { Ruleset } from './ruleset.ts';

export interface Transition {
  /** In order. The last step's tables are those of `compiled`. */
  readonly steps: readonly Step[];
  readonly compiled: Compiled;
}

/** `previous` is what the last transition ended in; null where nothing is enforced yet. */
export function transition(previous: Compiled | null, snapshot: Snapshot, options: Options = {}): Transition {
  if (previous === null) {
    const compiled = compile(snapshot, options);
    return { steps: [step([], compiled)], compiled };
  }
  const compiled = compile(snapshot, { ...options, state: previous.state });
  const old = [...previous.rulesets.values()].filter(({ id }) => !compiled.rulesets.has(id));
  if (covers(compiled.demand, previous.demand) && reachesAll(old, compiled)) {
    return { steps: [step(old, compiled)], compiled };
  }
  const both = compile(snapshot, {
    ...options,
    extraDemand: union(previous.demand, compiled.demand),
    extraRulesets: old,
    state: { cache: compiled.state.cache, tracker: null },
  });
  return { steps: [step(old, both), step([], compiled)], compiled };
}

/** Does the kernel hold all that these rulesets have something to say of? */
function reachesAll(old: readonly Ruleset[], { state, destinations, rulesets }: Compiled): boolean {
  // Where nobody is held any more, no destination was looked at.
  if (rulesets.size === 0) return old.length === 0;
  const reached = state.identities?.reached ?? new Set();
  return old.every((ruleset) =>
    [...destinations.identities.values()].every(
      (identity) => reached.has(identity.id) || state.cache.identity(ruleset, identity) === null,
    ),
  );
}

/** `old` are rulesets that packets may still be judged by while the step is taken. */
function step(old: readonly Ruleset[], next: Compiled): Step {
  const { rows } = rowTable(old, next, next.state.cache);
  const bridge = new Map([...rows].filter(([key]) => !next.tables.rows.has(key)));
  return { tables: next.tables, bridge, bridgePortSets: portSetsOf(bridge.values()) };
}
