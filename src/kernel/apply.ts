// SPDX-License-Identifier: Apache-2.0
// Brings the kernel's maps to where a Step says, in an order that no packet can fall between, or not at all.
// Knows what was written and what is enforced; knows neither snapshots nor how tables come about.

import {
  decodeSettings,
  encodeSettings,
  MAX_LEVELS,
  SETTINGS_BYTES,
  type Settings,
  SHORTEST_TTL_S,
  SLOT_UNKNOWN,
  UNKNOWN_ALLOW,
  UNKNOWN_DENY,
  type Workload,
} from '#build/generated/abi.ts';
import { type Id, NO_ID, type RulesetInfo, type Step, type Tables } from '../model/tables.ts';
import { Affected } from './affected.ts';
import { type CounterNames, type CounterReading, Counters } from './counters.ts';
import type { Delta } from './diff.ts';
import type { SelfKey } from './encode.ts';
import { LimitExceeded, RollbackFailed } from './errors.ts';
import type { Inheritance } from './inheritance.ts';
import { type KnownName, KnownNames } from './known-names.ts';
import type { Ledger } from './ledger.ts';
import type { NativeObject } from './native.ts';
import { Slots } from './slots.ts';
import type { Audit, MapAudit } from './table.ts';
import { assume, type Contents, kernelTables, readBack } from './tables.ts';

/** A workload's place in the kernel. */
export interface CgroupBinding {
  /** cgroup2 id. */
  readonly cgroup: bigint;
  /** Depth below the cgroup2 mount, whose own folder is level 0. */
  readonly level: number;
}

/**
 * By `namespace/name`. One that `tables.workloads` does not hold is a workload without a policy: it is known, and everything
 * passes (the agent's own cgroup).
 */
export type CgroupBindings = ReadonlyMap<string, CgroupBinding>;

export interface ApplierOptions {
  /** What happens to cgroups that nobody is bound to. */
  readonly unknown: 'allow' | 'deny';
  /** Cookie of the host's network namespace; 0n: not known, nobody is in it. */
  readonly hostNetns: bigint;
  /** How long what is learned from now on counts at least for new flows, whatever TTL it has; by default a minute. */
  readonly dnsMinTtlS?: number;
  /** By default neither is bounded. */
  readonly queryBounds?: QueryBounds;
}

/** What workloads with a policy may ask of resolvers, whatever that says of names. 0: as much as they like. */
export interface QueryBounds {
  /** Of a name, dots between labels included. */
  readonly nameBytes: number;
  /** Of one workload; twice as many at once. */
  readonly perSecond: number;
}

export interface Applied {
  /** Entries written, and deleted or to be. */
  readonly written: number;
  readonly deleted: number;
  /** Workloads whose known flows are judged again. */
  readonly rejudged: number;
  /**
   * What failed after this change or the one before was enforced, else null: entries that nothing asks for were left. The next
   * change tries again; nothing is opened by them.
   */
  readonly leftover: unknown;
}

/** What a map holds, for those whose filling is known without asking. */
export interface Fill {
  readonly map: string;
  readonly entries: number;
  readonly maxEntries: number;
}

