// SPDX-License-Identifier: Apache-2.0
// The numbers of bpf/abi.h by the words that policies use. Protocol numbers are IANA's.
import {
  ACTION_ACCEPT,
  ACTION_DENY,
  ACTION_PASS,
  ICMP_ECHO_ANSWER,
  ICMP_ECHO_REQUEST,
  ICMP_PARAMETER,
  ICMP_TIME_OUT,
  ICMP_TOO_BIG,
  ICMP_UNREACHABLE,
} from '#build/generated/abi.ts';

export const Action = { Accept: ACTION_ACCEPT, Deny: ACTION_DENY, Pass: ACTION_PASS } as const;

export const Protocol = { ICMP: 1, TCP: 6, UDP: 17, SCTP: 132 } as const;

/** `icmpType` of a policy's port. */
export const IcmpKind = {
  EchoRequest: ICMP_ECHO_REQUEST,
  EchoReply: ICMP_ECHO_ANSWER,
  DestinationUnreachable: ICMP_UNREACHABLE,
  PacketTooBig: ICMP_TOO_BIG,
  TimeExceeded: ICMP_TIME_OUT,
  ParameterProblem: ICMP_PARAMETER,
} as const;
