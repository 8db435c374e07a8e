// SPDX-License-Identifier: Apache-2.0
// Through any sequence of changes, with writes failing anywhere: do the maps hold what was last enforced, and does no packet in
// between find a pointer without its rows? Random, from a fixed seed.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { SLOT_UNKNOWN } from '#build/generated/abi.ts';
import { Applier, type CgroupBindings } from '#src/kernel/apply.ts';
import { RollbackFailed } from '#src/kernel/errors.ts';
import { KernelError } from '#src/kernel/native.ts';
import { readBack } from '#src/kernel/tables.ts';
import { ShardedMap } from '#src/model/sharded-map.ts';
import { type IdentityEntry, NO_ID, type Row, type Step } from '#src/model/tables.ts';
import { FakeObject } from './fake.ts';
import { address, entry, id, keyOf, row, step } from './fixture.ts';

const RULESETS = ['a', 'b', 'c'];
const IDENTITIES = ['1', '2', '3'];
const NAMES = ['x/p', 'x/q', 'x/r'];

/** The content of a row follows from its key, as with real ones. */
function rowsOf(rulesets: Iterable<string>, identities: Iterable<string>): Row[] {
  const subjects = [...new Set(identities)];
  return [...new Set(rulesets)].flatMap((ruleset) => [
    row(id(ruleset)),
    ...subjects.map((subject) =>
      row(id(ruleset), id(subject), { entries: [entry(6, ruleset.charCodeAt(0), subject.charCodeAt(0) + 256)] }),
    ),
  ]);
}

interface Want {
  /** Ruleset by name; null: not bound. */
  readonly rulesets: readonly (string | null)[];
  /** Identity by address; null: nobody has it. */
  readonly identities: readonly (string | null)[];
  /** Fails at this call, counted from the beginning of the change; null: never. */
  readonly failAt: number | null;
  /** What fails goes on failing for so many calls. */
  readonly failures: number;
  /** When what the change left behind is given back: before it returns, on another turn of the loop, or by the next change. */
  readonly rest: 'now' | 'later' | 'next';
}

const want: fc.Arbitrary<Want> = fc.record({
  rulesets: fc.tuple(...NAMES.map(() => fc.option(fc.constantFrom('', ...RULESETS)))),
  identities: fc.tuple(...IDENTITIES.map(() => fc.option(fc.constantFrom(...IDENTITIES)))),
  failAt: fc.option(fc.integer({ min: 0, max: 12 }), { freq: 3 }),
  failures: fc.constantFrom(1, 1, 1, 2, 30),
  rest: fc.constantFrom('now', 'later', 'next'),
});

function present(list: readonly (string | null)[]): string[] {
  return list.filter((each) => each !== null && each !== '') as string[];
}

/** What a change asks for, and the rows that old rulesets need on new subjects, and new ones on old. */
function changeTo(next: Want, before: Want): { step: Step; bindings: CgroupBindings } {
  const bound = NAMES.flatMap((name, index): [string, string][] => {
    const ruleset = next.rulesets[index] ?? null;
    return ruleset === null ? [] : [[name, ruleset]];
  });
  const holders = next.identities.flatMap((holder, index): [string, { id: string; network: string; kind: number }][] =>
    holder === null ? [] : [[address(index), { id: id(holder), network: NO_ID, kind: 5 }]],
  );
  const both = [...present(next.identities), ...present(before.identities)];
  const rows = rowsOf(present(next.rulesets), present(next.identities));
  const own = new Set(rows.map(keyOf));
  const made = step({
    rows,
    bridge: rowsOf([...present(next.rulesets), ...present(before.rulesets)], both).filter(
      (each) => !own.has(keyOf(each)),
    ),
    identities: Object.fromEntries(holders),
    workloads: Object.fromEntries(bound.map(([name, ruleset]) => [name, ruleset === '' ? NO_ID : id(ruleset)])),
  });
  // As compile has them: by shard, so that the applier looks only at what differs from what it settled.
  const identities = ShardedMap.empty<IdentityEntry>().with(made.tables.identities);
  return {
    step: { ...made, tables: { ...made.tables, identities } },
    bindings: new Map(bound.map(([name]) => [name, { cgroup: BigInt(NAMES.indexOf(name) + 1), level: 1 }])),
  };
}

/** What a packet could ask for now is there. */
function assertNoHole(object: FakeObject): void {
  const { workloads, identities, rows } = readBack(object);
  for (const [cgroup, { enforced }] of workloads) {
    if (enforced === NO_ID) continue;
    assert(rows.has(`${enforced}/${NO_ID}/00000000`), `${cgroup} has ${enforced}, whose header is gone`);
    for (const { id: subject } of identities.values()) {
      assert(rows.has(`${enforced}/${subject}/00000000`), `${enforced} has no row on ${subject}`);
    }
  }
}

