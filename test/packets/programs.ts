// SPDX-License-Identifier: Apache-2.0
// The programs in the kernel with maps filled by hand, and this process as the one workload that they hold.
// A test run's socket belongs to whoever asks for it, so the process moves into a cgroup of its own, and back at the end.
import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  type Answer,
  ASKED_BYTES,
  ASKED_KEY_BYTES,
  type Asked,
  BEGUN_PER_WORKLOAD,
  BUDGET_BYTES,
  COUNTER_BYTES,
  COUNTER_KEY_BYTES,
  DNS_LOSS_NAMES,
  decodeAsked,
  decodeBudget,
  decodeCounter,
  decodeCounterKey,
  decodeEvent,
  decodeFlow,
  decodeFlowKey,
  decodeLearned,
  decodeTold,
  type Entry,
  type Event,
  encodeAnswer,
  encodeFlow,
  encodeFlowKey,
  encodeGuard,
  encodeIdentity,
  encodeNameKey,
  encodeNetworkKey,
  encodeOrderKey,
  encodePortKey,
  encodeResolverKey,
  encodeRow,
  encodeSelfKey,
  encodeSettings,
  encodeSourceKey,
  encodeVerdictKey,
  encodeWorkload,
  FLOW_BYTES,
  FLOW_KEY_BYTES,
  type Flow,
  type FlowKey,
  GUARD_BYTES,
  type Guard,
  LEARNED_BYTES,
  LEARNED_KEY_BYTES,
  type Learned,
  NAME_KEY_BYTES,
  ORDER_KEY_BYTES,
  REASON_NAMES,
  RESOLVER_KEY_BYTES,
  ROW_PORT_SET,
  RULE_NONE,
  SETTINGS_BYTES,
  type Settings,
  SLOT_UNKNOWN,
  SOURCE_KEY_BYTES,
  TOLD_BYTES,
  type Told,
  VERDICT_NAMES,
  WORKLOAD_BYTES,
} from '#build/generated/abi.ts';
import { type LoadedObject, loadNative } from '#src/kernel/native.ts';
import { constantsFor } from '#src/kernel/programs.ts';
import { cgroupMount } from '../support/lab.ts';
import { addressKey } from './packet.ts';

const OBJECT = fileURLToPath(new URL('../../build/postern.bpf.o', import.meta.url));
const NO_ID = '0'.repeat(16);
export const SLOT = 1;

/** An id that reads as its number. */
export function id(number: number): string {
  return number.toString(16).padStart(16, '0');
}

export const SILENCE: Answer = { admin: RULE_NONE, policy: RULE_NONE, baseline: RULE_NONE, limits: 0, final: 0 };

/** The answer of an entry: silent on what it leaves out. */
export function says(answer: Partial<Answer>): Answer {
  return { ...SILENCE, ...answer };
}

/** An entry for every protocol and port. */
export function always(answer: Partial<Answer>): Entry {
  return { protocol: 0, first: 0, last: 0, answer: says(answer) };
}

/** An entry for ports `first` to `last`. */
export function on(protocol: number, first: number, last: number, answer: Partial<Answer>): Entry {
  return { protocol, first, last, answer: says(answer) };
}

export interface RowFields {
  readonly ruleset: string;
  readonly subject?: string;
  readonly kind?: number;
  readonly flags?: number;
  readonly limits?: number;
  readonly limitsSilent?: number;
  readonly entries?: readonly Entry[];
  readonly portSet?: string;
}

export interface Counted {
  readonly verdict: string;
  readonly reason: string;
  readonly ruleset: string;
  readonly rule: number | null;
  readonly slot: number;
  readonly packets: number;
  readonly bytes: number;
}

export interface Outcome extends Counted {
  /** What the program returned. egress: 1 passes, 0 refuses, 2 refuses in silence; the guard: -1 goes on, 2 ends the frame. */
  readonly retval: number;
  readonly events: readonly Event[];
}

/** The object's maps, with one workload that is bound under `SLOT`. */
export class Maps {
  readonly object: LoadedObject;
  readonly cgroup: bigint;
  /** Its depth below the cgroup2 mount. */
  readonly level: number;

  /** `folder` is the workload's cgroup; `sizes` are by map name; `constants` are the object's. */
  constructor(folder: string, sizes: Record<string, number> = {}, constants: Record<string, number> = {}) {
    const native = loadNative();
    this.cgroup = native.cgroupId(folder);
    this.level = path.relative(cgroupMount(), folder).split('/').length;
    const small = { identities: 1024, networks: 1024, verdicts: 1024, ports: 1024, flows: 1024 };
    this.object = native.load(OBJECT, { ...small, ...sizes }, { ...constantsFor(native), ...constants });
    this.settings({});
  }

