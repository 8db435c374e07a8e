// SPDX-License-Identifier: Apache-2.0
// Is what the kernel holds and runs still what this agent put there? Asks now and then, a map a turn of the loop, and puts right what is not.
// Knows neither what is in a map nor what a program does.
import { setImmediate as turn } from 'node:timers/promises';
import type { Drift } from '../kernel/installation.ts';
import type { MapAudit } from '../kernel/table.ts';
import type { Enforcement } from './enforcement.ts';

/** What somebody else did: as `Drift`; `map`: entries of a map were changed, added or deleted; `order`: another program ran before a guard. */
export interface Repaired {
  readonly what: Drift['what'] | 'map' | 'order';
  /** Of the program, the pin below --bpffs, the map, or the interface. */
  readonly name: string;
  /** How many: of a map its entries, else 1. */
  readonly count: number;
}

export interface Verified {
  /** When, in ms since 1970. */
  readonly atMs: number;
  readonly drift: readonly Drift[];
  readonly maps: readonly MapAudit[];
}

export class DriftWatch {
  readonly #enforcement: Enforcement;
  readonly #onRepaired: (repaired: Repaired) => void;
  readonly #onFailed: (error: unknown) => void;
  readonly #timer: NodeJS.Timeout | null;
  readonly #totals = new Map<Repaired['what'], number>([
    ['link', 0],
    ['program', 0],
    ['pin', 0],
    ['map', 0],
    ['guard', 0],
    ['order', 0],
  ]);
  #isAsking = false;
  #isClosed = false;

  /** `intervalMs` 0: only when asked. `onFailed`: the kernel does not let it be put right; tried again at the next time. */
  constructor(
    enforcement: Enforcement,
    intervalMs: number,
    on: { repaired(repaired: Repaired): void; failed(error: unknown): void },
  ) {
    this.#enforcement = enforcement;
    this.#onRepaired = on.repaired;
    this.#onFailed = on.failed;
    this.#timer = intervalMs === 0 ? null : setInterval(() => void this.repair(), intervalMs);
    this.#timer?.unref();
  }

  /** How often something was put right, by what it was; totals. */
  get totals(): ReadonlyMap<Repaired['what'], number> {
    return this.#totals;
  }

  /** Looks, and changes nothing. Rejects with KernelError, PinError. */
  async verify(): Promise<Verified> {
    const drift = this.#enforcement.audit(false);
    const maps: MapAudit[] = [];
    for (const audit of this.#enforcement.mapAudits()) {
      const found = await this.#run(audit(false));
      if (found === null) break;
      maps.push(found);
    }
    return { atMs: Date.now(), drift, maps };
  }

  /** Never rejects. */
  async repair(): Promise<void> {
    if (this.#isAsking) return;
    this.#isAsking = true;
    try {
      for (const { what, name } of this.#enforcement.audit(true)) this.note({ what, name, count: 1 });
      for (const audit of this.#enforcement.mapAudits()) {
        const found = await this.#run(audit(true));
        if (found === null) return;
        const { map, differing } = found;
        if (differing > 0) this.note({ what: 'map', name: map, count: differing });
      }
    } catch (error) {
      this.#onFailed(error);
    } finally {
      this.#isAsking = false;
    }
  }

  /** In parts, between which the loop turns. null: it was closed meanwhile. */
  async #run(audit: Generator<void, MapAudit>): Promise<MapAudit | null> {
    for (;;) {
      await turn();
      if (this.#isClosed) return null;
      const next = audit.next();
      if (next.done === true) return next.value;
    }
  }

  close(): void {
    this.#isClosed = true;
    if (this.#timer !== null) clearInterval(this.#timer);
  }

  /** Somebody has put it right. */
  note(repaired: Repaired): void {
    this.#totals.set(repaired.what, (this.#totals.get(repaired.what) ?? 0) + 1);
    this.#onRepaired(repaired);
  }
}

/** In a sentence, for people. */
export function driftText({ what, name, count }: Repaired): string {
  switch (what) {
    case 'link':
      return `somebody detached the program ${name}: it is attached again`;
    case 'program':
      return `somebody put another program in the place of ${name}: it is back`;
    case 'pin':
      return `somebody removed or replaced the pin ${name}: it is back`;
    case 'guard':
      return `somebody took the guard away from the interface ${name}: it is put there again`;
    case 'order':
      return `somebody attached a program before the guard at the interface ${name}, which it could keep packets from: the guard is put before it again`;
    case 'map':
      return `somebody changed ${count} entries of the map ${name}: they are as they were, and all flows are judged again`;
  }
}
