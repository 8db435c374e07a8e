// SPDX-License-Identifier: Apache-2.0
// What is left of a network under each filter, by real connections over a veth pair? Every filter has a workload of its own, whose
// filter stays loaded; they take turns, and each turn is compared with that of no filter in the same round.

import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { Native, NativeObject } from '../src/kernel/native.ts';
import { attachPrograms, loadPrograms } from '../src/kernel/programs.ts';
import type { Lab, Place } from '../test/support/lab.ts';
import { enforce } from './enforce.ts';
import { type Filter, ipset, nftables, tracking } from './filters.ts';
import { type Allowlist, allowlist, allowlistSnapshot } from './policy.ts';
import { median, type Spread, spread } from './statistics.ts';

export const MEASURES = ['connections', 'roundTrips', 'throughput'] as const;
export type Measure = (typeof MEASURES)[number];

export type FilterName = 'none' | 'none again' | 'postern' | 'postern, tracked' | 'nftables' | 'ipset';
export interface Outcome {
  readonly filter: FilterName;
  /** Entries of the allowlist; 0 where there is no filter. */
  readonly entries: number;
  readonly measures: Readonly<Record<Measure, Measured>>;
}
export interface Measured {
  /** A second: connections, round trips, bytes. */
  readonly rate: Spread;
  /** Median of the rounds' ratios to no filter, and to each other filter that holds as many entries. */
  readonly ofNone: number;
  readonly ofNftables: number | null;
  readonly ofIpset: number | null;
}
export interface TrafficPlan {
  readonly sizes: readonly number[];
  readonly rounds: number;
  /** Length of one turn. */
  readonly turnMs: number;
}

const PROGRAM = fileURLToPath(new URL('../build/bench/traffic', import.meta.url));
/** One listed as itself, one as part of a network, one not at all. */
const SERVER = '198.18.1.1';
const SERVER_IN_NETWORK = '198.18.1.17';
const SERVER_NETWORK = '198.18.1.16/28';
const STRANGER = '198.18.1.33';
const PORT = 7300;
const FILTER_LOAD_MS = 120_000;

/** A load generator that waits in its place until it is its turn. */
class Client {
  readonly #name: string;
  readonly #child: ChildProcess;
  readonly #answers: AsyncIterator<string>;

