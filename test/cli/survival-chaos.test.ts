// SPDX-License-Identifier: Apache-2.0
// The agent is killed (SIGKILL) at random moments while policies change, pods come and go, and traffic of both families goes on: the
// traffic's own ends say whether anything forbidden passed or anything allowed failed, the kernel has counted exactly what they have, and
// nothing is left in the end. POSTERN_KILLS: how often (a few hundred take some minutes); POSTERN_SEED: at which moments.
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import test from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { type LinkInfo, loadNative } from '../../src/kernel/native.ts';
import { PinFolder } from '../../src/kernel/pins.ts';
import { seeded } from '../oracle/random.ts';
import { type LogLine, launchAgentIn, PolicyFolder, type TestAgent } from '../support/agent.ts';
import type { Cni } from '../support/cni.ts';
import { type ClusterObjects, Kubelet, type KubeObject, type Pod } from '../support/kubelet.ts';
import { Lab, type Place } from '../support/lab.ts';

const KILLS = Number(process.env.POSTERN_KILLS ?? 10);
const SEED = Number(process.env.POSTERN_SEED ?? 4);
const POSTERN = path.join(import.meta.dirname, '../../bin/postern');
const SERVERS = ['198.18.1.1', 'fd00:18:1::1'];
const STEADY = 'steady/steady';
const random = seeded(SEED);

/** Objects as files of the agent's folder. */
class Files implements ClusterObjects {
  readonly #folder: PolicyFolder;

  constructor(folder: PolicyFolder) {
    this.#folder = folder;
  }

  #name({ kind, metadata }: KubeObject): string {
    return `${kind}-${metadata.namespace ?? ''}-${metadata.name}.json`.toLowerCase();
  }

  put(object: KubeObject): void {
    this.#folder.write(this.#name(object), JSON.stringify(object));
  }

  delete(object: KubeObject): void {
    this.#folder.remove(this.#name(object));
  }
}

type Ports = readonly Readonly<Record<string, unknown>>[];

function policy(namespace: string, name: string, networks: readonly string[], ports: Ports): KubeObject {
  return {
    apiVersion: 'postern.dev/v1alpha1',
    kind: 'EgressPolicy',
    metadata: { namespace, name },
    spec: { egress: [{ to: [{ networks }], ports }] },
  };
}

const HOSTS = SERVERS.map((address) => (address.includes(':') ? `${address}/128` : `${address}/32`));
const ALWAYS: Ports = [{ port: 80 }, { protocol: 'UDP', port: 53 }];
const SOMETIMES: Ports = [{ port: 82 }, { protocol: 'UDP', port: 55 }];
/** The same servers in other blocks: addresses are then of other classes, which takes a second set of maps after a kill. */
const NETWORKS = [
  HOSTS,
  ['198.18.0.0/15', 'fd00::/8'],
  [...HOSTS, '198.18.1.0/24', 'fd00:18:1::/64'],
  ['198.18.0.0/16', ...HOSTS, 'fd00:18::/32'],
];

interface Counts {
  readonly datagrams: number;
  readonly datagramBytes: number;
  readonly refused: number;
  readonly refusedBytes: number;
  readonly connections: number;
  readonly exchanges: number;
  readonly wrong: readonly string[];
}

/** A process of ends.cc. */
class End {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor(child: ChildProcess) {
    if (child.stdout === null) throw new Error('an end needs pipes');
    this.#child = child;
    this.#lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  }

  async line(): Promise<string> {
    const { value, done } = await this.#lines.next();
    if (done) throw new Error('it has ended');
    return value;
  }

