// SPDX-License-Identifier: Apache-2.0
// How much memory does a process hold, and how much the kernel, in MiB?

import { readFileSync } from 'node:fs';

/** Resident now, or at its peak. */
export function processMiB(pid: number, which: 'VmRSS' | 'VmHWM'): number {
  return mib(`/proc/${pid}/status`, which);
}

/** Unreclaimable slab and per-CPU memory: what maps take is there, with whatever else the machine does. */
export function kernelMiB(): number {
  return mib('/proc/meminfo', 'SUnreclaim') + mib('/proc/meminfo', 'Percpu');
}

function mib(file: string, name: string): number {
  const line = readFileSync(file, 'utf8').match(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm'));
  return Number(line?.[1] ?? Number.NaN) / 1024;
}
