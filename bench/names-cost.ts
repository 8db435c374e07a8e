// SPDX-License-Identifier: Apache-2.0
// What do names cost by the packet, behind a guard? By BPF_PROG_TEST_RUN, each against the same packet where there is nothing to learn.
// Knows no traffic: that is names-traffic.ts's.

import { fileURLToPath } from 'node:url';
import {
  ASKED_BYTES,
  ASKED_KEY_BYTES,
  DNS_LOSS_NAMES,
  LEARNED_PER_WORKLOAD,
  NAMES_PER_ADDRESS,
} from '#build/generated/abi.ts';
import type { Native, NativeObject } from '../src/kernel/native.ts';
import { enforce, putGuard } from './enforce.ts';
import { frame, message } from './frame.ts';
import * as policy from './policy.ts';
import { type Spread, spread } from './statistics.ts';

export type WayName =
  | 'question, asked before'
  | 'question, new'
  | 'question, new, AllowedNamesOnly'
  | `answer of ${'1 address' | '8 addresses'}, ${'told before' | 'new'}`
  | 'new flow, no policy has names'
  | `new flow, ${'0 names' | '1 name' | '8 names'}`;

export interface NamesCost {
  /** ns over the same datagram from or to nobody's resolver; of a new flow, over the empty program. */
  readonly ways: Readonly<Record<WayName, Spread>>;
  readonly rounds: number;
  readonly repeats: number;
}

export const PLANS = {
  full: { rounds: 40, repeats: 10_000 },
  quick: { rounds: 7, repeats: 5000 },
  /** Only that it works: the numbers mean nothing. */
  once: { rounds: 1, repeats: 5000 },
};

const BENCH = fileURLToPath(new URL('../build/bench.bpf.o', import.meta.url));
/** As long as bench.bpf.c has it, which writes another label over it. */
const NAME = `aaaaaaaa.${policy.DOMAIN}`;
const ONCE = 1;

interface Run {
  readonly object: NativeObject;
  readonly program: string;
  readonly packet: Buffer;
}
interface Way extends Run {
  /** What is taken off. */
  readonly less: Run;
  readonly ns: number[];
}

/** @param cgroup whose workload this is; nobody need be in it. Throws where something was not learned: that is no measurement. */
export function measureNames(
  native: Native,
  cgroup: string,
  { rounds, repeats }: { rounds: number; repeats: number },
): NamesCost {
  const objects: NativeObject[] = [];
  const load = (scenario: policy.Scenario): NativeObject => {
    const object = native.load(BENCH, { flows: 1024 });
    objects.push(object);
    enforce(native, object, scenario.snapshot, cgroup);
    putGuard(native, object, cgroup);
    return object;
  };
  try {
    const any = load(policy.names({ only: false }));
    const crowded = load(policy.names({ only: false }));
    const limited = load(policy.names({ only: true }));
    const unnamed = load(policy.everything());

    const named = [0, 1, NAMES_PER_ADDRESS].map((count) => ({ count, address: `10.0.0.${count}` }));
    for (const { count, address } of named) {
      for (let name = 0; name < count; name++) teach(any, `${name}${NAME.slice(1)}`, [address]);
    }
    for (const object of [any, crowded]) {
      run({ object, program: 'guard_out', packet: datagram(policy.RESOLVER, message(NAME, null)) }, ONCE);
      keepWaiting(object);
    }

    const port = 443;
    const syn = (address: string): Buffer => frame({ protocol: 'TCP', address, port, syn: true });
    const empty: Run = { object: any, program: 'empty', packet: syn('10.0.0.0') };
    const flow = (object: NativeObject, address: string): Way => ({
      ...{ object, program: 'guard_out', packet: syn(address), less: empty, ns: [] },
    });
    const ask = (object: NativeObject, program: string): Way => {
      const to = (address: string): Run => ({ object, program, packet: datagram(address, message(NAME, null)) });
      return { ...to(policy.RESOLVER), less: to(policy.NO_RESOLVER), ns: [] };
    };
    const learn = (object: NativeObject, program: string, records: number): Way => {
      const from = (address: string): Run => ({ object, program, packet: answerOf(address, addresses(records)) });
      return { ...from(policy.RESOLVER), less: from(policy.NO_RESOLVER), ns: [] };
    };
    const ways: Readonly<Record<WayName, Way>> = {
      'question, asked before': ask(any, 'guard_out'),
      'question, new': ask(any, 'ask_another'),
      'question, new, AllowedNamesOnly': ask(limited, 'ask_another'),
      'answer of 1 address, told before': learn(any, 'answer_again', 1),
      'answer of 8 addresses, told before': learn(any, 'answer_again', 8),
      'answer of 1 address, new': learn(crowded, 'answer_another', 1),
      'answer of 8 addresses, new': learn(crowded, 'answer_another', 8),
      'new flow, no policy has names': flow(unnamed, '10.0.0.0'),
      'new flow, 0 names': flow(any, '10.0.0.0'),
      'new flow, 1 name': flow(any, '10.0.0.1'),
      'new flow, 8 names': flow(any, '10.0.0.8'),
    };
    for (let round = 0; round < rounds; round++) {
      for (const way of Object.values(ways)) way.ns.push(run(way, repeats) - run(way.less, repeats));
    }

    for (const object of objects) mustHaveLearned(object);
    mustHold(any, 'learned', 0 + 1 + 8 + 8);
    // More than a workload may hold: what is measured includes making room.
    mustHold(crowded, 'learned', LEARNED_PER_WORKLOAD);
    return {
      ways: Object.fromEntries(Object.entries(ways).map(([name, { ns }]) => [name, spread(ns)])) as NamesCost['ways'],
      ...{ rounds, repeats },
    };
  } finally {
    for (const object of objects) object.close();
  }
}

