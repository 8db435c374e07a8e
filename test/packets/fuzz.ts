// SPDX-License-Identifier: Apache-2.0
// Random packets through the programs, compared with the oracle of test/oracle/way-out.ts: what each returns, and what each batch counts.
// node test/packets/fuzz.ts PACKETS SEED: as many as there is time for. A difference is printed with what leads to it, and ends it.
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import {
  BUDGET_BYTES,
  COUNTER_BYTES,
  COUNTER_KEY_BYTES,
  decodeCounter,
  decodeCounterKey,
  encodeSelfKey,
  encodeWorkload,
  FRAGMENTS_PER_WORKLOAD,
  GUARD_HARDWARE_ADDRESS,
  REASON_NAMES,
  ROW_ISOLATED,
  ROW_SILENT,
  RULE_NONE,
  SELF_KEY_BYTES,
  UNKNOWN_ALLOW,
  UNKNOWN_DENY,
  VERDICT_NAMES,
  WORKLOAD_BYTES,
} from '#build/generated/abi.ts';
import { text } from '../oracle/packet.ts';
import { type Random, seeded } from '../oracle/random.ts';
import { type Hold, type Outcome, WayOut, type Workload } from '../oracle/way-out.ts';
import { addressBytes, addressKey, LOCAL4, LOCAL6 } from './packet.ts';
import { always, id, on, Programs, SLOT } from './programs.ts';

const PROGRAMS = ['egress', 'ingress', 'guard_out', 'guard_in'] as const;
type Program = (typeof PROGRAMS)[number];
const HOLDS: readonly Hold[] = ['enforced', 'silent', 'audit', 'none', 'unknown_denied', 'unknown_allowed'];
const BATCH = 2048;
/** Few, so that a batch goes past it. */
const FLOWS = 64;
const NOT_RUN = 100;

// ---- the world: one policy, told twice, to the maps and to the oracle -------------------------------------------------------------

const LOOPBACK = 1;
const GUARDED_CGROUP = 0x1234n;
const GUARDED_SLOT = SLOT + 1;
const RULESET = id(0xa);
const SILENT_RULESET = id(0xb);
const PORT_SET = id(0xc);
const NETWORK = id(0xd);
const HOST = id(0xe);
const LINK_LOCAL = 'fe80::10';
const HARDWARE = '020000000001';
const ONE_HOST = '198.18.1.1';
const WIDE4 = '198.18.7.0';
const WIDE6 = 'fd00:7::';
const WIDE_RULE = 10;
const HOST_RULE = 20;
const FIRST_RULE: Readonly<Record<number, number>> = { 6: 100, 17: 200, 132: 300 };
const ICMP_RULES: Readonly<Record<string, number>> = { EchoRequest: 401, Unreachable: 403 };
const ICMP_NUMBERS: Readonly<Record<string, number>> = { EchoRequest: 1, Unreachable: 3 };

const plain = (address: string) => text(addressBytes(address));

/** By the port's highest four bits, of which every other value is allowed; so a port that is read wrong is told under another rule. */
function allows(destination: string, protocol: number | 'ICMP', port: number | string | null): number | null {
  const wide = destination.length === 4 ? plain(WIDE4).slice(0, 3) : plain(WIDE6).slice(0, 4);
  if (destination.startsWith(wide)) return WIDE_RULE;
  if (destination === plain(ONE_HOST) && protocol === 17 && port === 53) return HOST_RULE;
  if (protocol === 'ICMP') return ICMP_RULES[`${port}`] ?? null;
  const first = FIRST_RULE[protocol];
  const nibble = Number(port) >> 12;
  return first === undefined || nibble % 2 === 1 ? null : first + nibble;
}

const OWN = [LOCAL4, LOCAL6];
const workload = (hold: Hold, hardware: string | null): Workload => ({
  hold,
  allows,
  own: new Set(OWN.map(plain)),
  sources: new Set([...OWN, LINK_LOCAL].map(plain)),
  hardware,
  mostFlows: FLOWS,
  mostFragments: FRAGMENTS_PER_WORKLOAD,
});

