// SPDX-License-Identifier: Apache-2.0
// Has each field of a Kubernetes object a name and a type that Kubernetes gives it? By build/generated/core-types.json, the attribute maps of
// the Kubernetes client's generated models. Values beyond their type are others' business.
import { readFileSync } from 'node:fs';
import type { Path } from '../yaml/documents.ts';
import { type Finding, quote, wrong, wrongKey } from './finding.ts';
import { type CoreKind, isObject } from './kind.ts';
import { nearest } from './spelling.ts';

type Fields = Readonly<Record<string, string>>;

let loaded: Readonly<Record<string, Fields>> | null = null;

function types(): Readonly<Record<string, Fields>> {
  loaded ??= JSON.parse(
    readFileSync(new URL('../../build/generated/core-types.json', import.meta.url), 'utf8'),
  ) as Readonly<Record<string, Fields>>;
  return loaded;
}

/** Unknown fields and wrong types of an object of this kind, all of them. null stands for absent everywhere, as in Kubernetes. */
export function checkTypes(kind: CoreKind, value: unknown): Finding[] {
  const findings: Finding[] = [];
  check(`V1${kind}`, value, [], findings);
  return findings;
}

/** Unknown fields and wrong types of metadata, for the kinds whose schema leaves it to Kubernetes. */
export function checkMetadataTypes(metadata: unknown): Finding[] {
  const findings: Finding[] = [];
  check('V1ObjectMeta', metadata, ['metadata'], findings);
  return findings;
}

function check(type: string, value: unknown, path: Path, findings: Finding[]): void {
  if (value === null || value === undefined) return;
  const list = /^Array<(.*)>$/.exec(type)?.[1];
  const map = /^\{ \[key: string\]: (.*); \}$/.exec(type)?.[1];
  if (list !== undefined) {
    if (!Array.isArray(value)) findings.push(mistyped('a list', value, path));
    else for (const [i, item] of value.entries()) check(list, item, [...path, i], findings);
  } else if (map !== undefined) {
    const item = isQuantityMap(path) ? 'Quantity' : map;
    if (!isObject(value)) findings.push(mistyped('a mapping', value, path));
    else for (const [key, field] of Object.entries(value)) check(item, field, [...path, key], findings);
  } else checkOne(isQuantity(path) ? 'Quantity' : type, value, path, findings);
}

function checkOne(type: string, value: unknown, path: Path, findings: Finding[]): void {
  switch (type) {
    case 'any':
    case 'object':
      return;
    case 'string':
    case 'Date':
    case 'V1MicroTime':
      if (typeof value !== 'string') findings.push(mistyped('text', value, path));
      return;
    case 'boolean':
      if (typeof value !== 'boolean') findings.push(mistyped('true or false', value, path));
      return;
    case 'integer':
      if (!Number.isInteger(value)) findings.push(mistyped('a whole number', value, path));
      return;
    case 'number':
      if (typeof value !== 'number') findings.push(mistyped('a number', value, path));
      return;
    case 'IntOrString':
      if (!Number.isInteger(value) && typeof value !== 'string') {
        findings.push(mistyped('a whole number or text', value, path));
      }
      return;
    case 'Quantity':
      if (typeof value !== 'number' && typeof value !== 'string') findings.push(mistyped('a quantity', value, path));
      return;
  }
  const fields = types()[type];
  if (!fields) throw new Error(`no model for type ${type}`);
  if (!isObject(value)) {
    findings.push(mistyped('a mapping', value, path));
    return;
  }
  for (const [name, field] of Object.entries(value)) {
    const fieldType = Object.hasOwn(fields, name) ? fields[name] : undefined;
    if (fieldType !== undefined) check(fieldType, field, [...path, name], findings);
    else findings.push(unknownField([...path, name], Object.keys(fields)));
  }
}

/** The client's models call a quantity a string; the API takes numbers too (apimachinery, resource.Quantity). */
function isQuantityMap(path: Path): boolean {
  return /^(limits|requests|capacity|allocatable|overhead|allocatedResources)$/.test(String(path.at(-1)));
}
function isQuantity(path: Path): boolean {
  return /^(sizeLimit|divisor)$/.test(String(path.at(-1)));
}

/** `advice`: what to write where the field is a known mistake. */
export function unknownField(path: Path, fields: readonly string[], advice?: string): Finding {
  const name = String(path.at(-1));
  const meant = nearest(name, fields);
  const hint = meant
    ? `write ${meant}`
    : fields.length <= 16
      ? `remove it; known here: ${[...fields].sort().join(', ')}`
      : 'remove it, or look for its right place';
  return wrongKey('unknown_field', path, `there is no field ${quote(name)} here`, advice ?? hint);
}

export function mistyped(expected: string, value: unknown, path: Path): Finding {
  const isScalar = typeof value !== 'object' || value === null;
  const found = Array.isArray(value) ? 'a list' : isObject(value) ? 'a mapping' : quote(value);
  const advice =
    expected === 'text' && isScalar
      ? `write it in quotes: ${quote(String(value))}`
      : /^(a whole number|a number|true or false)$/.test(expected) && typeof value === 'string'
        ? `write ${expected}, without quotes`
        : expected === 'a list'
          ? 'write a list: a line that begins with - for each item'
          : expected === 'a mapping'
            ? 'write key: value lines, indented, or {}'
            : `write ${expected}`;
  return wrong('type', path, `must be ${expected}, not ${found}`, advice);
}
