// SPDX-License-Identifier: Apache-2.0
// In which order is a guard put to an interface and taken away, what is left where the kernel refuses, and what is beyond a limit?
import assert from 'node:assert/strict';
import test from 'node:test';
import { GUARD_HARDWARE_ADDRESS } from '#build/generated/abi.ts';
import { GUARDS, SOURCES } from '../../src/kernel/encode.ts';
import { LimitExceeded } from '../../src/kernel/errors.ts';
import { type Guard, type GuardHome, InterfaceGuards } from '../../src/kernel/guards.ts';
import { KernelError, loadNative, type Native, type NativeObject } from '../../src/kernel/native.ts';
import { FakeObject } from './fake.ts';

/** Writes down what is attached and taken away, too. */
class Interfaces extends FakeObject {
  /** Where each link is; 0: its interface is gone. */
  readonly links = new Map<number, number>();
  hasTcx = true;
  #last = 0;

  override async attachTcx(program?: string, ifindex?: number, side?: string): Promise<number> {
    if (!this.hasTcx) throw new KernelError('no tcx', 'EINVAL', 'attach');
    const call = `tcx ${program} ${ifindex} ${side}`;
    this.calls.push(call);
    this.onCall(call);
    this.#last += 1;
    this.links.set(this.#last, ifindex ?? 0);
    return this.#last;
  }
  override tcxPlace(link?: number): { ifindex: number; program: number } {
    return { ifindex: this.links.get(link ?? 0) ?? 0, program: 1 };
  }
  override async attachClsact(program?: string, ifindex?: number, side?: string): Promise<boolean> {
    this.calls.push(`clsact ${program} ${ifindex} ${side}`);
    this.filters.set(`${ifindex} ${side}`, 7);
    return side === 'egress';
  }
  override async releaseLink(link?: number): Promise<void> {
    this.calls.push(`release ${link}`);
  }

  readonly filters = new Map<string, number>();
  /** The addon's other half. */
  readonly native: Native = {
    ...loadNative(),
    clsactProgram: (ifindex, side) => this.filters.get(`${ifindex} ${side}`) ?? null,
    detachClsact: (ifindex, side) => {
      this.calls.push(`filter ${ifindex} ${side}`);
      return this.filters.delete(`${ifindex} ${side}`);
    },
    removeEmptyClsact: (ifindex) => {
      this.calls.push(`qdisc ${ifindex}`);
      return true;
    },
  };

  /** What the calls since the last time were. */
  taken(): readonly string[] {
    return this.calls.splice(0);
  }
}

const OWN = '00000000000000000000ffffc6120101';
const OTHER = '00000000000000000000ffffc6120102';
const GUARD: Guard = { ifindex: 9, mac: '020000000009', cgroup: 5n, netns: 77n, nsid: 3, sources: [OWN] };

function unpinned(object: NativeObject): GuardHome {
  const never = (): never => assert.fail('nothing is pinned');
  return { object, pins: null, hold: never, pinLink: never };
}

test('what it must know is there before it runs, and taken away after; who notes stands before who asks', async () => {
  const object = new Interfaces();
  const guards = new InterfaceGuards(object.native, unpinned(object));
  assert.equal(guards.mode, null);
  await guards.attach(GUARD);
  assert.deepEqual(object.taken(), [
    'update sources 1',
    'update guards 1',
    'tcx guard_in 9 egress',
    'tcx guard_out 9 ingress',
  ]);
  assert.equal(guards.mode, 'tcx');
  assert.deepEqual(guards.held, new Map([[9, GUARD]]));
  const { keys, values } = object.dump('guards');
  assert.equal(GUARDS.decodeKey(keys, 0), 9);
  assert.deepEqual(GUARDS.decodeValue(values, 0), {
    ...{ cgroup: 5n, netns: 77n, nsid: 3, flags: GUARD_HARDWARE_ADDRESS, hardwareAddress: '020000000009' },
  });
  assert.equal(SOURCES.decodeKey(object.dump('sources').keys, 0), `9/${OWN}`);

  guards.update({ ...GUARD, mac: '', sources: [OTHER] });
  assert.deepEqual(object.taken(), ['update sources 1', 'update guards 1', 'remove sources 1'], 'grows, then shrinks');
  assert.equal(
    GUARDS.decodeValue(object.dump('guards').values, 0).flags,
    0,
    'without a hardware address none is asked for',
  );

  await guards.detach(9);
  assert.deepEqual(object.taken(), ['release 2', 'release 1', 'remove guards 1', 'remove sources 1']);
  await guards.detach(9);
  assert.deepEqual(object.taken(), []);
  assert.deepEqual(
    guards.fills().map(({ entries }) => entries),
    [0, 0],
  );
});

test('in place is where both programs are at this very interface', async () => {
  const object = new Interfaces();
  const guards = new InterfaceGuards(object.native, unpinned(object));
  assert.equal(guards.isInPlace(9), false);
  await guards.attach(GUARD);
  assert.equal(guards.isInPlace(9), true);
  object.links.set(1, 0);
  assert.equal(guards.isInPlace(9), false);
});

for (const [at, left] of [
  ['update guards', ['remove guards 1', 'remove sources 1']],
  ['tcx guard_in', ['remove guards 1', 'remove sources 1']],
  ['tcx guard_out', ['release 1', 'remove guards 1', 'remove sources 1']],
] as const) {
  test(`refused at ${at}: nothing is left`, async () => {
    const object = new Interfaces();
    const guards = new InterfaceGuards(object.native, unpinned(object));
    await guards.attach({ ...GUARD, ifindex: 4, sources: [] });
    object.onCall = (call) => {
      if (call.startsWith(at)) throw new KernelError('refused', 'EPERM', 'x');
    };
    object.taken();
    object.links.clear();
    await assert.rejects(guards.attach(GUARD), { code: 'EPERM' });
    const undone = object.taken().filter((call) => /^(?:remove|release)/.test(call));
    assert.deepEqual(
      undone.map((call) => call.replace('release 3', 'release 1')),
      left,
    );
    assert.deepEqual([...guards.held.keys()], [4]);
    assert.equal(object.dump('sources').count, 0);
  });
}

test('beyond a limit nothing is written', async () => {
  const object = new Interfaces({ guards: 1, sources: 2 });
  const guards = new InterfaceGuards(object.native, unpinned(object));
  await guards.attach(GUARD);
  object.taken();
  await assert.rejects(guards.attach({ ...GUARD, ifindex: 10 }), LimitExceeded);
  assert.throws(() => guards.update({ ...GUARD, sources: ['0'.repeat(32), OTHER, OWN] }), LimitExceeded);
  assert.deepEqual(object.taken(), []);
  assert.deepEqual(guards.held, new Map([[9, GUARD]]));
});

test('without tcx: clsact, for all that follow, and its qdisc away where it was ours', async () => {
  const object = new Interfaces();
  object.hasTcx = false;
  const guards = new InterfaceGuards(object.native, unpinned(object));
  await guards.attach(GUARD);
  assert.equal(guards.mode, 'clsact');
  assert.deepEqual(object.taken().slice(2), ['clsact guard_in 9 egress', 'clsact guard_out 9 ingress']);
  object.hasTcx = true;
  await guards.attach({ ...GUARD, ifindex: 10 });
  assert(
    object.taken().every((call) => !call.startsWith('tcx')),
    'one way for all',
  );
  assert.equal(guards.isInPlace(9), true);
  object.filters.set('9 ingress', 8);
  assert.equal(guards.isInPlace(9), false, "another's is in its place");
  await guards.detach(9);
  assert.deepEqual(object.taken().slice(0, 2), ['filter 9 egress', 'qdisc 9'], "another's stays");
  await guards.close();
  assert.deepEqual(object.taken().slice(0, 3), ['filter 10 ingress', 'filter 10 egress', 'qdisc 10']);
});

test('a kernel with tcx that refuses a program is not taken for one without', async () => {
  const object = new Interfaces();
  const guards = new InterfaceGuards(object.native, unpinned(object));
  await guards.attach(GUARD);
  object.hasTcx = false;
  await assert.rejects(guards.attach({ ...GUARD, ifindex: 10 }), { code: 'EINVAL' });
  assert.equal(guards.mode, 'tcx');
});
