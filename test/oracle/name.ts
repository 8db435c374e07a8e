// SPDX-License-Identifier: Apache-2.0
// Did one of a rule's names lead to this address? By api.md, section 2, and by upstream's CRD ("DomainName").
import { domainToASCII } from 'node:url';
import { isOneOf } from './address.ts';
import type { Cluster } from './cluster.ts';
import type { Destination } from './destination.ts';
import { isEntity } from './entity.ts';

/**
 * "answers: World (default): only addresses of that entity are learned, so no name leads to the node, a pod, loopback or link-local | Any."
 * `the node` is this machine, whoever asks. Upstream has no such field. An endpoint that is reached by its Service has no name: DNS told the Service's address.
 */
export function namesLead(
  cluster: Cluster,
  patterns: readonly string[],
  answers: string | null | undefined,
  destination: Destination,
): boolean {
  const { names, reachedBy } = destination;
  if (reachedBy !== null) return false;
  const { address } = destination;
  const isNode = isOneOf(address, cluster.host.addresses);
  if (answers !== 'Any' && (isNode || !isEntity(cluster, 'World', destination))) return false;
  return names.some((name) => matchesAny(patterns, name));
}

export function matchesAny(patterns: readonly string[], name: string): boolean {
  return patterns.some((pattern) => matches(pattern, name));
}

/** What is before a search domain; null: the name does not end in it, or there is nothing. */
export function withoutEnd(name: string, domain: string): string | null {
  const [labels, end] = [labelsOf(name), labelsOf(domain)];
  const before = labels.slice(0, -end.length);
  const ends = before.length > 0 && end.every((label, index) => label === labels[before.length + index]);
  return ends ? before.join('.') : null;
}

/** "*. is one or more whole labels, never the bare domain; case and a final dot are ignored, U-labels converted." */
function matches(pattern: string, name: string): boolean {
  const [wanted, told] = [labelsOf(pattern), labelsOf(name)];
  const isWildcard = wanted[0] === '*';
  const fixed = isWildcard ? wanted.slice(1) : wanted;
  const before = told.length - fixed.length;
  if (isWildcard ? before < 1 : before !== 0) return false;
  return fixed.every((label, index) => label === told[before + index]);
}

function labelsOf(name: string): string[] {
  const ascii = /^[ -~]*$/.test(name) ? name.toLowerCase() : domainToASCII(name.replace('*', 'wildcard'));
  return ascii
    .replace(/^wildcard\./, '*.')
    .split('.')
    .filter((label) => label !== '');
}
