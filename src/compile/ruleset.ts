// SPDX-License-Identifier: Apache-2.0
// The policies on a workload as one thing with an id: rules flattened in told order, each with its precedence, its peers made
// concrete. Two workloads under the same policies share it. Knows no destination: rows.ts asks it about each.

import { MAX_LIMITS } from '#build/generated/abi.ts';
import { idOf } from '../model/hash.ts';
import type { NamePattern } from '../model/name.ts';
import type { Entity, Peer, Policy, Port, Rule, Selector } from '../model/objects.ts';
import type { Id, PolicyRef, RuleRef, RulesetInfo } from '../model/tables.ts';
import { type Asking, askingOf, type Domains, isOfUnion, limitsQueries } from './asking.ts';
import { Action } from './numbers.ts';

export type Tier = 'admin' | 'policy' | 'baseline' | 'limit';

/** A peer as a destination is asked about it. */
export type ResolvedPeer =
  | { readonly type: 'any' }
  | {
      readonly type: 'pods';
      /** Set where the policy means its own namespace. */
      readonly namespace: string | null;
      readonly namespaceSelector: Selector | null;
      readonly podSelector: Selector;
    }
  | { readonly type: 'nodes'; readonly selector: Selector }
  | { readonly type: 'service'; readonly service: string }
  | { readonly type: 'block'; readonly block: Block }
  /** Host, KubeAPIServer, DNS: addresses that somebody has, so identities know. */
  | { readonly type: 'owned'; readonly entity: OwnedEntity }
  /** World and the like: also what nobody has, so zones and kinds know. */
  | { readonly type: 'zone'; readonly entity: Entity; readonly except: ZoneExcept }
  /** What DNS told the workload of an address, whoever has it. */
  | { readonly type: 'names'; readonly patterns: ReadonlySet<NamePattern>; readonly anywhere: boolean };

export type OwnedEntity = Extract<Entity, 'Host' | 'KubeAPIServer' | 'DNS'>;
export interface ZoneExcept {
  readonly block: Block | null;
  readonly entities: readonly Entity[];
}

/** CIDRs less others: what an ipBlock or a networks peer covers. Its id is its content. */
export interface Block {
  readonly id: string;
  readonly cidrs: readonly string[];
  readonly except: readonly string[];
}

export interface Clause {
  readonly tier: Tier;
  /** Of policy the precedence; of admin and baseline precedence << 2 | action; of a limit its bit number. */
  readonly value: number;
  readonly peers: readonly ResolvedPeer[];
  readonly ports: readonly Port[] | null;
}

export interface Ruleset {
  readonly id: Id;
  /** In told order. */
  readonly policies: readonly Policy[];
  readonly info: RulesetInfo;
  readonly clauses: readonly Clause[];
  readonly isolated: boolean;
  /** The default denial is a Drop. */
  readonly silent: boolean;
  /** Bit masks. */
  readonly limits: number;
  readonly limitsSilent: number;
  /** Held on the addresses of its node, where a Service's connection is seen behind its translation. */
  readonly hostNetwork: boolean;
  /** Which addresses are its own node's; empty unless some rule asks. */
  readonly hosts: readonly string[];
  /** Which names may be asked; null: all. */
  readonly asking: Asking | null;
}

/** What a workload adds to its policies. */
export interface Place {
  readonly hostNetwork: boolean;
  readonly hosts: readonly string[];
  readonly domains: Domains;
}

const contents = new WeakMap<Policy, string>();
/** What of a policy its rulesets depend on. Policies are frozen, so that this is worked out once for each. */
function contentOf(policy: Policy): string {
  let content = contents.get(policy);
  if (content === undefined) {
    const { kind, namespace, name, effect, priority, onDeny, rules, allowedNames } = policy;
    content = JSON.stringify([kind, namespace, name, effect, priority, onDeny, rules, allowedNames]);
    contents.set(policy, content);
  }
  return content;
}

const asksForHost = new WeakMap<Policy, boolean>();
function asksHost(policy: Policy): boolean {
  let asks = asksForHost.get(policy);
  if (asks === undefined) {
    asks = policy.rules.some(({ peers }) =>
      peers.some(
        (peer) =>
          peer.type === 'entities' &&
          [...peer.entities, ...peer.except.entities].some((entity) => ['Host', 'World', 'Internet'].includes(entity)),
      ),
    );
    asksForHost.set(policy, asks);
  }
  return asks;
}

/** The key under which equal rulesets are found before one is built. */
export function rulesetContent(policies: readonly Policy[], place: Place): string {
  const hosts = policies.some(asksHost) ? place.hosts : [];
  const where = place.hostNetwork ? 'host' : 'pod';
  const domains = policies.some(limitsQueries) ? JSON.stringify(place.domains) : '';
  return `${where}${domains}\n${JSON.stringify(hosts)}\n${policies.map(contentOf).join('\n')}`;
}

/** Those of the policies on a workload that are Limits, where they are more than it may have; else none. */
export function tooManyLimits(policies: readonly Policy[]): readonly Policy[] {
  const limits = policies.filter(({ effect }) => effect === 'Limit');
  return limits.length > MAX_LIMITS ? limits : [];
}

/**
 * What holds in place of too many Limits: one that contains nothing, named as the first that is one too many. Below the Admin tier nothing
 * passes then; to say which of them would have contained a flow takes bits that a row does not have.
 */
