// SPDX-License-Identifier: Apache-2.0
// The rows of rulesets on all subjects. A row is a function of its two contents, so what was worked out is kept; where only a few
// subjects came or went, only they are asked about.

import { NAME_ANYWHERE, NAME_ASKED } from '#build/generated/abi.ts';
import { ShardedMap } from '../model/sharded-map.ts';
import { type Id, NO_ID, type Row, type RowKey } from '../model/tables.ts';
import type { Destinations } from './destinations.ts';
import type { Identity, Kind } from './identity.ts';
import type { NameClass, NameTrie } from './names.ts';
import type { NetworkClass } from './prefixes.ts';
import { askedRow, headerRow, identityRow, nameRow, networkRow, type RowSource, zoneRow } from './rows.ts';
import { hasNames, hasZones, type Ruleset } from './ruleset.ts';

export function rowKey(ruleset: Id, subject: Id, kind: number): RowKey {
  return `${ruleset}/${subject}/${kind.toString(16).padStart(8, '0')}`;
}

/**
 * Rows that were asked for. Most rulesets say nothing of most subjects, and that is worth remembering too: a bit for each, where a
 * null for each took a tenth of the agent's memory.
 */
export class RowCache implements RowSource {
  readonly #byRuleset = new Map<Id, Asked>();
  /** Which bit stands for a subject. */
  readonly #numbers = new Map<string, number>();

  readonly header = (of: Ruleset): Row => this.#keep(of, NO_ID, () => headerRow(of)) as Row;
  readonly identity = (of: Ruleset, identity: Identity): Row | null =>
    this.#keep(of, identity.id, () => identityRow(of, identity, this));
  readonly network = (of: Ruleset, network: NetworkClass): Row | null =>
    this.#keep(of, network.id, () => networkRow(of, network));
  readonly zone = (of: Ruleset, zone: NetworkClass, kind: Kind): Row | null =>
    hasZones(of) ? this.#keep(of, `${zone.id}/${kind.code}`, () => zoneRow(of, zone, kind)) : null;
  readonly name = (of: Ruleset, name: NameClass, kind: number): Row | null =>
    speaksOfNames(of) ? this.#keep(of, `${name.id}/${kind}`, () => nameRow(of, name, kind)) : null;

