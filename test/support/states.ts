// SPDX-License-Identifier: Apache-2.0
// Lists of cluster states with the verdicts that each must give, and the orders in which such a list can be lived through.
// Knows neither compiler nor kernel: whoever runs a list says what it is to take a state, and to be in one.
import { parseAllDocuments } from 'yaml';
import { seeded } from '../oracle/random.ts';

/** Objects by `Kind/namespace/name`. */
export type Cluster = ReadonlyMap<string, unknown>;

/** `shop/web > data/db:5432/TCP allow EgressPolicy/shop/web` or `… deny NetworkPolicy/shop/web`; the policy is left out where none has a part in it. */
export type Expected = string;

export interface State {
  readonly name: string;
  readonly cluster: Cluster;
  readonly verdicts: readonly Expected[];
}

export interface StateList {
  readonly name: string;
  readonly states: readonly State[];
}

interface Change {
  readonly name: string;
  /** YAML documents that are made or replaced. */
  readonly put?: string;
  /** `Kind/namespace/name`, or `Kind/name`. */
  readonly gone?: readonly string[];
  readonly verdicts: readonly Expected[];
}

/** States told by what changes from one to the next. */
export function stateList(name: string, base: string, changes: readonly Change[]): StateList {
  let cluster: Cluster = objectsOf(base);
  const states = changes.map(({ name: state, put = '', gone = [], verdicts }): State => {
    const next = new Map([...cluster, ...objectsOf(put)]);
    for (const key of gone) if (!next.delete(key)) throw new Error(`${name}, ${state}: there is no ${key}`);
    cluster = next;
    return { name: state, cluster, verdicts };
  });
  return { name, states };
}

export function objectsOf(text: string): Map<string, unknown> {
  const objects = new Map<string, unknown>();
  for (const document of parseAllDocuments(text)) {
    const object: unknown = document.toJS();
    if (object === null) continue;
    objects.set(keyOf(object), object);
  }
  return objects;
}

function keyOf(object: unknown): string {
  const { kind, metadata } = object as { kind: string; metadata: { namespace?: string; name: string } };
  return [kind, metadata.namespace, metadata.name].filter((part) => part !== undefined).join('/');
}

/** One step of a run: a cluster, and the verdicts where it is one of the list's states. */
export interface Visit {
  readonly at: string;
  readonly cluster: Cluster;
  /** null: between two states. */
  readonly verdicts: readonly Expected[] | null;
}

/** Ways through a list. Whatever the way, a state gives its verdicts, and holds what it would hold had it been the first. */
export const ORDERS: Readonly<Record<string, (list: StateList) => readonly Visit[]>> = {
  forwards: ({ states }) => states.map(visit),
  backwards: ({ states }) => states.toReversed().map(visit),
  squashed: ({ states }) => states.slice(-1).map(visit),
  duplicated: ({ states }) => states.flatMap((state) => [visit(state), visit(state)]),
  'to nothing and back': ({ states }) =>
    states.flatMap((state) => [visit(state), { at: 'nothing', cluster: new Map(), verdicts: null }]),
  'one object at a time': ({ states }) => objectByObject(states, 1),
  'one object at a time, backwards and in another order': ({ states }) => objectByObject(states.toReversed(), 2),
  'in random order': ({ states }) => {
    const random = seeded(3);
    return Array.from({ length: states.length * 2 }, () => visit(random.pick(states)));
  },
};

function visit({ name, cluster, verdicts }: State): Visit {
  return { at: name, cluster, verdicts };
}

function objectByObject(states: readonly State[], seed: number): readonly Visit[] {
  const random = seeded(seed);
  const visits: Visit[] = [];
  let cluster: Cluster = new Map();
  for (const state of states) {
    const different = [...new Set([...cluster.keys(), ...state.cluster.keys()])].filter(
      (key) => JSON.stringify(cluster.get(key)) !== JSON.stringify(state.cluster.get(key)),
    );
    while (different.length > 0) {
      const [key = ''] = different.splice(random.between(0, different.length - 1), 1);
      const next = new Map(cluster);
      if (state.cluster.has(key)) next.set(key, state.cluster.get(key));
      else next.delete(key);
      cluster = next;
      const isThere = different.length === 0;
      visits.push({ at: `${state.name}, after ${key}`, cluster, verdicts: isThere ? state.verdicts : null });
    }
    cluster = state.cluster;
  }
  return visits;
}

export interface Question {
  readonly from: string;
  readonly to: string;
  readonly port: number;
  readonly protocol: 'TCP' | 'UDP' | 'SCTP';
  readonly verdict: string;
  readonly policy: string | null;
}

/** Reads an expected verdict. */
export function questionOf(expected: Expected): Question {
  const match = /^(\S+) > (\S+):(\d+)\/(TCP|UDP|SCTP) (allow|deny|audit)(?: (\S+))?$/.exec(expected);
  if (match === null) throw new Error(`write FROM > TO:PORT/PROTOCOL VERDICT [POLICY], not "${expected}"`);
  const [, from = '', to = '', port, protocol, verdict = '', policy = null] = match;
  return { from, to, port: Number(port), protocol: protocol as Question['protocol'], verdict, policy };
}