  /** Lets it come to its end, and takes what it says then. */
  async counts<T>(): Promise<T> {
    const exit = once(this.#child, 'exit');
    this.#child.stdin?.end();
    let last = '';
    for (let next = await this.#lines.next(); !next.done; next = await this.#lines.next()) last = next.value;
    await exit;
    assert.notEqual(last, '', 'it says what it has counted');
    return JSON.parse(last) as T;
  }
}

function run(...args: readonly string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(POSTERN, args, { encoding: 'utf8' });
}

/** All that a kernel holds of one agent's: by what is pinned, and by what is attached at the root. */
class Holdings {
  readonly links = new Set<number>();
  readonly programs = new Set<number>();
  readonly maps = new Set<number>();
  readonly #folder: PolicyFolder;
  readonly #root: bigint;

  constructor(folder: PolicyFolder, lab: Lab) {
    this.#folder = folder;
    this.#root = loadNative().cgroupId(lab.root);
  }

  attached(): LinkInfo[] {
    return loadNative()
      .links()
      .filter(({ cgroup }) => cgroup === this.#root);
  }

  /** Remembers what is there now, and that it is no more than should be. */
  look(): void {
    const native = loadNative();
    const pins = PinFolder.look(native, this.#folder.bpffs);
    const attached = this.attached();
    assert.equal(attached.length, 6);
    const sets = pins.sets();
    assert.equal(sets.length, 1, sets.map(({ name }) => name).join(', '));
    assert.equal(readdirSync(path.join(this.#folder.bpffs, 'links')).length, 6);
    for (const { id, program } of [...attached, ...pins.all().map(({ info }) => info)]) {
      this.links.add(id);
      this.programs.add(program);
    }
    const maps = native.openMaps(Object.assign({ sockets: pins.sockets }, ...sets.map((set) => set.maps)));
    for (const id of Object.values(maps.mapIds())) this.maps.add(id);
    maps.close();
  }

  /** Nothing of all that was ever there; the kernel takes things away a while after the last that holds them is gone. */
  async assertGone(): Promise<void> {
    assert.equal(existsSync(this.#folder.bpffs), false);
    for (let look = 0; look < 100; look += 1) {
      try {
        this.#assertGone();
        return;
      } catch {
        await pause(100);
      }
    }
    this.#assertGone();
  }

  #assertGone(): void {
    const native = loadNative();
    const left = new Set(native.links().map(({ id }) => id));
    assert.deepEqual(
      [...this.links].filter((id) => left.has(id)),
      [],
    );
    assert.deepEqual(
      [...this.programs].filter((id) => native.program(id) !== null),
      [],
    );
    for (const id of this.maps) assert.throws(() => native.openMapsById({ map: id }), { code: 'ENOENT' });
  }
}

function descriptors(agent: TestAgent): number {
  return readdirSync(`/proc/${agent.child.pid}/fd`).length;
}

test(`an agent killed ${KILLS} times under load lets nothing through, refuses nothing, miscounts nothing and leaves nothing`, async (t) => {
  const scratch = mkdtempSync(path.join(tmpdir(), `postern-chaos-${process.pid}-`));
  const lab = await Lab.create();
  const folder = new PolicyFolder();
  t.after(async () => {
    await lab.close();
    folder.close();
    rmSync(scratch, { recursive: true });
  });
  const ends = path.join(scratch, 'ends');
  const source = path.join(import.meta.dirname, '../support/ends.cc');
  execFileSync('g++', ['-std=c++17', '-O2', '-Wall', '-Wextra', '-Werror', '-o', ends, source]);
  await lab.addOutside(...SERVERS);
  const server = new End(lab.outside.spawn(ends, ['serve', ...SERVERS]));
  assert.equal(await server.line(), 'ready');
  const client = (place: Place, who: 'known' | 'new') => new End(place.spawn(ends, ['client', who, ...SERVERS]));

  const files = new Files(folder);
  const kubelet = new Kubelet(lab, { node: 'n1', driver: 'cgroupfs', cluster: files });
  kubelet.makeRoot();
  for (const name of ['steady', 'changing', 'passing'])
    files.put({ apiVersion: 'v1', kind: 'Namespace', metadata: { name } });
  // One policy a protocol, so that each is counted by itself.
  files.put(policy('steady', 'tcp', HOSTS, [{ port: 80 }]));
  files.put(policy('steady', 'udp', HOSTS, [{ protocol: 'UDP', port: 53 }]));
  files.put(policy('changing', 'web', HOSTS, ALWAYS));
  files.put(policy('passing', 'web', HOSTS, ALWAYS));
  let pods = 0;
  const newPod = (namespace: string, cni: Cni): Promise<Pod> => {
    pods += 1;
    const addresses = [`198.18.${2 + (pods >> 7)}.${1 + (pods % 128)}`, `fd00:18:2::${pods.toString(16)}`];
    const name = namespace === 'steady' ? 'steady' : `p${pods}`;
    return kubelet.run({ namespace, name, addresses, cni });
  };
  const steady = await newPod('steady', 'routed');
  const changing = await newPod('changing', 'bridge');

  let agent: TestAgent | null = null;
  const launch = () => {
    const place = { netns: lab.outside.netns, root: lab.root };
    return launchAgentIn(place, lab, folder, '--unknown', 'deny', '--check-interval', '1');
  };
  const isReady = (one: TestAgent) => one.line((line) => line.event === 'ready');
  agent = launch();
  const began = performance.now();
  await isReady(agent);
  const startMs = performance.now() - began;
  const holdings = new Holdings(folder, lab);
  holdings.look();
  const known = [client(steady.place, 'known'), client(changing.place, 'known')];
  for (const pod of [steady, changing]) {
    const guards = (line: LogLine) => line.event === 'guarded' && JSON.stringify(line).includes(pod.name);
    await agent.line(guards);
  }

  // ---- what goes on meanwhile
  let goesOn = true;
  const lines: { readonly event: string }[] = [];
  const seen = { edits: 0, pods: 0, told: 0 };
  const edits = (async () => {
    while (goesOn) {
      seen.edits += 1;
      const networks = random.pick(NETWORKS);
      files.put(policy('changing', 'web', networks, random.chance(0.5) ? ALWAYS : [...ALWAYS, ...SOMETIMES]));
      if (random.chance(0.3)) files.put(policy('passing', 'web', random.pick(NETWORKS), ALWAYS));
      if (random.chance(0.3)) files.put(policy('passing', `more-${random.below(4)}`, random.pick(NETWORKS), SOMETIMES));
      await pause(random.between(5, 150));
    }
  })();
  const wrongs: string[] = [];
  const churn = (async () => {
    while (goesOn) {
      const pod = await newPod('passing', random.pick(['routed', 'bridge', 'calico']));
      const end = client(pod.place, 'new');
      seen.pods += 1;
      // Some live until they are known, others only for a moment.
      if (random.chance(0.5)) {
        if ((await end.line()) === 'known') seen.told += 1;
      } else await pause(random.between(0, 300));
      const { wrong } = await end.counts<Counts>();
      wrongs.push(...wrong.map((one) => `${pod.name}: ${one}`));
      await pod.remove();
    }
  })();

  for (let kill = 0; kill < KILLS; kill += 1) {
    await pause(random.below(Math.ceil(startMs * 1.8)));
    lines.push(...agent.lines);
    await agent.stop('SIGKILL');
    assert.equal(agent.errors, '');
    agent = launch();
    if (random.chance(0.25)) {
      await isReady(agent);
      holdings.look();
    }
  }
  await isReady(agent);
  goesOn = false;
  await Promise.all([edits, churn]);

  // ---- what both ends say
  const [steadily, changed] = await Promise.all(known.map((one) => one.counts<Counts>()));
  assert.ok(steadily !== undefined && changed !== undefined);
  t.diagnostic(JSON.stringify({ seed: SEED, kills: KILLS, startMs, ...seen, steadily, changed }));
  assert.deepEqual([...steadily.wrong, ...changed.wrong, ...wrongs], []);
  assert.ok(Math.min(steadily.datagrams, steadily.connections, steadily.exchanges, steadily.refused) > KILLS);
  assert.ok(seen.edits > KILLS && seen.pods > 0);
  lines.push(...agent.lines);
  assert.deepEqual(
    lines.filter(({ event }) => event === 'drift'),
    [],
    'agents find nothing that others left',
  );

  // ---- what the kernel has counted
  const last = agent;
  const { metrics } = await isReady(last);
  const told = await lab.outside.exec(process.execPath, [
    '-e',
    `fetch(${JSON.stringify(metrics)}).then((answer) => answer.text()).then((text) => process.stdout.write(text))`,
  ]);
  const series = told.stdout.split('\n').filter((line) => line.includes(`workload="${STEADY}"`));
  const sum = (name: string, ...labels: readonly string[]) =>
    series
      .filter((line) => line.startsWith(`${name}{`) && labels.every((label) => line.includes(label)))
      .reduce((total, line) => total + Number(line.slice(line.lastIndexOf(' ') + 1)), 0);
  const udp = ['policy="EgressPolicy/steady/udp"', 'reason="rule"'];
  assert.deepEqual(
    {
      datagrams: sum('postern_forward_count_total', ...udp),
      datagramBytes: sum('postern_forward_bytes_total', ...udp),
      refused: sum('postern_drop_count_total'),
      refusedBytes: sum('postern_drop_bytes_total'),
    },
    {
      datagrams: steadily.datagrams,
      datagramBytes: steadily.datagramBytes,
      refused: steadily.refused,
      refusedBytes: steadily.refusedBytes,
    },
    series.join('\n'),
  );

  // ---- what is left
  const idle = descriptors(last);
  for (let round = 0; round < 3; round += 1) {
    const pod = await newPod('passing', 'routed');
    const end = client(pod.place, 'new');
    await end.line();
    await end.counts();
    await last.applied(() => pod.remove());
  }
  holdings.look();
  // The guards of the last pod are given up a moment after it is gone.
  for (let look = 0; look < 100 && descriptors(last) > idle + 2; look += 1) await pause(100);
  assert.ok(descriptors(last) <= idle + 2, `${idle} descriptors became ${descriptors(last)}`);
  const served = await server.counts<Record<string, number>>();
  assert.deepEqual([served.tcp81, served.udp54], [0, 0], 'nothing that is forbidden has come');
  assert.ok((served.udp53 ?? 0) >= steadily.datagrams + changed.datagrams);
  const places = ['--bpffs', folder.bpffs, '--socket', folder.socket];
  const status = run('status', ...places);
  assert.equal(status.status, 0, status.stdout + status.stderr);
  assert.equal(await last.stop(), 0, last.errors);
  const gone = run('uninstall', ...places, '--state-dir', folder.stateDir);
  assert.equal(gone.status, 0, gone.stderr);
  assert.deepEqual(holdings.attached(), []);
  await holdings.assertGone();
});
