// SPDX-License-Identifier: Apache-2.0
// A virtual machine for tests: another kernel (build/guest, made by build-guest.sh) on this machine's files, by software emulation.
// What it changes it forgets; it has no network, and no test in it can reach this machine. Knows no test.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { resultOf } from './lab.ts';

const GUEST = path.join(import.meta.dirname, '../../build/guest');

/** What a command in the guest came to. `output` is its stdout and stderr as they came. */
export interface GuestResult {
  readonly status: number;
  readonly output: string;
}

/**
 * Boots the guest, runs a command of sh there as root, in `/`, and switches the guest off. Files are this machine's, read-only
 * underneath: what is written goes with the guest. Throws, with the console's last lines, where the guest dies or takes longer than
 * `timeoutMs`. On two shared cores Node starts in about a second there, eight times slower than here.
 */
export async function runInGuest(command: string, timeoutMs: number): Promise<GuestResult> {
  const exchange = mkdtempSync(path.join(tmpdir(), `postern-${process.pid}-guest-`));
  try {
    writeFileSync(path.join(exchange, 'command'), command);
    const console = await resultOf(spawn('qemu-system-x86_64', qemuArguments(exchange)), timeoutMs);
    const status = path.join(exchange, 'status');
    const output = path.join(exchange, 'output');
    if (!existsSync(status)) {
      const said = existsSync(output) ? readFileSync(output, 'utf8') : '';
      throw new Error(
        `the guest ended without an answer (${console.signal ?? console.status}):\n${said.slice(-4000)}\n${console.stdout.slice(-4000)}${console.stderr}`,
      );
    }
    return { status: Number(readFileSync(status, 'utf8')), output: readFileSync(output, 'utf8') };
  } finally {
    rmSync(exchange, { recursive: true });
  }
}

function qemuArguments(exchange: string): string[] {
  const share = (tag: string, folder: string, more = '') => [
    '-virtfs',
    `local,path=${folder},mount_tag=${tag},security_model=none,multidevs=remap${more}`,
  ];
  return [
    // Never the processor's own virtualisation: it isn't everywhere, and would make the test another one where it is.
    ...['-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', '2', '-m', '1536'],
    ...['-nodefaults', '-nographic', '-no-reboot', '-serial', 'stdio'],
    ...['-kernel', path.join(GUEST, 'vmlinuz'), '-initrd', path.join(GUEST, 'initramfs')],
    ...['-append', 'console=ttyS0 quiet panic=-1'],
    ...share('host', '/', ',readonly=on'),
    ...share('exchange', exchange),
  ];
}