  #keep({ id }: Ruleset, subject: string, make: () => Row | null): Row | null {
    let asked = this.#byRuleset.get(id);
    if (asked === undefined) {
      asked = { rows: new Map(), silent: new Bits() };
      this.#byRuleset.set(id, asked);
    }
    const known = asked.rows.get(subject);
    if (known !== undefined) return known;
    const number = this.#numberOf(subject);
    if (asked.silent.has(number)) return null;
    const row = make();
    if (row === null) asked.silent.add(number);
    else asked.rows.set(subject, row);
    return row;
  }

  #numberOf(subject: string): number {
    const known = this.#numbers.get(subject);
    if (known !== undefined) return known;
    const number = this.#numbers.size;
    this.#numbers.set(subject, number);
    return number;
  }

  /** Forgets rulesets that are gone, and everything where most subjects are others now. */
  prune(rulesets: ReadonlyMap<Id, Ruleset>, subjects: number): void {
    for (const id of this.#byRuleset.keys()) if (!rulesets.has(id)) this.#byRuleset.delete(id);
    if (this.#numbers.size <= 1000 + 3 * subjects) return;
    this.#byRuleset.clear();
    this.#numbers.clear();
  }
}

interface Asked {
  readonly rows: Map<string, Row>;
  /** Of the subjects of which nothing is said. */
  readonly silent: Bits;
}

/** A set of small whole numbers. */
class Bits {
  #words = new Uint32Array(8);

  has(number: number): boolean {
    return (((this.#words[number >>> 5] ?? 0) >>> (number & 31)) & 1) === 1;
  }

  add(number: number): void {
    const at = number >>> 5;
    if (at >= this.#words.length) {
      const grown = new Uint32Array(Math.max(at + 1, this.#words.length * 2));
      grown.set(this.#words);
      this.#words = grown;
    }
    this.#words[at] = (this.#words[at] ?? 0) | (1 << (number & 31));
  }
}

type Rows = ReadonlyMap<RowKey, Row>;

/** All rows, and what the next version of them starts from. */
export interface RowTable {
  readonly rows: Rows;
  readonly byRuleset: ReadonlyMap<Id, Rows>;
  readonly subjects: Subjects;
}

/** Whatever a destination may be known as. */
export interface Subjects {
  readonly destinations: Destinations;
  readonly names: NameTrie;
}

export function rowTable(
  rulesets: Iterable<Ruleset>,
  subjects: Subjects,
  source: RowSource,
  before?: RowTable,
): RowTable {
  const byRuleset = new Map<Id, Rows>();
  const change = before === undefined ? null : changeOf(before.subjects, subjects);
  for (const ruleset of rulesets) {
    const old = before?.byRuleset.get(ruleset.id);
    byRuleset.set(
      ruleset.id,
      old === undefined || change === null ? allOf(ruleset, subjects, source) : changed(ruleset, old, change, source),
    );
  }
  const isSame =
    before !== undefined &&
    before.byRuleset.size === byRuleset.size &&
    byRuleset.entries().every(([id, own]) => before.byRuleset.get(id) === own);
  return { rows: isSame ? before.rows : merged(byRuleset), byRuleset, subjects };
}

function merged(byRuleset: ReadonlyMap<Id, Rows>): Rows {
  const rows = new Map<RowKey, Row>();
  for (const own of byRuleset.values()) for (const [key, row] of own) rows.set(key, row);
  return rows;
}

function allOf(ruleset: Ruleset, { destinations, names }: Subjects, source: RowSource): Rows {
  const { identities, networks, zones, kinds } = destinations;
  const rows = new Map<RowKey, Row>();
  keep(rows, source.header(ruleset));
  keep(rows, askedRow(ruleset));
  for (const identity of identities.values()) keep(rows, source.identity(ruleset, identity));
  for (const network of networks.classes.values()) keep(rows, source.network(ruleset, network));
  if (hasZones(ruleset)) {
    for (const zone of zones.classes.values()) {
      for (const kind of kinds.values()) keep(rows, source.zone(ruleset, zone, kind));
    }
  }
  if (speaksOfNames(ruleset)) for (const name of names.classes.values()) keepName(rows, ruleset, name, source);
  return rows;
}

function keep(rows: Map<RowKey, Row>, row: Row | null): void {
  if (row !== null) rows.set(rowKey(row.ruleset, row.subject, row.kind), row);
}

const NAME_KINDS = [0, NAME_ANYWHERE, NAME_ASKED];

function speaksOfNames(ruleset: Ruleset): boolean {
  return hasNames(ruleset) || ruleset.asking !== null;
}

function keepName(rows: Map<RowKey, Row>, ruleset: Ruleset, name: NameClass, source: RowSource): void {
  for (const kind of NAME_KINDS) keep(rows, source.name(ruleset, name, kind));
}

/** Identities and name classes that came and went. */
interface Change {
  readonly come: readonly Identity[];
  readonly comeNames: readonly NameClass[];
  readonly gone: readonly Id[];
}

/** null: more than identities and names changed. */
function changeOf(one: Subjects, other: Subjects): Change | null {
  const [before, after] = [one.destinations, other.destinations];
  if (before.networks !== after.networks || before.zones !== after.zones) return null;
  if (before.kinds.size !== after.kinds.size || [...after.kinds.keys()].some((code) => !before.kinds.has(code)))
    return null;
  const [come, gone] = between(before.identities, after.identities);
  const [comeNames, goneNames] = between(one.names.classes, other.names.classes);
  return { come, comeNames, gone: [...gone, ...goneNames] };
}

function between<V>(before: ReadonlyMap<Id, V>, after: ReadonlyMap<Id, V>): [come: V[], gone: Id[]] {
  if (before === after) return [[], []];
  if (before instanceof ShardedMap && after instanceof ShardedMap) {
    const differing = [...after.differences(before)];
    return [
      differing.filter((id) => !before.has(id)).flatMap((id): V[] => after.get(id) ?? []),
      differing.filter((id) => !after.has(id)),
    ];
  }
  return [
    [...after].filter(([id]) => !before.has(id)).map(([, value]) => value),
    [...before.keys()].filter((id) => !after.has(id)),
  ];
}

function changed(ruleset: Ruleset, old: Rows, { come, comeNames, gone }: Change, source: RowSource): Rows {
  const left = gone
    .flatMap((id) => NAME_KINDS.map((kind) => rowKey(ruleset.id, id, kind)))
    .filter((key) => old.has(key));
  const fresh = [
    ...come.map((identity) => source.identity(ruleset, identity)),
    ...comeNames.flatMap((name) => NAME_KINDS.map((kind) => source.name(ruleset, name, kind))),
  ].filter((row) => row !== null);
  if (left.length === 0 && fresh.length === 0) return old;
  const rows = new Map(old);
  for (const key of left) rows.delete(key);
  for (const row of fresh) keep(rows, row);
  return rows;
}
