// SPDX-License-Identifier: Apache-2.0
// What would be decided for a question as a user asks it: from a pod, to whatever a user can name. Pure; needs neither root nor
// a kernel.

import { REASON_LIMIT, REASON_NAMES, REASON_NO_READY_ENDPOINT, REASON_NO_RULE } from '#build/generated/abi.ts';
import { limitsQueries } from '../compile/asking.ts';
import type { Compiled } from '../compile/compile.ts';
import { IcmpKind, Protocol } from '../compile/numbers.ts';
import { overfullNote } from '../compile/overfull.ts';
import { addressKey, addressText } from '../model/address.ts';
import { matchesName, WILDCARD } from '../model/name.ts';
import type { IcmpType, Pod, Policy, Problem, Snapshot } from '../model/objects.ts';
import { NO_ID, type PolicyRef, type WorkloadEntry } from '../model/tables.ts';
import { policyName } from '../resolve/order.ts';
import { OWN_NODE } from '../resolve/own-node.ts';
import { unitKey } from '../resolve/units.ts';
import { workloadName } from '../tell/workload.ts';
import { asciiName } from '../validate/domain-name.ts';
import { type Decision, decide, decideQuery, type Told, tell } from './decide.ts';

export interface Query {
  /** `namespace/pod`, or `node/NAME.service`: a systemd unit of this node. */
  readonly from: string;
  /** `namespace/pod`, an address, `service:namespace/name`, or a domain name. */
  readonly to: string;
  /** null where the protocol has none. */
  readonly port: number | null;
  readonly protocol: keyof typeof Protocol;
  readonly icmpType?: IcmpType;
  /** What DNS told `from` leads to the address. Default: `to`, where that is a name; else nothing. */
  readonly names?: readonly string[];
}

/** What a line of `--queries` answers. */
export interface Answer {
  readonly verdict: 'allow' | 'audit' | 'deny';
  readonly policy: string | null;
  /** Index of the rule in its policy. */
  readonly rule: number | null;
  readonly reason: string;
}

export interface Explanation extends Answer {
  readonly from: string;
  readonly to: string;
  readonly address: string | null;
  readonly port: number | null;
  readonly protocol: string;
  readonly ruleName: string | null;
  /** How a denial comes to the sender: EPERM at once, or silence. */
  readonly onDeny: 'Reject' | 'Drop' | null;
  /** Of a default denial: every policy that isolates the workload. */
  readonly isolatedBy: readonly string[];
  /** Every policy that holds the workload, Audit ones marked. */
  readonly heldBy: readonly { readonly policy: string; readonly mode: string; readonly effect: string }[];
  /** Of a denial: the Audit policy that would allow it if it were enforced. */
  readonly wouldAllow: string | null;
  readonly notes: readonly string[];
}

/** May a name be asked of DNS? */
export interface NameQuery {
  /** As in `Query`. */
  readonly from: string;
  readonly ask: string;
}

export interface NameExplanation {
  readonly verdict: 'allow' | 'audit' | 'deny';
  readonly from: string;
  /** As DNS compares names. */
  readonly ask: string;
  /** Of a refusal: the policy that says that only its names may be asked. */
  readonly policy: string | null;
  readonly reason: string;
  /** As in `Explanation`: answered with REFUSED (or EPERM), or silence. */
  readonly onDeny: 'Reject' | 'Drop' | null;
  /** Policies that list the name. */
  readonly listedBy: readonly string[];
  /** Policies that say that only listed names may be asked, Audit ones among them. */
  readonly limitedBy: readonly string[];
}

/** A question that cannot be answered: a sentence that says what to write instead. */
export class QueryError extends Error {
  override readonly name = 'QueryError';
  readonly code = 'bad_query';
}

interface Destination {
  readonly address: string | null;
  /** Its further addresses: whoever has both families is reached by either. */
  readonly others: readonly string[];
  readonly known: boolean;
  readonly notes: readonly string[];
}

/**
 * Answers any number of queries about one compiled snapshot.
 * @param problems what is wrong with its objects: where a policy with a part in a refusal does not mean what it says, that is told.
 */