function datagram(address: string, payload: Buffer): Buffer {
  return frame({ protocol: 'UDP', address, port: 53, payload });
}

function answerOf(address: string, addresses: readonly string[], name = NAME): Buffer {
  return frame({ protocol: 'UDP', address, port: 53, payload: message(name, addresses), inbound: true });
}

function addresses(count: number): string[] {
  return Array.from({ length: count }, (_, index) => `10.0.1.${index}`);
}

/** ns of one. */
function run({ object, program, packet }: Run, repeats: number): number {
  const { retval, durationNs } = object.testRun(program, packet, repeats);
  // 1 is what a program of a cgroup says of what passes, -1 the guard.
  if (retval !== 1 && retval !== 0xffffffff)
    throw new Error(`${program} returned ${retval} of a packet that should pass`);
  return durationNs;
}

function teach(object: NativeObject, name: string, to: readonly string[]): void {
  run({ object, program: 'guard_out', packet: datagram(policy.RESOLVER, message(name, null)) }, ONCE);
  run({ object, program: 'guard_in', packet: answerOf(policy.RESOLVER, to, name) }, ONCE);
}

/** The one question that waits is what answers of test runs are to. */
function keepWaiting(object: NativeObject): void {
  const { keys, values, count } = object.dump('asked');
  if (count !== 1) throw new Error(`${count} questions wait, not one`);
  const question = Buffer.concat([keys.subarray(0, ASKED_KEY_BYTES), values.subarray(0, ASKED_BYTES)]);
  object.update('waiting', Buffer.alloc(4), question, 1, 0);
}

/** What teaches nothing is cheap, and a lie. */
function mustHaveLearned(object: NativeObject): void {
  for (const [number, why] of DNS_LOSS_NAMES) {
    const perCpu = object.lookup('dns_losses', Buffer.from(Uint32Array.of(number).buffer)) ?? Buffer.alloc(0);
    if (!perCpu.equals(Buffer.alloc(perCpu.length))) throw new Error(`a message taught nothing: ${why}`);
  }
}

function mustHold(object: NativeObject, map: string, wanted: number): void {
  const { count } = object.dump(map);
  if (count !== wanted) throw new Error(`${map} holds ${count} entries, not ${wanted}`);
}
