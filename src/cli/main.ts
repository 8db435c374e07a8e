// SPDX-License-Identifier: Apache-2.0
// `postern`: which command was asked for? Loads that command's file and no other, so that the quick ones start quickly.
import { readFileSync } from 'node:fs';
import { Command } from 'commander';

/** In the order of --help. Each file's `command()` says what its command is called, takes and does. */
const commands: Readonly<Record<string, () => Promise<{ command(): Command }>>> = {
  agent: () => import('./agent.ts'),
  policies: () => import('./policies.ts'),
  names: () => import('./names.ts'),
  status: () => import('./status.ts'),
  uninstall: () => import('./uninstall.ts'),
  run: () => import('./run.ts'),
  explain: () => import('./explain.ts'),
  lint: () => import('./lint.ts'),
  doctor: () => import('./doctor.ts'),
};

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

const program = new Command('postern')
  .description('Holds workloads to an egress allowlist, in the kernel')
  .version(version, '-V, --version', 'print the version')
  .helpOption('-h, --help', 'print help')
  .helpCommand('help [command]', 'print help for a command')
  // What follows the command of `postern run` is that command's.
  .enablePositionalOptions()
  .showHelpAfterError('(postern --help tells what there is)')
  .addHelpText(
    'after',
    `
A first policy:
  postern lint POLICIES                      tells every mistake in a folder of Kubernetes YAML
  postern explain --policies POLICIES …      tells what would be decided, and why
  postern run --policy FILE -- COMMAND       holds one command to a policy
  postern agent --policies POLICIES          holds every workload that the folder describes`,
  );

// Whoever read the output has gone (`postern lint | head`): that changes nothing of what the command does, nor its exit status.
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
  });
}

const [asked = ''] = process.argv.slice(2);
const wanted = Object.hasOwn(commands, asked) ? [asked] : Object.keys(commands);
for (const name of wanted) {
  const file = await commands[name]?.();
  if (file) program.addCommand(file.command());
}
if (process.argv.length === 2) program.help({ error: true });
await program.parseAsync();
