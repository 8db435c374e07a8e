// SPDX-License-Identifier: Apache-2.0
// What is worked out from what changed is what would be worked out from nothing: clusters and policies change at random, object by
// object and all at once, and after each change the tables are those of a fresh compile.
import assert from 'node:assert/strict';
import test from 'node:test';
import { LocalPods } from '../../src/agent/local-pods.ts';
import { type Compiled, compile } from '../../src/compile/compile.ts';
import { transition } from '../../src/compile/transition.ts';
import type { Snapshot } from '../../src/model/objects.ts';
import type { Tables } from '../../src/model/tables.ts';
import { ObjectStore } from '../../src/source/store.ts';
import { generate } from '../oracle/generate.ts';
import { type Random, seeded } from '../oracle/random.ts';

const SEED = Number(process.env.POSTERN_SEED ?? 5);
const CLUSTERS = 40;
const CHANGES = 25;

function snapshotOf(seed: number): Snapshot {
  const { objects, host } = generate(seed, 0);
  const text = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects });
  return new ObjectStore(null).update({ files: [{ path: 'case.json', text, hash: '' }], unreadable: [] }, host)
    .snapshot;
}

const LISTS = ['namespaces', 'nodes', 'pods', 'services', 'endpointSlices', 'policies'] as const;

/** Takes some objects from one cluster and puts in some of another's; what stays is the same object, lists that stay the same list. */
function changed(random: Random, from: Snapshot, other: Snapshot): Snapshot {
  const next: Record<string, unknown> = { ...from };
  for (const list of random.chance(0.2) ? LISTS : [random.pick(LISTS)]) {
    const items: readonly { readonly namespace?: string | null; readonly name: string }[] = [...from[list]];
    const others: typeof items = [...other[list]];
    const kept = items.filter(() => !random.chance(0.2));
    const known = new Set(kept.map(({ namespace, name }) => `${namespace}/${name}`));
    const come = others.filter(({ namespace, name }) => random.chance(0.2) && !known.has(`${namespace}/${name}`));
    const at = random.between(0, kept.length);
    next[list] = [...kept.slice(0, at), ...come, ...kept.slice(at)];
  }
  return next as unknown as Snapshot;
}

function plain(tables: Tables): Record<keyof Tables, unknown> {
  const sorted = (map: ReadonlyMap<string, unknown>): [string, unknown][] =>
    [...map].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  return {
    identities: sorted(tables.identities),
    networks: sorted(tables.networks),
    names: sorted(tables.names),
    resolvers: [...tables.resolvers].sort(),
    rows: sorted(tables.rows),
    portSets: sorted(tables.portSets),
    rulesets: sorted(tables.rulesets),
    workloads: sorted(tables.workloads),
  };
}

test('after any changes the tables are those of a fresh compile', () => {
  for (let seed = SEED; seed < SEED + CLUSTERS; seed++) {
    const random = seeded(seed);
    const clusters = [0, 1, 2].map((index) => snapshotOf(seed * 1000 + index));
    let snapshot = clusters[0] ?? assert.fail();
    // Refused changes leave the compiler ahead of what is enforced; some are refused here.
    let enforced: Compiled | null = null;
    const isLocal = random.chance(0.5) ? (pod: { readonly name: string }) => !pod.name.endsWith('1') : () => true;
    const followed = new LocalPods(isLocal);
    for (let change = 0; change < CHANGES; change++) {
      const { steps, compiled }: ReturnType<typeof transition> = transition(enforced, snapshot, {
        local: followed.of(snapshot.pods),
      });
      const at = `POSTERN_SEED=${seed}, change ${change}`;
      const fresh = compile(snapshot, { local: snapshot.pods.filter(isLocal) });
      assert.deepEqual(plain(compiled.tables), plain(fresh.tables), at);
      assert.equal(steps.at(-1)?.tables, compiled.tables, at);
      assert.deepEqual(compiled.problems, fresh.problems, at);
      if (!random.chance(0.2)) enforced = compiled;
      snapshot = random.chance(0.1)
        ? { ...snapshot, host: random.pick(clusters).host }
        : changed(random, snapshot, random.pick(clusters));
    }
  }
});
