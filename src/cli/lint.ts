// SPDX-License-Identifier: Apache-2.0
// `postern lint`: prints every problem of a folder, a line each. Reads the folder; asks neither root nor the kernel.
import { readFileSync, statSync } from 'node:fs';
import { Command, Option } from 'commander';
import { type LintResult, lintFiles } from '../lint/lint.ts';
import type { Problem } from '../model/objects.ts';
import { Folder, type Scan } from '../source/folder.ts';
import { printable } from './table.ts';

interface Options {
  readonly output: 'text' | 'json';
  readonly warningsOk?: boolean;
}

/** Exit status: 0 no problem, 1 any. */
export function command(): Command {
  return new Command('lint')
    .description('Tell every problem of a folder of Kubernetes objects, and what to write instead')
    .argument('<dir>', 'the folder, as `postern agent` reads it; or one file')
    .addOption(new Option('-o, --output <format>', 'how to print').choices(['text', 'json']).default('text'))
    .option('--warnings-ok', 'exit with 0 where there are only warnings')
    .addHelpText(
      'after',
      `
Reads *.yaml, *.yml and *.json, in folders below too. A line for each problem, sorted by place, on standard output:
  FILE:LINE:COLUMN: path.in.object: what is wrong; what to write instead
After the path of a warning stands "warning: ". An error makes an object invalid: an agent keeps its last valid version, and where
there is none isolates what an invalid policy selects. A warning is something that holds, but hardly means what it says: host bits
in a CIDR, a selector that selects nobody in this folder, a Service that is not there, a feature that is not enforced yet, names
that may not be asked for, a rule of which a Limit leaves nothing or that names one IP family of a destination that has two, a policy
that takes DNS or the API server from cluster DNS, hostNetwork pods or node services.
Objects of kinds that Postern has no part in (Deployment, ConfigMap, ...) are passed over, others' network policies with a warning.

With -o json: an array of {severity, code, file, line, column, path, object, message, advice}.
Exit status: 0 no problem, 1 any problem (with --warnings-ok: any error).

Examples:
  postern lint examples
  postern lint --warnings-ok policies.yaml`,
    )
    .action((dir: string, options: Options) => {
      process.exitCode = print(lint(dir), options);
    });
}

/** Every problem of a folder or file: unreadable files are problems, too. */
export function lint(path: string): LintResult {
  const scan = statSync(path, { throwIfNoEntry: false })?.isFile() ? scanFile(path) : new Folder(path).scan();
  const result = lintFiles(scan.files);
  const unreadable = scan.unreadable.map(
    ({ path: file, message }): Problem => ({
      ...{ severity: 'error', code: 'unreadable', file, line: 1, column: 1, path: '', object: null },
      ...{ message: `cannot be read: ${message}`, advice: 'make it readable, or remove it' },
    }),
  );
  const problems = [...unreadable, ...result.problems].sort((a, b) => compare(a.file ?? '', b.file ?? ''));
  return { ...result, problems };
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function scanFile(path: string): Scan {
  try {
    return { files: [{ path, text: readFileSync(path, 'utf8'), hash: '' }], unreadable: [] };
  } catch (error) {
    return { files: [], unreadable: [{ path, message: error instanceof Error ? error.message : String(error) }] };
  }
}

function print({ problems, objects, passedOver }: LintResult, { output, warningsOk }: Options): number {
  const errors = problems.filter(({ severity }) => severity === 'error').length;
  if (output === 'json') process.stdout.write(`${JSON.stringify(problems, null, 2)}\n`);
  else {
    process.stdout.write(problems.map((problem) => `${problemLine(problem)}\n`).join(''));
    const others = passedOver > 0 ? `; ${count(passedOver, 'object')} of other kinds passed over` : '';
    const found = `${count(errors, 'error')}, ${count(problems.length - errors, 'warning')}`;
    process.stderr.write(`${count(objects, 'object')}: ${found}${others}\n`);
  }
  return errors > 0 || (problems.length > 0 && !warningsOk) ? 1 : 0;
}

/** `FILE:LINE:COLUMN: path: what is wrong; what to write instead`; a problem of a whole document has the path `(document)`. */
export function problemLine({ severity, file, line, column, path, message, advice }: Problem): string {
  const what = `${severity === 'warning' ? 'warning: ' : ''}${message}; ${advice}`;
  return printable(`${file ?? '-'}:${line}:${column}: ${path || '(document)'}: ${what}`);
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`;
}
