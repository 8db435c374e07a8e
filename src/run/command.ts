// SPDX-License-Identifier: Apache-2.0
// Runs one command inside a cgroup, as a user, with no_new_privs, and passes signals on. Knows no policy.
import { type ChildProcess, spawn } from 'node:child_process';
import { constants } from 'node:os';
import type { User } from './user.ts';

/** Exit statuses as env(1) and docker-run(1) have them. */
export const FAILED = 125;

/** Signals passed on. The rest either cannot be caught or mean nothing to us. */
const FORWARDED = ['SIGTERM', 'SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2', 'SIGWINCH', 'SIGCONT'] as const;
/** What a terminal sends to its whole foreground group, the command included: passed on, it would arrive twice. */
const FROM_TERMINAL: readonly string[] = ['SIGINT', 'SIGQUIT', 'SIGWINCH'];

export interface RunningCommand {
  /** As a shell has it: 128 + n where signal n ended it; 126 cannot be executed, 127 not found, 125 it was never started. */
  readonly status: Promise<number>;
}

/** From here on no such signal ends this process before it has cleaned up; one that comes before the command is is passed on to it. */
export function holdSignals(): void {
  for (const signal of FORWARDED) process.on(signal, () => undefined);
}

/**
 * Starts it. The shell enters the cgroup before anything of the command's exists; setpriv(1) then gives up what root may do.
 * Should this process be killed, the command is too: it would go on unrestrained.
 */
export function startCommand(argv: readonly string[], cgroupFolder: string, user: User): RunningCommand {
  const privileges = [
    '--no-new-privs',
    '--pdeathsig=KILL',
    ...(user.uid === 0 ? [] : [`--reuid=${user.uid}`, `--regid=${user.gid}`, '--init-groups', '--inh-caps=-all']),
  ];
  const script = `echo 0 > "$1/cgroup.procs" || exit ${FAILED}; shift; exec "$@"`;
  const child = spawn('sh', ['-c', script, 'sh', cgroupFolder, 'setpriv', ...privileges, '--', ...argv], {
    stdio: 'inherit',
    env: environment(user),
  });
  return { status: statusOf(child) };
}

function environment(user: User): NodeJS.ProcessEnv {
  return { ...process.env, HOME: user.home, USER: user.name, LOGNAME: user.name, SHELL: user.shell };
}

function statusOf(child: ChildProcess): Promise<number> {
  const forward = (signal: NodeJS.Signals) => {
    if (process.stdin.isTTY && FROM_TERMINAL.includes(signal)) return;
    child.kill(signal);
  };
  for (const signal of FORWARDED) process.on(signal, forward);
  return new Promise((resolve) => {
    const done = (status: number) => {
      for (const signal of FORWARDED) process.off(signal, forward);
      resolve(status);
    };
    child.once('error', () => done(FAILED));
    child.once('exit', (code, signal) => done(code ?? 128 + (signal === null ? 0 : constants.signals[signal])));
  });
}
