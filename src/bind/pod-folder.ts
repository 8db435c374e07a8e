// SPDX-License-Identifier: Apache-2.0
// Which pod does the name of a cgroup folder stand for? The two spellings of kubelet's cgroup drivers, and nothing else.

const UID = '[0-9a-zA-Z][0-9a-zA-Z-]*';
/** cgroupfs driver: `kubepods/burstable/pod<uid>` (kubernetes pkg/kubelet/cm/pod_container_manager_linux.go, GetPodContainerName). */
const PLAIN = new RegExp(`^pod(${UID})$`);
/** systemd driver: `kubepods-burstable-pod<uid>.slice`, in which `-` of the uid is `_` (pkg/kubelet/cm/cgroup_manager_linux.go, escapeSystemdCgroupName). */
const SLICE = /^[0-9a-zA-Z_-]*-pod([0-9a-zA-Z_]+)\.slice$/;

/** The uid in a folder's name, or null where it is not a pod's. */
export function podUidOf(folder: string): string | null {
  const plain = PLAIN.exec(folder)?.[1];
  if (plain !== undefined) return plain;
  return SLICE.exec(folder)?.[1]?.replaceAll('_', '-') ?? null;
}
