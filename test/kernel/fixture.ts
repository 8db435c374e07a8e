// SPDX-License-Identifier: Apache-2.0
// Tables small enough to read: how tests of src/kernel say what the kernel should hold.

import type {
  Answer,
  Entry,
  Id,
  IdentityEntry,
  NetworkKey,
  PortPrefix,
  ResolverKey,
  Row,
  RowKey,
  RulesetInfo,
  Step,
  Tables,
  WorkloadEntry,
} from '#src/model/tables.ts';
import { NO_ID } from '#src/model/tables.ts';

/** An id of one letter: `a` is aaaaaaaaaaaaaaaa. */
export function id(letter: string): Id {
  return letter.repeat(16);
}

export function address(last: number): string {
  return `00000000000000000000ffffc61200${last.toString(16).padStart(2, '0')}`;
}

export const SILENT: Answer = { admin: 0xffff, policy: 0xffff, baseline: 0xffff, limits: 0, final: 0 };

export function entry(protocol: number, first: number, last = first, answer: Partial<Answer> = { policy: 0 }): Entry {
  return { protocol, first, last, answer: { ...SILENT, ...answer } };
}

export function row(ruleset: Id, subject: Id = NO_ID, more: Partial<Row> = {}): Row {
  return { ruleset, subject, kind: 0, flags: 0, limits: 0, limitsSilent: 0, entries: [], portSet: NO_ID, ...more };
}

export function keyOf({ ruleset, subject, kind }: Row): RowKey {
  return `${ruleset}/${subject}/${kind.toString(16).padStart(8, '0')}`;
}

export function info(ruleset: Id): RulesetInfo {
  const policy = { kind: 'NetworkPolicy', namespace: 'test', name: ruleset.slice(0, 1) };
  return {
    id: ruleset,
    admin: [],
    policy: [{ ...policy, index: 3, ruleName: 'web' }],
    baseline: [],
    limits: [],
    isolating: [policy],
    asking: [],
  };
}

export interface Sketch {
  readonly rows?: readonly Row[];
  readonly bridge?: readonly Row[];
  readonly identities?: Readonly<Record<string, IdentityEntry>>;
  readonly networks?: Readonly<Record<NetworkKey, Id>>;
  readonly names?: Readonly<Record<string, Id>>;
  readonly resolvers?: readonly string[];
  readonly portSets?: Readonly<Record<Id, readonly PortPrefix[]>>;
  /** Enforced ruleset by name, or both. */
  readonly workloads?: Readonly<Record<string, Id | readonly [Id, Id]>>;
  readonly selves?: Readonly<Record<string, readonly string[]>>;
}

export function step(sketch: Sketch): Step {
  const rows = new Map((sketch.rows ?? []).map((each) => [keyOf(each), each]));
  const workloads = new Map<string, WorkloadEntry>();
  for (const [name, rulesets] of Object.entries(sketch.workloads ?? {})) {
    const [enforced, shadow] = typeof rulesets === 'string' ? [rulesets, rulesets] : rulesets;
    const [namespace = '', pod = ''] = name.split('/');
    const selves = sketch.selves?.[name] ?? [];
    workloads.set(name, {
      namespace,
      name: pod,
      uid: null,
      cgroup: null,
      hostNetwork: false,
      enforced,
      shadow,
      selves,
    });
  }
  const tables: Tables = {
    identities: new Map(Object.entries(sketch.identities ?? {})),
    networks: new Map(Object.entries(sketch.networks ?? {})) as Map<NetworkKey, Id>,
    names: new Map(Object.entries(sketch.names ?? {})),
    resolvers: new Set(sketch.resolvers as ResolverKey[] | undefined),
    rows,
    portSets: new Map(Object.entries(sketch.portSets ?? {})),
    rulesets: new Map([...new Set([...rows.values()].map(({ ruleset }) => ruleset))].map((each) => [each, info(each)])),
    workloads,
  };
  return {
    tables,
    bridge: new Map((sketch.bridge ?? []).map((each) => [keyOf(each), each])),
    bridgePortSets: new Map(),
  };
}
