// SPDX-License-Identifier: Apache-2.0
// Which cgroup does a Pod of a folder name, and may it be named? The path's form alone; whether it exists is the node's question.
import { type Finding, quote, wrong } from './finding.ts';
import { isObject } from './kind.ts';

export const CGROUP_ANNOTATION = 'postern.dev/cgroup';

/** `cgroup`: relative to the cgroup2 mount, no slash at either end; null where none is named or it is wrong. */
export function checkCgroup(metadata: unknown): { cgroup: string | null; findings: Finding[] } {
  const annotations = isObject(metadata) ? metadata.annotations : null;
  const written = isObject(annotations) ? annotations[CGROUP_ANNOTATION] : undefined;
  if (typeof written !== 'string') return { cgroup: null, findings: [] };
  const path = ['metadata', 'annotations', CGROUP_ANNOTATION];
  const parts = written.replace(/^\/+|\/+$/g, '').split('/');
  const refuse = (message: string) => ({
    cgroup: null,
    findings: [wrong('cgroup', path, message, 'write a path below the cgroup2 mount, such as shop/cart')],
  });
  if (parts.includes('..') || parts.includes('.')) return refuse(`${quote(written)} has . or .. in it`);
  if (parts.some((part) => part === '')) {
    return refuse(parts.length === 1 ? 'the root of all cgroups cannot be one pod' : `${quote(written)} has // in it`);
  }
  if (written.includes('\0') || written.includes('\n')) return refuse(`${quote(written)} is no path`);
  return { cgroup: parts.join('/'), findings: [] };
}
