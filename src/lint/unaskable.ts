// SPDX-License-Identifier: Apache-2.0
// Which names may be connected to, but not asked for? By what policies list, pod by pod of the folder; whether a resolver may be reached is
// another question.
import { askedOutcome, askedPatterns, askingOf, isOfUnion } from '../compile/asking.ts';
import { CLUSTER_DOMAIN, type NamePattern, WILDCARD, wildcardsOver } from '../model/name.ts';
import type { Pod, Policy } from '../model/objects.ts';
import { policyName } from '../resolve/order.ts';
import { doubtful, type Finding, quote } from '../validate/finding.ts';

/**
 * @param held the pods of the folder that it holds.
 * @param on the policies on one of them.
 */
export function checkUnaskable(policy: Policy, held: readonly Pod[], on: (pod: Pod) => readonly Policy[]): Finding[] {
  if (policy.effect === 'Limit') return [];
  return policy.rules.flatMap((rule, index) =>
    rule.peers.flatMap((peer, at): Finding[] => {
      if (peer.type !== 'domainNames' || rule.action !== 'Accept') return [];
      for (const name of peer.names) {
        const pod = held.find((one) => !mayBeAsked(name, on(one)));
        if (pod === undefined) continue;
        const who = `${pod.namespace}/${pod.name}`;
        const message = `${quote(name)} may not be asked for by ${who}: ${sayingOn(on(pod)).join(', ')} say which names may be, and do not list it`;
        const path = ['spec', 'egress', index, 'to', at, 'domainNames'];
        return [
          doubtful('name_not_asked', path, message, 'add it to dns.names of these, or let them say queries: Any'),
        ];
      }
      return [];
    }),
  );
}

function sayingOn(policies: readonly Policy[]): string[] {
  return policies.filter(({ allowedNames }) => allowedNames?.only === true).map(policyName);
}

/** Every name that the pattern stands for. */
function mayBeAsked(pattern: NamePattern, policies: readonly Policy[]): boolean {
  const limits = policies.filter(({ effect }) => effect === 'Limit');
  const asking = askingOf(policies.filter(isOfUnion), limits, { cluster: CLUSTER_DOMAIN, search: [] });
  if (asking === null) return true;
  const wider = [...askedPatterns(asking)].filter(
    (one) => one === pattern || wildcardsOver(below(pattern)).includes(one),
  );
  return !askedOutcome(asking, wider).denied;
}

/** Whatever is over it is over all that the pattern stands for. */
function below(pattern: NamePattern): string {
  return pattern.startsWith(WILDCARD) ? pattern.slice(WILDCARD.length) : pattern;
}
