// SPDX-License-Identifier: Apache-2.0
// One thing that was refused, or would have been, in the words of whoever wrote the policy. Data only.

/** What an event of the kernel says once ids are names. */
export interface Refusal {
  /** `audit`: it passed, and would be refused if Audit policies were enforced. */
  readonly verdict: 'deny' | 'audit';
  /** `namespace/name` of the pod, or `unknown`. */
  readonly workload: string;
  /** Where an unknown workload runs: the folder of its cgroup, absolute. null: of a known one, or it is gone or cannot be told. */
  readonly cgroup: string | null;
  readonly address: string;
  /** The name by which the workload knew the address, as DNS told it, or that it may not ask DNS for; null: it told none, or that was forgotten since. */
  readonly name: string | null;
  /** 0 where the protocol has none. */
  readonly port: number;
  /** `TCP`, `UDP`, `SCTP`, `ICMP`, or the IP protocol's number. */
  readonly protocol: string;
  /** Of ICMP, its type: `echo_request`, … (enum icmp_kind of bpf/abi.h); else null. */
  readonly icmp: string | null;
  /** Name of the process (16 bytes, of its own choosing); empty where the kernel could not tell. */
  readonly process: string;
  /** 0 where the kernel could not tell. */
  readonly pid: number;
  /** `NetworkPolicy/shop/db`, or null where no policy has a part in it. */
  readonly policy: string | null;
  /** Index of the rule; null in a default denial. */
  readonly rule: number | null;
  readonly ruleName: string | null;
  /** Of a default denial: every policy that isolates. */
  readonly isolatedBy: readonly string[];
  /** snake_case, enum reason of bpf/abi.h. */
  readonly reason: string;
  /** Of a denial: the Audit policy that would allow it; null where none would. */
  readonly shadow: { readonly policy: string | null; readonly rule: number | null; readonly reason: string } | null;
}

/** Equal for refusals that a reader would call the same; processes of one name are one. */
export function sameness(one: Refusal): string {
  return JSON.stringify([
    one.verdict,
    one.workload,
    one.cgroup,
    one.address,
    one.name,
    one.port,
    one.protocol,
    one.icmp,
    one.process,
    one.policy,
    one.rule,
    one.reason,
  ]);
}