export class Applier {
  readonly #object: NativeObject;
  readonly #tables;
  readonly #maxEntries: ReadonlyMap<string, number>;
  readonly #slots: Slots;
  readonly #counters: Counters;
  readonly #knownNames: KnownNames;
  readonly #epochs: Map<number, number>;
  /** What of the settings no change changes. */
  readonly #fixed: Omit<Settings, 'levels' | 'pods' | 'podsLevel'>;
  /** Cookies of the namespaces whose way out is guarded, by cgroup. */
  readonly #guarded: Map<bigint, bigint>;
  #settings: Settings;
  #rulesets: ReadonlyMap<Id, RulesetInfo> = new Map();
  /** The own addresses that were worked out last, and from what. */
  #selves = {
    workloads: new Map() as Tables['workloads'],
    slots: new Map() as ReadonlyMap<string, number>,
    desired: new Map() as ReadonlyMap<SelfKey, true>,
  };
  /** Rulesets that just went, by whose names events on their way are told. */
  #formerRulesets: ReadonlyMap<Id, RulesetInfo> = new Map();
  /** What the maps hold is not known for sure: a write failed in part. */
  #isInDoubt = false;
  /** Programs that ask other maps are attached, and count in the same map as ours will. */
  #isBeside: boolean;
  /** Some workload's slot or rulesets changed since the counters were drained. */
  #mayDrain = false;
  /** Gives back the room of what the last change left behind, once no program runs that began before it; null: that is done. */
  #rest: (() => void) | null = null;

  /** Numbers as users see them, for events and counters. */
  readonly names: CounterNames = {
    workload: (slot) => this.#slots.nameOf(slot),
    ruleset: (id) => this.#rulesets.get(id) ?? this.#formerRulesets.get(id) ?? this.#counters.ruleset(id),
    slot: (workload) => this.#slots.slotOf(workload),
  };

  /**
   * `object` holds Postern's maps: empty, or as `inherited` says. `ledger`: what goes on of counters when this process ends; null:
   * nothing. Throws KernelError.
   */
  constructor(
    object: NativeObject,
    { unknown, hostNetns, dnsMinTtlS: shortestTtlS = SHORTEST_TTL_S, queryBounds }: ApplierOptions,
    inherited: Inheritance | null = null,
    ledger: Ledger | null = null,
  ) {
    this.#object = object;
    this.#tables = kernelTables(object);
    this.#maxEntries = new Map(Object.entries(object.maps()).map(([name, { maxEntries }]) => [name, maxEntries]));
    this.#knownNames = new KnownNames(object);
    // An earlier agent may have had room for more.
    const hasRoom = (slot: number): boolean => slot < this.#limit('epochs');
    const held = [...(inherited?.workloads ?? [])].filter(([, { slot }]) => hasRoom(slot));
    this.#slots = new Slots(new Map(held.map(([cgroup, { slot }]) => [standIn(cgroup), slot])));
    const inheritedSlots = new Set(held.map(([, { slot }]) => slot));
    this.#counters = new Counters(object, this.names, ledger, inheritedSlots);
    this.#guarded = new Map(held.flatMap(([cgroup, { netns }]) => (netns === 0n ? [] : [[cgroup, netns]])));
    this.#fixed = {
      ...{ unknown: unknown === 'deny' ? UNKNOWN_DENY : UNKNOWN_ALLOW, hostNetns, shortestTtlS },
      ...{ longestQuery: queryBounds?.nameBytes ?? 0, queriesPerSecond: queryBounds?.perSecond ?? 0 },
    };
    this.#epochs = new Map([...(inherited?.epochs ?? [])].filter(([slot]) => hasRoom(slot)));
    // Of slots that were given up: whoever gets one must not know what another was told.
    if (inherited !== null) this.#knownNames.forgetOthers(inheritedSlots);
    if (inherited?.isInPlace) {
      this.#settings = this.readSettings();
      this.#resync();
      this.#mayDrain = true;
    } else {
      this.#settings = { levels: 0, ...this.#fixed, pods: 0n, podsLevel: 0 };
      this.#write(this.#settings);
    }
    this.#isBeside = inherited !== null && !inherited.isInPlace;
    // Of slots that were given up, and whose counters nobody has read since.
    if (inherited !== null) this.#counters.forget(({ slot }) => slot !== SLOT_UNKNOWN && !inheritedSlots.has(slot));
    if (inherited?.mustRaise)
      this.#endChange([...this.#epochs.keys(), SLOT_UNKNOWN, ...held.map(([, { slot }]) => slot)]);
    else this.#endChange([...this.#epochs].filter(([, epoch]) => isChanging(epoch)).map(([slot]) => slot));
  }

  /**
   * Whether `apply` of this as the first thing after a takeover would let some packet fall between the old verdict and the new:
   * what addresses are changes, and no row bridges what the rulesets in force ask of them.
   */
  wantsBeside(step: Step): boolean {
    const { identities, networks, names } = this.#tables;
    return [
      identities.delta(step.tables.identities),
      networks.delta(step.tables.networks),
      names.delta(step.tables.names),
    ].some(({ upserts, deletes }) => upserts.size + deletes.size > 0);
  }

  /** `flip` and `finish`: blocks until programs have ended. */
  apply(step: Step, bindings: CgroupBindings): Applied {
    const applied = this.flip(step, bindings);
    try {
      this.finish();
    } catch (error) {
      return { ...applied, leftover: applied.leftover ?? error };
    }
    return applied;
  }

  /**
   * All or nothing: what it throws (LimitExceeded, KernelError) leaves enforced what was enforced before; only after
   * RollbackFailed that is not certain. Returns once the change is enforced for every packet that begins after it. What it leaves
   * behind goes with `finish` or `finished`; until one of them is done, the next change blocks.
   */
  flip(step: Step, bindings: CgroupBindings): Applied {
    let leftover: unknown = null;
    if (this.#rest !== null) {
      // What was deleted would be used again by what is written now.
      this.#object.waitForPrograms();
      leftover = this.#giveBack();
    }
    if (this.#isInDoubt) this.#resync();
    const { workloads, identities, networks, names, resolvers, rows, portSets, selves } = this.#tables;
    const { tables, bridge, bridgePortSets } = step;

    const assignment = this.#slots.assign(bindings.keys(), (name) => standInOf(bindings.get(name)));
    const desired = desiredWorkloads(step, bindings, assignment.slots, this.#guarded);
    const levels = levelsOf(bindings);
    const changes = {
      portSets: portSets.delta(tables.portSets, bridgePortSets),
      rows: rows.delta(tables.rows, bridge),
      selves: selves.delta(this.#selvesOf(step, assignment.slots)),
      identities: identities.delta(tables.identities),
      networks: networks.delta(tables.networks),
      names: names.delta(tables.names),
      resolvers: resolvers.delta(new Map([...tables.resolvers].map((key) => [key, true]))),
      workloads: workloads.delta(desired),
    };
    this.#checkLimits([
      ['ports', portSets.peak(changes.portSets)],
      ['verdicts', rows.peak(changes.rows)],
      ['selves', selves.peak(changes.selves)],
      ['identities', identities.peak(changes.identities)],
      ['networks', networks.peak(changes.networks)],
      ['names', names.peak(changes.names)],
      ['resolvers', resolvers.peak(changes.resolvers)],
      ['workloads', workloads.peak(changes.workloads)],
      ['epochs', assignment.end],
    ]);
    const before = this.#settings;
    const isRuled = before.unknown === this.#fixed.unknown && before.hostNetns === this.#fixed.hostNetns;
    const { slots } = new Affected(this.#tables, changes, desired, assignment);
    const affected = isRuled ? slots : new Set([...slots, SLOT_UNKNOWN]);

    // ---- Until the pointers are flipped, nothing asks for what is written. ----
    const opensNothing: (() => void)[] = [];
    const isAskedFor: (() => void)[] = [];
    const early = (undo: () => void): void => void opensNothing.push(undo);
    const late = (undo: () => void): void => void isAskedFor.push(undo);
    try {
      portSets.upsert(changes.portSets.upserts, early);
      rows.upsert(changes.rows.upserts, early);
      if (affected.size > 0) late(() => this.#endChange(affected));
      this.#beginChange(affected);
      selves.upsert(changes.selves.upserts, late);
      identities.upsert(changes.identities.upserts, late);
      networks.upsert(changes.networks.upserts, late);
      identities.remove(changes.identities.deletes, late);
      networks.remove(changes.networks.deletes, late);
      resolvers.upsert(changes.resolvers.upserts, late);
      resolvers.remove(changes.resolvers.deletes, late);
      if (changes.names.upserts.size + changes.names.deletes.size > 0) {
        late(() => this.#knownNames.reclassify(names.entries));
        // What is longer hides what is shorter: nothing is taken away before all is there.
        names.upsert(changes.names.upserts, late);
        names.remove(changes.names.deletes, late);
        this.#knownNames.reclassify(names.entries);
      }
      const { shortestTtlS, longestQuery, queriesPerSecond } = this.#fixed;
      const isSet =
        before.shortestTtlS === shortestTtlS &&
        before.longestQuery === longestQuery &&
        before.queriesPerSecond === queriesPerSecond;
      if ((before.levels | levels) !== before.levels || !isRuled || !isSet) {
        late(() => this.#write(before));
        this.#write({ ...before, levels: before.levels | levels, ...this.#fixed });
      }
      this.#counters.expect(tables.rulesets);
      workloads.upsert(changes.workloads.upserts, late);
      workloads.remove(changes.workloads.deletes, late);
      this.#endChange(affected);
    } catch (error) {
      this.#rollBack(error, isAskedFor, opensNothing);
    }

    // ---- Enforced. What is left only gives room back. ----
    this.#slots.commit(assignment);
    this.#counters.settle();
    identities.settle(tables.identities);
    networks.settle(tables.networks);
    names.settle(tables.names);
    const settle = (): void => {
      selves.settle(this.#selvesOf(step, assignment.slots));
      rows.settle(tables.rows);
      portSets.settle(tables.portSets);
    };
    if (changes.selves.deletes.size + changes.rows.deletes.size + changes.portSets.deletes.size === 0) settle();
    this.#mayDrain ||= changes.workloads.upserts.size > 0 || changes.workloads.deletes.size > 0;
    const gone = new Map([...this.#rulesets].filter(([id]) => !tables.rulesets.has(id)));
    this.#formerRulesets = new Map([...this.#formerRulesets, ...gone]);
    this.#rulesets = tables.rulesets;
    this.#rest = () => {
      const forgetUndo = (): void => {};
      selves.remove(changes.selves.deletes, forgetUndo);
      rows.remove(changes.rows.deletes, forgetUndo);
      portSets.remove(changes.portSets.deletes, forgetUndo);
      settle();
      if (this.#settings.levels !== levels) this.#write({ ...this.#settings, levels });
      this.#drain();
      this.#formerRulesets = gone;
    };
    if (!mustWait(changes, changes.workloads)) leftover ??= this.#giveBack();
    const deltas = Object.values(changes);
    return {
      written: deltas.reduce((sum, { upserts }) => sum + upserts.size, 0),
      deleted: deltas.reduce((sum, { deletes }) => sum + deletes.size, 0),
      rejudged: affected.size,
      leftover,
    };
  }

  /**
   * Whatever is not below this cgroup is the host's, and never denied for being unknown. null: all that is enforced is pods.
   * To be called while nothing is attached. Throws KernelError.
   */
  expectPods(below: CgroupBinding | null): void {
    this.#isBeside = false;
    const { cgroup: pods, level: podsLevel } = below ?? { cgroup: 0n, level: 0 };
    // A program may be reading it, where there was an agent before.
    if (this.#settings.pods === pods && this.#settings.podsLevel === podsLevel) return;
    this.#write({ ...this.#settings, pods, podsLevel });
  }

  /**
   * Who is in this cgroup, now or later, has its way out guarded in the namespace with this cookie; 0n: it is not, or not all of it. Holds for
   * packets that begin from now on, and no flow is judged again. Throws KernelError: nothing has changed, as far as is known.
   */
  guard(cgroup: bigint, netns: bigint): void {
    if (this.#isInDoubt) this.#resync();
    const { workloads } = this.#tables;
    const workload = workloads.entries.get(cgroup);
    if (workload !== undefined && workload.netns !== netns) {
      try {
        workloads.upsert(new Map([[cgroup, { ...workload, netns }]]), () => undefined);
      } catch (error) {
        this.#isInDoubt = true;
        throw error;
      }
    }
    if (netns === 0n) this.#guarded.delete(cgroup);
    else this.#guarded.set(cgroup, netns);
  }

  /** What `guard` was told last, by cgroup. */
  get guarded(): ReadonlyMap<bigint, bigint> {
    return this.#guarded;
  }

  /**
   * One question for each map: does the kernel hold what was written to it? Asked with true, it puts right what does not, and whatever was
   * decided meanwhile is judged again. Each throws KernelError.
   */
  audits(): Audit[] {
    const { names } = this.#tables;
    const repaired = (map: string): void => {
      if (map === names.map) this.#knownNames.reclassify(names.entries);
      this.#endChange(this.#everySlot());
    };
    const settle = (): void => {
      if (this.#isInDoubt) this.#resync();
    };
    const tables = this.#all().map(
      (table): Audit =>
        function* (mustRepair) {
          const parts = table.audit(mustRepair, () => repaired(table.map));
          for (;;) {
            settle();
            const next = parts.next();
            if (next.done === true) return next.value;
            yield;
          }
        },
    );
    return [...tables, atOnce((must) => this.#auditEpochs(must)), atOnce((must) => this.#auditSettings(must))];
  }

  #selvesOf({ tables: { workloads } }: Step, slots: ReadonlyMap<string, number>): ReadonlyMap<SelfKey, true> {
    if (this.#selves.workloads !== workloads || this.#selves.slots !== slots) {
      this.#selves = { workloads, slots, desired: desiredSelves(workloads, slots) };
    }
    return this.#selves.desired;
  }

  #all() {
    const { workloads, identities, networks, names, resolvers, rows, portSets, selves } = this.#tables;
    return [workloads, identities, networks, names, resolvers, rows, portSets, selves];
  }

  #everySlot(): Set<number> {
    return new Set([SLOT_UNKNOWN, ...[...this.#tables.workloads.entries.values()].map(({ slot }) => slot)]);
  }

  #auditEpochs(mustRepair: boolean): MapAudit {
    const { keys, values, count } = this.#object.dump('epochs');
    const wrong: number[] = [];
    for (let at = 0; at < count; at++) {
      const slot = keys.readUInt32LE(at * 4);
      if (values.readUInt32LE(at * 4) !== (this.#epochs.get(slot) ?? 0)) wrong.push(slot);
    }
    // Beyond both: nothing may be trusted that was recorded under either.
    if (mustRepair && wrong.length > 0) this.#endChange(wrong);
    return { ...NO_DIGEST, map: 'epochs', entries: count, wanted: count, differing: wrong.length };
  }

  #auditSettings(mustRepair: boolean): MapAudit {
    const value = Buffer.alloc(SETTINGS_BYTES);
    encodeSettings(this.#settings, value);
    const isRight = this.#object.lookup('settings', SETTINGS_KEY)?.equals(value) ?? false;
    if (mustRepair && !isRight) this.#write(this.#settings);
    return { ...NO_DIGEST, map: 'settings', entries: 1, wanted: 1, differing: isRight ? 0 : 1 };
  }

  /** Waits for programs where the last change left something behind, and gives it back. Throws what failed; what is left then goes with the next change. */
  finish(): void {
    if (this.#rest === null) return;
    this.#object.waitForPrograms();
    const leftover = this.#giveBack();
    if (leftover !== null) throw leftover;
  }

  /** The same without blocking. Gives what failed, else null; also where a `flip` or `abandon` meanwhile left nothing to do. */
  async finished(): Promise<unknown> {
    const rest = this.#rest;
    if (rest === null) return null;
    try {
      await this.#object.programsEnded();
    } catch (error) {
      return error;
    }
    return this.#rest === rest ? this.#giveBack() : null;
  }

  /** Nothing of this object will be written any more. */
  abandon(): void {
    this.#rest = null;
  }

  /** Gives what failed, else null. Only once every program has ended that ran at the last flip. */
  #giveBack(): unknown {
    const rest = this.#rest;
    this.#rest = null;
    try {
      rest?.();
      return null;
    } catch (error) {
      return error;
    }
  }

  /** Exact totals since start, whatever became of workloads and rulesets. Throws KernelError. */
  readCounters(): CounterReading[] {
    return this.#counters.read();
  }

  /** Why counters would not go on exactly after a takeover now; null: they would, or nothing outlives this process. */
  get ledgerFailure(): unknown {
    return this.#counters.failure;
  }

  /** What the programs could not do, by name (`events_rate`, `events_full`, `counters`, …); totals. */
  readLosses(): Map<string, bigint> {
    return this.#counters.losses();
  }

  /** Why DNS messages taught nothing, by name; totals. Throws KernelError. */
  readUntaught(): Map<string, bigint> {
    return this.#counters.untaught();
  }

  /** The name that has this number for the workload in this slot; null: it was forgotten. Throws KernelError. */
  nameOf(slot: number, number: number): string | null {
    return this.#knownNames.nameOf(slot, number)?.name ?? null;
  }

  /** What DNS told workloads, and when that ends. Throws KernelError. */
  readNames(): (KnownName & { readonly workload: string | null })[] {
    const nowS = Number(process.hrtime.bigint() / 1_000_000_000n);
    return this.#knownNames.read(nowS).map((known) => ({ ...known, workload: this.#slots.nameOf(known.slot) }));
  }

  /** What the kernel holds, asked of it. For verification: `apply` goes by what it has written. */
  readBack(): Contents {
    return readBack(this.#object);
  }

  /** The settings that the kernel holds. */
  readSettings(): Settings {
    const value = this.#object.lookup('settings', SETTINGS_KEY);
    if (value === null) throw new Error('an array has all its elements');
    return decodeSettings(value);
  }

  /** The maps that the agent writes, and `counters` as of the last reading. */
  fills(): Fill[] {
    return [...this.#all().map(({ map, size }) => ({ map, size })), { map: 'counters', size: this.#counters.size }].map(
      ({ map, size }) => ({ map, entries: size, maxEntries: this.#limit(map) }),
    );
  }

  #checkLimits(needs: readonly (readonly [map: string, needed: number])[]): void {
    for (const [map, needed] of needs) {
      if (needed > this.#limit(map)) throw new LimitExceeded(map, this.#limit(map), needed);
    }
  }

  #limit(map: string): number {
    return this.#maxEntries.get(map) ?? 0;
  }

  #write(settings: Settings): void {
    const value = Buffer.alloc(SETTINGS_BYTES);
    encodeSettings(settings, value);
    this.#object.update('settings', SETTINGS_KEY, value, 1, 0);
    this.#settings = settings;
  }

  /** What these workloads may do is changing: an agent that takes over amid it must know, or it would trust what was recorded. */
  #beginChange(slots: Iterable<number>): void {
    this.#setEpochs([...slots].map((slot) => [slot, (this.#epochs.get(slot) ?? 0) + 1, 1]));
  }

  /** It has changed: what was recorded of flows before is judged again. */
  #endChange(slots: Iterable<number>): void {
    this.#setEpochs([...slots].map((slot) => [slot, (this.#epochs.get(slot) ?? 0) + 1, 0]));
  }

  /** To the least number that is `least` or more, and odd or even as `parity`. */
  #setEpochs(changes: readonly (readonly [slot: number, least: number, parity: number])[]): void {
    if (changes.length === 0) return;
    const keys = Buffer.alloc(changes.length * 4);
    const values = Buffer.alloc(changes.length * 4);
    for (const [index, [slot, least, parity]] of changes.entries()) {
      const epoch = (least + ((least ^ parity) & 1)) >>> 0;
      this.#epochs.set(slot, epoch);
      keys.writeUInt32LE(slot, index * 4);
      values.writeUInt32LE(epoch, index * 4);
    }
    this.#object.update('epochs', keys, values, changes.length, 0);
  }

  #rollBack(cause: unknown, isAskedFor: readonly (() => void)[], opensNothing: readonly (() => void)[]): never {
    try {
      for (const undo of isAskedFor.toReversed()) undo();
    } catch (undo) {
      this.#isInDoubt = true;
      throw new RollbackFailed(cause, undo);
    }
    try {
      // A program that is running may hold a pointer to the new ruleset still.
      if (isAskedFor.length > 0) this.#object.waitForPrograms();
      for (const undo of opensNothing.toReversed()) undo();
    } catch {
      // Rows that nothing asks for may stay; the next apply reads what there is and deletes them.
      this.#isInDoubt = true;
    }
    throw cause;
  }

  #resync(): void {
    // What was deleted when writes failed may be read still.
    this.#object.waitForPrograms();
    assume(this.#tables, readBack(this.#object));
    // Whoever wrote patterns may have died before names had their classes by them.
    this.#knownNames.mend(this.#tables.names.entries);
    this.#settings = this.readSettings();
    this.#isInDoubt = false;
  }

  /** Counters of slots and rulesets that no program can count under any more. */
  #drain(): void {
    if (!this.#mayDrain || this.#isBeside) return;
    const current = new Map<number, Workload>();
    for (const workload of this.#tables.workloads.entries.values()) current.set(workload.slot, workload);
    this.#counters.drain(({ slot, ruleset }) => {
      if (slot === SLOT_UNKNOWN) return false;
      const workload = current.get(slot);
      if (workload === undefined) return true;
      return ruleset !== NO_ID && ruleset !== workload.enforced && ruleset !== workload.shadow;
    }, this.#rulesets);
    this.#knownNames.forget(this.#slots.resting.keys());
    this.#slots.reuse([...this.#slots.resting.keys()]);
    this.#mayDrain = false;
  }
}

/** What no other node has, and nothing is to be compared with. */
const NO_DIGEST = { digest: null, wantedDigest: null };

function atOnce(audit: (mustRepair: boolean) => MapAudit): Audit {
  // biome-ignore lint/correctness/useYield: it takes no time.
  return function* (mustRepair) {
    return audit(mustRepair);
  };
}

const SETTINGS_KEY = Buffer.alloc(4);

/** Odd while what the workload may do is being changed. */
function isChanging(epoch: number): boolean {
  return (epoch & 1) === 1;
}

/** For the name of a workload that is not known yet. No workload is called so. */
function standIn(cgroup: bigint): string {
  return `cgroup ${cgroup}`;
}

function standInOf(binding: CgroupBinding | undefined): string | null {
  return binding === undefined ? null : standIn(binding.cgroup);
}

function desiredWorkloads(
  { tables }: Step,
  bindings: CgroupBindings,
  slots: ReadonlyMap<string, number>,
  guarded: ReadonlyMap<bigint, bigint>,
): Map<bigint, Workload> {
  const workloads = new Map<bigint, Workload>();
  for (const [name, { cgroup }] of bindings) {
    if (workloads.has(cgroup)) throw new Error(`two workloads are bound to the cgroup ${cgroup}`);
    const { enforced, shadow } = tables.workloads.get(name) ?? { enforced: NO_ID, shadow: NO_ID };
    workloads.set(cgroup, { slot: slotIn(slots, name), enforced, shadow, netns: guarded.get(cgroup) ?? 0n });
  }
  return workloads;
}

function desiredSelves(workloads: Tables['workloads'], slots: ReadonlyMap<string, number>): Map<SelfKey, true> {
  const selves = new Map<SelfKey, true>();
  for (const [name, slot] of slots) {
    for (const address of workloads.get(name)?.selves ?? []) selves.set(`${slot}/${address}`, true);
  }
  return selves;
}

function slotIn(slots: ReadonlyMap<string, number>, name: string): number {
  const slot = slots.get(name);
  if (slot === undefined) throw new Error(`${name} has no slot`);
  return slot;
}

function levelsOf(bindings: CgroupBindings): number {
  let levels = 0;
  for (const [name, { level }] of bindings) {
    if (level < 0 || level >= MAX_LEVELS) throw new Error(`${name} is bound at level ${level}`);
    levels |= 1 << level;
  }
  return levels >>> 0;
}

/**
 * Elements that are deleted are used again at once, so no program may still be reading them when the next are written; and
 * counters can be drained only when nobody counts under the old pointers any more.
 */
function mustWait(
  changes: Readonly<Record<string, { readonly deletes: ReadonlySet<unknown> }>>,
  workloads: Delta<bigint, Workload>,
): boolean {
  const flips = workloads.upserts.size > workloads.inserted;
  return flips || Object.values(changes).some(({ deletes }) => deletes.size > 0);
}
