// SPDX-License-Identifier: Apache-2.0
// How is it shown? Columns whose widths are known before the first row, colours only where there is a terminal that wants them.
// Knows nothing of policies.
import { styleText } from 'node:util';
import { printable } from '../../src/cli/table.ts';

type Style = Parameters<typeof styleText>[0];

/** styleText asks whether there is a terminal, and heeds NO_COLOR (no-color.org), NODE_DISABLE_COLORS and FORCE_COLOR. */
export function styled(style: Style, text: string): string {
  return styleText(style, text, { stream: process.stdout, validateStream: true });
}

export function say(text = ''): void {
  process.stdout.write(`${text}\n`);
}

export const HEAD = ['FROM', 'TO', 'CLIENT SAW', 'VERDICT', 'POLICY', 'RULE', 'REASON'] as const;
/** A cell for each of HEAD. */
export type Row = readonly [string, string, string, string, string, string, string];
/** HEAD's columns that tell the connection; the others tell the policy's side. */
const CONNECTION = 3;

const VERDICT_STYLES: Readonly<Record<string, Style>> = { ALLOW: 'green', DENY: 'red', AUDIT: 'yellow' };

/** A table that is printed row by row. On a terminal too narrow for a line each, the policy's side has a line of its own. */
export class LiveTable {
  readonly #widths: readonly number[];
  readonly #isStacked: boolean;

  /** `expected`: rows about as wide as those to come. */
  constructor(expected: readonly Row[]) {
    this.#widths = HEAD.map((head, column) =>
      Math.max(head.length, ...expected.map((row) => row[column]?.length ?? 0)),
    );
    const width = this.#widths.reduce((sum, one) => sum + one + 2, -2);
    this.#isStacked = process.stdout.isTTY && process.stdout.columns < width;
  }

  head(): void {
    this.#print(HEAD, (text) => styled('bold', text));
  }

  section(text: string): void {
    say();
    say(styled('dim', text));
  }

  row(row: Row): void {
    this.#print(row.map(printable), (text, column) => {
      const style = column === CONNECTION ? VERDICT_STYLES[text.trim()] : undefined;
      return style === undefined ? text : styled(style, text);
    });
  }

  #print(cells: readonly string[], paint: (text: string, column: number) => string): void {
    const painted = cells.map((cell, column) => paint(cell.padEnd(this.#widths[column] ?? 0), column));
    const line = (from: number, to?: number) => painted.slice(from, to).join('  ').trimEnd();
    if (this.#isStacked) say(`${line(0, CONNECTION)}\n    ${line(CONNECTION)}`);
    else say(line(0));
  }
}
