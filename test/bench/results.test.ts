// SPDX-License-Identifier: Apache-2.0
// What measurements come to, by hand-made numbers: ratios, goals at their bounds, and a plot that is well-formed.
import assert from 'node:assert/strict';
import test from 'node:test';
import type { ClusterCosts, Quantiles } from '../../bench/cluster.ts';
import type { PacketCosts, Series } from '../../bench/packet-cost.ts';
import { plot } from '../../bench/plot.ts';
import { type Goal, type Machine, resultsOf } from '../../bench/results.ts';
import { rounded, spread } from '../../bench/statistics.ts';
import type { Measured, Outcome, TrafficPlan } from '../../bench/traffic.ts';
import { names } from './names.ts';

const machine: Machine = {
  ...{ kernel: '6.18', cpu: 'any', cpus: 2, nftables: '', iptables: '', ipset: '', date: '2026-01-01', commit: '0' },
};

/** `ms` of both kinds of change, `mib` of both kinds of memory. */
function cluster(ms: number, mib: number): ClusterCosts {
  const took: Quantiles = { median: ms, p99: ms, max: ms, count: 1 };
  return {
    ...{ pods: 2, services: 1, policies: 1, localPods: 1, podBytes: 1, readyMs: 1, listMiB: 1, settledMiB: 1 },
    ...{ peakMiB: mib, kernelMiB: mib, policyEditMs: took },
    churn: {
      changesPerSecond: 1,
      seconds: 1,
      enforcedMs: took,
      agentCpu: 0,
      apiBytesPerSecond: 0,
      beside: { agentWaits: 0, programsEndedMs: took, serverCpu: 0, serverLateMs: took },
    },
  };
}

const plan: TrafficPlan = { sizes: [1000], rounds: 1, turnMs: 1 };

function series(of: Series['of'], ends: readonly [known: number, hot: number, random: number]): Series {
  const [known, hot, random] = ends;
  return {
    of,
    points: [
      { count: 10, known: 50, hot: 200, random: 200 },
      { count: 1_000_000, known, hot, random },
    ],
  };
}

function costs(known: number, ends: readonly [number, number, number]): PacketCosts {
  const all = spread([known]);
  return {
    empty: spread([34]),
    ways: { 'known TCP': spread([40]), 'known UDP': all, 'new TCP': spread([1000]) },
    series: [series('addresses', ends), series('prefixes', ends)],
    ...{ rounds: 1, repeats: 1 },
  };
}

function outcome(ofNone: number, ofOthers: number): Outcome {
  const measured: Measured = { rate: spread([1]), ofNone, ofNftables: ofOthers, ofIpset: ofOthers };
  return {
    filter: 'postern',
    entries: 1000,
    measures: { connections: measured, roundTrips: measured, throughput: measured },
  };
}

const results = (packets: PacketCosts, traffic: readonly Outcome[], clusters: ClusterCosts) =>
  resultsOf({ costs: packets, traffic, plan, cluster: clusters, floods: [], names, machine });

function missed(goals: readonly Goal[]): string[] {
  return goals.filter(({ met }) => !met).map(({ goal }) => goal);
}

test('the middle of numbers, in any order, even or odd', () => {
  assert.deepEqual(spread([3, 1, 2]), { median: 2, min: 1, max: 3 });
  assert.deepEqual(spread([4, 1, 2, 3]), { median: 2.5, min: 1, max: 4 });
  assert.throws(() => spread([]), RangeError);
  assert.equal(rounded(1234.5), 1230);
  assert.equal(rounded(0.98765), 0.988);
});

test('growth is from the smallest count to the largest, over the empty program', () => {
  const { growth } = results(costs(60, [50, 220, 1000]), [], cluster(1, 1));
  assert.deepEqual(growth[0], { of: 'addresses', from: 10, to: 1_000_000, known: 1, hot: 1.1, random: 5 });
});

test('goals are met at their bounds and missed beyond them', () => {
  const atBounds = results(costs(65, [50, 260, 1400]), [outcome(0.97, 1.001)], cluster(50, 64));
  assert.deepEqual(missed(atBounds.goals), []);
  assert.equal(atBounds.goals.length, 15);
  const beyond = results(costs(66, [55, 262, 1404]), [outcome(0.969, 1)], cluster(101, 201));
  assert.equal(missed(beyond.goals).length, beyond.goals.length);
});

test('a plot holds its lines, names its axes and is well-formed', () => {
  const svg = plot([series('addresses', [50, 260, 900]), series('prefixes', [50, 300, 2640])], 'a <CPU> & more');
  assert.equal(svg.match(/<polyline /g)?.length, 5);
  for (const words of ['(ns)', 'log scale', '1,000,000', '>known flow<', 'a &#60;CPU&#62; &#38; more']) {
    assert(svg.includes(words), words);
  }
  assert(!/NaN|undefined|Infinity/.test(svg));
  const open: string[] = [];
  for (const [, end, name, alone] of svg.matchAll(/<(\/?)([a-z]+)(?:\s[^>]*?)?(\/?)>/g)) {
    if (end === '/') assert.equal(open.pop(), name);
    else if (alone !== '/' && name !== undefined) open.push(name);
  }
  assert.deepEqual(open, []);
});
