// SPDX-License-Identifier: Apache-2.0
// What does a packet cost, by BPF_PROG_TEST_RUN? A process of its own, since the kernel takes the caller's cgroup for the packet's:
// it must be started in the cgroup of its first argument; the second is a plan. Writes PacketCosts as JSON on stdout.
//
// Ways to send a packet, all in one run, take turns: a noisy moment then spoils one round of each, and not one way.

import { fileURLToPath } from 'node:url';
import { decodeCounterKey, REASON_RULE } from '#build/generated/abi.ts';
import { loadNative, type NativeObject } from '../src/kernel/native.ts';
import { enforce, putGuard } from './enforce.ts';
import { frame } from './frame.ts';
import * as policy from './policy.ts';
import { median, type Spread, spread } from './statistics.ts';

/** ns over the empty program; `of` says what was counted out to `count`. */
export interface Series {
  readonly of: 'addresses' | 'prefixes' | 'rules' | 'ports';
  readonly points: readonly Point[];
}
export interface Point {
  readonly count: number;
  /** A packet of a flow that is known. */
  readonly known: number;
  /** A packet that must be judged: always to one destination, and each time to any of them. */
  readonly hot: number;
  readonly random: number;
}
export interface PacketCosts {
  /** The empty program, in ns. */
  readonly empty: Spread;
  /** ns over the empty program, by the way of sending. */
  readonly ways: Readonly<Record<string, Spread>>;
  readonly series: readonly Series[];
  readonly rounds: number;
  readonly repeats: number;
}

const PRODUCT = fileURLToPath(new URL('../build/postern.bpf.o', import.meta.url));
const BENCH = fileURLToPath(new URL('../build/bench.bpf.o', import.meta.url));
/** What stands for any of the destinations; see bpf/bench.bpf.c. */
const ANYWHERE = '0.0.0.0';

interface Way {
  readonly object: NativeObject;
  readonly program: string;
  readonly packet: Buffer;
  readonly passes: boolean;
  readonly ns: number[];
}

const PLANS = {
  full: {
    rounds: 40,
    repeats: 100_000,
    addresses: [10, 100, 1000, 10_000, 100_000, 1_000_000],
    rules: [10, 100, 1000, 10_000],
  },
  quick: { rounds: 7, repeats: 20_000, addresses: [10, 100, 1000, 10_000], rules: [10, 100, 1000] },
  /** Only that it works: the numbers mean nothing. */
  once: { rounds: 1, repeats: 1000, addresses: [10, 100], rules: [10] },
};
export type PlanName = keyof typeof PLANS;

function isPlan(name: string): name is PlanName {
  return Object.hasOwn(PLANS, name);
}

const [cgroup = '', name = ''] = process.argv.slice(2);
if (!isPlan(name)) throw new Error(`usage: packet-cost.ts CGROUP ${Object.keys(PLANS).join('|')}`);
const plan = PLANS[name];
/** What no TCP packet asks is kept small, so that twenty objects fit in memory. */
const SMALL = { flows: 1024 };

const native = loadNative();
const objects: NativeObject[] = [];

function load(path: string, scenario: policy.Scenario, constants: Record<string, number>): NativeObject {
  const object = native.load(path, SMALL, constants);
  objects.push(object);
  enforce(native, object, scenario.snapshot, cgroup);
  return object;
}

function way(object: NativeObject, program: string, packet: Buffer, passes = true): Way {
  return { object, program, packet, passes, ns: [] };
}

