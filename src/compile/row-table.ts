// SPDX-License-Identifier: Apache-2.0
// The rows of rulesets on all subjects. A row is a function of its two contents, so what was worked out is kept; where only a few
// subjects came or went, only they are asked about.

import { type Id, NO_ID, type Row, type RowKey } from '../model/tables.ts';
import type { Destinations } from './destinations.ts';
import type { Identity, Kind } from './identity.ts';
import type { NetworkClass } from './prefixes.ts';
import { headerRow, identityRow, networkRow, type RowSource, zoneRow } from './rows.ts';
import { hasZones, type Ruleset } from './ruleset.ts';

export function rowKey(ruleset: Id, subject: Id, kind: number): RowKey {
  return `${ruleset}/${subject}/${kind.toString(16).padStart(8, '0')}`;
}

/** Rows that were asked for, null where nothing is said. */
export class RowCache implements RowSource {
  readonly #byRuleset = new Map<Id, Map<string, Row | null>>();

  readonly header = (of: Ruleset): Row => this.#keep(of, NO_ID, () => headerRow(of)) as Row;
  readonly identity = (of: Ruleset, identity: Identity): Row | null =>
    this.#keep(of, identity.id, () => identityRow(of, identity, this));
  readonly network = (of: Ruleset, network: NetworkClass): Row | null =>
    this.#keep(of, network.id, () => networkRow(of, network));
  readonly zone = (of: Ruleset, zone: NetworkClass, kind: Kind): Row | null =>
    hasZones(of) ? this.#keep(of, `${zone.id}/${kind.code}`, () => zoneRow(of, zone, kind)) : null;

  #keep({ id }: Ruleset, subject: string, make: () => Row | null): Row | null {
    let rows = this.#byRuleset.get(id);
    if (rows === undefined) {
      rows = new Map();
      this.#byRuleset.set(id, rows);
    }
    let row = rows.get(subject);
    if (row === undefined) {
      row = make();
      rows.set(subject, row);
    }
    return row;
  }

  /** Forgets rulesets that are gone, and everything of one whose subjects were mostly others. */
  prune(rulesets: ReadonlyMap<Id, Ruleset>, subjects: number): void {
    for (const [id, rows] of this.#byRuleset) {
      if (!rulesets.has(id) || rows.size > 1000 + 3 * subjects) this.#byRuleset.delete(id);
    }
  }
}

type Rows = ReadonlyMap<RowKey, Row>;

/** All rows, and what the next version of them starts from. */
export interface RowTable {
  readonly rows: Rows;
  readonly byRuleset: ReadonlyMap<Id, Rows>;
  readonly destinations: Destinations;
}

export function rowTable(
  rulesets: Iterable<Ruleset>,
  destinations: Destinations,
  source: RowSource,
  before?: RowTable,
): RowTable {
  const byRuleset = new Map<Id, Rows>();
  const change = before === undefined ? null : changeOf(before.destinations, destinations);
  for (const ruleset of rulesets) {
    const old = before?.byRuleset.get(ruleset.id);
    byRuleset.set(
      ruleset.id,
      old === undefined || change === null
        ? allOf(ruleset, destinations, source)
        : changed(ruleset, old, change, source),
    );
  }
  const rows = new Map<RowKey, Row>();
  for (const own of byRuleset.values()) for (const [key, row] of own) rows.set(key, row);
  return { rows, byRuleset, destinations };
}

function allOf(ruleset: Ruleset, { identities, networks, zones, kinds }: Destinations, source: RowSource): Rows {
  const rows = new Map<RowKey, Row>();
  keep(rows, source.header(ruleset));
  for (const identity of identities.values()) keep(rows, source.identity(ruleset, identity));
  for (const network of networks.classes.values()) keep(rows, source.network(ruleset, network));
  if (hasZones(ruleset)) {
    for (const zone of zones.classes.values()) {
      for (const kind of kinds.values()) keep(rows, source.zone(ruleset, zone, kind));
    }
  }
  return rows;
}

function keep(rows: Map<RowKey, Row>, row: Row | null): void {
  if (row !== null) rows.set(rowKey(row.ruleset, row.subject, row.kind), row);
}

/** Identities that came and went. */
interface Change {
  readonly come: readonly Identity[];
  readonly gone: readonly Id[];
}

/** null: more than identities changed. */
function changeOf(before: Destinations, after: Destinations): Change | null {
  if (before.networks !== after.networks || before.zones !== after.zones) return null;
  if (before.kinds.size !== after.kinds.size || [...after.kinds.keys()].some((code) => !before.kinds.has(code)))
    return null;
  if (before.identities === after.identities) return { come: [], gone: [] };
  return {
    come: [...after.identities.values()].filter(({ id }) => !before.identities.has(id)),
    gone: [...before.identities.keys()].filter((id) => !after.identities.has(id)),
  };
}

function changed(ruleset: Ruleset, old: Rows, { come, gone }: Change, source: RowSource): Rows {
  if (come.length === 0 && gone.length === 0) return old;
  const rows = new Map(old);
  for (const id of gone) rows.delete(rowKey(ruleset.id, id, 0));
  for (const identity of come) keep(rows, source.identity(ruleset, identity));
  return rows;
}
