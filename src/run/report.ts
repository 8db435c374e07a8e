// SPDX-License-Identifier: Apache-2.0
// What was refused to the command, or would have been, for people (a table) and for programs (JSON). Pure.
import { table } from '../cli/table.ts';
import { type Refusal, sameness } from '../tell/refusal.ts';

export interface Line {
  readonly refusal: Refusal;
  readonly count: number;
}

/** More kinds than anyone reads; beyond them only the number is kept. */
const MAX_LINES = 1000;

export class Report {
  readonly #lines = new Map<string, { refusal: Refusal; count: number }>();
  #beyond = 0;

  add(refusal: Refusal): void {
    const key = sameness(refusal);
    const line = this.#lines.get(key);
    if (line !== undefined) line.count += 1;
    else if (this.#lines.size < MAX_LINES) this.#lines.set(key, { refusal, count: 1 });
    else this.#beyond += 1;
  }

  /** In the order in which they came first. */
  get lines(): readonly Line[] {
    return [...this.#lines.values()];
  }

  /** Refusals that found no line any more. */
  get beyond(): number {
    return this.#beyond;
  }
}

/**
 * The destination as a user would type it: `192.0.2.1:443`, `[2001:db8::1]:443`, `192.0.2.1` where there is no port; and behind it the
 * name by which it was known: `192.0.2.1:443 (api.example.com)`.
 */
export function destinationText({ address, port, name }: Pick<Refusal, 'address' | 'port' | 'name'>): string {
  const end = port === 0 ? address : address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
  return name === null ? end : `${end} (${name})`;
}

/** Empty where nothing was refused. `lost`: events that the kernel could not tell; their refusals hold all the same. */
export function reportText(report: Report, lost: number): string {
  if (report.lines.length === 0 && lost === 0) return '';
  const rows = report.lines.map(({ refusal, count }) => [
    refusal.verdict === 'deny' ? 'refused' : 'would be refused',
    destinationText(refusal),
    refusal.protocol,
    refusal.process === '' ? '-' : refusal.process,
    refusal.policy ?? '-',
    refusal.rule === null ? '-' : String(refusal.rule),
    refusal.reason,
    String(count),
  ]);
  const head = ['VERDICT', 'DESTINATION', 'PROTOCOL', 'PROCESS', 'POLICY', 'RULE', 'REASON', 'COUNT'];
  const untold = report.beyond + lost;
  return `${table(head, rows)}${untold === 0 ? '' : `and ${untold} more that are not listed\n`}`;
}

export interface RunOutcome {
  readonly command: readonly string[];
  readonly user: string;
  /** As the shell has it: 128 + n where signal n ended it. */
  readonly status: number;
  readonly audit: boolean;
}

/** The shape of `--summary FILE` and of `-o json`. */
export function summary(outcome: RunOutcome, report: Report, lost: number, notes: readonly string[]): object {
  const refused = report.lines.map(({ refusal, count }) => ({
    verdict: refusal.verdict,
    destination: refusal.address,
    name: refusal.name,
    port: refusal.port === 0 ? null : refusal.port,
    protocol: refusal.protocol,
    process: refusal.process === '' ? null : refusal.process,
    policy: refusal.policy,
    rule: refusal.rule,
    reason: refusal.reason,
    count,
  }));
  return { ...outcome, refused, notListed: report.beyond, eventsLost: lost, notes };
}
