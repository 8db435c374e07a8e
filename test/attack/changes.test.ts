// SPDX-License-Identifier: Apache-2.0
// Ways out by which a pod changes what is around it: its interface, its addresses, namespaces and devices of its own, its cgroup, and
// what it has left from before. Each is tried by a pod that is held and by one that is not.
import assert from 'node:assert/strict';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import { checksummed, ipv4, ipv6, udp } from '../packets/packet.ts';
import { CHANGES } from './results.ts';
import { FAMILIES, type Family, type Party, PORT, Scene, until } from './scene.ts';

const tried = new Set<string>();
let scene: Scene;
before(async () => {
  scene = await Scene.open(['pod']);
});
after(() => scene?.close());

/** What was refused since the last look was refused for what is written down. */
async function told(name: string, { pod }: Party): Promise<void> {
  const reasons: string[] = [];
  await until(async () => {
    reasons.push(...((await scene.reasons()).get(pod.name) ?? []));
    return reasons.length > 0;
  }, 'somebody is told');
  const expected = CHANGES[name];
  assert(expected !== undefined, `${name} is in no table`);
  assert.deepEqual(
    reasons.filter((reason) => !expected.includes(reason)),
    [],
  );
  tried.add(name);
}

/** Whether anything of theirs arrives: of the one that is held, then of the other, each with a guard. */
async function tryOut(
  name: string,
  go: (party: Party) => Promise<unknown>,
): Promise<readonly [held: boolean, free: boolean]> {
  const [held, free] = [scene.party('pod', true), scene.party('pod', false)];
  await scene.reasons();
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
  await told(name, held);
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
      const outcome = await tryOut("a bridge with another machine's interface (TAP)", async (party) => {
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
      const outcome = await tryOut('forwarded from a device of its own, from its own address', async (party) => {
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
      const outcome = await tryOut(
        "a question in a stranger's name, by a device of its own: the answer does not leave",
        async (party) => {
          const { own, evil } = party.addresses(family);
          await party.place.actor.listen('UDP', own, PORT);
          await party.sh(
            'ip tuntap add tap0 mode tap && ip link set tap0 up; for d in all tap0; do echo 0 >/proc/sys/net/ipv4/conf/$d/rp_filter; done',
          );
          const tap = party.hardwareOf('tap0');
          await party.run('attacks', 'tap', 'tap0', frameTo(tap, family, evil, own));
          await party.sh('ip link del tap0');
        },
      );
      assert.deepEqual(outcome, [false, true]);
    });

    test(`its process in the cgroup of another pod, or its socket brought along, ${family}`, async () => {
      const elsewhere = scene.lab.cgroup('elsewhere');
      for (const way of ['socket-made-after-a-move', 'stream-brought-along', 'datagram-brought-along']) {
        const outcome = await tryOut(
          'its process in the cgroup of another pod, or its socket brought along',
          (party) => {
            const to = party.isHeld ? scene.party('pod', false).place.cgroup : elsewhere;
            return party.sh(`TO=${to} ${wayOf(party, way, family)}`);
          },
        );
        assert.deepEqual(outcome, [false, true], way);
      }
    });

    test(`a socket of no cgroup of a pod's, in its namespace, ${family}`, async () => {
      const outcome = await tryOut("a socket of no cgroup of a pod's, in its namespace", (party) => {
        const { own, evil, good } = party.addresses(family);
        return scene.lab
          .placeIn(party.place.netns, scene.lab.cgroup('elsewhere'))
          .exec(scene.program('ways'), ['connect', own, evil, good, `${PORT}`, '300']);
      });
      assert.deepEqual(outcome, [false, true]);
    });

    test(`a cgroup inside its own, ${family}`, async () => {
      const outcome = await tryOut('a cgroup inside its own', (party) => {
        const inner = path.join(party.place.cgroup ?? '', 'inner');
        return party.sh(`mkdir -p ${inner} && echo 0 >${inner}/cgroup.procs && ${wayOf(party, 'sendto', family)}`);
      });
      assert.deepEqual(outcome, [false, true]);
    });
  }

  test('a tunnel of its own (VXLAN)', async () => {
    const outcome = await tryOut('a tunnel of its own (VXLAN)', async (party) => {
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

/** One stream and one connected datagram socket, both to `to`; for each line that it reads it sends by both, and tells what came of it. */
const speaker = (to: string) => `
  import dgram from 'node:dgram';
  import net from 'node:net';
  import { createInterface } from 'node:readline';
  const stream = net.connect({ host: '${to}', port: ${PORT} });
  const datagrams = dgram.createSocket('${to.includes(':') ? 'udp6' : 'udp4'}').unref();
  let ended = '';
  stream.on('error', ({ code }) => { ended = code; }).on('close', () => { ended ||= 'closed'; });
  await new Promise((resolve) => stream.once('connect', resolve));
  await new Promise((resolve) => datagrams.connect(${PORT}, '${to}', resolve));
  const outcome = (begin) => new Promise((resolve) => { begin(resolve); setTimeout(resolve, 1000, 'silence'); });
  for await (const line of createInterface({ input: process.stdin })) {
    const [tcp, udp] = await Promise.all([
      outcome((done) => {
        if (ended) return done(ended);
        stream.once('data', () => done('echo')).once('close', () => done(ended));
        stream.write(line);
      }),
      outcome((done) => {
        datagrams.once('message', () => done('echo'));
        datagrams.send(line, (error) => error && done(error.code));
      }),
    ]);
    console.log(tcp, udp);
  }
  process.exit();`;

interface Speaker {
  /** What came of both: "echo", "silence", or an error's code. */
  speak(): Promise<string>;
  close(): Promise<void>;
}

async function openSpeaker(party: Party, to: string): Promise<Speaker> {
  const child = party.place.spawn(process.execPath, ['--input-type=module', '-e', speaker(to)]);
  if (child.stdout === null) throw new Error('the speaker needs pipes');
  const said = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
  return {
    speak: async () => {
      child.stdin?.write('again\n');
      return String((await said.next()).value);
    },
    close: () => {
      child.stdin?.end();
      return ended;
    },
  };
}

const isHeldNow = (party: Party, address: string, outcome = 'EPERM') =>
  until(async () => (await party.place.actor.tryTcp(address, PORT, 300)) === outcome, `connect gets ${outcome}`);

/** A datagram from beyond, from this address and port, to the one beside PORT of the pod. */
async function ask(from: string, port: number, to: string, hex: string): Promise<void> {
  const kind = from.includes(':') ? 'udp6' : 'udp4';
  const code = `
    const socket = require('node:dgram').createSocket('${kind}');
    socket.bind(${port}, '${from}', () => socket.send(Buffer.from('${hex}', 'hex'), ${PORT + 1}, '${to}', () => socket.close()));`;
  const { status, stderr } = await scene.beyond.exec(process.execPath, ['-e', code]);
  assert.equal(status, 0, stderr);
}

/** Sends from the port beside PORT: 'sent', or the code of what stopped it. */
function answer(party: Party, from: string, to: string, port: number): Promise<string> {
  const kind = from.includes(':') ? 'udp6' : 'udp4';
  const code = `
    const socket = require('node:dgram').createSocket('${kind}');
    socket.bind(${PORT + 1}, '${from}', () => socket.send('x', ${port}, '${to}', (error) => {
      console.log(error === null ? 'sent' : error.code);
      socket.close();
    }));`;
  return party.place.exec(process.execPath, ['-e', code]).then(({ stdout }) => stdout.trim());
}

describe('what is there already', () => {
  test('sockets that were opened before there was a guard, or any program', async () => {
    const party = scene.party('pod', true);
    const speakers: Speaker[] = [];
    try {
      await scene.withoutAgent(async () => {
        for (const family of FAMILIES) speakers.push(await openSpeaker(party, party.addresses(family).evil));
        for (const speaker of speakers) assert.equal(await speaker.speak(), 'echo echo');
      });
      for (const family of FAMILIES) await isHeldNow(party, party.addresses(family).evil);
      await scene.forget();
      for (const speaker of speakers) assert.match(await speaker.speak(), /^(?:ECONNABORTED|silence) EPERM$/);
      assert.equal(await party.place.actor.tryUdp(party.addresses('IPv4').good, PORT, 10_000), 'ok');
      assert.equal((await scene.arrived()).get(party), undefined);
      await told('sockets that were opened before there was a guard, or any program', party);
    } finally {
      for (const speaker of speakers) await speaker.close();
    }
  });

  for (const family of FAMILIES) {
    test(`sockets that were opened before the policy, ${family}`, async () => {
      const party = scene.party('pod', false);
      const { evil } = party.addresses(family);
      const speaker = await openSpeaker(party, evil);
      try {
        assert.equal(await speaker.speak(), 'echo echo');
        await party.pod.relabel({ role: 'held' });
        await isHeldNow(party, evil);
        await scene.forget();
        assert.match(await speaker.speak(), /^(?:ECONNABORTED|silence) EPERM$/);
        assert.equal(await party.place.actor.tryUdp(party.addresses(family).good, PORT, 10_000), 'ok');
        assert.equal((await scene.arrived()).get(party), undefined);
        await told('sockets that were opened before the policy', party);
      } finally {
        await speaker.close();
        await party.pod.relabel({ role: 'free' });
        await isHeldNow(party, evil, 'ok');
      }
    });

    test(`an answer of DNS that nobody asked for opens its own two ports, and no others, ${family}`, async () => {
      const outcome = await tryOut(
        'an answer of DNS that nobody asked for opens its own two ports, and no others',
        async (party) => {
          const { own, evil } = party.addresses(family);
          const name = '076578616d706c650474657374000001';
          const address = '198.18.9.9';
          const record = `c00c00010001000000ff0004${Buffer.from(address.split('.').map(Number)).toString('hex')}`;
          await ask(evil, 53, own, `12348180000100010000000${'0'}${name}0001${record}`);
          await scene.forget();
          assert.equal(await answer(party, own, evil, PORT), party.isHeld ? 'EPERM' : 'sent');
          assert.equal(await party.place.actor.tryTcp(evil, PORT, 5000), party.isHeld ? 'EPERM' : 'ok');
        },
      );
      assert.deepEqual(outcome, [false, true]);
    });

    test(`simultaneous open: a SYN that comes in meanwhile makes no reply of one that goes out, ${family}`, async () => {
      const outcome = await tryOut(
        'simultaneous open: a SYN that comes in meanwhile makes no reply of one that goes out',
        async (party) => {
          const { own, evil, good } = party.addresses(family);
          if (party.isHeld) {
            // Where a refusal is told at once, there is no socket any more that a SYN could meet.
            await party.pod.relabel({ role: 'silent' });
            await isHeldNow(party, evil, 'timeout');
          }
          const child = party.place.spawn(scene.program('ways'), [
            'simultaneous-open',
            own,
            evil,
            good,
            `${PORT}`,
            '60000',
          ]);
          const ended = new Promise((resolve) => child.once('close', resolve));
          await new Promise((resolve) => child.stdout?.once('data', resolve));
          const args = ['simultaneous-open', evil, own, good, `${PORT}`, '300'];
          const { stdout } = await scene.beyond.exec(scene.program('ways'), args);
          // Of the other, who is answered before this one has begun, nothing is left to be met.
          if (party.isHeld) assert.equal(stdout, 'ready\nsilence\n');
          child.kill('SIGKILL');
          await ended;
          if (party.isHeld) {
            await party.pod.relabel({ role: 'held' });
            await isHeldNow(party, evil);
          }
        },
      );
      assert.deepEqual(outcome, [false, true]);
    });

    test(`an address that another pod had: what may be answered was asked of that one, ${family}`, async () => {
      const former = scene.party('pod', true);
      const { own, evil, good } = former.addresses(family);
      await scene.forget();
      await ask(evil, PORT + 1, own, '78');
      // Its neighbour may be looked for first.
      await until(async () => (await answer(former, own, evil, PORT + 1)) === 'sent', 'it may be answered');
      await until(async () => (await scene.arrived()).has(former), 'what it answers arrives');
      const next = await scene.replace(former);
      await scene.forget();
      assert.equal(await answer(next, own, evil, PORT + 1), 'EPERM');
      assert.equal(await next.place.actor.tryUdp(good, PORT, 10_000), 'ok');
      // Nor does anything of the one that is gone, whose connections the kernel goes on ending: the address is the same.
      assert.equal((await scene.arrived()).get(next), undefined);
      await told('an address that another pod had: what may be answered was asked of that one', next);
    });

    test(`what a pod that is gone has left to send, while its interface is there, ${family}`, async () => {
      const party = scene.party('pod', true);
      const { evil, good } = party.addresses(family);
      await party.pod.relabel({ role: 'free' });
      await isHeldNow(party, evil, 'ok');
      const speaker = await openSpeaker(party, evil);
      assert.equal(await speaker.speak(), 'echo echo');
      // Where a refusal is told at once, there is no connection any more that could send again.
      await party.pod.relabel({ role: 'silent' });
      await isHeldNow(party, evil, 'timeout');
      assert.match(await speaker.speak(), /^silence /);
      assert.equal(await party.place.actor.tryUdp(good, PORT, 10_000), 'ok');
      await scene.reasons();
      await scene.forget();
      try {
        await scene.lab.removeCgroup(path.dirname(party.place.cgroup ?? ''));
        await speaker.close();
        await until(
          async () => (await scene.reasons()).get('unknown')?.includes('unknown_workload') ?? false,
          'it is sent again, and refused',
        );
        assert.equal((await scene.arrived()).get(party), undefined);
        tried.add('what a pod that is gone has left to send, while its interface is there');
      } finally {
        await scene.replace(party);
      }
    });
  }
});

test('whatever is tried is in the table, and nothing else is', () =>
  assert.deepEqual([...tried].toSorted(), Object.keys(CHANGES).toSorted()));
