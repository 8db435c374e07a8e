// SPDX-License-Identifier: Apache-2.0
// What does a file of YAML or JSON say, object by object, and what is wrong with it? One file in, one entry an object out.
// Knows no other file (duplicates and clashes across files: folder.ts), no kernel, and not what was valid before.
import { hash } from 'node:crypto';
import type { EndpointSlice, Namespace, Node, Pod, Policy, Problem, Service } from '../model/objects.ts';
import { type Finding, pathText } from '../validate/finding.ts';
import { classify, isObject, isPolicy, type Kind, kinds } from '../validate/kind.ts';
import { checkObject } from '../validate/object.ts';
import { CGROUP_ANNOTATION } from '../validate/pod.ts';
import { type Path, type Position, readYaml, type SyntaxProblem, type YamlDocument } from '../yaml/documents.ts';
import { keyOf, readObject } from './object.ts';
import { standInFor } from './stand-in.ts';

export interface SourceFile {
  /** As problems shall name it. */
  readonly path: string;
  readonly text: string;
}

interface Read<K, V> {
  /**
   * `Kind/namespace/name`, cluster-scoped `Kind/name`. null: not an object that Postern knows (`valid`), or one that could not
   * be told apart (not `valid`: whatever this file held before may be what is broken now).
   */
  readonly key: string | null;
  readonly kind: K;
  /** null: invalid, or nothing to do with egress (a NetworkPolicy or ClusterNetworkPolicy for ingress alone). */
  readonly value: V | null;
  /** No problem of severity error. */
  readonly valid: boolean;
  /** For an invalid policy whose subject can be read: isolates that subject and allows nothing. */
  readonly standIn: Policy | null;
  readonly problems: readonly Problem[];
  /** Where the object begins, 1-based. */
  readonly position: { readonly file: string; readonly line: number; readonly column: number };
  /** Where clashes with other objects are told: at `metadata.name`, and at a Pod's annotation `postern.dev/cgroup`. */
  readonly places: { readonly name: Position; readonly cgroup: Position };
  /** SHA-256 (hex) of the object's content, whatever its spelling in YAML. */
  readonly hash: string;
}

export type Parsed =
  | Read<'Namespace', Namespace>
  | Read<'Node', Node>
  | Read<'Pod', Pod>
  | Read<'Service', Service>
  | Read<'EndpointSlice', EndpointSlice>
  | Read<'NetworkPolicy' | 'ClusterNetworkPolicy' | 'EgressPolicy' | 'ClusterEgressPolicy', Policy>
  /** Of a kind that Postern has no part in, or unreadable. */
  | Read<null, never>;

/**
 * Every object of a file, `kind: List` unfolded, empty documents left out. Total: whatever the text, problems are data.
 */
export function readDocuments(file: SourceFile): Parsed[] {
  return readLocated(file).map(({ parsed }) => parsed);
}

/** An object and the way to its places. Holds on to the text: not for keeping. */
export interface Located {
  readonly parsed: Parsed;
  /** Where in the file a path of the object is. */
  locate(path: Path, at: 'key' | 'value'): Position;
}

export function readLocated(file: SourceFile): Located[] {
  return readYaml(file.text).flatMap((document) =>
    readDocument(file.path, document).map(({ parsed, base }) => ({
      parsed,
      locate: (path, at) => document.locate([...base, ...path], at),
    })),
  );
}

/** Where in which document an object stands: objects of a List are below `items[n]`. */
interface Place {
  readonly file: string;
  readonly document: YamlDocument;
  readonly base: Path;
}

interface Based {
  readonly parsed: Parsed;
  readonly base: Path;
}

function readDocument(file: string, document: YamlDocument): Based[] {
  const place: Place = { file, document, base: [] };
  if (document.problems.length === 0) return readItem(place, document.value, null);
  // Past a syntax error nobody knows what belongs where; a key that is there twice leaves the rest as it was.
  if (!document.problems.every(({ code }) => code === 'duplicate_key')) {
    return [{ parsed: spoilt(place, identify(place, document.value), null, document.problems), base: [] }];
  }
  const read = readItem(place, document.value, null);
  if (read.length === 0) read.push({ parsed: unknown(place, document.value, null, []), base: [] });
  // What is wrong in no object of a list is wrong in all of them.
  const shared = document.problems.filter(({ path }) => !read.some(({ base }) => isBelow(path, base)));
  return read.map(({ parsed, base }, i) => {
    const own = document.problems.filter((problem) => isBelow(problem.path, base) && !shared.includes(problem));
    if (own.length + shared.length === 0) return { parsed, base };
    const paths = [...own, ...shared].map(({ path }) => path.slice(base.length));
    const isDoubtful = shared.length > 0 || paths.some(saysWhich);
    const isUncertain = isDoubtful || paths.some(saysWhom);
    const object = base.reduce((value: unknown, step) => (value as Record<string, unknown>)[step], document.value);
    const standIn = isUncertain || (!parsed.valid && parsed.standIn === null) ? null : isolated(parsed, object);
    const named = isDoubtful ? ({ ...parsed, kind: null, key: null } as Parsed) : parsed;
    return { parsed: spoilt(place, named, standIn, i === 0 ? [...own, ...shared] : own), base };
  });
}

