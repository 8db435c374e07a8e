// SPDX-License-Identifier: Apache-2.0
// Each problem is told once when it appears and once when it is mended, however often the folder is read.
import type { Problem } from '../model/objects.ts';

export class ProblemLog {
  readonly #tell: (event: 'problem' | 'mended', problem: Problem) => void;
  #known = new Map<string, Problem>();
  #problems: readonly Problem[] = [];

  constructor(tell: (event: 'problem' | 'mended', problem: Problem) => void) {
    this.#tell = tell;
  }

  /** The same list as long as nothing of it changes. */
  get problems(): readonly Problem[] {
    return this.#problems;
  }

  /** Takes all problems that there are now. */
  update(problems: readonly Problem[]): void {
    const now = new Map(problems.map((problem) => [identity(problem), problem]));
    for (const [key, problem] of this.#known) if (!now.has(key)) this.#tell('mended', problem);
    for (const [key, problem] of now) if (!this.#known.has(key)) this.#tell('problem', problem);
    const isSame = now.size === this.#known.size && [...now].every(([key, one]) => this.#known.get(key) === one);
    this.#known = now;
    if (!isSame) this.#problems = [...now.values()];
  }
}

/** Lines move when others are edited above: a problem is the same while object, path and message are. */
function identity({ severity, code, file, path, object, message, line }: Problem): string {
  return JSON.stringify([severity, code, file, path, object, message, object === null ? line : null]);
}
