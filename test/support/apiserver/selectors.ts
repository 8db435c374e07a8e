// SPDX-License-Identifier: Apache-2.0
// Does an object match labelSelector and fieldSelector of a request? Syntax of apimachinery (labels.Parse, fields.ParseSelector).
import { badRequest } from './failure.ts';

export type Matches = (values: Readonly<Record<string, string>>) => boolean;

const KEY = '[A-Za-z0-9](?:[-A-Za-z0-9_.]*)(?:/[-A-Za-z0-9_.]+)?';
const SET = new RegExp(`^(${KEY})\\s+(in|notin)\\s*\\(([^()]*)\\)$`);
const EQUALS = new RegExp(`^(${KEY})\\s*(==|=|!=)\\s*([-A-Za-z0-9_.]*)$`);
const NUMBER = new RegExp(`^(${KEY})\\s*([<>])\\s*(-?[0-9]+)$`);
const EXISTS = new RegExp(`^(!?)\\s*(${KEY})$`);

/** `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`. Throws a Failure of 400 on what cannot be read. */
export function labelSelector(text: string): Matches {
  const all = requirements(text).map(labelRequirement);
  return (labels) => all.every((one) => one(labels));
}

function labelRequirement(text: string): Matches {
  const set = SET.exec(text);
  if (set !== null) {
    const [, key = '', operator, list = ''] = set;
    const values = new Set(list.split(',').map((value) => value.trim()));
    if (operator === 'in') return (labels) => Object.hasOwn(labels, key) && values.has(labels[key] ?? '');
    return (labels) => !Object.hasOwn(labels, key) || !values.has(labels[key] ?? '');
  }
  const equals = EQUALS.exec(text);
  if (equals !== null) {
    const [, key = '', operator, value] = equals;
    if (operator === '!=') return (labels) => !Object.hasOwn(labels, key) || labels[key] !== value;
    return (labels) => Object.hasOwn(labels, key) && labels[key] === value;
  }
  const number = NUMBER.exec(text);
  if (number !== null) {
    const [, key = '', operator, value] = number;
    return (labels) => {
      const have = Number(Object.hasOwn(labels, key) ? labels[key] : Number.NaN);
      return operator === '<' ? have < Number(value) : have > Number(value);
    };
  }
  const exists = EXISTS.exec(text);
  if (exists === null) {
    throw badRequest(`unable to parse requirement: found '${text}', expected: !, identifier, or 'end of string'`);
  }
  const [, not, key = ''] = exists;
  return (labels) => Object.hasOwn(labels, key) === (not !== '!');
}

/** Splits at the commas outside parentheses. */
function requirements(text: string): string[] {
  return text
    .split(/,(?![^(]*\))/)
    .map((one) => one.trim())
    .filter((one) => one !== '');
}

export interface FieldSelector {
  readonly matches: Matches;
  /** The name that `metadata.name=NAME` pins, or null. */
  readonly name: string | null;
}

/** `metadata.name=a,spec.nodeName!=b`. Throws a Failure of 400 on a field that is not in `known`, as the registry does. */
export function fieldSelector(text: string, known: readonly string[]): FieldSelector {
  const all = requirements(text).map((one) => {
    const parsed = /^(.*?)(==|!=|=)(.*)$/.exec(one);
    if (parsed === null) throw badRequest(`invalid selector: '${text}'; can't understand '${one}'`);
    const [, field = '', operator, value = ''] = parsed;
    if (!known.includes(field)) throw badRequest(`field label not supported: ${field}`);
    return { field, equal: operator !== '!=', value };
  });
  return {
    matches: (fields) => all.every(({ field, equal, value }) => ((fields[field] ?? '') === value) === equal),
    name: all.find(({ field, equal }) => equal && field === 'metadata.name')?.value ?? null,
  };
}
