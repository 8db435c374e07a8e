// SPDX-License-Identifier: Apache-2.0
// Tells what a source waits for and what stands in its way: each once when it begins, once when it is over. What stands in the way of several
// kinds alike is one thing.
import type { SourceStatus } from '../source/source.ts';

export type SourceEvent =
  /** Kinds that were never read whole. Told again when others are left. */
  | { readonly event: 'waiting'; readonly for: string }
  /** Of a problem: those that it has come to hold since it was last told. Mended: all that it held, once it holds none. */
  | { readonly event: 'source_problem' | 'source_mended'; readonly kinds: readonly string[]; readonly message: string };

interface Group {
  readonly message: string;
  readonly kinds: Set<string>;
}

export class SourceLog {
  readonly #tell: (event: SourceEvent) => void;
  /** What was told, by what is the same of one problem: a code, or the sentence. */
  #told = new Map<string, Group>();
  #waiting = '';

  constructor(tell: (event: SourceEvent) => void) {
    this.#tell = tell;
  }

  update(status: readonly SourceStatus[]): void {
    const now = groups(status);
    const well = status.filter(({ problem }) => problem === null).map(({ kind }) => kind);
    for (const [key, { kinds }] of this.#told) {
      const mended = now.has(key) ? [] : well.filter((kind) => kinds.has(kind));
      if (mended.length === 0) continue;
      this.#tell({ event: 'source_mended', kinds: mended, message: `${mended.join(', ')}: can be read again` });
    }
    const told = new Map<string, Group>();
    for (const [key, { message, kinds }] of now) {
      const before = this.#told.get(key)?.kinds ?? new Set();
      const come = kinds.difference(before);
      if (come.size > 0) this.#tell({ event: 'source_problem', kinds: [...come], message });
      told.set(key, { message, kinds: before.union(kinds) });
    }
    this.#told = told;
    const waiting = status.filter(({ synced }) => !synced).map(({ kind }) => kind);
    const text = waiting.length === 0 ? '' : `the first list of ${waiting.join(', ')}`;
    if (text !== '' && text !== this.#waiting) this.#tell({ event: 'waiting', for: text });
    this.#waiting = text;
  }
}

function groups(status: readonly SourceStatus[]): Map<string, Group> {
  const found = new Map<string, Group>();
  for (const { kind, problem, common } of status) {
    if (problem === null) continue;
    const [key, message] = common === undefined ? [problem, problem] : [common.code, common.message];
    const group = found.get(key) ?? { message, kinds: new Set<string>() };
    group.kinds.add(kind);
    found.set(key, group);
  }
  return found;
}
