// SPDX-License-Identifier: Apache-2.0
// Is this an EgressPolicy or ClusterEgressPolicy by its CRD (schema, defaults, CEL rules), and beyond what a CRD can say? Also: which of its
// features are not enforced yet.
import { addressKey, contains } from '../model/address.ts';
import type { Path } from '../yaml/documents.ts';
import { brokenRules } from './cel.ts';
import { checkCidr, readCidr } from './cidr.ts';
import { checkMetadataTypes } from './core-types.ts';
import { schemaOf, validatorOf } from './crd.ts';
import { checkNames } from './domain-name.ts';
import { doubtful, type Finding, pathText, quote, wrong } from './finding.ts';
import { isObject, type OwnKind } from './kind.ts';
import { checkSelector } from './metadata.ts';
import { AUDIT_ANNOTATION } from './network-policy.ts';
import { foreignEntity } from './other-apis.ts';
import { describe } from './schema-errors.ts';
import { nearest, words } from './spelling.ts';

/** `defaulted` is the object with the defaults of its schema filled in; what it was read from stays as it was. */
export function checkEgressPolicy(
  kind: OwnKind,
  object: Record<string, unknown>,
): { findings: Finding[]; defaulted: Record<string, unknown> } {
  const defaulted = structuredClone(object);
  dropNullDefaults(defaulted);
  const validate = validatorOf(kind);
  validate(defaulted);
  const findings = describe(validate.errors ?? [], defaulted, kind);
  const misfits = new Set(findings.map(({ path }) => pathText(path)));
  findings.push(...checkMetadataTypes(defaulted.metadata), ...checkModeAnnotation(defaulted.metadata));
  if (isObject(defaulted.spec)) {
    const told = checkSpec(kind, defaulted.spec);
    // Of a name that does not fit the schema that was said.
    findings.push(...told.filter(({ code, path }) => code !== 'domain_name' || !misfits.has(pathText(path))));
  }
  const told = findings.filter(({ severity }) => severity === 'error').map(({ path }) => path);
  for (const { path, message } of brokenRules(schemaOf(kind), defaulted, told)) {
    const [what = message, advice = 'look at the documentation of this field'] = message.split(/; (?=[^;]*$)/);
    findings.push(wrong('rule', path, what, advice));
  }
  // Several errors of one mistake are told as one; never as none.
  if (validate.errors && !findings.some(({ severity }) => severity === 'error')) {
    const places = validate.errors.map(({ instancePath, keyword }) => `${instancePath || '/'} (${keyword})`);
    findings.push(wrong('schema', [], `does not fit its schema at ${places.join(', ')}`, 'look at its documentation'));
  }
  return { findings, defaulted };
}

function checkModeAnnotation(metadata: unknown): Finding[] {
  const annotations = isObject(metadata) ? metadata.annotations : null;
  if (!isObject(annotations) || annotations[AUDIT_ANNOTATION] === undefined) return [];
  const message = 'the annotation means nothing here: it is for kinds that have no mode of their own';
  const path = ['metadata', 'annotations', AUDIT_ANNOTATION];
  return [{ ...doubtful('mode', path, message, 'write mode: Audit in spec'), at: 'key' }];
}

/** A null where a field has a default is that default (apiextensions: PruneNonNullableDefaultedNulls). */
function dropNullDefaults(object: Record<string, unknown>): void {
  const spec = object.spec;
  if (!isObject(spec)) return;
  for (const name of ['podSelector', 'hostNetwork', 'effect', 'mode', 'onDeny']) {
    if (spec[name] === null) delete spec[name];
  }
}

