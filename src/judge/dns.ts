// SPDX-License-Identifier: Apache-2.0
// May pods ask the resolvers whose addresses are known, all policies on them taken together? By their verdicts, as packets get them. What
// rules say where no resolver is known is resolve/dns.ts.
import { REASON_NO_READY_ENDPOINT } from '#build/generated/abi.ts';
import { compile } from '../compile/compile.ts';
import { isResolver, nameOf } from '../compile/facts.ts';
import { Protocol } from '../compile/numbers.ts';
import { addressKey } from '../model/address.ts';
import type { Pod, Snapshot } from '../model/objects.ts';
import type { AddressKey } from '../model/tables.ts';
import { isLoopback } from '../resolve/entities.ts';
import { decide } from './decide.ts';

const DNS_PORT = 53;

/**
 * For each of these pods whether it may ask, if Audit policies were enforced, one of the resolvers that the entity DNS means: kube-system/kube-dns,
 * and the host's. null: none is known, or nothing ready stands behind the one that is.
 */
export function askers(snapshot: Snapshot, pods: readonly Pod[]): ReadonlyMap<Pod, boolean | null> {
  const services = snapshot.services.filter((service) => isResolver(service, snapshot.host));
  const resolvers = [...services.flatMap(({ clusterIPs }) => clusterIPs), ...snapshot.host.resolvers]
    .map(addressKey)
    .filter((key): key is AddressKey => key !== null && !isLoopback(key));
  if (resolvers.length === 0) return new Map(pods.map((pod) => [pod, null]));
  const names = new Set(services.map(nameOf));
  const slices = snapshot.endpointSlices.filter(
    ({ namespace, service }) => service !== null && names.has(nameOf({ namespace, name: service })),
  );
  const behind = new Set(
    slices.flatMap(({ endpoints }) => endpoints.flatMap(({ pod }) => (pod === null ? [] : [nameOf(pod)]))),
  );
  // Of a cluster of 50,000 pods this is all that a verdict on a resolver depends on.
  const asking = new Set(pods);
  const compiled = compile(
    {
      ...snapshot,
      pods: snapshot.pods.filter((pod) => asking.has(pod) || behind.has(nameOf(pod))),
      services,
      endpointSlices: slices,
    },
    { local: pods },
  );
  return new Map(
    pods.map((pod) => {
      const workload = compiled.tables.workloads.get(nameOf(pod));
      if (workload === undefined) return [pod, null];
      const decisions = resolvers.map((address) =>
        decide(compiled, workload, { address, protocol: Protocol.UDP, port: DNS_PORT }),
      );
      if (decisions.some(({ verdict, shadow }) => verdict === 'allow' || (verdict === 'deny' && shadow !== null))) {
        return [pod, true];
      }
      const isIdle = decisions.some(({ outcome }) => outcome.reason === REASON_NO_READY_ENDPOINT);
      return [pod, isIdle ? null : false];
    }),
  );
}
