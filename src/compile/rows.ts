// SPDX-License-Identifier: Apache-2.0
// What does a ruleset say of a subject? One pure function for each kind of subject; a row is a function of the two contents
// alone, so it is worked out once for each pair and never edited.

import {
  FINAL_SILENT,
  NAME_ANYWHERE,
  NAME_ASKED,
  PROTOCOL_ANY,
  REASON_NO_READY_ENDPOINT,
  ROW_ENTRIES,
  ROW_ISOLATED,
  ROW_NAMES,
  ROW_PORT_SET,
  ROW_SILENT,
  ROW_ZONES,
  RULE_NONE,
} from '#build/generated/abi.ts';
import type { Entity, Port } from '../model/objects.ts';
import { type Answer, type Id, NO_ID, type Row } from '../model/tables.ts';
import { matches } from '../resolve/selector.ts';
import { askedOutcome } from './asking.ts';
import { compose, type Outcome } from './compose.ts';
import {
  type Contribution,
  entries,
  type Final,
  lookUp,
  merge,
  type PortPair,
  portSet,
  SILENT_ANSWER,
} from './entries.ts';
import type { Endpoint, FrontPort, Identity, Kind } from './identity.ts';
import type { NameClass } from './names.ts';
import { IcmpKind, Protocol } from './numbers.ts';
import type { NetworkClass } from './prefixes.ts';
import {
  type Clause,
  hasNames,
  hasNamesAnywhere,
  hasZones,
  type ResolvedPeer,
  type Ruleset,
  type ZoneExcept,
} from './ruleset.ts';

type Range = readonly [protocol: number, first: number, last: number, except?: readonly PortPair[]];
const EVERY_PORT: Range = [PROTOCOL_ANY, 0, 0xffff];

/** The header: settings, and what holds for every destination. */
export function headerRow(ruleset: Ruleset): Row {
  const flags =
    (ruleset.isolated ? ROW_ISOLATED : 0) |
    (ruleset.silent ? ROW_SILENT : 0) |
    (hasZones(ruleset) ? ROW_ZONES : 0) |
    (hasNames(ruleset) ? ROW_NAMES : 0);
  const contributions = contribute(ruleset, (peer, clause) => (peer.type === 'any' ? numbered(clause.ports) : []));
  const { limits, limitsSilent } = ruleset;
  return row(ruleset, NO_ID, 0, entries(contributions), { flags, limits, limitsSilent }) as Row;
}

/** Where rows that were worked out before are found; null: nothing is said. */
export interface RowSource {
  readonly header: (ruleset: Ruleset) => Row;
  readonly identity: (ruleset: Ruleset, identity: Identity) => Row | null;
  readonly network: (ruleset: Ruleset, network: NetworkClass) => Row | null;
  readonly zone: (ruleset: Ruleset, zone: NetworkClass, kind: Kind) => Row | null;
  /** `kind` 0: of an address in World; NAME_ANYWHERE: of any other; NAME_ASKED: of the name itself, when DNS is asked for it. */
  readonly name: (ruleset: Ruleset, name: NameClass, kind: number) => Row | null;
}

/** null: the ruleset says nothing of it, and no row is kept. `rows` answers for what stands behind a Service. */
export function identityRow(ruleset: Ruleset, identity: Identity, rows: RowSource): Row | null {
  const own = identityContributions(ruleset, identity);
  const finals = identity.fronts.flatMap((front): Final[] => {
    const outcome = judgeFront(ruleset, identity, front, rows);
    // Where names count, too, they might make a difference. Most rulesets deny most Services as they would an address that nobody has, and then need no row for them.
    if (!hasNamesAnywhere(ruleset) && isSame(outcome, judgeAddress(ruleset, identity, own, front, rows))) return [];
    return [{ protocol: front.protocol, port: front.port, answer: finalAnswer(outcome) }];
  });
  return row(ruleset, identity.id, 0, entries(own, finals));
}

