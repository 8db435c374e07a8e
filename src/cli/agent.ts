// SPDX-License-Identifier: Apache-2.0
// `postern agent`: the command line of the agent. Checks what was typed and what the machine offers; the rest is agent.ts.
import { statSync } from 'node:fs';
import path from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import { Agent, StartError } from '../agent/agent.ts';
import { LEVELS, type Level, openLog } from '../agent/log.ts';
import { pathBelow } from '../bind/binding.ts';
import { cgroupMount } from '../bind/mount.ts';
import { RollbackFailed } from '../kernel/errors.ts';
import { KernelError, loadNative } from '../kernel/native.ts';
import { type ListenAddress, ListenError, listenAddress } from '../metrics/server.ts';
import { StateError } from '../source/state.ts';
import { examine, isEnforcementPossible, obstacles } from './examine.ts';

interface Options {
  readonly policies: string;
  readonly cgroupRoot?: string;
  readonly metricsAddress: ListenAddress;
  readonly unknown: 'allow' | 'deny';
  readonly stateDir: string;
  readonly nodeName?: string;
  readonly logLevel: Level;
}

/** Exit status: 0 after SIGTERM or SIGINT, 1 where it cannot start. */
export function command(): Command {
  return new Command('agent')
    .description('Hold the workloads of this node to the policies in a folder')
    .requiredOption(
      '--policies <dir>',
      'folder of YAML and JSON (Namespace, Node, Pod, Service, EndpointSlice and policies), watched for changes',
    )
    .option(
      '--cgroup-root <path>',
      'enforce below this cgroup only: a path below the cgroup2 mount (default: the whole mount)',
    )
    .addOption(
      new Option('--metrics-address <host:port>', 'where to serve /metrics, /healthz and /readyz; port 0: any free one')
        .default(listenAddress('127.0.0.1:9470'), '127.0.0.1:9470')
        .argParser((text) => {
          const address = listenAddress(text);
          if (address === null)
            throw new InvalidArgumentError('write HOST:PORT, such as 127.0.0.1:9470 or [::1]:9470.');
          return address;
        }),
    )
    .addOption(
      new Option('--unknown <verdict>', 'what processes may do that belong to no pod of the folder')
        .choices(['allow', 'deny'])
        .default('allow'),
    )
    .option('--state-dir <dir>', 'keeps the last valid version of each object across restarts', '/var/lib/postern')
    .option('--node-name <name>', 'the Node object that is this machine; pods of other nodes are peers only')
    .addOption(new Option('--log-level <level>', 'what to log').choices(LEVELS).default('info'))
    .addHelpText(
      'after',
      `
Logs are JSON lines on stdout, each with an event:
  ready     what the folder holds is enforced; names the metrics address
  applied   a later change is enforced: ms since it was heard of, and which workloads it touched
  drop      a connection was refused: workload, destination, process, policy, rule, reason, count within a second;
            shadow names the Audit policy that would allow it
  audit     the same for what Audit policies would refuse
  problem   something in the folder is wrong (file:line:column); mended when it is not any more
An object edited into an invalid one keeps its last valid version; a policy that never had one isolates what it selects.
Enforcement ends with the agent: SIGTERM and SIGINT detach. See also: postern lint, postern doctor.`,
    )
    .action(async (options: Options) => {
      process.exitCode = await start(options);
    });
}

async function start(options: Options): Promise<number> {
  const findings = examine(loadNative);
  const mount = cgroupMount();
  if (!isEnforcementPossible(findings) || mount === null) {
    for (const sentence of obstacles(findings)) say(sentence);
    return refuse('this node cannot enforce; postern doctor tells all of it');
  }
  const root = options.cgroupRoot === undefined ? '' : rootBelow(options.cgroupRoot, mount);
  if (root === null || !isFolder(path.join(mount, root))) {
    return refuse(`there is no cgroup ${options.cgroupRoot} below ${mount}; make it first, or leave --cgroup-root out`);
  }
  const policies = path.resolve(options.policies);
  if (!isFolder(policies))
    return refuse(`${options.policies} is not a folder; --policies takes a folder of YAML files`);

  const out = openLog(options.logLevel);
  let agent: Agent | null = null;
  let stopping = false;
  const stopped = new Promise<void>((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      process.on(signal, () => {
        stopping = true;
        resolve();
      });
    }
  });
  try {
    agent = new Agent(
      {
        policies,
        mount,
        root,
        metrics: options.metricsAddress,
        unknown: options.unknown,
        stateDir: path.resolve(options.stateDir),
        nodeName: options.nodeName ?? null,
      },
      loadNative(),
      out,
    );
    await agent.start();
  } catch (error) {
    await agent?.stop();
    await out.flush();
    if (
      error instanceof KernelError ||
      error instanceof ListenError ||
      error instanceof StateError ||
      error instanceof StartError ||
      error instanceof RollbackFailed
    ) {
      return refuse(error.message);
    }
    throw error;
  }
  if (!stopping) await stopped;
  await agent.stop();
  return 0;
}

/** `text` below the mount; it may be given with the mount before it. null: not a plain path. */
function rootBelow(text: string, mount: string): string | null {
  if (text === '/' || text === mount) return '';
  return pathBelow(text.startsWith(`${mount}/`) ? text.slice(mount.length) : text);
}

function isFolder(folder: string): boolean {
  return statSync(folder, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

function refuse(message: string): number {
  say(message);
  return 1;
}

function say(message: string): void {
  process.stderr.write(`postern agent: ${message}\n`);
}