function bind(programs: Programs, cgroup: bigint, slot: number, hold: Hold): void {
  const key = Buffer.alloc(8);
  key.writeBigUInt64LE(cgroup);
  programs.object.remove('workloads', key, 1);
  if (hold.startsWith('unknown')) return;
  const shadow = hold === 'silent' ? SILENT_RULESET : hold === 'none' ? id(0) : RULESET;
  const value = Buffer.alloc(WORKLOAD_BYTES);
  encodeWorkload({ slot, enforced: hold === 'audit' ? id(0) : shadow, shadow, netns: 0n }, value);
  programs.object.update('workloads', key, value, 1, 0);
}

function fill(programs: Programs, hold: Hold, hasHardware: boolean): void {
  programs.reset();
  for (const [ruleset, flags] of [
    [RULESET, ROW_ISOLATED],
    [SILENT_RULESET, ROW_ISOLATED | ROW_SILENT],
  ] as const) {
    programs.row({ ruleset, flags, portSet: PORT_SET });
    programs.row({ ruleset, subject: NETWORK, entries: [always({ policy: WIDE_RULE })] });
    programs.row({ ruleset, subject: HOST, entries: [on(17, 53, 53, { policy: HOST_RULE })] });
  }
  for (const [protocol, first] of Object.entries(FIRST_RULE))
    for (let nibble = 0; nibble < 16; nibble += 2)
      programs.port(PORT_SET, Number(protocol), nibble << 12, 20, { policy: first + nibble });
  for (const [kind, rule] of Object.entries(ICMP_RULES))
    programs.port(PORT_SET, 1, ICMP_NUMBERS[kind] ?? 0, 32, { policy: rule });
  programs.network(0, WIDE4, 96 + 24, NETWORK);
  programs.network(0, WIDE6, 32, NETWORK);
  programs.identity(ONE_HOST, { id: HOST });
  for (const slot of [SLOT, GUARDED_SLOT]) {
    for (const address of OWN) {
      const key = Buffer.alloc(SELF_KEY_BYTES);
      encodeSelfKey({ slot, address: addressKey(address) }, key);
      programs.object.update('selves', key, Buffer.from([1]), 1, 0);
    }
  }
  const slot = Buffer.alloc(4);
  slot.writeUInt32LE(GUARDED_SLOT);
  programs.object.update('budgets', slot, Buffer.alloc(BUDGET_BYTES), 1, 0);
  bind(programs, programs.cgroup, SLOT, hold);
  bind(programs, GUARDED_CGROUP, GUARDED_SLOT, hold);
  const flags = hasHardware ? GUARD_HARDWARE_ADDRESS : 0;
  programs.guard(LOOPBACK, { cgroup: GUARDED_CGROUP, flags, hardwareAddress: HARDWARE }, ...OWN, LINK_LOCAL);
  programs.settings({ unknown: hold === 'unknown_denied' ? UNKNOWN_DENY : UNKNOWN_ALLOW });
}

// ---- packets ------------------------------------------------------------------------------------------------------------------------

export interface Frame {
  readonly program: Program;
  readonly gsoSize: number;
  readonly gsoSegments: number;
  readonly bytes: Uint8Array;
}

