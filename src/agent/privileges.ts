// SPDX-License-Identifier: Apache-2.0
// Which capabilities an agent needs, what for and how long; and how it gives up the rest. Knows no policy and no map.
import { KernelError, type Native } from '../kernel/native.ts';

export interface Capability {
  readonly name: string;
  /** Its number in linux/capability.h. */
  readonly bit: bigint;
  /** Without it: nothing is enforced, or what `without` says is lost; null: only a few installations need it. */
  readonly absence: 'missing' | 'limited' | null;
  readonly without: string;
  /** Given up once programs are loaded and attached. */
  readonly isForLoading: boolean;
}

/**
 * All that are ever asked for. Where BPF is concerned the kernel takes CAP_SYS_ADMIN in place of the first three. The chart grants those
 * whose `absence` is not null, and SECURITY.md says what for; test/daemonset proves each.
 */
export const CAPABILITIES: readonly Capability[] = [
  {
    name: 'CAP_BPF',
    bit: 39n,
    absence: 'missing',
    without: 'needed for loading programs and maps',
    isForLoading: false,
  },
  {
    name: 'CAP_PERFMON',
    bit: 38n,
    absence: 'missing',
    without: 'needed by the verifier to take programs of this size and shape',
    isForLoading: true,
  },
  {
    name: 'CAP_NET_ADMIN',
    bit: 12n,
    absence: 'missing',
    without: 'needed for attaching programs to cgroups',
    isForLoading: false,
  },
  {
    name: 'CAP_SYS_ADMIN',
    bit: 21n,
    absence: 'limited',
    without: 'without it no network namespace can be entered, and a flow that is cut hangs instead of ending at once',
    isForLoading: false,
  },
  {
    name: 'CAP_SYS_PTRACE',
    bit: 19n,
    absence: 'limited',
    without:
      "without it other users' network namespaces are not seen: pods' interfaces get no guard, and a flow that is cut hangs instead of ending at once",
    isForLoading: false,
  },
  {
    name: 'CAP_DAC_READ_SEARCH',
    bit: 2n,
    absence: null,
    without: 'policies, kubeconfigs and keys that belong to somebody else and are closed to others cannot be read',
    isForLoading: false,
  },
];

/** What an agent is left with once it is attached. */
export const KEPT = CAPABILITIES.filter(({ isForLoading }) => !isForLoading);

/**
 * Gives up, for good, what is not needed any more: capabilities that are not in KEPT, and all system calls that an attached agent does
 * not make. `isFiltering`: false where programs are started that would inherit the filter. Returns why it could not, or null.
 */
export function giveUpPrivileges(native: Native, isFiltering: boolean): string | null {
  const kept = KEPT.reduce((set, { bit }) => set | (1n << bit), 0n);
  const failures = [
    failureOf(() => native.keepCapabilities(kept)),
    isFiltering ? failureOf(() => native.filterSystemCalls()) : null,
  ].filter((failure) => failure !== null);
  return failures.length === 0 ? null : failures.join('; ');
}

function failureOf(step: () => unknown): string | null {
  try {
    step();
    return null;
  } catch (error) {
    if (error instanceof KernelError) return error.message;
    throw error;
  }
}
