// SPDX-License-Identifier: Apache-2.0
// Domain names and the patterns that policies write, in the form in which DNS compares them: lower case, A-labels, no final dot.
// Knows nothing of policies.

/** `api.example.com`, or `*.example.org`: one or more whole labels before it, never the bare domain. */
export type NamePattern = string;

/** Bytes of the longest name, dots between labels included (RFC 1035, section 2.3.4, less length bytes and root). */
export const NAME_BYTES = 253;
export const LABEL_BYTES = 63;

export const WILDCARD = '*.';

/** kubelet's `clusterDomain` as kubeadm and nearly everybody has it. */
export const CLUSTER_DOMAIN = 'cluster.local';

/** Every wildcard that could match a name, the longest first: of `a.b.org` `*.b.org` and `*.org`. */
export function wildcardsOver(name: string): NamePattern[] {
  const labels = name.split('.');
  return labels.slice(1).map((_, index) => WILDCARD + labels.slice(index + 1).join('.'));
}

export function matchesName(pattern: NamePattern, name: string): boolean {
  if (!pattern.startsWith(WILDCARD)) return pattern === name;
  return name.endsWith(pattern.slice(1)) && name.length > pattern.length - 1;
}

/** As the kernel holds it, so that what is below a name begins with it: `com.example.api`, `org.example.` of `*.example.org`. */
export function reversedName(pattern: NamePattern): string {
  const labels = pattern.split('.').reverse();
  return labels.at(-1) === '*' ? `${labels.slice(0, -1).join('.')}.` : labels.join('.');
}

/** The name, or the pattern, that `reversedName` turned round. */
export function forwardName(reversed: string): NamePattern {
  const labels = reversed.split('.').reverse();
  return labels[0] === '' ? WILDCARD + labels.slice(1).join('.') : labels.join('.');
}
