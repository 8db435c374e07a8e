// SPDX-License-Identifier: Apache-2.0
// How does the agent say what it refuses and what is wrong? Lines of the log, each thing once, and the same to the hooks.
// Knows nothing of how anything is enforced.
import type { Logger } from 'pino';
import { addressKey } from '../model/address.ts';
import type { Problem, Snapshot } from '../model/objects.ts';
import type { AddressKey } from '../model/tables.ts';
import type { SourceStatus } from '../source/source.ts';
import { destinations } from '../tell/destination.ts';
import type { Refusal } from '../tell/refusal.ts';
import { Repeats } from '../tell/repeats.ts';
import type { AgentHooks } from './hooks.ts';
import { ProblemLog } from './problem-log.ts';
import { type SourceEvent, SourceLog } from './source-log.ts';

export class Telling {
  readonly #log: Logger;
  readonly #hooks: AgentHooks;
  readonly #problems = new ProblemLog((event, problem) => this.#tellProblem(event, problem));
  readonly #source = new SourceLog((event) => this.#tellSource(event));
  readonly #drops = new Repeats(
    (refusal, count) => this.#tellRefusal(refusal, count),
    (count) =>
      this.#log.warn({ event: 'drops_not_told', count }, 'more kinds of drops than are told; the metrics count them'),
  );
  #enforced: Snapshot | null = null;
  /** Of what is enforced; made when first asked for. */
  #names: ReadonlyMap<AddressKey, string> | null = null;

  constructor(log: Logger, hooks: AgentHooks = {}) {
    this.#log = log;
    this.#hooks = hooks;
  }

  /** All problems that there are now: the same list as long as nothing of it changes. */
  get problems(): readonly Problem[] {
    return this.#problems.problems;
  }

  /** Takes all problems that there are now. */
  update(problems: readonly Problem[]): void {
    this.#problems.update(problems);
  }

  updateSource(status: readonly SourceStatus[]): void {
    this.#source.update(status);
  }

  /** Whose addresses are named from now on. */
  name(enforced: Snapshot): void {
    if (this.#enforced !== enforced) this.#names = null;
    this.#enforced = enforced;
  }

  refuse(refusal: Refusal): void {
    this.#drops.add(refusal);
  }

  /** Says what was held back. */
  flush(): void {
    this.#drops.flush();
  }

  #tellRefusal(refusal: Refusal, count: number): void {
    const { verdict, address, ...rest } = refusal;
    if (this.#enforced !== null) this.#names ??= destinations(this.#enforced);
    const destination = this.#names?.get(addressKey(address) ?? '') ?? null;
    this.#log.info({ event: verdict === 'deny' ? 'drop' : 'audit', ...rest, address, destination, count });
    this.#hooks.onDrop?.(refusal, count, destination);
  }

  #tellSource(told: SourceEvent): void {
    if (told.event === 'waiting') this.#log.info(told);
    else if (told.event === 'source_problem') this.#log.warn({ event: told.event, kinds: told.kinds }, told.message);
    else this.#log.info({ event: told.event, kinds: told.kinds }, told.message);
  }

  #tellProblem(event: 'problem' | 'mended', problem: Problem): void {
    this.#hooks.onProblem?.(event, problem);
    const { file, line, column, message, ...rest } = problem;
    const where = file === null ? null : line === 0 ? file : `${file}:${line}:${column}`;
    if (event === 'mended') this.#log.info({ event, ...rest, where }, message);
    else if (problem.severity === 'error') this.#log.error({ event, ...rest, where }, message);
    else this.#log.warn({ event, ...rest, where }, message);
  }
}
