// SPDX-License-Identifier: Apache-2.0
// Which pods are this node's, and is its name right? Knows neither cgroups nor the kernel.
import { changeBetween, type List } from '../model/list-change.ts';
import type { Pod, Problem, Snapshot } from '../model/objects.ts';
import { names } from './names.ts';

export interface Locality {
  /** The Node object that is this machine; null: every pod is here. */
  readonly nodeName: string | null;
  /** Whether a pod that no node is named for may be here. */
  readonly unscheduled: 'here' | 'elsewhere';
}

/** Pods of other nodes are peers; so is the agent's own, whose uid is `ownUid`, which is held by nothing. */
export function isLocal({ nodeName, unscheduled }: Locality, ownUid: string | null, pod: Pod): boolean {
  if (pod.cgroup === null && pod.uid !== null && pod.uid === ownUid) return false;
  return nodeName === null || pod.node === nodeName || (pod.node === null && unscheduled === 'here');
}

/** Follows lists of pods; what did not change from one to the next is not looked at again. */
export class LocalPods {
  readonly #isLocal: (pod: Pod) => boolean;
  #all: List<Pod> = [];
  #local: readonly Pod[] = [];

  /** `isLocal` gives the same answer for the same pod, always. */
  constructor(isLocal: (pod: Pod) => boolean) {
    this.#isLocal = isLocal;
  }

  /** Those of `all` that are local, in the order of their names; the same list where they are the same. */
  of(all: List<Pod>): readonly Pod[] {
    const { gone, come } = changeBetween(this.#all, all);
    this.#all = all;
    const local = new Set(this.#local);
    for (const pod of gone) local.delete(pod);
    for (const pod of come) if (this.#isLocal(pod)) local.add(pod);
    const isSame = local.size === this.#local.length && this.#local.every((pod) => local.has(pod));
    if (!isSame) this.#local = [...local].sort(byName);
    return this.#local;
  }
}

function byName(a: Pod, b: Pod): number {
  if (a.namespace !== b.namespace) return a.namespace < b.namespace ? -1 : 1;
  return a.name < b.name ? -1 : a.name > b.name ? 1 : 0;
}

/** A mistyped node name makes every pod another node's, and nothing is held. Without any Node there is nothing to compare. */
export function checkNodeName({ nodes }: Snapshot, nodeName: string | null): Problem[] {
  if (nodeName === null || nodes.length === 0 || nodes.some(({ name }) => name === nodeName)) return [];
  const known = names(nodes.map(({ name }) => name)).join(', ');
  return [
    {
      ...{ severity: 'warning', code: 'node_unknown', file: null, line: 0, column: 0, path: '', object: null },
      message: `there is no Node ${nodeName}: pods of other Nodes are peers, and not held here`,
      advice: `start the agent with --node-name ${nodes.length === 1 ? known : `and one of ${known}`}, or add the Node`,
    },
  ];
}
