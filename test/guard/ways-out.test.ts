// SPDX-License-Identifier: Apache-2.0
// Which interfaces lead out of a pod, by tables of what dumps say; also of kinds that this kernel lacks.
import assert from 'node:assert/strict';
import test from 'node:test';
import {
  isLinkLocal,
  linkLocalOf,
  type PodNamespace,
  pairsOf,
  primaryOf,
  type Unguardable,
  type WayOut,
  waysOut,
} from '../../src/guard/ways-out.ts';
import type { Interface } from '../../src/kernel/native.ts';
import { addressKey } from '../../src/model/address.ts';

const HOST_NSID = 0;
const POD_NSID = 7;

function link(ifindex: number, name: string, kind: string, more: Partial<Interface> = {}): Interface {
  return {
    ...{ ifindex, name, kind, hardware: 1, link: null, linkNsid: null, mac: Buffer.from('0a0000000001', 'hex') },
    ...more,
  };
}

const LO = link(1, 'lo', '', { hardware: 772 });

function key(text: string): string {
  const found = addressKey(text);
  assert(found !== null, text);
  return found;
}

function pod(interfaces: readonly Interface[], addresses: readonly [number, string][] = []): PodNamespace {
  return {
    ...{ nsid: POD_NSID, cookie: 99n, interfaces: [LO, ...interfaces] },
    addresses: addresses.map(([ifindex, text]) => ({ ifindex, address: key(text) })),
  };
}

interface Case {
  readonly name: string;
  readonly host: readonly Interface[];
  readonly pod: readonly Interface[];
  readonly guardable: readonly number[];
  readonly unguardable: readonly Unguardable[];
}

const CASES: readonly Case[] = [
  {
    name: 'a veth whose ends have one index, as in a bridge',
    host: [link(9, 'veth1', 'veth', { link: 9, linkNsid: POD_NSID })],
    pod: [link(9, 'eth0', 'veth', { link: 9, linkNsid: HOST_NSID })],
    ...{ guardable: [9], unguardable: [] },
  },
  {
    name: "another pod's veth with the same index inside is not taken for it",
    host: [link(9, 'veth1', 'veth', { link: 2, linkNsid: POD_NSID + 1 })],
    pod: [link(2, 'eth0', 'veth', { link: 5, linkNsid: HOST_NSID })],
    ...{ guardable: [], unguardable: [] },
  },
  {
    name: 'several, in the order of the pod',
    host: [
      link(20, 'b', 'veth', { link: 3, linkNsid: POD_NSID }),
      link(30, 'a', 'veth', { link: 2, linkNsid: POD_NSID }),
    ],
    pod: [link(3, 'net1', 'veth', { link: 20, linkNsid: 0 }), link(2, 'eth0', 'veth', { link: 30, linkNsid: 0 })],
    ...{ guardable: [30, 20], unguardable: [] },
  },
  {
    name: 'netkit that speaks Ethernet',
    host: [link(9, 'nk1', 'netkit', { link: 2, linkNsid: POD_NSID })],
    pod: [link(2, 'eth0', 'netkit', { link: 9, linkNsid: HOST_NSID })],
    ...{ guardable: [9], unguardable: [] },
  },
  {
    name: 'netkit of bare IP has no frames that the guard could read',
    host: [link(9, 'nk1', 'netkit', { link: 2, linkNsid: POD_NSID, hardware: 65534 })],
    pod: [link(2, 'eth0', 'netkit', { link: 9, linkNsid: HOST_NSID, hardware: 65534 })],
    ...{ guardable: [], unguardable: ['not_ethernet'] },
  },
  ...(
    [
      ['macvlan', 'macvlan'],
      ['macvtap', 'macvlan'],
      ['ipvlan', 'ipvlan'],
      ['ipvtap', 'ipvlan'],
    ] as const
  ).map(([kind, why]) => ({
    name: `${kind} on a device of the host`,
    host: [link(2, 'ens1', '')],
    pod: [link(5, 'eth0', kind, { link: 2, linkNsid: HOST_NSID })],
    ...{ guardable: [], unguardable: [why] },
  })),
  {
    name: 'a macvlan on the pod’s own interface leads out by that',
    host: [link(9, 'veth1', 'veth', { link: 2, linkNsid: POD_NSID })],
    pod: [link(2, 'eth0', 'veth', { link: 9, linkNsid: HOST_NSID }), link(3, 'mine', 'macvlan', { link: 2 })],
    ...{ guardable: [9], unguardable: [] },
  },
  {
    name: 'hardware of its own',
    host: [link(2, 'ens1', '')],
    pod: [link(4, 'eth0', '')],
    ...{ guardable: [], unguardable: ['device'] },
  },
  {
    name: 'a veth beside a macvlan: one can be guarded',
    host: [link(9, 'veth1', 'veth', { link: 2, linkNsid: POD_NSID })],
    pod: [
      link(2, 'eth0', 'veth', { link: 9, linkNsid: HOST_NSID }),
      link(3, 'net1', 'macvlan', { link: 2, linkNsid: HOST_NSID }),
    ],
    ...{ guardable: [9], unguardable: ['macvlan'] },
  },
  {
    name: 'a tunnel of its own leads out by another interface',
    host: [link(9, 'veth1', 'veth', { link: 2, linkNsid: POD_NSID })],
    pod: [link(2, 'eth0', 'veth', { link: 9, linkNsid: HOST_NSID }), link(3, 'vx', 'vxlan', { link: 2 })],
    ...{ guardable: [9], unguardable: [] },
  },
  {
    name: "a device of the host's that merely lies on one of the pod's is no end of it",
    host: [link(9, 'mv', 'macvlan', { link: 2, linkNsid: POD_NSID })],
    pod: [link(2, 'tap0', 'tun')],
    ...{ guardable: [], unguardable: [] },
  },
  {
    name: 'the only veth ends in a third namespace',
    host: [],
    pod: [link(2, 'eth0', 'veth', { link: 9, linkNsid: 44 })],
    ...{ guardable: [], unguardable: ['peer_elsewhere'] },
  },
  {
    name: 'a veth into a namespace of its own making, beside its way out',
    host: [link(9, 'veth1', 'veth', { link: 2, linkNsid: POD_NSID })],
    pod: [
      link(2, 'eth0', 'veth', { link: 9, linkNsid: HOST_NSID }),
      link(3, 'nested', 'veth', { link: 2, linkNsid: 44 }),
    ],
    ...{ guardable: [9], unguardable: [] },
  },
  { name: 'nothing but the loopback', host: [], pod: [], guardable: [], unguardable: [] },
];

