// SPDX-License-Identifier: Apache-2.0
// Loads Postern's programs as this kernel can take them, and attaches them to a cgroup. Knows no policy.

import { fileURLToPath } from 'node:url';
import type { LoadedObject, Native, NativeObject } from './native.ts';

const OBJECT = fileURLToPath(new URL('../../build/postern.bpf.o', import.meta.url));
/** Programs that stand at interfaces, not at a cgroup. */
const GUARDS: readonly string[] = ['guard_in', 'guard_out'];
const COOKIE_HELPER = 'helper/cgroup_skb/bpf_get_netns_cookie';

/** What cgroup_skb programs may not ask on every kernel: each constant of bpf/maps.h with the helpers that it stands for. */
const OPTIONAL_HELPERS: Readonly<Record<string, readonly string[]>> = {
  has_netns_cookie: [COOKIE_HELPER],
  has_current_process: ['helper/cgroup_skb/bpf_get_current_pid_tgid', 'helper/cgroup_skb/bpf_get_current_comm'],
};

/** What build/postern.bpf.o must be told of this kernel before it is loaded, found by trying. */
export function constantsFor(native: Native): Record<string, number> {
  const refused = native.probe();
  return Object.fromEntries(
    Object.entries(OPTIONAL_HELPERS).map(([constant, helpers]) => [
      constant,
      helpers.every((helper) => refused[helper] === null) ? 1 : 0,
    ]),
  );
}

/** Why programs on this kernel cannot tell in which network namespace a packet is sent; null: they can. Throws KernelError. */
export function namespacesHidden(native: Native): string | null {
  return native.probe()[COOKIE_HELPER] ?? null;
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
  return { ...bySlot, ...maxEntries };
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
