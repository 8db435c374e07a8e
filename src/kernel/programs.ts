// SPDX-License-Identifier: Apache-2.0
// Loads Postern's programs as this kernel can take them, and attaches them to a cgroup. Knows no policy.

import { fileURLToPath } from 'node:url';
import type { LoadedObject, Native, NativeObject } from './native.ts';

const OBJECT = fileURLToPath(new URL('../../build/postern.bpf.o', import.meta.url));
/** Programs that stand at interfaces, not at a cgroup. */
export const GUARDS: readonly string[] = ['guard_in', 'guard_out'];

/**
 * What cgroup_skb programs may not ask on every kernel: each constant of bpf/maps.h with the helpers that it stands for, and with what takes
 * their place: other helpers, and constants that say where the kernel's own structures hold the same.
 */
const OPTIONAL_HELPERS: readonly {
  readonly constant: string;
  readonly helpers: readonly string[];
  readonly instead: { readonly helpers: readonly string[]; readonly offsets: Readonly<Record<string, string>> };
}[] = [
  {
    constant: 'has_netns_cookie',
    helpers: ['bpf_get_netns_cookie'],
    instead: {
      helpers: ['bpf_probe_read_kernel'],
      offsets: { sock_netns_offset: 'sock_common.skc_net', netns_cookie_offset: 'net.net_cookie' },
    },
  },
  {
    constant: 'has_current_process',
    helpers: ['bpf_get_current_pid_tgid', 'bpf_get_current_comm'],
    instead: {
      helpers: ['bpf_probe_read_kernel', 'bpf_get_current_task'],
      offsets: { task_pid_offset: 'task_struct.tgid', task_command_offset: 'task_struct.comm' },
    },
  },
];

const READ_KERNEL = 'bpf_probe_read_kernel';
/** No helper tells where somebody else will write a frame's checksum. */
const CHECKSUM_OFFSETS: Readonly<Record<string, string>> = {
  checksum_state_bit: 'sk_buff.ip_summed',
  checksum_start_offset: 'sk_buff.csum_start',
  checksum_field_offset: 'sk_buff.csum_offset',
  buffer_head_offset: 'sk_buff.head',
  buffer_data_offset: 'sk_buff.data',
};

/**
 * What build/postern.bpf.o must be told of this kernel before it is loaded, found by trying and, for what is missing, by its BTF. Where one of
 * several offsets is not to be found, none is told.
 */
export function constantsFor(native: Pick<Native, 'probe' | 'memberOffsets'>): Record<string, number> {
  const refused = native.probe();
  const has = (helpers: readonly string[]) =>
    helpers.every((helper) => refused[`helper/cgroup_skb/${helper}`] === null);
  // Of the machines that this runs on only x86 keeps loads in order (bpf/maps.h).
  const constants: Record<string, number> = {
    reorders_loads: process.arch === 'x64' ? 0 : 1,
  };
  for (const { constant, helpers, instead } of OPTIONAL_HELPERS) {
    constants[constant] = has(helpers) ? 1 : 0;
    if (has(helpers) || !has(instead.helpers)) continue;
    Object.assign(constants, offsetsOf(native, instead.offsets));
  }
  if (has([READ_KERNEL])) Object.assign(constants, offsetsOf(native, CHECKSUM_OFFSETS));
  return constants;
}

/** By constant; none where one of these members is not to be found. */
function offsetsOf(
  native: Pick<Native, 'memberOffsets'>,
  members: Readonly<Record<string, string>>,
): Record<string, number> {
  const found = native.memberOffsets(Object.values(members));
  const offsets: Record<string, number> = {};
  for (const [index, name] of Object.keys(members).entries()) {
    const bits = found[index] ?? null;
    const isBits = name.endsWith('_bit');
    if (bits === null || (!isBits && bits % 8 !== 0)) return {};
    offsets[name] = isBits ? bits : bits / 8;
  }
  return offsets;
}

/**
 * How cgroup_skb programs learn in which network namespace a packet is sent (`netns`) and who sends it (`process`) on a kernel of which
 * `constantsFor` said this: by the helper for it, from the kernel's memory, or (null) not at all.
 */
export function originsFrom(
  constants: Readonly<Record<string, number>>,
): Readonly<Record<'netns' | 'process', 'helper' | 'memory' | null>> {
  const way = (constant: string, offset: string) =>
    constants[constant] === 1 ? 'helper' : constants[offset] === undefined ? null : 'memory';
  return {
    netns: way('has_netns_cookie', 'netns_cookie_offset'),
    process: way('has_current_process', 'task_pid_offset'),
  };
}

/** Why programs on this kernel cannot tell in which network namespace a packet is sent; null: they can. Throws KernelError. */
export function namespacesHidden(native: Native): string | null {
  if (originsFrom(constantsFor(native)).netns !== null) return null;
  return native.probe()['helper/cgroup_skb/bpf_get_netns_cookie'] ?? 'not to be found in memory';
}

/**
 * Loads build/postern.bpf.o; nothing is attached yet. `maxEntries` by map name, where the defaults of bpf/abi.h won't do.
 * `workloads` sizes what goes by slot, too. `pinned`: maps that are there already, and where. Throws KernelError, with the verifier's log in its message.
 */
export function loadPrograms(
  native: Native,
  maxEntries: Readonly<Record<string, number>> = {},
  pinned: Readonly<Record<string, string>> = {},
): LoadedObject {
  return native.load(OBJECT, allSizes(maxEntries), constantsFor(native), pinned);
}

/** The layout of each map that `loadPrograms` would make with these sizes, as text; loads nothing. Throws KernelError. */
export function layoutsOf(native: Native, maxEntries: Readonly<Record<string, number>>): Record<string, string> {
  return native.layouts(OBJECT, allSizes(maxEntries));
}

function allSizes(maxEntries: Readonly<Record<string, number>>): Record<string, number> {
  const slots = maxEntries.workloads;
  const bySlot = slots === undefined ? {} : { epochs: slots + 1, budgets: slots + 1 };
  const flows = maxEntries.flows;
  return { ...bySlot, ...(flows === undefined ? {} : { flow_order: flows }), ...maxEntries };
}

/** Programs of the object that stand at a cgroup, first the one that notes what comes in. */
export function cgroupPrograms(object: NativeObject): string[] {
  return object
    .programs()
    .filter((program) => !GUARDS.includes(program))
    .toSorted((a, b) => Number(b === 'ingress') - Number(a === 'ingress'));
}

/**
 * Attaches every program but the guard's at a cgroup (absolute path): all of its descendants are judged from then on. Ingress first, so that no
 * reply is judged whose question was not noted. Where one fails, those before it are detached again, and KernelError is thrown.
 */
export function attachPrograms(object: NativeObject, cgroup: string): { detach(): void } {
  const links: number[] = [];
  const detach = (): void => {
    for (let link = links.pop(); link !== undefined; link = links.pop()) object.detach(link);
  };
  try {
    for (const program of cgroupPrograms(object)) links.push(object.attachCgroup(program, cgroup));
  } catch (error) {
    detach();
    throw error;
  }
  return { detach };
}
