// SPDX-License-Identifier: Apache-2.0
// Holds one cgroup to one policy, through the compiler and the applier that the agent uses. Attaches nothing.

import path from 'node:path';
import { compile } from '../src/compile/compile.ts';
import { Applier } from '../src/kernel/apply.ts';
import { encodeEntries, GUARDS, SOURCES, type SourceKey } from '../src/kernel/encode.ts';
import type { Native, NativeObject } from '../src/kernel/native.ts';
import { addressKey } from '../src/model/address.ts';
import type { Snapshot } from '../src/model/objects.ts';
import { cgroupMount } from '../test/support/lab.ts';
import { OWN4, OWN6 } from './frame.ts';
import { WORKLOAD } from './policy.ts';

/** `object`: with Postern's maps, empty. Throws where the compiler has something against the policy: that is no measurement. */
export function enforce(native: Native, object: NativeObject, snapshot: Snapshot, cgroup: string): void {
  const { tables, problems } = compile(snapshot, {
    local: snapshot.pods.filter(({ namespace, name }) => `${namespace}/${name}` === WORKLOAD),
  });
  if (problems.length > 0) throw new Error(`the policy does not compile: ${JSON.stringify(problems)}`);
  const applier = new Applier(object, { unknown: 'allow', hostNetns: 0n });
  const level = path.relative(cgroupMount(), cgroup).split('/').length;
  applier.apply(
    { tables, bridge: new Map(), bridgePortSets: new Map() },
    new Map([[WORKLOAD, { cgroup: native.cgroupId(cgroup), level }]]),
  );
}

/** Puts the workload behind the loopback, which test runs come through. */
export function putGuard(native: Native, object: NativeObject, cgroup: string): void {
  const LOOPBACK = 1;
  const guard = { cgroup: native.cgroupId(cgroup), netns: 1n, nsid: -1, flags: 0, hardwareAddress: '000000000000' };
  const guards = encodeEntries(GUARDS, [[LOOPBACK, guard]]);
  object.update(GUARDS.map, guards.keys, guards.values, guards.count, 0);
  const own = [OWN4, OWN6].map((address): [SourceKey, true] => [`${LOOPBACK}/${addressKey(address) ?? ''}`, true]);
  const sources = encodeEntries(SOURCES, own);
  object.update(SOURCES.map, sources.keys, sources.values, sources.count, 0);
}
