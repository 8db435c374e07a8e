// SPDX-License-Identifier: Apache-2.0
// Where ways out are tried: a node with the real agent, a network beyond it where everything that arrives is seen, and workloads of each
// kind in pairs: one held to a single destination, one that no policy selects. It knows the kinds, and none of the ways.
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { addressBytes } from '../packets/packet.ts';
import { launchAgentIn, POSTERN, PolicyFolder, type TestAgent } from '../support/agent.ts';
import { addNetwork } from '../support/cni.ts';
import { type ClusterObjects, Kubelet, type KubeObject, type Pod } from '../support/kubelet.ts';
import { type Actor, Lab, type Place } from '../support/lab.ts';

export const PORT = 4000;
export const FAMILIES = ['IPv4', 'IPv6'] as const;
export type Family = (typeof FAMILIES)[number];
/** A pod whose interface has a guard; one that has none, since its macvlan has no end on the host; one in the host's own network. */
export const KINDS = ['pod', 'macvlan', 'host'] as const;
export type Kind = (typeof KINDS)[number];

/** What an address is to a workload. All of `evil` and `good` are beyond; nobody has `ghost`. */
export interface Addresses {
  readonly own: string;
  /** The one destination that policy allows. */
  readonly good: string;
  /** This workload's alone, so that what arrives for it is its own doing. */
  readonly evil: string;
  /** Likewise. */
  readonly ghost: string;
}

/** A workload that tries ways out. */
export class Party {
  readonly kind: Kind;
  readonly isHeld: boolean;
  readonly pod: Pod;
  readonly #scene: Scene;
  /** Tells its addresses. */
  readonly number: number;

  constructor(scene: Scene, kind: Kind, isHeld: boolean, pod: Pod, number: number) {
    this.#scene = scene;
    this.kind = kind;
    this.isHeld = isHeld;
    this.pod = pod;
    this.number = number;
  }

  get place(): Place {
    return this.pod.place;
  }

  /** Its way out, as it sees it. */
  get device(): string {
    return this.kind === 'host' ? 'cni0' : 'eth0';
  }

  addresses(family: Family): Addresses {
    const own = this.kind === 'host' ? GATEWAYS : ownOf(this.number);
    const index = family === 'IPv4' ? 0 : 1;
    const pick = (pair: readonly [string, string]) => pair[index] ?? '';
    return {
      own: pick(own),
      good: pick(GOOD),
      evil: pick(evilOf(this.number)),
      ghost: pick(ghostOf(this.number)),
    };
  }

