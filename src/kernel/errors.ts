// SPDX-License-Identifier: Apache-2.0
// What can go wrong when the kernel's maps are changed, beside what the kernel itself says (KernelError in native.ts).

/** A change that a map cannot hold. Thrown before anything is written; what was enforced stays. */
export class LimitExceeded extends Error {
  override readonly name = 'LimitExceeded';
  readonly code = 'LIMIT_EXCEEDED';
  /** Name of the map in bpf/maps.h. */
  readonly map: string;
  /** What the map can hold. */
  readonly limit: number;
  /** What it would have to hold while the change is on its way. */
  readonly needed: number;
  constructor(map: string, limit: number, needed: number) {
    super(`the map ${map} holds ${limit} entries at most, and this change needs ${needed}`);
    this.map = map;
    this.limit = limit;
    this.needed = needed;
  }
}

/**
 * The kernel refused a write, and then refused to take back what had been written before it. What packets get is unclear until
 * the next `apply`, which reads the kernel's maps first. `cause` is the first failure, `undo` the second.
 */
export class RollbackFailed extends Error {
  override readonly name = 'RollbackFailed';
  readonly code = 'ROLLBACK_FAILED';
  readonly undo: unknown;
  constructor(cause: unknown, undo: unknown) {
    super('a change failed half-way and could not be taken back', { cause });
    this.undo = undo;
  }
}
