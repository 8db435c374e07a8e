// SPDX-License-Identifier: Apache-2.0
// Would kube-apiserver take this NetworkPolicy? The rules are those of ValidateNetworkPolicySpec (k8s.io/kubernetes/pkg/apis/networking/validation),
// ingress included; each function below is one of its own. Types and unknown fields were checked before.
import { contains } from '../model/address.ts';
import type { Path } from '../yaml/documents.ts';
import { checkCidr, readCidr } from './cidr.ts';
import { doubtful, type Finding, quote, wrong, wrongKey } from './finding.ts';
import { isObject } from './kind.ts';
import { checkSelector } from './metadata.ts';
import { nearest } from './spelling.ts';

export const AUDIT_ANNOTATION = 'postern.dev/mode';

export function checkNetworkPolicy(object: Record<string, unknown>): Finding[] {
  const spec = object.spec;
  const findings = checkMode(object.metadata);
  if (spec === undefined || spec === null) {
    // The API server takes it, with a podSelector that selects all: no one means that.
    return [
      ...findings,
      wrong('spec', ['spec'], 'spec is missing', 'write spec with podSelector, policyTypes and egress'),
    ];
  }
  if (!isObject(spec)) return findings;
  findings.push(...checkSelector(spec.podSelector, ['spec', 'podSelector'], { operators: true }));
  findings.push(...checkPolicyTypes(spec));
  for (const [direction, peers] of [
    ['ingress', 'from'],
    ['egress', 'to'],
  ] as const) {
    for (const [i, rule] of items(spec[direction])) {
      const path = ['spec', direction, i];
      for (const [j, peer] of items(rule[peers])) findings.push(...checkPeer(peer, [...path, peers, j]));
      for (const [j, port] of items(rule.ports)) findings.push(...checkPort(port, [...path, 'ports', j]));
    }
  }
  return findings;
}

/** The objects of a list; null stands for an empty one, as Go decodes it. */
function items(list: unknown): [number, Record<string, unknown>][] {
  if (!Array.isArray(list)) return [];
  return list
    .entries()
    .flatMap(([i, item]) =>
      isObject(item)
        ? [[i, item] as [number, typeof item]]
        : item === null
          ? [[i, {}] as [number, typeof item & {}]]
          : [],
    )
    .toArray();
}

/** Upstream's kinds say Audit by an annotation, which other enforcers pass over. */
export function checkMode(metadata: unknown): Finding[] {
  const annotations = isObject(metadata) ? metadata.annotations : null;
  const mode = isObject(annotations) ? annotations[AUDIT_ANNOTATION] : undefined;
  if (mode === undefined || mode === 'Audit') return [];
  const path = ['metadata', 'annotations', AUDIT_ANNOTATION];
  return [doubtful('mode', path, `${quote(mode)} means nothing: the policy is enforced`, 'write Audit, or remove it')];
}

function checkPolicyTypes(spec: Record<string, unknown>): Finding[] {
  const { policyTypes, egress } = spec;
  const path = ['spec', 'policyTypes'];
  const empty = !Array.isArray(policyTypes) || policyTypes.length === 0;
  if (empty) {
    if (!Array.isArray(egress) || egress.length > 0) return [];
    // SetDefaults_NetworkPolicy adds Egress only where there are egress rules.
    const message = 'an empty egress without policyTypes means nothing: the policy is one for ingress alone';
    return [
      { ...doubtful('policy_types', ['spec', 'egress'], message, 'write policyTypes: [Egress] beside it'), at: 'key' },
    ];
  }
  const findings: Finding[] = [];
  if (policyTypes.length > 2) {
    findings.push(wrongKey('policy_types', path, 'there are more than two policyTypes', 'write [Ingress, Egress]'));
  }
  for (const [i, written] of policyTypes.entries()) {
    const type: unknown = written ?? '';
    if (typeof type === 'string' && type !== 'Ingress' && type !== 'Egress') {
      const advice = `write ${nearest(type, ['Ingress', 'Egress']) ?? 'Ingress or Egress'}`;
      findings.push(wrong('policy_types', [...path, i], `there is no policy type ${quote(type)}`, advice));
    }
  }
  if (Array.isArray(egress) && egress.length > 0 && !policyTypes.includes('Egress') && findings.length === 0) {
    const message = 'egress has no effect: policyTypes does not hold Egress';
    findings.push({
      ...doubtful('policy_types', ['spec', 'egress'], message, 'write Egress in policyTypes'),
      at: 'key',
    });
  }
  return findings;
}

