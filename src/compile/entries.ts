// SPDX-License-Identifier: Apache-2.0
// Contributions of many rules to one subject, merged into the few entries that the kernel reads: first match answers.
// Knows protocols and ports as numbers; neither peers nor addresses.

import { PROTOCOL_ANY, RULE_NONE } from '#build/generated/abi.ts';
import { idOf } from '../model/hash.ts';
import type { Answer, Entry, Id, PortPrefix } from '../model/tables.ts';
import type { Tier } from './ruleset.ts';

/** What one rule says of one protocol (0: all of them) and port range, bounds included. */
export interface Contribution {
  readonly protocol: number;
  readonly first: number;
  readonly last: number;
  readonly tier: Tier;
  readonly value: number;
  /** Where protocol is 0: protocols and ports that it does not mean all the same. */
  readonly except: readonly PortPair[];
}

/** Protocol number and port. */
export type PortPair = readonly [protocol: number, port: number];

/** A port whose whole verdict is known already (a Service's): it hides what rules say of it. */
export interface Final {
  readonly protocol: number;
  readonly port: number;
  readonly answer: Answer;
}

export const SILENT_ANSWER: Answer = { admin: RULE_NONE, policy: RULE_NONE, baseline: RULE_NONE, limits: 0, final: 0 };

/** What two subjects of one destination say together. */
export function merge(a: Answer, b: Answer): Answer {
  return {
    admin: Math.min(a.admin, b.admin),
    policy: Math.min(a.policy, b.policy),
    baseline: Math.min(a.baseline, b.baseline),
    limits: a.limits | b.limits,
    final: a.final !== 0 ? a.final : b.final,
  };
}

function equal(a: Answer, b: Answer): boolean {
  return (
    a.admin === b.admin &&
    a.policy === b.policy &&
    a.baseline === b.baseline &&
    a.limits === b.limits &&
    a.final === b.final
  );
}

/** Entries such that the first that matches a protocol and port holds the merge of all contributions that do. */
export function entries(contributions: readonly Contribution[], finals: readonly Final[] = []): Entry[] {
  const any = contributions.filter(({ protocol }) => protocol === PROTOCOL_ANY);
  const fallback = any.map(answer).reduce(merge, SILENT_ANSWER);
  const protocols = new Set([...contributions, ...finals].map(({ protocol }) => protocol));
  for (const { except } of any) for (const [protocol] of except) protocols.add(protocol);
  protocols.delete(PROTOCOL_ANY);

  const merged: Entry[] = [];
  for (const protocol of [...protocols].sort((a, b) => a - b)) {
    const holed = any.filter(({ except }) => except.some(([other]) => other === protocol));
    const own = [
      ...contributions.filter((contribution) => contribution.protocol === protocol),
      ...holed.flatMap((contribution) => around(contribution, protocol)),
    ];
    const whole =
      holed.length === 0
        ? fallback
        : any
            .filter((each) => !holed.includes(each))
            .map(answer)
            .reduce(merge, SILENT_ANSWER);
    merged.push(...sweep(protocol, own, whole, fallback, finals));
  }
  if (!equal(fallback, SILENT_ANSWER))
    merged.push({ protocol: PROTOCOL_ANY, first: 0, last: 0xffff, answer: fallback });
  return merged;
}

function answer({ tier, value }: Contribution): Answer {
  return tier === 'limit' ? { ...SILENT_ANSWER, limits: 1 << value } : { ...SILENT_ANSWER, [tier]: value };
}

/** What a contribution to all protocols says of one of them, of whose ports it excepts some. */
function around(contribution: Contribution, protocol: number): Contribution[] {
  const holes = contribution.except.filter(([other]) => other === protocol).map(([, port]) => port);
  const edges = [-1, ...new Set(holes.sort((a, b) => a - b)), 0x10000];
  return edges
    .slice(1)
    .map((edge, index) => ({
      ...contribution,
      protocol,
      first: (edges[index] as number) + 1,
      last: edge - 1,
      except: [],
    }))
    .filter(({ first, last }) => first <= last);
}

