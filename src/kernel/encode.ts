// SPDX-License-Identifier: Apache-2.0
// How the entries of each map cross into bytes and back. The layouts themselves are generated from bpf/abi.h.
// One convention for ids: 8 bytes in the order of their hex digits, in struct row and struct port_key alike.

import {
  ADDRESS_BYTES,
  ANSWER_BYTES,
  decodeAnswer,
  decodeGuard,
  decodeIdentity,
  decodeNameKey,
  decodeNetworkKey,
  decodePortKey,
  decodeResolverKey,
  decodeRow,
  decodeSelfKey,
  decodeSourceKey,
  decodeVerdictKey,
  decodeWorkload,
  encodeAnswer,
  encodeGuard,
  encodeIdentity,
  encodeNameKey,
  encodeNetworkKey,
  encodePortKey,
  encodeResolverKey,
  encodeRow,
  encodeSelfKey,
  encodeSourceKey,
  encodeVerdictKey,
  encodeWorkload,
  GUARD_BYTES,
  type Guard,
  IDENTITY_BYTES,
  NAME_KEY_BYTES,
  NETWORK_KEY_BYTES,
  PORT_KEY_BYTES,
  RESOLVER_KEY_BYTES,
  ROW_BYTES,
  ROW_ENTRIES,
  ROW_PORT_SET,
  SELF_KEY_BYTES,
  SOURCE_KEY_BYTES,
  VERDICT_KEY_BYTES,
  WORKLOAD_BYTES,
  type Workload,
} from '#build/generated/abi.ts';
import { forwardName, type NamePattern, reversedName } from '../model/name.ts';
import {
  type AddressKey,
  type Answer,
  type Id,
  type IdentityEntry,
  type NetworkKey,
  NO_ID,
  type PortPrefix,
  type ResolverKey,
  type Row,
  type RowKey,
} from '../model/tables.ts';

/** One map: `K` and `V` as the agent holds them, and their bytes. Buffers to encode into are zeroed. */
export interface MapCodec<K, V> {
  readonly map: MapName;
  readonly keyBytes: number;
  readonly valueBytes: number;
  /** Flags of an update: values that hold a lock are written over in place, as bpf/abi.h says. */
  readonly flags: typeof ANY | typeof IN_PLACE;
  encodeKey(key: K, buffer: Buffer, at: number): void;
  encodeValue(value: V, buffer: Buffer, at: number): void;
  decodeKey(buffer: Buffer, at: number): K;
  decodeValue(buffer: Buffer, at: number): V;
}

/** BPF_ANY and BPF_F_LOCK. */
const ANY = 0;
const IN_PLACE = 4;

/** Maps that only the agent writes. `guards` and `sources` follow the interfaces there are, the others hold what a Step says. */
export type MapName =
  | 'workloads'
  | 'identities'
  | 'networks'
  | 'names'
  | 'resolvers'
  | 'verdicts'
  | 'ports'
  | 'selves'
  | 'guards'
  | 'sources';

/** Slot and address, joined by `/`. */
export type SelfKey = `${number}/${AddressKey}`;
/** Interface index and address, joined by `/`. */
export type SourceKey = `${number}/${AddressKey}`;
/** Port set, protocol, port, length, joined by `/`. */
export type PortElementKey = `${Id}/${number}/${number}/${number}`;

/** Entries of the maps, key and value as bytes. */
export interface Encoded {
  readonly keys: Buffer;
  readonly values: Buffer;
  readonly count: number;
}

/** By cgroup id. */
export const WORKLOADS: MapCodec<bigint, Workload> = {
  map: 'workloads',
  keyBytes: 8,
  valueBytes: WORKLOAD_BYTES,
  flags: IN_PLACE,
  encodeKey: (cgroup, buffer, at) => void buffer.writeBigUInt64LE(cgroup, at),
  encodeValue: encodeWorkload,
  decodeKey: (buffer, at) => buffer.readBigUInt64LE(at),
  decodeValue: decodeWorkload,
};

export const IDENTITIES: MapCodec<AddressKey, IdentityEntry> = {
  map: 'identities',
  keyBytes: ADDRESS_BYTES,
  valueBytes: IDENTITY_BYTES,
  flags: IN_PLACE,
  encodeKey: (address, buffer, at) => writeHex(address, buffer, at, ADDRESS_BYTES),
  encodeValue: encodeIdentity,
  decodeKey: (buffer, at) => buffer.toString('hex', at, at + ADDRESS_BYTES),
  decodeValue: decodeIdentity,
};

/** Bits of a network key before the address: `space`. */
const SPACE_BITS = 32;