const bytesOf = (...addresses: readonly string[]) => addresses.map((address) => addressBytes(address));
const LOCALS = {
  4: bytesOf(LOCAL4, LOCAL4, LOCAL4, LOCAL4, '198.18.0.99', '0.0.0.0', '127.0.0.1'),
  6: bytesOf(LOCAL6, LOCAL6, LOCAL6, LOCAL6, LINK_LOCAL, LINK_LOCAL, 'fd00::99', '::', '::1'),
};
const REMOTES = {
  4: bytesOf(ONE_HOST, ONE_HOST, '198.18.1.2', '198.18.7.1', '198.18.8.1', '127.0.0.1', LOCAL4, '224.0.0.1'),
  6: [
    ...bytesOf('fd00::1:1', 'fd00::1:1', 'fd00:7::1', 'fd00:8::1', 'fe80::1', 'ff02::1', 'ff0e::1', '::1', LOCAL6),
    addressBytes('::ffff:c612:701'),
  ],
};
const PORTS = [53, 53, 80, 443, 0x1234, 0x3412, 8080, 40000, 40001, 0];
const EDGES = [
  0, 1, 2, 4, 5, 6, 7, 8, 0x0f, 0x10, 0x20, 0x2c, 0x33, 0x3a, 0x3c, 0x40, 0x44, 0x45, 0x46, 0x4f, 0x60, 0x7f, 0x80,
  0xfe, 0xff,
];
const EXTENSIONS = [0, 60, 60, 51, 44, 44, 43, 135, 139, 140, 253, 254];
const TYPES = {
  4: [0, 3, 3, 8, 8, 11, 12, 13],
  6: [1, 2, 3, 4, 128, 129, 131, 132, 133, 134, 135, 135, 136, 136, 137, 143],
};

/** What a packet may have in common with others, so that one answers or continues another. */
interface Talk {
  readonly family: 4 | 6;
  readonly local: Uint8Array;
  readonly remote: Uint8Array;
  readonly localPort: number;
  readonly remotePort: number;
  /** Of an echo and of fragments. */
  readonly id: number;
  readonly protocol: number;
}
const TALKS = 24;

/** Writes packets into one buffer, from a seed. */
class Packets {
  readonly #random: Random;
  #talks: Talk[] = [];
  #talk: Talk | null = null;
  #isOutward = true;
  readonly #bytes = new Uint8Array(8192);
  #at = 0;

  constructor(random: Random) {
    this.#random = random;
  }

