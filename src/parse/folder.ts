// SPDX-License-Identifier: Apache-2.0
// What is wrong between the objects of a folder, each of which may be right by itself: the same object twice, one cgroup for two pods.
// The files' order is the caller's (sorted by path): it says who was first.
import type { Problem } from '../model/objects.ts';
import { CGROUP_ANNOTATION } from '../validate/pod.ts';
import type { Position } from '../yaml/documents.ts';
import type { Parsed } from './document.ts';

export interface Folder {
  /** Each key once: the first that has it. */
  readonly objects: readonly Parsed[];
  /** Of the second of each pair; both pods of a clash. */
  readonly problems: readonly Problem[];
  /** Keys of pods that must not be bound by their annotation. */
  readonly unbound: ReadonlySet<string>;
}

export function assemble(documents: readonly Parsed[]): Folder {
  const first = new Map<string, Parsed>();
  const objects: Parsed[] = [];
  const problems: Problem[] = [];
  for (const parsed of documents) {
    const earlier = parsed.key === null ? undefined : first.get(parsed.key);
    if (earlier) {
      const { file } = earlier.position;
      const { line } = earlier.places.name;
      problems.push({
        ...at(parsed, parsed.places.name, 'metadata.name'),
        code: 'duplicate_object',
        message: `${parsed.key} is there already, at ${file}:${line}, which stays`,
        advice: 'write another name, or remove one of the two',
      });
      continue;
    }
    if (parsed.key !== null) first.set(parsed.key, parsed);
    objects.push(parsed);
  }
  const clashes = cgroupClashes(objects);
  return {
    objects,
    problems: [...problems, ...clashes.map(({ problem }) => problem)],
    unbound: new Set(clashes.map(({ key }) => key)),
  };
}

function cgroupClashes(objects: readonly Parsed[]): { key: string; problem: Problem }[] {
  const bound = objects.flatMap((parsed) =>
    parsed.kind === 'Pod' && parsed.key !== null && parsed.value?.cgroup
      ? [{ parsed, key: parsed.key, cgroup: parsed.value.cgroup }]
      : [],
  );
  // In this order a folder stands right before what is inside it.
  const sorted = bound.toSorted((a, b) => compare(`${a.cgroup}/`, `${b.cgroup}/`));
  const other = new Map<(typeof bound)[number], (typeof bound)[number]>();
  const open: (typeof bound)[number][] = [];
  for (const pod of sorted) {
    while (open.length > 0 && !`${pod.cgroup}/`.startsWith(`${open.at(-1)?.cgroup}/`)) open.pop();
    const outer = open.at(-1);
    if (outer) {
      other.set(pod, outer);
      if (!other.has(outer)) other.set(outer, pod);
    }
    open.push(pod);
  }
  return bound.flatMap((pod) => {
    const clash = other.get(pod);
    if (!clash) return [];
    const same = clash.cgroup === pod.cgroup;
    const how = same
      ? 'the same cgroup as'
      : `a cgroup ${clash.cgroup.length < pod.cgroup.length ? 'inside' : 'around'} that of`;
    const problem: Problem = {
      ...at(pod.parsed, pod.parsed.places.cgroup, `metadata.annotations["${CGROUP_ANNOTATION}"]`),
      code: 'cgroup_clash',
      message: `${pod.key} names ${how} ${clash.key}, ${clash.parsed.position.file}:${clash.parsed.position.line}: neither is bound`,
      advice: 'give each pod a cgroup of its own, none inside another',
    };
    return [{ key: pod.key, problem }];
  });
}

function at(parsed: Parsed, place: Position, path: string): Omit<Problem, 'code' | 'message' | 'advice'> {
  return { severity: 'error', file: parsed.position.file, ...place, path, object: parsed.key };
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
