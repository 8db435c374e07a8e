// SPDX-License-Identifier: Apache-2.0
// Is this an EgressPolicy or ClusterEgressPolicy by its CRD (schema, defaults, CEL rules), and beyond what a CRD can say? Also: which of its
// features are not enforced yet, and what was meant where another project's words stand.
import { readFileSync } from 'node:fs';
import { domainToASCII } from 'node:url';
import { Ajv, type ErrorObject, type ValidateFunction } from 'ajv';
import { addressKey, contains } from '../model/address.ts';
import type { Path } from '../yaml/documents.ts';
import { brokenRules, type SchemaWithRules } from './cel.ts';
import { checkCidr, readCidr } from './cidr.ts';
import { checkMetadataTypes, mistyped, unknownField } from './core-types.ts';
import { doubtful, type Finding, quote, wrong, wrongKey } from './finding.ts';
import { isObject, type OwnKind } from './kind.ts';
import { checkSelector } from './metadata.ts';
import { AUDIT_ANNOTATION, isPortName } from './network-policy.ts';
import { nearest } from './spelling.ts';

type RuntimeSchema = SchemaWithRules & Record<string, unknown>;

let schemas: Readonly<Record<OwnKind, RuntimeSchema>> | null = null;
const validators = new Map<OwnKind, ValidateFunction>();

export function schemaOf(kind: OwnKind): RuntimeSchema {
  schemas ??= JSON.parse(
    readFileSync(new URL('../../build/generated/policy-schemas.json', import.meta.url), 'utf8'),
  ) as Readonly<Record<OwnKind, RuntimeSchema>>;
  return schemas[kind];
}

function validatorOf(kind: OwnKind): ValidateFunction {
  let validate = validators.get(kind);
  if (!validate) {
    // verbose: an error then carries the value and the schema that it is about.
    const ajv = new Ajv({ allErrors: true, useDefaults: true, strict: false, verbose: true, validateFormats: false });
    validate = ajv.compile(schemaOf(kind));
    validators.set(kind, validate);
  }
  return validate;
}

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
  findings.push(...checkMetadataTypes(defaulted.metadata), ...checkModeAnnotation(defaulted.metadata));
  if (isObject(defaulted.spec)) findings.push(...checkSpec(kind, defaulted.spec));
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

function describe(errors: readonly ErrorObject[], object: unknown, kind: OwnKind): Finding[] {
  return errors.flatMap((error) => {
    const path = pathOf(error.instancePath, object);
    const finding = describeOne(error, path, kind);
    return finding ? [finding] : [];
  });
}

function describeOne(error: ErrorObject, path: Path, kind: OwnKind): Finding | null {
  const { keyword, data } = error;
  const params = error.params as Record<string, unknown>;
  const parent = (error.parentSchema ?? {}) as Record<string, unknown>;
  if (path.at(-1) === 'port' && keyword !== 'type') return wrongPort(keyword, data, path);
  switch (keyword) {
    case 'additionalProperties': {
      const name = String(params.additionalProperty);
      const fields = Object.keys((parent.properties ?? {}) as object);
      return unknownField([...path, name], fields, meantField(name, path, kind));
    }
    case 'required':
      return missing(String(params.missingProperty), path, kind);
    case 'type':
      if (parent.enum) return wrongWord(data, parent.enum as string[], path);
      return mistyped(TYPES[String(parent.type)] ?? String(params.type), data, path);
    case 'enum':
      // Told by its type already.
      return typeof data === 'string' ? wrongWord(data, parent.enum as string[], path) : null;
    case 'pattern':
      // Told as empty, or with its length by checkNames.
      return (data === '' && parent.minLength) || (isNames(path) && isTooLong(data)) ? null : mispatterned(data, path);
    case 'minItems':
      return wrongKey('empty', path, 'the list is empty', emptyAdvice(path));
    case 'maxItems':
    case 'maxProperties': {
      const message = `more than ${String(params.limit)} items`;
      return wrongKey('limit', path, message, 'split them over several items, rules or policies');
    }
    case 'minLength':
      return wrong('empty', path, 'the text is empty', 'write a value, or remove the item');
    case 'maxLength':
      return wrong('limit', path, `longer than ${String(params.limit)} characters`, 'write a shorter one');
    case 'minimum':
    case 'maximum': {
      const { minimum, maximum } = parent;
      const range =
        maximum === undefined ? `of ${String(minimum)} or more` : `from ${String(minimum)} to ${String(maximum)}`;
      return wrong('range', path, `${quote(data)} is out of range`, `write a number ${range}`);
    }
    case 'uniqueItems': {
      const [i, j] = [Number(params.i), Number(params.j)];
      const item = (data as unknown[])[i];
      return wrong('repeated', [...path, Math.max(i, j)], `${quote(item)} is there twice`, 'remove one of the two');
    }
    default:
      return wrong('schema', path, error.message ?? keyword, 'look at the documentation of this field');
  }
}

