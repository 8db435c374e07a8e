// SPDX-License-Identifier: Apache-2.0
// What does a CRD's structural schema make of an object? Defaulting, pruning and validation as apiextensions-apiserver does them,
// CEL rules excepted.
import type { Cause } from './failure.ts';
import { isObject, type Json, type JsonObject, listAt, objectAt, same } from './json.ts';

/** Unknown fields are dropped, defaults filled in. `metadata`, kind and apiVersion are the server's own. */
export function shaped(schema: JsonObject, object: JsonObject): JsonObject {
  const { apiVersion = '', kind = '', metadata = {}, ...rest } = object;
  return { apiVersion, kind, metadata, ...(shapedValue(schema, rest) as JsonObject) };
}

function shapedValue(schema: JsonObject, value: Json): Json {
  if (Array.isArray(value)) {
    const { items } = schema;
    return isObject(items) ? value.map((one) => shapedValue(items, one)) : value;
  }
  if (!isObject(value) || schema['x-kubernetes-int-or-string'] === true) return value;
  const properties = objectAt(schema, 'properties');
  const others = schema.additionalProperties;
  const keepsUnknown = schema['x-kubernetes-preserve-unknown-fields'] === true || others === true;
  const result: JsonObject = {};
  for (const [key, one] of Object.entries(value)) {
    const known = Object.hasOwn(properties, key) ? properties[key] : undefined;
    if (isObject(known)) {
      // A null where the schema has a default and no nullable counts as absent.
      if (one === null && known.nullable !== true) continue;
      result[key] = shapedValue(known, one);
    } else if (isObject(others)) result[key] = shapedValue(others, one);
    else if (keepsUnknown) result[key] = one;
  }
  for (const [key, known] of Object.entries(properties)) {
    if (isObject(known) && !Object.hasOwn(result, key) && known.default !== undefined) {
      result[key] = shapedValue(known, structuredClone(known.default));
    }
  }
  return result;
}

/** The paths of what pruning drops. */
export function unknownFields(schema: JsonObject, object: JsonObject): string[] {
  const { apiVersion: _, kind: __, metadata: ___, ...rest } = object;
  const unknown: string[] = [];
  findUnknown(schema, rest, '', unknown);
  return unknown;
}

function findUnknown(schema: JsonObject, value: Json, path: string, unknown: string[]): void {
  if (Array.isArray(value)) {
    const { items } = schema;
    if (isObject(items)) for (const [i, one] of value.entries()) findUnknown(items, one, `${path}[${i}]`, unknown);
  }
  if (!isObject(value) || schema['x-kubernetes-int-or-string'] === true) return;
  const properties = objectAt(schema, 'properties');
  const others = schema.additionalProperties;
  for (const [key, one] of Object.entries(value)) {
    const at = path === '' ? key : `${path}.${key}`;
    const known = Object.hasOwn(properties, key) ? properties[key] : others;
    if (isObject(known)) findUnknown(known, one, at, unknown);
    else if (schema['x-kubernetes-preserve-unknown-fields'] !== true && others !== true) unknown.push(at);
  }
}

/** Everything that the schema forbids, each with its path. */
export function violations(schema: JsonObject, object: JsonObject): Cause[] {
  const causes: Cause[] = [];
  const { apiVersion: _, kind: __, metadata: ___, ...rest } = object;
  const body = { ...schema, required: listAt(schema, 'required').filter((one) => one !== 'metadata') };
  check(body, rest, '', causes);
  return causes;
}

const typeOf = (value: Json): string =>
  Array.isArray(value)
    ? 'array'
    : value === null
      ? 'null'
      : typeof value === 'number'
        ? Number.isInteger(value)
          ? 'integer'
          : 'number'
        : typeof value;

function check(schema: JsonObject, value: Json, path: string, causes: Cause[]): void {
  const bad = (reason: string, message: string) =>
    causes.push({ field: path === '' ? '<nil>' : path, reason, message });
  const wrong = (message: string) =>
    bad('FieldValueInvalid', `Invalid value: ${JSON.stringify(value)}: ${path} in body ${message}`);
  const type = typeOf(value);
  const { type: wanted, enum: allowed, pattern } = schema;
  if (schema['x-kubernetes-int-or-string'] === true) {
    if (type !== 'integer' && type !== 'string') wrong('must be of type int or string');
  } else if (typeof wanted === 'string' && wanted !== type && !(wanted === 'number' && type === 'integer')) {
    if (!(value === null && schema.nullable === true)) {
      bad('FieldValueTypeInvalid', `Invalid value: "${type}": ${path} in body must be of type ${wanted}: "${type}"`);
    }
    return;
  }
  if (Array.isArray(allowed) && !allowed.some((one) => same(one, value))) {
    const list = allowed.map((one) => JSON.stringify(one)).join(', ');
    bad('FieldValueNotSupported', `Unsupported value: ${JSON.stringify(value)}: supported values: ${list}`);
  }
  const limit = (key: string, size: number, over: boolean, message: string) => {
    const bound = schema[key];
    if (typeof bound === 'number' && (over ? size > bound : size < bound)) wrong(message.replace('%', String(bound)));
  };
  if (typeof value === 'string') {
    if (typeof pattern === 'string' && !new RegExp(pattern).test(value)) wrong(`should match '${pattern}'`);
    limit('minLength', value.length, false, 'should be at least % chars long');
    limit('maxLength', value.length, true, 'should be at most % chars long');
  } else if (typeof value === 'number') {
    limit('minimum', value, false, 'should be greater than or equal to %');
    limit('maximum', value, true, 'should be less than or equal to %');
  } else if (Array.isArray(value)) {
    limit('minItems', value.length, false, 'should have at least % items');
    limit('maxItems', value.length, true, 'should have at most % items');
    const { items } = schema;
    if (isObject(items)) for (const [i, one] of value.entries()) check(items, one, `${path}[${i}]`, causes);
  } else if (isObject(value)) {
    limit('minProperties', Object.keys(value).length, false, 'should have at least % properties');
    limit('maxProperties', Object.keys(value).length, true, 'should have at most % properties');
    const at = (key: string): string => (path === '' ? key : `${path}.${key}`);
    for (const key of listAt(schema, 'required')) {
      if (typeof key === 'string' && !Object.hasOwn(value, key)) {
        causes.push({ field: at(key), reason: 'FieldValueRequired', message: 'Required value' });
      }
    }
    const properties = objectAt(schema, 'properties');
    for (const [key, one] of Object.entries(value)) {
      const known = Object.hasOwn(properties, key) ? properties[key] : schema.additionalProperties;
      if (isObject(known)) check(known, one, at(key), causes);
    }
  }
}