  constructor(place: Place, servers: readonly string[]) {
    this.#name = place.name;
    this.#child = place.spawn(PROGRAM, ['client', ...servers, String(PORT)]);
    if (this.#child.stdout === null) throw new Error('a client needs a pipe');
    this.#answers = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  /** How much a second. */
  async turn(measure: Measure, turnMs: number): Promise<number> {
    this.#child.stdin?.write(`${measure} ${turnMs}\n`);
    const answer = await this.#answers.next();
    if (answer.done === true) throw new Error(`${this.#name}: the client is gone`);
    const done = JSON.parse(answer.value) as { count: number; bytes: number; seconds: number } | { error: string };
    if ('error' in done) throw new Error(`${this.#name}: ${measure}: ${done.error}`);
    return (measure === 'throughput' ? done.bytes : done.count) / done.seconds;
  }
}

interface Contestant {
  readonly filter: FilterName;
  readonly entries: number;
  readonly place: Place;
  readonly client: Client;
  readonly rates: Record<Measure, number[]>;
}

/** Objects that it loads are added to `objects`, which the caller closes. */
export async function measureTraffic(
  native: Native,
  lab: Lab,
  plan: TrafficPlan,
  objects: NativeObject[],
  progress: (line: string) => void,
): Promise<Outcome[]> {
  await lab.addOutside(SERVER, SERVER_IN_NETWORK, STRANGER);
  const server = lab.outside.spawn(PROGRAM, ['serve', String(PORT)]);
  if (server.stdout === null) throw new Error('the server needs a pipe');
  await once(createInterface({ input: server.stdout }), 'line');

  const contestants: Contestant[] = [];
  const enter = async (filter: FilterName, entries: number): Promise<Place> => {
    const place = await lab.workload(`${filter.replace(/\W+/, '-')}-${entries}`, {
      addresses: [`198.18.2.${contestants.length + 1}`],
    });
    const client = new Client(place, [SERVER, SERVER_IN_NETWORK]);
    contestants.push({ filter, entries, place, client, rates: { connections: [], roundTrips: [], throughput: [] } });
    return place;
  };
  await enter('none', 0);
  for (const entries of plan.sizes) {
    progress(`loading filters of ${entries} entries`);
    const list = allowlist(entries, [`${SERVER}/32`, SERVER_NETWORK], [PORT, PORT + 1, PORT + 2]);
    holdByPostern(native, list, await enter('postern', entries), objects);
    await load(nftables(list), await enter('nftables', entries));
    await load(ipset(list), await enter('ipset', entries));
    // What the others pay for tracking connections, Postern would pay too where something else turns it on.
    if (entries !== plan.sizes[0]) continue;
    const tracked = await enter('postern, tracked', entries);
    holdByPostern(native, list, tracked, objects);
    await load(tracking(), tracked);
  }
  await enter('none again', 0);
  for (const contestant of contestants) await check(contestant);

  for (let round = 0; round < plan.rounds; round++) {
    if (round % 20 === 0) progress(`traffic, round ${round + 1} of ${plan.rounds}`);
    for (const measure of MEASURES) {
      for (const { client, rates } of turns(contestants, round)) {
        rates[measure].push(await client.turn(measure, plan.turnMs));
      }
    }
  }
  server.kill();
  return contestants.map((contestant) => outcome(contestant, contestants));
}

/** What a turn leaves behind falls on whoever is next: so each is first in some round, and every other round goes backwards. */
function turns<T>(contestants: readonly T[], round: number): T[] {
  const first = round % contestants.length;
  const order = [...contestants.slice(first), ...contestants.slice(0, first)];
  return round % 2 === 0 ? order : order.reverse();
}

function holdByPostern(native: Native, list: Allowlist, place: Place, objects: NativeObject[]): void {
  const object = loadPrograms(native);
  objects.push(object);
  const cgroup = place.cgroup ?? '';
  enforce(native, object, allowlistSnapshot(list), cgroup);
  attachPrograms(object, cgroup);
}

async function load({ script, input }: Filter, place: Place): Promise<void> {
  const { status, stderr } = await place.exec('sh', ['-c', script], { input, timeoutMs: FILTER_LOAD_MS });
  if (status !== 0) throw new Error(`${place.name}: ${script} failed: ${stderr}`);
}

/** A filter that lets through what is not listed, or that is not there, would be fast. */
async function check({ filter, place }: Contestant): Promise<void> {
  for (const [address, listed] of [
    [SERVER, true],
    [SERVER_IN_NETWORK, true],
    [STRANGER, false],
  ] as const) {
    const { stdout } = await place.exec(PROGRAM, ['client', address, String(PORT)], { input: 'connections 1\n' });
    const passes = listed || filter.startsWith('none');
    if (stdout.includes('error') === passes) {
      throw new Error(`${place.name}: ${address} should ${passes ? '' : 'not '}be reached: ${stdout}`);
    }
  }
}

function outcome({ filter, entries, rates }: Contestant, all: readonly Contestant[]): Outcome {
  const measured = (measure: Measure): Measured => {
    const ratio = (other: FilterName): number | null => {
      const to = all.find((each) => each.filter === other && (other === 'none' || each.entries === entries));
      if (to === undefined) return null;
      return median(rates[measure].map((rate, round) => rate / (to.rates[measure][round] ?? Number.NaN)));
    };
    return {
      rate: spread(rates[measure]),
      ofNone: ratio('none') ?? Number.NaN,
      ofNftables: ratio('nftables'),
      ofIpset: ratio('ipset'),
    };
  };
  return {
    ...{ filter, entries },
    measures: {
      connections: measured('connections'),
      roundTrips: measured('roundTrips'),
      throughput: measured('throughput'),
    },
  };
}
