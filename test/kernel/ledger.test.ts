// SPDX-License-Identifier: Apache-2.0
// Do totals go on, exactly, over agents that die at any step: none lower than before, none counted twice? And over a disk that takes nothing?
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test from 'node:test';
import * as abi from '#build/generated/abi.ts';
import { Applier } from '#src/kernel/apply.ts';
import { decodeEntries, WORKLOADS } from '#src/kernel/encode.ts';
import type { Inheritance } from '#src/kernel/inheritance.ts';
import { Ledger } from '#src/kernel/ledger.ts';
import { policyName } from '#src/resolve/order.ts';
import { seeded } from '../oracle/random.ts';
import { FakeObject } from './fake.ts';
import { id, info, row, step } from './fixture.ts';

const OPTIONS = { unknown: 'allow', hostNetns: 0n } as const;
const NAMES = ['shop/web', 'shop/db', 'shop/job'];
const SEED = Number(process.env.POSTERN_SEED ?? 11);
const DEATHS = 400;

/** Dies at the n-th thing that it does to kernel or disk: it does it or not, and nothing after it. */
class Death {
  left = Number.POSITIVE_INFINITY;
  count = 0;
  get isOver(): boolean {
    return this.left < 0;
  }
  step(): void {
    this.count += 1;
    this.left -= 1;
    if (this.isOver) throw new Error('it is dead');
  }
}

class MortalLedger extends Ledger {
  readonly #death: Death;
  constructor(folder: string, death: Death) {
    super(folder, 'the same map');
    this.#death = death;
  }
  override begin(...args: Parameters<Ledger['begin']>): void {
    this.#death.step();
    super.begin(...args);
  }
  override end(): void {
    this.#death.step();
    super.end();
  }
}

/** A kernel that outlives agents, what was truly counted there, and what was told of it last. */
class World {
  readonly kernel = new FakeObject();
  readonly folder: string;
  /** By workload and policy, for as long as the workload is the same. */
  readonly truth = new Map<string, bigint>();
  readonly cgroups = new Map(NAMES.map((name, index) => [name, BigInt(100 + index)]));
  rulesets = new Map(NAMES.map((name) => [name, 'a']));
  #next = 1000n;

  constructor(t: test.TestContext) {
    this.folder = mkdtempSync(path.join(tmpdir(), `postern-ledger-${process.pid}-`));
    t.after(() => rmSync(this.folder, { recursive: true }));
  }

  /** Whoever is bound sends: counted under what the kernel points to now. */
  send(packets: number): void {
    for (const [cgroup, { slot, enforced }] of decodeEntries(WORKLOADS, this.kernel.dump('workloads'))) {
      const key = Buffer.alloc(abi.COUNTER_KEY_BYTES);
      abi.encodeCounterKey(
        { ruleset: enforced, slot, rule: 0, reason: abi.REASON_RULE, verdict: abi.VERDICT_ALLOW },
        key,
      );
      const value = Buffer.alloc(abi.COUNTER_BYTES);
      const before = this.kernel.lookup('counters', key);
      const old = before === null ? { packets: 0n, bytes: 0n } : abi.decodeCounter(before);
      abi.encodeCounter({ packets: old.packets + BigInt(packets), bytes: old.bytes + BigInt(packets * 10) }, value);
      this.kernel.contents.get('counters')?.set(key.toString('hex'), value);
      const [name] = [...this.cgroups].find(([, one]) => one === cgroup) ?? [];
      if (name === undefined) continue;
      const series = `${name} ${policyName(info(enforced).isolating[0] ?? assert.fail())}`;
      this.truth.set(series, (this.truth.get(series) ?? 0n) + BigInt(packets));
    }
  }