  #u8(value: number): void {
    this.#bytes[this.#at] = value;
    this.#at += 1;
  }
  #u16(value: number): void {
    this.#u8(value >> 8);
    this.#u8(value & 0xff);
  }
  #set16(at: number, value: number): void {
    this.#bytes[at] = value >> 8;
    this.#bytes[at + 1] = value & 0xff;
  }
  #put(bytes: Uint8Array): void {
    this.#bytes.set(bytes, this.#at);
    this.#at += bytes.length;
  }
  #fill(count: number, value: number): void {
    this.#bytes.fill(value, this.#at, this.#at + count);
    this.#at += count;
  }
  #ports(): void {
    const { localPort = this.#port(), remotePort = this.#port() } = this.#talk ?? {};
    this.#u16(this.#isOutward ? localPort : remotePort);
    this.#u16(this.#isOutward ? remotePort : localPort);
  }
  #port(): number {
    return this.#random.chance(0.1) ? this.#random.below(65536) : this.#random.pick(PORTS);
  }

  #upper(family: 4 | 6, protocol: number, ends: readonly [Uint8Array, Uint8Array], depth: number): void {
    const random = this.#random;
    const start = this.#at;
    switch (protocol) {
      case 6: {
        this.#ports();
        this.#fill(8, 0);
        const words = random.chance(0.8) ? 5 : random.below(16);
        this.#u8(words << 4);
        this.#u8(random.pick([2, 2, 16, 18, 17, 4, 20, 0, 255]));
        this.#fill(6, 0);
        this.#fill(Math.max(0, words - 5) * 4, 1);
        this.#fill(random.pick([0, 0, 8, 100]), 0x61);
        return;
      }
      case 17: {
        this.#ports();
        this.#fill(4, 0);
        this.#fill(random.pick([0, 8, 24, 100, 101]), 0x61);
        const length = this.#at - start;
        this.#set16(start + 4, random.chance(0.9) ? length : random.pick([0, 7, 8, length - 1, length + 1, 65535]));
        return;
      }
      case 132:
        this.#ports();
        this.#fill(random.pick([4, 8, 8, 28]), 0);
        return;
      case 1:
      case 58: {
        const type = random.pick(TYPES[protocol === 1 ? 4 : 6]);
        this.#u8(type);
        this.#u8(random.chance(0.8) ? (type === 3 && protocol === 1 ? random.pick([1, 3, 4]) : 0) : random.below(6));
        this.#u16(0);
        this.#u16(this.#talk?.id ?? random.below(4));
        this.#u16(0);
        const isError = protocol === 1 ? [3, 11, 12].includes(type) : type < 5;
        if (isError && depth === 0 && random.chance(0.9)) {
          this.#isOutward = !this.#isOutward;
          this.#ip(family, [ends[1], ends[0]], 1);
        } else if (type >= 133 && type <= 137) {
          if (random.chance(0.95)) this.#put(random.pick(LOCALS[6]));
          this.#fill(random.pick([0, 0, 8, 16]), 1);
        }
        return;
      }
      default:
        this.#fill(random.pick([0, 4, 8, 40]), 0x45);
    }
  }

  #ip(family: 4 | 6, ends: readonly [Uint8Array, Uint8Array], depth: number): void {
    const random = this.#random;
    const start = this.#at;
    const about =
      depth === 0 ? (random.chance(0.9) ? (this.#talk?.protocol ?? null) : null) : random.chance(0.5) ? 17 : null;
    const protocol = about ?? random.pick([6, 6, 6, 17, 17, 17, 132, 1, 1, 58, 58, 4, 41, 47, 50, 59]);
    const upper =
      protocol === 1 || protocol === 58 ? (random.chance(0.95) ? (family === 4 ? 1 : 58) : protocol) : protocol;
    const isPiece = depth === 0 && random.chance(0.25);
    const offset = isPiece && random.chance(0.5) ? random.pick([1, 2, 2, 3, 4, 8, 8189, 8190, 8191]) : 0;
    const place = isPiece ? offset * 8 : 0;
    const more = isPiece && (offset === 0 || random.chance(0.5));
    const id = this.#talk?.id ?? random.below(12);
    if (family === 4) {
      const options = depth === 0 && random.chance(0.15) ? random.between(1, 10) * 4 : 0;
      this.#u8(0x40 | (5 + options / 4));
      this.#u8(0);
      this.#u16(0);
      this.#u16(id);
      this.#u16((more ? 0x2000 : random.pick([0, 0, 0x4000])) | (place / 8));
      this.#u8(64);
      this.#u8(upper);
      this.#u16(0);
      this.#put(ends[0]);
      this.#put(ends[1]);
      this.#options(options);
    } else {
      this.#u8(0x60);
      this.#fill(5, 0);
      this.#u8(upper);
      this.#u8(random.pick([64, 255, 255, 1]));
      this.#put(ends[0]);
      this.#put(ends[1]);
      this.#chain(start + 6, upper, isPiece ? [place | (more ? 1 : 0), id] : null, depth);
    }
    if (offset > 0) this.#fill(random.pick([8, 16, 16, 24, 25]), 0x62);
    else this.#upper(family, upper, ends, depth);
    /* What is not the last piece must be whole words, mostly. */
    if (more && random.chance(0.9)) {
      const header = family === 4 ? ((this.#bytes[start] ?? 0) & 15) * 4 : 40;
      this.#fill((8 - ((this.#at - start - header) % 8)) % 8, 0);
    }
    const length = this.#at - start;
    this.#set16(start + (family === 4 ? 2 : 4), family === 4 ? length : length - 40);
  }

  #options(bytes: number): void {
    const end = this.#at + bytes;
    while (this.#at < end) {
      const left = end - this.#at;
      const type = this.#random.pick([1, 1, 1, 0, 7, 68, 148, 130, 131, 137]);
      if (type < 2 || left < 3) this.#u8(type < 2 ? type : 1);
      else {
        const length = this.#random.between(2, left);
        this.#u8(type);
        this.#u8(this.#random.chance(0.95) ? length : this.#random.pick([0, 1, left + 1, 255]));
        this.#fill(length - 2, 4);
      }
    }
  }

  /** `piece`: what its fragment header says. */
  #chain(link: number, upper: number, piece: readonly [number, number] | null, depth: number): void {
    const random = this.#random;
    const kinds: number[] = [];
    if (depth === 0 && random.chance(0.3)) {
      const count = random.chance(0.9) ? random.between(1, 4) : random.between(5, 11);
      for (let index = 0; index < count; index += 1)
        kinds.push(random.chance(0.9) ? random.pick([0, 60, 60, 51]) : random.pick(EXTENSIONS));
    }
    if (piece !== null) kinds.splice(random.chance(0.8) ? 0 : random.below(kinds.length + 1), 0, 44);
    let at = link;
    let isPiece = false;
    for (const kind of kinds) {
      this.#bytes[at] = kind;
      at = this.#at;
      this.#u8(0);
      if (kind === 44) {
        this.#u8(0);
        this.#u16(piece !== null && !isPiece ? piece[0] : random.pick([0, 0, 6, 1, 9, 64]));
        this.#u16(0);
        this.#u16(piece?.[1] ?? 0);
        isPiece = true;
        continue;
      }
      const length = random.chance(0.95) ? random.below(3) : random.pick([31, 127, 255]);
      this.#u8(length);
      const body = (kind === 51 ? (length + 2) * 4 : (length + 1) * 8) - 2;
      this.#fill(random.chance(0.95) ? body : random.below(body + 1), 1);
    }
    this.#bytes[at] = upper;
  }

  #arp(): void {
    const random = this.#random;
    this.#u16(random.chance(0.95) ? 1 : 6);
    this.#u16(0x0800);
    this.#u8(6);
    this.#u8(4);
    this.#u16(random.pick([1, 2]));
    this.#put(addressBytes('2.0.0.0'));
    this.#u16(1);
    this.#put(random.pick(LOCALS[4]));
    this.#fill(6, 0);
    this.#put(random.pick(REMOTES[4]));
    if (random.chance(0.1)) this.#at -= random.between(1, 27);
  }

  #spoil(start: number): void {
    const random = this.#random;
    const pick = () => random.between(start, this.#at - 1);
    const count = random.between(1, 3);
    for (let index = 0; index < count; index += 1) {
      const at = random.chance(0.5) ? pick() : Math.min(this.#at - 1, start + random.below(64));
      switch (random.below(4)) {
        case 0:
          this.#bytes[at] = (this.#bytes[at] ?? 0) ^ (1 << random.below(8));
          break;
        case 1:
          this.#bytes[at] = random.pick(EDGES);
          break;
        case 2:
          this.#at = Math.max(start + 1, this.#at - random.between(1, 40));
          break;
        default:
          this.#fill(random.between(1, 40), random.pick([0, 0x45, 0x60]));
      }
    }
  }

  /** What packets from now on have in common. */
  begin(): void {
    const random = this.#random;
    this.#talks = Array.from({ length: TALKS }, () => {
      const family = random.chance(0.5) ? 4 : 6;
      return {
        family,
        local: random.pick(LOCALS[family]),
        remote: random.pick(REMOTES[family]),
        localPort: this.#port(),
        remotePort: this.#port(),
        id: random.below(65536),
        protocol: random.pick([6, 17, 17, family === 4 ? 1 : 58]),
      };
    });
  }

  /** A test run has one page for a packet and what the kernel needs beside it. */
  next(): Frame {
    let frame = this.#any();
    while (frame.bytes.length > 3000) frame = this.#any();
    return frame;
  }

  #any(): Frame {
    const random = this.#random;
    const program = PROGRAMS[random.pick([0, 0, 0, 1, 2, 2, 2, 3])] ?? 'egress';
    const comes = program === 'ingress' || program === 'guard_in';
    this.#talk = random.chance(0.6) && this.#talks.length > 0 ? random.pick(this.#talks) : null;
    this.#isOutward = !comes;
    const family = this.#talk?.family ?? (random.chance(0.5) ? 4 : 6);
    this.#at = 0;
    this.#fill(14, 0);
    this.#bytes.set([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, random.chance(0.97) ? 1 : 3], 0);
    this.#set16(12, family === 4 ? 0x0800 : 0x86dd);
    const local = this.#talk?.local ?? random.pick(LOCALS[family]);
    const remote = this.#talk?.remote ?? random.pick(REMOTES[family]);
    if (program === 'guard_out' && random.chance(0.03)) {
      this.#set16(12, 0x0806);
      this.#arp();
    } else this.#ip(family, comes ? [remote, local] : [local, remote], 0);
    if (random.chance(0.02)) this.#set16(12, random.pick([0x0800, 0x86dd, 0x0806, 0x8100, 0x88a8, 0x88cc, 46]));
    if (random.chance(0.4)) this.#spoil(14);
    if (random.chance(0.02)) {
      /* As segmentation offload has it where the length field is too short. */
      this.#set16(14 + (family === 4 ? 2 : 4), 0);
    }
    const isOffloaded = random.chance(0.03);
    return {
      program,
      gsoSize: isOffloaded ? 100 : 0,
      gsoSegments: isOffloaded ? random.between(1, 40) : 0,
      bytes: this.#bytes.slice(0, this.#at),
    };
  }
}

