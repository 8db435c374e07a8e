// SPDX-License-Identifier: Apache-2.0
// What compile yields and what the kernel should hold: the maps of bpf/abi.h as plain data, before any byte is laid out.
// The values of enums and limits are those of bpf/abi.h.

import type { NamePattern } from './name.ts';

/** 16 lower-case hex digits: the first 64 bits of a SHA-256 of the content. `NO_ID` means none. */
export type Id = string;
export const NO_ID: Id = '0000000000000000';

/** 32 lower-case hex digits, network order, IPv4 v4-mapped. */
export type AddressKey = string;

export interface IdentityEntry {
  readonly id: Id;
  readonly network: Id;
  /** KIND_STRANGER (1), or a hash above 1. */
  readonly kind: number;
}

export interface Answer {
  /** precedence << 2 | action; 0xffff: none. */
  readonly admin: number;
  readonly policy: number;
  readonly baseline: number;
  readonly limits: number;
  /** FINAL_* | reason; 0: not final. */
  readonly final: number;
}

export interface Entry {
  /** IP protocol number, ICMPv6 as 1; 0 is any. */
  readonly protocol: number;
  readonly first: number;
  readonly last: number;
  readonly answer: Answer;
}

export interface Row {
  readonly ruleset: Id;
  readonly subject: Id;
  readonly kind: number;
  /** enum row_flags. */
  readonly flags: number;
  readonly limits: number;
  readonly limitsSilent: number;
  /** First match answers. More than ROW_ENTRIES: stored as a port set. */
  readonly entries: readonly Entry[];
  /** Id of the port set where entries are too many, else NO_ID. */
  readonly portSet: Id;
}

/** An entry of `ports`, already cut into prefixes. */
export interface PortPrefix {
  readonly protocol: number;
  readonly port: number;
  /** Bits after the port set: 0 any protocol, 16 any port of the protocol, 16 + n. */
  readonly length: number;
  readonly answer: Answer;
}

export interface PolicyRef {
  readonly kind: string;
  readonly namespace: string | null;
  readonly name: string;
}
export interface RuleRef extends PolicyRef {
  readonly index: number;
  readonly ruleName: string | null;
}

/** What the numbers in verdicts of this ruleset stand for. */
export interface RulesetInfo {
  readonly id: Id;
  readonly admin: readonly RuleRef[];
  readonly policy: readonly RuleRef[];
  readonly baseline: readonly RuleRef[];
  /** By bit number. */
  readonly limits: readonly PolicyRef[];
  /** By told order: the first is named in a default denial. */
  readonly isolating: readonly PolicyRef[];
  /** Isolates and Grants that say which names may be asked; the first is named where one may not. */
  readonly asking: readonly PolicyRef[];
}

export interface WorkloadEntry {
  /** Empty: a systemd unit of this node, whose name `name` is. */
  readonly namespace: string;
  readonly name: string;
  readonly uid: string | null;
  readonly cgroup: string | null;
  readonly hostNetwork: boolean;
  readonly enforced: Id;
  readonly shadow: Id;
  readonly selves: readonly AddressKey[];
}

/** Key of `networks`: space (0 networks, 1 zones, 2 inside), then address, then prefix length in bits of the 128. */
export type NetworkKey = `${0 | 1 | 2}/${AddressKey}/${number}`;
/** Address and port, joined by `/`. */
export type ResolverKey = `${AddressKey}/${number}`;
/** Ruleset, subject, kind (8 hex digits), joined by `/`. */
export type RowKey = `${Id}/${Id}/${string}`;

export interface Tables {
  readonly identities: ReadonlyMap<AddressKey, IdentityEntry>;
  readonly networks: ReadonlyMap<NetworkKey, Id>;
  /** The class of a name for which this is the longest pattern that matches. */
  readonly names: ReadonlyMap<NamePattern, Id>;
  readonly rows: ReadonlyMap<RowKey, Row>;
  readonly portSets: ReadonlyMap<Id, readonly PortPrefix[]>;
  readonly rulesets: ReadonlyMap<Id, RulesetInfo>;
  /** Whose answers to DNS questions are believed. Empty where no ruleset asks for names. */
  readonly resolvers: ReadonlySet<ResolverKey>;
  /** By `namespace/name`: every pod, and every unit (`/kubelet.service`) that a policy selects here, bound or not. Who is bound to which cgroup is apply's question. */
  readonly workloads: ReadonlyMap<string, WorkloadEntry>;
}

/**
 * One step of a change. `tables` is where the kernel stands after it; `bridge` are rows (and their port sets) that packets may
 * ask for while it happens: old rulesets on new subjects. Write rows and bridge first, then identities and networks, then the
 * workloads' pointers, then the epochs; wait for running programs; delete what `tables` does not hold.
 */
export interface Step {
  readonly tables: Tables;
  readonly bridge: ReadonlyMap<RowKey, Row>;
  readonly bridgePortSets: ReadonlyMap<Id, readonly PortPrefix[]>;
}
