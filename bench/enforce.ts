// SPDX-License-Identifier: Apache-2.0
// Holds one cgroup to one policy, through the compiler and the applier that the agent uses. Attaches nothing.

import path from 'node:path';
import { compile } from '../src/compile/compile.ts';
import { Applier } from '../src/kernel/apply.ts';
import type { Native, NativeObject } from '../src/kernel/native.ts';
import type { Snapshot } from '../src/model/objects.ts';
import { cgroupMount } from '../test/support/lab.ts';
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