// ---- both sides ---------------------------------------------------------------------------------------------------------------------

interface Told {
  readonly returned: number;
  readonly counted: string | null;
  readonly packets: number;
  readonly bytes: number;
}

/** What one workload at each of the two places should be told. */
class Expectation {
  readonly #socket: WayOut;
  readonly #interface: WayOut;
  readonly #hold: Hold;

  constructor(hold: Hold, hasHardware: boolean) {
    this.#hold = hold;
    this.#socket = new WayOut(workload(hold, null));
    this.#interface = new WayOut(workload(hold, hasHardware ? text(Buffer.from(HARDWARE, 'hex')) : null));
  }

  of({ program, bytes, gsoSize, gsoSegments }: Frame): Told {
    const etherType = ((bytes[12] ?? 0) << 8) | (bytes[13] ?? 0);
    const isOffloaded = gsoSize > 0;
    const told = (outcome: Outcome, passes: number, refuses: number) => ({
      returned: outcome.verdict === 'deny' ? refuses : passes,
      counted: `${outcome.verdict} ${outcome.reason} ${outcome.rule}`,
      packets: gsoSegments || 1,
      bytes: bytes.length - 14,
    });
    switch (program) {
      case 'egress':
        return told(
          this.#socket.egress(etherType, bytes.subarray(14), isOffloaded),
          1,
          this.#hold === 'silent' ? 2 : 0,
        );
      case 'ingress':
        this.#socket.ingress(etherType, bytes.subarray(14), isOffloaded);
        return { returned: 1, counted: null, packets: 0, bytes: 0 };
      case 'guard_out':
        return told(this.#interface.out(bytes, isOffloaded), 255, 2);
      case 'guard_in':
        this.#interface.in(bytes, isOffloaded);
        return { returned: 255, counted: null, packets: 0, bytes: 0 };
    }
  }
}

type Counts = Map<string, { packets: number; bytes: number }>;

function add(counts: Counts, counted: string, packets: number, bytes: number): void {
  const sum = counts.get(counted) ?? { packets: 0, bytes: 0 };
  counts.set(counted, { packets: sum.packets + packets, bytes: sum.bytes + bytes });
}

const shown = (counts: Counts) =>
  [...counts]
    .map(([counted, { packets, bytes }]) => `${counted}: ${packets} packets, ${bytes} bytes`)
    .toSorted()
    .join('\n');

/** The kernel's side: the program of run.cc, a child of this process and in its cgroup. */
export class Kernel {
  readonly #folder: string;
  readonly #child;
  #received = Buffer.alloc(0);
  #wake: () => void = () => undefined;
  #ended = false;

