// SPDX-License-Identifier: Apache-2.0
// What GET /status answers, and `postern status` prints. Types alone.
import type { Drift } from '../kernel/installation.ts';
import type { MapAudit } from '../kernel/table.ts';

export interface NodeStatus {
  /** The agent's; null: none runs, and what follows is read from the pins. */
  readonly pid: number | null;
  /** What the source says is enforced. */
  readonly ready: boolean;
  /** null: nothing outlives the agent. */
  readonly bpffs: string | null;
  /** The cgroup below which all is enforced, absolute path; null: not there, or not known. */
  readonly root: string | null;
  /** Since when programs have been attached without a gap, ISO 8601; null: not known. */
  readonly since: string | null;
  readonly programs: readonly { readonly program: string; readonly tag: string; readonly link: number }[];
  readonly guards: readonly {
    readonly workload: string;
    /** `guarded`, or why it has a way out without a guard. */
    readonly situation: string;
    readonly interfaces: readonly {
      readonly name: string;
      readonly mode: string;
      /** ISO 8601; null: not known. */
      readonly since: string | null;
      /** No other program runs before it. */
      readonly first: boolean;
    }[];
  }[];
  /** `differing` 0: the kernel holds to a byte what the policies say. */
  readonly maps: readonly (MapAudit & { readonly maxEntries: number })[];
  /** What is not attached or pinned as it should be. */
  readonly drift: readonly Drift[];
  /** How often something was put right since the agent started, by what it was. */
  readonly repaired: Readonly<Record<string, number>>;
}
