// SPDX-License-Identifier: Apache-2.0
// Which cgroup folder belongs to which pod or systemd unit, given these and the folders that are there? Pure; touches no file.
import { MAX_LEVELS } from '#build/generated/abi.ts';
import type { Pod, Problem } from '../model/objects.ts';
import { unitKey } from '../resolve/units.ts';

/** A folder that is there. */
export interface CgroupFolder {
  /** Path below the cgroup2 mount, without slashes at its ends: `kubepods/burstable/pod1`. */
  readonly path: string;
  readonly id: bigint;
}

/** A workload's place in the kernel. */
export interface Binding {
  readonly path: string;
  readonly cgroup: bigint;
  /** Depth below the cgroup2 mount, whose own folder is level 0. */
  readonly level: number;
}

/** By `namespace/name` of the pod, `/NAME.service` of the unit. */
export type Bindings = ReadonlyMap<string, Binding>;

export interface Bound {
  readonly bindings: Bindings;
  readonly problems: readonly Problem[];
}

export interface Folders {
  /** The folder at this path below the mount, or null where there is none. */
  at(path: string): CgroupFolder | null;
  /** Folders by the pod uid that their name holds. More than one: the first found counts. */
  byUid(uid: string): CgroupFolder | null;
  /** Folders of a systemd unit (systemd.slice(5): below slices and nothing else), anywhere below the mount. */
  byUnit(unit: string): readonly CgroupFolder[];
}

/** The systemd units that policies select on this node. */
export interface Units {
  /** By unit name, whoever selects it: `ClusterEgressPolicy/node-runtime`. */
  readonly selected: ReadonlyMap<string, readonly string[]>;
  /** The agent's own cgroup below the mount ('': the mount), which no policy may hold: a mistake there could not be undone. */
  readonly own: string;
}

const NO_UNITS: Units = { selected: new Map(), own: '' };

/** The deepest level that the kernel's programs look at (a bit each in `settings.levels`; the loop there is bounded). */
export const MAX_LEVEL = MAX_LEVELS - 1;

/**
 * Binds pods and units to folders. Two pods on one folder, or one inside the other's, is a problem, and neither binding changes:
 * each keeps what `before` gave it as long as that very folder (by its id) is there.
 * `root` is the enforced root below the mount ('' for the mount itself): nothing outside it, and not itself, can be bound.
 */
export function bind(
  pods: readonly Pod[],
  folders: Folders,
  root: string,
  before: Bindings,
  units: Units = NO_UNITS,
): Bound {
  const problems: Problem[] = [];
  const wanted = new Map<string, CgroupFolder>();
  for (const pod of pods) {
    if (pod.ended) continue;
    const name = `${pod.namespace}/${pod.name}`;
    if (pod.cgroup === null) {
      const folder = pod.uid === null ? null : folders.byUid(pod.uid);
      if (folder !== null && levelOf(folder.path) > MAX_LEVEL) problems.push(tooDeep(pod, folder.path));
      else if (folder !== null) wanted.set(name, folder);
      continue;
    }
    const path = pathBelow(pod.cgroup);
    if (path === null || !isBelow(path, root) || levelOf(path) > MAX_LEVEL) {
      problems.push(refused(pod, root));
      continue;
    }
    const folder = folders.at(path);
    if (folder !== null) wanted.set(name, folder);
  }
  for (const [unit, policies] of units.selected) {
    const found = folders.byUnit(unit);
    const folder = found.find(({ path }) => isBelow(path, root) && levelOf(path) <= MAX_LEVEL);
    const why = obstacle(folder, found, root, units.own) ?? clashOf(folder, wanted);
    if (why === null && folder !== undefined) wanted.set(unitKey(unit), folder);
    if (why !== null) problems.push(...policies.map((policy) => unitProblem(unit, policy, why)));
  }

  const clashing = new Map<string, string>();
  const byPath = [...wanted]
    .map(([name, folder]) => ({ name, folder, key: sortKey(folder.path) }))
    .sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0));
  // Sorted so that what is inside a folder follows it at once: only the folders open above need comparing.
  const open: [string, CgroupFolder][] = [];
  for (const { name, folder } of byPath) {
    while (open.length > 0 && !isWithin(folder.path, open.at(-1)?.[1].path ?? '')) open.pop();
    for (const [other] of open) {
      if (!clashing.has(name)) clashing.set(name, other);
      if (!clashing.has(other)) clashing.set(other, name);
    }
    open.push([name, folder]);
  }

  const bindings = new Map<string, Binding>();
  const taken: string[] = [];
  const keep = (name: string, binding: Binding): void => {
    bindings.set(name, binding);
    taken.push(binding.path);
  };
  for (const name of clashing.keys()) {
    const kept = before.get(name);
    if (kept !== undefined && folders.at(kept.path)?.id === kept.cgroup) keep(name, kept);
  }
  const disturbed = taken.slice();
  for (const [name, folder] of wanted) {
    if (clashing.has(name)) continue;
    const other = disturbed.find((path) => isWithin(path, folder.path) || isWithin(folder.path, path));
    if (other !== undefined) {
      clashing.set(name, [...bindings].find(([, binding]) => binding.path === other)?.[0] ?? '');
      continue;
    }
    const kept = before.get(name);
    const same = kept !== undefined && kept.path === folder.path && kept.cgroup === folder.id;
    keep(name, same ? kept : { path: folder.path, cgroup: folder.id, level: levelOf(folder.path) });
  }
  for (const pod of pods) {
    const name = `${pod.namespace}/${pod.name}`;
    const other = clashing.get(name);
    if (other !== undefined) problems.push(clash(pod, other, wanted.get(name)?.path ?? ''));
  }
  return { bindings, problems };
}

