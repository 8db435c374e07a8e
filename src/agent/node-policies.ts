// SPDX-License-Identifier: Apache-2.0
// Which policies hold which workloads of this node, and are they in the kernel? Pure; asked when somebody wants to know.
import type { Bindings } from '../bind/binding.ts';
import type { Pod, Policy, Problem, Snapshot } from '../model/objects.ts';
import { byTold, policyName } from '../resolve/order.ts';
import { selections } from '../resolve/selection.ts';
import { unitKey, unitSelections } from '../resolve/units.ts';
import { isOfNode } from '../status/report.ts';
import { workloadName } from '../tell/workload.ts';

/** What GET /policies answers. */
export interface NodePolicies {
  /** The Node object that is this machine, or null. */
  readonly node: string | null;
  /** false: nothing is enforced yet. */
  readonly ready: boolean;
  readonly policies: readonly PolicyOnNode[];
}

export interface PolicyOnNode {
  readonly kind: string;
  /** null for cluster-scoped kinds. */
  readonly namespace: string | null;
  readonly name: string;
  readonly effect: Policy['effect'];
  readonly mode: Policy['mode'];
  /** Whom it selects here, by name: `shop/web`, `node/kubelet.service`. */
  readonly workloads: readonly {
    readonly name: string;
    /** false: selected, but no cgroup of it is there, so nothing of it runs. */
    readonly bound: boolean;
  }[];
  /** It is valid, and what the source says of it now is what the kernel holds. */
  readonly programmed: boolean;
  /** What is wrong with it, or why it is not programmed; null: nothing. */
  readonly problem: string | null;
}

/** Policies that are not what they say: whoever asks why a connection fails should see it. */
const MISLEADING: ReadonlySet<string> = new Set(['not_yet_enforced', 'unknown_peer', 'mode', 'policy_types']);

export interface NodeState {
  readonly node: string | null;
  /** What the source says; null: not known yet. */
  readonly wanted: Snapshot | null;
  /** What the kernel is held to. */
  readonly enforced: Snapshot | null;
  readonly bindings: Bindings;
  readonly problems: readonly Problem[];
  /** Why `wanted` is not enforced. */
  readonly refused: readonly Problem[];
  /** Pods that may be held here. */
  isHere(pod: Pod): boolean;
}

/** In told order. A policy that was deleted, and is enforced still, is among them. */
export function nodePolicies(state: NodeState): NodePolicies {
  const { node, wanted, enforced, problems, refused } = state;
  const held = new Map((enforced?.policies ?? []).map((policy) => [policyName(policy), policy]));
  const named = new Map((wanted?.policies ?? []).map((policy) => [policyName(policy), policy]));
  const snapshotOf = wanted ?? enforced;
  const whom = snapshotOf === null ? new Map<string, string[]>() : selected(snapshotOf, state);
  const whomHeld = enforced === null || enforced === wanted ? whom : selected(enforced, state);
  const reason = refused.map(({ object, message }) => `${object === null ? '' : `${object} `}${message}`)[0];
  const policies = [...new Map([...held, ...named]).values()].sort(byTold).map((policy): PolicyOnNode => {
    const name = policyName(policy);
    const isWanted = named.has(name);
    const isSame = isWanted && isEqual(held.get(name), policy);
    const isProgrammed = isSame && (enforced === wanted || isEqual(whom.get(name), whomHeld.get(name)));
    const own = problems.filter(({ object }) => object === name);
    const error = own.find(({ severity }) => severity === 'error');
    const misleading = own.find(({ code }) => MISLEADING.has(code));
    const pending = enforced === null ? 'nothing is enforced yet' : (reason ?? 'is being applied');
    const delay = isProgrammed ? null : isWanted ? pending : `is deleted, and enforced still: ${pending}`;
    return {
      ...{
        kind: policy.kind,
        namespace: policy.namespace,
        name: policy.name,
        effect: policy.effect,
        mode: policy.mode,
      },
      workloads: ((isWanted ? whom : whomHeld).get(name) ?? []).map((key) => ({
        name: workloadName(key),
        bound: state.bindings.has(key),
      })),
      programmed: isProgrammed && error === undefined,
      // What this node cannot hold, whatever the policy says, is mended here.
      problem:
        error === undefined
          ? (delay ?? misleading?.message ?? null)
          : isOfNode(error)
            ? `${error.message}; ${error.advice}`
            : error.message,
    };
  });
  return { node, ready: enforced !== null, policies };
}

/** Keys of workloads by policy. */
function selected(snapshot: Snapshot, { isHere }: NodeState): Map<string, string[]> {
  const whom = new Map<string, string[]>();
  const add = (policies: readonly Policy[], key: string): void => {
    for (const policy of policies) {
      const name = policyName(policy);
      const list = whom.get(name);
      if (list === undefined) whom.set(name, [key]);
      else list.push(key);
    }
  };
  const select = selections(snapshot);
  for (const pod of snapshot.pods) if (isHere(pod)) add(select(pod).shadow, `${pod.namespace}/${pod.name}`);
  for (const [unit, { shadow }] of unitSelections(snapshot)) add(shadow, unitKey(unit));
  return whom;
}

function isEqual(a: unknown, b: unknown): boolean {
  return a === b || JSON.stringify(a) === JSON.stringify(b);
}
