// SPDX-License-Identifier: Apache-2.0
// Is this a ClusterNetworkPolicy by upstream's CRD (policy.networking.k8s.io/v1alpha2, experimental channel, of which the standard one is a
// part), and beyond what a CRD can say? Also: what of it fails closed, as the CRD's text demands.
import type { ErrorObject } from 'ajv';
import type { Path } from '../yaml/documents.ts';
import { brokenRules } from './cel.ts';
import { checkCidr } from './cidr.ts';
import { checkMetadataTypes } from './core-types.ts';
import { schemaOf, validatorOf } from './crd.ts';
import { checkNames } from './domain-name.ts';
import { doubtful, type Finding, pathText, quote, wrong, wrongKey } from './finding.ts';
import { isObject } from './kind.ts';
import { checkSelector } from './metadata.ts';
import { checkMode, isPortName } from './network-policy.ts';
import { meantField } from './other-apis.ts';
import { describe } from './schema-errors.ts';
import { nearest } from './spelling.ts';

const KIND = 'ClusterNetworkPolicy';
/** What the CRD's messages leave to the reader. */
const ADVICE: Readonly<Record<string, string>> = {
  'Start port must be less than End port': 'write the lower one as start; for one port, number',
};
const NAMED_PORT_ADVICE = 'write two rules: named ports beside pods or namespaces, numbers beside the others';

const EGRESS_PEERS = ['namespaces', 'pods', 'nodes', 'networks', 'domainNames'];
const INGRESS_PEERS = ['namespaces', 'pods'];

/**
 * "If an implementation sees no fields are set then it can infer that the deployed CRD is of an incompatible version with an unknown
 * field" (ClusterNetworkPolicyEgressPeer). A field that an API server kept, but that is unknown here, is the same.
 */
export function isUnknownPeer(peer: unknown, known: readonly string[] = EGRESS_PEERS): boolean {
  return isObject(peer) && !known.some((field) => Object.hasOwn(peer, field));
}

export function checkClusterNetworkPolicy(object: Record<string, unknown>): Finding[] {
  const validate = validatorOf(KIND);
  validate(object);
  const findings = describe((validate.errors ?? []).filter(isMistake), object, KIND);
  findings.push(...checkMetadataTypes(object.metadata), ...checkMode(object.metadata));
  if (isObject(object.spec)) findings.push(...checkSpec(object.spec));
  const told = findings.filter(({ severity }) => severity === 'error').map(({ path }) => path);
  for (const { path, message } of brokenRules(schemaOf(KIND), object, told)) {
    findings.push(wrong('rule', path, message, ADVICE[message] ?? NAMED_PORT_ADVICE));
  }
  return oncePerPlace(findings);
}

/** An unknown peer is no mistake of its author, unless it is a misspelling: that one must not fail closed on a whole cluster. */
function isMistake({ keyword, instancePath, data, params }: ErrorObject): boolean {
  const peer = /^\/spec\/(egress|ingress)\/\d+\/(?:to|from)\/\d+$/.exec(instancePath);
  if (peer === null || (keyword !== 'minProperties' && keyword !== 'additionalProperties')) return true;
  const known = peer[1] === 'egress' ? EGRESS_PEERS : INGRESS_PEERS;
  if (!isUnknownPeer(data, known)) return true;
  return keyword === 'additionalProperties' && isMisspelt(String(params.additionalProperty), known);
}

/** Or another API's word for one of them. */
function isMisspelt(field: string, known: readonly string[]): boolean {
  return nearest(field, known) !== null || meantField(field, ['spec', 'egress', 0, 'to', 0], KIND) !== undefined;
}

/** Schema and text may tell the same of one place: the first is enough. */
function oncePerPlace(findings: readonly Finding[]): Finding[] {
  const told = new Set<string>();
  return findings.filter(({ severity, path }) => {
    const place = `${severity} ${pathText(path)}`;
    if (severity === 'error' && told.has(place)) return false;
    told.add(place);
    return true;
  });
}

function checkSpec(spec: Record<string, unknown>): Finding[] {
  const findings: Finding[] = [];
  const namespacesOrPods = ({ namespaces, pods }: Record<string, unknown>, path: Path): void => {
    findings.push(...checkSelector(namespaces, [...path, 'namespaces'], { operators: true }));
    if (!isObject(pods)) return;
    for (const field of ['namespaceSelector', 'podSelector']) {
      findings.push(...checkSelector(pods[field], [...path, 'pods', field], { operators: true }));
    }
  };
  if (isObject(spec.subject)) namespacesOrPods(spec.subject, ['spec', 'subject']);
  for (const [i, rule] of objects(spec.ingress)) {
    for (const [j, peer] of objects(rule.from)) {
      const path = ['spec', 'ingress', i, 'from', j];
      namespacesOrPods(peer, path);
      if (isUnknownPeer(peer, INGRESS_PEERS)) {
        const message = 'this version does not know this peer; ingress is not its affair';
        findings.push(doubtful('unknown_peer', path, message, 'look at the CRD that is installed'));
      }
    }
  }
  for (const [i, rule] of objects(spec.egress)) {
    const path = ['spec', 'egress', i];
    for (const [j, peer] of objects(rule.to)) {
      namespacesOrPods(peer, [...path, 'to', j]);
      findings.push(...checkPeer(peer, rule.action, [...path, 'to', j]));
    }
    for (const [j, { destinationNamedPort: name }] of objects(rule.protocols)) {
      if (typeof name !== 'string' || isPortName(name)) continue;
      const message = `no container port can be named ${quote(name)}: this matches nothing`;
      const advice = 'write at most 15 of a-z, 0-9 and -, one letter at least';
      findings.push(doubtful('port', [...path, 'protocols', j, 'destinationNamedPort'], message, advice));
    }
  }
  return findings;
}

function checkPeer(peer: Record<string, unknown>, action: unknown, path: Path): Finding[] {
  const findings = checkSelector(peer.nodes, [...path, 'nodes'], { operators: true });
  for (const [i, cidr] of entries(peer.networks)) findings.push(...checkCidr(cidr, [...path, 'networks', i]));
  if (isUnknownPeer(peer)) {
    if (Object.keys(peer).some((field) => isMisspelt(field, EGRESS_PEERS))) return findings;
    const effect = action === 'Accept' ? 'the rule matches nothing' : 'the rule denies everything';
    const message = `this version does not know this peer: ${effect}, as the API says`;
    const advice = `write ${EGRESS_PEERS.slice(0, -1).join(', ')} or ${EGRESS_PEERS.at(-1)}`;
    findings.push(doubtful('unknown_peer', path, message, advice));
  }
  if (peer.domainNames === undefined) return findings;
  const at = [...path, 'domainNames'];
  findings.push(...checkNames(peer.domainNames, at));
  if (action === 'Deny' || action === 'Pass') {
    // "DomainNames is only supported for Accept rules": one address has many names, so a denial by name is never exact.
    const advice = 'Accept the names that are meant, and deny networks in a rule after it';
    findings.push(wrongKey('domain_names', at, `domainNames stand in a rule to ${action}`, advice));
  }
  return findings;
}

function entries(list: unknown): [number, unknown][] {
  return Array.isArray(list) ? [...list.entries()] : [];
}

function objects(list: unknown): [number, Record<string, unknown>][] {
  return entries(list).filter((entry): entry is [number, Record<string, unknown>] => isObject(entry[1]));
}
