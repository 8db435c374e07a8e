// SPDX-License-Identifier: Apache-2.0
// A node with a workload that floods and one that is quiet, both behind guards, and an agent that learns names: what a flood came to, by
// flood.cc, by the agent's own counters and by the processor's time that it took. Asserts nothing.
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { launchAgentIn, PolicyFolder, type TestAgent } from './agent.ts';
import { Lab, type Place } from './lab.ts';

const PROGRAM = path.join(import.meta.dirname, '../../build/test/support/flood');
const RESOLVER = '198.18.200.53';
export const SERVER = '198.18.1.1';
/** Nobody is there, and whoever sends there hears nothing. */
const SINK = '198.19.0.0/16';
const STRANGER = '198.18.3.1';
/** USER_HZ, in which /proc/PID/stat counts: 100 on every architecture that Node runs on. */
const TICKS_PER_SECOND = 100;
const PATIENCE_MS = 300_000;

export type FloodName = 'refused' | 'flows' | 'names';

const FLOODS: Readonly<Record<FloodName, (count: number) => readonly string[]>> = {
  refused: (count) => ['send', STRANGER, String(count)],
  flows: (count) => ['send', '198.19.0.1', String(count)],
  names: (count) => ['ask', RESOLVER, String(count)],
};

const POLICY = `apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: all, namespace: shop}
spec:
  podSelector: {}
  egress:
  - {to: [{networks: [${SERVER}/32]}], ports: [{port: 80}]}
  - {to: [{networks: ["${SINK}"]}], ports: [{protocol: UDP, port: 1, endPort: 65535}]}
  - {to: [{networks: [${RESOLVER}/32]}], ports: [{protocol: UDP, port: 53}]}
  - {to: [{domainNames: ["*.flood.example"]}], ports: [{port: 443}]}
`;

/** One flood, as it was. */
export interface Flood {
  /** By who sent it: how many were refused, or answered. */
  readonly said: number;
  readonly seconds: number;
  /** What the agent ran for meanwhile, in seconds. */
  readonly agentSeconds: number;
}

export class FloodedNode {
  readonly lab: Lab;
  readonly loud: Place;
  readonly quiet: Place;
  readonly agent: TestAgent;
  readonly #folder: PolicyFolder;

  private constructor(lab: Lab, folder: PolicyFolder, places: readonly [Place, Place], agent: TestAgent) {
    this.lab = lab;
    this.#folder = folder;
    [this.loud, this.quiet] = places;
    this.agent = agent;
  }

  static async start(): Promise<FloodedNode> {
    const lab = await Lab.create();
    const folder = new PolicyFolder();
    try {
      await lab.addOutside(SERVER, RESOLVER);
      await lab.ip(null, [`route add blackhole ${SINK}`]);
      await lab.outside.actor.listen('TCP', SERVER, 80);
      const resolver = lab.outside.spawn(PROGRAM, ['answer', RESOLVER]);
      await once(resolver.stdout ?? resolver, 'data');
      const loud = await lab.workload('loud', { addresses: ['198.18.2.1'] });
      const quiet = await lab.workload('quiet', { addresses: ['198.18.2.5'] });
      folder.write('pods.yaml', [loud, quiet].map(pod).join('---\n'));
      folder.write('policy.yaml', POLICY);
      const agent = launchAgentIn(
        { netns: lab.outside.netns, root: lab.root },
        ...([lab, folder, '--resolver', RESOLVER] as const),
      );
      for (const { actor } of [loud, quiet]) await actor.received();
      const guarded = (name: string) =>
        agent.line((line) => line.event === 'guarded' && String(line.workloads).includes(name));
      await Promise.all([guarded('shop/loud'), guarded('shop/quiet')]);
      return new FloodedNode(lab, folder, [loud, quiet], agent);
    } catch (error) {
      await lab.close();
      folder.close();
      throw error;
    }
  }

  async flood(name: FloodName, count: number): Promise<Flood> {
    const [beganMs, before] = [performance.now(), this.#agentSeconds()];
    const { status, stdout, stderr } = await this.loud.exec(PROGRAM, FLOODS[name](count), { timeoutMs: PATIENCE_MS });
    if (status !== 0) throw new Error(`the flood of ${name} ended with ${status}: ${stderr}`);
    return {
      said: Number(stdout),
      seconds: (performance.now() - beganMs) / 1000,
      agentSeconds: this.#agentSeconds() - before,
    };
  }

  /** `/metrics`, by series. */
  async metrics(): Promise<ReadonlyMap<string, number>> {
    const { metrics } = await this.agent.line(({ event }) => event === 'ready');
    const { stdout } = await this.lab.outside.exec('curl', ['-sf', String(metrics)]);
    const lines = stdout.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
    return new Map(
      lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]),
    );
  }

  async close(): Promise<void> {
    await this.lab.close();
    this.#folder.close();
  }

  #agentSeconds(): number {
    const stat = readFileSync(`/proc/${this.agent.child.pid}/stat`, 'latin1');
    // proc_pid_stat(5): utime and stime are the twelfth and thirteenth field behind the name in brackets.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
  }
}

function pod({ name, cgroupPath, addresses }: Place): string {
  return `apiVersion: v1
kind: Pod
metadata: {name: ${name}, namespace: shop, annotations: {postern.dev/cgroup: ${cgroupPath}}}
spec: {containers: [{name: c, image: i}]}
status: {podIPs: [{ip: ${addresses[0]}}]}
`;
}