/** One finding, however many keywords fail. */
function wrongPort(keyword: string, port: unknown, path: Path): Finding | null {
  if (typeof port === 'number') {
    return wrong(
      'port',
      path,
      `${port} is no port`,
      'write a number from 1 to 65535, or leave port out for every port',
    );
  }
  if (keyword === 'maxLength' && typeof port === 'string' && !isPortName(port.slice(0, 15))) return null;
  const advice = /^[0-9]+$/.test(String(port))
    ? `write ${Number(port)}, without quotes`
    : 'write a number, or at most 15 of a-z, 0-9 and -, one letter at least';
  return wrong('port', path, `${quote(port)} is no port name`, advice);
}

const TYPES: Readonly<Record<string, string>> = {
  object: 'a mapping',
  array: 'a list',
  string: 'text',
  integer: 'a whole number',
  'integer,string': 'a whole number or text',
};

/** A JSON pointer to a path: an index is a number where there is a list. */
function pathOf(pointer: string, object: unknown): Path {
  const path: (string | number)[] = [];
  let value = object;
  for (const part of pointer.split('/').slice(1)) {
    const name = part.replaceAll('~1', '/').replaceAll('~0', '~');
    const step = Array.isArray(value) ? Number(name) : name;
    path.push(step);
    value = (value as Record<string, unknown> | undefined)?.[step];
  }
  return path;
}

function missing(name: string, path: Path, kind: OwnKind): Finding {
  const advice: Readonly<Record<string, string>> = {
    to: 'write to: [ … ] with at least one destination; entities: [All] for every one',
    podSelector: 'write podSelector: {} for all pods',
    namespaceSelector:
      kind === 'ClusterEgressPolicy'
        ? 'write namespaceSelector: a cluster-scoped policy has no namespace of its own; {} for all namespaces'
        : 'write namespaceSelector: {} for all namespaces',
    namespace: 'write namespace: a cluster-scoped policy has no namespace of its own',
    subject: 'write subject: {namespaces: {}} for every pod, or narrower',
    spec: 'write spec: …',
  };
  return wrong('missing', [...path, name], `${name} is missing`, advice[name] ?? `write ${name}`);
}

function emptyAdvice(path: Path): string {
  if (path.at(-1) === 'to') return 'write at least one destination; entities: [All] for every one';
  if (path.at(-1) === 'ports') return 'write at least one port, or leave ports out to mean every port and protocol';
  return 'write at least one item, or remove the list';
}

/** Words of other projects for what we have by another name. */
const FOREIGN_ENTITIES: Readonly<Record<string, string>> = {
  all: 'All',
  world: 'World (or Internet, which leaves private ranges out)',
  'world-ipv4': 'networks: [0.0.0.0/0], or World',
  'world-ipv6': 'networks: ["::/0"], or World',
  host: 'Host',
  'remote-node': 'nodes: {}, in an item of its own',
  'kube-apiserver': 'KubeAPIServer',
  cluster: 'Cluster',
  'kube-dns': 'DNS',
  init: 'pods, in an item of its own',
  unmanaged: 'Cluster, or pods in an item of its own',
  health: 'Host, or nodes in an item of its own',
  ingress: 'pods, in an item of its own',
  none: 'no rule at all: what no rule allows is denied',
};

function foreignEntity(word: string): string | undefined {
  return Object.hasOwn(FOREIGN_ENTITIES, word) ? FOREIGN_ENTITIES[word] : undefined;
}

function wrongWord(value: unknown, words: readonly string[], path: Path): Finding {
  if (typeof value !== 'string') {
    const found = Array.isArray(value) ? 'a list' : isObject(value) ? 'a mapping' : quote(value);
    return wrong('type', path, `must be ${list(words)}, not ${found}`, `write ${list(words)}`);
  }
  const isEntity = words.includes('KubeAPIServer');
  const meant = (isEntity ? foreignEntity(value) : undefined) ?? nearest(value, words) ?? list(words);
  if (isEntity) return wrong('entity', path, `there is no entity ${quote(value)}`, `write ${meant}`);
  return wrong('enum', path, `there is no ${String(path.at(-1))} ${quote(value)}`, `write ${meant}`);
}

