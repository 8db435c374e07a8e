// SPDX-License-Identifier: Apache-2.0
// Which interface should be guarded for whom, and what is to be done about those that are guarded now? Pure.
import { type Guard, NOBODY } from '../kernel/guards.ts';
import type { Interface } from '../kernel/native.ts';
import type { AddressKey } from '../model/tables.ts';
import {
  isLinkLocal,
  linkLocalOf,
  type PodNamespace,
  primaryOf,
  type Unguardable,
  type WayOut,
  waysOut,
} from './ways-out.ts';

/** A guard that was attached. */
export interface HeldGuard extends Guard {
  /** The programs are where they were put: the interface is the same, and nobody has taken them away. */
  readonly isInPlace: boolean;
  /** It was found where it belongs since it was attached. */
  readonly isConfirmed: boolean;
}

/** A pod whose namespaces are known. */
export interface Pod {
  readonly cgroup: bigint;
  /** What the API says; empty: nothing yet. */
  readonly podIps: readonly AddressKey[];
  /** That of its oldest process first, which is the sandbox's; the others' the workload may have made itself. */
  readonly namespaces: readonly PodNamespace[];
  /** Addresses that an interface was found to have when the pod began, by the host's end; what it gives itself later counts for nothing. */
  readonly first: ReadonlyMap<number, readonly AddressKey[]>;
}

export interface Wanted {
  readonly guards: ReadonlyMap<number, Guard>;
  /** Those of them whose other end is in a namespace of the pod's, as far as is seen now. */
  readonly claimed: ReadonlySet<number>;
  /** Pods of which every way out of the sandbox's namespace gets a guard: the cookie of that namespace. */
  readonly complete: ReadonlyMap<bigint, bigint>;
  /** What no guard can stand at, by pod. */
  readonly unguardable: ReadonlyMap<bigint, readonly Unguardable[]>;
}

export type Step =
  | { readonly do: 'attach'; readonly guard: Guard }
  | { readonly do: 'update'; readonly guard: Guard }
  | { readonly do: 'detach'; readonly ifindex: number };

/** Cookies are counted from one: none has this bit. */
const NOT_A_COOKIE = 1n << 63n;

/**
 * An interface is a pod's if its other end is in the namespace of the pod's sandbox; else if it was the pod's already (a workload
 * may move it into a namespace of its own, and is held all the same); else if it is in another namespace of the pod's processes.
 * One that a pod has left behind which is gone stays nobody's as long as it is there, unless another pod has it.
 */
export function want(
  pods: readonly Pod[],
  host: readonly Interface[],
  pairs: ReadonlyMap<string, Interface>,
  hostNsid: number | null,
  held: ReadonlyMap<number, HeldGuard>,
): Wanted {
  const guards = new Map<number, Guard>();
  const complete = new Map<bigint, bigint>();
  const unguardable = new Map<bigint, readonly Unguardable[]>();
  // Whoever has it already goes first: two that claim the same never take turns.
  const holders = new Set([...held.values()].map(({ cgroup }) => cgroup));
  const inOrder = pods.toSorted((a, b) => Number(holders.has(b.cgroup)) - Number(holders.has(a.cgroup)));
  for (const pod of inOrder) {
    const [sandbox] = pod.namespaces;
    if (sandbox === undefined) continue;
    const ways = waysOut(sandbox, pairs, hostNsid);
    if (ways.unguardable.length > 0) unguardable.set(pod.cgroup, ways.unguardable);
    const isComplete = ways.guardable.length > 0 && ways.unguardable.length === 0;
    if (isComplete && sandbox.cookie !== null) complete.set(pod.cgroup, sandbox.cookie);
    // Where ingress goes on to note what comes in, the workload may have forged it: the guard keeps its own notes apart.
    const netns = complete.get(pod.cgroup) ?? apart(sandbox);
    claim(guards, pod, sandbox.nsid, netns, ways.guardable);
  }
  const claimed = new Set(guards.keys());
  const known = new Set(pods.map(({ cgroup }) => cgroup));
  for (const one of host) {
    const guard = held.get(one.ifindex);
    if (guard === undefined || guards.has(one.ifindex) || !guard.isInPlace || !guard.isConfirmed) continue;
    const { ifindex, mac, cgroup, netns, nsid, sources } = guard;
    if (cgroup === NOBODY) {
      guards.set(ifindex, { ifindex, mac, cgroup, netns, nsid, sources });
    } else if (known.has(cgroup) && one.linkNsid !== null) {
      guards.set(ifindex, { ifindex, mac, cgroup, netns, nsid: one.linkNsid, sources });
    }
  }
  for (const pod of inOrder) {
    for (const namespace of pod.namespaces.slice(1)) {
      const { guardable } = waysOut(namespace, pairs, hostNsid);
      claim(guards, pod, namespace.nsid, apart(namespace), guardable);
      for (const { ifindex } of guardable) claimed.add(ifindex);
    }
  }
  return { guards, claimed, complete, unguardable };
}

function apart({ cookie, nsid }: PodNamespace): bigint {
  return (cookie ?? BigInt(nsid)) | NOT_A_COOKIE;
}

function claim(
  guards: Map<number, Guard>,
  { cgroup, podIps, first }: Pod,
  nsid: number,
  netns: bigint,
  ways: readonly WayOut[],
): void {
  const primary = primaryOf(ways, podIps);
  for (const way of ways) {
    const { ifindex, mac, addresses } = way;
    if (guards.has(ifindex)) continue;
    const found = first.get(ifindex) ?? addresses;
    const own = way === primary && podIps.length > 0 ? [...podIps, ...found.filter(isLinkLocal)] : found;
    const linkLocal = linkLocalOf(mac);
    const sources = [...new Set(linkLocal === null ? own : [...own, linkLocal])].sort();
    guards.set(ifindex, { ifindex, mac, cgroup, netns, nsid, sources });
  }
}

/** In the order in which they are to be done: what is taken away makes room. */
export function plan(wanted: ReadonlyMap<number, Guard>, held: ReadonlyMap<number, HeldGuard>): readonly Step[] {
  const detached: Step[] = [];
  const updated: Step[] = [];
  const attached: Step[] = [];
  for (const [ifindex, guard] of held) {
    const next = wanted.get(ifindex);
    // Where the programs are in place the interface is the same, whatever its other end has moved to.
    if (next === undefined || !guard.isInPlace) detached.push({ do: 'detach', ifindex });
    else if (!isSame(guard, next)) updated.push({ do: 'update', guard: next });
  }
  const gone = new Set(detached.map((step) => (step.do === 'detach' ? step.ifindex : 0)));
  for (const [ifindex, guard] of wanted) {
    if (!held.has(ifindex) || gone.has(ifindex)) attached.push({ do: 'attach', guard });
  }
  return [...detached, ...updated, ...attached];
}

function isSame(a: Guard, b: Guard): boolean {
  return (
    a.cgroup === b.cgroup &&
    a.netns === b.netns &&
    a.nsid === b.nsid &&
    a.mac === b.mac &&
    a.sources.length === b.sources.length &&
    a.sources.every((one, index) => one === b.sources[index])
  );
}
