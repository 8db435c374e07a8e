// SPDX-License-Identifier: Apache-2.0
// What stands for a policy that is invalid and never was valid: it holds whom it selects, if that much can be read, and allows
// nothing. An Isolate isolates, a Limit leaves nothing; a Grant, which takes nothing from anybody, and Audit stay what they are. In the Baseline
// tier "nothing" is Deny all, which policies of namespaces override as ever; in the Admin tier it isolates: Deny all there would cut off even
// what namespaces allow, cluster DNS and all.
// A guess would be worse than none: where whatever says whom is in doubt, there is no stand-in.
import type { Policy, Subject } from '../model/objects.ts';
import type { Finding } from '../validate/finding.ts';
import { type CrdKind, isObject, isPolicy, type Kind, kinds } from '../validate/kind.ts';
import { AUDIT_ANNOTATION } from '../validate/network-policy.ts';
import type { Path } from '../yaml/documents.ts';
import { DENY_ALL, parseUpstreamSubject } from './cluster-network-policy.ts';
import { namespaceName } from './cluster-objects.ts';
import { parseSubject } from './egress-policy.ts';
import { isAboutEgress } from './network-policy.ts';
import { type LabelSelector, parseSelector } from './selector.ts';

/**
 * @param findings everything that was found wrong with the object; null: its text is broken, so that no setting can be relied on
 * and the strictest is taken.
 */
export function standInFor(
  kind: Kind,
  object: Record<string, unknown>,
  findings: readonly Finding[] | null,
): Policy | null {
  if (!isPolicy(kind)) return null;
  const { metadata, spec } = object;
  if (!isObject(metadata) || !isObject(spec)) return null;
  const { name, namespace } = metadata;
  if (typeof name !== 'string' || name === '') return null;
  if (namespace !== undefined && namespace !== null && typeof namespace !== 'string') return null;
  const errors = (findings ?? []).filter(({ severity }) => severity === 'error').map(({ path }) => path);
  if (errors.some((path) => isBelow(path, ['metadata', 'namespace']))) return null;
  if (
    kind === 'NetworkPolicy' &&
    !isAboutEgress(spec) &&
    !errors.some((path) => isBelow(path, ['spec', 'policyTypes']))
  ) {
    return null;
  }
  if (kind === 'ClusterNetworkPolicy' && !maySayEgress(spec, errors)) return null;
  const isReliable = findings !== null;
  const subject = readSubject(kind, spec, findings ?? [], errors);
  const effect = isReliable ? effectOf(kind, spec) : 'Isolate';
  return (
    subject && {
      kind,
      namespace: kinds[kind].namespaced ? namespaceName(namespace) : null,
      name,
      subject,
      effect,
      // Whatever its own is, its worst is to go first.
      priority: 0,
      mode: isReliable && isAudit(kind, metadata, spec) ? 'Audit' : 'Enforce',
      onDeny: 'Reject',
      hostNetwork: !isUpstream(kind) && spec.hostNetwork === 'Include',
      rules: effect === 'Baseline' ? [DENY_ALL] : [],
    }
  );
}

/** A policy without egress rules does not affect egress; a field that nobody knows may be egress, misspelled. */
function maySayEgress({ egress }: Record<string, unknown>, errors: readonly Path[]): boolean {
  if (egress !== undefined && !(Array.isArray(egress) && egress.length === 0)) return true;
  return errors.some((path) => path[0] === 'spec' && path.length === 2 && !UPSTREAM_FIELDS.has(String(path[1])));
}
const UPSTREAM_FIELDS = new Set(['tier', 'priority', 'subject', 'ingress']);

const isUpstream = (kind: Kind): boolean => kind === 'NetworkPolicy' || kind === 'ClusterNetworkPolicy';

function effectOf(kind: Kind, { effect, tier }: Record<string, unknown>): Policy['effect'] {
  if (kind === 'ClusterNetworkPolicy') return tier === 'Baseline' ? 'Baseline' : 'Isolate';
  return kind !== 'NetworkPolicy' && (effect === 'Grant' || effect === 'Limit') ? effect : 'Isolate';
}

function isAudit(kind: Kind, { annotations }: Record<string, unknown>, { mode }: Record<string, unknown>): boolean {
  if (!isUpstream(kind)) return mode === 'Audit';
  return isObject(annotations) && annotations[AUDIT_ANNOTATION] === 'Audit';
}

function readSubject(
  kind: 'NetworkPolicy' | CrdKind,
  spec: Record<string, unknown>,
  findings: readonly Finding[],
  errors: readonly Path[],
): Subject | null {
  const field = kinds[kind].namespaced ? 'podSelector' : 'subject';
  if (errors.some((path) => isBelow(path, ['spec', field]))) return null;
  if (kind === 'ClusterNetworkPolicy') {
    return isObject(spec.subject) ? parseUpstreamSubject(spec.subject) : null;
  }
  if (kind === 'ClusterEgressPolicy') {
    return isObject(spec.subject) ? parseSubject(spec.subject as unknown as Parameters<typeof parseSubject>[0]) : null;
  }
  const { podSelector } = spec;
  // Absent means every pod; but an unknown field beside it may be the selector, misspelled.
  const isAbsent = podSelector === undefined || podSelector === null;
  if (
    isAbsent &&
    findings.some(({ code, path }) => code === 'unknown_field' && path[0] === 'spec' && path.length === 2)
  ) {
    return null;
  }
  return { type: 'own', podSelector: parseSelector(podSelector as LabelSelector | null | undefined) };
}

function isBelow(path: Path, ancestor: Path): boolean {
  return ancestor.every((step, i) => path[i] === step);
}
