// SPDX-License-Identifier: Apache-2.0
// Results as text for a terminal.

import { table } from '../src/cli/table.ts';
import type { Results } from './results.ts';
import type { Measured, Outcome } from './traffic.ts';

const FILTERS: Readonly<Record<Outcome['filter'], string>> = {
  none: 'no filter',
  'none again': 'no filter, again',
  postern: 'Postern',
  nftables: 'nftables, sets',
  ipset: 'iptables, ipset',
};

export function report({ goals, growth, packet, traffic, machine }: Results): string {
  const { kernel, cpu, cpus, date, commit } = machine;
  return [
    `${cpu}, ${cpus} CPUs, Linux ${kernel}, ${date}, commit ${commit}\n`,
    `A packet, over an empty program of ${packet.emptyNs} ns: median of ${packet.rounds} rounds of ${packet.repeats}\n`,
    table(
      ['PACKET', 'NS'],
      Object.entries(packet.overEmptyNs).map(([name, ns]) => [name, String(ns)]),
    ),
    'The same over how much is allowed, in ns; new flows to one destination and to any\n',
    table(
      ['OF', 'COUNT', 'KNOWN', 'NEW, ONE', 'NEW, ANY'],
      packet.series.flatMap(({ of, points }) =>
        points.map(({ count, known, hot, random }) => [of, count, known, hot, random].map(String)),
      ),
    ),
    table(
      ['GROWTH OF', 'FROM', 'TO', 'KNOWN', 'NEW, ONE', 'NEW, ANY'],
      growth.map(({ of, from, to, known, hot, random }) => [of, from, to, known, hot, random].map(String)),
    ),
    "Traffic over a veth pair: median a second (least to most), and the median of each round's ratio to no filter\n",
    table(
      ['FILTER', 'ENTRIES', 'CONNECTIONS', '', 'ROUND TRIPS', '', 'THROUGHPUT, MB', ''],
      traffic.map(({ filter, entries, measures: { connections, echoes, flood } }) => [
        FILTERS[filter],
        entries === 0 ? '' : String(entries),
        ...cells(connections, 1),
        ...cells(echoes, 1),
        ...cells(flood, 1e6),
      ]),
    ),
    table(
      ['GOAL', '', 'LIMIT', 'VALUE', ''],
      goals.map(({ goal, bound, limit, value, met }) => [
        goal,
        bound,
        String(limit),
        String(value),
        met ? 'met' : 'MISSED',
      ]),
    ),
  ].join('\n');
}

function cells({ rate, ofNone }: Measured, unit: number): [string, string] {
  const text = (value: number): string => String(Math.round(value / unit));
  return [`${text(rate.median)} (${text(rate.min)}-${text(rate.max)})`, ofNone.toFixed(3)];
}
