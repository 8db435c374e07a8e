// SPDX-License-Identifier: Apache-2.0
// What makes no sense between objects that are right by themselves? Only what the folder can tell: where it holds no pods or no services,
// they are elsewhere, and nothing is said of them.

import type { Compiled } from '../compile/compile.ts';
import { askers } from '../judge/dns.ts';
import type { Peer, Pod, Policy, PortProtocol, Rule, Service, Snapshot } from '../model/objects.ts';
import { mayAskDns, namesNames } from '../resolve/dns.ts';
import { selections } from '../resolve/selection.ts';
import { matches } from '../resolve/selector.ts';
import { doubtful, type Finding, quote } from '../validate/finding.ts';
import { checkCutOff } from './cut-off.ts';
import { checkFamilies, dualStacked } from './families.ts';
import { checkTier } from './tiers.ts';
import { checkUnaskable } from './unaskable.ts';
import { checkVoided } from './voided.ts';

export interface Between {
  /** Of the object: `Kind/namespace/name`. */
  readonly key: string;
  readonly finding: Finding;
}

/** @param compiled the snapshot, every pod a workload. */
export function checkBetween(snapshot: Snapshot, compiled: Compiled): Between[] {
  const selectionOf = selections(snapshot);
  const onPod = (pod: Pod) => selectionOf(pod).shadow;
  const duals = dualStacked(snapshot);
  const held = new Map<Policy, Pod[]>();
  for (const pod of snapshot.pods) {
    for (const policy of selectionOf(pod).shadow) held.set(policy, [...(held.get(policy) ?? []), pod]);
  }
  let answers: ReadonlyMap<Pod, boolean | null> | null = null;
  /** Asked only where some policy has names. */
  const asks = () => {
    answers ??= askers(snapshot, [...new Set([...held].flatMap(([policy, pods]) => (namesNames(policy) ? pods : [])))]);
    return answers;
  };
  const policies = snapshot.policies.flatMap((policy) => {
    const pods = held.get(policy) ?? [];
    const [first] = pods;
    const beside =
      policy.subject.type === 'nodeServices'
        ? snapshot.policies.filter((other) => sharesUnits(policy, other))
        : [...new Set(pods.flatMap((pod) => selectionOf(pod).shadow))];
    const findings = [
      ...checkSubject(policy, pods, snapshot),
      ...checkDns(policy, () => {
        if (pods.length === 0) {
          const all = beside.length > 0 ? beside : [policy, ...snapshot.policies.filter(isForAll)];
          return mayAskDns(all) ? null : 'the workload';
        }
        const mute = pods.find((pod) => !(asks().get(pod) ?? mayAskDns(selectionOf(pod).shadow)));
        return mute === undefined ? null : `${mute.namespace}/${mute.name}`;
      }),
      ...checkCutOff(policy, pods, onPod, beside, snapshot),
      ...checkVoided(policy, pods, onPod, snapshot),
      ...checkUnaskable(policy, pods, onPod),
      ...(first === undefined ? [] : checkFamilies(policy, first, compiled, duals)),
      ...checkTier(policy, snapshot.policies, held),
      ...policy.rules.flatMap((rule, index) => checkRule(policy, rule, index, snapshot)),
    ];
    const key = [policy.kind, ...(policy.namespace === null ? [] : [policy.namespace]), policy.name].join('/');
    return findings.map((finding) => ({ key, finding }));
  });
  return [...policies, ...checkAddressesOnce(snapshot)];
}

/** An address that two pods have is neither's, and a Service's is no pod's (compile): no rule for the pods holds for it. */
function checkAddressesOnce({ pods, services }: Snapshot): Between[] {
  const owners = new Map<string, string>();
  const claims = [
    ...services.map((service) => ({ kind: 'Service', of: service, addresses: service.clusterIPs, path: ['spec'] })),
    ...pods
      .filter((pod) => !pod.hostNetwork && !pod.ended)
      .map((pod) => ({ kind: 'Pod', of: pod, addresses: pod.addresses, path: ['status'] })),
  ];
  return claims.flatMap(({ kind, of, addresses, path }) => {
    const key = `${kind}/${of.namespace}/${of.name}`;
    return addresses.flatMap((address) => {
      const owner = owners.get(address);
      if (owner === undefined) {
        owners.set(address, key);
        return [];
      }
      const finding = doubtful(
        'address_twice',
        path,
        `${owner} has the address ${address}, too: no rule for pods holds for it`,
        'give each its own',
      );
      return [{ key, finding: { ...finding, at: 'key' as const } }];
    });
  });
}

