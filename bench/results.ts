// SPDX-License-Identifier: Apache-2.0
// What the measurements come to: ratios, which hold on other machines too, the goals, then the numbers of this one.

import { execFileSync } from 'node:child_process';
import { cpus, release } from 'node:os';
import type { ClusterCosts } from './cluster.ts';
import type { FloodCost } from './floods.ts';
import type { NamesCost, WayName } from './names-cost.ts';
import type { NamesTraffic } from './names-traffic.ts';
import type { PacketCosts, Series } from './packet-cost.ts';
import { rounded, type Spread } from './statistics.ts';
import { type FilterName, MEASURES, type Measure, type Outcome, type TrafficPlan } from './traffic.ts';

export interface Goal {
  readonly goal: string;
  readonly unit: 'ns' | 'ms' | 'MiB' | 'times';
  readonly bound: 'at most' | 'at least' | 'above';
  readonly limit: number;
  readonly value: number;
  readonly met: boolean;
}

/** Cost over the empty program at the largest count, as a multiple of that at the smallest. */
export interface Growth {
  readonly of: Series['of'];
  readonly from: number;
  readonly to: number;
  readonly known: number;
  readonly hot: number;
  readonly random: number;
}

/** Rates as parts of others', of the same round. */
export interface TrafficRatio {
  readonly filter: FilterName;
  readonly entries: number;
  readonly measure: Measure;
  readonly ofNone: number;
  readonly ofNftables: number | null;
  readonly ofIpset: number | null;
}

export interface Rates extends Readonly<Record<Measure, Spread>> {
  readonly filter: FilterName;
  readonly entries: number;
}

export interface Results {
  readonly goals: readonly Goal[];
  readonly growth: readonly Growth[];
  readonly trafficRatios: readonly TrafficRatio[];
  /** ns; `overEmpty` what is added to the empty program. */
  readonly packet: {
    readonly emptyNs: number;
    readonly overEmptyNs: Readonly<Record<string, number>>;
    readonly series: readonly Series[];
    readonly rounds: number;
    readonly repeats: number;
  };
  readonly traffic: {
    /** A second: connections, round trips of one byte, bytes. */
    readonly rates: readonly Rates[];
    readonly rounds: number;
    readonly turnMs: number;
  };
  /** `postern agent --kube` on a large cluster. */
  readonly cluster: ClusterCosts;
  /** One workload's, and what the agent runs for meanwhile. */
  readonly floods: readonly FloodCost[];
  /** null: not measured yet. */
  readonly names: Names | null;
  readonly machine: Machine;
}

/** What it costs that DNS is listened to. */
export interface Names {
  /** Medians, as names-cost.ts says over what. */
  readonly ns: Readonly<Record<WayName, number>>;
  readonly rounds: number;
  readonly repeats: number;
  readonly traffic: NamesTraffic;
}

export interface Machine {
  readonly kernel: string;
  readonly cpu: string;
  readonly cpus: number;
  readonly nftables: string;
  readonly iptables: string;
  readonly ipset: string;
  readonly date: string;
  /** With `+` where files differed from it. */
  readonly commit: string;
}

/** The clock of a test run ticks in whole ns, so a growth of nothing can't be told from one of a few in a hundred. */
const CLOCK_ERROR = 0.05;

export interface Measurements {
  readonly costs: PacketCosts;
  readonly traffic: readonly Outcome[];
  readonly plan: TrafficPlan;
  readonly cluster: ClusterCosts;
  readonly floods: readonly FloodCost[];
  readonly names: Names;
  readonly machine: Machine;
}

export function namesOf({ ways, rounds, repeats }: NamesCost, traffic: NamesTraffic): Names {
  const ns = Object.fromEntries(Object.entries(ways).map(([name, { median }]) => [name, Math.round(median)]));
  return { ns: ns as Names['ns'], rounds, repeats, traffic };
}

export function resultsOf({ costs, traffic, plan, cluster, floods, names, machine }: Measurements): Results {
  const { rounds, turnMs } = plan;
  const growth = costs.series.map(growthOf);
  return {
    goals: [...packetGoals(costs, growth), ...trafficGoals(traffic), ...clusterGoals(cluster)],
    growth,
    trafficRatios: traffic.flatMap(ratiosOf),
    packet: {
      emptyNs: costs.empty.median,
      overEmptyNs: Object.fromEntries(Object.entries(costs.ways).map(([name, { median }]) => [name, median])),
      series: costs.series,
      ...{ rounds: costs.rounds, repeats: costs.repeats },
    },
    traffic: { rates: traffic.map(ratesOf), rounds, turnMs },
    ...{ cluster, floods, names, machine },
  };
}