function closing(limits: readonly Policy[]): Policy {
  const beyond = limits[MAX_LIMITS] as Policy;
  return {
    ...beyond,
    rules: [],
    onDeny: limits.every(({ onDeny }) => onDeny === 'Drop') ? 'Drop' : 'Reject',
    allowedNames: { only: limits.some(limitsQueries), names: [] },
  };
}

/** @param all policies in told order, at least one. */
export function ruleset(all: readonly Policy[], place: Place): Ruleset {
  const id = idOf(rulesetContent(all, place));
  const tooMany = tooManyLimits(all);
  const isClosed = tooMany.length > 0;
  const policies = isClosed ? all.filter(({ effect }) => effect === 'Admin') : all;
  const held = isClosed ? [closing(tooMany)] : policies.filter(({ effect }) => effect === 'Limit');
  const isolating = policies.filter(({ effect }) => effect === 'Isolate');
  const clauses: Clause[] = [];
  const clause = (tier: Tier, value: number, policy: Policy, { ports, peers }: Rule): void =>
    void clauses.push({ tier, value, ports, peers: peers.flatMap((peer) => resolvePeer(policy, peer)) });
  const flatten = (tier: Tier, sources: readonly Policy[]): RuleRef[] => {
    const refs: RuleRef[] = [];
    for (const policy of sources) {
      policy.rules.forEach((rule, index) => {
        const value = tier === 'policy' ? refs.length : (refs.length << 2) | Action[rule.action];
        refs.push({ ...ref(policy), index, ruleName: rule.name });
        if (rule.notEnforced === null) clause(tier, value, policy, rule);
      });
    }
    return refs;
  };
  const tier = (effect: 'Admin' | 'Baseline'): Policy[] =>
    policies.filter((policy) => policy.effect === effect).sort((a, b) => a.priority - b.priority); // stable: ties stay in told order
  const info: RulesetInfo = {
    id,
    admin: flatten('admin', tier('Admin')),
    policy: flatten('policy', policies.filter(isOfUnion)),
    baseline: flatten('baseline', tier('Baseline')),
    limits: held.map(ref),
    isolating: isolating.map(ref),
    asking: all.filter((policy) => isOfUnion(policy) && limitsQueries(policy)).map(ref),
  };
  held.forEach((policy, bit) => {
    for (const rule of policy.rules) {
      if (rule.notEnforced === null) clause('limit', bit, policy, rule);
    }
  });
  return {
    id,
    policies: all,
    info,
    clauses,
    isolated: isolating.length > 0,
    silent: isolating.length > 0 && isolating.every(({ onDeny }) => onDeny === 'Drop'),
    limits: (1 << held.length) - 1,
    limitsSilent: held.reduce((mask, { onDeny }, bit) => (onDeny === 'Drop' ? mask | (1 << bit) : mask), 0),
    hostNetwork: place.hostNetwork,
    hosts: policies.some(asksHost) ? place.hosts : [],
    asking: askingOf(all.filter(isOfUnion), held, place.domains),
  };
}

function ref({ kind, namespace, name }: Policy): PolicyRef {
  return { kind, namespace, name };
}

export function block(cidrs: readonly string[], except: readonly string[]): Block {
  return { id: `${[...cidrs].sort().join()}!${[...except].sort().join()}`, cidrs, except };
}

/** Some rule speaks of World and the like. */
export function hasZones({ clauses }: Ruleset): boolean {
  return clauses.some(({ peers }) => peers.some(({ type }) => type === 'zone'));
}

/** Some rule speaks of names. */
export function hasNames({ clauses }: Ruleset): boolean {
  return clauses.some(({ peers }) => peers.some(({ type }) => type === 'names'));
}

/** Some rule allows names to lead out of World. */
export function hasNamesAnywhere({ clauses }: Ruleset): boolean {
  return clauses.some(({ peers }) => peers.some((peer) => peer.type === 'names' && peer.anywhere));
}

function resolvePeer(policy: Policy, peer: Peer): ResolvedPeer[] {
  switch (peer.type) {
    case 'any':
      return [peer];
    case 'pods':
      return [
        {
          type: 'pods',
          namespace: peer.namespaceSelector === null ? policy.namespace : null,
          namespaceSelector: peer.namespaceSelector,
          podSelector: peer.podSelector,
        },
      ];
    case 'nodes':
      return [peer];
    case 'services':
      return peer.services.map(({ namespace, name }) => ({ type: 'service', service: `${namespace}/${name}` }));
    case 'networks':
      return [{ type: 'block', block: block(peer.cidrs, peer.except) }];
    case 'entities':
      return peer.entities.map((entity) => resolveEntity(entity, peer.except));
    case 'domainNames':
      return [{ type: 'names', patterns: new Set(peer.names), anywhere: peer.anywhere }];
  }
}

function resolveEntity(
  entity: Entity,
  except: { readonly cidrs: readonly string[]; readonly entities: readonly Entity[] },
): ResolvedPeer {
  const plain = except.cidrs.length === 0 && except.entities.length === 0;
  if (plain && entity === 'All') return { type: 'any' };
  if (plain && (entity === 'Host' || entity === 'KubeAPIServer' || entity === 'DNS')) return { type: 'owned', entity };
  return {
    type: 'zone',
    entity,
    except: { block: except.cidrs.length === 0 ? null : block(except.cidrs, []), entities: except.entities },
  };
}