/** What comes of a front's address where no final verdict is held for it. */
function judgeAddress(
  ruleset: Ruleset,
  { network, zone, kind }: Identity,
  own: readonly Contribution[],
  { protocol, port }: FrontPort,
  rows: RowSource,
): Outcome {
  const ask = (list: Row['entries'] | undefined): Answer => lookUp(list ?? [], protocol, port);
  const answers = [
    ask(rows.header(ruleset).entries),
    own.length === 0 ? SILENT_ANSWER : ask(entries(own)),
    network === null ? SILENT_ANSWER : ask(rows.network(ruleset, network)?.entries),
    zone === null ? SILENT_ANSWER : ask(rows.zone(ruleset, zone, kind)?.entries),
  ];
  return compose(ruleset, answers.reduce(merge));
}

function isSame(a: Outcome, b: Outcome): boolean {
  return a.denied === b.denied && a.reason === b.reason && a.rule === b.rule && a.silent === b.silent;
}

export function networkRow(ruleset: Ruleset, network: NetworkClass): Row | null {
  return row(ruleset, network.id, 0, entries(networkContributions(ruleset, network)));
}

export function zoneRow(ruleset: Ruleset, zone: NetworkClass, kind: Kind): Row | null {
  return row(ruleset, zone.id, kind.code, entries(zoneContributions(ruleset, zone, kind)));
}

/** What holds of every name that DNS is asked for; null: it may be. */
export function askedRow(ruleset: Ruleset): Row | null {
  return ruleset.asking === null ? null : finalRow(ruleset, NO_ID, askedOutcome(ruleset.asking, []));
}

export function nameRow(ruleset: Ruleset, { id, patterns }: NameClass, kind: number): Row | null {
  if (kind === NAME_ASKED) {
    const { asking } = ruleset;
    if (asking === null) return null;
    const outcome = askedOutcome(asking, patterns);
    return isSame(outcome, askedOutcome(asking, [])) ? null : finalRow(ruleset, id, outcome);
  }
  const contributions = contribute(ruleset, (peer, { ports }) =>
    peer.type === 'names' &&
    (kind !== NAME_ANYWHERE || peer.anywhere) &&
    patterns.some((pattern) => peer.patterns.has(pattern))
      ? numbered(ports)
      : [],
  );
  return row(ruleset, id, kind, entries(contributions));
}

function finalRow(ruleset: Ruleset, name: Id, outcome: Outcome): Row | null {
  const [protocol, first, last] = EVERY_PORT;
  return row(ruleset, name, NAME_ASKED, [{ protocol, first, last, answer: finalAnswer(outcome) }]);
}

function row(
  ruleset: Ruleset,
  subject: Id,
  kind: number,
  list: Row['entries'],
  header?: { readonly flags: number; readonly limits: number; readonly limitsSilent: number },
): Row | null {
  if (header === undefined && list.length === 0) return null;
  const crowded = list.length > ROW_ENTRIES;
  return {
    ruleset: ruleset.id,
    subject,
    kind,
    flags: (header?.flags ?? 0) | (crowded ? ROW_PORT_SET : 0),
    limits: header?.limits ?? 0,
    limitsSilent: header?.limitsSilent ?? 0,
    entries: list,
    portSet: crowded ? portSet(list).id : NO_ID,
  };
}

function contribute(
  ruleset: Ruleset,
  ranges: (peer: ResolvedPeer, clause: Clause) => readonly Range[],
): Contribution[] {
  return ruleset.clauses.flatMap((clause) =>
    clause.peers.flatMap((peer) =>
      ranges(peer, clause).map(([protocol, first, last, except = []]) => ({
        ...{ protocol, first, last, tier: clause.tier, value: clause.value, except },
      })),
    ),
  );
}

function identityContributions(ruleset: Ruleset, identity: Identity): Contribution[] {
  return contribute(ruleset, (peer, clause) => identityRanges(ruleset, peer, clause, identity));
}

