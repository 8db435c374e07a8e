// SPDX-License-Identifier: Apache-2.0
// What does a record of the ring buffer say, once numbers are names? Pure; who reads the buffer is not its business.

import {
  decodeEvent,
  decodeNamedEvent,
  EVENT_BYTES,
  EVENT_CUT,
  EVENT_PROCESS,
  EVENT_SILENT,
  HOOK_NAMES,
  ICMP_KIND_NAMES,
  NAMED_EVENT_BYTES,
  REASON_NAMES,
  VERDICT_NAMES,
} from '#build/generated/abi.ts';
import { tell } from '../judge/decide.ts';
import { addressText } from '../model/address.ts';
import { forwardName } from '../model/name.ts';
import { type AddressKey, type Id, NO_ID } from '../model/tables.ts';
import { policyName } from '../resolve/order.ts';
import type { CounterNames, VerdictName } from './counters.ts';

export interface FlowEnd {
  readonly address: string;
  readonly key: AddressKey;
  /** 0 where the protocol has none. */
  readonly port: number;
}

/** Whom a verdict names. */
export interface Blame {
  readonly reason: string;
  readonly policy: string | null;
  readonly rule: number | null;
  readonly ruleName: string | null;
  /** Of a default denial: every policy that isolates. */
  readonly isolatedBy: readonly string[];
}

export interface FlowEvent extends Blame {
  /** CLOCK_MONOTONIC. */
  readonly timeNs: bigint;
  /** `namespace/name`; null: unknown. */
  readonly workload: string | null;
  /** cgroup2 id: the workload's; of an unknown one its own. */
  readonly cgroup: bigint;
  readonly verdict: VerdictName;
  /** The shadow ruleset's answer where it is another: of a denial, what Audit policies would allow. */
  readonly shadow: Blame | null;
  readonly hook: string;
  /** IP protocol number; ICMPv6 is 1 as ICMP is. */
  readonly protocol: number;
  /** snake_case, enum icmp_kind; null: not ICMP. */
  readonly icmp: string | null;
  readonly local: FlowEnd;
  readonly remote: FlowEnd;
  /**
   * By which the workload knew the remote address: DNS told it, allowed or not. Of a refused question the name that it asks for. null: it told
   * none, or that was forgotten since.
   */
  readonly name: string | null;
  /** L3 bytes; 0 from connect and sendmsg. */
  readonly length: number;
  /** A Drop. */
  readonly silent: boolean;
  /** An established TCP flow was cut: its socket should be ended. */
  readonly cut: boolean;
  /** 0: not known. */
  readonly pid: number;
  /** The process' name, of its own choosing; empty: not known. */
  readonly command: string;
  /** The process is the sender; else it is who last called connect on the socket. */
  readonly isSender: boolean;
  readonly socketCookie: bigint;
  readonly netnsCookie: bigint;
}

const ICMP = 1;

/**
 * `told`: the name that has this number for the workload in this slot, see `Applier.nameOf`. Throws RangeError where the record is not a struct event: the
 * programs are of another version.
 */
export function readEvent(
  record: Buffer,
  names: CounterNames,
  told: (slot: number, number: number) => string | null,
): FlowEvent {
  if (record.length !== EVENT_BYTES && record.length !== NAMED_EVENT_BYTES) {
    throw new RangeError(`an event has ${EVENT_BYTES} or ${NAMED_EVENT_BYTES} bytes, not ${record.length}`);
  }
  const event = decodeEvent(record);
  const asked = record.length === NAMED_EVENT_BYTES ? forwardName(decodeNamedEvent(record).text) : null;
  const blame = (ruleset: Id, reason: number, rule: number): Blame => {
    const { policy, rule: named, isolatedBy } = tell(names.ruleset(ruleset), { reason, rule });
    return {
      reason: REASON_NAMES.get(reason) ?? String(reason),
      policy: policy === null ? null : policyName(policy),
      rule: named === null ? null : named.index,
      ruleName: named === null ? null : named.ruleName,
      isolatedBy: isolatedBy.map(policyName),
    };
  };
  const end = (key: AddressKey, port: number): FlowEnd => ({ address: addressText(key), key, port });
  return {
    timeNs: event.timeNs,
    workload: names.workload(event.slot),
    cgroup: event.cgroup,
    verdict: (VERDICT_NAMES.get(event.verdict) ?? 'deny') as VerdictName,
    ...blame(event.ruleset, event.reason, event.rule),
    shadow: event.shadow === NO_ID ? null : blame(event.shadow, event.shadowReason, event.shadowRule),
    hook: HOOK_NAMES.get(event.hook) ?? String(event.hook),
    protocol: event.protocol,
    icmp: event.protocol === ICMP ? (ICMP_KIND_NAMES.get(event.icmp) ?? String(event.icmp)) : null,
    local: end(event.local, event.localPort),
    remote: end(event.remote, event.remotePort),
    name: asked ?? (event.name === 0 ? null : told(event.slot, event.name)),
    length: event.length,
    silent: (event.flags & EVENT_SILENT) !== 0,
    cut: (event.flags & EVENT_CUT) !== 0,
    pid: event.pid,
    command: event.command,
    isSender: (event.flags & EVENT_PROCESS) !== 0,
    socketCookie: event.socketCookie,
    netnsCookie: event.netnsCookie,
  };
}
