// SPDX-License-Identifier: Apache-2.0
// Which objects hold now, given what the files say and what they last said validly? Yields a snapshot and every problem.
// Knows neither the kernel nor how files are watched.
//
// The rule, for each object: valid as written: that. Invalid: its last valid version. None: its stand-in, which isolates what
// the policy selects. Its document is gone: it is gone, unless the file holds something that cannot be told apart.
import type {
  EndpointSlice,
  Host,
  Namespace,
  Node,
  Pod,
  Policy,
  Problem,
  Service,
  Snapshot,
} from '../model/objects.ts';
import { type Parsed, readDocuments } from '../parse/document.ts';
import { withImplicitNamespaces } from '../parse/namespaces.ts';
import type { Scan } from './folder.ts';
import type { KeptObject, StateDir } from './state.ts';

/** An object and where it came from. */
interface Held {
  readonly key: string;
  readonly kind: string;
  readonly value: Namespace | Node | Pod | Service | EndpointSlice | Policy | null;
  readonly source: string;
}

/** What holds, and what is wrong. */
export interface Contents {
  readonly snapshot: Snapshot;
  readonly problems: readonly Problem[];
  /** By key, where problems of an object are told that show only beyond it: a Pod's cgroup (else its beginning), any other's name. */
  readonly places: ReadonlyMap<string, Place>;
}

export interface Place {
  readonly file: string;
  readonly line: number;
  readonly column: number;
}

export class ObjectStore {
  readonly #state: StateDir | null;
  /** By path and content: an unchanged file is not parsed again. */
  #parsed = new Map<string, { readonly hash: string; readonly documents: readonly Parsed[] }>();
  /** The last valid version of each object, by key. */
  #valid = new Map<string, Held>();
  /** Source files whose kept objects differ from what is on disk. */
  readonly #unsaved = new Set<string>();

