// SPDX-License-Identifier: Apache-2.0
// Whose known flows must be judged again after a change? Rather too many than one too few: judging again costs a lookup.
// Pure: asks the tables as they stand before anything is written.

import { NAME_ASKED, ROW_NAMES, ROW_ZONES, SLOT_UNKNOWN, type Workload } from '#build/generated/abi.ts';
import { type Id, type IdentityEntry, NO_ID, type ResolverKey, type RowKey } from '../model/tables.ts';
import type { Delta } from './diff.ts';
import type { SelfKey, StoredRow } from './encode.ts';
import type { Assignment } from './slots.ts';
import type { KernelTables } from './tables.ts';

export interface Changes {
  readonly rows: Delta<RowKey, StoredRow>;
  readonly selves: Delta<SelfKey, true>;
  readonly identities: Delta<string, IdentityEntry>;
  readonly networks: Delta<string, Id>;
  readonly names: Delta<string, Id>;
  readonly resolvers: Delta<ResolverKey, true>;
  readonly workloads: Delta<bigint, Workload>;
}

export class Affected {
  readonly slots: ReadonlySet<number>;

  constructor(
    actual: Pick<KernelTables, 'rows' | 'identities' | 'workloads'>,
    changes: Changes,
    desired: ReadonlyMap<bigint, Workload>,
    { taken, freed }: Pick<Assignment, 'taken' | 'freed'>,
  ) {
    const slots = new Set<number>([...taken, ...freed.keys()]);
    for (const [cgroup, { slot }] of changes.workloads.upserts) {
      slots.add(slot);
      // Sockets of a cgroup that nobody was bound to have records of the unknown.
      if (!actual.workloads.entries.has(cgroup)) slots.add(SLOT_UNKNOWN);
    }
    for (const cgroup of changes.workloads.deletes) {
      const workload = actual.workloads.entries.get(cgroup);
      if (workload !== undefined) slots.add(workload.slot);
    }
    for (const key of [...changes.selves.upserts.keys(), ...changes.selves.deletes]) {
      slots.add(Number(key.slice(0, key.indexOf('/'))));
    }

    const used = new Set<Id>();
    for (const { enforced, shadow } of desired.values()) used.add(enforced).add(shadow);
    used.delete(NO_ID);
    const rulesets = affectedRulesets(actual, changes, used);
    if (rulesets.size > 0) {
      for (const { slot, enforced, shadow } of desired.values()) {
        if (rulesets.has(enforced) || rulesets.has(shadow)) slots.add(slot);
      }
    }
    this.slots = slots;
  }
}

function affectedRulesets(
  actual: Pick<KernelTables, 'rows' | 'identities'>,
  { rows, identities, networks, names, resolvers }: Changes,
  used: ReadonlySet<Id>,
): ReadonlySet<Id> {
  // Which class an address falls to without its own prefix only the trie knows.
  if (networks.upserts.size > 0 || networks.deletes.size > 0) return used;

  const affected = new Set<Id>();
  const touch = (key: RowKey): void => {
    const ruleset = key.slice(0, NO_ID.length);
    if (used.has(ruleset)) affected.add(ruleset);
  };
  for (const key of rows.upserts.keys()) touch(key);
  for (const key of rows.deletes) touch(key);

  const row = (key: RowKey): StoredRow | undefined => rows.upserts.get(key) ?? actual.rows.entries.get(key);
  const subjects = new Set<Id>();
  let isKindTouched = false;
  /** False: the class of an address changed, too. */
  const touchIdentity = (old: IdentityEntry | undefined, next: IdentityEntry | undefined): boolean => {
    if ((old?.network ?? NO_ID) !== (next?.network ?? NO_ID)) return false;
    if (old?.id !== next?.id) {
      if (old !== undefined) subjects.add(old.id);
      if (next !== undefined) subjects.add(next.id);
    }
    isKindTouched ||= old?.kind !== next?.kind;
    return true;
  };
  for (const [address, next] of identities.upserts) {
    if (!touchIdentity(actual.identities.entries.get(address), next)) return used;
  }
  for (const address of identities.deletes) {
    if (!touchIdentity(actual.identities.entries.get(address), undefined)) return used;
  }
  subjects.delete(NO_ID);
  const isNameTouched = names.upserts.size > 0 || names.deletes.size > 0;
  // A flow that was none to a resolver may hold questions now.
  const isResolverTouched = resolvers.upserts.size > 0 || resolvers.deletes.size > 0;
  for (const ruleset of used) {
    const header = row(`${ruleset}/${NO_ID}/00000000`);
    const hasNames = header === undefined || (header.flags & ROW_NAMES) !== 0;
    if ((isNameTouched || isResolverTouched) && (hasNames || row(askedKey(ruleset)) !== undefined))
      affected.add(ruleset);
    if (isKindTouched && (header === undefined || (header.flags & ROW_ZONES) !== 0)) affected.add(ruleset);
    for (const subject of subjects) {
      if (affected.has(ruleset)) break;
      if (row(`${ruleset}/${subject}/00000000`) !== undefined) affected.add(ruleset);
    }
  }
  return affected;
}

function askedKey(ruleset: Id): RowKey {
  return `${ruleset}/${NO_ID}/${NAME_ASKED.toString(16).padStart(8, '0')}`;
}