const list = (words: readonly string[]): string => `${words.slice(0, -1).join(', ')} or ${words.at(-1) ?? ''}`;

const isNames = (path: Path): boolean => path.at(-2) === 'domainNames' || path.at(-2) === 'names';

function mispatterned(value: unknown, path: Path): Finding {
  if (isNames(path)) return badName(value, path);
  if (path.at(-2) === 'units') {
    const advice = 'write the exact name of a service, such as kubelet.service: no wildcard, no slice';
    return wrong('unit', path, `${quote(value)} is no service unit`, advice);
  }
  const advice = 'write at most 63 of a-z, 0-9 and -, a letter or digit at either end';
  return wrong('name', path, `${quote(value)} is no valid name`, advice);
}

function badName(value: unknown, path: Path): Finding {
  const text = String(value);
  let advice = 'write api.example.com, or *.example.com for the names below it';
  if (/^[a-z]+:\/\//i.test(text)) {
    advice = `write the name alone: ${text.replace(/^[a-z]+:\/\//i, '').replace(/[/:].*$/, '')}`;
  } else if (/:\d+$/.test(text)) advice = `write ${text.replace(/:\d+$/, '')}, and the port in ports`;
  else if (text === '*') advice = 'write entities: [World] for every address outside, in an item of its own';
  else if (text.startsWith('**.')) advice = `write ${text.slice(1)}, which covers any number of labels`;
  else if (text.startsWith('.')) advice = `write "*${text}" for the names below it`;
  else if (text.includes('*')) advice = 'write *. at the beginning only: it stands for one or more whole labels';
  return wrong('domain_name', path, `${quote(value)} is no domain name`, advice);
}