  close(): void {
    this.object.close();
  }

  #put(map: string, key: Buffer, value: Buffer): void {
    this.object.update(map, key, value, 1, 0);
  }

  /** Empties the maps that the agent fills and those that a run leaves something in. */
  reset(): void {
    const filled = ['workloads', 'identities', 'networks', 'verdicts', 'ports', 'selves', 'guards', 'sources'];
    this.#empty([...filled, 'names', 'resolvers', 'counters', 'flows', 'flow_order']);
    this.forgetNames();
    this.object.drainEvents('events', () => undefined);
    const slots = Buffer.alloc(4);
    for (const slot of [SLOT_UNKNOWN, SLOT]) {
      slots.writeUInt32LE(slot);
      this.#put('budgets', slots, Buffer.alloc(BUDGET_BYTES));
    }
    this.settings({});
  }

  #empty(maps: readonly string[]): void {
    for (const map of maps) {
      const { keys, count } = this.object.dump(map);
      if (count > 0) this.object.remove(map, keys, count);
    }
  }

  /** Nothing was asked, and nothing was told. */
  forgetNames(): void {
    this.#empty(['asked', 'asked_order', 'texts', 'told', 'told_order', 'learned', 'learned_order']);
    this.forgetBegun();
  }

  /** How many answers over TCP were kept in pieces, ever. */
  begun(): number {
    const key = Buffer.alloc(4);
    key.writeUInt32LE(SLOT);
    const budget = this.object.lookup('budgets', key);
    return budget === null ? 0 : decodeBudget(budget).begun;
  }

  /** How many of them waited for more, until now. */
  forgetBegun(): number {
    const places = Buffer.alloc(ORDER_KEY_BYTES * BEGUN_PER_WORKLOAD);
    for (let number = 0; number < BEGUN_PER_WORKLOAD; number += 1) {
      encodeOrderKey({ slot: SLOT, number }, places, number * ORDER_KEY_BYTES);
    }
    return this.object.remove('begun', places, BEGUN_PER_WORKLOAD);
  }

  settings(fields: Partial<Settings>): void {
    const value = Buffer.alloc(SETTINGS_BYTES);
    encodeSettings(
      {
        levels: fields.levels ?? 1 << this.level,
        unknown: fields.unknown ?? 0,
        hostNetns: fields.hostNetns ?? 0n,
        pods: fields.pods ?? 0n,
        podsLevel: fields.podsLevel ?? 0,
        shortestTtlS: fields.shortestTtlS ?? 0,
        longestQuery: fields.longestQuery ?? 0,
        queriesPerSecond: fields.queriesPerSecond ?? 0,
      },
      value,
    );
    this.#put('settings', Buffer.alloc(4), value);
  }

  /** Binds this process's cgroup. `netns`: the namespace that a guard watches. */
  bind(enforced: string, shadow = enforced, netns = 0n): void {
    const key = Buffer.alloc(8);
    key.writeBigUInt64LE(this.cgroup);
    const value = Buffer.alloc(WORKLOAD_BYTES);
    encodeWorkload({ slot: SLOT, enforced, shadow, netns }, value);
    this.#put('workloads', key, value);
  }

  /** Puts this workload behind an interface, with its sources there. */
  guard(ifindex: number, fields: Partial<Guard>, ...addresses: readonly string[]): void {
    const key = Buffer.alloc(4);
    key.writeUInt32LE(ifindex);
    const value = Buffer.alloc(GUARD_BYTES);
    const none = { cgroup: this.cgroup, netns: 1n, nsid: -1, flags: 0, hardwareAddress: '000000000000' };
    encodeGuard({ ...none, ...fields }, value);
    this.#put('guards', key, value);
    for (const address of addresses) {
      const source = Buffer.alloc(SOURCE_KEY_BYTES);
      encodeSourceKey({ ifindex, address: addressKey(address) }, source);
      this.#put('sources', source, Buffer.from([1]));
    }
  }

  bumpEpoch(): void {
    const key = Buffer.alloc(4);
    key.writeUInt32LE(SLOT);
    const value = Buffer.from(this.object.lookup('epochs', key) ?? Buffer.alloc(4));
    value.writeUInt32LE(value.readUInt32LE() + 1);
    this.#put('epochs', key, value);
  }

  row(fields: RowFields): void {
    const key = Buffer.alloc(24);
    encodeVerdictKey({ ruleset: fields.ruleset, subject: fields.subject ?? NO_ID, kind: fields.kind ?? 0 }, key);
    const value = Buffer.alloc(112);
    const entries = fields.entries ?? [];
    encodeRow(
      {
        count: entries.length,
        flags: (fields.flags ?? 0) | (fields.portSet === undefined ? 0 : ROW_PORT_SET),
        limits: fields.limits ?? 0,
        limitsSilent: fields.limitsSilent ?? 0,
        portSet: fields.portSet ?? NO_ID,
        entries,
      },
      value,
    );
    this.#put('verdicts', key, value);
  }

  identity(address: string, fields: { id?: string; network?: string; kind?: number }): void {
    const value = Buffer.alloc(24);
    encodeIdentity({ id: fields.id ?? NO_ID, network: fields.network ?? NO_ID, kind: fields.kind ?? 1 }, value);
    this.#put('identities', Buffer.from(addressKey(address), 'hex'), value);
  }

  /** `bits` of the 128. */
  network(space: number, address: string, bits: number, network: string): void {
    const key = Buffer.alloc(24);
    encodeNetworkKey({ prefixlen: 32 + bits, space, address: addressKey(address) }, key);
    this.#put('networks', key, Buffer.from(network, 'hex'));
  }

  /** `bits` after the port set: 0 any protocol, 16 any port, 32 one port. */
  port(portSet: string, protocol: number, port: number, bits: number, answer: Partial<Answer>): void {
    const key = Buffer.alloc(16);
    encodePortKey({ prefixlen: 64 + bits, portSet, protocol, port: port.toString(16).padStart(4, '0') }, key);
    const value = Buffer.alloc(8);
    encodeAnswer(says(answer), value);
    this.#put('ports', key, value);
  }

  self(address: string): void {
    const key = Buffer.alloc(24);
    encodeSelfKey({ slot: SLOT, address: addressKey(address) }, key);
    this.#put('selves', key, Buffer.from([1]));
  }

  /** Answers from there count. */
  resolver(address: string, port = 53): void {
    const key = Buffer.alloc(RESOLVER_KEY_BYTES);
    encodeResolverKey({ address: addressKey(address), port }, key);
    this.#put('resolvers', key, Buffer.from([1]));
  }

  /** `example.com`, or `*.example.com`. */
  pattern(pattern: string, nameClass: string): void {
    const wildcard = pattern.startsWith('*.');
    const labels = (wildcard ? pattern.slice(2) : pattern).split('.').toReversed().join('.');
    const key = Buffer.alloc(NAME_KEY_BYTES);
    encodeNameKey({ prefixlen: (labels.length + 1) * 8, name: wildcard ? `${labels}.` : labels }, key);
    this.#put('names', key, Buffer.from(nameClass, 'hex'));
  }

  #all<T>(map: string, bytes: number, decode: (buffer: Buffer, at: number) => T): T[] {
    const { values, count } = this.object.dump(map);
    return Array.from({ length: count }, (_, index) => decode(values, index * bytes));
  }

  asked(): Asked[] {
    return this.#all('asked', ASKED_BYTES, decodeAsked);
  }

  told(): Told[] {
    return this.#all('told', TOLD_BYTES, decodeTold);
  }

  learned(): Learned[] {
    return this.#all('learned', LEARNED_BYTES, decodeLearned);
  }

  /** Makes all that was learned, or asked, older, by what it says itself. */
  ageNames(seconds: number): void {
    for (const [map, keyBytes, at] of [
      ['learned', LEARNED_KEY_BYTES, 4],
      ['asked', ASKED_KEY_BYTES, 16],
    ] as const) {
      const { keys, values, count } = this.object.dump(map);
      const size = values.length / Math.max(count, 1);
      for (let index = 0; index < count; index += 1) {
        const value = Buffer.from(values.subarray(index * size, (index + 1) * size));
        value.writeUInt32LE(value.readUInt32LE(at) - seconds, at);
        this.#put(map, Buffer.from(keys.subarray(index * keyBytes, (index + 1) * keyBytes)), value);
      }
    }
  }

  /** Questions and answers that taught nothing, by why, less what `before` counts. */
  untaught(before: ReadonlyMap<string, number> = new Map()): Map<string, number> {
    const untaught = new Map<string, number>();
    for (const [loss, name] of DNS_LOSS_NAMES) {
      const count = this.lost(loss, 'dns_losses') - (before.get(name) ?? 0);
      if (count > 0) untaught.set(name, count);
    }
    return untaught;
  }

  #rewriteFlows(rewrite: (key: FlowKey, flow: Flow) => [FlowKey, Flow]): number {
    const { keys, values, count } = this.object.dump('flows');
    if (count > 0) this.object.remove('flows', keys, count);
    for (let index = 0; index < count; index += 1) {
      const [key, flow] = rewrite(decodeFlowKey(keys, index * FLOW_KEY_BYTES), decodeFlow(values, index * FLOW_BYTES));
      const keyBytes = Buffer.alloc(FLOW_KEY_BYTES);
      const flowBytes = Buffer.alloc(FLOW_BYTES);
      encodeFlowKey(key, keyBytes);
      encodeFlow(flow, flowBytes);
      this.#put('flows', keyBytes, flowBytes);
    }
    return count;
  }

  flows(): Flow[] {
    const { values, count } = this.object.dump('flows');
    return Array.from({ length: count }, (_, index) => decodeFlow(values, index * FLOW_BYTES));
  }

  /** Makes all notes another's. Returns how many there are. */
  moveFlows(to: Partial<FlowKey>): number {
    return this.#rewriteFlows((key, flow) => [{ ...key, ...to }, flow]);
  }

  /** Makes all notes older. Returns how many there are. */
  ageFlows(seconds: number): number {
    return this.#rewriteFlows((key, flow) => [
      key,
      { ...flow, seenNs: flow.seenNs - BigInt(seconds) * 1_000_000_000n },
    ]);
  }

  /** Counters that are not 0, summed over CPUs. */
  counted(): Counted[] {
    const { keys, values, count } = this.object.dump('counters');
    const stride = values.length / Math.max(count, 1);
    return Array.from({ length: count }, (_, index) => {
      const key = decodeCounterKey(keys, index * COUNTER_KEY_BYTES);
      let packets = 0;
      let bytes = 0;
      for (let at = index * stride; at < (index + 1) * stride; at += COUNTER_BYTES) {
        const counter = decodeCounter(values, at);
        packets += Number(counter.packets);
        bytes += Number(counter.bytes);
      }
      return {
        verdict: VERDICT_NAMES.get(key.verdict) ?? '',
        reason: REASON_NAMES.get(key.reason) ?? '',
        ruleset: key.ruleset,
        rule: key.rule === RULE_NONE ? null : key.rule,
        slot: key.slot,
        packets,
        bytes,
      };
    });
  }

  /** Packets counted under a reason. */
  packets(reason: string): number {
    return this.counted()
      .filter((counter) => counter.reason === reason)
      .reduce((sum, { packets }) => sum + packets, 0);
  }

  forgetCounts(): void {
    const { keys, count } = this.object.dump('counters');
    if (count > 0) this.object.remove('counters', keys, count);
  }

  /** All events since the last call. */
  events(): Event[] {
    const events: Event[] = [];
    this.object.drainEvents('events', (event) => events.push(decodeEvent(event)));
    return events;
  }

  lost(loss: number, map = 'losses'): number {
    const key = Buffer.alloc(4);
    key.writeUInt32LE(loss);
    const values = this.object.lookup(map, key) ?? Buffer.alloc(0);
    let sum = 0;
    for (let at = 0; at < values.length; at += 8) sum += Number(values.readBigUInt64LE(at));
    return sum;
  }
}

