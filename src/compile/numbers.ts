// placeholder until generated
export const NONE = 0xffff;
export const PROTOCOL_ANY = 0;
export const KIND_STRANGER = 1;
export const ROW_ENTRIES = 6;
export const FINAL_SILENT = 0x80;
export const Action = { Accept: 0, Deny: 1, Pass: 2 } as const;
export const Limits = { MAX: 8 } as const;
export const Protocol = { ICMP: 1, TCP: 6, UDP: 17, SCTP: 132 } as const;
export const RowFlags = { ISOLATED: 1, SILENT: 2, ZONES: 4, PORT_SET: 8 } as const;
export const IcmpKind = {
  EchoRequest: 1,
  EchoReply: 2,
  DestinationUnreachable: 3,
  PacketTooBig: 4,
  TimeExceeded: 5,
  ParameterProblem: 6,
} as const;
export const Reason = {
  RULE: 1,
  ADMIN_ACCEPT: 2,
  BASELINE_ACCEPT: 3,
  NOT_ISOLATED: 4,
  LOOPBACK: 6,
  SELF: 7,
  MISSING_ROW: 38,
  DENIED: 32,
  NO_RULE: 32,
  LIMIT: 33,
  ADMIN_DENY: 34,
  BASELINE_DENY: 35,
  NO_READY_ENDPOINT: 36,
} as const;
export function reasonName(r: number): string {
  return (Object.entries(Reason).find(([n, v]) => v === r && n !== 'DENIED')?.[0] ?? String(r)).toLowerCase();
}