export const NETWORKS: MapCodec<NetworkKey, Id> = {
  map: 'networks',
  keyBytes: NETWORK_KEY_BYTES,
  valueBytes: 8,
  flags: ANY,
  encodeKey: (key, buffer, at) => {
    const [space, address, bits] = fields(key, 3);
    encodeNetworkKey({ prefixlen: SPACE_BITS + Number(bits), space: Number(space), address }, buffer, at);
  },
  encodeValue: (id, buffer, at) => writeHex(id, buffer, at, 8),
  decodeKey: (buffer, at) => {
    const { prefixlen, space, address } = decodeNetworkKey(buffer, at);
    return `${space as 0 | 1 | 2}/${address}/${prefixlen - SPACE_BITS}`;
  },
  decodeValue: (buffer, at) => buffer.toString('hex', at, at + 8),
};

/** A pattern for one name ends in a zero byte, which counts; one for names below another in a dot. */
export const NAMES: MapCodec<NamePattern, Id> = {
  map: 'names',
  keyBytes: NAME_KEY_BYTES,
  valueBytes: 8,
  flags: ANY,
  encodeKey: (pattern, buffer, at) => {
    const name = reversedName(pattern);
    encodeNameKey({ prefixlen: 8 * (name.length + (name.endsWith('.') ? 0 : 1)), name }, buffer, at);
  },
  encodeValue: (id, buffer, at) => writeHex(id, buffer, at, 8),
  decodeKey: (buffer, at) => forwardName(decodeNameKey(buffer, at).name),
  decodeValue: (buffer, at) => buffer.toString('hex', at, at + 8),
};

/** The value says nothing. */
export const RESOLVERS: MapCodec<ResolverKey, true> = {
  map: 'resolvers',
  keyBytes: RESOLVER_KEY_BYTES,
  valueBytes: 1,
  flags: ANY,
  encodeKey: (key, buffer, at) => {
    const [address, port] = fields(key, 2);
    encodeResolverKey({ address, port: Number(port) }, buffer, at);
  },
  encodeValue: (_, buffer, at) => void buffer.writeUInt8(1, at),
  decodeKey: (buffer, at) => {
    const { address, port } = decodeResolverKey(buffer, at);
    return `${address}/${port}`;
  },
  decodeValue: () => true,
};

/** What the kernel holds of a row: the entries of a port set are in `ports`. */
export type StoredRow = Pick<Row, 'flags' | 'limits' | 'limitsSilent' | 'portSet' | 'entries'>;

export function storedRow({ flags, limits, limitsSilent, portSet, entries }: StoredRow): StoredRow {
  return portSet === NO_ID
    ? { flags, limits, limitsSilent, portSet, entries }
    : { flags: flags | ROW_PORT_SET, limits, limitsSilent, portSet, entries: [] };
}

export const VERDICTS: MapCodec<RowKey, StoredRow> = {
  map: 'verdicts',
  keyBytes: VERDICT_KEY_BYTES,
  valueBytes: ROW_BYTES,
  flags: ANY,
  encodeKey: (key, buffer, at) => {
    const [ruleset, subject, kind] = fields(key, 3);
    encodeVerdictKey({ ruleset, subject, kind: Number.parseInt(kind, 16) }, buffer, at);
  },
  encodeValue: (row, buffer, at) => {
    const stored = storedRow(row);
    if (stored.entries.length > ROW_ENTRIES)
      throw new RangeError(`a row of ${row.entries.length} entries needs a port set`);
    encodeRow({ ...stored, count: stored.entries.length }, buffer, at);
  },
  decodeKey: (buffer, at) => {
    const { ruleset, subject, kind } = decodeVerdictKey(buffer, at);
    return `${ruleset}/${subject}/${kind.toString(16).padStart(8, '0')}`;
  },
  decodeValue: (buffer, at) => {
    const { count, entries, ...row } = decodeRow(buffer, at);
    return { ...row, entries: entries.slice(0, count) };
  },
};

/** Bits of a port key before the protocol: the port set. */
const PORT_SET_BITS = 64;

export const PORTS: MapCodec<PortElementKey, Answer> = {
  map: 'ports',
  keyBytes: PORT_KEY_BYTES,
  valueBytes: ANSWER_BYTES,
  flags: ANY,
  encodeKey: (key, buffer, at) => {
    const [portSet, protocol, port, length] = fields(key, 4);
    encodePortKey(
      {
        prefixlen: PORT_SET_BITS + Number(length),
        portSet,
        protocol: Number(protocol),
        port: Number(port).toString(16).padStart(4, '0'),
      },
      buffer,
      at,
    );
  },
  encodeValue: encodeAnswer,
  decodeKey: (buffer, at) => {
    const { prefixlen, portSet, protocol, port } = decodePortKey(buffer, at);
    return `${portSet}/${protocol}/${Number.parseInt(port, 16)}/${prefixlen - PORT_SET_BITS}`;
  },
  decodeValue: decodeAnswer,
};