export function explainer(snapshot: Snapshot, compiled: Compiled, problems: readonly Problem[] = []) {
  const pods = new Map(snapshot.pods.map((pod) => [`${pod.namespace}/${pod.name}`, pod]));
  const overfull = new Map(compiled.overfull.map((one) => [workloadName(one.workload), [overfullNote(one)]]));
  const services = new Map(snapshot.services.map((service) => [`${service.namespace}/${service.name}`, service]));

  const destination = (to: string): Destination => {
    if (to.startsWith('service:')) {
      const service = services.get(to.slice('service:'.length));
      if (service === undefined)
        throw new QueryError(`there is no Service ${to.slice(8)}; write service:NAMESPACE/NAME`);
      return having(service.clusterIPs, 'the Service has no address');
    }
    const key = addressKey(to);
    if (key !== null) {
      // To connect to 0.0.0.0 or :: is to connect to oneself: ip_route_output_key_hash_rcu, tcp_v6_connect.
      const loopback = UNSPECIFIED.get(key);
      if (loopback !== undefined)
        return { ...having([loopback], ''), notes: [`the kernel takes ${to} for ${loopback}`] };
      return having([to], '');
    }
    if (to.includes('/')) {
      const pod = pods.get(to);
      if (pod === undefined) throw new QueryError(`there is no Pod ${to}; write NAMESPACE/NAME of a Pod in the folder`);
      return having(pod.ended ? [] : pod.addresses, 'the Pod has no address');
    }
    if (!DOMAIN.test(to) || ENDS_IN_NUMBER.test(to)) {
      throw new QueryError(
        `"${to}" is no destination; write NAMESPACE/POD, an address, service:NAMESPACE/NAME, or a domain name`,
      );
    }
    return { address: null, others: [], known: true, notes: [] };
  };

  const workload = (from: string): WorkloadEntry => {
    const found = compiled.tables.workloads.get(from);
    if (found !== undefined) return found;
    const pod = pods.get(from);
    if (pod === undefined && from.startsWith('node/')) {
      const unit = from.slice('node/'.length);
      return compiled.tables.workloads.get(unitKey(unit)) ?? { ...UNHELD, name: unit };
    }
    if (pod === undefined)
      throw new QueryError(
        `there is no Pod ${from}; write NAMESPACE/NAME of a Pod in the folder, or node/NAME.service`,
      );
    const { namespace, name, uid, cgroup, hostNetwork } = pod; // ended: held by nobody
    return { ...{ namespace, name, uid, cgroup, hostNetwork }, enforced: NO_ID, shadow: NO_ID, selves: [] };
  };

  const decideAt = (query: Query, address: string | null): Decision => {
    const protocol = Protocol[query.protocol];
    const port =
      query.protocol === 'ICMP' ? (query.icmpType === undefined ? 0 : IcmpKind[query.icmpType]) : (query.port ?? 0);
    const key = address === null ? null : addressKey(address);
    const told = query.names ?? (address === null ? [query.to] : []);
    const names = told.map(wholeName);
    return decide(compiled, workload(query.from), { address: key, protocol, port, names });
  };

  const ask = (query: Query): { readonly at: Destination; readonly decision: Decision | null } => {
    workload(query.from);
    const at = destination(query.to);
    return { at, decision: at.known ? decideAt(query, at.address) : null };
  };

  /** Where the answer of the first address is not that of another. */
  const otherNotes = (query: Query, at: Destination, decision: Decision | null): string[] =>
    at.others.flatMap((address) => {
      const { verdict, outcome } = decideAt(query, address);
      const isSame = verdict === decision?.verdict && outcome.reason === decision.outcome.reason;
      return isSame ? [] : [`at its other address ${address}: ${verdict} (${REASON_NAMES.get(outcome.reason)})`];
    });

  const answer = (query: Query): Answer => {
    const { decision } = ask(query);
    if (decision === null) return NO_ADDRESS;
    const { policy, rule } = tell(compiled.tables.rulesets.get(decision.ruleset), decision.outcome);
    return {
      verdict: decision.verdict,
      policy: policy === null ? null : policyName(policy),
      rule: rule?.index ?? null,
      reason: REASON_NAMES.get(decision.outcome.reason) ?? 'unknown',
    };
  };

  const explain = (query: Query): Explanation => {
    const { at, decision } = ask(query);
    const from = workload(query.from);
    const told = decision === null ? null : tell(compiled.tables.rulesets.get(decision.ruleset), decision.outcome);
    const shadow = decision?.shadow == null ? null : tell(compiled.tables.rulesets.get(from.shadow), decision.shadow);
    const held = compiled.rulesets.get(from.shadow)?.policies ?? [];
    const isName = at.known && at.address === null;
    return {
      ...answer(query),
      from: query.from,
      to: query.to,
      address: at.address === null ? null : addressText(addressKey(at.address) as string),
      port: query.protocol === 'ICMP' ? null : query.port,
      protocol: query.protocol,
      ruleName: told?.rule?.ruleName ?? null,
      onDeny: decision?.verdict !== 'deny' ? null : decision.outcome.silent ? 'Drop' : 'Reject',
      isolatedBy: (told?.isolatedBy ?? []).map(policyName),
      heldBy: held.map((policy) => ({ policy: policyName(policy), mode: policy.mode, effect: policy.effect })),
      wouldAllow: shadow?.policy == null ? null : policyName(shadow.policy),
      notes: [
        ...at.notes,
        ...(isName ? nameNotes(query.to, held, decision?.verdict !== 'deny') : []),
        ...(isName ? askedNotes(explainName({ from: query.from, ask: query.to })) : []),
        ...serviceNotes(query, decision),
        ...otherNotes(query, at, decision),
        ...problemNotes(decision, told, held, isName, problems),
        ...(decision?.outcome.reason === REASON_LIMIT ? (overfull.get(query.from) ?? []) : []),
        ...ownNodeNotes(decision, at, held, pods.get(query.from), snapshot),
      ],
    };
  };

  const explainName = ({ from, ask: asked }: NameQuery): NameExplanation => {
    const name = wholeName(asked);
    const entry = workload(from);
    const { verdict, outcome, ruleset } = decideQuery(compiled, entry, name);
    const { policy } = tell(compiled.tables.rulesets.get(ruleset), outcome);
    const held = compiled.rulesets.get(entry.shadow)?.policies ?? [];
    return {
      ...{ verdict, from, ask: name },
      policy: policy === null ? null : policyName(policy),
      reason: REASON_NAMES.get(outcome.reason) ?? 'unknown',
      onDeny: verdict !== 'deny' ? null : outcome.silent ? 'Drop' : 'Reject',
      listedBy: held.filter((one) => lists(one, name)).map(policyName),
      limitedBy: held.filter(limitsQueries).map(policyName),
    };
  };

  return { answer, explain, explainName };
}

