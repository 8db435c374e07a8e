// SPDX-License-Identifier: Apache-2.0
// What is being asked of a rule: one address, port and protocol, and the workload that sends there.
import type { Address } from './address.ts';
import type { Pod, Protocol } from './kubernetes.ts';

export interface Destination {
  readonly from: Pod;
  readonly address: Address;
  /** null for ICMP. */
  readonly port: number | null;
  readonly protocol: Protocol;
  /** An IcmpType of api.md; null for any other, and for other protocols. */
  readonly icmpType: string | null;
  /** Names that led to the address that was asked. */
  readonly names: readonly string[];
  /** The Service address and port (or node address and node port) on which this endpoint is reached, if it is. */
  readonly reachedBy: { readonly address: Address; readonly port: number } | null;
}
