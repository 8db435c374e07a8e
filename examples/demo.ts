// SPDX-License-Identifier: Apache-2.0
// `make demo`: stands between the terminal and the demo. Ctrl-C reaches every process of the terminal's foreground at once, also
// those that would be needed for cleaning up; so the demo runs in a session of its own, and only it is told. --hold: stays up.
import { type ChildProcess, spawn } from 'node:child_process';
import { constants } from 'node:os';
import path from 'node:path';

if (process.getuid?.() !== 0) {
  process.stderr.write('demo: needs root, for cgroups, network namespaces and eBPF; write: sudo make demo\n');
  process.exit(1);
}
let demo: ChildProcess | null = null;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => demo?.kill(signal));
demo = spawn(process.execPath, [path.join(import.meta.dirname, 'demo/show.ts'), ...process.argv.slice(2)], {
  detached: true,
  // Its end of the channel closes when this process dies, however it dies; then it cleans up, too.
  stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
});
demo.on('exit', (status, signal) => {
  process.exitCode = signal === null ? (status ?? 1) : 128 + constants.signals[signal];
});