/** A cgroup of this process's own, which it is in until it leaves. */
class Place {
  readonly folder: string;
  readonly #home: string;

  constructor() {
    const mount = cgroupMount();
    const own = readFileSync('/proc/self/cgroup', 'utf8')
      .split('\n')
      .find((line) => line.startsWith('0::'));
    this.#home = path.join(mount, own?.slice(3) ?? '');
    this.folder = path.join(mount, `postern-${process.pid}-0`);
    mkdirSync(this.folder);
    this.#move(this.folder);
  }

  #move(folder: string): void {
    writeFileSync(path.join(folder, 'cgroup.procs'), `${process.pid}`);
  }

  leave(): void {
    this.#move(this.#home);
    rmdirSync(this.folder);
  }
}

/** This process as the workload: packets are test runs. */
export class Programs extends Maps {
  readonly #place: Place;

  constructor(sizes: Record<string, number> = {}, constants: Record<string, number> = {}) {
    const place = new Place();
    try {
      super(place.folder, sizes, constants);
    } catch (error) {
      place.leave();
      throw error;
    }
    this.#place = place;
  }

  override close(): void {
    super.close();
    this.#place.leave();
  }

  /**
   * Runs a program `repeat` times over one packet, with one socket, and reads what was counted. Each run must count once. To
   * `guard_out` the interface is the loopback, and the socket none that could have sent the packet.
   */
  run(packet: Buffer, repeat = 1, program: 'egress' | 'guard_out' = 'egress'): Outcome {
    const { retval } = this.object.testRun(program, packet, repeat);
    const counters = this.counted();
    const [counter] = counters;
    if (counter === undefined || counters.length > 1) throw new Error(`${counters.length} counters, not one`);
    this.forgetCounts();
    // Signed, as programs return it.
    return { retval: retval | 0, ...counter, events: this.events() };
  }
}