function checkSubject(policy: Policy, held: readonly Pod[], snapshot: Snapshot): Finding[] {
  if (held.length > 0 || snapshot.pods.length === 0 || policy.subject.type === 'nodeServices') return [];
  const { namespace, subject } = policy;
  // A namespace without any pod in the folder has them elsewhere.
  if (subject.type === 'own' && !snapshot.pods.some((pod) => pod.namespace === namespace)) return [];
  const path = ['spec', subject.type === 'own' ? 'podSelector' : 'subject'];
  const hostNetwork = policy.hostNetwork ? '' : ' (hostNetwork pods are not counted)';
  const message = `no pod in this folder is selected${hostNetwork}`;
  return [{ ...doubtful('selects_nobody', path, message, 'compare the labels with those of the pods'), at: 'key' }];
}

function sharesUnits({ subject }: Policy, { subject: other }: Policy): boolean {
  if (subject.type !== 'nodeServices' || other.type !== 'nodeServices') return false;
  return subject.units.some((unit) => other.units.includes(unit));
}

/** A Grant or Isolate on every pod, as far as its subject says. */
function isForAll({ effect, subject }: Policy): boolean {
  if (effect === 'Limit' || subject.type !== 'pods') return false;
  const { namespaceSelector, podSelector } = subject.pods;
  return [namespaceSelector, podSelector].every(
    (selector) =>
      selector === null || (Object.keys(selector.matchLabels).length === 0 && selector.matchExpressions.length === 0),
  );
}

/** domainNames open no DNS: a workload that may not ask learns no name. @param mute who may not; null: nobody. */
function checkDns(policy: Policy, mute: () => string | null): Finding[] {
  const index = policy.rules.findIndex(({ peers }) => peers.some(({ type }) => type === 'domainNames'));
  if (index < 0 || !namesNames(policy)) return [];
  const who = mute();
  if (who === null) return [];
  const peer = policy.rules[index]?.peers.findIndex(({ type }) => type === 'domainNames') ?? 0;
  const path = ['spec', 'egress', index, 'to', peer, 'domainNames'];
  const message = `${who} may not ask DNS, so it learns no address of these names`;
  const advice =
    policy.kind === 'ClusterNetworkPolicy'
      ? 'Accept UDP and TCP 53 to the resolvers in a rule before the denial'
      : 'add a rule to: [{entities: [DNS]}]';
  return [{ ...doubtful('no_dns_rule', path, message, advice), at: 'key' }];
}

function checkRule(policy: Policy, rule: Rule, index: number, snapshot: Snapshot): Finding[] {
  const path = ['spec', 'egress', index];
  const services = rule.peers.flatMap((peer, i) =>
    peer.type === 'services' ? checkServices(peer, [...path, 'to', i, 'services'], snapshot) : [],
  );
  const names = rule.peers.flatMap((peer, i) =>
    peer.type === 'domainNames' ? checkNames(peer.names, [...path, 'to', i, 'domainNames']) : [],
  );
  return [...services, ...names, ...checkNamedPorts(policy, rule, path, snapshot)];
}

function checkServices(
  { services }: Extract<Peer, { type: 'services' }>,
  path: (string | number)[],
  snapshot: Snapshot,
): Finding[] {
  return services.flatMap(({ namespace, name }, i) => {
    const inNamespace = snapshot.services.filter((service) => service.namespace === namespace);
    if (inNamespace.length === 0) return [];
    const found = inNamespace.find((service) => service.name === name);
    const told = `Service ${namespace}/${name}`;
    if (!found) {
      const message = `there is no ${told} in this folder`;
      return [
        doubtful('service_not_found', [...path, i, 'name'], message, 'compare namespace and name with the Service'),
      ];
    }
    if (found.externalName === null) return [];
    const message = `${told} is an ExternalName, which is not followed: this allows nothing`;
    return [
      doubtful('service_not_usable', [...path, i, 'name'], message, `write domainNames: [${found.externalName}]`),
    ];
  });
}

