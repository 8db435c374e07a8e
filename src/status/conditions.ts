// SPDX-License-Identifier: Apache-2.0
// How conditions are carried from one writing to the next. Knows the shape of meta/v1 Condition and no type of condition.

/** meta/v1 Condition. */
export interface Condition {
  readonly type: string;
  readonly status: 'True' | 'False' | 'Unknown';
  readonly observedGeneration?: number;
  /** RFC 3339, whole seconds, as metav1.Time is written. */
  readonly lastTransitionTime: string;
  readonly reason: string;
  readonly message: string;
}

/** What a condition should say, before it is known since when. */
export type WantedCondition = Pick<Condition, 'type' | 'status' | 'reason' | 'message'>;

/** meta/v1: a message has at most 32,768 characters; nobody reads more than this. */
const MAX_MESSAGE = 1024;

/**
 * `before` with what is wanted put in. `lastTransitionTime` changes only where `status` does (apimachinery's
 * meta.SetStatusCondition). Types of `own` that are not wanted are taken out; those of others are left as they are.
 */
export function mergeConditions(
  before: readonly Condition[],
  wanted: readonly WantedCondition[],
  own: ReadonlySet<string>,
  observedGeneration: number,
  nowMs: number,
): readonly Condition[] {
  const now = `${new Date(nowMs).toISOString().slice(0, 19)}Z`;
  const made = wanted.map((one): Condition => {
    const former = before.find(({ type }) => type === one.type);
    const isSame = former !== undefined && former.status === one.status;
    return {
      ...{ type: one.type, status: one.status, observedGeneration },
      lastTransitionTime: isSame ? former.lastTransitionTime : now,
      ...{ reason: one.reason, message: one.message.slice(0, MAX_MESSAGE) },
    };
  });
  const others = before.filter(({ type }) => !own.has(type) && !wanted.some((one) => one.type === type));
  return [...made, ...others];
}

/** The same but for the order of types and of fields: an API server may store either otherwise. */
export function equalConditions(a: readonly Condition[], b: readonly Condition[]): boolean {
  return JSON.stringify(sorted(a)) === JSON.stringify(sorted(b));
}

function sorted(conditions: readonly Condition[]): unknown[] {
  return [...conditions]
    .sort((a, b) => (a.type < b.type ? -1 : 1))
    .map((one) => [
      ...[one.type, one.status, one.observedGeneration ?? null, one.lastTransitionTime, one.reason, one.message],
    ]);
}

/** The conditions in a decoded status; whatever is none is passed over. */
export function readConditions(value: unknown): readonly Condition[] {
  if (!Array.isArray(value)) return [];
  return value.filter(
    (one): one is Condition => typeof one === 'object' && one !== null && typeof Reflect.get(one, 'type') === 'string',
  );
}