/** What no CRD can say: label syntax, CIDRs, names; and what is not enforced yet. */
function checkSpec(kind: OwnKind, spec: Record<string, unknown>): Finding[] {
  const findings: Finding[] = [];
  const selector = (value: unknown, path: Path): void => {
    findings.push(...checkSelector(value, path, { operators: false }));
  };
  const podPeer = (value: unknown, path: Path): void => {
    if (!isObject(value)) return;
    selector(value.namespaceSelector, [...path, 'namespaceSelector']);
    selector(value.podSelector, [...path, 'podSelector']);
  };
  const subjectItem = (value: Record<string, unknown>, path: Path): void => {
    selector(value.namespaces, [...path, 'namespaces']);
    podPeer(value.pods, [...path, 'pods']);
  };
  if (kind === 'EgressPolicy') selector(spec.podSelector, ['spec', 'podSelector']);
  else if (isObject(spec.subject)) {
    const { nodeServices, except } = spec.subject;
    subjectItem(spec.subject, ['spec', 'subject']);
    for (const [i, item] of objects(except)) subjectItem(item, ['spec', 'subject', 'except', i]);
    if (isObject(nodeServices)) {
      selector(nodeServices.nodeSelector, ['spec', 'subject', 'nodeServices', 'nodeSelector']);
    }
  }
  if (isObject(spec.dns)) {
    findings.push(...checkNames(spec.dns.names, ['spec', 'dns', 'names']));
  }
  const named = new Map<string, number>();
  for (const [i, rule] of objects(spec.egress)) {
    const path = ['spec', 'egress', i];
    if (typeof rule.name === 'string') {
      const first = named.get(rule.name);
      named.set(rule.name, first ?? i);
      if (first !== undefined) {
        const message = `egress[${first}] has the name ${quote(rule.name)}, too`;
        findings.push(wrong('rule_name', [...path, 'name'], message, 'write a name of its own for each rule'));
      }
    }
    for (const [j, peer] of objects(rule.to)) {
      const at = [...path, 'to', j];
      podPeer(peer.pods, [...at, 'pods']);
      selector(peer.namespaces, [...at, 'namespaces']);
      selector(peer.nodes, [...at, 'nodes']);
      for (const [k, cidr] of entries(peer.networks)) findings.push(...checkCidr(cidr, [...at, 'networks', k]));
      for (const [k, item] of entries(peer.except)) {
        if (typeof item === 'string' && (peer.networks || item.includes('/') || addressKey(item) !== null)) {
          findings.push(...checkCidr(item, [...at, 'except', k]));
        } else if (typeof item === 'string' && !EXCEPTABLE.includes(item)) {
          const meant = foreignEntity(item) ?? nearest(item, EXCEPTABLE) ?? `a CIDR, ${words(EXCEPTABLE)}`;
          findings.push(wrong('entity', [...at, 'except', k], `${quote(item)} cannot be taken away`, `write ${meant}`));
        }
      }
      findings.push(...checkExcept(peer, at));
      findings.push(...checkNames(peer.domainNames, [...at, 'domainNames']));
    }
    if (isObject(rule.tls) && rule.tls.serverName === 'Match') {
      const message = 'serverName: Match is not yet enforced: the rule allows nothing';
      findings.push(
        doubtful('not_yet_enforced', [...path, 'tls', 'serverName'], message, 'write a rule without tls meanwhile'),
      );
    }
    if (rule.via !== undefined) {
      const message = 'via is not yet enforced: the rule allows nothing';
      const advice = 'write a rule without via meanwhile';
      findings.push({ ...doubtful('not_yet_enforced', [...path, 'via'], message, advice), at: 'key' });
    }
  }
  return findings;
}

/** A CIDR that is in none of the networks beside it takes nothing away: hardly what it is there for. */
function checkExcept({ networks, except }: Record<string, unknown>, path: Path): Finding[] {
  const read = (list: unknown) =>
    entries(list).flatMap(([i, text]) => {
      const cidr = typeof text === 'string' ? readCidr(text) : null;
      return cidr ? [{ i, text, ...cidr }] : [];
    });
  const outer = read(networks);
  if (outer.length === 0) return [];
  return read(except).flatMap(({ i, text, prefix, cidr }) => {
    const overlaps = outer.some(
      (network) =>
        network.cidr.includes(':') === cidr.includes(':') &&
        (contains(network.prefix, prefix.key) || contains(prefix, network.prefix.key)),
    );
    if (overlaps) return [];
    const message = `${quote(text)} takes nothing away: it is in none of the networks beside it`;
    return [doubtful('except', [...path, 'except', i], message, 'write a part of these networks, or remove it')];
  });
}

const EXCEPTABLE = ['Internet', 'Cluster', 'Host', 'KubeAPIServer', 'DNS'];

function entries(list: unknown): [number, unknown][] {
  return Array.isArray(list) ? [...list.entries()] : [];
}

function objects(list: unknown): [number, Record<string, unknown>][] {
  return entries(list).filter((entry): entry is [number, Record<string, unknown>] => isObject(entry[1]));
}