/** Names that there is a better word for, or that cover more than anyone means. */
function checkNames(names: readonly string[], path: (string | number)[]): Finding[] {
  return names.flatMap((name, i) => {
    const at = [...path, i];
    if (/\.svc(\.cluster\.local)?$/.test(name) || name.endsWith('.cluster.local')) {
      const message = `${quote(name)} is a name of the cluster's own`;
      return [doubtful('cluster_name', at, message, 'write services: [{namespace: …, name: …}] in an item of its own')];
    }
    if (!/^\*\.[^.]+$/.test(name)) return [];
    const message = `${quote(name)} covers every domain of a top-level domain`;
    return [doubtful('wide_name', at, message, 'write the domains that are meant')];
  });
}

/** Port names that none of the destinations has, where the folder holds some of them. */
function checkNamedPorts(policy: Policy, rule: Rule, path: (string | number)[], snapshot: Snapshot): Finding[] {
  const isUpstream = policy.kind === 'ClusterNetworkPolicy';
  const named = isUpstream ? namedProtocols(rule) : namedPorts(rule);
  if (named.length === 0) return [];
  const pods = rule.peers.flatMap((peer) => (peer.type === 'pods' ? podsOf(peer, policy, snapshot) : []));
  const services = rule.peers.flatMap((peer) => (peer.type === 'services' ? servicesOf(peer, snapshot) : []));
  const others = rule.peers.some(({ type }) => type !== 'pods' && type !== 'services');
  if (others || pods.length + services.length === 0) return [];
  return named.flatMap(({ protocol, name, i }) => {
    const has = ({ ports }: Pod | Service) =>
      ports.some((port) => port.name === name && (protocol === null || port.protocol === protocol));
    if (pods.some(has) || services.some(has)) return [];
    const known = new Set([...pods, ...services].flatMap(({ ports }) => ports.flatMap((port) => port.name ?? [])));
    const advice = known.size > 0 ? `write ${[...known].sort().slice(0, 8).join(', ')}, or a number` : 'write a number';
    const message = `no destination in this folder has a ${protocol === null ? '' : `${protocol} `}port named ${quote(name)}`;
    const at = isUpstream ? ['protocols', i, 'destinationNamedPort'] : ['ports', i, 'port'];
    return [doubtful('port_not_found', [...path, ...at], message, advice)];
  });
}

interface NamedPort {
  /** null: whichever the port has. */
  readonly protocol: PortProtocol | null;
  readonly name: string;
  /** Where it stands in the rule's list. */
  readonly i: number;
}

function namedPorts({ ports }: Rule): NamedPort[] {
  return (ports ?? []).flatMap((port, i) =>
    port.protocol !== 'ICMP' && typeof port.port === 'string' ? [{ protocol: port.protocol, name: port.port, i }] : [],
  );
}

/** ClusterNetworkPolicy's names stand for a port of each protocol, one after the other (see parse). */
function namedProtocols(rule: Rule): NamedPort[] {
  const found: NamedPort[] = [];
  let i = 0;
  for (const port of rule.ports ?? []) {
    const isNamed = port.protocol !== 'ICMP' && typeof port.port === 'string';
    if (isNamed && port.protocol === 'TCP') found.push({ protocol: null, name: String(port.port), i });
    if (!isNamed || port.protocol === 'SCTP') i++;
  }
  return found;
}

function podsOf(peer: Extract<Peer, { type: 'pods' }>, policy: Policy, { pods, namespaces }: Snapshot): Pod[] {
  return pods.filter((pod) => {
    if (pod.hostNetwork || pod.ended || !matches(peer.podSelector, pod.labels)) return false;
    if (peer.namespaceSelector === null) return pod.namespace === policy.namespace;
    const labels = namespaces.find(({ name }) => name === pod.namespace)?.labels ?? {};
    return matches(peer.namespaceSelector, labels);
  });
}

function servicesOf(peer: Extract<Peer, { type: 'services' }>, { services }: Snapshot): Service[] {
  return services.filter(({ namespace, name }) =>
    peer.services.some((wanted) => wanted.namespace === namespace && wanted.name === name),
  );
}