/** ValidateNetworkPolicyPeer */
function checkPeer(peer: Record<string, unknown>, path: Path): Finding[] {
  const { ipBlock } = peer;
  const has = (field: string) => peer[field] !== undefined && peer[field] !== null;
  const findings: Finding[] = [];
  for (const field of ['podSelector', 'namespaceSelector']) {
    findings.push(...checkSelector(peer[field], [...path, field], { operators: true }));
  }
  if (has('ipBlock') && (has('podSelector') || has('namespaceSelector'))) {
    const advice = 'write two items: one with ipBlock, one with the selectors';
    findings.push(wrongKey('peer', [...path, 'ipBlock'], 'ipBlock stands beside a selector', advice));
  }
  if (!has('ipBlock') && !has('podSelector') && !has('namespaceSelector')) {
    const advice = 'write podSelector, namespaceSelector or ipBlock; leave the list out to mean every destination';
    findings.push(wrong('peer', path, 'the peer is empty', advice));
  }
  if (isObject(ipBlock)) findings.push(...checkIpBlock(ipBlock, [...path, 'ipBlock']));
  return findings;
}

/** ValidateIPBlock: every except is a strict subset of cidr. */
function checkIpBlock(block: Record<string, unknown>, path: Path): Finding[] {
  const { cidr, except } = block;
  const at = [...path, 'cidr'];
  if (cidr === undefined || cidr === null || cidr === '') {
    return [wrong('cidr', at, 'cidr is missing', 'write cidr: 10.0.0.0/8, or what is meant')];
  }
  const findings = checkCidr(cidr, at);
  const outer = typeof cidr === 'string' ? readCidr(cidr) : null;
  for (const [i, written] of Array.isArray(except) ? except.entries() : []) {
    const item: unknown = written ?? '';
    findings.push(...checkCidr(item, [...path, 'except', i]));
    const inner = typeof item === 'string' ? readCidr(item) : null;
    if (!outer || !inner) continue;
    const within = contains(outer.prefix, inner.prefix.key) && isSameFamily(outer.cidr, inner.cidr);
    if (within && inner.prefix.bits > outer.prefix.bits) continue;
    const message = `${quote(item)} is not a part of ${outer.cidr}`;
    findings.push(wrong('except', [...path, 'except', i], message, `write a smaller network inside ${outer.cidr}`));
  }
  return findings;
}

function isSameFamily(a: string, b: string): boolean {
  return a.includes(':') === b.includes(':');
}

const PROTOCOLS = ['TCP', 'UDP', 'SCTP'];

/** ValidateNetworkPolicyPort */
function checkPort(port: Record<string, unknown>, path: Path): Finding[] {
  const { protocol, port: number, endPort } = port;
  const findings: Finding[] = [];
  if (typeof protocol === 'string' && !PROTOCOLS.includes(protocol)) {
    const meant = nearest(protocol, PROTOCOLS);
    const advice = meant ? `write ${meant}` : 'write TCP, UDP or SCTP; an EgressPolicy has ICMP, too';
    findings.push(wrong('protocol', [...path, 'protocol'], `there is no protocol ${quote(protocol)} here`, advice));
  }
  const at = [...path, 'port'];
  if (typeof number === 'number' && Number.isInteger(number) && !isPortNumber(number)) {
    findings.push(
      wrong('port', at, `${number} is no port`, 'write a number from 1 to 65535; leave port out for every port'),
    );
  }
  if (typeof number === 'string' && !isPortName(number)) {
    const advice = /^\d+$/.test(number)
      ? `write ${Number(number)}, without quotes`
      : 'write a number, or at most 15 of a-z, 0-9 and -, one letter at least';
    findings.push(wrong('port', at, `${quote(number)} is no port name`, advice));
  }
  if (typeof endPort === 'number' && Number.isInteger(endPort)) {
    const end = [...path, 'endPort'];
    if (number === undefined || number === null) {
      findings.push(
        wrongKey('end_port', end, 'endPort stands without port', 'write the first port of the range as port'),
      );
    } else if (typeof number === 'string') {
      const message = 'endPort stands beside a port name';
      findings.push(wrongKey('end_port', end, message, 'write the first port of the range as a number'));
    } else if (typeof number === 'number' && endPort < number) {
      const advice = `write port: ${endPort} and endPort: ${number}`;
      findings.push(wrong('end_port', end, `endPort ${endPort} is smaller than port ${number}`, advice));
    } else if (!isPortNumber(endPort)) {
      findings.push(wrong('end_port', end, `${endPort} is no port`, 'write a number up to 65535'));
    }
  }
  return findings;
}

/** IsValidPortNum */
export const isPortNumber = (port: number): boolean => port >= 1 && port <= 65535;

/** IsValidPortName: IANA_SVC_NAME of RFC 6335, section 5.1. */
export const isPortName = (name: string): boolean =>
  name.length <= 15 && /^[a-z0-9]+(-[a-z0-9]+)*$/.test(name) && /[a-z]/.test(name);
