// SPDX-License-Identifier: Apache-2.0
// Do the CEL rules of a schema (x-kubernetes-validations) hold for a value? As kube-apiserver evaluates them: at every place that has one,
// with `self` the value there. A rule that fails to evaluate has failed.
import { Environment } from '@marcbachmann/cel-js';
import { addressKey } from '../model/address.ts';
import type { CelRule } from '../schema/crds.ts';
import type { Path } from '../yaml/documents.ts';
import { readCidr } from './cidr.ts';

/** Part of a JSON schema that leads to rules. */
export interface SchemaWithRules {
  readonly properties?: Readonly<Record<string, SchemaWithRules>>;
  readonly items?: SchemaWithRules;
  readonly 'x-kubernetes-validations'?: readonly CelRule[];
}

/** `message` is the rule's own: what is wrong; what to write instead. */
export interface BrokenRule {
  readonly path: Path;
  readonly rule: string;
  readonly message: string;
}

/** The functions that the API server has and plain CEL has not (k8s.io/apiserver/pkg/cel/library, cidr.go and ip.go). */
const environment = new Environment({ unlistedVariablesAreDyn: false })
  .registerVariable('self', 'dyn')
  .registerFunction('isCIDR(string): bool', (text: string) => readCidr(text) !== null)
  .registerFunction('isIP(string): bool', (text: string) => addressKey(text) !== null);

/** null: the rule could not be evaluated. */
type Evaluate = (self: unknown) => boolean | null;
const compiled = new Map<string, Evaluate>();

/** Throws where the rule is no CEL: a bug in our schema. */
export function compileRule(rule: string): Evaluate {
  let evaluate = compiled.get(rule);
  if (!evaluate) {
    const parsed = environment.parse(rule);
    const check = parsed.check();
    if (!check.valid || check.type !== 'bool')
      throw new Error(`CEL rule is no condition: ${rule}`, { cause: check.error });
    evaluate = (self) => {
      try {
        return parsed({ self }) === true;
      } catch {
        return null;
      }
    };
    compiled.set(rule, evaluate);
  }
  return evaluate;
}

/** Every rule that is broken, but for those that only repeat what was told already of the places `told`. */
export function brokenRules(schema: SchemaWithRules, value: unknown, told: readonly Path[]): BrokenRule[] {
  const broken: BrokenRule[] = [];
  visit(schema, withIntegers(value), [], told, broken);
  return broken;
}

function visit(schema: SchemaWithRules, value: unknown, path: Path, told: readonly Path[], broken: BrokenRule[]): void {
  for (const { rule, message, fieldPath } of schema['x-kubernetes-validations'] ?? []) {
    const holds = compileRule(rule)(value);
    if (holds === true) continue;
    const below = told.filter((place) => path.every((step, i) => place[i] === step));
    if (holds === null ? below.length > 0 : below.some((place) => repeats(rule, path, place))) continue;
    // An optional field of the value, such as `.port`, that the rule is about.
    const field = fieldPath?.slice(1);
    const isThere = field !== undefined && typeof value === 'object' && value !== null && Object.hasOwn(value, field);
    broken.push({ path: isThere ? [...path, field] : path, rule, message });
  }
  if (Array.isArray(value)) {
    if (schema.items) for (const [i, item] of value.entries()) visit(schema.items, item, [...path, i], told, broken);
  } else if (schema.properties && typeof value === 'object' && value !== null) {
    for (const [name, field] of Object.entries(value)) {
      const property = Object.hasOwn(schema.properties, name) ? schema.properties[name] : undefined;
      if (property) visit(property, field, [...path, name], told, broken);
    }
  }
}

/** A rule at `path` says nothing new where the place itself, a field of it, or what is below a field that the rule reads is wrong. */
function repeats(rule: string, path: Path, place: Path): boolean {
  const field = place[path.length];
  if (field === undefined) return true;
  if (typeof field === 'number') return place.length > path.length + 1 && rule.includes(`.${place.at(-1)}`);
  return place.length === path.length + 1 || rule.includes(`self.${field}`);
}

/** CEL tells int from double; cel-js knows an int by bigint. */
function withIntegers(value: unknown): unknown {
  if (typeof value === 'number') return Number.isSafeInteger(value) ? BigInt(value) : value;
  if (Array.isArray(value)) return value.map(withIntegers);
  if (typeof value === 'object' && value !== null) {
    return Object.fromEntries(Object.entries(value).map(([name, field]) => [name, withIntegers(field)]));
  }
  return value;
}