const everything = policy.everything();
const product = load(PRODUCT, everything, {});
/** With the guard's programs as they are, but for what they would ask of a socket that a test run's has not. */
const guarded = load(BENCH, everything, {});
putGuard(native, guarded, cgroup);
const { address, port } = everything.allowed;
const tcp = { protocol: 'TCP', address, port } as const;
const udp = { protocol: 'UDP', address, port } as const;
const ways = {
  'known TCP': way(product, 'egress', frame(tcp)),
  'known TCP, IPv6': way(product, 'egress', frame({ ...tcp, address: 'fd00::1' })),
  'known UDP': way(product, 'egress', frame(udp)),
  'known UDP, IPv6': way(product, 'egress', frame({ ...udp, address: 'fd00::1' })),
  'new TCP': way(product, 'egress', frame({ ...tcp, syn: true })),
  'new TCP, IPv6': way(product, 'egress', frame({ ...tcp, address: 'fd00::1', syn: true })),
  'refused TCP': way(product, 'egress', frame({ ...tcp, address: '192.0.2.1', syn: true }), false),
  'refused UDP': way(product, 'egress', frame({ ...udp, address: '192.0.2.1' }), false),
  'guard, known TCP': way(guarded, 'guard_known', frame(tcp)),
  'guard, known TCP, IPv6': way(guarded, 'guard_known', frame({ ...tcp, address: 'fd00::1' })),
  'guard, known UDP': way(guarded, 'guard_out', frame(udp)),
  'guard, known UDP, IPv6': way(guarded, 'guard_out', frame({ ...udp, address: 'fd00::1' })),
  'guard, new TCP': way(guarded, 'guard_out', frame({ ...tcp, syn: true })),
  'guard, refused TCP': way(guarded, 'guard_out', frame({ ...tcp, address: '192.0.2.1', syn: true }), false),
};

interface Measured {
  readonly of: Series['of'];
  readonly count: number;
  readonly object: NativeObject;
  readonly known: Way;
  readonly hot: Way;
  readonly random: Way;
}

function measured(of: Series['of'], count: number, scenario: policy.Scenario): Measured {
  process.stderr.write(`compiling ${count} ${of}\n`);
  const object = load(BENCH, scenario, { ...scenario.anywhere });
  const { allowed } = scenario;
  return {
    of,
    count,
    object,
    known: way(object, 'egress', frame({ protocol: 'TCP', ...allowed })),
    hot: way(object, 'egress', frame({ protocol: 'TCP', ...allowed, syn: true })),
    random: way(object, 'egress', frame({ protocol: 'TCP', ...allowed, address: ANYWHERE, syn: true })),
  };
}

const points: Measured[] = [
  ...plan.addresses.map((count) => measured('addresses', count, policy.podAddresses(count))),
  ...plan.addresses.map((count) => measured('prefixes', count, policy.prefixes(count))),
  ...plan.rules.map((count) => measured('rules', count, policy.rulesForPods(count))),
  ...plan.rules.map((count) => measured('ports', count, policy.rulesForPorts(count))),
];
const [first] = points;
if (first === undefined) throw new Error('nothing to measure');
const empty = way(first.object, 'empty', frame(tcp));

function run({ object, program, packet, passes, ns }: Way, floor: number): number {
  const { retval, durationNs } = object.testRun(program, packet, plan.repeats);
  // 1 is what egress says of a packet that passes, -1 the guard.
  if ((retval === 1 || retval === 0xffffffff) !== passes)
    throw new Error(`${program} returned ${retval} where it should ${passes ? '' : 'not '}pass`);
  ns.push(durationNs - floor);
  return durationNs;
}

process.stderr.write(`${plan.rounds} rounds\n`);
for (let round = 0; round < plan.rounds; round++) {
  let floor = run(empty, 0);
  for (const each of Object.values(ways)) run(each, floor);
  for (const { known, hot, random } of points) {
    floor = run(empty, 0);
    for (const each of [known, hot, random]) run(each, floor);
  }
}

// A random destination that was not allowed would be cheap, and a lie.
for (const { of, count, object } of points) {
  const { keys, count: entries } = object.dump('counters');
  const bytes = keys.length / entries;
  const reasons = Array.from({ length: entries }, (_, index) => decodeCounterKey(keys, index * bytes).reason);
  if (reasons.some((reason) => reason !== REASON_RULE)) {
    throw new Error(`${count} ${of}: packets passed or failed for other reasons than a rule: ${reasons}`);
  }
}
for (const object of objects) object.close();

const costs: PacketCosts = {
  empty: spread(empty.ns),
  ways: Object.fromEntries(Object.entries(ways).map(([name, { ns }]) => [name, spread(ns)])),
  series: (['addresses', 'prefixes', 'rules', 'ports'] as const).map((of) => ({
    of,
    points: points
      .filter((point) => point.of === of)
      .map(({ count, known, hot, random }) => ({
        ...{ count, known: median(known.ns), hot: median(hot.ns), random: median(random.ns) },
      })),
  })),
  ...{ rounds: plan.rounds, repeats: plan.repeats },
};
process.stdout.write(`${JSON.stringify(costs)}\n`);
