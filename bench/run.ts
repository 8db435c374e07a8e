// SPDX-License-Identifier: Apache-2.0
// `make bench`: what Postern costs, by the packet, on real traffic beside other filters, and on a large cluster. Prints a table and writes results.json and
// prefixes.svg beside this file, and the README's table of costs. Needs root. `--quick` only shows that it works: few rounds and sizes, written
// below build/. `--floods` and `--names` measure these alone, and put what they come to into the results.json that is there.

import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { loadNative, type NativeObject } from '../src/kernel/native.ts';
import { Lab, resultOf } from '../test/support/lab.ts';
import type { ClusterCosts } from './cluster.ts';
import { withCosts } from './costs.ts';
import { type FloodCost, measureFloods } from './floods.ts';
import { measureNames, PLANS as NAMES_PLANS } from './names-cost.ts';
import { measureNamesTraffic, PLANS as NAMES_TRAFFIC_PLANS } from './names-traffic.ts';
import type { PacketCosts } from './packet-cost.ts';
import { plot } from './plot.ts';
import { floodTable, namesTable, report } from './report.ts';
import { machineOf, type Names, namesOf, type Results, resultsOf } from './results.ts';
import { measureTraffic, type Outcome, type TrafficPlan } from './traffic.ts';

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    floods: { type: 'boolean', default: false },
    names: { type: 'boolean', default: false },
  },
});
const plan: TrafficPlan = values.quick
  ? { sizes: [1000], rounds: 20, turnMs: 20 }
  : { sizes: [1000, 100_000], rounds: 160, turnMs: 40 };
const folder = values.quick ? path.join(import.meta.dirname, '../build/bench') : import.meta.dirname;
const files = { results: path.join(folder, 'results.json'), plot: path.join(folder, 'prefixes.svg') };
/** Both parts together take a fraction of it; past it, something hangs. */
const PACKETS_MS = 480_000;

function progress(line: string): void {
  process.stderr.write(`${line}\n`);
}

async function packetCosts(lab: Lab): Promise<PacketCosts> {
  const place = lab.placeIn(`/proc/${process.pid}/ns/net`, lab.cgroup('packets'));
  const script = path.join(import.meta.dirname, 'packet-cost.ts');
  // A million pods as objects, once, before they are 48 bytes each.
  const child = place.spawn(process.execPath, [
    '--max-old-space-size=6144',
    script,
    place.cgroup ?? '',
    values.quick ? 'quick' : 'full',
  ]);
  child.stderr?.pipe(process.stderr);
  const { status, stdout } = await resultOf(child, PACKETS_MS);
  if (status !== 0) throw new Error('measuring packets failed');
  return JSON.parse(stdout) as PacketCosts;
}

/** In a process of its own: the API server there and its cluster are the largest thing of all. */
async function clusterCosts(lab: Lab): Promise<ClusterCosts> {
  progress('a cluster, its API server, and an agent');
  const script = path.join(import.meta.dirname, 'cluster.ts');
  const child = lab.adopt(
    spawn(process.execPath, ['--max-old-space-size=8192', script, values.quick ? 'quick' : 'full']),
  );
  child.stderr?.pipe(process.stderr);
  const { status, stdout } = await resultOf(child, PACKETS_MS);
  if (status !== 0) throw new Error('measuring a cluster failed');
  return JSON.parse(stdout) as ClusterCosts;
}

async function namesCosts(lab: Lab): Promise<Names> {
  progress('names, by the packet');
  const size = values.quick ? 'quick' : 'full';
  const costs = measureNames(loadNative(), lab.cgroup('names'), NAMES_PLANS[size]);
  progress('names, by traffic');
  return namesOf(costs, await measureNamesTraffic(NAMES_TRAFFIC_PLANS[size]));
}

/** The README's table says what results.json does. */
function write(results: Results): void {
  writeFileSync(files.results, `${JSON.stringify(results, null, 2)}\n`);
  if (values.quick) return;
  const readme = path.join(import.meta.dirname, '../README.md');
  writeFileSync(readme, withCosts(readFileSync(readme, 'utf8'), results));
}

/** Into the results that are there: what `--quick` comes to is nothing to keep. */
function amend(part: Partial<Results>): void {
  if (!values.quick) write({ ...(JSON.parse(readFileSync(files.results, 'utf8')) as Results), ...part });
}

// The lab removes at exit whatever it has made.
for (const signal of ['SIGHUP', 'SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => process.exit(128 + constants.signals[signal]));
}

const flooded = values.quick ? 10_000 : 1_000_000;
if (values.floods) {
  const floods = await measureFloods(flooded);
  amend({ floods });
  process.stdout.write(floodTable(floods));
  process.exit();
}

const lab = await Lab.create();
if (values.names) {
  const names = await namesCosts(lab).finally(() => lab.close());
  amend({ names });
  process.stdout.write(namesTable(names));
  process.exit();
}

const objects: NativeObject[] = [];
let costs: PacketCosts;
let traffic: Outcome[];
let cluster: ClusterCosts;
let floods: readonly FloodCost[];
let names: Names;
try {
  // First: the kernel gives back only slowly what the millions of entries below take, and its memory is measured here.
  cluster = await clusterCosts(lab);
  names = await namesCosts(lab);
  costs = await packetCosts(lab);
  progress('floods');
  floods = await measureFloods(flooded);
  traffic = await measureTraffic(loadNative(), lab, plan, objects, progress);
} finally {
  for (const object of objects) object.close();
  await lab.close();
}

const results = resultsOf({ costs, traffic, plan, cluster, floods, names, machine: machineOf() });
const { cpu, kernel, date } = results.machine;
write(results);
writeFileSync(files.plot, plot(costs.series, `${cpu}, Linux ${kernel}, ${date}`));
process.stdout.write(report(results));
process.stdout.write(`\nWritten: ${path.relative('.', files.results)}, ${path.relative('.', files.plot)}\n`);