/** What to write where another API's field stands, by its place. */
function meantField(name: string, path: Path, kind: OwnKind): string | undefined {
  const inPeer = path.at(-2) === 'to';
  const inRule = path.at(-2) === 'egress';
  const inSpec = path.length === 1 && path[0] === 'spec';
  const peers: Readonly<Record<string, string>> = {
    podSelector: 'write pods: {podSelector: …}',
    namespaceSelector: 'write namespaces: …, or pods: {namespaceSelector: …, podSelector: …}',
    ipBlock: 'write networks: [CIDR], and except beside it',
    cidr: 'write networks: [CIDR]',
    cidrs: 'write networks: [CIDR, …]',
    cidrSet: 'write networks: [CIDR, …] and except',
    fqdn: 'write domainNames: [name]',
    fqdns: 'write domainNames: [name, …]',
    matchName: 'write domainNames: [name]',
    matchPattern: 'write domainNames: ["*.name"]',
    toFQDNs: 'write domainNames: [name, …]',
    toEntities: 'write entities: [ … ]',
    toCIDR: 'write networks: [CIDR, …]',
    ports: 'write ports beside `to`, not in it',
  };
  const rules: Readonly<Record<string, string>> = {
    toFQDNs: 'write to: [{domainNames: [name, …]}]',
    toEntities: 'write to: [{entities: [ … ]}]',
    toCIDR: 'write to: [{networks: [CIDR, …]}]',
    toCIDRSet: 'write to: [{networks: [CIDR, …], except: [ … ]}]',
    toEndpoints: 'write to: [{pods: {podSelector: …}}]',
    toServices: 'write to: [{services: [{namespace: …, name: …}]}]',
    toPorts: 'write ports: [{port: …, protocol: …}]',
    protocols: 'write ports: [{port: …, protocol: …}]',
    from: 'write to: a policy of this kind is about egress',
    action: 'remove it: every rule allows; what is denied is what no rule allows',
    ...Object.fromEntries(
      ['pods', 'namespaces', 'networks', 'nodes', 'services', 'entities', 'domainNames'].map((peer) => [
        peer,
        `write to: [{${peer}: …}]`,
      ]),
    ),
  };
  const specs: Readonly<Record<string, string>> = {
    ingress: 'remove it: this kind is about egress; NetworkPolicy has ingress',
    policyTypes: 'remove it: this kind is about egress; effect says whether it isolates',
    priority: 'remove it: policies of this kind have no order',
    tier: 'remove it: policies of this kind have no tiers; effect: Limit binds whoever allows',
    order: 'remove it: policies of this kind have no order',
    endpointSelector: kind === 'EgressPolicy' ? 'write podSelector' : 'write subject: {pods: …}',
    selector: kind === 'EgressPolicy' ? 'write podSelector' : 'write subject: {pods: …}',
    enableDefaultDeny: 'write effect: Grant for a policy that isolates nobody',
    egressDeny: 'write effect: Limit, with what remains allowed as egress',
    ...(kind === 'EgressPolicy'
      ? {
          subject: 'write podSelector, or kind: ClusterEgressPolicy',
          namespaceSelector: 'write kind: ClusterEgressPolicy with subject: {namespaces: …}',
        }
      : {
          podSelector: 'write subject: {pods: {namespaceSelector: …, podSelector: …}}',
          namespaceSelector: 'write subject: {namespaces: …}',
        }),
  };
  const ports: Readonly<Record<string, string>> = {
    number: 'write port',
    name: 'write port: it takes a name, too',
    range: 'write port and endPort',
    type: 'write icmpType',
  };
  const known = inPeer ? peers : inRule ? rules : inSpec ? specs : path.at(-2) === 'ports' ? ports : {};
  return Object.hasOwn(known, name) ? known[name] : undefined;
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
      const path = ['spec', 'subject', 'nodeServices'];
      selector(nodeServices.nodeSelector, [...path, 'nodeSelector']);
      const message = 'node services are not yet enforced: this policy holds nobody';
      findings.push({
        ...doubtful('not_yet_enforced', path, message, 'select pods by namespaces or pods meanwhile'),
        at: 'key',
      });
    }
  }
  if (isObject(spec.dns)) {
    if (spec.dns.queries === 'AllowedNamesOnly') {
      const message = 'AllowedNamesOnly is not yet enforced: every name may be asked';
      findings.push(doubtful('not_yet_enforced', ['spec', 'dns', 'queries'], message, 'do not rely on it yet'));
    }
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
          const meant = foreignEntity(item) ?? nearest(item, EXCEPTABLE) ?? `a CIDR, ${list(EXCEPTABLE)}`;
          findings.push(wrong('entity', [...at, 'except', k], `${quote(item)} cannot be taken away`, `write ${meant}`));
        }
      }
      findings.push(...checkExcept(peer, at));
      const names = checkNames(peer.domainNames, [...at, 'domainNames']);
      findings.push(...names);
      if (peer.domainNames !== undefined && names.length === 0) {
        const message = 'domain names are not yet enforced: this item allows nothing';
        const advice = 'add networks, entities or services that cover the destination meanwhile';
        findings.push({ ...doubtful('not_yet_enforced', [...at, 'domainNames'], message, advice), at: 'key' });
      }
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

/** Names whose ASCII form is too long for DNS (RFC 1035, 2.3.4), or that have none (UTS 46). */
function checkNames(names: unknown, path: Path): Finding[] {
  return entries(names).flatMap(([i, name]) => {
    if (typeof name !== 'string' || name === '') return [];
    const ascii = asciiName(name);
    if (ascii === null) return [badName(name, [...path, i])];
    if (isTooLong(name)) {
      const message = `${quote(name)} is longer than DNS allows`;
      return [wrong('domain_name', [...path, i], message, 'write at most 253 bytes, 63 between two dots')];
    }
    return [];
  });
}

function isTooLong(name: unknown): boolean {
  const ascii = typeof name === 'string' && /^[^\s/:@]+$/.test(name) ? asciiName(name) : null;
  return ascii !== null && (ascii.length > 253 || ascii.split('.').some((label) => label.length > 63));
}

/** In lower case, U-labels as A-labels, without the final dot; null where that cannot be. */
export function asciiName(name: string): string | null {
  const wildcard = name.startsWith('*.') ? '*.' : '';
  const rest = name.slice(wildcard.length).replace(/\.$/, '').toLowerCase();
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the range is what ASCII is
  if (/^[\x00-\x7f]*$/.test(rest)) return rest === '' ? null : wildcard + rest;
  const ascii = domainToASCII(rest);
  return ascii === '' ? null : wildcard + ascii;
}

function entries(list: unknown): [number, unknown][] {
  return Array.isArray(list) ? [...list.entries()] : [];
}

function objects(list: unknown): [number, Record<string, unknown>][] {
  return entries(list).filter((entry): entry is [number, Record<string, unknown>] => isObject(entry[1]));
}
