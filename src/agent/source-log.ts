// SPDX-License-Identifier: Apache-2.0
// Tells what a source waits for and what stands in its way: each once when it begins, once when it is over.
import type { SourceStatus } from '../source/source.ts';

export type SourceEvent =
  /** Kinds that were never read whole. Told again when others are left. */
  | { readonly event: 'waiting'; readonly for: string }
  | { readonly event: 'source_problem' | 'source_mended'; readonly kind: string; readonly message: string };

export class SourceLog {
  readonly #tell: (event: SourceEvent) => void;
  #problems = new Map<string, string>();
  #waiting = '';

  constructor(tell: (event: SourceEvent) => void) {
    this.#tell = tell;
  }

  update(status: readonly SourceStatus[]): void {
    const now = new Map(status.flatMap(({ kind, problem }) => (problem === null ? [] : [[kind, problem] as const])));
    for (const [kind, message] of this.#problems) {
      if (!now.has(kind)) this.#tell({ event: 'source_mended', kind, message });
    }
    for (const [kind, message] of now) {
      if (this.#problems.get(kind) !== message) this.#tell({ event: 'source_problem', kind, message });
    }
    this.#problems = now;
    const waiting = status.filter(({ synced }) => !synced).map(({ kind }) => kind);
    const text = waiting.length === 0 ? '' : `the first list of ${waiting.join(', ')}`;
    if (text !== '' && text !== this.#waiting) this.#tell({ event: 'waiting', for: text });
    this.#waiting = text;
  }
}
