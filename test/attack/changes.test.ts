// SPDX-License-Identifier: Apache-2.0
// Ways out by which a pod changes what is around it: its interface, its addresses, namespaces and devices of its own, its cgroup, and
// what it has left from before. Each is tried by a pod that is held and by one that is not.
import assert from 'node:assert/strict';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { checksummed, ipv4, ipv6, udp } from '../packets/packet.ts';
import { FAMILIES, type Family, type Party, PORT, Scene, until } from './scene.ts';

let scene: Scene;
before(async () => {
  scene = await Scene.open(['pod', 'macvlan']);
});
after(() => scene?.close());

/** Whether anything of theirs arrives: of the one that is held, then of the other, each with a guard. */
async function tryOut(go: (party: Party) => Promise<unknown>): Promise<readonly [held: boolean, free: boolean]> {
  const [held, free] = [scene.party('pod', true), scene.party('pod', false)];
  await scene.forget();
  await go(held);
  await go(free);
  for (const party of [held, free]) {
    const { good } = party.addresses('IPv4');
    assert.equal(await party.place.actor.tryUdp(good, PORT, 10_000), 'ok');
  }
  // A neighbour may be looked for first.
  await until(async () => (await scene.arrived()).has(free), 'only its policy stops it');
  const arrived = await scene.arrived();
  return [arrived.has(held), arrived.has(free)];
}

/** A datagram as it would come in from beyond: to the device of the pod's own that `hardware` is. */
function frameTo(hardware: string, family: Family, from: string, to: string): string {
  const frame = checksummed((family === 'IPv4' ? ipv4 : ipv6)({ from, to }, udp({ from: PORT, to: PORT, bytes: 4 })));
  frame.write(hardware, 0, 'hex');
  return frame.toString('hex');
}

const wayOf = (party: Party, way: string, family: Family) => {
  const { own, evil, good } = party.addresses(family);
  return `${scene.program('ways')} ${way} ${own} ${evil} ${good} ${PORT} 200`;
};

describe('namespaces and devices of its own', () => {
  for (const family of FAMILIES) {
    test(`a bridge with another machine's interface (TAP), ${family}`, async () => {
      const outcome = await tryOut(async (party) => {
        const { own, evil } = party.addresses(family);
        const { hardware } = party;
        await party.sh(
          'ip tuntap add tap0 mode tap && ip link add br0 type bridge && ip link set br0 up && ip link set eth0 master br0 && ip link set tap0 master br0 up',
        );
        const frame = Buffer.from(frameTo(hardware.beyond, family, own, evil), 'hex');
        frame.write('0200000000aa', 6, 'hex');
        await until(
          async () => (await party.sh('ip -d -o link show eth0')).includes('state forwarding'),
          'it forwards',
        );
        await party.run('attacks', 'tap', 'tap0', frame.toString('hex'));
        await party.sh('ip link del tap0; ip link del br0');
      });
      assert.deepEqual(outcome, [false, true]);
    });

    test(`forwarded from a device of its own, from its own address, ${family}`, async () => {
      const outcome = await tryOut(async (party) => {
        const { own, evil } = party.addresses(family);
        await party.sh(
          'ip tuntap add tap0 mode tap && ip link set tap0 up; echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding; for d in all tap0; do echo 1 >/proc/sys/net/ipv4/conf/$d/accept_local; echo 0 >/proc/sys/net/ipv4/conf/$d/rp_filter; done',
        );
        const tap = party.hardwareOf('tap0');
        await party.run('attacks', 'tap', 'tap0', frameTo(tap, family, own, evil));
        await party.sh('ip link del tap0; echo 0 >/proc/sys/net/ipv6/conf/all/forwarding');
      });
      assert.deepEqual(outcome, [false, true]);
    });

    test(`a question in a stranger's name, by a device of its own: the answer does not leave, ${family}`, async () => {
      const outcome = await tryOut(async (party) => {
        const { own, evil } = party.addresses(family);
        await party.place.actor.listen('UDP', own, PORT);
        await party.sh(
          'ip tuntap add tap0 mode tap && ip link set tap0 up; for d in all tap0; do echo 0 >/proc/sys/net/ipv4/conf/$d/rp_filter; done',
        );
        const tap = party.hardwareOf('tap0');
        await party.run('attacks', 'tap', 'tap0', frameTo(tap, family, evil, own));
        await party.sh('ip link del tap0');
      });
      assert.deepEqual(outcome, [false, true]);
    });

    test(`a socket of no cgroup of a pod's, in its namespace, ${family}`, async () => {
      const outcome = await tryOut((party) => {
        const { own, evil, good } = party.addresses(family);
        return scene.lab
          .placeIn(party.place.netns, scene.lab.cgroup('elsewhere'))
          .exec(scene.program('ways'), ['connect', own, evil, good, `${PORT}`, '300']);
      });
      assert.deepEqual(outcome, [false, true]);
    });

    test(`a cgroup inside its own, ${family}`, async () => {
      const outcome = await tryOut((party) => {
        const inner = path.join(party.place.cgroup ?? '', 'inner');
        return party.sh(`mkdir -p ${inner} && echo 0 >${inner}/cgroup.procs && ${wayOf(party, 'sendto', family)}`);
      });
      assert.deepEqual(outcome, [false, true]);
    });
  }

  test('a tunnel of its own (VXLAN)', async () => {
    const outcome = await tryOut(async (party) => {
      const { own, evil } = party.addresses('IPv4');
      await party.sh(
        `ip link add vx0 type vxlan id 5 local ${own} remote ${evil} dstport 4789 && ip addr add 198.19.5.1/24 dev vx0 && ip link set vx0 up && ip neigh add 198.19.5.2 lladdr 02:00:00:00:00:05 dev vx0`,
      );
      await party.place.actor.tryUdp('198.19.5.2', PORT, 100);
      await party.sh('ip link del vx0');
    });
    assert.deepEqual(outcome, [false, true]);
  });
});
