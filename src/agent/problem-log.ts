// SPDX-License-Identifier: Apache-2.0
// Each problem is told once when it appears and once when it is mended, however often the folder is read.
import type { Problem } from '../model/objects.ts';

export class ProblemLog {
  readonly #tell: (event: 'problem' | 'mended', problem: Problem) => void;
  #known = new Map<string, Problem>();

  constructor(tell: (event: 'problem' | 'mended', problem: Problem) => void) {
    this.#tell = tell;
  }

  get problems(): readonly Problem[] {
    return [...this.#known.values()];
  }

  /** Takes all problems that there are now. */
  update(problems: readonly Problem[]): void {
    const now = new Map(problems.map((problem) => [identity(problem), problem]));
    for (const [key, problem] of this.#known) if (!now.has(key)) this.#tell('mended', problem);
    for (const [key, problem] of now) if (!this.#known.has(key)) this.#tell('problem', problem);
    this.#known = now;
  }
}

/** Lines move when others are edited above: a problem is the same while object, path and message are. */
function identity({ severity, code, file, path, object, message, line }: Problem): string {
  return JSON.stringify([severity, code, file, path, object, message, object === null ? line : null]);
}