function held(object: FakeObject): unknown {
  const { workloads, identities, rows } = readBack(object);
  return {
    workloads: new Map([...workloads].map(([cgroup, { enforced, shadow }]) => [cgroup, [enforced, shadow]])),
    identities,
    rows: new Set(rows.keys()),
  };
}

function desired({ tables }: Step, bindings: CgroupBindings): unknown {
  return {
    workloads: new Map(
      [...bindings].map(([name, { cgroup }]) => {
        const workload = tables.workloads.get(name);
        return [cgroup, [workload?.enforced, workload?.shadow]];
      }),
    ),
    identities: new Map(tables.identities),
    rows: new Set(tables.rows.keys()),
  };
}

/**
 * A deleted element is used again at once. So between a deletion of what running programs may read and the next write to that map,
 * and between a flip and the deletion of what was asked for before it, programs are waited for. Taking back is left out.
 */
class GraceWatch {
  readonly #deleted = new Set<string>();
  #isFlipped = false;
  hasFailed = false;

  look(call: string): void {
    const [verb, map = ''] = call.split(' ');
    if (verb === 'wait') {
      this.#deleted.clear();
      this.#isFlipped = false;
      return;
    }
    const isPointed = ['identities', 'networks', 'workloads'].includes(map);
    if (!this.hasFailed && verb === 'update') assert(!this.#deleted.has(map), `${call} where a program may still read`);
    if (!this.hasFailed && verb === 'remove' && ['verdicts', 'ports', 'selves'].includes(map)) {
      assert(!this.#isFlipped, `${call} while a program may ask for it`);
    }
    if (verb === 'remove' && isPointed) this.#deleted.add(map);
    if (isPointed) this.#isFlipped = true;
  }
}

test('any sequence of changes and failures', async () => {
  const seen = { applied: 0, failed: 0, inDoubt: 0 };
  await fc.assert(
    fc.asyncProperty(fc.array(want, { minLength: 1, maxLength: 8 }), async (wants) => {
      const object = new FakeObject();
      const applier = new Applier(object, { unknown: 'allow', hostNetns: 0n });
      let before: Want = { rulesets: [], identities: [], failAt: null, failures: 0, rest: 'now' };
      let enforced = desired(step({}), new Map());
      const grace = new GraceWatch();
      for (const next of wants) {
        const change = changeTo(next, before);
        let call = 0;
        object.onCall = (what) => {
          assertNoHole(object);
          const index = call++;
          if (next.failAt === null || index < next.failAt || index >= next.failAt + next.failures) {
            grace.look(what);
            return;
          }
          grace.hasFailed = true;
          throw new KernelError(what, 'ENOMEM', what);
        };
        try {
          const applied =
            next.rest === 'now'
              ? applier.apply(change.step, change.bindings)
              : applier.flip(change.step, change.bindings);
          const leftover = next.rest === 'later' ? await applier.finished() : applied.leftover;
          before = next;
          enforced = desired(change.step, change.bindings);
          seen.applied++;
          if (leftover === null && next.rest !== 'next') assert.deepEqual(held(object), enforced);
        } catch (error) {
          if (!(error instanceof KernelError) && !(error instanceof RollbackFailed)) throw error;
          if (error instanceof RollbackFailed) {
            // Only the next change mends it: the same again, with nothing failing.
            object.onCall = (what) => grace.look(what);
            grace.hasFailed = false;
            applier.apply(change.step, change.bindings);
            before = next;
            enforced = desired(change.step, change.bindings);
            seen.inDoubt++;
          } else {
            seen.failed++;
          }
        }
        object.onCall = (what) => grace.look(what);
        grace.hasFailed = false;
        assertNoHole(object);
        const now = held(object) as { workloads: unknown; identities: unknown };
        const then = enforced as { workloads: unknown; identities: unknown };
        assert.deepEqual([now.workloads, now.identities], [then.workloads, then.identities]);
        const slots = [...readBack(object).workloads.values()].map(({ slot }) => slot);
        assert.equal(new Set(slots).size, slots.length, 'a slot is one workload');
        assert(!slots.includes(SLOT_UNKNOWN));
      }
      // In the end nothing is left over.
      applier.apply(step({}), new Map());
      applier.apply(step({}), new Map());
      assert.deepEqual(held(object), desired(step({}), new Map()));
    }),
    { seed: 4, numRuns: 400 },
  );
  assert(seen.applied > 100 && seen.failed > 100 && seen.inDoubt > 10, JSON.stringify(seen));
});
