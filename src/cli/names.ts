// SPDX-License-Identifier: Apache-2.0
// `postern names`: what DNS told the workloads of this node, and until when it counts. Asks the agent.
import { Command, Option } from 'commander';
import type { LearnedName } from '../agent/enforcement.ts';
import { SOCKET } from '../agent/socket.ts';
import { ask, whyNobodyAnswers } from './ask.ts';
import { table } from './table.ts';

interface Options {
  readonly workload?: string;
  readonly output?: 'json';
  readonly socket: string;
}

/** Exit status: 0, 1 where no agent answers. */
export function command(): Command {
  return new Command('names')
    .description('Tell which names DNS told which workloads of this node, which addresses they led to, and until when')
    .option('--workload <name>', 'only of this one: NS/POD, or node/NAME.service')
    .addOption(new Option('-o, --output <format>', 'json').choices(['json']))
    .option('--socket <path>', 'where the agent answers', SOCKET)
    .addHelpText(
      'after',
      `
These are answers of trusted resolvers to questions that the workload asked, allowed or not. EXPIRES is how long a name counts still for
new connections; expired ones stay listed until newer ones take their room, and cut nothing off.`,
    )
    .action(async (options: Options) => {
      process.exitCode = await run(options);
    });
}

async function run({ workload, output, socket }: Options): Promise<number> {
  let text: string;
  try {
    text = await ask(socket, '/names');
  } catch (error) {
    process.stderr.write(`postern names: nobody answers on ${socket}: ${whyNobodyAnswers(error)}\n`);
    return 1;
  }
  const { names, ready } = JSON.parse(text) as { names: LearnedName[]; ready: boolean };
  const wanted = sorted(names.filter((one) => workload === undefined || one.workload === workload));
  if (output === 'json') process.stdout.write(`${JSON.stringify({ names: wanted }, null, 2)}\n`);
  else if (wanted.length === 0) process.stderr.write('No names found.\n');
  else process.stdout.write(rendered(wanted));
  if (!ready) process.stderr.write('postern names: the agent enforces nothing yet; its log says what it waits for\n');
  return 0;
}

function sorted(names: readonly LearnedName[]): LearnedName[] {
  const key = ({ workload, name, address }: LearnedName): string => JSON.stringify([workload, name, address]);
  return names.toSorted((a, b) => (key(a) < key(b) ? -1 : 1));
}

export function rendered(names: readonly LearnedName[]): string {
  return table(
    ['WORKLOAD', 'NAME', 'ADDRESS', 'EXPIRES'],
    names.map(({ workload, name, address, expiresInSeconds }) => [
      workload,
      name,
      address,
      expiresInSeconds < 0 ? 'expired' : `${expiresInSeconds}s`,
    ]),
  );
}
