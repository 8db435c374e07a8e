// SPDX-License-Identifier: Apache-2.0
// Real workloads for tests and the demo: a network namespace, a veth pair and a cgroup each, around one namespace that stands
// for the world outside. It knows nothing of policies; whatever it makes carries this process's pid, and it removes it all.
import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { isIPv6 } from 'node:net';
import { constants } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import type { Answer, Request } from './actor.ts';

const run = promisify(execFile);

/** Where cgroup2 is mounted: in a hybrid hierarchy it is not /sys/fs/cgroup. */
export function cgroupMount(): string {
  for (const line of readFileSync('/proc/self/mountinfo', 'utf8').split('\n')) {
    const [head, tail] = line.split(' - ');
    if (tail?.startsWith('cgroup2 ')) return head?.split(' ')[4] ?? '';
  }
  throw new Error('cgroup2 is not mounted');
}

export interface Result {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Makes traffic on request from inside one place. Outcomes: `ok`, `timeout`, `closed`, or an errno's name (`EPERM`). */
export class Actor {
  readonly child: ChildProcess;
  readonly #waiting = new Map<number, (answer: Answer) => void>();
  #last = 0;

  constructor(child: ChildProcess) {
    this.child = child;
    if (child.stdout === null) throw new Error('an actor needs pipes');
    createInterface({ input: child.stdout }).on('line', (line) => {
      const answer = JSON.parse(line) as Answer;
      this.#waiting.get(answer.id)?.(answer);
      this.#waiting.delete(answer.id);
    });
    child.on('exit', () => {
      for (const [id, resolve] of this.#waiting) resolve({ id, outcome: 'gone' });
      this.#waiting.clear();
    });
  }

  #ask(request: Omit<Request, 'id'>): Promise<Answer> {
    this.#last += 1;
    const id = this.#last;
    return new Promise((resolve) => {
      this.#waiting.set(id, resolve);
      this.child.stdin?.write(`${JSON.stringify({ id, ...request })}\n`);
    });
  }

  /** An echo server. Port 0: any. Throws if it cannot listen. */
  async listen(protocol: 'TCP' | 'UDP', address: string, port: number): Promise<number> {
    const answer = await this.#ask({ op: 'listen', protocol, address, port });
    if (answer.outcome !== 'ok') throw new Error(`listen ${address} ${port}: ${answer.outcome}`);
    return answer.port ?? 0;
  }

  /** A TCP connection; where it is `ok`, `socket` names it for the calls below. */
  connect(address: string, port: number, timeoutMs = 1000): Promise<Answer> {
    return this.#ask({ op: 'connect', address, port, timeoutMs });
  }

  /** Connects and closes again. */
  async tryTcp(address: string, port: number, timeoutMs = 1000): Promise<string> {
    const answer = await this.connect(address, port, timeoutMs);
    if (answer.socket !== undefined) await this.close(answer.socket);
    return answer.outcome;
  }