/** Throws QueryError. */
function wholeName(text: string): string {
  const ascii = asciiName(text);
  if (ascii === null || ascii.startsWith(WILDCARD))
    throw new QueryError(`"${text}" is no domain name; write one whole name, such as api.example.com`);
  return ascii;
}

function lists({ allowedNames, rules }: Policy, name: string): boolean {
  const isMatch = (pattern: string): boolean => matchesName(pattern, name);
  return (
    (allowedNames?.names ?? []).some(isMatch) ||
    rules.some(({ peers }) => peers.some((peer) => peer.type === 'domainNames' && peer.names.some(isMatch)))
  );
}

/** A unit that no policy selects here. */
const UNHELD: WorkloadEntry = {
  ...{ namespace: '', name: '', uid: null, cgroup: null, hostNetwork: true },
  ...{ enforced: NO_ID, shadow: NO_ID, selves: [] },
};

/** @param without said where there is none. */
function having(addresses: readonly string[], without: string): Destination {
  const [address, ...others] = addresses;
  if (address === undefined) return { address: null, others, known: false, notes: [without] };
  return { address, others, known: true, notes: [] };
}

const UNSPECIFIED = new Map([
  [addressKey('0.0.0.0'), '127.0.0.1'],
  [addressKey('::'), '::1'],
]);
const NO_ADDRESS: Answer = { verdict: 'deny', policy: null, rule: null, reason: 'no_address' };
const DOMAIN =
  /^(?=.{1,253}\.?$)([\p{L}\p{N}_]([\p{L}\p{N}_-]{0,61}[\p{L}\p{N}_])?\.)*[\p{L}\p{N}_]([\p{L}\p{N}_-]{0,61}[\p{L}\p{N}_])?\.?$/u;

/** An address with a mistake in it: no top-level domain is a number (RFC 3696, section 2). */
const ENDS_IN_NUMBER = /(^|\.)\d+\.?$/;

