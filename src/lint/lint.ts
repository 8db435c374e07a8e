// SPDX-License-Identifier: Apache-2.0
// What is wrong in a folder: every problem of every object, and what makes no sense between them. Pure; knows neither the file system
// nor how problems are printed.
import { compile } from '../compile/compile.ts';
import { overfullProblems } from '../compile/overfull.ts';
import type { Host, Namespace, Pod, Problem, Snapshot } from '../model/objects.ts';
import { type Located, type Parsed, readLocated, type SourceFile } from '../parse/document.ts';
import { assemble } from '../parse/folder.ts';
import { withImplicitNamespaces } from '../parse/namespaces.ts';
import { type Finding, pathText } from '../validate/finding.ts';
import { checkBetween } from './between.ts';

export interface LintResult {
  /** Sorted by file, line, column. */
  readonly problems: readonly Problem[];
  /** Objects of kinds that Postern reads. */
  readonly objects: number;
  /** Objects of kinds that it has no part in. */
  readonly passedOver: number;
}

const NOBODY: Host = { node: null, addresses: [], resolvers: [] };

/** @param files in the order that says which of two equal objects was first. */
export function lintFiles(files: readonly SourceFile[]): LintResult {
  const located = files.flatMap((file) => readLocated(file));
  const { objects, problems } = assemble(located.map(({ parsed }) => parsed));
  const places = new Map(located.map((one) => [one.parsed, one]));
  const snapshot = snapshotOf(objects);

  const byKey = new Map(objects.map((parsed) => [parsed.key, places.get(parsed)]));
  const compiled = compile(snapshot);
  const between = checkBetween(snapshot, compiled).flatMap(({ key, finding }) => {
    const place = byKey.get(key);
    return place ? [toProblem(place, finding)] : [];
  });
  const limits = [...compiled.problems, ...overfullProblems(compiled.overfull)].map((problem): Problem => {
    const place = byKey.get(problem.object)?.parsed;
    return place ? { ...problem, ...place.position } : problem;
  });
  const all = [...located.flatMap(({ parsed }) => parsed.problems), ...problems, ...between, ...limits];
  const passedOver = located.filter(({ parsed }) => parsed.kind === null && parsed.valid).length;
  return { problems: all.sort(byPlace), objects: located.length - passedOver, passedOver };
}

function snapshotOf(objects: readonly Parsed[]): Snapshot {
  const snapshot = {
    namespaces: [] as Namespace[],
    nodes: [] as Snapshot['nodes'][number][],
    pods: [] as Pod[],
    services: [] as Snapshot['services'][number][],
    endpointSlices: [] as Snapshot['endpointSlices'][number][],
    policies: [] as Snapshot['policies'][number][],
    host: NOBODY,
  };
  for (const { kind, value } of objects) {
    if (value === null) continue;
    switch (kind) {
      case 'Namespace':
        snapshot.namespaces.push(value);
        break;
      case 'Node':
        snapshot.nodes.push(value);
        break;
      case 'Pod':
        snapshot.pods.push(value);
        break;
      case 'Service':
        snapshot.services.push(value);
        break;
      case 'EndpointSlice':
        snapshot.endpointSlices.push(value);
        break;
      default:
        snapshot.policies.push(value);
    }
  }
  const used = [...snapshot.pods, ...snapshot.services, ...snapshot.endpointSlices, ...snapshot.policies];
  const names = used.flatMap(({ namespace }) => namespace ?? []);
  return { ...snapshot, namespaces: withImplicitNamespaces(snapshot.namespaces, names) };
}

function toProblem({ parsed, locate }: Located, finding: Finding): Problem {
  const { severity, code, path, at, message, advice } = finding;
  const place = { file: parsed.position.file, ...locate(path, at) };
  return { severity, code, ...place, path: pathText(path), object: parsed.key, message, advice };
}

function byPlace(a: Problem, b: Problem): number {
  const [fileA, fileB] = [a.file ?? '', b.file ?? ''];
  if (fileA !== fileB) return fileA < fileB ? -1 : 1;
  return a.line - b.line || a.column - b.column;
}
