// SPDX-License-Identifier: Apache-2.0
// What does an error of the schema validator mean to a user, and what shall be written instead? Knows the shape of our kinds by its places.
import type { ErrorObject } from 'ajv';
import type { Path } from '../yaml/documents.ts';
import { mistyped, unknownField } from './core-types.ts';
import { badName, isTooLong } from './domain-name.ts';
import { type Finding, quote, wrong, wrongKey } from './finding.ts';
import { type CrdKind, isObject } from './kind.ts';
import { isPortName } from './network-policy.ts';
import { foreignEntity, meantField } from './other-apis.ts';
import { nearest, words } from './spelling.ts';

/** A finding for each mistake: several keywords may fail by one. */
export function describe(errors: readonly ErrorObject[], object: unknown, kind: CrdKind): Finding[] {
  return errors.flatMap((error) => {
    const path = pathOf(error.instancePath, object);
    const finding = describeOne(error, path, kind);
    return finding ? [finding] : [];
  });
}

function describeOne(error: ErrorObject, path: Path, kind: CrdKind): Finding | null {
  const { keyword, data } = error;
  const params = error.params as Record<string, unknown>;
  const parent = (error.parentSchema ?? {}) as Record<string, unknown>;
  if (path.at(-1) === 'port' && keyword !== 'type') return wrongPort(keyword, data, path);
  switch (keyword) {
    case 'additionalProperties': {
      const name = String(params.additionalProperty);
      const fields = Object.keys((parent.properties ?? {}) as object);
      return unknownField([...path, name], fields, meantField(name, path, kind));
    }
    case 'required':
      return missing(String(params.missingProperty), path, kind);
    case 'type':
      if (parent.enum) return wrongWord(data, parent.enum as string[], path);
      return mistyped(TYPES[String(parent.type)] ?? String(params.type), data, path);
    case 'enum':
      // Told by its type already.
      return typeof data === 'string' ? wrongWord(data, parent.enum as string[], path) : null;
    case 'pattern':
      // Told as empty, or with its length by checkNames.
      return (data === '' && parent.minLength) || (isNames(path) && isTooLong(data)) ? null : mispatterned(data, path);
    case 'minItems':
      return wrongKey('empty', path, 'the list is empty', emptyAdvice(path, kind));
    case 'minProperties': {
      const fields = words(Object.keys((parent.properties ?? {}) as object).sort());
      return wrongKey('one_of', path, 'nothing is set', `write ${fields}`);
    }
    case 'maxItems':
    case 'maxProperties': {
      if (keyword === 'maxProperties' && params.limit === 1) {
        const set = words(Object.keys((data ?? {}) as object)).replace(/ or (?=[^ ]*$)/, ' and ');
        return wrongKey('one_of', path, `${set} stand in one place, which takes one`, 'keep one of them');
      }
      const message = `more than ${String(params.limit)} items`;
      return wrongKey('limit', path, message, 'split them over several items, rules or policies');
    }
    case 'minLength':
      return wrong('empty', path, 'the text is empty', 'write a value, or remove the item');
    case 'maxLength':
      return wrong('limit', path, `longer than ${String(params.limit)} characters`, 'write a shorter one');
    case 'minimum':
    case 'maximum': {
      const { minimum, maximum } = parent;
      const range =
        maximum === undefined ? `of ${String(minimum)} or more` : `from ${String(minimum)} to ${String(maximum)}`;
      return wrong('range', path, `${quote(data)} is out of range`, `write a number ${range}`);
    }
    case 'uniqueItems': {
      const [i, j] = [Number(params.i), Number(params.j)];
      const item = (data as unknown[])[i];
      return wrong('repeated', [...path, Math.max(i, j)], `${quote(item)} is there twice`, 'remove one of the two');
    }
    default:
      return wrong('schema', path, error.message ?? keyword, 'look at the documentation of this field');
  }
}

