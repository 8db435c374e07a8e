// SPDX-License-Identifier: Apache-2.0
// What was counted under keys that are no longer in the kernel, and what the numbers of keys mean, on disk for the agent that comes next.
// Exact whenever the agent dies: FILE.next is there from before keys are taken out of the kernel until all of them are. Knows no kernel.
import { readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { Id, RulesetInfo } from '../model/tables.ts';

/** Raise it when what is written changes shape: an older file is then left aside, and all series begin anew. */
const LEDGER_VERSION = 2;
/** Ten times what 20,000 lines and the names of 1,000 rulesets take. */
const MAX_BYTES = 64 * 1024 * 1024;
export const LEDGER_FILES: readonly string[] = ['counters', 'counters.next', 'counters.part'];

/** One total. */
export interface LedgerLine {
  /** Position: verdict, reason, policy (null: none), index of the rule (null: none). */
  readonly labels: readonly [verdict: string, reason: string, policy: string | null, rule: number | null];
  readonly packets: bigint;
  readonly bytes: bigint;
}

export interface LedgerWorkload {
  /** Whose counters in the kernel go on top; null: nobody's, all of it is here. */
  readonly slot: number | null;
  readonly lines: readonly LedgerLine[];
}

export interface LedgerState {
  /** By `namespace/name`. */
  readonly workloads: ReadonlyMap<string, LedgerWorkload>;
  /** All under which the kernel may hold counters. */
  readonly rulesets: ReadonlyMap<Id, RulesetInfo>;
}

export interface LedgerFound {
  readonly state: LedgerState;
  /** Keys, in hex, that are counted in `state` and may be in the kernel still. */
  readonly removed: readonly string[];
  /** Call `end` once they are not. */
  readonly isUnfinished: boolean;
}

export class Ledger {
  readonly #file: string;
  readonly #identity: string;

  /**
   * `identity` names the very map that the totals belong to: what was written for another is nothing to this one, since all its series
   * begin at 0.
   */
  constructor(folder: string, identity: string) {
    this.#file = path.join(folder, 'counters');
    this.#identity = identity;
  }

  /** What was written last; null: nothing, or nothing of this map. */
  read(): LedgerFound | null {
    const next = this.#parse(`${this.#file}.next`);
    if (next !== null) return { ...next, isUnfinished: true };
    const last = this.#parse(this.#file);
    return last === null ? null : { state: last.state, removed: [], isUnfinished: false };
  }

  /** To be called before these keys (in hex) are taken out of the kernel. Throws what the file system does; all is then as it was. */
  begin({ workloads, rulesets }: LedgerState, removed: readonly string[]): void {
    const text = JSON.stringify({
      ...{ version: LEDGER_VERSION, identity: this.#identity, removed, rulesets: [...rulesets.values()] },
      workloads: [...workloads].map(([name, { slot, lines }]) => [
        name,
        slot,
        lines.map(({ labels, packets, bytes }) => [...labels, String(packets), String(bytes)]),
      ]),
    });
    const part = `${this.#file}.part`;
    try {
      // Not synced: what a crash of the machine loses belongs to a map that the crash has ended, too.
      writeFileSync(part, text, { mode: 0o600 });
      renameSync(part, `${this.#file}.next`);
    } catch (error) {
      rmSync(part, { force: true });
      throw error;
    }
  }

  /** They are out, and not before this may anybody count under them again. Throws what the file system does. */
  end(): void {
    renameSync(`${this.#file}.next`, this.#file);
  }

  #parse(file: string): Pick<LedgerFound, 'state' | 'removed'> | null {
    try {
      if (statSync(file).size > MAX_BYTES) return null;
      const found: unknown = JSON.parse(readFileSync(file, 'utf8'));
      if (!isLedger(found) || found.version !== LEDGER_VERSION || found.identity !== this.#identity) return null;
      return {
        removed: found.removed,
        state: {
          rulesets: new Map(found.rulesets.map((info) => [info.id, info])),
          workloads: new Map(
            found.workloads.map(([name, slot, lines]) => [
              name,
              {
                slot,
                lines: lines.map(([verdict, reason, policy, rule, packets, bytes]) => ({
                  labels: [verdict, reason, policy, rule] as const,
                  packets: BigInt(packets),
                  bytes: BigInt(bytes),
                })),
              },
            ]),
          ),
        },
      };
    } catch (error) {
      if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code !== undefined) return null;
      throw error;
    }
  }
}

type WrittenLine = [string, string, string | null, number | null, string, string];
interface Written {
  readonly version: unknown;
  readonly identity: unknown;
  readonly removed: readonly string[];
  readonly rulesets: readonly RulesetInfo[];
  readonly workloads: readonly (readonly [string, number | null, readonly WrittenLine[]])[];
}

function isLedger(found: unknown): found is Written {
  if (typeof found !== 'object' || found === null) return false;
  const { removed, rulesets, workloads } = found as Record<string, unknown>;
  return (
    Array.isArray(removed) &&
    removed.every((key) => typeof key === 'string' && /^(?:[0-9a-f]{2})+$/.test(key)) &&
    Array.isArray(rulesets) &&
    rulesets.every(isRuleset) &&
    Array.isArray(workloads) &&
    workloads.every(
      (one: unknown) =>
        Array.isArray(one) &&
        typeof one[0] === 'string' &&
        (one[1] === null || Number.isSafeInteger(one[1])) &&
        Array.isArray(one[2]) &&
        one[2].every(isLine),
    )
  );
}

function isRuleset(one: unknown): one is RulesetInfo {
  if (typeof one !== 'object' || one === null) return false;
  const { id, ...lists } = one as Record<string, unknown>;
  return (
    typeof id === 'string' &&
    ['admin', 'policy', 'baseline', 'limits', 'isolating', 'asking'].every((name) => {
      const list = lists[name];
      return Array.isArray(list) && list.every((ref: unknown) => typeof ref === 'object' && ref !== null);
    })
  );
}

function isLine(one: unknown): one is WrittenLine {
  if (!Array.isArray(one)) return false;
  const [verdict, reason, policy, rule, packets, bytes] = one as unknown[];
  const isTotal = (total: unknown) => typeof total === 'string' && /^\d{1,20}$/.test(total);
  return (
    typeof verdict === 'string' &&
    typeof reason === 'string' &&
    (policy === null || typeof policy === 'string') &&
    (rule === null || Number.isSafeInteger(rule)) &&
    isTotal(packets) &&
    isTotal(bytes)
  );
}
