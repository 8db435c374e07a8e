// SPDX-License-Identifier: Apache-2.0
// `postern doctor`: can this node enforce, and if not, what is missing? Prints what examine found.
import { Command, Option } from 'commander';
import { loadNative } from '../kernel/native.ts';
import { examine, type Finding, isEnforcementPossible } from './examine.ts';
import { table } from './table.ts';

/** Exit status: 0 enforcement is possible, 1 it is not. */
export function command(): Command {
  return new Command('doctor')
    .description('Tell what this node offers for enforcement, and what is missing')
    .addOption(new Option('-o, --output <format>', 'how to print').choices(['text', 'json']).default('text'))
    .addHelpText(
      'after',
      `
Everything is really tried: programs and maps are loaded and thrown away again; nothing is attached or changed.
Each line is ok, limited (enforcement works, something is lost) or missing (enforcement is impossible).
Exit status: 0 if this node can enforce, 1 if it cannot.`,
    )
    .action((options: { output: 'text' | 'json' }) => {
      const findings = examine(loadNative);
      const possible = isEnforcementPossible(findings);
      process.stdout.write(options.output === 'json' ? json(findings, possible) : text(findings, possible));
      process.exitCode = possible ? 0 : 1;
    });
}

function json(findings: readonly Finding[], enforcement: boolean): string {
  return `${JSON.stringify({ enforcement, findings }, null, 2)}\n`;
}

function text(findings: readonly Finding[], enforcement: boolean): string {
  const rows = findings.map(({ name, state, found, advice }) => [name, state, found, advice]);
  const lines = table(['CHECK', 'STATE', 'FOUND', 'WHAT TO DO'], rows);
  return `${lines}\n${enforcement ? 'This node can enforce.' : 'This node cannot enforce: see what is missing above.'}\n`;
}
