// SPDX-License-Identifier: Apache-2.0
// What stands for a policy that is invalid and never was valid: it holds whom it selects, if that much can be read, and allows
// nothing. An Isolate isolates, a Limit leaves nothing; a Grant, which takes nothing from anybody, and Audit stay what they are.
// A guess would be worse than none: where whatever says whom is in doubt, there is no stand-in.
import type { Policy, Subject } from '../model/objects.ts';
import type { Finding } from '../validate/finding.ts';
import { isObject, type Kind } from '../validate/kind.ts';
import { AUDIT_ANNOTATION } from '../validate/network-policy.ts';
import type { Path } from '../yaml/documents.ts';
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
  if (kind !== 'NetworkPolicy' && kind !== 'EgressPolicy' && kind !== 'ClusterEgressPolicy') return null;
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
  const isReliable = findings !== null;
  const subject = readSubject(kind, spec, findings ?? [], errors);
  return (
    subject && {
      kind,
      namespace: kind === 'ClusterEgressPolicy' ? null : namespaceName(namespace),
      name,
      subject,
      effect: isReliable ? effectOf(kind, spec) : 'Isolate',
      priority: 0,
      mode: isReliable && isAudit(kind, metadata, spec) ? 'Audit' : 'Enforce',
      onDeny: 'Reject',
      hostNetwork: kind !== 'NetworkPolicy' && spec.hostNetwork === 'Include',
      rules: [],
    }
  );
}

function effectOf(kind: Kind, { effect }: Record<string, unknown>): Policy['effect'] {
  return kind !== 'NetworkPolicy' && (effect === 'Grant' || effect === 'Limit') ? effect : 'Isolate';
}

function isAudit(kind: Kind, { annotations }: Record<string, unknown>, { mode }: Record<string, unknown>): boolean {
  if (kind !== 'NetworkPolicy') return mode === 'Audit';
  return isObject(annotations) && annotations[AUDIT_ANNOTATION] === 'Audit';
}

function readSubject(
  kind: 'NetworkPolicy' | 'EgressPolicy' | 'ClusterEgressPolicy',
  spec: Record<string, unknown>,
  findings: readonly Finding[],
  errors: readonly Path[],
): Subject | null {
  const field = kind === 'ClusterEgressPolicy' ? 'subject' : 'podSelector';
  if (errors.some((path) => isBelow(path, ['spec', field]))) return null;
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
