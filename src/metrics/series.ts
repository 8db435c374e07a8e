// SPDX-License-Identifier: Apache-2.0
// Which label sets does Prometheus get to see? At most so many; the rest are one series, and none ever goes backwards.

export interface Labels {
  readonly workload: string;
  readonly direction: string;
  readonly policy: string;
  readonly reason: string;
}

export interface Count {
  readonly packets: number;
  readonly bytes: number;
}

export const OVERFLOW: Labels = { workload: 'overflow', direction: 'overflow', policy: 'overflow', reason: 'overflow' };

/**
 * Bounds the number of series. First come, first served; what comes later is summed in the overflow series for as long as it
 * lives. Series of workloads that are gone are left out (Prometheus marks them stale), but stay in the overflow's sum.
 */
export class BoundedSeries {
  readonly #max: number;
  readonly #own = new Set<string>();
  readonly #over = new Map<string, Count>();
  #retired: Count = { packets: 0, bytes: 0 };

  constructor(max: number) {
    this.#max = max;
  }

  /** Given every label set alive with its total, yields what to show. */
  show(current: readonly { readonly labels: Labels; readonly count: Count }[]): { labels: Labels; count: Count }[] {
    const byKey = new Map<string, { labels: Labels; count: Count }>();
    for (const { labels, count } of current) {
      const key = JSON.stringify([labels.workload, labels.direction, labels.policy, labels.reason]);
      const before = byKey.get(key)?.count;
      byKey.set(key, { labels, count: before === undefined ? count : sum(before, count) });
    }
    for (const key of this.#own) if (!byKey.has(key)) this.#own.delete(key);
    for (const [key, count] of this.#over) {
      if (byKey.has(key)) continue;
      this.#retired = sum(this.#retired, count);
      this.#over.delete(key);
    }
    const shown: { labels: Labels; count: Count }[] = [];
    let over = this.#retired;
    for (const [key, one] of byKey) {
      if (!this.#own.has(key) && (this.#over.has(key) || this.#own.size >= this.#max)) {
        this.#over.set(key, one.count);
        over = sum(over, one.count);
        continue;
      }
      this.#own.add(key);
      shown.push(one);
    }
    if (over.packets > 0) shown.push({ labels: OVERFLOW, count: over });
    return shown;
  }
}

function sum(a: Count, b: Count): Count {
  return { packets: a.packets + b.packets, bytes: a.bytes + b.bytes };
}