  constructor(programs: Programs) {
    this.#folder = mkdtempSync(path.join(tmpdir(), `postern-${process.pid}-`));
    try {
      const binary = path.join(this.#folder, 'run');
      const source = path.join(import.meta.dirname, 'run.cc');
      execFileSync('g++', ['-std=c++17', '-O2', '-Wall', '-Wextra', '-Werror', '-o', binary, source, '-lbpf']);
      const { counters, flows, flow_order } = programs.object.mapIds();
      const ids = [counters, flows, flow_order, ...PROGRAMS.map((name) => programs.object.program(name).id)];
      this.#child = spawn(binary, ids.map(String), { stdio: ['pipe', 'pipe', 'inherit'] });
    } catch (error) {
      rmSync(this.#folder, { recursive: true });
      throw error;
    }
    this.#child.stdin.on('error', () => undefined);
    this.#child.stdout.on('data', (bytes: Buffer) => {
      this.#received = Buffer.concat([this.#received, bytes]);
      this.#wake();
    });
    this.#child.on('close', () => {
      this.#ended = true;
      this.#wake();
    });
  }

  async #take(bytes: number): Promise<Buffer> {
    while (this.#received.length < bytes) {
      if (this.#ended) throw new Error('the program that runs packets has ended');
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const taken = this.#received.subarray(0, bytes);
    this.#received = this.#received.subarray(bytes);
    return taken;
  }

  /** `resets`: flows are forgotten first. */
  async run(frames: readonly Frame[], resets: boolean): Promise<{ returned: Buffer; counts: Counts }> {
    const batch = Buffer.alloc(8 + frames.reduce((sum, { bytes }) => sum + 8 + bytes.length, 0));
    batch.writeUInt32LE(frames.length, 0);
    batch.writeUInt32LE(resets ? 1 : 0, 4);
    let at = 8;
    for (const { program, gsoSize, gsoSegments, bytes } of frames) {
      batch.writeUInt16LE(PROGRAMS.indexOf(program), at);
      batch.writeUInt16LE(gsoSize, at + 2);
      batch.writeUInt16LE(gsoSegments, at + 4);
      batch.writeUInt16LE(bytes.length, at + 6);
      batch.set(bytes, at + 8);
      at += 8 + bytes.length;
    }
    this.#child.stdin.write(batch);
    const returned = await this.#take(frames.length);
    const count = (await this.#take(4)).readUInt32LE(0);
    const counters = await this.#take(count * (COUNTER_KEY_BYTES + COUNTER_BYTES));
    const counts: Counts = new Map();
    for (let index = 0; index < count; index += 1) {
      const place = index * (COUNTER_KEY_BYTES + COUNTER_BYTES);
      const { verdict, reason, rule } = decodeCounterKey(counters, place);
      const { packets, bytes } = decodeCounter(counters, place + COUNTER_KEY_BYTES);
      const told = rule === RULE_NONE ? null : rule;
      const counted = `${VERDICT_NAMES.get(verdict)} ${REASON_NAMES.get(reason)} ${told}`;
      add(counts, counted, Number(packets), Number(bytes));
    }
    return { returned, counts };
  }

  async close(): Promise<void> {
    this.#child.stdin.end();
    if (!this.#ended) await once(this.#child, 'close');
    rmSync(this.#folder, { recursive: true });
  }
}

export interface Difference {
  readonly hold: Hold;
  readonly hasHardware: boolean;
  readonly frame: Frame;
  readonly expected: string;
  readonly actual: string;
}

export interface Run {
  readonly packets: number;
  /** Packets that the kernel would not run: too short for the header that their EtherType promises. */
  readonly notRun: number;
  /** All that was told, and how often. */
  readonly told: ReadonlyMap<string, number>;
  readonly difference: Difference | null;
}

/** Test runs are refused without the whole header that the EtherType promises. */
function isTooShort({ bytes }: Frame): boolean {
  const etherType = ((bytes[12] ?? 0) << 8) | (bytes[13] ?? 0);
  return bytes.length < 14 + (etherType === 0x0800 ? 20 : etherType === 0x86dd ? 40 : 1);
}

/** Which packet of a batch it was: the batch again, one by one. */
async function find(kernel: Kernel, hold: Hold, hasHardware: boolean, frames: readonly Frame[]): Promise<Difference> {
  const expectation = new Expectation(hold, hasHardware);
  for (const [index, frame] of frames.entries()) {
    const { returned, counts } = await kernel.run([frame], index === 0);
    if (returned[0] === NOT_RUN) continue;
    const told = expectation.of(frame);
    const expectedCounts: Counts = new Map();
    if (told.counted !== null) add(expectedCounts, told.counted, told.packets, told.bytes);
    const expected = `returned ${told.returned}, ${shown(expectedCounts)}`;
    const actual = `returned ${returned[0]}, ${shown(counts)}`;
    if (expected !== actual) return { hold, hasHardware, frame, expected, actual };
  }
  throw new Error('a batch that differs does not when it is run one by one');
}

/** In the cgroup of `programs`. Ends at the first difference. */
export async function fuzz(programs: Programs, kernel: Kernel, packets: number, seed: number): Promise<Run> {
  const random = seeded(seed);
  const source = new Packets(random);
  const told = new Map<string, number>();
  let done = 0;
  let notRun = 0;
  while (done < packets) {
    const hold = random.chance(0.5) ? 'enforced' : random.pick(HOLDS);
    const hasHardware = random.chance(0.5);
    fill(programs, hold, hasHardware);
    source.begin();
    const frames = Array.from({ length: Math.min(BATCH, packets - done) }, () => source.next());
    const { returned, counts } = await kernel.run(frames, true);
    const expectation = new Expectation(hold, hasHardware);
    const expected: Counts = new Map();
    let differs = false;
    for (const [index, frame] of frames.entries()) {
      if (returned[index] === NOT_RUN) {
        if (!isTooShort(frame)) throw new Error(`not run: ${Buffer.from(frame.bytes).toString('hex')}`);
        notRun += 1;
        continue;
      }
      const one = expectation.of(frame);
      if (one.returned !== returned[index]) differs = true;
      if (one.counted !== null) add(expected, one.counted, one.packets, one.bytes);
    }
    if (differs || shown(expected) !== shown(counts))
      return { packets: done, notRun, told, difference: await find(kernel, hold, hasHardware, frames) };
    for (const [counted, { packets: count }] of counts) told.set(counted, (told.get(counted) ?? 0) + count);
    done += frames.length;
  }
  return { packets: done, notRun, told, difference: null };
}

/** The programs as `fuzz` wants them. */
export function fuzzPrograms(constants: Record<string, number> = {}): Programs {
  return new Programs({}, { flows_per_workload: FLOWS + FRAGMENTS_PER_WORKLOAD, ...constants });
}

if (import.meta.main) {
  const [packets = '1000000', seed = '1'] = process.argv.slice(2);
  const programs = fuzzPrograms();
  const kernel = new Kernel(programs);
  try {
    const { difference, told, ...run } = await fuzz(programs, kernel, Number(packets), Number(seed));
    console.log(run);
    for (const [counted, count] of [...told].toSorted((a, b) => b[1] - a[1])) console.log(count, counted);
    if (difference !== null) {
      const { frame, ...rest } = difference;
      console.log(rest, { ...frame, bytes: Buffer.from(frame.bytes).toString('hex') });
      process.exitCode = 1;
    }
  } finally {
    await kernel.close();
    programs.close();
  }
}
