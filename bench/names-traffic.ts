// SPDX-License-Identifier: Apache-2.0
// What is left of a DNS server behind Postern, and what memory does it take to know what it answered? A real dnsmasq, asked by dnsperf from
// pods behind guards, and from one that nothing holds. What a question costs by itself is names-cost.ts's.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { LearnedName } from '../src/agent/enforcement.ts';
import { ask } from '../src/cli/ask.ts';
import { launchAgentIn, PolicyFolder, type TestAgent } from '../test/support/agent.ts';
import { Lab, type Place } from '../test/support/lab.ts';
import { kernelMiB, processMiB } from './memory.ts';
import { DOMAIN } from './policy.ts';
import { median, rounded, type Spread, spread } from './statistics.ts';

export interface DnsRate {
  /** How many names are asked for in turn, of four addresses each. */
  readonly names: number;
  /** Questions a second that were answered. */
  readonly bare: Spread;
  readonly held: Spread;
  /** Median of the turns' ratios. */
  readonly ofBare: number;
}
export interface NamesTraffic {
  readonly rates: readonly DnsRate[];
  readonly memory: {
    /** Of learned, in so many workloads. */
    readonly entries: number;
    readonly workloads: number;
    /** What unreclaimable slab and per-CPU memory grew by. */
    readonly kernelMiB: number;
    /** What the kernel says that each map grew by, of those that did: without what its allocator rounds up. */
    readonly mapsMiB: Readonly<Record<string, number>>;
    /** Resident, before the first question and after the last answer; at its peak, with a change of policy and a list of all names. */
    readonly agentMiB: { readonly before: number; readonly after: number; readonly peak: number };
  };
}
export interface NamesTrafficPlan {
  readonly workloads: number;
  readonly turns: number;
  readonly turnSeconds: number;
}

export const PLANS = {
  full: { workloads: 25, turns: 3, turnSeconds: 1 },
  quick: { workloads: 2, turns: 1, turnSeconds: 1 },
};

const RESOLVER = '198.18.1.53';
/** Just within what one workload may hold: 1,024 names, 4,096 addresses. */
const NAMES = 1000;
const ADDRESSES = 4;
/** What many a pod asks for again and again. */
const FEW_NAMES = 50;
const IN_FLIGHT = 64;
const SETTLED_MS = 2000;
const PATIENCE_MS = 60_000;
const MIB = 2 ** 20;

/** `pattern`: what the names that the policy speaks of are below. */
const policy = (pattern: string): string => `apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: names, namespace: bench}
spec:
  podSelector: {}
  egress:
  - {to: [{networks: [${RESOLVER}/32]}], ports: [{protocol: UDP, port: 53}]}
  - {to: [{domainNames: ["*.${pattern}"]}], ports: [{port: 443}]}
`;

