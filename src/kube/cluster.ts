// SPDX-License-Identifier: Apache-2.0
// Which objects of the cluster hold now? One collection a kind, one snapshot of all. Knows not how they are heard of.
//
// An object in a namespace that has not been heard of yet is not told: its labels may be what closes a door to it. Its pod is unknown
// until then, and denied as such.

import { changeBetween, type List, noteChange } from '../model/list-change.ts';
import type {
  EndpointSlice,
  Host,
  Namespace,
  Node,
  Pod,
  Policy,
  PolicyKind,
  Problem,
  Service,
  Snapshot,
} from '../model/objects.ts';
import {
  namespaceName,
  parseEndpointSlice,
  parseNamespace,
  parseNode,
  parsePod,
  parseService,
} from '../parse/cluster-objects.ts';
import type { KeptObject, StateDir } from '../source/state.ts';
import type { Contents } from '../source/store.ts';
import type { Kind } from '../validate/kind.ts';
import { Collection } from './collection.ts';
import { equal } from './equal.ts';
import { type KeptPolicy, type PolicyEntry, readPolicy } from './policy-entry.ts';
import type { Cut, Sink } from './reflector.ts';
import { Sharing } from './sharing.ts';
import { SortedList } from './snapshot.ts';

interface Metadata {
  readonly name: string;
  readonly namespace?: string | null;
}

const NO_PLACES: Contents['places'] = new Map();
/** In the order of their keys, which begin with the kind. */
const POLICY_KINDS: readonly PolicyKind[] = [
  'ClusterEgressPolicy',
  'ClusterNetworkPolicy',
  'EgressPolicy',
  'NetworkPolicy',
];

export class Cluster {
  readonly #state: StateDir | null;
  readonly #namespaces: Objects<Namespace>;
  readonly #nodes: Objects<Node>;
  readonly #pods: Objects<Pod>;
  readonly #services: Objects<Service>;
  readonly #endpointSlices: Objects<EndpointSlice>;
  readonly #policies: ReadonlyMap<PolicyKind, Policies>;
  #contents: Contents | null = null;

