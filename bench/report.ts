// SPDX-License-Identifier: Apache-2.0
// Results as text for a terminal.

import { table } from '../src/cli/table.ts';
import type { ClusterCosts, Quantiles } from './cluster.ts';
import type { FloodCost } from './floods.ts';
import type { Names, Results } from './results.ts';
import { rounded, type Spread } from './statistics.ts';
import { type FilterName, MEASURES } from './traffic.ts';

const FILTERS: Readonly<Record<FilterName, string>> = {
  none: 'no filter',
  'none again': 'no filter, again',
  postern: 'Postern',
  'postern, tracked': 'Postern, conntrack',
  nftables: 'nftables, sets',
  ipset: 'iptables, ipset',
};

export function report({
  goals,
  growth,
  trafficRatios,
  packet,
  traffic,
  cluster,
  floods,
  names,
  machine,
}: Results): string {
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
    `Traffic over a veth pair, median a second (least to most) of ${traffic.rounds} turns of ${traffic.turnMs} ms each, and the median of the turns' ratios to no filter\n`,
    table(
      ['FILTER', 'ENTRIES', 'CONNECTIONS', '', 'ROUND TRIPS', '', 'THROUGHPUT, MB', ''],
      traffic.rates.map(({ filter, entries, ...rates }) => [
        FILTERS[filter],
        entries === 0 ? '' : String(entries),
        ...MEASURES.flatMap((measure) => {
          const ratios = trafficRatios.find(
            (each) => each.filter === filter && each.entries === entries && each.measure === measure,
          );
          return [range(rates[measure], measure === 'throughput' ? 1e6 : 1), ratios?.ofNone.toFixed(3) ?? ''];
        }),
      ]),
    ),
    `postern agent --kube, ${cluster.pods} pods of ${cluster.podBytes} bytes, ${cluster.services} Services, ${cluster.policies} policies, ${cluster.localPods} pods here\n`,
    table(['CLUSTER', 'VALUE'], clusterRows(cluster)),
    floodTable(floods),
    ...(names === null ? [] : [namesTable(names)]),
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

export function floodTable(floods: readonly FloodCost[]): string {
  return table(
    ['FLOOD OF', 'COUNT', 'A SECOND', 'AGENT, % OF A CPU', 'TOLD'],
    floods.map(({ of, count, perSecond, agentCpu, told }) => [
      ...[of, String(count), String(perSecond), String(rounded(agentCpu * 100)), String(told)],
    ]),
  );
}

export function namesTable({ ns, rounds, repeats, traffic }: Names): string {
  const { entries, workloads, kernelMiB, mapsMiB, agentMiB } = traffic.memory;
  return [
    `Names, ns over the same datagram that is nothing to learn from, of a flow over the empty program: median of ${rounds} rounds of ${repeats}\n`,
    table(
      ['NAMES', 'NS'],
      Object.entries(ns).map(([way, value]) => [way, String(value)]),
    ),
    'Questions a second to dnsmasq, median (least to most), of what it answers without Postern\n',
    table(
      ['NAMES', 'WITHOUT', 'WITH', 'RATIO'],
      traffic.rates.map(({ names, bare, held, ofBare }) => [
        ...[String(names), range(bare, 1), range(held, 1), ofBare.toFixed(3)],
      ]),
    ),
    `${entries} addresses that names led to, of ${workloads} workloads\n`,
    table(
      ['MEMORY', 'MIB'],
      [
        ['the kernel, in all', String(kernelMiB)],
        ...Object.entries(mapsMiB).map(([map, mib]) => [`by its own account, ${map}`, String(mib)]),
        ['the agent before, after, at its peak', `${agentMiB.before}, ${agentMiB.after}, ${agentMiB.peak}`],
      ],
    ),
  ].join('\n');
}

function range({ median, min, max }: Spread, unit: number): string {
  const [middle, least, most] = [median, min, max].map((value) => String(Math.round(value / unit)));
  return `${middle} (${least}-${most})`;
}

function clusterRows({
  readyMs,
  peakMiB,
  settledMiB,
  kernelMiB,
  listMiB,
  policyEditMs,
  churn,
}: ClusterCosts): string[][] {
  const spread = ({ median, p99, max, count }: Quantiles): string =>
    `${median} ms, 99 of 100 in ${p99}, at most ${max} (${count})`;
  return [
    ['from start to enforcing', `${readyMs} ms`],
    ['memory of the agent', `${peakMiB} MiB at its peak, ${settledMiB} before any change`],
    ['memory of the kernel', `${kernelMiB} MiB`],
    ['asked of the API server', `${listMiB} MiB`],
    ["a policy's edit to enforced", spread(policyEditMs)],
    [`a pod's address to enforced, ${churn.changesPerSecond} changes a second`, spread(churn.enforcedMs)],
    ['CPU of the agent meanwhile', `${rounded(churn.agentCpu * 100)} % of one`],
    ['the agent had none though it could have run', `${rounded(churn.beside.agentWaits * 100)} % of the time`],
    ['until running programs have ended, meanwhile', spread(churn.beside.programsEndedMs)],
    ['CPU of the API server meanwhile', `${rounded(churn.beside.serverCpu * 100)} % of one`],
    ['how late its loop was', spread(churn.beside.serverLateMs)],
    ['asked of the API server meanwhile', `${rounded(churn.apiBytesPerSecond / 1024)} KiB a second`],
  ];
}
