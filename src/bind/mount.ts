// SPDX-License-Identifier: Apache-2.0
// Where is cgroup2 mounted, and where in it does this process stand? In a hybrid hierarchy the mount is not /sys/fs/cgroup.
import { readFileSync } from 'node:fs';

/** The mount point of cgroup2, from the text of /proc/self/mountinfo (proc(5)), or null where there is none. */
export function cgroupMountIn(mountinfo: string): string | null {
  for (const line of mountinfo.split('\n')) {
    const [head, tail] = line.split(' - ');
    const fields = head?.split(' ') ?? [];
    // Field 4 is what of the file system is mounted: below a container's bind mount, paths would not be those of the host.
    if (tail?.startsWith('cgroup2 ') && fields[4] !== undefined) return unescaped(fields[4]);
  }
  return null;
}

export function cgroupMount(): string | null {
  return cgroupMountIn(readFileSync('/proc/self/mountinfo', 'utf8'));
}

/** A process's own cgroup2 path as the kernel writes it (`/`, `/system.slice/x.service`), or null. */
export function cgroupOf(pid: number | 'self'): string | null {
  const text = readFileSync(`/proc/${pid}/cgroup`, 'utf8');
  return /^0::(.*)$/m.exec(text)?.[1] ?? null;
}

function unescaped(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_all, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