for (const { name, host, pod: interfaces, guardable, unguardable } of CASES) {
  test(name, () => {
    const ways = waysOut(pod(interfaces), pairsOf(host), HOST_NSID);
    assert.deepEqual(
      ways.guardable.map(({ ifindex }) => ifindex),
      guardable,
    );
    assert.deepEqual(ways.unguardable, unguardable);
  });
}

test('addresses of the interface alone, and none that no host can have', () => {
  const host = [link(9, 'veth1', 'veth', { link: 2, linkNsid: POD_NSID })];
  const [way] = waysOut(
    pod(
      [link(2, 'eth0', 'veth', { link: 9, linkNsid: 0 })],
      [
        ...([
          [1, '127.0.0.1'],
          [1, '10.9.9.9'],
          [2, '10.0.0.7'],
          [2, '127.0.0.5'],
          [2, '::1'],
          [2, 'fd00::7'],
          [2, 'fe80::7'],
          [2, '224.0.0.5'],
          [2, 'ff02::1'],
          [2, '0.0.0.0'],
          [2, '::'],
        ] as [number, string][]),
      ],
    ),
    pairsOf(host),
    HOST_NSID,
  ).guardable;
  assert.deepEqual(way?.addresses, [key('10.0.0.7'), key('fd00::7'), key('fe80::7')]);
});

test('the primary way is the one with the addresses that the API names, else eth0, else the first', () => {
  const way = (insideName: string, ...addresses: string[]): WayOut => ({
    ...{ ifindex: 1, name: 'x', inside: 1, insideName, mac: '' },
    addresses: addresses.map(key),
  });
  const [a, eth0, b] = [way('a', '10.0.0.1'), way('eth0', '10.0.0.2'), way('b', '10.0.0.3')] as const;
  assert.equal(primaryOf([a, eth0, b], [key('10.0.0.3')]), b);
  assert.equal(primaryOf([a, eth0, b], [key('10.0.0.9')]), eth0);
  assert.equal(primaryOf([a, b], []), a);
  assert.equal(primaryOf([], []), null);
});

test('link-local addresses', () => {
  // RFC 4291, appendix A, turns over the second bit of the first byte.
  assert.equal(linkLocalOf('0200000a0b0c'), key('fe80::ff:fe0a:b0c'));
  assert.equal(linkLocalOf('52540012abcd'), key('fe80::5054:ff:fe12:abcd'));
  assert.equal(linkLocalOf(''), null);
  for (const text of ['fe80::1', 'febf::1']) assert(isLinkLocal(key(text)), text);
  for (const text of ['fec0::1', 'fd00::1', '254.128.0.1']) assert(!isLinkLocal(key(text)), text);
});