  /** `state` null: nothing is remembered beyond this process. */
  constructor(state: StateDir | null, kept: ReadonlyMap<string, readonly KeptObject[]> = new Map()) {
    this.#state = state;
    for (const [source, objects] of kept) {
      for (const one of objects) {
        if (!this.#valid.has(one.key)) this.#valid.set(one.key, { ...one, value: one.value as Held['value'], source });
      }
    }
  }

  /** Takes what the folder holds now. Deterministic in the scans seen so far. */
  update(scan: Scan, host: Host): Contents {
    const problems: Problem[] = scan.unreadable.map(({ path, message }) => ({
      severity: 'error',
      code: 'unreadable',
      file: path,
      line: 0,
      column: 0,
      path: '',
      object: null,
      message: `${message}; what it last held stays in force`,
      advice: 'make it readable, or remove it',
    }));
    const documents = this.#parse(scan);
    const owners = this.#owners(documents);

    const places = new Map<string, Place>();
    const held = new Map<string, Held>();
    const valid = new Map<string, Held>();
    /** Files that hold something which could not be told apart: any object they held may be it. */
    const opaque = new Set<string>();
    for (const [source, parsed] of documents) {
      const told = new Map<string, Parsed>();
      for (const document of parsed) {
        problems.push(...document.problems);
        const { key, kind } = document;
        if (key === null || kind === null) {
          if (!document.valid) opaque.add(source);
          continue;
        }
        const first = told.get(key) ?? owners.get(key);
        if (first !== undefined && first !== document) {
          problems.push(duplicate(document, key, first));
          continue;
        }
        told.set(key, document);
        const at = kind === 'Pod' || kind === 'ClusterEgressPolicy' ? 'cgroup' : 'name';
        places.set(key, { file: source, ...document.places[at] });
        const before = this.#valid.get(key);
        if (document.valid) {
          const now =
            before !== undefined && before.source === source && before.value === document.value
              ? before
              : { key, kind, value: document.value, source };
          valid.set(key, now);
          held.set(key, now);
        } else if (before !== undefined) {
          const now = before.source === source ? before : { ...before, source };
          valid.set(key, now);
          held.set(key, now);
        } else if (document.standIn !== null) {
          held.set(key, { key, kind, value: document.standIn, source });
        }
      }
    }

    const unreadable = [...scan.unreadable.map(({ path }) => path), ...(scan.unsettled ?? [])];
    for (const [key, before] of this.#valid) {
      if (held.has(key)) continue;
      const cannotTell =
        opaque.has(before.source) ||
        unreadable.some((path) => before.source === path || before.source.startsWith(`${path}/`));
      if (!cannotTell) continue;
      held.set(key, before);
      valid.set(key, before);
    }

    this.#remember(valid);
    return { snapshot: snapshotOf(held, host), problems, places };
  }

  /**
   * Writes what changed since the last time to the state directory. Throws StateError; what could not be written is tried again
   * at the next call.
   */
  save(): void {
    if (this.#state === null) return;
    for (const source of [...this.#unsaved]) {
      const objects = [...this.#valid.values()].filter((one) => one.source === source);
      this.#state.write(
        source,
        objects.map(({ key, kind, value }) => ({ key, kind, value })),
      );
      this.#unsaved.delete(source);
    }
  }

  #parse(scan: Scan): Map<string, readonly Parsed[]> {
    const parsed = new Map<string, { readonly hash: string; readonly documents: readonly Parsed[] }>();
    for (const file of scan.files) {
      const before = this.#parsed.get(file.path);
      parsed.set(
        file.path,
        before?.hash === file.hash
          ? before
          : { hash: file.hash, documents: readDocuments({ path: file.path, text: file.text }) },
      );
    }
    this.#parsed = parsed;
    return new Map([...parsed].map(([path, { documents }]) => [path, documents]));
  }

  /** Of an object that is in several files, the document that counts: the file's that held it before, else the first by path. */
  #owners(documents: ReadonlyMap<string, readonly Parsed[]>): Map<string, Parsed> {
    const owners = new Map<string, Parsed>();
    const sources = new Map<string, string>();
    for (const [source, parsed] of documents) {
      for (const document of parsed) {
        if (document.key === null) continue;
        const holder = this.#valid.get(document.key)?.source;
        const owner = sources.get(document.key);
        if (owner === undefined || (owner !== holder && source === holder)) {
          owners.set(document.key, document);
          sources.set(document.key, source);
        }
      }
    }
    return owners;
  }

  #remember(valid: Map<string, Held>): void {
    for (const [key, now] of valid) {
      const before = this.#valid.get(key);
      if (before === now) continue;
      this.#unsaved.add(now.source);
      if (before !== undefined) this.#unsaved.add(before.source);
    }
    for (const [key, before] of this.#valid) if (!valid.has(key)) this.#unsaved.add(before.source);
    this.#valid = valid;
  }
}

function duplicate(document: Parsed, key: string, first: Parsed): Problem {
  const { line, column } = document.places.name;
  return {
    severity: 'error',
    code: 'duplicate_object',
    file: document.position.file,
    line,
    column,
    path: 'metadata.name',
    object: key,
    message: `${key} is there already, at ${first.position.file}:${first.places.name.line}, which stays`,
    advice: 'write another name, or remove one of the two',
  };
}

/** Sorted by key, so that the same objects are the same snapshot whatever their files. */
function snapshotOf(held: ReadonlyMap<string, Held>, host: Host): Snapshot {
  const of = <T>(...kinds: string[]): T[] =>
    [...held.values()]
      .filter((one) => kinds.includes(one.kind) && one.value !== null)
      .sort((a, b) => (a.key < b.key ? -1 : 1))
      .map((one) => one.value as T);
  const pods = of<Pod>('Pod');
  const services = of<Service>('Service');
  const endpointSlices = of<EndpointSlice>('EndpointSlice');
  const policies = of<Policy>('ClusterEgressPolicy', 'ClusterNetworkPolicy', 'EgressPolicy', 'NetworkPolicy');
  const used = [...pods, ...services, ...endpointSlices, ...policies].map(({ namespace }) => namespace);
  const namespaces = withImplicitNamespaces(
    of<Namespace>('Namespace'),
    used.filter((name) => name !== null),
  );
  return Object.freeze({
    namespaces: namespaces.sort((a, b) => (a.name < b.name ? -1 : 1)),
    nodes: of<Node>('Node'),
    pods,
    services,
    endpointSlices,
    policies,
    host,
  });
}