/**
 * The ranges of one protocol whose answer differs from the fallback's, disjoint and in order. `whole` is what holds for all of
 * its ports; less than the fallback where a rule for all protocols excepts some port of this one.
 */
function sweep(
  protocol: number,
  own: readonly Contribution[],
  whole: Answer,
  fallback: Answer,
  all: readonly Final[],
): Entry[] {
  const finals = all.filter((final) => final.protocol === protocol);
  const cuts = new Set([0]);
  for (const { first, last } of own) cuts.add(first).add(last + 1);
  for (const { port } of finals) cuts.add(port).add(port + 1);
  cuts.delete(0x10000);
  const starts = [...cuts].sort((a, b) => a - b);
  const at = new Map(starts.map((start, index) => [start, index]));
  const cell = (port: number): number => at.get(port) ?? starts.length;
  const cells: { -readonly [K in keyof Answer]: Answer[K] }[] = starts.map(() => ({ ...whole }));

  // Each tier is painted from its best precedence down; a cell once painted is skipped for good, so that ten thousand rules
  // over the same ports cost no more than their sort.
  for (const tier of ['admin', 'policy', 'baseline'] as const) {
    const next = Array.from({ length: cells.length + 1 }, (_, index) => index);
    const skip = (index: number): number => {
      let root = index;
      while (next[root] !== root) root = next[root] as number;
      for (let i = index; i !== root; ) {
        const up = next[i] as number;
        next[i] = root;
        i = up;
      }
      return root;
    };
    const best = own.filter((contribution) => contribution.tier === tier).sort((a, b) => a.value - b.value);
    for (const { first, last, value } of best) {
      const end = cell(last + 1);
      for (let i = skip(cell(first)); i < end; i = skip(i + 1)) {
        const painted = cells[i] as { -readonly [K in keyof Answer]: Answer[K] };
        painted[tier] = Math.min(painted[tier], value);
        next[i] = i + 1;
      }
    }
  }
  for (const { tier, first, last, value } of own) {
    if (tier !== 'limit') continue;
    for (let i = cell(first), end = cell(last + 1); i < end; i++) {
      const painted = cells[i];
      if (painted !== undefined) painted.limits |= 1 << value;
    }
  }
  for (const final of finals) Object.assign(cells[cell(final.port)] ?? {}, final.answer);

  const ranges: Entry[] = [];
  starts.forEach((first, index) => {
    const value = cells[index] as Answer;
    if (equal(value, fallback)) return;
    const last = (starts[index + 1] ?? 0x10000) - 1;
    const previous = ranges.at(-1);
    if (previous !== undefined && previous.last === first - 1 && equal(previous.answer, value)) {
      ranges[ranges.length - 1] = { ...previous, last };
    } else {
      ranges.push({ protocol, first, last, answer: value });
    }
  });
  return ranges;
}

/** What entries say of a protocol and port; SILENT_ANSWER where none matches. */
export function lookUp(list: readonly Entry[], protocol: number, port: number): Answer {
  for (const entry of list) {
    if (entry.protocol === PROTOCOL_ANY || (entry.protocol === protocol && entry.first <= port && port <= entry.last)) {
      return entry.answer;
    }
  }
  return SILENT_ANSWER;
}

/** Entries too many for a row, as prefixes of a trie; ranges are disjoint, so the longest match is the first match. */
export function portSet(list: readonly Entry[]): { id: Id; prefixes: PortPrefix[] } {
  const prefixes: PortPrefix[] = [];
  for (const { protocol, first, last, answer: value } of list) {
    if (protocol === PROTOCOL_ANY) {
      prefixes.push({ protocol, port: 0, length: 0, answer: value });
      continue;
    }
    for (let port = first; port <= last; ) {
      let size = port === 0 ? 0x10000 : port & -port;
      while (port + size - 1 > last) size >>= 1;
      prefixes.push({ protocol, port, length: 32 - Math.log2(size), answer: value });
      port += size;
    }
  }
  return { id: idOf(`ports ${JSON.stringify(list)}`), prefixes };
}