  /** A pod by the same name in another cgroup: its series begin anew. */
  recreate(name: string): void {
    this.#next += 1n;
    this.cgroups.set(name, this.#next);
    for (const series of this.truth.keys()) if (series.startsWith(`${name} `)) this.truth.delete(series);
  }

  agent(death = new Death()): Applier {
    const workloads = decodeEntries(WORKLOADS, this.kernel.dump('workloads'));
    const epochs = new Map<number, number>();
    for (const [key, value] of this.kernel.contents.get('epochs') ?? []) {
      epochs.set(Buffer.from(key, 'hex').readUInt32LE(), value.readUInt32LE());
    }
    const inherited: Inheritance = {
      ...{ workloads, epochs, guards: new Map(), sources: new Map(), isInPlace: true, mustRaise: false },
    };
    this.kernel.onCall = () => death.step();
    return new Applier(this.kernel, OPTIONS, inherited, new MortalLedger(this.folder, death));
  }

  apply(applier: Applier, between = (): void => {}): void {
    const letters = new Set(this.rulesets.values());
    const workloads = Object.fromEntries([...this.rulesets].map(([name, letter]) => [name, id(letter)]));
    const bindings = new Map([...this.cgroups].map(([name, cgroup]) => [name, { cgroup, level: 1 }]));
    applier.flip(step({ rows: [...letters].map((letter) => row(id(letter))), workloads }), bindings);
    between();
    applier.finish();
  }

  /** What is told is what was counted. */
  check(applier: Applier, when: string): void {
    const told = new Map(
      applier
        .readCounters()
        .filter(({ live }) => live)
        .map(({ workload, policy, packets, bytes }) => {
          assert.equal(bytes, packets * 10n);
          return [`${workload} ${policy}`, packets];
        }),
    );
    assert.deepEqual([...told].sort(), [...this.truth].sort(), when);
  }
}

test('policies change, agents die at any step, and what is told stays what was counted', (t) => {
  const random = seeded(SEED);
  const world = new World(t);
  world.apply(world.agent());
  for (let life = 0; life < DEATHS; life++) {
    const when = `seed ${SEED}, life ${life}`;
    // While nobody runs, pods send, policies change, and now and then one is another pod by the same name.
    world.send(random.between(1, 9));
    if (random.chance(0.2)) world.recreate(random.pick(NAMES));
    const death = new Death();
    if (random.chance(0.8)) death.left = random.below(40);
    const change = (): void => {
      world.rulesets.set(random.pick(NAMES), random.pick(['a', 'b', 'c', 'd']));
    };
    try {
      const applier = world.agent(death);
      for (let changes = random.between(1, 4); changes > 0; changes--) {
        if (random.chance(0.7)) change();
        world.apply(applier, () => world.send(random.below(3)));
        if (death.isOver) break;
        world.check(applier, when);
        world.send(random.between(1, 9));
        world.check(applier, when);
      }
    } catch (error) {
      if (!death.isOver) throw error;
    }
  }
  const last = world.agent();
  world.apply(last);
  world.check(last, `seed ${SEED}, at last`);
  assert.deepEqual(readdirSync(world.folder), ['counters']);
});

test('a disk that takes nothing is told, and totals go on; they are written as soon as it takes something', (t) => {
  const world = new World(t);
  const folder = world.folder;
  const gone = new Applier(world.kernel, OPTIONS, null, new Ledger(path.join(folder, 'gone'), 'the same map'));
  world.apply(gone);
  assert.equal((gone.ledgerFailure as NodeJS.ErrnoException).code, 'ENOENT');
  world.send(5);
  world.rulesets.set('shop/web', 'b');
  world.apply(gone);
  world.check(gone, 'without a disk');

  const there = new Applier(world.kernel, OPTIONS, null, new Ledger(folder, 'the same map'));
  world.apply(there);
  assert.equal(there.ledgerFailure, null);
  assert.deepEqual(readdirSync(folder), ['counters']);
});

test('a ledger of another map, of another version or with anything else in it is left aside', (t) => {
  const { folder } = new World(t);
  const lines = [{ labels: ['allow', 'rule', null, null], packets: 1n, bytes: 2n }] as const;
  const state = {
    workloads: new Map([['shop/web', { slot: 3, lines }]]),
    rulesets: new Map([[id('a'), info(id('a'))]]),
  };
  const ledger = new Ledger(folder, 'this map');
  ledger.begin(state, ['ff']);
  assert.deepEqual(ledger.read(), { state, removed: ['ff'], isUnfinished: true });
  ledger.end();
  assert.deepEqual(ledger.read(), { state, removed: [], isUnfinished: false });
  assert.equal(new Ledger(folder, 'another map').read(), null);
  const file = path.join(folder, 'counters');
  const text = readFileSync(file, 'utf8');
  for (const [from, to] of [
    ['"version":2', '"version":1'],
    ['["ff"]', '["fg"]'],
    ['"shop/web",3', '"shop/web","3"'],
    ['"1","2"', '"1","-2"'],
    ['"isolating":[', '"isolated":['],
    ['}]', '}'],
  ] as const) {
    assert.ok(text.includes(from), from);
    writeFileSync(file, text.replace(from, to));
    assert.equal(ledger.read(), null, to);
  }
});
