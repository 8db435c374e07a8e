// SPDX-License-Identifier: Apache-2.0
// What does server-side apply make of an object? Ownership as FieldsV1 trees, of appliers only: a plain update owns nothing here.
import { Failure, type Named, qualified } from './failure.ts';
import { isObject, type Json, type JsonObject, listAt, objectAt, same, textAt, without } from './json.ts';
import { MERGE_KEYS } from './patch.ts';

export interface Applying {
  readonly manager: string;
  readonly force: boolean;
  readonly subresource: string | null;
  readonly of: Named;
  /** The structural schema, where there is one: it says which lists are maps. */
  readonly schema: JsonObject | null;
}

/** The object after `config` was applied, with its managedFields. Throws a Failure of 409 where another applier owns a field. */
export function apply(live: JsonObject, config: JsonObject, how: Applying): JsonObject {
  const wanted = withoutIdentity(config);
  const owned = treeOf(wanted, how.schema);
  const entries = listAt(live, 'metadata', 'managedFields').filter(isObject);
  const mine = entries.find((entry) => isMine(entry, how));
  const others = entries.filter((entry) => entry !== mine);

  const kept: JsonObject[] = [];
  const conflicts: { readonly manager: string; readonly field: string }[] = [];
  for (const entry of others) {
    const tree = objectAt(entry, 'fieldsV1');
    const clash = clashes(tree, owned, live, wanted, '');
    conflicts.push(...clash.map((field) => ({ manager: textAt(entry, 'manager'), field })));
    kept.push(how.force ? { ...entry, fieldsV1: pruned(tree, clash, '') } : entry);
  }
  if (conflicts.length > 0 && !how.force) {
    const told = conflicts.map(({ manager, field }) => `conflict with "${manager}": ${field}`);
    throw new Failure(
      409,
      'Conflict',
      `Apply failed with ${conflicts.length} conflict${conflicts.length === 1 ? '' : 's'}: ${told.join('\n')}`,
      {
        details: {
          kind: qualified(how.of),
          causes: conflicts.map(({ manager, field }) => ({
            reason: 'FieldManagerConflict',
            message: `conflict with "${manager}"`,
            field,
          })),
        },
      },
    );
  }

  const stillOwned = [owned, ...kept.map((entry) => objectAt(entry, 'fieldsV1'))];
  const cleared = dropped(live, objectAt(mine, 'fieldsV1'), stillOwned) as JsonObject;
  const merged = merge(cleared, wanted, owned) as JsonObject;
  const entry = {
    manager: how.manager,
    operation: 'Apply',
    apiVersion: textAt(config, 'apiVersion'),
    time: new Date().toISOString().replace(/\.\d+Z$/, 'Z'),
    fieldsType: 'FieldsV1',
    fieldsV1: owned,
    ...(how.subresource === null ? {} : { subresource: how.subresource }),
  };
  const now = mine !== undefined && same(mine.fieldsV1, owned) ? mine : entry;
  const inPlace = entries.map((one) => (one === mine ? now : (kept[others.indexOf(one)] ?? one)));
  const managedFields = (mine === undefined ? [...inPlace, now] : inPlace).filter(
    (one) => one === now || !isLeaf(one.fieldsV1),
  );
  const metadata = { ...objectAt(merged, 'metadata'), managedFields };
  return { ...merged, apiVersion: live.apiVersion ?? '', kind: live.kind ?? '', metadata };
}

const isMine = (entry: JsonObject, how: Applying): boolean =>
  entry.manager === how.manager &&
  entry.operation === 'Apply' &&
  (typeof entry.subresource === 'string' ? entry.subresource : null) === how.subresource;

function withoutIdentity(config: JsonObject): JsonObject {
  const metadata = without(
    objectAt(config, 'metadata'),
    'name',
    'namespace',
    'uid',
    'resourceVersion',
    'creationTimestamp',
    'generation',
    'managedFields',
  );
  const rest = without(config, 'apiVersion', 'kind', 'metadata');
  return Object.keys(metadata).length === 0 ? rest : { ...rest, metadata };
}

/** The keys of a list that is a map, or null for one that is replaced whole. */
function mapKeys(name: string, list: readonly Json[], schema: JsonObject | null): readonly string[] | null {
  if (list.length === 0 || !list.every(isObject)) return null;
  if (schema !== null) {
    const keys = listAt(schema, 'x-kubernetes-list-map-keys').filter((key) => typeof key === 'string');
    return keys.length === 0 ? null : keys;
  }
  const key = MERGE_KEYS[name]?.find((one) => list.every((item) => isObject(item) && Object.hasOwn(item, one)));
  return key === undefined ? null : [key];
}

