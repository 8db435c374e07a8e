// SPDX-License-Identifier: Apache-2.0
// How is a workload called wherever a user reads of it? Knows its key, not what it is bound to.
import { unitOf } from '../resolve/units.ts';

/** `namespace/name` of a pod; `node/kubelet.service` of a systemd unit. */
export function workloadName(key: string): string {
  const unit = unitOf(key);
  return unit === null ? key : `node/${unit}`;
}
