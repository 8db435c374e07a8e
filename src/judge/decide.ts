// SPDX-License-Identifier: Apache-2.0
// The verdict on a flow, from the same tables that the kernel reads and step by step as bpf/verdict.h reads them. What the
// kernel decides and what explain says is one table read twice; tests hold both against an oracle that knows neither.

import {
  FINAL_SILENT,
  KIND_NOT_WORLD,
  KIND_STRANGER,
  NAME_ANYWHERE,
  NAME_ASKED,
  REASON_ADMIN_ACCEPT,
  REASON_ADMIN_DENY,
  REASON_BASELINE_ACCEPT,
  REASON_BASELINE_DENY,
  REASON_DENIED,
  REASON_LIMIT,
  REASON_LOOPBACK,
  REASON_MISSING_ROW,
  REASON_NAME_NOT_ALLOWED,
  REASON_NO_RULE,
  REASON_NOT_ISOLATED,
  REASON_QUERY_IN_PIECES,
  REASON_QUERY_UNREADABLE,
  REASON_RULE,
  REASON_SELF,
  ROW_ISOLATED,
  ROW_NAMES,
  ROW_SILENT,
  ROW_ZONES,
  RULE_NONE,
} from '#build/generated/abi.ts';
import type { Compiled } from '../compile/compile.ts';
import { compose, type Outcome } from '../compile/compose.ts';
import { lookUp, merge, SILENT_ANSWER } from '../compile/entries.ts';
import { rowKey } from '../compile/row-table.ts';
import type {
  AddressKey,
  Answer,
  Id,
  IdentityEntry,
  PolicyRef,
  Row,
  RuleRef,
  RulesetInfo,
  WorkloadEntry,
} from '../model/tables.ts';
import { NO_ID } from '../model/tables.ts';
import { isLoopback } from '../resolve/entities.ts';

/** What is asked of a workload. `address` null: a destination of which only names are known, so only rules for all and for names match. */
export interface Flow {
  readonly address: AddressKey | null;
  /** IP protocol number, ICMPv6 as ICMP. */
  readonly protocol: number;
  /** Destination port; of ICMP the icmp_kind; else 0. */
  readonly port: number;
  /** What DNS told the workload leads to this address: lower case, A-labels, no final dot. Default: nothing. */
  readonly names?: readonly string[];
}

export interface Decision {
  readonly verdict: 'allow' | 'audit' | 'deny';
  readonly outcome: Outcome;
  /** The ruleset whose outcome is told: shadow's where the verdict is audit. NO_ID: no policy had a part in it. */
  readonly ruleset: Id;
  /** Of a denial: what would hold if Audit policies were enforced, where that allows. */
  readonly shadow: Outcome | null;
}

const NO_POLICY: Outcome = { denied: false, reason: REASON_NOT_ISOLATED, rule: RULE_NONE, silent: false };

export function decide(compiled: Compiled, workload: WorkloadEntry, flow: Flow): Decision {
  if (flow.address !== null && isLoopback(flow.address)) {
    return allowed({ ...NO_POLICY, reason: REASON_LOOPBACK }, NO_ID);
  }
  const reader = readerOf(compiled);
  const enforced = judge(reader, workload.enforced, flow);
  const shadow = workload.shadow === workload.enforced ? enforced : judge(reader, workload.shadow, flow);
  return together(workload, enforced, shadow, flow);
}

/** May the workload ask resolvers for this name (lower case, A-labels, no final dot)? Whether it may reach one is `decide`'s question. */
export function decideQuery(compiled: Compiled, workload: WorkloadEntry, name: string): Decision {
  const reader = readerOf(compiled);
  const [enforced, shadow] = [workload.enforced, workload.shadow].map((id) => judgeQuery(reader, id, name)) as [
    Outcome,
    Outcome,
  ];
  return together(workload, enforced, shadow);
}

/** What both rulesets say as one; `flow` only where it may be to oneself. */
function together(workload: WorkloadEntry, enforced: Outcome, shadow: Outcome, flow?: Flow): Decision {
  const isSelf = flow !== undefined && flow.address !== null && workload.selves.includes(flow.address);
  if (enforced.denied) {
    if (isSelf) return allowed({ ...NO_POLICY, reason: REASON_SELF }, NO_ID);
    return { verdict: 'deny', outcome: enforced, ruleset: workload.enforced, shadow: shadow.denied ? null : shadow };
  }
  if (shadow.denied && !isSelf) return { verdict: 'audit', outcome: shadow, ruleset: workload.shadow, shadow: null };
  return allowed(enforced, workload.enforced);
}

function allowed(outcome: Outcome, ruleset: Id): Decision {
  return { verdict: 'allow', outcome, ruleset, shadow: null };
}

/** The maps as packets see them. */
export interface TableReader {
  readonly row: (ruleset: Id, subject: Id, kind: number) => Row | undefined;
  readonly identity: (address: AddressKey) => IdentityEntry | undefined;
  readonly networkClass: (address: AddressKey) => Id;
  readonly zoneClass: (address: AddressKey) => Id;
  /** Not NO_ID: outside World. */
  readonly notWorldClass: (address: AddressKey) => Id;
  readonly nameClass: (name: string) => Id;
}

