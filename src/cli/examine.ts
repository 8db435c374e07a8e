// SPDX-License-Identifier: Apache-2.0
// What does this machine offer that enforcement needs, and what is missing? Asks the kernel itself; changes nothing.
import { existsSync, readFileSync, statfsSync } from 'node:fs';
import { release } from 'node:os';
import { cgroupMount } from '../bind/mount.ts';
import type { Native } from '../kernel/native.ts';

export interface Finding {
  /** Stable: `kernel`, `cgroup2`, `program/connect4`, … */
  readonly name: string;
  /** `missing` makes enforcement impossible; `limited` does not. */
  readonly state: 'ok' | 'limited' | 'missing';
  /** What was found. */
  readonly found: string;
  /** What that means for Postern, and what to do; empty where it is ok. */
  readonly advice: string;
}

/** f_type of statfs(2) for bpffs (linux/magic.h, BPF_FS_MAGIC). */
const BPF_FS_MAGIC = 0xcafe4a11;

/**
 * Capabilities (linux/capability.h). Where BPF is concerned the kernel takes CAP_SYS_ADMIN in place of the first three.
 * daemonset/chart grants exactly these; measured by test/daemonset/container.test.ts.
 */
const CAPABILITIES: readonly {
  readonly name: string;
  readonly bit: bigint;
  readonly state: 'limited' | 'missing';
  readonly why: string;
}[] = [
  { name: 'CAP_BPF', bit: 39n, state: 'missing', why: 'needed for loading programs and maps' },
  {
    name: 'CAP_PERFMON',
    bit: 38n,
    state: 'missing',
    why: 'needed by the verifier to take programs of this size and shape',
  },
  { name: 'CAP_NET_ADMIN', bit: 12n, state: 'missing', why: 'needed for attaching programs to cgroups' },
  {
    name: 'CAP_SYS_ADMIN',
    bit: 21n,
    state: 'limited',
    why: 'without it no network namespace can be entered, and a flow that is cut hangs instead of ending at once',
  },
  {
    name: 'CAP_SYS_PTRACE',
    bit: 19n,
    state: 'limited',
    why: "without it other users' network namespaces are not seen, and a flow that is cut hangs instead of ending at once",
  },
];
const COVERED_BY_SYS_ADMIN: readonly string[] = ['CAP_BPF', 'CAP_PERFMON', 'CAP_NET_ADMIN'];
const CAP_SYS_ADMIN = 21n;

/** What the probes of the addon stand for. Anything that it probes and that is not here is needed for the future alone. */
const NEEDED: Readonly<Record<string, string>> = {
  'program/cgroup_skb_egress': 'judges every packet',
  'program/cgroup_skb_ingress': 'notes inbound flows, so that their replies pass',
  'program/connect4': 'refuses IPv4 connections at once',
  'program/connect6': 'refuses IPv6 connections at once',
  'program/sendmsg4': 'refuses IPv4 datagrams at once',
  'program/sendmsg6': 'refuses IPv6 datagrams at once',
  'map/hash': 'holds workloads, verdicts and flows',
  'map/percpu_hash': 'holds counters',
  'map/lpm_trie': 'holds networks',
  'map/ringbuf': 'carries events',
  'map/sk_storage': 'keeps the verdict with its socket',
  'map/array_of_maps': 'waits for running programs',
};

/** Everything at once, in the order in which a reader would ask. `load` gives the addon; its failure is a finding. */
export function examine(load: () => Native): readonly Finding[] {
  return [kernel(), cgroup2(), bpffs(), jit(), btf(), ...capabilities(), ...probes(load)];
}

/** No finding is `missing`. */
export function isEnforcementPossible(findings: readonly Finding[]): boolean {
  return findings.every((one) => one.state !== 'missing');
}

/** The sentences that matter to whoever wants to enforce now: without privileges, everything else is missing for that reason. */
export function obstacles(findings: readonly Finding[]): readonly string[] {
  const missing = findings.filter((one) => one.state === 'missing');
  const privileges = missing.filter((one) => one.name.startsWith('capability/'));
  return (privileges.length > 0 ? privileges : missing).map((one) => `${one.name}: ${one.found}: ${one.advice}`);
}

function finding(name: string, state: Finding['state'], found: string, advice = ''): Finding {
  return { name, state, found, advice: state === 'ok' ? '' : advice };
}

function kernel(): Finding {
  const [major = 0, minor = 0] = release().split('.').map(Number);
  // bpf_get_netns_cookie, ring buffers, sk_storage in cgroup_skb and bounded loops are all there since 5.10; measured on 6.1.
  const isNew = major > 6 || (major === 6 && minor >= 1);
  return finding(
    'kernel',
    isNew ? 'ok' : 'limited',
    release(),
    'Postern is tested on Linux 6.1 and newer; what follows was really tried',
  );
}

function cgroup2(): Finding {
  const mount = cgroupMount();
  return mount === null
    ? finding(
        'cgroup2',
        'missing',
        'not mounted',
        'workloads are known by their cgroup: mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with systemd.unified_cgroup_hierarchy=1',
      )
    : finding('cgroup2', 'ok', mount);
}

function bpffs(): Finding {
  const mount = '/sys/fs/bpf';
  const isMounted = existsSync(mount) && statfsSync(mount).type === BPF_FS_MAGIC;
  return finding(
    'bpffs',
    isMounted ? 'ok' : 'limited',
    isMounted ? mount : `not mounted at ${mount}`,
    'mount -t bpf bpf /sys/fs/bpf, or start the agent with --bpffs none: enforcement then ends with it',
  );
}

function jit(): Finding {
  const text = textOf('/proc/sys/net/core/bpf_jit_enable');
  if (text === null)
    return finding(
      'jit',
      'limited',
      'unknown',
      'net.core.bpf_jit_enable cannot be read; without the JIT every packet costs more',
    );
  return finding(
    'jit',
    text === '0' ? 'limited' : 'ok',
    text === '0' ? 'off' : 'on',
    'programs are interpreted, and every packet costs more: sysctl net.core.bpf_jit_enable=1',
  );
}

function btf(): Finding {
  const file = '/sys/kernel/btf/vmlinux';
  return existsSync(file)
    ? finding('btf', 'ok', file)
    : finding('btf', 'limited', `${file} is not there`, 'not needed yet; a kernel with CONFIG_DEBUG_INFO_BTF=y has it');
}

function capabilities(): Finding[] {
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)/m.exec(textOf('/proc/self/status') ?? '')?.[1] ?? '0'}`);
  const has = (bit: bigint) => (effective & (1n << bit)) !== 0n;
  return CAPABILITIES.map(({ name, bit, state, why }) =>
    has(bit) || (has(CAP_SYS_ADMIN) && COVERED_BY_SYS_ADMIN.includes(name))
      ? finding(`capability/${name}`, 'ok', 'held')
      : finding(`capability/${name}`, state, 'not held', `${why}: run as root, or grant it`),
  );
}

function probes(load: () => Native): Finding[] {
  let results: Record<string, string | null>;
  try {
    results = load().probe();
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return [finding('addon', 'missing', message, 'the native addon cannot be loaded: build it with make build')];
  }
  return Object.entries(results).map(([name, failure]) => {
    const use = NEEDED[name];
    if (failure === null) return finding(name, 'ok', 'loads');
    return use === undefined
      ? finding(name, 'limited', failure, 'not needed yet')
      : finding(name, 'missing', failure, `${use}; this kernel, or what this process may do, does not allow it`);
  });
}

function textOf(file: string): string | null {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch {
    return null;
  }
}