function ratesOf({ filter, entries, measures }: Outcome): Rates {
  const rate = (measure: Measure): Spread => {
    const { median, min, max } = measures[measure].rate;
    return { median: rounded(median), min: rounded(min), max: rounded(max) };
  };
  return {
    ...{
      filter,
      entries,
      connections: rate('connections'),
      roundTrips: rate('roundTrips'),
      throughput: rate('throughput'),
    },
  };
}

function growthOf({ of, points }: Series): Growth {
  const [first] = points;
  const last = points.at(-1);
  if (first === undefined || last === undefined) throw new RangeError(`no points for ${of}`);
  const times = (kind: 'known' | 'hot' | 'random'): number => rounded(last[kind] / first[kind]);
  return { of, from: first.count, to: last.count, known: times('known'), hot: times('hot'), random: times('random') };
}

function ratiosOf({ filter, entries, measures }: Outcome): TrafficRatio[] {
  if (filter === 'none') return [];
  const part = (value: number | null): number | null => (value === null ? null : rounded(value));
  return MEASURES.map((measure) => {
    const { ofNone, ofNftables, ofIpset } = measures[measure];
    return { filter, entries, measure, ofNone: rounded(ofNone), ofNftables: part(ofNftables), ofIpset: part(ofIpset) };
  });
}

function goal(what: string, unit: Goal['unit'], bound: Goal['bound'], limit: number, value: number, slack = 0): Goal {
  const met = bound === 'at most' ? value <= limit + slack : bound === 'at least' ? value >= limit : value > limit;
  return { goal: what, unit, bound, limit, value: rounded(value), met };
}

function packetGoals({ ways }: PacketCosts, growth: readonly Growth[]): Goal[] {
  const known = Object.entries(ways).filter(([name]) => name.startsWith('known'));
  const dearest = Math.max(...known.map(([, { median }]) => median));
  return [
    goal(
      'a packet of a known flow, the dearest of TCP, UDP, IPv4, IPv6, over an empty program',
      'ns',
      'at most',
      65,
      dearest,
    ),
    ...growth
      .filter(({ of }) => of === 'addresses')
      .flatMap(({ from, to, known, hot, random }) => {
        const range = `from ${from} to ${to} addresses`;
        return [
          goal(`known flow, ${range}`, 'times', 'at most', 1, known, CLOCK_ERROR),
          goal(`new flow to one of them, ${range}`, 'times', 'at most', 1.3, hot),
          goal(`new flow to any of them, ${range}`, 'times', 'at most', 7, random),
        ];
      }),
  ];
}

const MEASURE_NAMES: Readonly<Record<Measure, string>> = {
  connections: 'TCP connections',
  roundTrips: 'round trips',
  throughput: 'throughput',
};

function trafficGoals(traffic: readonly Outcome[]): Goal[] {
  return traffic
    .filter(({ filter }) => filter === 'postern')
    .flatMap(({ entries, measures }) => [
      goal(`throughput with ${entries} entries, of no filter's`, 'times', 'at least', 0.97, measures.throughput.ofNone),
      ...MEASURES.flatMap((measure) => {
        const { ofNftables, ofIpset } = measures[measure];
        return [
          goal(`${MEASURE_NAMES[measure]} with ${entries} entries, of nftables'`, 'times', 'above', 1, ofNftables ?? 0),
          goal(`${MEASURE_NAMES[measure]} with ${entries} entries, of ipset's`, 'times', 'above', 1, ofIpset ?? 0),
        ];
      }),
    ]);
}

function clusterGoals({ pods, peakMiB, kernelMiB, policyEditMs, churn }: ClusterCosts): Goal[] {
  const at = `with ${pods} pods`;
  return [
    goal(`memory of the agent ${at}, at its peak`, 'MiB', 'at most', 200, peakMiB),
    goal(`memory of the kernel ${at}`, 'MiB', 'at most', 64, kernelMiB),
    goal(`a policy's edit until it is enforced ${at}, median`, 'ms', 'at most', 100, policyEditMs.median),
    goal(
      `a pod's address until it is enforced ${at}, ${churn.changesPerSecond} changes a second, 99 of 100`,
      'ms',
      'at most',
      50,
      churn.enforcedMs.p99,
    ),
  ];
}

export function machineOf(): Machine {
  const ask = (command: string, ...args: string[]): string => execFileSync(command, args, { encoding: 'utf8' }).trim();
  const here = ['-C', import.meta.dirname];
  const changed = ask('git', ...here, 'status', '--porcelain', '--untracked-files=no') !== '';
  return {
    kernel: release(),
    cpu: cpus()[0]?.model ?? 'unknown',
    cpus: cpus().length,
    nftables: ask('nft', '--version'),
    iptables: ask('iptables', '--version'),
    ipset: ask('ipset', '--version').split('\n')[0] ?? '',
    date: new Date().toISOString().slice(0, 10),
    commit: `${ask('git', ...here, 'rev-parse', '--short', 'HEAD')}${changed ? '+' : ''}`,
  };
}
