// SPDX-License-Identifier: Apache-2.0
// What the README says of costs: its table, from results. A part that was not measured has no row.

import type { Results } from './results.ts';
import type { FilterName, Measure } from './traffic.ts';

const HEAD = '| | |\n|---|---|\n';

/** The page with this table in the place of its own, which is the one that begins so in this chapter. Throws where there is none. */
export function withCosts(page: string, results: Results): string {
  const chapter = page.indexOf('\n## What it costs\n');
  const begin = page.indexOf(HEAD, chapter);
  const end = page.indexOf('\n\n', begin);
  if (chapter < 0 || begin < 0 || end < 0) throw new Error('the page has no table of costs');
  return `${page.slice(0, begin)}${costTable(results)}${page.slice(end + 1)}`;
}

export function costTable(results: Results): string {
  const rows = [...packetRows(results), ...namesRows(results), ...trafficRows(results), ...clusterRows(results)];
  return `${HEAD}${rows.map(([what, cost]) => `| ${what} | ${cost} |\n`).join('')}`;
}

function packetRows({ packet, growth }: Results): string[][] {
  const ns = (way: string): number => Math.round(packet.overEmptyNs[way] ?? Number.NaN);
  const known = Object.keys(packet.overEmptyNs).filter((way) => way.startsWith('known'));
  const addresses = growth.find(({ of }) => of === 'addresses');
  if (addresses === undefined) return [];
  const [from, to] = [addresses.from, addresses.to].map((count) => count.toLocaleString('en-US'));
  return [
    [
      'a packet of a known flow, counted, over an empty program',
      `${Math.max(...known.map(ns))} ns, whether ${from} addresses are allowed or ${to}`,
    ],
    [
      'the first packet of a flow',
      `${ns('new TCP')} ns (IPv6 ${ns('new TCP, IPv6')}); with ${to} addresses ${two(addresses.hot)} times that to one of them, ${addresses.random.toFixed(1)} times to any`,
    ],
  ];
}

function namesRows({ names }: Results): string[][] {
  if (names === null) return [];
  const { ns, traffic } = names;
  const [few, most] = traffic.rates;
  const { entries, kernelMiB, agentMiB } = traffic.memory;
  return [
    [
      'the same where policy has names, for an address that no, one, eight names led to',
      `${ns['new flow, 0 names']}, ${ns['new flow, 1 name']}, ${ns['new flow, 8 names']} ns (${ns['new flow, no policy has names']} where it has none)`,
    ],
    [
      'noting a question to a resolver; where policy says which may be asked',
      `${micro(ns['question, new'])} µs; ${micro(ns['question, new, AllowedNamesOnly'])}`,
    ],
    [
      'learning an answer of one address, of eight',
      `${micro(ns['answer of 1 address, new'])} µs, ${micro(ns['answer of 8 addresses, new'])}; told before ${micro(ns['answer of 1 address, told before'])}, ${micro(ns['answer of 8 addresses, told before'])}`,
    ],
    ...(few === undefined || most === undefined
      ? []
      : [
          [
            `questions a second to dnsmasq, of no Postern at all: ${few.names} names, ${most.names.toLocaleString('en-US')} names`,
            `${two(few.ofBare)}, ${two(most.ofBare)}`,
          ],
        ]),
    [
      `${entries.toLocaleString('en-US')} addresses that names led to: memory of the kernel, of the agent`,
      `${Math.round(kernelMiB)} MiB, ${Math.max(0, Math.round(agentMiB.after - agentMiB.before))} MiB`,
    ],
  ];
}

const MEASURES: readonly (readonly [Measure, string])[] = [
  ['throughput', 'TCP throughput'],
  ['connections', 'TCP connections a second'],
  ['roundTrips', 'round trips a second'],
];

function trafficRows({ trafficRatios }: Results): string[][] {
  const entries = Math.min(...trafficRatios.filter(({ filter }) => filter === 'postern').map((each) => each.entries));
  return MEASURES.map(([measure, what], index) => {
    const ratio = (of: FilterName): number =>
      trafficRatios.find((each) => each.filter === of && each.entries === entries && each.measure === measure)
        ?.ofNone ?? Number.NaN;
    const [nftables, ipset] = [two(ratio('nftables')), two(ratio('ipset'))];
    const others =
      index === 0 ? `nftables with sets ${nftables}, iptables with ipset ${ipset}` : `${nftables}, ${ipset}`;
    // As near to 1 as it is, two digits would say too little of it.
    const own = measure === 'throughput' ? String(ratio('postern')) : two(ratio('postern'));
    return [`${what}, of no filter at all`, `${own} (${others})`];
  });
}

function clusterRows({ cluster }: Results): string[][] {
  const { pods, services, policies, readyMs, policyEditMs, churn, peakMiB, kernelMiB } = cluster;
  const [manyPods, manyServices] = [pods, services].map((count) => count.toLocaleString('en-US'));
  const { median, p99 } = churn.enforcedMs;
  return [
    [
      `${manyPods} pods, ${manyServices} Services, ${policies} policies: from start to enforcing`,
      `${(readyMs / 1000).toFixed(1)} s`,
    ],
    ["the same: a policy's edit until it is enforced", `${Math.round(policyEditMs.median)} ms`],
    [
      `the same: a pod's address until it is enforced, at ${Math.round(churn.changesPerSecond)} changes a second`,
      `${Math.round(median)} ms, 99 of 100 in ${Math.round(p99)}`,
    ],
    [
      'the same: memory of the agent, of the kernel',
      `${Math.round(peakMiB)} MiB at its peak, ${Math.round(kernelMiB)} MiB`,
    ],
  ];
}

function two(value: number): string {
  return value.toFixed(2);
}

function micro(ns: number): string {
  return (ns / 1000).toFixed(1);
}