function identityRanges(ruleset: Ruleset, peer: ResolvedPeer, { ports }: Clause, identity: Identity): readonly Range[] {
  const { pod } = identity;
  switch (peer.type) {
    case 'any': // its numbers are the header's
      return pod === null ? [] : named(ports, pod.ports);
    case 'pods':
      if (pod === null || (peer.namespace !== null && peer.namespace !== pod.namespace)) return [];
      if (peer.namespaceSelector !== null && !matches(peer.namespaceSelector, pod.namespaceLabels)) return [];
      return matches(peer.podSelector, pod.labels) ? [...numbered(ports), ...named(ports, pod.ports)] : [];
    case 'nodes':
      return identity.nodes.some((labels) => matches(peer.selector, labels)) ? numbered(ports) : [];
    case 'service':
      return identity.memberships
        .filter((member) => member.service === peer.service && isServicePort(ports, member))
        .map(({ protocol, target }): Range => [protocol, target, target]);
    case 'block':
      return identity.namedBlocks.flatMap(([key, port]) =>
        (ports ?? [])
          .filter(({ protocol, ...rest }) => 'port' in rest && key === `${protocol}/${rest.port} ${peer.block.id}`)
          .map(({ protocol }): Range => [Protocol[protocol], port, port]),
      );
    case 'owned':
      switch (peer.entity) {
        case 'Host':
          return isHost(ruleset, identity.kind) ? numbered(ports) : [];
        case 'KubeAPIServer':
          return identity.kind.apiServer.map(single);
        case 'DNS':
          return identity.kind.dns.map(single);
      }
      return [];
    case 'zone':
    case 'names':
      return [];
  }
}

function networkContributions(ruleset: Ruleset, network: NetworkClass): Contribution[] {
  return contribute(ruleset, (peer, { ports }) =>
    peer.type === 'block' && network.blocks.has(peer.block.id) ? numbered(ports) : [],
  );
}

function zoneContributions(ruleset: Ruleset, zone: NetworkClass, kind: Kind): Contribution[] {
  return contribute(ruleset, (peer, { ports }) => {
    if (peer.type !== 'zone' || takes(ruleset, peer.except, zone, kind)) return [];
    const ranges =
      peer.entity === 'KubeAPIServer' || peer.entity === 'DNS'
        ? ownedPorts(peer.entity, kind).map(single)
        : isIn(ruleset, peer.entity, zone, kind)
          ? numbered(ports)
          : [];
    const taken = peer.except.entities.flatMap((entity) => ownedPorts(entity, kind));
    return ranges.flatMap((range): Range[] =>
      range[0] === PROTOCOL_ANY ? [[PROTOCOL_ANY, 0, 0xffff, taken]] : without(range, taken),
    );
  });
}

/** Is the address, ports aside, in the entity? */
function isIn(ruleset: Ruleset, entity: Entity, zone: NetworkClass, kind: Kind): boolean {
  switch (entity) {
    case 'All':
      return true;
    case 'World':
    case 'Internet':
      return zone.blocks.has(entity) && !kind.cluster && !isHost(ruleset, kind);
    case 'Cluster':
      return kind.cluster || zone.blocks.has('Cluster');
    case 'Host':
      return isHost(ruleset, kind);
    case 'KubeAPIServer':
    case 'DNS':
      return false; // they bring ports; see ownedPorts
  }
}

function takes(ruleset: Ruleset, { block, entities }: ZoneExcept, zone: NetworkClass, kind: Kind): boolean {
  return (block !== null && zone.blocks.has(block.id)) || entities.some((entity) => isIn(ruleset, entity, zone, kind));
}

function isHost(ruleset: Ruleset, kind: Kind): boolean {
  return kind.hosts.some((host) => ruleset.hosts.includes(host));
}

function ownedPorts(entity: Entity, kind: Kind): readonly PortPair[] {
  return entity === 'KubeAPIServer' ? kind.apiServer : entity === 'DNS' ? kind.dns : [];
}

function single([protocol, port]: PortPair): Range {
  return [protocol, port, port];
}