function readerOf({ tables, destinations, names }: Compiled): TableReader {
  return {
    row: (ruleset, subject, kind) => tables.rows.get(rowKey(ruleset, subject, kind)),
    identity: (address) => tables.identities.get(address),
    networkClass: (address) => destinations.networks.lookUp(address).id,
    zoneClass: (address) => destinations.zones.lookUp(address).id,
    notWorldClass: (address) => {
      const { blocks, id } = destinations.notWorld.lookUp(address);
      return blocks.size === 0 ? NO_ID : id;
    },
    nameClass: (name) => names.lookUp(name)?.id ?? NO_ID,
  };
}

/** One ruleset's outcome: each subject of the destination is looked up by itself, and what they say is merged. */
export function judge(tables: TableReader, ruleset: Id, { address, protocol, port, names = [] }: Flow): Outcome {
  if (ruleset === NO_ID) return NO_POLICY;
  const header = tables.row(ruleset, NO_ID, 0);
  if (header === undefined) return { denied: true, reason: REASON_MISSING_ROW, rule: RULE_NONE, silent: false };
  const settings = {
    isolated: (header.flags & ROW_ISOLATED) !== 0,
    silent: (header.flags & ROW_SILENT) !== 0,
    limits: header.limits,
    limitsSilent: header.limitsSilent,
  };
  const ask = (row: Row | undefined): Answer =>
    row === undefined ? SILENT_ANSWER : lookUp(row.entries, protocol, port);
  let answer = ask(header);
  let isWorld = true;
  if (address !== null) {
    const { id, network, kind } = tables.identity(address) ?? STRANGER;
    const own = id === NO_ID ? SILENT_ANSWER : ask(tables.row(ruleset, id, 0));
    if (own.final !== 0) return final(own);
    answer = merge(answer, own);
    answer = merge(answer, ask(tables.row(ruleset, network === NO_ID ? tables.networkClass(address) : network, 0)));
    if ((header.flags & ROW_ZONES) !== 0) {
      answer = merge(answer, ask(tables.row(ruleset, tables.zoneClass(address), id === NO_ID ? KIND_STRANGER : kind)));
    }
    isWorld = (id === NO_ID || (kind & KIND_NOT_WORLD) === 0) && tables.notWorldClass(address) === NO_ID;
  }
  if ((header.flags & ROW_NAMES) !== 0) {
    for (const subject of new Set(names.map(tables.nameClass))) {
      if (subject !== NO_ID) answer = merge(answer, ask(tables.row(ruleset, subject, isWorld ? 0 : NAME_ANYWHERE)));
    }
  }
  return compose(settings, answer);
}

/** One ruleset's: what it says of the name's class, or of every name. */
export function judgeQuery(tables: TableReader, ruleset: Id, name: string): Outcome {
  if (ruleset === NO_ID) return NO_POLICY;
  const every = tables.row(ruleset, NO_ID, NAME_ASKED);
  if (every === undefined) return NO_POLICY;
  const subject = tables.nameClass(name);
  const own = subject === NO_ID ? undefined : tables.row(ruleset, subject, NAME_ASKED);
  const answer = (own ?? every).entries[0]?.answer;
  return answer === undefined ? { ...NO_POLICY, denied: true, reason: REASON_MISSING_ROW } : final(answer);
}

const STRANGER = { id: NO_ID, network: NO_ID, kind: KIND_STRANGER };

function final({ final: code, policy }: Answer): Outcome {
  const reason = code & ~FINAL_SILENT;
  return { denied: reason >= REASON_DENIED, reason, rule: policy, silent: (code & FINAL_SILENT) !== 0 };
}

/** Whom an outcome names: a rule, or a policy alone, or nobody. */
export interface Told {
  readonly policy: PolicyRef | null;
  readonly rule: RuleRef | null;
  /** Of a default denial: every policy that isolates. */
  readonly isolatedBy: readonly PolicyRef[];
}

export function tell(
  info: RulesetInfo | undefined,
  { reason, rule }: { readonly reason: number; readonly rule: number },
): Told {
  if (info === undefined) return { policy: null, rule: null, isolatedBy: [] };
  const byRule = (found: RuleRef | undefined): Told => ({ policy: found ?? null, rule: found ?? null, isolatedBy: [] });
  switch (reason) {
    case REASON_RULE:
      return byRule(info.policy[rule]);
    case REASON_ADMIN_ACCEPT:
    case REASON_ADMIN_DENY:
      return byRule(info.admin[rule]);
    case REASON_BASELINE_ACCEPT:
    case REASON_BASELINE_DENY:
      return byRule(info.baseline[rule]);
    case REASON_LIMIT:
      return { policy: info.limits[rule] ?? null, rule: null, isolatedBy: [] };
    case REASON_NAME_NOT_ALLOWED:
    case REASON_QUERY_UNREADABLE:
    case REASON_QUERY_IN_PIECES:
      if (rule !== RULE_NONE) return { policy: info.limits[rule] ?? null, rule: null, isolatedBy: [] };
      return { policy: info.asking[0] ?? null, rule: null, isolatedBy: [] };
    case REASON_NO_RULE:
      return { policy: info.isolating[0] ?? null, rule: null, isolatedBy: info.isolating };
    default:
      return { policy: null, rule: null, isolatedBy: [] };
  }
}