function treeOf(value: JsonObject, schema: JsonObject | null): JsonObject {
  const tree: JsonObject = {};
  for (const [key, one] of Object.entries(value)) {
    const known = schema === null ? null : objectAt(schema, 'properties', key);
    if (isObject(one) && Object.keys(one).length > 0) tree[`f:${key}`] = treeOf(one, known);
    else if (Array.isArray(one)) {
      const keys = mapKeys(key, one, known);
      tree[`f:${key}`] =
        keys === null
          ? {}
          : Object.fromEntries(
              one
                .filter(isObject)
                .map((item) => [
                  `k:${JSON.stringify(Object.fromEntries(keys.map((name) => [name, item[name] ?? null])))}`,
                  { '.': {}, ...treeOf(item, known === null ? null : objectAt(known, 'items')) },
                ]),
            );
    } else tree[`f:${key}`] = {};
  }
  return tree;
}

/** What a step of a tree names inside a value. */
function step(value: Json | undefined, name: string): Json | undefined {
  if (name.startsWith('f:')) return isObject(value) ? value[name.slice(2)] : undefined;
  const wanted = JSON.parse(name.slice(2)) as JsonObject;
  return Array.isArray(value)
    ? value.find((item) => isObject(item) && Object.entries(wanted).every(([key, one]) => same(item[key], one)))
    : undefined;
}

const told = (path: string, name: string): string =>
  name.startsWith('f:')
    ? `${path}.${name.slice(2)}`
    : `${path}[${Object.entries(JSON.parse(name.slice(2)) as JsonObject)
        .map(([key, value]) => `${key}=${JSON.stringify(value)}`)
        .join(',')}]`;

const isLeaf = (tree: Json | undefined): boolean => !isObject(tree) || Object.keys(tree).length === 0;

/** Paths in both trees where the value wanted differs from the one that is there. */
function clashes(
  a: JsonObject,
  b: JsonObject,
  live: Json | undefined,
  wanted: Json | undefined,
  path: string,
): string[] {
  const found: string[] = [];
  for (const [name, mine] of Object.entries(b)) {
    const theirs = a[name];
    if (name === '.' || theirs === undefined) continue;
    const [before, after] = [step(live, name), step(wanted, name)];
    if (isLeaf(theirs) || isLeaf(mine)) {
      // Who owns an empty object owns none of the fields that others put there.
      if (!same(before, after) && !(isObject(before) && isObject(after))) found.push(told(path, name));
    } else found.push(...clashes(theirs as JsonObject, mine as JsonObject, before, after, told(path, name)));
  }
  return found;
}

function pruned(tree: JsonObject, paths: readonly string[], path: string): JsonObject {
  const result: JsonObject = {};
  for (const [name, below] of Object.entries(tree)) {
    if (name === '.') result[name] = below;
    else if (!paths.includes(told(path, name))) {
      const rest = isLeaf(below) ? below : pruned(below as JsonObject, paths, told(path, name));
      if (isLeaf(below) || !isLeaf(rest)) result[name] = rest;
    }
  }
  return result;
}

/** `value` without what `before` owned and nobody in `now` owns. */
function dropped(value: Json, before: JsonObject, now: readonly JsonObject[]): Json {
  let result = value;
  for (const [name, below] of Object.entries(before)) {
    if (name === '.') continue;
    const owners = now.map((tree) => tree[name]).filter((one) => one !== undefined);
    const here = step(result, name);
    if (here === undefined) continue;
    if (owners.length === 0) result = removed(result, name);
    else if (!isLeaf(below)) {
      result = replaced(result, name, dropped(here, below as JsonObject, owners.filter(isObject)));
    }
  }
  return result;
}

function removed(value: Json, name: string): Json {
  if (isObject(value)) return without(value, name.slice(2));
  const gone = step(value, name);
  return Array.isArray(value) ? value.filter((one) => one !== gone) : value;
}

function replaced(value: Json, name: string, by: Json): Json {
  if (isObject(value)) return { ...value, [name.slice(2)]: by };
  const old = step(value, name);
  return Array.isArray(value) ? value.map((one) => (one === old ? by : one)) : value;
}

function merge(live: Json | undefined, wanted: Json, tree: JsonObject): Json {
  if (isObject(wanted) && Object.keys(wanted).length > 0) {
    const result: JsonObject = isObject(live) ? { ...live } : {};
    for (const [key, one] of Object.entries(wanted)) result[key] = merge(result[key], one, objectAt(tree, `f:${key}`));
    return result;
  }
  if (!Array.isArray(wanted) || isLeaf(tree)) return isObject(wanted) && isObject(live) ? live : wanted;
  const items = Array.isArray(live) ? [...live] : [];
  for (const [name, below] of Object.entries(tree)) {
    const item = step(wanted, name);
    if (item === undefined) continue;
    const old = step(items, name);
    const now = merge(old, item, below as JsonObject);
    if (old === undefined) items.push(now);
    else items[items.indexOf(old)] = now;
  }
  return items;
}