  /** One datagram, and its echo. */
  async tryUdp(address: string, port: number, timeoutMs = 1000): Promise<string> {
    return (await this.#ask({ op: 'send', address, port, timeoutMs })).outcome;
  }

  /** Asks `resolver` for both families of each name at once, and connects to `port` of what it answers: `ok` if all do, else which did not. */
  async reach(names: readonly string[], resolver: string, port: number, timeoutMs = 60_000): Promise<string> {
    return (await this.#ask({ op: 'reach', names, address: resolver, port, timeoutMs })).outcome;
  }

  /** Writes, and waits for the echo. */
  async exchange(socket: number, text = 'postern', timeoutMs = 1000): Promise<string> {
    return (await this.#ask({ op: 'exchange', socket, text, timeoutMs })).outcome;
  }

  /** Waits until the connection is over, and says how it ended. */
  async ended(socket: number, timeoutMs = 1000): Promise<string> {
    return (await this.#ask({ op: 'ended', socket, timeoutMs })).outcome;
  }

  /** How many chunks and datagrams the servers here have read. */
  async received(): Promise<number> {
    return (await this.#ask({ op: 'received' })).count ?? 0;
  }

  async close(socket: number): Promise<void> {
    await this.#ask({ op: 'close', socket });
  }
}

/** A namespace and, for all but the outside, a cgroup: where processes can be started. */
export class Place {
  readonly name: string;
  /** `/run/netns/…` */
  readonly netns: string;
  /** The folder of its cgroup, or null: that of the lab's own process. */
  readonly cgroup: string | null;
  readonly addresses: readonly string[];
  readonly #lab: Lab;
  #actor: Actor | null = null;

  constructor(lab: Lab, name: string, netns: string, cgroup: string | null, addresses: readonly string[]) {
    this.#lab = lab;
    this.name = name;
    this.netns = netns;
    this.cgroup = cgroup;
    this.addresses = addresses;
  }

  /** Its cgroup as `postern.dev/cgroup` writes it: the path below the cgroup2 mount. */
  get cgroupPath(): string {
    return this.cgroup === null ? '' : path.relative(cgroupMount(), this.cgroup);
  }

  /** Starts a command in here. It is killed when the lab closes. */
  spawn(
    command: string,
    args: readonly string[],
    options: { stdio?: 'pipe' | 'inherit' | 'ignore' } = {},
  ): ChildProcess {
    return this.#lab.spawnIn(this.netns, this.cgroup, command, args, options.stdio ?? 'pipe');
  }

  /** Runs a command in here to its end; it is killed after `timeoutMs`. Never rejects for the command's own failure. */
  exec(
    command: string,
    args: readonly string[],
    options: { timeoutMs?: number; input?: string } = {},
  ): Promise<Result> {
    const child = this.spawn(command, args);
    return resultOf(child, options.timeoutMs ?? 10_000, options.input ?? '');
  }

  /** This place's one actor, started on first use. */
  get actor(): Actor {
    this.#actor ??= new Actor(this.spawn(process.execPath, [path.join(import.meta.dirname, 'actor.ts')]));
    return this.#actor;
  }

  /** Another actor in the same place: a second process. */
  newActor(): Actor {
    return new Actor(this.spawn(process.execPath, [path.join(import.meta.dirname, 'actor.ts')]));
  }
}

/** Collects what a child writes until it ends; kills it after `timeoutMs`. */
export function resultOf(child: ChildProcess, timeoutMs: number, input = ''): Promise<Result> {
  return new Promise((resolve, reject) => {
    let stdout = '';
    let stderr = '';
    const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    child.on('error', reject);
    child.on('close', (status, signal) => {
      clearTimeout(timer);
      resolve({ status, signal, stdout, stderr });
    });
    // A child that reads nothing may be gone before this is written: its result says all.
    child.stdin?.on('error', () => undefined).end(input);
  });
}

let labs = 0;
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * A world of its own: `outside` holds every server's address, workloads are routed through it, and no packet leaves it.
 * Addresses are of 198.18.0.0/15 and fd00::/8. `root` is a cgroup below which all workloads' cgroups are: attach there.
 */
export class Lab {
  /** `postern-PID-N`: what everything made here begins with. */
  readonly name: string;
  /** Folder of the lab's own cgroup. */
  readonly root: string;
  readonly outside: Place;
  readonly #namespaces: string[] = [];
  readonly #cgroups: string[] = [];
  readonly #children = new Set<ChildProcess>();
  readonly #atExit = () => this.#removeNow();
  /** Whoever has a handler of their own for the signal decides how to go on; this process otherwise ends, through `exit` above. */
  readonly #atSignal = (signal: NodeJS.Signals) => {
    process.off(signal, this.#atSignal);
    if (process.listenerCount(signal) > 0) return;
    process.exit(128 + constants.signals[signal]);
  };
  #links = 0;
  #closed = false;

  private constructor(name: string) {
    this.name = name;
    this.root = path.join(cgroupMount(), name);
    this.outside = new Place(this, 'outside', `/run/netns/${name}-out`, null, []);
    process.on('exit', this.#atExit);
    for (const signal of SIGNALS) process.on(signal, this.#atSignal);
  }

  static async create(): Promise<Lab> {
    sweep();
    labs += 1;
    const lab = new Lab(`postern-${process.pid}-${labs}`);
    try {
      lab.cgroup('');
      await lab.#namespace(`${lab.name}-out`);
      await lab.#in(
        lab.outside.netns,
        'echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding',
      );
      return lab;
    } catch (error) {
      await lab.close();
      throw error;
    }
  }

  /** Makes a cgroup below the lab's root (`kubepods/burstable/podX`) with its parents, and gives its folder. */
  cgroup(below: string): string {
    let folder = this.root;
    for (const part of ['', ...below.split('/').filter((name) => name !== '')]) {
      folder = path.join(folder, part);
      if (!existsSync(folder)) {
        mkdirSync(folder);
        this.#cgroups.push(folder);
      }
    }
    return folder;
  }

  /** Kills what is in a cgroup of the lab and removes its folder, with those below it. */
  async removeCgroup(folder: string): Promise<void> {
    for (let attempt = 0; existsSync(folder); attempt += 1) {
      try {
        writeFileSync(path.join(folder, 'cgroup.kill'), '1');
        removeFolders(folder);
      } catch (error) {
        if (attempt > 1000) throw error;
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    }
  }

  /** Gives the outside these addresses, for servers. */
  async addOutside(...addresses: readonly string[]): Promise<void> {
    for (const address of addresses)
      await this.#ip('-n', path.basename(this.outside.netns), 'addr', 'add', withLength(address), 'dev', 'lo');
  }

  /**
   * A workload: namespace, veth and cgroup. `cgroup` is the path below the lab's root (default: its name), null for none;
   * `addresses` are its own, of both families as wished.
   */
  async workload(name: string, options: { addresses: readonly string[]; cgroup?: string | null }): Promise<Place> {
    const below = options.cgroup === undefined ? name : options.cgroup;
    const folder = below === null ? null : this.cgroup(below);
    const outside = path.basename(this.outside.netns);
    const namespace = `${this.name}-${name}`;
    this.#links += 1;
    const link = `w${this.#links}`;
    await this.#namespace(namespace);
    await this.#ip('-n', outside, 'link', 'add', link, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', namespace);
    // The gateway's addresses are on each link, not on one shared network, so that workloads need no bridge.
    await this.#batch(outside, [
      `addr add 198.18.0.1/32 dev ${link}`,
      `addr add fd00:18::1/128 dev ${link} nodad`,
      `link set ${link} up`,
      ...options.addresses.map((address) => `route add ${withLength(address)} dev ${link}`),
    ]);
    await this.#batch(namespace, [
      ...options.addresses.map(
        (address) => `addr add ${withLength(address)} dev eth0${isIPv6(address) ? ' nodad' : ''}`,
      ),
      'link set eth0 up',
      'route add 198.18.0.1/32 dev eth0',
      'route add 198.18.0.0/15 via 198.18.0.1 dev eth0',
      'route add fd00:18::1/128 dev eth0',
      'route add fd00::/8 via fd00:18::1 dev eth0',
    ]);
    return new Place(this, name, `/run/netns/${namespace}`, folder, options.addresses);
  }

  /** A network namespace of the lab's, with its loopback up: its name. */
  async namespace(name: string): Promise<string> {
    const full = `${this.name}-${name}`;
    await this.#namespace(full);
    return full;
  }

  /** Commands of ip(8), in the namespace with this name; null: in the outside. */
  async ip(namespace: string | null, lines: readonly string[]): Promise<void> {
    await this.#batch(namespace ?? path.basename(this.outside.netns), lines);
  }

  /** Removes a workload's namespace, and with it its veth, its addresses and the routes to them. */
  async removeNetwork(place: Place): Promise<void> {
    const name = path.basename(place.netns);
    const index = this.#namespaces.indexOf(name);
    if (index === -1) throw new Error(`${name} is none of this lab's`);
    this.#namespaces.splice(index, 1);
    await this.#ip('netns', 'del', name);
  }

  /** A place in the namespace `netns` (`/run/netns/…`), whoever made it: the cgroup alone is its own. */
  placeIn(netns: string, cgroup: string, addresses: readonly string[] = []): Place {
    return new Place(this, path.basename(cgroup), netns, cgroup, addresses);
  }

  spawnIn(
    netns: string,
    cgroup: string | null,
    command: string,
    args: readonly string[],
    stdio: 'pipe' | 'inherit' | 'ignore',
  ): ChildProcess {
    // Into the cgroup first: a socket belongs to the cgroup in which it was made. Not `ip netns exec`, which hides /sys.
    const enter = cgroup === null ? 'shift; exec "$@"' : 'echo 0 > "$1/cgroup.procs" && shift && exec "$@"';
    const child = spawn('sh', ['-c', enter, 'sh', cgroup ?? '', 'nsenter', `--net=${netns}`, '--', command, ...args], {
      stdio,
    });
    this.#children.add(child);
    child.on('exit', () => this.#children.delete(child));
    return child;
  }

  /** Counts a child started elsewhere (the agent) as the lab's: it is stopped when the lab closes. */
  adopt(child: ChildProcess): ChildProcess {
    this.#children.add(child);
    child.on('exit', () => this.#children.delete(child));
    return child;
  }

  /** Removes everything that was made here. Safe to call twice. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#forgetExit();
    // Their exit, not their pipes': what they left behind in a cgroup may hold these, and is killed with it below.
    const gone = [...this.#children].map((child) => new Promise((resolve) => child.once('exit', resolve)));
    for (const child of this.#children) child.kill('SIGKILL');
    await Promise.all(gone);
    for (const folder of this.#cgroups.toReversed()) await this.removeCgroup(folder);
    for (const namespace of this.#namespaces) await run('ip', ['netns', 'del', namespace]);
  }

  #forgetExit(): void {
    process.off('exit', this.#atExit);
    for (const signal of SIGNALS) process.off(signal, this.#atSignal);
  }

  #removeNow(): void {
    this.#closed = true;
    this.#forgetExit();
    for (const child of this.#children) child.kill('SIGKILL');
    for (const folder of this.#cgroups.toReversed()) removeCgroupNow(folder);
    for (const namespace of this.#namespaces) removeNamespaceNow(namespace);
  }

  async #namespace(name: string): Promise<void> {
    await this.#ip('netns', 'add', name);
    this.#namespaces.push(name);
    await this.#ip('-n', name, 'link', 'set', 'lo', 'up');
  }

  async #ip(...args: string[]): Promise<void> {
    await run('ip', args);
  }

  async #batch(namespace: string, lines: readonly string[]): Promise<void> {
    const child = spawn('ip', ['-n', namespace, '-batch', '-']);
    const result = await resultOf(child, 10_000, `${lines.join('\n')}\n`);
    if (result.status !== 0) throw new Error(`ip -batch in ${namespace}: ${result.stderr}`);
  }

  async #in(netns: string, script: string): Promise<void> {
    await run('nsenter', [`--net=${netns}`, '--', 'sh', '-c', script]);
  }
}

function withLength(address: string): string {
  return isIPv6(address) ? `${address}/128` : `${address}/32`;
}

/** With those below it, which a workload may have made for itself. */
function removeFolders(folder: string): void {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (entry.isDirectory()) removeFolders(path.join(folder, entry.name));
  }
  rmdirSync(folder);
}

function removeCgroupNow(folder: string): void {
  const pause = new Int32Array(new SharedArrayBuffer(4));
  for (let attempt = 0; attempt < 100 && existsSync(folder); attempt += 1) {
    try {
      writeFileSync(path.join(folder, 'cgroup.kill'), '1');
      removeFolders(folder);
    } catch {
      Atomics.wait(pause, 0, 0, 10);
    }
  }
}

function removeNamespaceNow(name: string): void {
  try {
    execFileSync('ip', ['netns', 'del', name], { stdio: 'ignore' });
  } catch {
    // It is gone already.
  }
}

/** Removes what a test left behind that was killed before it could. */
function sweep(): void {
  const isLeft = (name: string) => {
    const pid = /^postern-(\d+)-\d+/.exec(name)?.[1];
    return pid !== undefined && !existsSync(`/proc/${pid}`);
  };
  const mount = cgroupMount();
  for (const name of readdirSync(mount)) if (isLeft(name)) removeCgroupNow(path.join(mount, name));
  if (existsSync('/run/netns')) {
    for (const name of readdirSync('/run/netns')) if (isLeft(name)) removeNamespaceNow(name);
  }
}
