// SPDX-License-Identifier: Apache-2.0
// From what rules say of a flow to its verdict: the composition of api.md, step by step, as bpf/verdict.h does it.

import {
  REASON_ADMIN_ACCEPT,
  REASON_ADMIN_DENY,
  REASON_BASELINE_ACCEPT,
  REASON_BASELINE_DENY,
  REASON_LIMIT,
  REASON_NO_RULE,
  REASON_NOT_ISOLATED,
  REASON_RULE,
  RULE_NONE,
} from '#build/generated/abi.ts';
import type { Answer } from '../model/tables.ts';
import { Action } from './numbers.ts';

export interface Header {
  readonly isolated: boolean;
  readonly silent: boolean;
  readonly limits: number;
  readonly limitsSilent: number;
}

export interface Outcome {
  readonly denied: boolean;
  /** enum reason. */
  readonly reason: number;
  /** Precedence in the tier that the reason names, or a Limit's bit number; RULE_NONE: no rule is told. */
  readonly rule: number;
  /** A denial that is a Drop. */
  readonly silent: boolean;
}

export function compose(header: Header, { admin, policy, baseline, limits }: Answer): Outcome {
  if (admin !== RULE_NONE && (admin & 3) === Action.Accept) return allow(REASON_ADMIN_ACCEPT, admin >> 2);
  if (admin !== RULE_NONE && (admin & 3) === Action.Deny) return deny(REASON_ADMIN_DENY, admin >> 2, false);
  const missing = header.limits & ~limits;
  if (missing !== 0) return deny(REASON_LIMIT, lowestBit(missing), (missing & ~header.limitsSilent) === 0);
  if (policy !== RULE_NONE) return allow(REASON_RULE, policy);
  if (header.isolated) return deny(REASON_NO_RULE, RULE_NONE, header.silent);
  if (baseline !== RULE_NONE && (baseline & 3) === Action.Accept) return allow(REASON_BASELINE_ACCEPT, baseline >> 2);
  if (baseline !== RULE_NONE && (baseline & 3) === Action.Deny) return deny(REASON_BASELINE_DENY, baseline >> 2, false);
  return allow(REASON_NOT_ISOLATED, RULE_NONE);
}

function allow(reason: number, rule: number): Outcome {
  return { denied: false, reason, rule, silent: false };
}

function deny(reason: number, rule: number, silent: boolean): Outcome {
  return { denied: true, reason, rule, silent };
}

function lowestBit(mask: number): number {
  return 31 - Math.clz32(mask & -mask);
}
