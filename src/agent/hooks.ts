// SPDX-License-Identifier: Apache-2.0
// What others may hear of the agent's work, to tell it in places of their own (status, Events). They never hold it up or change it.
import type { Bindings } from '../bind/binding.ts';
import type { Compiled } from '../compile/compile.ts';
import type { Problem, Snapshot } from '../model/objects.ts';
import type { Refusal } from '../tell/refusal.ts';
import type { Repaired } from './drift-watch.ts';
import type { Fill } from './fill-watch.ts';

/** Where this node stands after a change was enforced, or refused. */
export interface Standing {
  /** What the source says. */
  readonly wanted: Snapshot;
  /** What the kernel is held to: `wanted` itself, or an older one where that was refused. */
  readonly enforced: Snapshot;
  /** The tables of `enforced`. */
  readonly compiled: Compiled;
  /** Workloads that are held, with their cgroups. */
  readonly bindings: Bindings;
  /** Why `wanted` is not enforced; empty where it is. */
  readonly refused: readonly Problem[];
  /** All problems that there are now: of objects, of bindings, and `refused`. */
  readonly problems: readonly Problem[];
}

export interface AgentHooks {
  /** After each change that the kernel took, and each that was refused: at most some ten times a second. */
  onApplied?(standing: Standing): void;
  /**
   * The first refusal of a kind at once, repeats summed within a second; `refusal.verdict` is `deny` or `audit`. `destination`:
   * whose the address is (`pod shop/cart`), or null.
   */
  onDrop?(refusal: Refusal, count: number, destination: string | null): void;
  /** Each problem once when it appears, and once when it is mended. */
  onProblem?(event: 'problem' | 'mended', problem: Problem): void;
  /** Somebody changed what the agent had put into the kernel, and it was put right. */
  onDrift?(repaired: Repaired): void;
  /** A map is nearly full. Once, until it is not any more. */
  onFilling?(fill: Fill): void;
  /** The agent ends: write what is to be written, within three seconds. */
  onStop?(): Promise<void>;
}
