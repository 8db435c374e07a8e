// SPDX-License-Identifier: Apache-2.0
// Which systemd units of this node do policies hold, and which policies hold each? Knows no cgroup: whether a unit runs here is
// not asked.

import type { Policy, Selector, Snapshot } from '../model/objects.ts';
import { byTold } from './order.ts';
import type { Selection } from './selection.ts';
import { matches } from './selector.ts';

/**
 * The name of a unit among workloads, whose keys are `namespace/name`: its namespace is empty, so that no author of pods, not
 * even in a namespace called `node`, can take its place.
 */
export function unitKey(unit: string): string {
  return `/${unit}`;
}

/** The unit behind such a key, or null where it is a pod's. */
export function unitOf(key: string): string | null {
  return key.startsWith('/') ? key.slice(1) : null;
}

/** By unit name, in the order of names: every unit that some nodeServices policy selects on this node. */
export function unitSelections(snapshot: Snapshot): ReadonlyMap<string, Selection> {
  const here = snapshot.nodes.find(({ name }) => name === snapshot.host.node);
  const byUnit = new Map<string, Policy[]>();
  for (const policy of snapshot.policies) {
    const { subject } = policy;
    if (subject.type !== 'nodeServices' || !isThisNode(subject.nodeSelector, here?.labels ?? null)) continue;
    for (const unit of new Set(subject.units)) byUnit.set(unit, [...(byUnit.get(unit) ?? []), policy]);
  }
  const units = [...byUnit].sort(([a], [b]) => (a < b ? -1 : 1));
  return new Map(
    units.map(([unit, policies]) => {
      const shadow = policies.sort(byTold);
      return [unit, { enforced: shadow.filter(({ mode }) => mode === 'Enforce'), shadow }];
    }),
  );
}

/** Where no object describes this node its labels are not known, and only the selector that asks for none selects it. */
export function isThisNode(selector: Selector, labels: Readonly<Record<string, string>> | null): boolean {
  if (labels !== null) return matches(selector, labels);
  return Object.keys(selector.matchLabels).length === 0 && selector.matchExpressions.length === 0;
}
