// SPDX-License-Identifier: Apache-2.0
// Who is guarded where, and what is done about it, by tables: claims, what stays though it cannot be seen, and what changes.
import assert from 'node:assert/strict';
import test from 'node:test';
import { type HeldGuard, type Pod, plan, want } from '../../src/guard/plan.ts';
import { pairsOf } from '../../src/guard/ways-out.ts';
import { type Guard, NOBODY } from '../../src/kernel/guards.ts';
import type { Interface } from '../../src/kernel/native.ts';
import { addressKey } from '../../src/model/address.ts';

const HOST_NSID = 0;
const A = 101n;
const B = 102n;
const NOT_A_COOKIE = 1n << 63n;

function key(text: string): string {
  const found = addressKey(text);
  assert(found !== null, text);
  return found;
}

function veth(ifindex: number, link: number, linkNsid: number | null): Interface {
  const mac = Buffer.from([2, 0, 0, 0, 0, ifindex]);
  return { ifindex, name: `i${ifindex}`, kind: 'veth', hardware: 1, link, linkNsid, mac };
}

/** The interface with this index in the namespace `nsid`, whose cookie is the same, and its other end on the host. */
function inside(nsid: number, ifindex: number, outside: number, ...addresses: string[]) {
  return {
    ...{ nsid, cookie: BigInt(nsid), interfaces: [veth(ifindex, outside, HOST_NSID)] },
    addresses: addresses.map((text) => ({ ifindex, address: key(text) })),
  };
}

function pod(cgroup: bigint, namespaces: Pod['namespaces'], more: Partial<Pod> = {}): Pod {
  return { cgroup, podIps: [], namespaces, first: new Map(), ...more };
}

function held(guard: Guard, more: Partial<HeldGuard> = {}): [number, HeldGuard] {
  return [guard.ifindex, { ...guard, isInPlace: true, isConfirmed: true, ...more }];
}

function wanted(pods: readonly Pod[], host: readonly Interface[], holds: readonly [number, HeldGuard][] = []) {
  return want(pods, host, pairsOf(host), HOST_NSID, new Map(holds));
}

function guardOf(pods: readonly Pod[], host: readonly Interface[], ifindex: number): Guard {
  const guard = wanted(pods, host).guards.get(ifindex);
  assert(guard !== undefined);
  return guard;
}

test('sources: what the API names, and what is link-local of the pod', () => {
  const namespace = inside(7, 2, 9, '10.0.0.7', '10.0.0.66', 'fe80::aa');
  const found = guardOf([pod(A, [namespace])], [veth(9, 2, 7)], 9);
  const linkLocal = key('fe80::ff:fe00:2');
  assert.deepEqual(found.sources, [key('10.0.0.7'), key('10.0.0.66'), key('fe80::aa'), linkLocal].sort());
  const named = guardOf([pod(A, [namespace], { podIps: [key('10.0.0.7')] })], [veth(9, 2, 7)], 9);
  assert.deepEqual(named.sources, [key('10.0.0.7'), key('fe80::aa'), linkLocal].sort());
  assert.deepEqual(
    { ...named, sources: [] },
    { ...{ ifindex: 9, mac: '020000000002', cgroup: A, netns: 7n, nsid: 7 }, sources: [] },
  );
});

test('sources: what an interface was found with first counts, not what it gives itself later', () => {
  const namespace = inside(7, 2, 9, '10.0.0.7', '10.0.0.66');
  const first = new Map([[9, [key('10.0.0.7')]]]);
  const { sources } = guardOf([pod(A, [namespace], { first })], [veth(9, 2, 7)], 9);
  assert.deepEqual(sources, [key('10.0.0.7'), key('fe80::ff:fe00:2')].sort());
});

test("an interface that isn't the pod's main one keeps what was found, whatever the API names", () => {
  const interfaces = [veth(2, 9, HOST_NSID), veth(3, 10, HOST_NSID)];
  const addresses = [
    { ifindex: 2, address: key('10.0.0.7') },
    { ifindex: 3, address: key('192.0.2.7') },
  ];
  const namespace = { nsid: 7, cookie: 7n, interfaces, addresses };
  const { guards, complete } = wanted(
    [pod(A, [namespace], { podIps: [key('10.0.0.7')] })],
    [veth(9, 2, 7), veth(10, 3, 7)],
  );
  assert(guards.get(9)?.sources.includes(key('10.0.0.7')));
  assert(!guards.get(10)?.sources.includes(key('10.0.0.7')));
  assert(guards.get(10)?.sources.includes(key('192.0.2.7')));
  assert.deepEqual(complete, new Map([[A, 7n]]));
});

test('where another way out has no guard, the guard keeps its notes apart, and ingress goes on with its own', () => {
  const macvlan: Interface = { ...veth(3, 2, HOST_NSID), kind: 'macvlan' };
  const namespace = { ...inside(7, 2, 9), interfaces: [veth(2, 9, HOST_NSID), macvlan] };
  const { guards, complete, unguardable } = wanted([pod(A, [namespace])], [veth(9, 2, 7)]);
  assert.equal(guards.get(9)?.netns, 7n | NOT_A_COOKIE);
  assert.deepEqual(complete, new Map());
  assert.deepEqual(unguardable, new Map([[A, ['macvlan']]]));
});

test('whoever may not ask for cookies guards all the same, with notes of its own', () => {
  const { guards, complete } = wanted([pod(A, [{ ...inside(7, 2, 9), cookie: null }])], [veth(9, 2, 7)]);
  assert.equal(guards.get(9)?.netns, 7n | NOT_A_COOKIE);
  assert.deepEqual(complete, new Map());
});

