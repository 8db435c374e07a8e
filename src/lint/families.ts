// SPDX-License-Identifier: Apache-2.0
// Which rules open one address of a destination and leave its other family closed, or close one and leave the other open? Clients try both:
// one of two tries then fails or hangs, or gets past. By verdicts on what the folder holds.
import type { Compiled } from '../compile/compile.ts';
import { Protocol } from '../compile/numbers.ts';
import { decide } from '../judge/decide.ts';
import { addressKey, contains, isIPv4, prefix } from '../model/address.ts';
import type { Pod, Policy, PortProtocol, Rule, Snapshot } from '../model/objects.ts';
import type { AddressKey } from '../model/tables.ts';
import { doubtful, type Finding } from '../validate/finding.ts';

interface Dual {
  /** `Service shop/db`. */
  readonly what: string;
  readonly addresses: readonly { readonly text: string; readonly key: AddressKey }[];
  /** Of a Service its own; null: any. */
  readonly ports: readonly { readonly protocol: PortProtocol; readonly port: number }[] | null;
}

/** What the folder holds that has addresses of both families. */
export function dualStacked({ pods, nodes, services }: Snapshot): readonly Dual[] {
  const all: [what: string, addresses: readonly string[], ports: Dual['ports']][] = [
    ...services.map(
      ({ namespace, name, clusterIPs, ports }) =>
        [`Service ${namespace}/${name}`, clusterIPs, ports] as [string, readonly string[], Dual['ports']],
    ),
    ...nodes.map(({ name, addresses }) => [`Node ${name}`, addresses, null] as [string, readonly string[], null]),
    ...pods
      .filter(({ hostNetwork, ended }) => !hostNetwork && !ended)
      .map(
        ({ namespace, name, addresses }) =>
          [`Pod ${namespace}/${name}`, addresses, null] as [string, readonly string[], null],
      ),
  ];
  return all.flatMap(([what, texts, ports]) => {
    const addresses = texts.flatMap((text) => {
      const key = addressKey(text);
      return key === null ? [] : [{ text, key }];
    });
    const families = new Set(addresses.map(({ key }) => isIPv4(key)));
    return families.size === 2 ? [{ what, addresses, ports }] : [];
  });
}

/** @param pod one that it holds. */
export function checkFamilies(policy: Policy, pod: Pod, compiled: Compiled, duals: readonly Dual[]): Finding[] {
  const workload = compiled.tables.workloads.get(`${pod.namespace}/${pod.name}`);
  if (workload === undefined) return [];
  return policy.rules.flatMap((rule, index) => {
    const cidrs = rule.peers.flatMap((peer) => (peer.type === 'networks' ? peer.cidrs : []));
    const families = new Set(cidrs.map((cidr) => cidr.includes(':')));
    if (cidrs.length === 0 || families.size === 2 || rule.notEnforced !== null || rule.action === 'Pass') return [];
    const isV4 = !families.has(true);
    const covers = (key: AddressKey) =>
      cidrs.some((cidr) => {
        const outer = prefix(cidr);
        return outer !== null && contains(outer, key);
      });
    for (const { what, addresses, ports } of duals) {
      const meant = addresses.find(({ key }) => isIPv4(key) === isV4 && covers(key));
      const other = addresses.find(({ key }) => isIPv4(key) !== isV4);
      const flow = flowOf(rule, ports);
      if (meant === undefined || other === undefined || flow === null) continue;
      const isDeniedAt = (address: AddressKey) => decide(compiled, workload, { address, ...flow }).verdict === 'deny';
      const isDenial = rule.action === 'Deny';
      if (isDeniedAt(meant.key) !== isDenial || isDeniedAt(other.key) === isDenial) continue;
      const verb = isDenial ? 'denied' : 'allowed';
      const message = `${what} is ${verb} at ${meant.text} and not at ${other.text}: the rule names one IP family only`;
      const advice = `write networks of the other family beside it, or peers that mean both`;
      return [doubtful('one_family', ['spec', 'egress', index], message, advice)];
    }
    return [];
  });
}

/** One that the rule allows; null: none by number. */
function flowOf({ ports }: Rule, own: Dual['ports']): { protocol: number; port: number } | null {
  const ranges = (ports ?? [null]).flatMap((port): Range[] => {
    if (port === null) return [{ protocol: null, first: 1, last: 0xffff }];
    if (port.protocol === 'ICMP' || typeof port.port === 'string') return [];
    const { protocol, port: first, endPort } = port;
    return [{ protocol, first: first ?? 1, last: endPort ?? first ?? 0xffff }];
  });
  if (own === null) {
    const [range] = ranges;
    return range === undefined ? null : { protocol: Protocol[range.protocol ?? 'TCP'], port: range.first };
  }
  const found = own.find((one) =>
    ranges.some(
      ({ protocol, first, last }) =>
        (protocol === null || protocol === one.protocol) && first <= one.port && one.port <= last,
    ),
  );
  return found === undefined ? null : { protocol: Protocol[found.protocol], port: found.port };
}

interface Range {
  /** null: any. */
  readonly protocol: PortProtocol | null;
  readonly first: number;
  readonly last: number;
}