/** A range of one protocol less some of its ports. */
function without(range: Range, taken: readonly PortPair[]): Range[] {
  const [protocol, first, last] = range;
  const holes = taken
    .filter(([other, port]) => other === protocol && first <= port && port <= last)
    .map(([, port]) => port)
    .sort((a, b) => a - b);
  const edges = [first - 1, ...new Set(holes), last + 1];
  return edges
    .slice(1)
    .map((edge, index): Range => [protocol, (edges[index] as number) + 1, edge - 1])
    .filter(([, from, to]) => from <= to);
}

function numbered(ports: readonly Port[] | null): Range[] {
  if (ports === null) return [EVERY_PORT];
  return ports.flatMap((port): Range[] => {
    if (port.protocol === 'ICMP') {
      const kind = port.icmpType === null ? null : IcmpKind[port.icmpType];
      return [[Protocol.ICMP, kind ?? 0, kind ?? 0xffff]];
    }
    if (typeof port.port === 'string') return [];
    const protocol = Protocol[port.protocol];
    if (port.port === null) return [[protocol, 0, 0xffff]];
    return [[protocol, port.port, port.endPort ?? port.port]];
  });
}

function named(ports: readonly Port[] | null, has: readonly (readonly [string, number])[]): Range[] {
  return (ports ?? []).flatMap((port): Range[] => {
    if (port.protocol === 'ICMP' || typeof port.port !== 'string') return [];
    const name = `${port.protocol}/${port.port}`;
    return has.filter(([own]) => own === name).map(([, number]) => [Protocol[port.protocol], number, number]);
  });
}

/** `ports` of a rule with services mean the Service's own ports, by number or name. */
function isServicePort(
  ports: readonly Port[] | null,
  member: { readonly protocol: number; readonly port: number; readonly portName: string | null },
): boolean {
  if (ports === null) return true;
  return ports.some((port) => {
    if (port.protocol === 'ICMP' || Protocol[port.protocol] !== member.protocol) return false;
    if (port.port === null) return true;
    if (typeof port.port === 'string') return port.port === member.portName;
    return port.port <= member.port && member.port <= (port.endPort ?? port.port);
  });
}

/**
 * The verdict on a Service's port: that of every ready endpoint, told by the first refused, else by the first. A rule that covers
 * the Service's own address counts too, but not for hostNetwork workloads: their packets are seen with the endpoint's address
 * alone, and both must be judged alike.
 */
function judgeFront(
  ruleset: Ruleset,
  front: Identity,
  { protocol, port, endpoints }: FrontPort,
  rows: RowSource,
): Outcome {
  const direct =
    ruleset.hostNetwork || front.network === null
      ? SILENT_ANSWER
      : lookUp(rows.network(ruleset, front.network)?.entries ?? [], protocol, port);
  let first: Outcome | null = null;
  for (const endpoint of endpoints) {
    const outcome = compose(ruleset, merge(direct, answerFor(ruleset, endpoint, protocol, rows)));
    if (outcome.denied) return outcome;
    first ??= outcome;
  }
  return first ?? { denied: true, reason: REASON_NO_READY_ENDPOINT, rule: RULE_NONE, silent: ruleset.silent };
}

/** What all subjects of an endpoint say together. */
function answerFor(
  ruleset: Ruleset,
  { identity, network, zone, kind, port }: Endpoint,
  protocol: number,
  rows: RowSource,
): Answer {
  return [
    rows.header(ruleset),
    identity === null ? null : rows.identity(ruleset, identity),
    rows.network(ruleset, network),
    rows.zone(ruleset, zone, kind),
  ]
    .map((found) => (found === null ? SILENT_ANSWER : lookUp(found.entries, protocol, port)))
    .reduce(merge);
}

function finalAnswer({ reason, rule, silent }: Outcome): Answer {
  return { ...SILENT_ANSWER, policy: rule, final: reason | (silent ? FINAL_SILENT : 0) };
}