test('an interface that a workload moves into a namespace of its own is guarded all the same', () => {
  const guard = guardOf([pod(A, [inside(7, 2, 9)])], [veth(9, 2, 7)], 9);
  const moved = [pod(A, [{ nsid: 7, cookie: 7n, interfaces: [], addresses: [] }])];
  const now = wanted(moved, [veth(9, 2, 55)], [held(guard)]);
  assert.deepEqual(now.guards, new Map([[9, { ...guard, nsid: 55 }]]));
  assert.deepEqual([...now.claimed], [], 'nothing shows that it is there');
  // Nobody of the pod is known any more, it never was seen where it belongs, the programs are gone: nothing to stay for.
  assert.equal(wanted([], [veth(9, 2, 55)], [held(guard)]).guards.size, 0);
  assert.equal(wanted(moved, [veth(9, 2, 55)], [held(guard, { isConfirmed: false })]).guards.size, 0);
  assert.equal(wanted(moved, [veth(9, 2, 55)], [held(guard, { isInPlace: false })]).guards.size, 0);
  assert.equal(wanted(moved, [], [held(guard)]).guards.size, 0);
  // Its other end came home to the host: what passes there is no pod's any more.
  assert.equal(wanted(moved, [veth(9, 2, null)], [held(guard)]).guards.size, 0);
});

test("another pod's sandbox goes before what was held, and both before a namespace of a workload's own", () => {
  const host = [veth(9, 2, 7)];
  const guard = guardOf([pod(A, [inside(7, 2, 9)])], host, 9);
  const sandboxOfB = pod(B, [inside(7, 2, 9)]);
  const elsewhere = (cgroup: bigint) => pod(cgroup, [{ nsid: 8, cookie: 8n, interfaces: [], addresses: [] }]);
  assert.equal(wanted([elsewhere(A), sandboxOfB], host, [held(guard)]).guards.get(9)?.cgroup, B);
  // A process of B's, in A's sandbox: a privileged pod's that entered it.
  const intruder = { ...elsewhere(B), namespaces: [...elsewhere(B).namespaces, inside(7, 2, 9)] };
  assert.equal(wanted([intruder, pod(A, [inside(7, 2, 9)])], host).guards.get(9)?.cgroup, A);
  assert.equal(wanted([intruder, elsewhere(A)], host, [held(guard)]).guards.get(9)?.cgroup, A);
  const own = wanted([intruder], host).guards.get(9);
  assert.equal(own?.cgroup, B);
  assert.equal(own?.netns, 7n | NOT_A_COOKIE);
});

test('what a pod has left behind that is gone is nobody’s as long as it is there, or the next pod’s', () => {
  const host = [veth(9, 2, 7)];
  const left = { ...guardOf([pod(A, [inside(7, 2, 9)])], host, 9), cgroup: NOBODY };
  assert.deepEqual(wanted([], host, [held(left)]).guards.get(9), left);
  // Its other end is in no namespace any more that the host has a number for.
  assert.deepEqual(wanted([], [veth(9, 2, null)], [held(left)]).guards.get(9), left);
  assert.equal(wanted([pod(B, [inside(7, 2, 9)])], host, [held(left)]).guards.get(9)?.cgroup, B);
  assert.equal(wanted([], [], [held(left)]).guards.size, 0);
  assert.equal(wanted([], host, [held(left, { isConfirmed: false })]).guards.size, 0, 'it may be at another by now');
  assert.equal(wanted([], host, [held(left, { isInPlace: false })]).guards.size, 0);
});

test('two that claim one sandbox never take turns', () => {
  const host = [veth(9, 2, 7)];
  const both = [pod(A, [inside(7, 2, 9)]), pod(B, [inside(7, 2, 9)])];
  for (const holder of [A, B]) {
    const guard = { ...guardOf(both, host, 9), cgroup: holder };
    for (const pods of [both, both.toReversed()]) {
      assert.equal(wanted(pods, host, [held(guard)]).guards.get(9)?.cgroup, holder);
    }
  }
});

test('steps: what goes makes room, what changed is written, what is there stays', () => {
  const host = [veth(9, 2, 7), veth(10, 2, 8)];
  const a = guardOf([pod(A, [inside(7, 2, 9)])], host, 9);
  const b = guardOf([pod(B, [inside(8, 2, 10)])], host, 10);
  const both = new Map([
    [9, a],
    [10, b],
  ]);
  assert.deepEqual(plan(both, new Map()), [
    { do: 'attach', guard: a },
    { do: 'attach', guard: b },
  ]);
  assert.deepEqual(plan(both, new Map([held(a), held(b)])), []);
  assert.deepEqual(plan(new Map([[10, b]]), new Map([held(a)])), [
    { do: 'detach', ifindex: 9 },
    { do: 'attach', guard: b },
  ]);
  const other = { ...a, sources: [key('10.0.0.7')] };
  assert.deepEqual(plan(new Map([[9, other]]), new Map([held(a)])), [{ do: 'update', guard: other }]);
  for (const change of [{ cgroup: B }, { netns: 3n }, { nsid: 3 }, { mac: '020000000003' }]) {
    const next = { ...a, ...change };
    assert.deepEqual(plan(new Map([[9, next]]), new Map([held(a)])), [{ do: 'update', guard: next }]);
  }
  assert.deepEqual(plan(new Map([[9, a]]), new Map([held(a, { isInPlace: false })])), [
    { do: 'detach', ifindex: 9 },
    { do: 'attach', guard: a },
  ]);
});