/** What a document with problems of syntax comes to. */
function spoilt(place: Place, parsed: Parsed, standIn: Policy | null, told: readonly SyntaxProblem[]): Parsed {
  const problems = told.map(({ code, position, path, message, advice }): Problem => {
    const where = { file: place.file, ...position, path: pathText(path), object: parsed.key };
    return { severity: 'error', code, ...where, message, advice };
  });
  return { ...parsed, value: null, valid: false, standIn, problems: [...problems, ...parsed.problems] } as Parsed;
}

function isBelow(path: Path, ancestor: Path): boolean {
  return ancestor.every((step, i) => path[i] === step);
}

/** Whether a field decides which object this is. */
function saysWhich([field, name]: Path): boolean {
  if (field === 'metadata') return name === undefined || name === 'name' || name === 'namespace';
  return field === 'kind' || field === 'apiVersion';
}

function saysWhom([spec, field]: Path): boolean {
  return spec === 'spec' && (field === undefined || field === 'podSelector' || field === 'subject');
}

/** A valid policy in a document with a duplicate key is not used, but its subject can be read. */
function isolated(parsed: Parsed, value: unknown): Policy | null {
  return parsed.kind !== null && isPolicy(parsed.kind) && isObject(value) ? standInFor(parsed.kind, value, null) : null;
}

/** @param listed the kind of the items of a list that says it, for items that do not. */
function readItem(place: Place, value: unknown, listed: Kind | null): Based[] {
  const { base } = place;
  const object = listed && isObject(value) ? { kind: listed, apiVersion: kinds[listed].apiVersion, ...value } : value;
  const classified = classify(object);
  switch (classified.type) {
    case 'other': {
      const told = classified.finding === null ? [] : [classified.finding];
      return [{ parsed: { ...unknown(place, object, null, told), valid: true }, base }];
    }
    case 'list':
      return classified.items.flatMap((item, i) =>
        readItem({ ...place, base: [...base, 'items', i] }, item, classified.kind),
      );
    case 'wrong': {
      const { kind, finding } = classified;
      if (!kind || !isObject(object)) return [{ parsed: unknown(place, object, null, [finding]), base }];
      const { findings } = checkObject(kind, { ...object, kind });
      return [{ parsed: readKnown(place, kind, object, [finding, ...findings]), base }];
    }
    case 'known':
      return [{ parsed: readKnown(place, classified.kind, object as Record<string, unknown>, null), base }];
  }
}

function readKnown(place: Place, kind: Kind, object: Record<string, unknown>, told: Finding[] | null): Parsed {
  const { key, value, valid, standIn, findings } = readObject(kind, object, told);
  const problems = findings.map((finding) => toProblem(place, finding, key));
  return { ...placesOf(place), key, kind, value, valid, standIn, problems, hash: contentHash(object) } as Parsed;
}

function placesOf({ file, document, base }: Place): Pick<Parsed, 'position' | 'places'> {
  const annotation = ['metadata', 'annotations', CGROUP_ANNOTATION];
  return {
    position: { file, ...document.locate(base, 'key') },
    places: {
      name: document.locate([...base, 'metadata', 'name'], 'value'),
      cgroup: document.locate([...base, ...annotation], 'value'),
    },
  };
}

/** An object past a syntax error: which it is, if what says so stands before the error. */
function identify(place: Place, value: unknown): Parsed {
  const classified = classify(value);
  const identity = [['apiVersion'], ['kind'], ['metadata', 'name'], ['metadata', 'namespace']];
  const lastLine = Math.max(...identity.map((path) => place.document.locate(path, 'value').line));
  const isBefore = place.document.problems.every(({ position }) => lastLine < position.line);
  const kind = classified.type === 'known' && isBefore ? classified.kind : null;
  const parsed = unknown(place, value, kind && isObject(value) ? keyOf(kind, value) : null, []);
  return { ...parsed, kind } as Parsed;
}

function unknown(place: Place, value: unknown, key: string | null, findings: readonly Finding[]): Parsed {
  return {
    ...placesOf(place),
    key,
    kind: null,
    value: null,
    valid: false,
    standIn: null,
    problems: findings.map((finding) => toProblem(place, finding, key)),
    hash: contentHash(value),
  };
}

function toProblem({ file, document, base }: Place, finding: Finding, object: string | null): Problem {
  const path = [...base, ...finding.path];
  const { line, column } = document.locate(path, finding.at);
  const { severity, code } = finding;
  // What YAML takes for true or for a number was text to its author: told as it stands there.
  const source = code === 'type' && finding.message.startsWith('must be text') ? document.source(path) : null;
  const advice = source === null ? finding.advice : `write it in quotes: ${JSON.stringify(source)}`;
  return { severity, code, file, line, column, path: pathText(path), object, message: finding.message, advice };
}

function contentHash(value: unknown): string {
  return hash('sha256', canonical(value), 'hex');
}

/** JSON with keys in order. */
function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (!isObject(value)) return JSON.stringify(value) ?? 'null';
  const fields = Object.keys(value).sort();
  return `{${fields.map((field) => `${JSON.stringify(field)}:${canonical(value[field])}`).join(',')}}`;
}
