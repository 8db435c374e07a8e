// SPDX-License-Identifier: Apache-2.0
// How often and how long, wherever the API server is asked or waited for.

export interface Pace {
  /** First and longest pause after failures in a row; doubled from one to the next, and jittered up to twice that. */
  readonly backoffMs: readonly [first: number, most: number];
  /** Pause after a refusal by RBAC: only a human mends it. */
  readonly forbiddenMs: number;
  /** First and longest pause while a resource is not installed. */
  readonly absentMs: readonly [first: number, most: number];
  /** What the server is asked to end a watch after. */
  readonly watchSeconds: readonly [least: number, most: number];
  /** An answer that has not begun by then will not. */
  readonly answerMs: number;
  /** A watch that shows no sign of life for so long is dead. The server sends a bookmark a minute. */
  readonly idleMs: number;
  /** A streaming list that shows none is not known to the server, which waits for events. */
  readonly listIdleMs: number;
  /** A burst of changes ends when it has been quiet for so long, or at the latest after the second. */
  readonly quietMs: readonly [quiet: number, atMost: number];
}

/** client-go's where it has one: reflector.go (800 ms to 30 s, watches of 5 to 10 minutes). */
export const PACE: Pace = {
  backoffMs: [800, 30_000],
  forbiddenMs: 30_000,
  absentMs: [5_000, 60_000],
  watchSeconds: [300, 600],
  answerMs: 30_000,
  idleMs: 130_000,
  listIdleMs: 20_000,
  quietMs: [3, 20],
};

/** From `ms` to twice that: nodes that failed together do not come back together. */
export function jittered(ms: number): number {
  return ms * (1 + Math.random());
}