/** One finding, however many keywords fail. */
function wrongPort(keyword: string, port: unknown, path: Path): Finding | null {
  if (typeof port === 'number') {
    return wrong(
      'port',
      path,
      `${port} is no port`,
      'write a number from 1 to 65535, or leave port out for every port',
    );
  }
  if (keyword === 'maxLength' && typeof port === 'string' && !isPortName(port.slice(0, 15))) return null;
  const advice = /^[0-9]+$/.test(String(port))
    ? `write ${Number(port)}, without quotes`
    : 'write a number, or at most 15 of a-z, 0-9 and -, one letter at least';
  return wrong('port', path, `${quote(port)} is no port name`, advice);
}

const TYPES: Readonly<Record<string, string>> = {
  object: 'a mapping',
  array: 'a list',
  string: 'text',
  integer: 'a whole number',
  'integer,string': 'a whole number or text',
};

/** A JSON pointer to a path: an index is a number where there is a list. */
function pathOf(pointer: string, object: unknown): Path {
  const path: (string | number)[] = [];
  let value = object;
  for (const part of pointer.split('/').slice(1)) {
    const name = part.replaceAll('~1', '/').replaceAll('~0', '~');
    const step = Array.isArray(value) ? Number(name) : name;
    path.push(step);
    value = (value as Record<string, unknown> | undefined)?.[step];
  }
  return path;
}

function missing(name: string, path: Path, kind: CrdKind): Finding {
  const isUpstream = kind === 'ClusterNetworkPolicy';
  const advice: Readonly<Record<string, string>> = {
    to: isUpstream ? UPSTREAM_TO : 'write to: [ … ] with at least one destination; entities: [All] for every one',
    action: 'write action: Accept, Deny or Pass',
    tier: 'write tier: Admin, which no namespace can override, or tier: Baseline, which its policies can',
    priority: 'write a number from 0 to 1000; the lower goes first',
    podSelector: 'write podSelector: {} for all pods',
    namespaceSelector:
      kind === 'ClusterEgressPolicy'
        ? 'write namespaceSelector: a cluster-scoped policy has no namespace of its own; {} for all namespaces'
        : 'write namespaceSelector: {} for all namespaces',
    namespace: 'write namespace: a cluster-scoped policy has no namespace of its own',
    subject: 'write subject: {namespaces: {}} for every pod, or narrower',
    spec: 'write spec: …',
  };
  return wrong('missing', [...path, name], `${name} is missing`, advice[name] ?? `write ${name}`);
}

const UPSTREAM_TO = 'write to: [ … ] with at least one destination; networks: [0.0.0.0/0, "::/0"] for every one';

function emptyAdvice(path: Path, kind: CrdKind): string {
  if (path.at(-1) === 'to') {
    return kind === 'ClusterNetworkPolicy'
      ? UPSTREAM_TO
      : 'write at least one destination; entities: [All] for every one';
  }
  if (path.at(-1) === 'protocols') return 'write at least one protocol, or leave protocols out to mean all';
  if (path.at(-1) === 'ports') return 'write at least one port, or leave ports out to mean every port and protocol';
  return 'write at least one item, or remove the list';
}

function wrongWord(value: unknown, choices: readonly string[], path: Path): Finding {
  if (typeof value !== 'string') {
    const found = Array.isArray(value) ? 'a list' : isObject(value) ? 'a mapping' : quote(value);
    return wrong('type', path, `must be ${words(choices)}, not ${found}`, `write ${words(choices)}`);
  }
  const isEntity = choices.includes('KubeAPIServer');
  const meant = (isEntity ? foreignEntity(value) : undefined) ?? nearest(value, choices) ?? words(choices);
  if (isEntity) return wrong('entity', path, `there is no entity ${quote(value)}`, `write ${meant}`);
  return wrong('enum', path, `there is no ${String(path.at(-1))} ${quote(value)}`, `write ${meant}`);
}

const isNames = (path: Path): boolean => path.at(-2) === 'domainNames' || path.at(-2) === 'names';

function mispatterned(value: unknown, path: Path): Finding {
  if (isNames(path)) return badName(value, path);
  if (path.at(-2) === 'units') {
    const advice = 'write the exact name of a service, such as kubelet.service: no wildcard, no slice';
    return wrong('unit', path, `${quote(value)} is no service unit`, advice);
  }
  const advice = 'write at most 63 of a-z, 0-9 and -, a letter or digit at either end';
  return wrong('name', path, `${quote(value)} is no valid name`, advice);
}