  /**
   * @param state null: nothing is remembered beyond this process. A folder of its own, not a folder source's.
   * @param kept what `state` kept from an earlier run.
   * @param nodeName where a Pod's uid matters; null: on every node.
   * @param onChange something may have changed: `contents` tells.
   */
  constructor(
    state: StateDir | null,
    kept: ReadonlyMap<string, readonly KeptObject[]>,
    nodeName: string | null,
    onChange: () => void,
  ) {
    const sharing = new Sharing();
    this.#state = state;
    this.#namespaces = new Objects((object) => parseNamespace(object), onChange);
    this.#nodes = new Objects((object) => parseNode(object), onChange);
    // The annotation postern.dev/cgroup is not among the fields: a pod's author could name another pod's cgroup.
    this.#pods = new Objects((object) => shared(parsePod(object, null), nodeName, sharing), onChange);
    this.#services = new Objects((object) => parseService(object), onChange);
    this.#endpointSlices = new Objects((object) => parseEndpointSlice(object), onChange);
    this.#policies = new Map(
      POLICY_KINDS.map((kind) => [kind, new Policies(kind, kept.get(sourceOf(kind)) ?? [], onChange)]),
    );
  }

  sink(kind: Kind): Sink {
    switch (kind) {
      case 'Namespace':
        return this.#namespaces.collection;
      case 'Node':
        return this.#nodes.collection;
      case 'Pod':
        return this.#pods.collection;
      case 'Service':
        return this.#services.collection;
      case 'EndpointSlice':
        return this.#endpointSlices.collection;
      default: {
        const policies = this.#policies.get(kind);
        if (policies === undefined) throw new TypeError(`no policies of kind ${kind}`);
        return policies.collection;
      }
    }
  }

  /** What holds now: the very contents of the last time, where nothing came of what was heard since. */
  contents(host: Host): Contents {
    const before = this.#contents;
    const namespaces = this.#namespaces.update(null);
    const known = this.#namespaces.collection.entries;
    const moved = before === null || namespaces === before.snapshot.namespaces ? null : renamed(before, known);
    const scope: Scope = { known, moved };
    const pods = this.#pods.list(scope);
    const services = this.#services.update(scope);
    const endpointSlices = this.#endpointSlices.update(scope);
    const nodes = this.#nodes.update(null);
    const parts = POLICY_KINDS.map((kind) => this.#policies.get(kind)?.update(scope) ?? []);
    const problems = POLICY_KINDS.flatMap((kind) => this.#policies.get(kind)?.problems() ?? []);
    const policies = parts.flat();
    const snapshot: Snapshot = {
      namespaces,
      nodes,
      pods,
      services,
      endpointSlices,
      policies: before !== null && sameItems(policies, before.snapshot.policies) ? before.snapshot.policies : policies,
      host: before !== null && equal(host, before.snapshot.host) ? before.snapshot.host : host,
    };
    const isSameSnapshot =
      before !== null &&
      (Object.keys(snapshot) as (keyof Snapshot)[]).every((field) => snapshot[field] === before.snapshot[field]);
    if (before !== null && isSameSnapshot && sameItems(problems, before.problems)) return before;
    this.#contents = {
      snapshot: isSameSnapshot ? before.snapshot : Object.freeze(snapshot),
      problems: Object.freeze(problems),
      places: NO_PLACES,
    };
    return this.#contents;
  }

  /** Every policy object, valid or not, with what the API server says of it. By `Kind/namespace/name`. */
  policyEntries(): ReadonlyMap<string, PolicyEntry> {
    const entries = [...this.#policies.values()].flatMap(({ collection }) => [...collection.entries.values()]);
    return new Map(entries.map((entry) => [entry.key, entry]));
  }

  /** Keeps the last valid version of each policy. Throws StateError; what could not be written is tried again at the next call. */
  save(): void {
    if (this.#state === null) return;
    for (const [kind, policies] of this.#policies) policies.save(this.#state, sourceOf(kind));
  }
}

/** Which namespaces are known, and which have come or gone since the last time. */
interface Scope {
  readonly known: ReadonlyMap<string, unknown>;
  readonly moved: ReadonlySet<string> | null;
}

/** A list as an array: the same one as long as nothing changes. */
class Whole<T extends object> {
  #list: List<T> | null = null;
  #array: readonly T[] = [];

  of(list: List<T>): readonly T[] {
    if (list === this.#list) return this.#array;
    const array = [...list];
    if (this.#list !== null) noteChange(this.#array, array, changeBetween(this.#list, list));
    this.#list = list;
    this.#array = array;
    return array;
  }
}

/** A kind that is read, and compared, as what the model makes of it. */
class Objects<T extends { readonly namespace?: string; readonly name: string }> {
  readonly collection: Collection<T>;
  readonly #list = new SortedList<T>();
  readonly #whole = new Whole<T>();

  constructor(parse: (object: Cut) => T, onChange: () => void) {
    this.collection = new Collection<T>(
      {
        keyOf,
        read: (object, before) => {
          const now = parse(object);
          return before !== undefined && equal(before, now) ? before : now;
        },
        isExpected: () => false,
      },
      onChange,
    );
  }

  /** @param scope null: of a kind that is in no namespace. */
  list(scope: Scope | null): List<T> {
    const { entries } = this.collection;
    const changed = new Set(this.collection.takeChanged());
    addMoved(changed, entries.keys(), scope);
    return this.#list.update(changed, (key) => {
      const value = entries.get(key);
      return value === undefined || !isInScope(value.namespace, scope) ? null : value;
    });
  }

  /** Of kinds that are few. */
  update(scope: Scope | null): readonly T[] {
    return this.#whole.of(this.list(scope));
  }
}

class Policies {
  readonly collection: Collection<PolicyEntry>;
  readonly #kept = new Map<string, KeptPolicy>();
  readonly #list = new SortedList<Policy>();
  readonly #whole = new Whole<Policy>();
  #problems: readonly Problem[] | null = null;
  /** Nothing is written before all are known: what is kept of the others would be lost. */
  #isSaved = true;

  constructor(kind: PolicyKind, kept: readonly KeptObject[], onChange: () => void) {
    for (const { key, value } of kept) this.#kept.set(key, value as KeptPolicy);
    this.collection = new Collection<PolicyEntry>(
      {
        keyOf,
        read: (object, before) => {
          const key = `${kind}/${keyOf(object)}`;
          return readPolicy(kind, object, before, this.#kept.get(key));
        },
        isExpected: () => this.#kept.size > 0,
      },
      onChange,
    );
  }

  update(scope: Scope): readonly Policy[] {
    const { entries } = this.collection;
    const changed = new Set(this.collection.takeChanged());
    if (changed.size > 0) {
      this.#problems = null;
      this.#isSaved = false;
    }
    addMoved(changed, entries.keys(), scope);
    const list = this.#list.update(changed, (key) => {
      const policy = entries.get(key)?.policy ?? null;
      return policy === null || !isInScope(policy.namespace ?? undefined, scope) ? null : policy;
    });
    return this.#whole.of(list);
  }

  problems(): readonly Problem[] {
    this.#problems ??= [...this.collection.entries.entries()]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .flatMap(([, { problems }]) => problems);
    return this.#problems;
  }

  save(state: StateDir, source: string): void {
    if (this.#isSaved) return;
    const now = new Map<string, KeptPolicy>();
    for (const { key, uid, valid } of this.collection.entries.values()) {
      if (valid !== undefined) now.set(key, { uid, policy: valid });
    }
    const isSame =
      now.size === this.#kept.size &&
      now.entries().every(([key, { uid, policy }]) => {
        const before = this.#kept.get(key);
        return before?.uid === uid && (before.policy === policy || equal(before.policy, policy));
      });
    if (!isSame) {
      const objects = [...now].map(([key, value]) => ({ key, kind: key.split('/')[0] ?? '', value }));
      state.write(source, objects);
    }
    this.#kept.clear();
    for (const [key, one] of now) this.#kept.set(key, one);
    this.#isSaved = true;
  }
}

/** `namespace/name`, or `name`: in the order of the model's keys, the kind left out. */
function keyOf(object: Cut): string {
  const { name, namespace } = object.metadata as Metadata;
  return namespace === undefined || namespace === null || namespace === '' ? name : `${namespace}/${name}`;
}

function isInScope(namespace: string | undefined, scope: Scope | null): boolean {
  return scope === null || namespace === undefined || scope.known.has(namespaceName(namespace));
}

function addMoved(changed: Set<string>, keys: Iterable<string>, scope: Scope | null): void {
  if (scope === null || scope.moved === null || scope.moved.size === 0) return;
  for (const key of keys) {
    const slash = key.indexOf('/');
    if (slash > 0 && scope.moved.has(key.slice(0, slash))) changed.add(key);
  }
}

/** Names of namespaces that have come or gone. */
function renamed(before: Contents, known: ReadonlyMap<string, unknown>): ReadonlySet<string> {
  const names = new Set(before.snapshot.namespaces.map(({ name }) => name));
  const gone = [...names].filter((name) => !known.has(name));
  const come = [...known.keys()].filter((name) => !names.has(name));
  return new Set([...gone, ...come]);
}

/** What differs from pod to pod is most of what a large cluster weighs: cgroups are named by uid, and those of other nodes are not here. */
function shared(pod: Pod, nodeName: string | null, sharing: Sharing): Pod {
  return {
    ...pod,
    uid: nodeName === null || pod.node === nodeName ? pod.uid : null,
    namespace: sharing.share(pod.namespace),
    node: sharing.share(pod.node),
    labels: sharing.share(pod.labels),
    ports: sharing.share(pod.ports),
  };
}

function sameItems<T>(a: readonly T[], b: readonly T[]): boolean {
  return a.length === b.length && a.every((item, i) => item === b[i]);
}

const sourceOf = (kind: PolicyKind): string => `kube:${kind}`;
