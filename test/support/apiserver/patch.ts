// SPDX-License-Identifier: Apache-2.0
// What becomes of an object under a patch? JSON Patch (RFC 6902), JSON Merge Patch (RFC 7386), strategic merge as Kubernetes has it.
import { badRequest, Failure } from './failure.ts';
import { isObject, type Json, type JsonObject, same, without } from './json.ts';

/** RFC 7386. */
export function mergePatch(target: Json | undefined, patch: Json): Json {
  if (!isObject(patch)) return patch;
  const result: JsonObject = isObject(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete result[key];
    else result[key] = mergePatch(result[key], value);
  }
  return result;
}

/** RFC 6902. Throws a Failure: 400 where the patch cannot be read, 422 where it does not fit. */
export function jsonPatch(target: JsonObject, operations: Json): JsonObject {
  if (!Array.isArray(operations))
    throw badRequest('json: cannot unmarshal object into Go value of type jsonpatch.Patch');
  let document: Json = structuredClone(target);
  for (const operation of operations) {
    if (!isObject(operation)) throw badRequest('a JSON patch is a list of operations');
    const { op, path, from, value } = operation;
    const steps = pointer(path);
    switch (op) {
      case 'add':
      case 'replace':
        document = changed(document, steps, op, structuredClone(value ?? null));
        break;
      case 'remove':
        document = changed(document, steps, op, null);
        break;
      case 'move':
      case 'copy': {
        const moved = structuredClone(found(document, pointer(from)));
        if (op === 'move') document = changed(document, pointer(from), 'remove', null);
        document = changed(document, steps, 'add', moved);
        break;
      }
      case 'test':
        if (!same(found(document, steps), value)) throw doesNotFit(`testing value ${String(path)} failed: test failed`);
        break;
      default:
        throw badRequest(`unknown operation ${JSON.stringify(op)}`);
    }
  }
  return document as JsonObject;
}

const doesNotFit = (why: string): Failure =>
  new Failure(422, 'Invalid', `the server rejected our request due to an error in our request: ${why}`);

function pointer(path: Json | undefined): string[] {
  if (typeof path !== 'string') throw badRequest('an operation of a JSON patch has a path');
  return path
    .split('/')
    .slice(1)
    .map((step) => step.replaceAll('~1', '/').replaceAll('~0', '~'));
}

function found(document: Json, steps: readonly string[]): Json {
  let here: Json | undefined = document;
  for (const step of steps) {
    if (Array.isArray(here)) here = here[Number(step)];
    else here = isObject(here) ? here[step] : undefined;
    if (here === undefined) throw doesNotFit(`missing path: ${steps.join('/')}`);
  }
  return here;
}

function changed(document: Json, steps: readonly string[], op: 'add' | 'replace' | 'remove', value: Json): Json {
  const last = steps.at(-1);
  if (last === undefined) return value;
  const parent = found(document, steps.slice(0, -1));
  if (Array.isArray(parent)) {
    const index = last === '-' ? parent.length : Number(last);
    if (!(index >= 0 && index <= parent.length - (op === 'add' ? 0 : 1))) throw doesNotFit(`invalid index ${last}`);
    if (op === 'add') parent.splice(index, 0, value);
    else if (op === 'replace') parent[index] = value;
    else parent.splice(index, 1);
  } else if (isObject(parent)) {
    if (op !== 'add' && !Object.hasOwn(parent, last)) throw doesNotFit(`missing key: ${last}`);
    if (op === 'remove') delete parent[last];
    else parent[last] = value;
  } else throw doesNotFit(`missing container: ${steps.join('/')}`);
  return document;
}

/** By which field the items of a list of objects are told apart (patchMergeKey of the Go types). Other lists are replaced. */
export const MERGE_KEYS: Readonly<Record<string, readonly string[]>> = {
  containers: ['name'],
  initContainers: ['name'],
  ephemeralContainers: ['name'],
  volumes: ['name'],
  env: ['name'],
  imagePullSecrets: ['name'],
  secrets: ['name'],
  volumeMounts: ['mountPath'],
  volumeDevices: ['devicePath'],
  ports: ['containerPort', 'port'],
  conditions: ['type'],
  addresses: ['type'],
  ownerReferences: ['uid'],
  hostAliases: ['ip'],
  podIPs: ['ip'],
  taints: ['key'],
  topologySpreadConstraints: ['topologyKey'],
};
/** Lists of plain values that are merged as sets. */
const SETS = new Set(['finalizers', 'podCIDRs']);

/** Kubernetes' strategic merge, without its rarest directives. */
export function strategicMerge(target: JsonObject, patch: JsonObject): JsonObject {
  if (patch.$patch === 'replace') return without(patch, '$patch');
  if (patch.$patch === 'delete') return {};
  let result = { ...target };
  const retained = patch.$retainKeys;
  if (Array.isArray(retained)) {
    result = Object.fromEntries(Object.entries(result).filter(([key]) => retained.includes(key)));
  }
  for (const [key, value] of Object.entries(patch)) {
    if (key === '$retainKeys' || key === '$patch' || key.startsWith('$setElementOrder/')) continue;
    if (key.startsWith('$deleteFromPrimitiveList/')) {
      const list = key.slice('$deleteFromPrimitiveList/'.length);
      const gone = Array.isArray(value) ? value : [];
      const before = result[list];
      if (Array.isArray(before)) result[list] = before.filter((one) => !gone.includes(one));
    } else if (value === null) delete result[key];
    else if (Array.isArray(value)) result[key] = mergeLists(key, result[key], value, patch[`$setElementOrder/${key}`]);
    else if (isObject(value)) result[key] = strategicMerge(isObject(result[key]) ? result[key] : {}, value);
    else result[key] = value;
  }
  return result;
}

function mergeLists(name: string, target: Json | undefined, patch: readonly Json[], order: Json | undefined): Json[] {
  const before = Array.isArray(target) ? target : [];
  if (SETS.has(name)) return [...new Set([...before, ...patch])];
  const mergeKey = MERGE_KEYS[name]?.find((key) => [...patch, ...before].some((one) => isObject(one) && key in one));
  if (mergeKey === undefined) return patch.filter((one) => !(isObject(one) && '$patch' in one));
  const items = new Map<Json | undefined, JsonObject>();
  for (const one of before) if (isObject(one)) items.set(one[mergeKey], one);
  for (const one of patch) {
    if (!isObject(one)) continue;
    const key = one[mergeKey];
    if (one.$patch === 'replace') return patch.filter((item) => item !== one);
    if (one.$patch === 'delete') items.delete(key);
    else items.set(key, strategicMerge(items.get(key) ?? {}, one));
  }
  const wanted = Array.isArray(order) ? order.map((one) => (isObject(one) ? one[mergeKey] : one)) : [];
  const rank = (key: Json | undefined): number =>
    wanted.includes(key ?? null) ? wanted.indexOf(key ?? null) : wanted.length;
  return [...items].sort(([a], [b]) => rank(a) - rank(b)).map(([, item]) => item);
}