  /** Ethernet addresses, in hex: its own, and that of whoever has `good` and `evil`. */
  get hardware(): { readonly own: string; readonly beyond: string } {
    return { own: hardwareOf(this.place.netns, this.device), beyond: hardwareOf(this.#scene.beyond.netns, 'eth0') };
  }

  hardwareOf(device: string): string {
    return hardwareOf(this.place.netns, device);
  }

  /** Runs one of this folder's or test/packets' programs in it: what it printed. */
  async run(program: string, ...args: readonly string[]): Promise<string> {
    const { status, stdout, stderr } = await this.place.exec(this.#scene.program(program), args, { timeoutMs: 60_000 });
    assert.equal(status, 0, `${program} ${args.join(' ')}: ${stdout}${stderr}`);
    assert.doesNotMatch(stdout, /setup failed/);
    return stdout.trim();
  }

  async sh(script: string): Promise<string> {
    const { status, stdout, stderr } = await this.place.exec('sh', ['-ec', script], { timeoutMs: 60_000 });
    assert.equal(status, 0, stderr);
    return stdout.trim();
  }
}

const GATEWAYS = ['198.18.0.1', 'fd00:18::1'] as const;
const GOOD = ['198.18.2.1', 'fd00:18::1:2001'] as const;
const ownOf = (number: number) => [`198.18.1.${number}`, `fd00:18::1:${100 + number}`] as const;
const evilOf = (number: number) => [`198.18.9.${number}`, `fd00:18::1:${9000 + number}`] as const;
const ghostOf = (number: number) => [`198.18.8.${number}`, `fd00:18::1:${8000 + number}`] as const;

function hardwareOf(netns: string, device: string): string {
  const [link] = JSON.parse(
    execFileSync('ip', ['-n', path.basename(netns), '-j', 'link', 'show', device], { encoding: 'utf8' }),
  );
  return link.address.replaceAll(':', '');
}

export class Scene implements ClusterObjects {
  readonly lab: Lab;
  readonly beyond: Place;
  readonly kubelet: Kubelet;
  readonly parties: Party[] = [];
  readonly #objects = new PolicyFolder();
  readonly #programs: string;
  #agent: TestAgent | null = null;
  #capture: { readonly child: ChildProcess; readonly told: AsyncIterator<string> } | null = null;
  #counted: ReadonlyMap<string, number> = new Map();

  private constructor(lab: Lab, beyond: Place) {
    this.lab = lab;
    this.beyond = beyond;
    this.#programs = mkdtempSync(path.join(tmpdir(), `postern-${process.pid}-`));
    this.kubelet = new Kubelet(lab, { node: 'a', driver: 'cgroupfs', cluster: this });
  }

  /** With the agent up, and two workloads of each of these kinds. */
  static async open(kinds: readonly Kind[] = KINDS): Promise<Scene> {
    const lab = await Lab.create();
    let scene: Scene | null = null;
    try {
      const numbers = kinds.flatMap((_, index) => [2 * index + 11, 2 * index + 12]);
      const beyond = await addNetwork(lab, 'bridge', 'beyond', [...GOOD, ...numbers.flatMap(evilOf)], 'beyond');
      scene = new Scene(lab, beyond);
      await scene.#begin(kinds, numbers);
      return scene;
    } catch (error) {
      if (scene === null) await lab.close();
      else await scene.close();
      throw error;
    }
  }

  party(kind: Kind, isHeld: boolean): Party {
    const found = this.parties.find((party) => party.kind === kind && party.isHeld === isHeld);
    assert(found !== undefined);
    return found;
  }

  get agent(): TestAgent {
    assert(this.#agent !== null);
    return this.#agent;
  }

  async #begin(kinds: readonly Kind[], numbers: readonly number[]): Promise<void> {
    for (const name of ['../packets/ways', '../packets/tricks', 'attacks']) this.#compile(name);
    await this.lab.ip(null, ['link set cni0 type bridge mcast_snooping 0']);
    // A bridge is a wire, and reads no IP; where it is told to, it drops some of what is tried here.
    await this.#onNode('for file in /proc/sys/net/bridge/bridge-nf-call-*tables; do echo 0 >"$file"; done');
    // What is beyond is reached by the first link that was added to the bridge.
    await this.#onNode(`${this.program('attacks')} write-checksums veth1`);
    for (const [role, onDeny] of [
      ['held', 'Reject'],
      ['silent', 'Drop'],
    ] as const) {
      this.put({
        ...{ apiVersion: 'postern.dev/v1alpha1', kind: 'EgressPolicy', metadata: { namespace: 'shop', name: role } },
        spec: {
          podSelector: { matchLabels: { role } },
          hostNetwork: 'Include',
          onDeny,
          egress: [{ to: [{ networks: [`${GOOD[0]}/32`, `${GOOD[1]}/128`] }] }],
        },
      });
    }
    this.kubelet.makeRoot();
    await this.#launch();
    for (const [index, kind] of kinds.entries()) {
      for (const isHeld of [true, false]) await this.add(kind, isHeld, numbers[2 * index + (isHeld ? 0 : 1)] ?? 0);
    }
    for (const number of numbers) await this.#listen(evilOf(number));
    await this.#listen(GOOD);
    const child = this.beyond.spawn(this.program('attacks'), ['capture', 'eth0', ...this.#tokens()]);
    if (child.stdout === null) throw new Error('the capture needs pipes');
    this.#capture = { child, told: createInterface({ input: child.stdout })[Symbol.asyncIterator]() };
    assert.equal((await this.#capture.told.next()).value, 'ready');
    await this.reasons();
  }

  async #onNode(script: string): Promise<void> {
    const { status, stderr } = await this.lab.outside.exec('sh', ['-ec', script]);
    assert.equal(status, 0, stderr);
  }

  async #launch(): Promise<void> {
    this.#agent = launchAgentIn({ netns: this.lab.outside.netns, root: this.kubelet.root }, this.lab, this.#objects);
    await this.#agent.line(({ event }) => event === 'ready');
  }

  /** Does something while nothing of Postern is attached; afterwards there is an agent again, and guards where there were. */
  async withoutAgent(go: () => Promise<void>): Promise<void> {
    await this.agent.stop();
    const { bpffs, stateDir, socket } = this.#objects;
    const args = ['uninstall', '--bpffs', bpffs, '--state-dir', stateDir, '--socket', socket];
    const { status, stdout, stderr } = await this.lab.outside.exec(POSTERN, args);
    assert.equal(status, 0, stdout + stderr);
    await go();
    this.#counted = new Map();
    await this.#launch();
    for (const { kind, pod } of this.parties) if (kind === 'pod') await this.#settled(pod);
  }

  /** Another pod of the same kind at the same addresses, when this one is gone. */
  async replace(party: Party): Promise<Party> {
    const index = this.parties.indexOf(party);
    await party.pod.remove();
    this.parties.splice(index, 1);
    const next = await this.add(party.kind, party.isHeld, party.number, 'next-');
    // What is beyond knows it by its place.
    this.parties.pop();
    this.parties.splice(index, 0, next);
    return next;
  }

  #settled({ name }: Pod): Promise<unknown> {
    return this.agent.line(
      ({ event, workloads }) => /^(?:un)?guarded$/.test(event) && (workloads as string[]).includes(name),
    );
  }

  /** A workload more; `number`, of 1 to 99, tells its addresses. */
  async add(kind: Kind, isHeld: boolean, number: number, prefix = ''): Promise<Party> {
    const pod = await this.kubelet.run({
      namespace: 'shop',
      name: `${prefix}${kind}-${number}`,
      labels: { role: isHeld ? 'held' : 'free' },
      addresses: kind === 'host' ? [] : ownOf(number),
      cni: kind === 'macvlan' ? 'macvlan' : 'bridge',
      hostNetwork: kind === 'host',
    });
    if (kind === 'macvlan') await this.lab.ip(null, ['link set network master cni0']);
    const { actor } = pod.place;
    await actor.received();
    await this.#settled(pod);
    const party = new Party(this, kind, isHeld, pod, number);
    await party.sh('echo "0 2147483647" > /proc/sys/net/ipv4/ping_group_range');
    for (const family of FAMILIES) {
      const { good, evil } = party.addresses(family);
      assert.equal(await actor.tryTcp(good, PORT + 9, 5000), 'ECONNREFUSED', 'it is there');
      if (isHeld) await until(async () => (await actor.tryTcp(evil, PORT)) === 'EPERM', 'its policy');
    }
    this.parties.push(party);
    return party;
  }

  async #listen(addresses: readonly string[]): Promise<void> {
    for (const address of addresses) {
      for (const protocol of ['TCP', 'UDP'] as const) await this.beyond.actor.listen(protocol, address, PORT);
    }
  }

  /** The actor beyond. */
  get outsider(): Actor {
    return this.beyond.actor;
  }

  #compile(name: string): void {
    const source = path.join(import.meta.dirname, `${name}.cc`);
    const flags = ['-std=c++17', '-O2', '-Wall', '-Wextra', '-Werror', '-pthread'];
    execFileSync('g++', [...flags, '-o', this.program(path.basename(name)), source]);
  }

  program(name: string): string {
    return path.join(this.#programs, name);
  }

  #tokens(): string[] {
    return this.parties.flatMap((party) =>
      FAMILIES.flatMap((family) => {
        const { evil, ghost } = party.addresses(family);
        return [evil, ghost].map((address) => addressBytes(address).toString('hex'));
      }),
    );
  }

  /** Whose frames arrived beyond since `forget`, with one of them in hex: of what was done before an answer from there. */
  async arrived(): Promise<ReadonlyMap<Party, string>> {
    return this.#ask('tell');
  }

  /** What has arrived until now is of no interest. */
  async forget(): Promise<void> {
    await this.#ask('forget');
  }

  async #ask(what: string): Promise<ReadonlyMap<Party, string>> {
    assert(this.#capture !== null);
    this.#capture.child.stdin?.write(`${what}\n`);
    const told = String((await this.#capture.told.next()).value).matchAll(/(\d+)=([0-9a-f]*)/g);
    const arrived = new Map<Party, string>();
    for (const [, number, frame = ''] of told) {
      const party = this.parties[Math.floor(Number(number) / 4)];
      if (party !== undefined) arrived.set(party, frame);
    }
    return arrived;
  }

  /** Reasons for which something of a workload was refused since the last call. */
  async reasons(): Promise<ReadonlyMap<string, readonly string[]>> {
    const { metrics } = await this.agent.line(({ event }) => event === 'ready');
    const { stdout } = await this.lab.outside.exec('curl', ['-sf', String(metrics)]);
    const found = new Map<string, string[]>();
    const counted = new Map<string, number>();
    for (const line of stdout.split('\n')) {
      const [, labels = '', count = ''] = /^postern_drop_count_total\{(.*)\} (\d+)$/.exec(line) ?? [];
      const workload = /workload="([^"]*)"/.exec(labels)?.[1];
      const reason = /reason="([^"]*)"/.exec(labels)?.[1];
      if (workload === undefined || reason === undefined) continue;
      counted.set(labels, Number(count));
      if (Number(count) === (this.#counted.get(labels) ?? 0)) continue;
      found.set(workload, [...new Set([...(found.get(workload) ?? []), reason])].sort());
    }
    this.#counted = counted;
    return found;
  }

  put(object: KubeObject): void {
    this.#objects.write(fileOf(object), JSON.stringify(object));
  }

  delete(object: KubeObject): void {
    this.#objects.remove(fileOf(object));
  }

  async close(): Promise<void> {
    await this.lab.close();
    this.#objects.close();
    rmSync(this.#programs, { recursive: true, force: true });
  }
}

function fileOf({ kind, metadata: { namespace = '', name } }: KubeObject): string {
  return `${kind}.${namespace}.${name}.json`;
}

/** Looks again until it holds; a minute is far longer than anything takes. */
export async function until(holds: () => Promise<boolean>, what: string): Promise<void> {
  for (let turn = 0; turn < 3000; turn += 1) {
    if (await holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.fail(what);
}