interface Obstacle {
  readonly severity: Problem['severity'];
  readonly code: string;
  readonly message: string;
  readonly advice: string;
}

/** What keeps a unit from being held, or null. */
function obstacle(
  folder: CgroupFolder | undefined,
  found: readonly CgroupFolder[],
  root: string,
  own: string,
): Obstacle | null {
  const [first] = found;
  if (first === undefined) {
    return {
      ...{ severity: 'warning', code: 'unit_not_found' },
      message: 'is not there on this node; it is held as soon as it appears',
      advice: 'compare the name with systemctl list-units --type=service, or select fewer nodes',
    };
  }
  if (folder === undefined && isBelow(first.path, root)) {
    return {
      ...{ severity: 'error', code: 'cgroup_refused' },
      message: `has its cgroup at "/${first.path}", more than ${MAX_LEVEL} folders deep, where the kernel's programs do not look: it is not held`,
      advice: 'give the unit a slice nearer to the root',
    };
  }
  if (folder === undefined) {
    return {
      ...{ severity: 'error', code: 'unit_outside_root' },
      message: `has its cgroup at "/${first.path}", outside the enforced root "/${root}", so it is not held`,
      advice: outsideRootAdvice(folderAbove(first.path, root)),
    };
  }
  if (found.length > 1) {
    return {
      ...{ severity: 'error', code: 'unit_ambiguous' },
      message: `could be any of the cgroups ${found.map(({ path }) => `"${path}"`).join(', ')}, so none is held`,
      advice: 'systemd makes one cgroup a unit: remove what was made by hand',
    };
  }
  if (isWithin(own, folder.path)) {
    return {
      ...{ severity: 'error', code: 'unit_is_agent' },
      message: 'is what the agent itself runs in, which no policy holds',
      advice: 'remove the unit from the policy',
    };
  }
  return null;
}

/** In a container, whoever reads this has a chart and no command line. */
function outsideRootAdvice(root: string): string {
  return `start the agent with --cgroup-root /${root} (helm: --set agent.cgroupRoot=/${root}), which is above both`;
}

/** The deepest folder that has `unit` below it, and is `root` or has that below it, too; '' is the mount. */
function folderAbove(unit: string, root: string): string {
  const others = root.split('/');
  const parents = unit.split('/').slice(0, -1);
  const differs = parents.findIndex((part, index) => part !== others[index]);
  return (differs === -1 ? parents : parents.slice(0, differs)).join('/');
}

/** A unit gives way to pods: whoever selects it shall not be able to let go of a pod, or keep a new one from being held. */
function clashOf(folder: CgroupFolder | undefined, wanted: ReadonlyMap<string, CgroupFolder>): Obstacle | null {
  if (folder === undefined) return null;
  for (const [name, { path }] of wanted) {
    if (!isWithin(path, folder.path) && !isWithin(folder.path, path)) continue;
    return {
      ...{ severity: 'error', code: 'cgroup_clash' },
      message: `has its cgroup at "${folder.path}", which is that of ${name}, or one is inside the other, so it is not held`,
      advice: 'let pods and services have cgroups beside one another',
    };
  }
  return null;
}

/** Depth below the mount. */
export function levelOf(path: string): number {
  return path === '' ? 0 : path.split('/').length;
}

/** `path` without slashes at its ends, or null where it is no plain path below something: empty, `..`, `.`, `//`. */
export function pathBelow(path: string): string | null {
  const trimmed = path.replace(/^\/+|\/+$/g, '');
  const parts = trimmed.split('/');
  if (parts.some((part) => part === '' || part === '.' || part === '..' || part.includes('\0'))) return null;
  return trimmed;
}

function isBelow(path: string, root: string): boolean {
  return root === '' ? path !== '' : path.startsWith(`${root}/`);
}

function isWithin(path: string, outer: string): boolean {
  return path === outer || path.startsWith(`${outer}/`);
}

/** Sorts by parts: `a/b` comes right after `a`, before `a-x`. */
function sortKey(path: string): string {
  return path.replaceAll('/', '\0');
}

function refused(pod: Pod, root: string): Problem {
  return problem(
    pod,
    'cgroup_refused',
    `the cgroup "${pod.cgroup}" is not a path below the enforced root${root === '' ? '' : ` "${root}"`}`,
    `write a path below the cgroup2 mount, such as "${root === '' ? 'workloads/web' : `${root}/web`}", without "..", at most ${MAX_LEVEL} folders deep`,
  );
}

function tooDeep(pod: Pod, path: string): Problem {
  return problem(
    pod,
    'cgroup_refused',
    `its cgroup "${path}" is more than ${MAX_LEVEL} folders deep, where the kernel's programs do not look: it is not held`,
    'run kubelet, and whatever it runs in, in cgroups nearer to the root',
  );
}

function clash(pod: Pod, other: string, path: string): Problem {
  return problem(
    pod,
    'cgroup_clash',
    `its cgroup "${path}" is that of ${other}, or one is inside the other; neither binding changes`,
    'give each pod a cgroup of its own, beside one another',
  );
}

function problem(pod: Pod, code: string, message: string, advice: string): Problem {
  return {
    severity: 'error',
    code,
    file: null,
    line: 0,
    column: 0,
    path: pod.cgroup === null ? 'metadata.uid' : 'metadata.annotations["postern.dev/cgroup"]',
    object: `Pod/${pod.namespace}/${pod.name}`,
    message,
    advice,
  };
}

function unitProblem(unit: string, policy: string, { severity, code, message, advice }: Obstacle): Problem {
  return {
    ...{ severity, code, file: null, line: 0, column: 0, path: 'spec.subject.nodeServices.units', object: policy },
    ...{ message: `${unit} ${message}`, advice },
  };
}
