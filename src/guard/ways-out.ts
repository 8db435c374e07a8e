// SPDX-License-Identifier: Apache-2.0
// By which interfaces does a pod's namespace reach the world, which of the host's are their other ends, and what may be sent from there?
// Pure: from dumps alone, whichever CNI made them.
import type { Interface } from '../kernel/native.ts';
import type { AddressKey } from '../model/tables.ts';

/** A network namespace of a pod, as the host sees it. */
export interface PodNamespace {
  /** The host's number for it. */
  readonly nsid: number;
  /** Its cookie; null: this process may not ask for it, which takes entering the namespace. */
  readonly cookie: bigint | null;
  readonly interfaces: readonly Interface[];
  readonly addresses: readonly { readonly ifindex: number; readonly address: AddressKey }[];
}

/** An interface of the host whose other end is in a pod. */
export interface WayOut {
  /** The host's end. */
  readonly ifindex: number;
  readonly name: string;
  /** The pod's end. */
  readonly inside: number;
  readonly insideName: string;
  /** 12 hex digits. */
  readonly mac: string;
  /** Of the pod's end, none of them loopback or multicast. */
  readonly addresses: readonly AddressKey[];
}

/**
 * What leads out of a pod without a host's end: `macvlan`, `ipvlan`, `device` (hardware of its own), `peer_elsewhere`; or with one whose
 * frames the programs can't read: `not_ethernet`.
 */
export type Unguardable = 'macvlan' | 'ipvlan' | 'device' | 'not_ethernet' | 'peer_elsewhere';

export interface WaysOut {
  readonly guardable: readonly WayOut[];
  readonly unguardable: readonly Unguardable[];
}

const ETHERNET = 1;
/** Kinds whose two ends are one wire. Of others, `link` is what they lie on, or where their packets are routed. */
const PAIRS: ReadonlySet<string> = new Set(['veth', 'netkit']);
const ON_A_PARENT: ReadonlyMap<string, Unguardable> = new Map([
  ['macvlan', 'macvlan'],
  ['macvtap', 'macvlan'],
  ['ipvlan', 'ipvlan'],
  ['ipvtap', 'ipvlan'],
]);

/** The host's ends, by `pairKey` of the pod's. */
export function pairsOf(host: readonly Interface[]): ReadonlyMap<string, Interface> {
  const pairs = new Map<string, Interface>();
  for (const one of host) {
    if (PAIRS.has(one.kind) && one.hardware === ETHERNET && one.linkNsid !== null && one.link !== null) {
      pairs.set(pairKey(one.linkNsid, one.link), one);
    }
  }
  return pairs;
}

export function pairKey(nsid: number, ifindex: number): string {
  return `${nsid}/${ifindex}`;
}

/** `hostNsid`: the host's number for itself; null: it has none, so nobody's peer is there. */
export function waysOut(
  { nsid, interfaces, addresses }: PodNamespace,
  pairs: ReadonlyMap<string, Interface>,
  hostNsid: number | null,
): WaysOut {
  const guardable: WayOut[] = [];
  const unguardable: Unguardable[] = [];
  let hasPeerElsewhere = false;
  for (const inside of interfaces) {
    const outside = pairs.get(pairKey(nsid, inside.ifindex));
    const parent = ON_A_PARENT.get(inside.kind);
    if (outside !== undefined && PAIRS.has(inside.kind)) {
      guardable.push({
        ...{ ifindex: outside.ifindex, name: outside.name, inside: inside.ifindex, insideName: inside.name },
        mac: inside.mac.toString('hex'),
        addresses: addresses
          .filter(({ ifindex, address }) => ifindex === inside.ifindex && isOfAHost(address))
          .map(({ address }) => address),
      });
    } else if (parent !== undefined && inside.linkNsid !== null) unguardable.push(parent);
    else if (inside.kind === '' && inside.hardware === ETHERNET) unguardable.push('device');
    else if (PAIRS.has(inside.kind) && inside.hardware !== ETHERNET) unguardable.push('not_ethernet');
    else if (PAIRS.has(inside.kind) && inside.linkNsid !== null && inside.linkNsid !== hostNsid)
      hasPeerElsewhere = true;
  }
  // Where there is another way out, such a pair most likely leads into a namespace of the pod's own making.
  if (guardable.length + unguardable.length === 0 && hasPeerElsewhere) unguardable.push('peer_elsewhere');
  return { guardable: guardable.sort((a, b) => a.inside - b.inside), unguardable };
}

/** The way that the pod's own addresses belong to; without any found, `eth0`, as container runtimes name it, or the first. */
export function primaryOf(ways: readonly WayOut[], podIps: readonly AddressKey[]): WayOut | null {
  return (
    ways.find(({ addresses }) => addresses.some((one) => podIps.includes(one))) ??
    ways.find(({ insideName }) => insideName === 'eth0') ??
    ways[0] ??
    null
  );
}

/** fe80::/10 */
export function isLinkLocal(address: AddressKey): boolean {
  return /^fe[89ab]/.test(address);
}

/** The link-local address that a host makes of its hardware address (RFC 4291, appendix A). */
export function linkLocalOf(mac: string): AddressKey | null {
  if (!/^[0-9a-f]{12}$/.test(mac)) return null;
  const first = (Number.parseInt(mac.slice(0, 2), 16) ^ 2).toString(16).padStart(2, '0');
  return `fe80${'0'.repeat(12)}${first}${mac.slice(2, 6)}fffe${mac.slice(6)}`;
}

const LOOPBACK = '00000000000000000000000000000001';
const MAPPED = '00000000000000000000ffff';

/** No loopback, no multicast, not unspecified. */
function isOfAHost(address: AddressKey): boolean {
  if (address === LOOPBACK || address.startsWith('ff') || /^0*$/.test(address)) return false;
  return !new RegExp(`^${MAPPED}(?:7f|e|f|00)`).test(address);
}
