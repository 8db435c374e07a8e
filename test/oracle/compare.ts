// SPDX-License-Identifier: Apache-2.0
// Does the product decide as the oracle does? If not: the smallest objects on which they still differ in the same way.
import { AssertionError } from 'node:assert';
import { stringify } from 'yaml';
import { type Decision, decide, type Query } from './decide.ts';
import { type GeneratedCase, generate } from './generate.ts';
import type { Host } from './kubernetes.ts';

/** The product under test: reads objects once, then answers queries. */
export type Product = (objects: readonly unknown[], host: Host) => (query: Query) => Decision;

export interface Mismatch {
  readonly seed: number;
  readonly objects: readonly unknown[];
  readonly host: Host;
  readonly query: Query;
  readonly expected: Decision;
  readonly actual: Decision;
}

/**
 * Asks oracle and product the same for cases of `count` seeds from `seed` on. Throws an AssertionError that names the seed,
 * the query, both decisions and, as YAML, the objects that are left after shrinking.
 */
export function compare(product: Product, options: { seed: number; count: number; queries?: number }): void {
  for (let seed = options.seed; seed < options.seed + options.count; seed++) {
    const mismatch = findMismatch(generate(seed, options.queries), product);
    if (mismatch === null) continue;
    const { query, expected, actual, objects, host } = shrink(mismatch, product);
    const shown = objects
      .map((object) => stringify(object, { flowCollectionPadding: false, lineWidth: 0 }))
      .join('---\n');
    throw new AssertionError({
      message: `POSTERN_SEED=${seed}: ${JSON.stringify(query)} on host ${JSON.stringify(host)}\n${shown}`,
      expected,
      actual,
    });
  }
}

/** The first query of a case on which the two differ, or null. */
export function findMismatch({ seed, objects, host, queries }: GeneratedCase, product: Product): Mismatch | null {
  const answer = product(objects, host);
  for (const query of queries) {
    const [expected, actual] = [decide(objects, host, query), answer(query)];
    if (!isSame(expected, actual)) return { seed, objects, host, query, expected, actual };
  }
  return null;
}

function isSame(a: Decision, b: Decision): boolean {
  return a.verdict === b.verdict && a.policy === b.policy && a.rule === b.rule && a.reason === b.reason;
}

/** Drops objects and parts of them while both still answer as they did (rule indexes may move), until nothing can go. */
export function shrink(mismatch: Mismatch, product: Product): Mismatch {
  let smallest = mismatch;
  for (;;) {
    const smaller = smallerObjects(smallest.objects)
      .map((objects) => ask({ ...smallest, objects }, product))
      .find((candidate) => candidate !== null && isSameKind(candidate, mismatch));
    if (smaller === undefined || smaller === null) return smallest;
    smallest = smaller;
  }
}

/** The mismatch with both answers asked anew; null where either can't answer, as when the asking pod is gone. */
function ask(mismatch: Mismatch, product: Product): Mismatch | null {
  const { objects, host, query } = mismatch;
  try {
    return { ...mismatch, expected: decide(objects, host, query), actual: product(objects, host)(query) };
  } catch {
    return null;
  }
}

function isSameKind(a: Mismatch, b: Mismatch): boolean {
  return !isSame(a.expected, a.actual) && isSameOutcome(a.expected, b.expected) && isSameOutcome(a.actual, b.actual);
}

function isSameOutcome(a: Decision, b: Decision): boolean {
  return a.verdict === b.verdict && a.reason === b.reason && a.policy === b.policy;
}

/** Lists that may become empty and still be valid and mean no more than before. */
const MAY_BE_EMPTY = new Set(['egress', 'except', 'containers', 'endpoints']);
/** Fields that may go and leave a valid object. */
const MAY_GO = new Set([
  'ports',
  'labels',
  'annotations',
  'mode',
  'onDeny',
  'except',
  'policyTypes',
  'name',
  'nodePort',
  'protocols',
  'ingress',
]);

/** Every list of objects that is smaller by one object, one element of a list, or one field. */
function* smallerObjects(objects: readonly unknown[]): Generator<unknown[]> {
  for (const index of objects.keys()) yield objects.toSpliced(index, 1);
  for (const [index, object] of objects.entries()) {
    for (const smaller of smallerValues(object, '', false)) yield objects.with(index, smaller);
  }
}

function* smallerValues(value: unknown, key: string, isInSpec: boolean): Generator<unknown> {
  if (Array.isArray(value)) {
    const list: unknown[] = value;
    for (const [index, item] of list.entries()) {
      if (list.length > 1 || MAY_BE_EMPTY.has(key)) yield list.toSpliced(index, 1);
      for (const smaller of smallerValues(item, '', isInSpec)) yield list.with(index, smaller);
    }
  } else if (typeof value === 'object' && value !== null) {
    for (const [name, item] of Object.entries(value)) {
      if (MAY_GO.has(name) && (isInSpec || name === 'labels' || name === 'annotations')) {
        yield Object.fromEntries(Object.entries(value).filter(([other]) => other !== name));
      }
      for (const smaller of smallerValues(item, name, isInSpec || name === 'spec')) yield { ...value, [name]: smaller };
    }
  }
}