function nameNotes(
  text: string,
  held: readonly (PolicyRef & { readonly rules: Snapshot['policies'][number]['rules'] })[],
  passes: boolean,
): string[] {
  const name = asciiName(text) ?? text;
  const naming = held.flatMap((policy) =>
    policy.rules.flatMap((rule, index) =>
      rule.peers.some((peer) => peer.type === 'domainNames' && peer.names.some((one) => matchesName(one, name)))
        ? [{ rule, told: `${policyName(policy)} rule ${index} names it` }]
        : [],
    ),
  );
  // Which address it has decides whether such a rule means it.
  const denying = !passes
    ? []
    : held.filter(({ rules }) =>
        rules.some(({ action, peers }) => action === 'Deny' && peers.some(({ type }) => type === 'networks')),
      );
  return [
    'only its name is known: rules for every destination and for names were asked, as of an address in World that DNS told this workload',
    ...denying.map((policy) => `${policyName(policy)} denies networks: ask for the address, which may be among them`),
    ...naming.flatMap(({ rule, told }) =>
      rule.notEnforced === null ? [] : [`${told}, but ${rule.notEnforced}: it allows nothing`],
    ),
  ];
}

/** Who may not ask for a name is never told of its addresses. */
function askedNotes({ verdict, policy }: NameExplanation): string[] {
  if (verdict === 'allow') return [];
  const by = policy === null ? '' : `: ${policy} says which names may be`;
  const what =
    verdict === 'deny' ? 'DNS may not be asked for it' : 'DNS might not be asked for it, were Audit policies enforced';
  return [what + by];
}

/** Rules that are not as written (see their codes in parse and validate), and policies in whose place something else holds. */
const NOT_AS_WRITTEN: ReadonlySet<string> = new Set(['unknown_peer', 'not_yet_enforced']);
const MAX_PROBLEMS = 5;

/** Of a refusal: what is wrong with those who refuse, and with those who by what they say might have allowed. */
function problemNotes(
  decision: Decision | null,
  told: Told | null,
  held: readonly PolicyRef[],
  isName: boolean,
  problems: readonly Problem[],
): string[] {
  if (decision === null || told === null || decision.verdict === 'allow') return [];
  // A rule that allows nothing explains a default denial, not one by name.
  const asked = told.rule === null ? held : told.policy === null ? [] : [told.policy];
  const names = new Set(asked.map(policyName));
  const found = problems.filter(
    ({ severity, code, object }) =>
      names.has(object ?? '') &&
      (severity === 'error' || (NOT_AS_WRITTEN.has(code) && !(isName && code === 'not_yet_enforced'))),
  );
  const notes = found.slice(0, MAX_PROBLEMS).map(({ object, path, message, severity }) => {
    const what = severity === 'error' ? 'is invalid, and something else holds in its place: ' : '';
    return `${object} ${what}${path === '' ? '' : `${path}: `}${message}`;
  });
  return found.length > MAX_PROBLEMS ? [...notes, `and ${found.length - MAX_PROBLEMS} more like these`] : notes;
}

/** What an agent of a cluster would say otherwise; see resolve/own-node.ts. */
function ownNodeNotes(
  decision: Decision | null,
  { address }: Destination,
  held: readonly PolicyRef[],
  pod: Pod | undefined,
  { nodes }: Snapshot,
): string[] {
  if (decision?.outcome.reason !== REASON_NO_RULE || address === null || pod === undefined) return [];
  if (!held.some(({ kind }) => kind === 'NetworkPolicy') || held.some(({ name }) => name === OWN_NODE.name)) return [];
  const key = addressKey(address);
  const own = nodes.find(({ name }) => name === pod.node)?.addresses ?? [];
  if (!own.some((one) => addressKey(one) === key)) return [];
  return [
    'it is the own node: in a cluster, pods that a NetworkPolicy holds may reach it unless told otherwise; ask with --own-node allow',
  ];
}

function serviceNotes(query: Query, decision: Decision | null): string[] {
  if (!query.to.startsWith('service:') || decision === null) return [];
  if (decision.outcome.reason === REASON_NO_READY_ENDPOINT) return ['no ready endpoint stands behind the Service'];
  return ['a Service is judged by its ready endpoints, each on its target port'];
}
