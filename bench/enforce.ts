// SPDX-License-Identifier: Apache-2.0
// Puts one workload's compiled policy into a loaded object, once: what the agent does by steps, without the steps.

import path from 'node:path';
import { encodeSettings, SETTINGS_BYTES } from '../build/generated/abi.ts';
import { type Compiled, compile } from '../src/compile/compile.ts';
import {
  encodeEntries,
  IDENTITIES,
  type MapCodec,
  NETWORKS,
  PORTS,
  portElements,
  VERDICTS,
  WORKLOADS,
} from '../src/kernel/encode.ts';
import type { Native, NativeObject } from '../src/kernel/native.ts';
import type { Snapshot } from '../src/model/objects.ts';
import { cgroupMount } from '../test/support/lab.ts';
import { WORKLOAD } from './policy.ts';

const SLOT = 1;

/** Throws where the compiler has something against the policy: then this is no measurement. */
export function compileWorkload(snapshot: Snapshot): Compiled {
  const compiled = compile(snapshot, { isLocal: ({ namespace, name }) => `${namespace}/${name}` === WORKLOAD });
  if (compiled.problems.length > 0)
    throw new Error(`the policy does not compile: ${JSON.stringify(compiled.problems)}`);
  return compiled;
}

/** Holds the cgroup to what the snapshot says of the workload. */
export function enforce(native: Native, object: NativeObject, { tables }: Compiled, cgroup: string): void {
  const workload = tables.workloads.get(WORKLOAD);
  if (workload === undefined) throw new Error('the snapshot has no workload');
  write(object, VERDICTS, [...tables.rows]);
  write(
    object,
    PORTS,
    [...tables.portSets].flatMap(([id, prefixes]) => portElements(id, prefixes)),
  );
  write(object, IDENTITIES, [...tables.identities]);
  write(object, NETWORKS, [...tables.networks]);
  const { enforced, shadow } = workload;
  write(object, WORKLOADS, [[native.cgroupId(cgroup), { slot: SLOT, enforced, shadow }]]);
  const settings = Buffer.alloc(SETTINGS_BYTES);
  const level = path.relative(cgroupMount(), cgroup).split('/').length;
  encodeSettings({ levels: 1 << level, unknown: 0, hostNetns: 0n }, settings);
  object.update('settings', Buffer.alloc(4), settings, 1, 0);
}

function write<K, V>(object: NativeObject, codec: MapCodec<K, V>, entries: readonly (readonly [K, V])[]): void {
  if (entries.length === 0) return;
  const { keys, values, count } = encodeEntries(codec, entries);
  object.update(codec.map, keys, values, count, 0);
}