/** Throws where questions were lost, or not all was learned: that is no measurement. */
export async function measureNamesTraffic({ workloads, turns, turnSeconds }: NamesTrafficPlan): Promise<NamesTraffic> {
  const folder = mkdtempSync(path.join(tmpdir(), `postern-bench-${process.pid}-`));
  const policies = new PolicyFolder();
  const lab = await Lab.create();
  try {
    const questionsOf = (names: number): string => {
      const file = path.join(folder, `questions-${names}`);
      writeFileSync(
        file,
        list(names, (name) => [`${name} A`]),
      );
      return file;
    };
    await lab.addOutside(RESOLVER);
    startDnsmasq(lab, folder);
    const bare = await lab.workload('bare', { addresses: ['198.18.3.1'] });
    const held: Place[] = [];
    for (let index = 0; index < workloads; index++) {
      const options = { addresses: [`198.18.2.${index + 1}`], cgroup: `held/w${index}` };
      held.push(await lab.workload(`w${index}`, options));
    }
    const [first] = held;
    if (first === undefined) throw new RangeError('no workloads');
    await untilAnswered(bare);

    const agent = await startAgent(lab, policies, held);
    const pid = agent.child.pid ?? 0;
    await sleep(SETTLED_MS);
    const before = { kernel: kernelMiB(), maps: mapBytes(pid), agent: processMiB(pid, 'VmRSS') };
    const questions = questionsOf(NAMES);
    for (const place of held) {
      const { completed } = await dnsperf(place, questions, ['-n', '1']);
      if (completed !== NAMES) throw new Error(`${place.name} was answered ${completed} of ${NAMES} questions`);
    }
    await sleep(SETTLED_MS);
    const after = { kernel: kernelMiB(), maps: mapBytes(pid), agent: processMiB(pid, 'VmRSS') };
    await agent.applied(() => policies.write('policy.yaml', policy(`n.${DOMAIN}`)));
    await agent.applied(() => policies.write('policy.yaml', policy(DOMAIN)));
    const { names } = JSON.parse(await ask(policies.socket, '/names')) as { names: LearnedName[] };
    const entries = workloads * NAMES * ADDRESSES;
    if (names.length !== entries) throw new Error(`the agent knows ${names.length} names, not ${entries}`);
    const peak = processMiB(pid, 'VmHWM');

    const rates: DnsRate[] = [];
    for (const names of [FEW_NAMES, NAMES]) {
      const file = questionsOf(names);
      const rate = async (place: Place): Promise<number> =>
        (await dnsperf(place, file, ['-l', String(turnSeconds)])).perSecond;
      const [freely, behind]: [number[], number[]] = [[], []];
      for (let turn = 0; turn < turns; turn++) {
        // What a turn leaves behind falls on whoever is next: so every other round goes backwards.
        if (turn % 2 === 1) behind.push(await rate(first));
        freely.push(await rate(bare));
        if (turn % 2 === 0) behind.push(await rate(first));
      }
      rates.push({
        ...{ names, bare: roundedSpread(freely), held: roundedSpread(behind) },
        ofBare: rounded(median(behind.map((perSecond, turn) => perSecond / (freely[turn] ?? Number.NaN)))),
      });
    }
    await mustHaveTaught(lab, agent);
    await agent.stop();
    return {
      rates,
      memory: {
        ...{ entries, workloads, kernelMiB: rounded(after.kernel - before.kernel) },
        mapsMiB: grown(before.maps, after.maps),
        agentMiB: { before: rounded(before.agent), after: rounded(after.agent), peak: rounded(peak) },
      },
    };
  } finally {
    await lab.close();
    policies.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

function startDnsmasq(lab: Lab, folder: string): void {
  const hosts = path.join(folder, 'hosts');
  writeFileSync(
    hosts,
    list(NAMES, (name, index) =>
      Array.from({ length: ADDRESSES }, (_, nth) => {
        const address = index * ADDRESSES + nth;
        return `198.19.${address >> 8}.${address & 255} ${name}`;
      }),
    ),
  );
  const options = [
    '--keep-in-foreground',
    '--no-resolv',
    '--no-hosts',
    '--conf-file=/dev/null',
    '--pid-file',
    '--user=root',
  ];
  const answers = ['--bind-interfaces', `--listen-address=${RESOLVER}`, `--addn-hosts=${hosts}`, '--local-ttl=3600'];
  lab.outside.spawn('taskset', [...ON_ONE_CPU, '/usr/sbin/dnsmasq', ...options, ...answers], { stdio: 'ignore' });
}

/** What is compared is work, so who asks and who answers share a CPU, as by traffic.ts. */
const ON_ONE_CPU = ['--cpu-list', '0'];

function list(count: number, lines: (name: string, index: number) => readonly string[]): string {
  const all = Array.from({ length: count }, (_, index) => lines(`n${index}.${DOMAIN}`, index));
  return `${all.flat().join('\n')}\n`;
}

async function untilAnswered(place: Place): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    const { status } = await place.exec('dig', ['+tries=1', '+time=1', `@${RESOLVER}`, `n0.${DOMAIN}`]);
    if (status === 0) return;
    if (attempt === 100) throw new Error('dnsmasq does not answer');
    await sleep(100);
  }
}

