// SPDX-License-Identifier: Apache-2.0
// `postern policies`: which policies select which workloads of this node, and whether they are in the kernel. Asks the agent.
import { Command, Option } from 'commander';
import type { NodePolicies, PolicyOnNode } from '../agent/node-policies.ts';
import { SOCKET } from '../agent/socket.ts';
import { ask, whyNobodyAnswers } from './ask.ts';
import { table } from './table.ts';

interface Options {
  readonly output?: 'json' | 'wide';
  readonly socket: string;
}

/** Exit status: 0, 1 where no agent answers. */
export function command(): Command {
  return new Command('policies')
    .description('Tell which policies select which workloads of this node, and whether they are programmed')
    .addOption(new Option('-o, --output <format>', 'json, or wide: whom each selects').choices(['json', 'wide']))
    .option('--socket <path>', 'where the agent answers', SOCKET)
    .addHelpText(
      'after',
      `
WORKLOADS counts those that run on this node of all that are selected here. PROGRAMMED is True where the kernel holds what the
policy says now; else PROBLEM tells why, and what it last said validly stays in force. PROBLEM also tells of rules that are not enforced.`,
    )
    .action(async (options: Options) => {
      process.exitCode = await run(options);
    });
}

async function run({ output, socket }: Options): Promise<number> {
  let text: string;
  try {
    text = await ask(socket, '/policies');
  } catch (error) {
    process.stderr.write(`postern policies: nobody answers on ${socket}: ${whyNobodyAnswers(error)}\n`);
    return 1;
  }
  const policies = JSON.parse(text) as NodePolicies;
  if (output === 'json') process.stdout.write(`${JSON.stringify(policies, null, 2)}\n`);
  else if (policies.policies.length === 0) process.stderr.write('No policies found.\n');
  else process.stdout.write(rendered(policies, output === 'wide'));
  if (!policies.ready)
    process.stderr.write('postern policies: the agent enforces nothing yet; its log says what it waits for\n');
  return 0;
}

/** Columns as kubectl's: PROBLEM only where there is one. */
export function rendered({ policies }: NodePolicies, isWide: boolean): string {
  const hasProblems = policies.some(({ problem }) => problem !== null);
  const head = ['KIND', 'NAMESPACE', 'NAME', 'EFFECT', 'MODE', 'WORKLOADS', 'PROGRAMMED'];
  if (isWide) head.push('SELECTED');
  if (hasProblems) head.push('PROBLEM');
  return table(
    head,
    policies.map((policy) => {
      const cells = [policy.kind, policy.namespace ?? '', policy.name, policy.effect, policy.mode];
      cells.push(counted(policy), policy.programmed ? 'True' : 'False');
      if (isWide) cells.push(policy.workloads.map(({ name }) => name).join(',') || '<none>');
      if (hasProblems) cells.push(policy.problem ?? '');
      return cells;
    }),
  );
}

function counted({ workloads }: PolicyOnNode): string {
  return `${workloads.filter(({ bound }) => bound).length}/${workloads.length}`;
}
