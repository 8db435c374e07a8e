// SPDX-License-Identifier: Apache-2.0
// `postern run`: one command, with all its children, under a policy in a cgroup of its own. No agent, no cluster.
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { Command, Option } from 'commander';
import { FlowCutter } from '../agent/cut.ts';
import { Enforcement } from '../agent/enforcement.ts';
import { levelOf } from '../bind/binding.ts';
import { cgroupMount } from '../bind/mount.ts';
import { KernelError, loadNative } from '../kernel/native.ts';
import type { Problem } from '../model/objects.ts';
import { CgroupError, killRunCgroup, makeRunCgroup, type RunCgroup, removeRunCgroup } from '../run/cgroup.ts';
import { FAILED, holdSignals, startCommand } from '../run/command.ts';
import { Report, reportText, summary } from '../run/report.ts';
import { findUser, type User } from '../run/user.ts';
import { NAMESPACE, runPolicies, runSnapshot } from '../run/workload.ts';
import { readHost } from '../source/host.ts';
import { examine, isEnforcementPossible, obstacles } from './examine.ts';

interface Options {
  readonly policy?: readonly string[];
  readonly audit?: boolean;
  readonly user?: string;
  readonly summary?: string;
  readonly output: 'text' | 'json';
}

export function command(): Command {
  return (
    new Command('run')
      .description('Run one command, with all its children, under an egress policy')
      .usage('[options] -- COMMAND [ARGUMENT...]')
      .argument('<command...>', 'the command and its arguments')
      .option(
        '--policy <file>',
        'EgressPolicy or NetworkPolicy documents; may be given several times',
        (file: string, all: readonly string[] | undefined) => [...(all ?? []), file],
      )
      .option('--audit', 'refuse nothing, tell what would be refused')
      .option('--user <name>', 'as whom to run it (default: who called sudo, else root)')
      .option('--summary <file>', 'write what was refused as JSON')
      .addOption(
        new Option(
          '-o, --output <format>',
          'how to tell what was refused: a table, or what --summary writes, in one line',
        )
          .choices(['text', 'json'])
          .default('text'),
      )
      .passThroughOptions()
      // What is wrong with the command line is postern's failure, not the command's.
      .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : FAILED))
      .addHelpText(
        'after',
        `
Every policy selects the command: namespaces, podSelector, status and ingress rules are ignored. effect, mode, onDeny hold as
written; --audit makes every mode Audit. Peers that need a cluster (pods, namespaces, nodes, services, named ports, Cluster,
KubeAPIServer) match nothing, and are told once. Host is this machine, DNS the resolvers of its resolv.conf.
Without --policy nothing but loopback may be reached; with --audit alone, everything that is reached is told.

The command runs in a cgroup of its own, below this one, with no_new_privs. As root it could leave it: use --user. Held is what
is in that cgroup: not what the command gets other processes of the same user to do for it (a container engine, systemd).
When it ends, processes that it left behind are killed. What was refused is told on stderr: a table of destination, protocol,
process, policy, rule and count. With -o json the last line of stderr is {command, user, status, audit, refused: [{verdict, destination,
port, protocol, process, policy, rule, reason, count}], notListed, eventsLost, notes}, also where nothing was refused.

Exit status: the command's own; 128 + n if signal n ended it; 125 if postern itself failed or a policy has a problem,
126 if the command cannot be executed, 127 if it is not found.

Examples:
  sudo postern run --audit -- npm ci                                              what does it connect to?
  sudo postern run --policy examples/run/internet.yaml -- curl http://192.168.0.1 refused at once`,
      )
      .action(async (argv: string[], options: Options) => {
        process.exitCode = await run(argv, options);
      })
  );
}