async function startAgent(lab: Lab, policies: PolicyFolder, held: readonly Place[]): Promise<TestAgent> {
  policies.write('pods.yaml', held.map(pod).join('---\n'));
  policies.write('policy.yaml', policy(DOMAIN));
  // A guard is put where a pod's processes are found.
  for (const { actor } of held) await actor.received();
  const agent = launchAgentIn(
    { netns: lab.outside.netns, root: lab.cgroup('held'), env: { NODE_OPTIONS: '--max-semi-space-size=2' } },
    ...([lab, policies, '--resolver', RESOLVER] as const),
  );
  for (const { name } of held) {
    await agent.line((line) => line.event === 'guarded' && String(line.workloads).split(',').includes(`bench/${name}`));
  }
  return agent;
}

function pod({ name, cgroupPath, addresses }: Place): string {
  return `apiVersion: v1
kind: Pod
metadata: {name: ${name}, namespace: bench, annotations: {postern.dev/cgroup: ${cgroupPath}}}
spec: {containers: [{name: c, image: i}]}
status: {podIPs: [{ip: ${addresses[0]}}]}
`;
}

async function dnsperf(
  place: Place,
  questions: string,
  until: readonly string[],
): Promise<{ completed: number; perSecond: number }> {
  const args = ['-s', RESOLVER, '-d', questions, '-c', '1', '-q', String(IN_FLIGHT), ...until];
  const { status, stdout, stderr } = await place.exec('taskset', [...ON_ONE_CPU, 'dnsperf', ...args], {
    timeoutMs: PATIENCE_MS,
  });
  const said = (what: string): number => Number(new RegExp(`${what}:\\s+([\\d.]+)`).exec(stdout)?.[1] ?? Number.NaN);
  if (status !== 0 || said('Queries lost') !== 0) throw new Error(`${place.name}: dnsperf: ${stdout}${stderr}`);
  return { completed: said('Queries completed'), perSecond: said('Queries per second') };
}

/** By name, in bytes, as the kernel counts them. */
function mapBytes(pid: number): Map<string, number> {
  const folder = `/proc/${pid}/fdinfo`;
  const held = new Set(
    readdirSync(folder).map((fd) => {
      try {
        return Number(/^map_id:\s+(\d+)$/m.exec(readFileSync(path.join(folder, fd), 'latin1'))?.[1]);
      } catch {
        // It was closed since it was listed.
        return Number.NaN;
      }
    }),
  );
  const shown = JSON.parse(execFileSync('bpftool', ['-j', 'map', 'show'], { encoding: 'utf8' })) as {
    id: number;
    name?: string;
    bytes_memlock?: number;
  }[];
  return new Map(
    shown.filter(({ id }) => held.has(id)).map(({ name = '', bytes_memlock = 0 }) => [name, bytes_memlock] as const),
  );
}

function grown(before: ReadonlyMap<string, number>, after: ReadonlyMap<string, number>): Record<string, number> {
  return Object.fromEntries(
    [...after]
      .map(([name, bytes]) => [name, rounded((bytes - (before.get(name) ?? 0)) / MIB)] as const)
      .filter(([, mib]) => mib > 0),
  );
}

async function mustHaveTaught(lab: Lab, agent: TestAgent): Promise<void> {
  const { metrics } = await agent.line(({ event }) => event === 'ready');
  const { stdout } = await lab.outside.exec('curl', ['-sf', String(metrics)]);
  const untaught = stdout.split('\n').filter((line) => /^postern_dns_untaught_total.* [1-9]/.test(line));
  if (untaught.length > 0) throw new Error(`answers taught nothing: ${untaught.join(', ')}`);
}

function roundedSpread(values: readonly number[]): Spread {
  const { median: middle, min, max } = spread(values);
  return { median: rounded(middle), min: rounded(min), max: rounded(max) };
}