/** The value says nothing. */
export const SELVES: MapCodec<SelfKey, true> = {
  map: 'selves',
  keyBytes: SELF_KEY_BYTES,
  valueBytes: 1,
  flags: ANY,
  encodeKey: (key, buffer, at) => {
    const [slot, address] = fields(key, 2);
    encodeSelfKey({ slot: Number(slot), address }, buffer, at);
  },
  encodeValue: (_, buffer, at) => void buffer.writeUInt8(1, at),
  decodeKey: (buffer, at) => {
    const { slot, address } = decodeSelfKey(buffer, at);
    return `${slot}/${address}`;
  },
  decodeValue: () => true,
};

/** By interface index. */
export const GUARDS: MapCodec<number, Guard> = {
  map: 'guards',
  keyBytes: 4,
  valueBytes: GUARD_BYTES,
  flags: IN_PLACE,
  encodeKey: (ifindex, buffer, at) => void buffer.writeUInt32LE(ifindex, at),
  encodeValue: encodeGuard,
  decodeKey: (buffer, at) => buffer.readUInt32LE(at),
  decodeValue: decodeGuard,
};

/** The value says nothing. */
export const SOURCES: MapCodec<SourceKey, true> = {
  map: 'sources',
  keyBytes: SOURCE_KEY_BYTES,
  valueBytes: 1,
  flags: ANY,
  encodeKey: (key, buffer, at) => {
    const [ifindex, address] = fields(key, 2);
    encodeSourceKey({ ifindex: Number(ifindex), address }, buffer, at);
  },
  encodeValue: (_, buffer, at) => void buffer.writeUInt8(1, at),
  decodeKey: (buffer, at) => {
    const { ifindex, address } = decodeSourceKey(buffer, at);
    return `${ifindex}/${address}`;
  },
  decodeValue: () => true,
};

/** The elements of a port set. */
export function portElements(portSet: Id, prefixes: readonly PortPrefix[]): [PortElementKey, Answer][] {
  return prefixes.map(({ protocol, port, length, answer }) => [`${portSet}/${protocol}/${port}/${length}`, answer]);
}

/** To which port set an element belongs. */
export function portSetOf(element: PortElementKey): Id {
  return element.slice(0, element.indexOf('/'));
}

export function encodeEntries<K, V>(codec: MapCodec<K, V>, entries: readonly (readonly [K, V])[]): Encoded {
  const keys = Buffer.alloc(entries.length * codec.keyBytes);
  const values = Buffer.alloc(entries.length * codec.valueBytes);
  for (const [index, [key, value]] of entries.entries()) {
    codec.encodeKey(key, keys, index * codec.keyBytes);
    codec.encodeValue(value, values, index * codec.valueBytes);
  }
  return { keys, values, count: entries.length };
}

export function encodeKeys<K, V>(codec: MapCodec<K, V>, keys: readonly K[]): Buffer {
  const buffer = Buffer.alloc(keys.length * codec.keyBytes);
  for (const [index, key] of keys.entries()) codec.encodeKey(key, buffer, index * codec.keyBytes);
  return buffer;
}

/** Throws RangeError where the buffers are not `count` entries long. */
export function decodeEntries<K, V>(codec: MapCodec<K, V>, { keys, values, count }: Encoded): Map<K, V> {
  if (keys.length !== count * codec.keyBytes || values.length !== count * codec.valueBytes) {
    throw new RangeError(`${codec.map}: ${keys.length} and ${values.length} bytes are not ${count} entries`);
  }
  const entries = new Map<K, V>();
  for (let index = 0; index < count; index++) {
    entries.set(codec.decodeKey(keys, index * codec.keyBytes), codec.decodeValue(values, index * codec.valueBytes));
  }
  return entries;
}

function writeHex(digits: string, buffer: Buffer, at: number, bytes: number): void {
  if (digits.length !== bytes * 2 || buffer.write(digits, at, 'hex') !== bytes) {
    throw new RangeError(`'${digits}' is not ${bytes} bytes in hex`);
  }
}

function fields(key: string, count: 2): [string, string];
function fields(key: string, count: 3): [string, string, string];
function fields(key: string, count: 4): [string, string, string, string];
function fields(key: string, count: number): string[] {
  const parts = key.split('/');
  if (parts.length !== count) throw new RangeError(`'${key}' has not ${count} parts`);
  return parts;
}