async function run(argv: readonly string[], options: Options): Promise<number> {
  const files: { path: string; text: string }[] = [];
  for (const file of options.policy ?? []) {
    try {
      files.push({ path: file, text: readFileSync(file, 'utf8') });
    } catch (error) {
      return refuse(`cannot read ${file}: ${codeOf(error)}`);
    }
  }
  const { policies, problems, notes } = runPolicies(files, options.audit ?? false);
  for (const problem of problems) say(problemText(problem));
  if (problems.some((one) => one.severity === 'error'))
    return refuse('a policy that is not understood is not run with: mend the above');
  for (const note of notes) say(note);

  const who = options.user ?? process.env.SUDO_USER ?? 'root';
  const user: User | null = findUser(who);
  if (user === null) return refuse(`there is no user ${who}; --user takes a name or a uid`);
  const findings = examine(loadNative);
  const mount = cgroupMount();
  if (mount === null || !isEnforcementPossible(findings)) {
    for (const sentence of obstacles(findings)) say(sentence);
    return refuse('cannot enforce here; postern doctor tells all of it');
  }
  if (user.uid === 0)
    say('warning: the command runs as root, which can leave its cgroup and so the policy; use --user');

  // Early, so that a summary that cannot be written is known before the command has run.
  if (options.summary !== undefined) {
    try {
      writeFileSync(options.summary, '');
    } catch (error) {
      return refuse(`cannot write ${options.summary}: ${codeOf(error)}`);
    }
  }

  const report = new Report();
  let cgroup: RunCgroup | null = null;
  let enforcement: Enforcement | null = null;
  let status = FAILED;
  let lost = 0;
  holdSignals();
  try {
    const native = loadNative();
    cgroup = makeRunCgroup(mount);
    // Nothing in this cgroup is unknown; should the programs ever think so, they refuse.
    enforcement = new Enforcement(native, { unknown: 'deny' });
    const { folder } = cgroup;
    const cutter = new FlowCutter(native);
    enforcement.onHappening(({ refusal, cut }) => {
      if (refusal !== null) report.add(refusal);
      if (cut === null) return;
      try {
        cutter.cut(cut.flow, folder);
      } catch (error) {
        // It ends by its timeout, then.
        say(`a refused connection could not be ended: ${error instanceof Error ? error.message : String(error)}`);
      }
    });
    const name = path.basename(argv[0] ?? 'command');
    const binding = { path: cgroup.path, cgroup: native.cgroupId(cgroup.folder), level: levelOf(cgroup.path) };
    const snapshot = runSnapshot(policies, name, cgroup.path, readHost(null, { clusterDomain: null }));
    const outcome = enforcement.enforce(snapshot, new Map([[`${NAMESPACE}/${name}`, binding]]), null);
    if (outcome.status === 'failed') throw outcome.error;
    if (outcome.status === 'refused') {
      for (const problem of outcome.problems) say(problemText(problem));
      return refuse('these policies go over a limit');
    }
    enforcement.attach(cgroup.folder);
    status = await startCommand(argv, cgroup.folder, user).status;
    const left = killRunCgroup(cgroup);
    if (left > 0)
      say(
        `${left} ${left === 1 ? 'process' : 'processes'} that the command left behind ${left === 1 ? 'was' : 'were'} killed`,
      );
    enforcement.drain();
    lost = [...enforcement.losses()]
      .filter(([why]) => why.startsWith('events'))
      .reduce((sum, [, count]) => sum + count, 0);
  } catch (error) {
    if (error instanceof KernelError || error instanceof CgroupError) return refuse(error.message);
    throw error;
  } finally {
    enforcement?.close();
    if (cgroup !== null) {
      killRunCgroup(cgroup);
      await removeRunCgroup(cgroup);
    }
  }
  const told = summary({ command: argv, user: user.name, status, audit: options.audit ?? false }, report, lost, notes);
  if (options.output === 'json') process.stderr.write(`${JSON.stringify(told)}\n`);
  else process.stderr.write(reportText(report, lost));
  if (options.summary !== undefined) writeFileSync(options.summary, `${JSON.stringify(told, null, 2)}\n`);
  return status;
}

function problemText({ file, line, column, path: where, message, advice, severity }: Problem): string {
  const place = file === null ? '' : line === 0 ? `${file}: ` : `${file}:${line}:${column}: `;
  return `${severity === 'warning' ? 'warning: ' : ''}${place}${where === '' ? '' : `${where}: `}${message}; ${advice}`;
}

function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? String(error);
}

function refuse(message: string): number {
  say(message);
  return FAILED;
}

function say(message: string): void {
  process.stderr.write(`postern run: ${message}\n`);
}
