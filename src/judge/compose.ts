// SPDX-License-Identifier: Apache-2.0
// From what rules say of a flow to its verdict: the composition of api.md, step by step, as bpf/verdict.h does it.

import { Action, NONE, Reason } from '../compile/numbers.ts';
import type { Answer } from '../model/tables.ts';

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
  /** Precedence in the tier that the reason names, or a Limit's bit number; NONE: no rule is told. */
  readonly rule: number;
  /** A denial that is a Drop. */
  readonly silent: boolean;
}

export function compose(header: Header, { admin, policy, baseline, limits }: Answer): Outcome {
  if (admin !== NONE && (admin & 3) === Action.Accept) return allow(Reason.ADMIN_ACCEPT, admin >> 2);
  if (admin !== NONE && (admin & 3) === Action.Deny) return deny(Reason.ADMIN_DENY, admin >> 2, false);
  const missing = header.limits & ~limits;
  if (missing !== 0) return deny(Reason.LIMIT, lowestBit(missing), (missing & ~header.limitsSilent) === 0);
  if (policy !== NONE) return allow(Reason.RULE, policy);
  if (header.isolated) return deny(Reason.NO_RULE, NONE, header.silent);
  if (baseline !== NONE && (baseline & 3) === Action.Accept) return allow(Reason.BASELINE_ACCEPT, baseline >> 2);
  if (baseline !== NONE && (baseline & 3) === Action.Deny) return deny(Reason.BASELINE_DENY, baseline >> 2, false);
  return allow(Reason.NOT_ISOLATED, NONE);
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
