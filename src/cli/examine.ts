// SPDX-License-Identifier: Apache-2.0
// What does this machine offer that enforcement needs, and what is missing? Asks the kernel itself; changes nothing.
import { existsSync, readFileSync, statfsSync } from 'node:fs';
import { release } from 'node:os';
import { CAPABILITIES } from '../agent/privileges.ts';
import { cgroupMount } from '../bind/mount.ts';
import type { Native } from '../kernel/native.ts';
import { constantsFor, originsFrom } from '../kernel/programs.ts';

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

const COVERED_BY_SYS_ADMIN: readonly string[] = ['CAP_BPF', 'CAP_PERFMON', 'CAP_NET_ADMIN'];
const CAP_SYS_ADMIN = 21n;

/** What of a kernel Postern asks for, by the finding's name. docs/kernels.md has the same, with sources. */
export interface KernelFeature {
  /** The first release of Linux that has it, as its documentation says; distributions backport, so it is really tried. */
  readonly since: string;
  /** `missing`: without it nothing is enforced; `limited`: what `without` says is lost. */
  readonly absence: 'limited' | 'missing';
  /** What it does here, or what is lost without it. */
  readonly without: string;
}

const needed = (since: string, use: string): KernelFeature => ({
  since,
  absence: 'missing',
  without: `${use}: nothing is enforced`,
});

/** In the order of the page. */
export const KERNEL_FEATURES: Readonly<Record<string, KernelFeature>> = {
  'program/cgroup_skb_egress': needed('4.10', 'no packet is judged'),
  'program/cgroup_skb_ingress': needed('4.10', 'no inbound flow is noted, so that its replies would be refused'),
  'program/connect4': needed('4.17', 'no IPv4 connection is refused at once'),
  'program/connect6': needed('4.17', 'no IPv6 connection is refused at once'),
  'program/sendmsg4': needed('4.18', 'no IPv4 datagram is refused at once'),
  'program/sendmsg6': needed('4.18', 'no IPv6 datagram is refused at once'),
  'map/hash': needed('3.19', 'nowhere to hold workloads, verdicts and flows'),
  'map/percpu_hash': needed('4.6', 'nowhere to count'),
  'map/lpm_trie': needed('4.11', 'nowhere to hold networks'),
  'map/array_of_maps': needed('4.12', 'no way to wait for running programs'),
  'map/sk_storage': needed('5.2', 'nowhere to keep the verdict with its socket'),
  'map/ringbuf': needed('5.8', 'no way to tell events'),
  'origin/netns': {
    since: '6.15, or 5.12 with BTF',
    absence: 'limited',
    without:
      "a process that may make namespaces can forge a note there that lets it answer, in its workload's own, a stranger who never asked; with --unknown deny an unknown workload in the host's network namespace is refused",
  },
  'origin/process': {
    since: '6.18, or 5.12 with BTF',
    absence: 'limited',
    without:
      'raw packets, pings and audited connections that are told carry no process; refused connects and datagrams do',
  },
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
  // What tests run on: docs/kernels.md.
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
    : finding(
        'btf',
        'limited',
        `${file} is not there`,
        'where the kernel has no helper, namespaces and processes of packets are read by it; a kernel with CONFIG_DEBUG_INFO_BTF=y has it',
      );
}

function capabilities(): Finding[] {
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)/m.exec(textOf('/proc/self/status') ?? '')?.[1] ?? '0'}`);
  const has = (bit: bigint) => (effective & (1n << bit)) !== 0n;
  return CAPABILITIES.flatMap(({ name, bit, absence, without }) => {
    if (absence === null) return [];
    return has(bit) || (has(CAP_SYS_ADMIN) && COVERED_BY_SYS_ADMIN.includes(name))
      ? finding(`capability/${name}`, 'ok', 'held')
      : finding(`capability/${name}`, absence, 'not held', `${without}: run as root, or grant it`);
  });
}

function probes(load: () => Native): Finding[] {
  let native: Native;
  let results: Record<string, string | null>;
  try {
    native = load();
    results = native.probe();
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return [finding('addon', 'missing', message, 'the native addon cannot be loaded: build it with make build')];
  }
  // Helpers are means: what they are for is asked below.
  const tried = Object.entries(results)
    .filter(([name]) => !name.startsWith('helper/'))
    .map(([name, failure]) => {
      const feature = KERNEL_FEATURES[name];
      if (failure === null) return finding(name, 'ok', 'loads');
      return feature === undefined
        ? finding(name, 'limited', failure, 'not needed yet')
        : lacking(name, feature, failure, 'this kernel, or what this process may do, does not allow it');
    });
  const ways = Object.entries(originsFrom(constantsFor(native))).map(([what, way]) => {
    const name = `origin/${what}`;
    const feature = KERNEL_FEATURES[name];
    if (way !== null)
      return finding(name, 'ok', way === 'helper' ? 'asked by a helper' : "read from the kernel's memory");
    const how =
      'a newer kernel has a helper for it, an older one needs CONFIG_DEBUG_INFO_BTF=y, and both the capabilities above';
    return feature === undefined
      ? finding(name, 'limited', 'not known', how)
      : lacking(name, feature, 'not known', how);
  });
  return [...tried, ...ways];
}

function lacking(name: string, { since, absence, without }: KernelFeature, found: string, how: string): Finding {
  return finding(name, absence, found, `${without}; Linux has it since ${since}; ${how}`);
}

function textOf(file: string): string | null {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch {
    return null;
  }
}
