// SPDX-License-Identifier: Apache-2.0
// The guard on a real interface: what it believes of sockets, that it stands in nobody's way, and that what walks past the cgroup's
// programs does not walk past it.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, beforeEach, describe, test } from 'node:test';
import {
  EVENT_CUT,
  FLOWS_PER_WORKLOAD,
  HOOK_GUARD,
  LOSS_FLOWS_EVICTED,
  REASON_NAMES,
  ROW_ISOLATED,
  ROW_SILENT,
} from '#build/generated/abi.ts';
import { loadNative } from '#src/kernel/native.ts';
import { attachPrograms } from '#src/kernel/programs.ts';
import { type Actor, Lab, type Place, resultOf } from '../support/lab.ts';
import { Guards, linkOf } from './interface.ts';
import {
  addressKey,
  arp,
  checksummed,
  ethernet,
  icmp4,
  icmp6,
  ipv4,
  ipv6,
  LOCAL4,
  LOCAL6,
  raw,
  tag,
  tcp,
  udp,
} from './packet.ts';
import { id, Maps, on } from './programs.ts';

const FRAMES = path.join(import.meta.dirname, '../../build/test/packets/frames');
const RULESET = id(0xa);
const CLOSED = id(0xb);
const SILENT = id(0xc);
const ALLOWED = 4000;
const REFUSED = 4001;
const SERVED = 5000;
const CLOSING = 5001;
const LINK = 'w1';
const LOOPBACK = 1;
const FAMILIES = [
  { name: 'IPv4', own: LOCAL4, server: '198.18.1.1', make: ipv4, icmp: icmp4, echo: 8, length: 32 },
  { name: 'IPv6', own: LOCAL6, server: 'fd00::1:1', make: ipv6, icmp: icmp6, echo: 128, length: 128 },
] as const;

let lab: Lab;
let maps: Maps;
let guards: Guards;
let pod: Place;
let inside: Actor;
let outside: Actor;
let netns: bigint;
let hardware: { readonly pod: string; readonly host: string };
const early: { readonly spoken: number; readonly idle: number }[] = [];

before(async () => {
  lab = await Lab.create();
  await lab.addOutside(...FAMILIES.map(({ server }) => server));
  pod = await lab.workload('w', { addresses: FAMILIES.map(({ own }) => own) });
  netns = loadNative().netnsCookie(pod.netns);
  assert(pod.cgroup !== null);
  maps = new Maps(pod.cgroup, { flows: 2 * FLOWS_PER_WORKLOAD, flow_order: 2 * FLOWS_PER_WORKLOAD });
  fill(0n);
  attachPrograms(maps.object, lab.root);
  inside = pod.actor;
  outside = lab.outside.actor;
  for (const { own, server } of FAMILIES) {
    for (const port of [ALLOWED, REFUSED]) {
      await outside.listen('TCP', server, port);
      await outside.listen('UDP', server, port);
    }
    await inside.listen('TCP', own, SERVED);
    await inside.listen('UDP', own, SERVED);
    const [spoken, idle] = [await outside.connect(own, SERVED), await outside.connect(own, SERVED)];
    assert.equal(await outside.exchange(spoken.socket ?? 0), 'ok');
    early.push({ spoken: spoken.socket ?? 0, idle: idle.socket ?? 0 });
  }
  guards = new Guards(maps, lab);
  guards.attach(LINK, pod);
  hardware = {
    pod: linkOf(pod.netns, 'eth0').address.replaceAll(':', ''),
    host: linkOf(lab.outside.netns, LINK).address.replaceAll(':', ''),
  };
});

after(async () => {
  guards?.close();
  maps?.close();
  await lab?.close();
});

function fill(watched: bigint): void {
  maps.reset();
  maps.row({
    ruleset: RULESET,
    flags: ROW_ISOLATED,
    entries: [on(6, ALLOWED, ALLOWED, { policy: 0 }), on(17, ALLOWED, ALLOWED, { policy: 1 })],
  });
  maps.row({ ruleset: CLOSED, flags: ROW_ISOLATED });
  for (const { own } of FAMILIES) maps.self(own);
  maps.bind(RULESET, RULESET, watched);
  maps.bumpEpoch();
}
beforeEach(() => {
  fill(netns);
  guards.describe(LINK, pod);
});

/** Sends frames from below IP, out of the pod or into it. */
async function send(from: 'pod' | 'host', ...frames: readonly Buffer[]): Promise<void> {
  const place = from === 'pod' ? pod : lab.outside;
  const addressed = frames.map((frame) => {
    const copy = Buffer.from(frame);
    copy.write(from === 'pod' ? hardware.host + hardware.pod : hardware.pod + hardware.host, 0, 'hex');
    return copy.toString('hex');
  });
  const args = [from === 'pod' ? 'eth0' : LINK, ...addressed];
  const { stdout, stderr } = await place.exec(FRAMES, args);
  assert.equal(stdout, `${frames.length}\n`, stderr);
}

/** Packets that were refused, by reason. */
function refused(): Record<string, number> {
  const denied = maps.counted().filter(({ verdict }) => verdict === 'deny');
  return Object.fromEntries(denied.map(({ reason, packets }) => [reason, packets]));
}

function reasonsOfGuard(): string[] {
  const events = maps.events().filter(({ hook }) => hook === HOOK_GUARD);
  return events.map(({ reason }) => REASON_NAMES.get(reason) ?? '');
}

/** Does what an agent does with cut connections; they would go on sending otherwise. */
function endCut(): void {
  for (const { flags, local, localPort, remote, remotePort, socketCookie } of maps.events()) {
    if ((flags & EVENT_CUT) === 0) continue;
    const ends = [Buffer.from(local, 'hex'), localPort, Buffer.from(remote, 'hex'), remotePort] as const;
    loadNative().destroyTcp(pod.netns, ...ends, socketCookie);
  }
}

/** Runs JavaScript in the pod to its end. */
async function script(code: string, place = pod): Promise<string> {
  const { stdout, stderr, status } = await place.exec(process.execPath, ['--input-type=module', '-e', code]);
  assert.equal(status, 0, stderr);
  return stdout.trim();
}

/** Asks from a port of its own, which it tells; then, for a line of stdin, once more, and by another socket; for the next, by that. */
const asker = (own: string, server: string) => `
  import dgram from 'node:dgram';
  import { createInterface } from 'node:readline';
  const bind = (port) => new Promise((resolve) => {
    const socket = dgram.createSocket('${own.includes(':') ? 'udp6' : 'udp4'}').bind(port, '${own}', () => resolve(socket));
  });
  const ask = (socket) => new Promise((resolve) => socket.send('x', ${ALLOWED}, '${server}', (error) => resolve(error?.code ?? 'sent')));
  const first = await bind(0);
  const { port } = first.address();
  const answered = new Promise((resolve) => first.once('message', resolve));
  await ask(first);
  await answered;
  console.log(port);
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  await lines.next();
  console.log(await ask(first));
  first.close();
  const second = await bind(port);
  console.log(await ask(second));
  await lines.next();
  console.log(await ask(second));
  process.exit();`;

describe('connections from before the guard was there', () =>
  test('go on, also those that had said nothing yet', async () => {
    for (const { spoken, idle } of early) {
      assert.equal(await outside.exchange(spoken), 'ok');
      assert.equal(await outside.exchange(idle), 'ok');
    }
    assert.deepEqual(refused(), {});
  }));

for (const { name, own, server, make, icmp, echo, length } of FAMILIES) {
  describe(name, () => {
    test('what policy allows passes, what it refuses fails at the socket as before', async () => {
      assert.equal(await inside.tryTcp(server, ALLOWED), 'ok');
      assert.equal(await inside.tryUdp(server, ALLOWED), 'ok');
      assert.equal(await inside.tryTcp(server, REFUSED), 'EPERM');
      assert.equal(await inside.tryUdp(server, REFUSED), 'EPERM');
      assert.deepEqual(reasonsOfGuard(), []);
      assert.deepEqual(refused(), { no_rule: 2 });
    });

    test('who asks from outside is answered: TCP, UDP, pings, closed ports', async () => {
      assert.equal(await outside.tryTcp(own, SERVED), 'ok');
      assert.equal(await outside.tryUdp(own, SERVED), 'ok');
      assert.equal(await outside.tryTcp(own, SERVED + 100), 'ECONNREFUSED');
      const before = maps.packets('reply');
      await send('host', checksummed(make({ from: server, to: own }, icmp({ type: echo, id: 7 }))));
      assert.equal(maps.packets('reply'), before + 1);
      assert.deepEqual(refused(), {});
    });

    test('an answer to what was asked before the guard stood there is no question', async () => {
      const child = pod.spawn(process.execPath, ['--input-type=module', '-e', asker(own, server)]);
      if (child.stdout === null) throw new Error('the asker needs pipes');
      const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
      const said = async () => String((await lines.next()).value);
      const port = Number(await said());
      const answer = () =>
        send('host', checksummed(make({ from: server, to: own }, udp({ from: ALLOWED, to: port, bytes: 4 }))));
      // Nobody but the socket remembers.
      fill(netns);
      guards.describe(LINK, pod);
      await answer();
      assert.deepEqual(maps.flows(), []);
      maps.bind(CLOSED, CLOSED, netns);
      maps.bumpEpoch();
      await answer();
      child.stdin?.write('again\n');
      assert.equal(await said(), 'EPERM', 'the socket that asked');
      assert.equal(await said(), 'EPERM', 'one that has its port');
      await answer();
      child.stdin?.end('again\n');
      assert.equal(await said(), 'sent', 'who has asked nothing is asked');
    });

    test('every packet that leaves is counted once', async () => {
      const sent = () => {
        const [link] = JSON.parse(
          execFileSync('ip', ['-n', path.basename(pod.netns), '-j', '-s', 'link', 'show', 'eth0'], {
            encoding: 'utf8',
          }),
        );
        return Number(link.stats64.tx.packets);
      };
      const counted = () => maps.counted().reduce((sum, { packets }) => sum + packets, 0);
      // The kernel sends on its own, too: last acknowledgements, looks for neighbours. The two can only be compared of one moment.
      const pair = async () => {
        for (let turn = 0; turn < 200; turn += 1) {
          const [first, count, last] = [sent(), counted(), sent()];
          if (first === last && count === counted()) return { sent: last, counted: count };
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
        throw new Error('the pod never stops sending');
      };
      const before = await pair();
      const { socket = 0 } = await inside.connect(server, ALLOWED);
      for (let round = 0; round < 5; round += 1) assert.equal(await inside.exchange(socket), 'ok');
      const inbound = await outside.connect(own, SERVED);
      for (let round = 0; round < 5; round += 1) assert.equal(await outside.exchange(inbound.socket ?? 0), 'ok');
      for (let round = 0; round < 5; round += 1) assert.equal(await inside.tryUdp(server, ALLOWED), 'ok');
      await send('pod', make({ from: own, to: server }, udp({ to: ALLOWED, bytes: 4 })));
      await inside.close(socket);
      await outside.close(inbound.socket ?? 0);
      await inside.tryUdp(server, ALLOWED);
      const after = await pair();
      assert.equal(after.counted - before.counted, after.sent - before.sent);
    });

    test('an inbound connection outlives its note and each change of policy', async () => {
      const { socket = 0 } = await outside.connect(own, SERVED);
      assert.equal(await outside.exchange(socket), 'ok');
      maps.ageFlows(200);
      maps.bind(CLOSED, CLOSED, netns);
      maps.bumpEpoch();
      assert.equal(await outside.exchange(socket), 'ok');
      assert.deepEqual(refused(), {});
      await outside.close(socket);
    });

    test('a flood of questions cuts off nobody who has called before', async () => {
      const { socket = 0 } = await outside.connect(own, SERVED);
      maps.guard(LOOPBACK, { netns });
      const evicted = maps.lost(LOSS_FLOWS_EVICTED);
      for (let n = 0; n < FLOWS_PER_WORKLOAD; n += 1) {
        const question = make({ from: server, to: own }, udp({ from: 2000 + n, to: 9 }));
        maps.object.testRun('guard_in', question, 1);
      }
      assert(maps.lost(LOSS_FLOWS_EVICTED) > evicted, 'and the note of its SYN is gone');
      assert.equal(await outside.exchange(socket), 'ok', 'its question was seen to come in, if not its SYN');
      const { socket: late = 0 } = await outside.connect(own, SERVED);
      assert.equal(await outside.exchange(late), 'ok');
      assert.deepEqual(refused(), {});
    });

    test('its last words pass, long after its note', async () => {
      const code = `
        let asked = 0;
        const server = require('node:net').createServer((socket) => socket.on('data', (data) => {
          asked += 1;
          if (asked === 1) socket.write(data);
          else socket.end(data);
        }));
        server.listen({ host: '${own}', port: ${CLOSING} }, () => console.log('ready'));`;
      const child = pod.spawn(process.execPath, ['-e', code]);
      await new Promise((resolve) => child.stdout?.once('data', resolve));
      const { socket = 0 } = await outside.connect(own, CLOSING);
      assert.equal(await outside.exchange(socket), 'ok');
      maps.ageFlows(200);
      assert.equal(await outside.exchange(socket), 'ok');
      assert.equal(await outside.ended(socket), 'closed');
      const { stdout } = await pod.exec('ss', ['-Htan', 'state', 'time-wait', `sport = :${CLOSING}`]);
      assert.match(stdout, /^\S/, 'the pod has closed first, and its socket is gone');
      assert.deepEqual(refused(), {});
      child.kill('SIGKILL');
      await resultOf(child, 1000);
    });

    test('a reset at its end passes, also one that its socket did not live to see leave', async () => {
      const code = `
        let asked = 0;
        const server = require('node:net').createServer((socket) => socket.on('data', (data) => {
          asked += 1;
          if (asked === 1) socket.write(data);
          else socket.resetAndDestroy();
        }));
        server.listen({ host: '${own}', port: ${CLOSING + 1} }, () => console.log('ready'));`;
      const child = pod.spawn(process.execPath, ['-e', code]);
      await new Promise((resolve) => child.stdout?.once('data', resolve));
      const { socket = 0 } = await outside.connect(own, CLOSING + 1);
      assert.equal(await outside.exchange(socket), 'ok');
      maps.ageFlows(200);
      void outside.exchange(socket);
      assert.equal(await outside.ended(socket), 'ECONNRESET');
      assert.deepEqual(refused(), {});
      child.kill('SIGKILL');
      await resultOf(child, 1000);
    });

    test('an outbound connection ends when its policy does', async () => {
      const { socket = 0 } = await inside.connect(server, ALLOWED);
      assert.equal(await inside.exchange(socket), 'ok');
      maps.bind(CLOSED, CLOSED, netns);
      maps.bumpEpoch();
      assert.equal(await inside.exchange(socket, 'cut', 300), 'timeout');
      assert((refused().no_rule ?? 0) > 0);
      endCut();
    });

    test('frames from below IP are judged: policy, sources, fragments, ICMP', async () => {
      const before = await outside.received();
      await send(
        'pod',
        make({ from: own, to: server }, udp({ to: REFUSED, bytes: 4 })),
        make({ from: own, to: server }, tcp({ to: REFUSED, flags: ['syn'] })),
        make({ from: own, to: server }, tcp({ to: REFUSED })),
        make({ from: own, to: server }, icmp({ type: echo, id: 1 })),
      );
      assert.deepEqual(reasonsOfGuard(), ['no_rule', 'no_rule', 'no_rule', 'no_rule']);
      const stranger = name === 'IPv4' ? '198.18.0.99' : 'fd00::99';
      await send('pod', make({ from: stranger, to: server }, udp({ to: ALLOWED, bytes: 4 })));
      assert.deepEqual(reasonsOfGuard(), ['spoofed_source']);
      await send('pod', tag(make({ from: own, to: server }, udp({ to: ALLOWED, bytes: 4 })), 5));
      await send('pod', tag(tag(make({ from: own, to: server }, udp({ to: ALLOWED, bytes: 4 })), 5), 6, 0x88a8));
      assert.deepEqual(reasonsOfGuard(), ['vlan_tagged', 'vlan_tagged']);
      assert.equal(await outside.received(), before);
      await send('pod', checksummed(make({ from: own, to: server }, udp({ to: ALLOWED, bytes: 4 }))));
      assert.equal(await inside.tryUdp(server, ALLOWED), 'ok');
      assert.equal(await outside.received(), before + 2);
    });

    test('an ICMP error passes only for a connection that is allowed now', async () => {
      const type = name === 'IPv4' ? { type: 3, code: 3 } : { type: 1, code: 4 };
      const error = (localPort: number, port: number) => {
        const quoted = make({ from: server, to: own }, tcp({ from: port, to: localPort })).subarray(14);
        return checksummed(make({ from: own, to: server }, icmp({ ...type, payload: quoted })));
      };
      const portOf = async (port: number) => {
        const { stdout } = await pod.exec('ss', [
          '-Htn',
          'state',
          'established',
          'state',
          'syn-sent',
          `dport = :${port}`,
        ]);
        return Number(/:(\d+)\s+\S+:\d+\s/.exec(stdout)?.[1]);
      };
      const { socket = 0 } = await inside.connect(server, ALLOWED);
      assert.equal(await inside.exchange(socket), 'ok');
      const allowedPort = await portOf(ALLOWED);
      assert(allowedPort > 0);
      await send('pod', error(allowedPort, ALLOWED));
      assert.equal(maps.packets('icmp_error'), 1);
      await send('pod', error(allowedPort, ALLOWED + 7));
      assert.equal(maps.packets('icmp_error'), 1, 'no socket has these ends');

      // Its SYN is dropped in silence, so the socket is there and waits.
      maps.row({ ruleset: SILENT, flags: ROW_ISOLATED | ROW_SILENT });
      maps.bind(SILENT, SILENT, netns);
      maps.bumpEpoch();
      const waiting = inside.connect(server, REFUSED, 3000);
      let waitingPort = 0;
      for (let turn = 0; turn < 100 && !(waitingPort > 0); turn += 1) waitingPort = await portOf(REFUSED);
      assert(waitingPort > 0);
      await send('pod', error(waitingPort, REFUSED));
      await send('pod', error(allowedPort, ALLOWED));
      assert.equal(maps.packets('icmp_error'), 1);
      assert.equal((await waiting).outcome, 'timeout');
      await inside.close(socket);
    });

    test('a reset for what nobody asked has a reason of its own', async () => {
      await send('host', checksummed(make({ from: server, to: own }, tcp({ from: 9, to: 9 }))));
      assert.deepEqual(reasonsOfGuard(), ['tcp_without_socket']);
    });

    test('a datagram that the kernel cuts passes whole, and so does its answer', async () => {
      const kind = name === 'IPv4' ? 'udp4' : 'udp6';
      const code = `
        import dgram from 'node:dgram';
        const socket = dgram.createSocket('${kind}');
        socket.on('message', (message) => { console.log(message.length); process.exit(0); });
        socket.send(Buffer.alloc(5000), ${ALLOWED}, '${server}');
        setTimeout(() => process.exit(1), 9000);`;
      assert.equal(await script(code), '5000');
      const asking = await lab.outside.exec(process.execPath, [
        '--input-type=module',
        '-e',
        code.replace(`${ALLOWED}, '${server}'`, `${SERVED}, '${own}'`),
      ]);
      assert.equal(asking.stdout.trim(), '5000');
      assert.deepEqual(
        maps.events().filter(({ protocol }) => protocol === 17),
        [],
      );
    });

    test('a socket of nobody’s cgroup is judged by whose interface it leaves', async () => {
      const code = (port: number, patienceMs: number) => `
        import net from 'node:net';
        const socket = net.connect({ host: '${server}', port: ${port} });
        socket.on('connect', () => { console.log('ok'); process.exit(0); });
        socket.on('error', (error) => { console.log(error.code); process.exit(0); });
        setTimeout(() => { console.log('timeout'); process.exit(0); }, ${patienceMs});`;
      const run = async (port: number, patienceMs: number) => {
        const child = lab.spawnIn(
          pod.netns,
          null,
          process.execPath,
          ['--input-type=module', '-e', code(port, patienceMs)],
          'pipe',
        );
        return (await resultOf(child, 60_000)).stdout.trim();
      };
      assert.equal(await run(ALLOWED, 30_000), 'ok');
      maps.events();
      assert.equal(await run(REFUSED, 300), 'timeout');
      assert(reasonsOfGuard().includes('no_rule'));
      assert((refused().no_rule ?? 0) > 0);
    });

    test('a connection that only looks as if it came from outside does not leave', async () => {
      maps.reset();
      maps.row({ ruleset: RULESET, flags: ROW_ISOLATED, entries: [on(6, 5100, 5100, { policy: 0 })] });
      maps.bind(RULESET, RULESET, netns);
      maps.bumpEpoch();
      guards.describe(LINK, pod);
      const code = `
        import net from 'node:net';
        import { execFileSync } from 'node:child_process';
        const ip = (...args) => execFileSync('ip', args);
        ip('addr', 'add', '${server}/${length}', 'dev', 'lo'${name === 'IPv6' ? ", 'nodad'" : ''});
        const listener = net.createServer(async (child) => {
          child.on('error', () => {});
          caller.on('error', () => {});
          await new Promise((resolve) => caller.once('data', resolve).once('connect', () => child.write('x')) && child.write('x'));
          ip('addr', 'del', '${server}/${length}', 'dev', 'lo');
          child.write('out');
          setTimeout(() => {
            child.resetAndDestroy();
            caller.resetAndDestroy();
            console.log('sent');
          }, 400);
          listener.close();
        });
        let caller;
        listener.listen({ host: '${own}', port: 5100 }, () => {
          caller = net.connect({ host: '${own}', port: 5100, localAddress: '${server}', localPort: ${REFUSED} });
        });`;
      assert.equal(await script(code), 'sent');
      // The other end, whose address is gone, has its last words refused, too: those are a stranger's.
      const events = maps.events().filter(({ hook, local }) => hook === HOOK_GUARD && local === addressKey(own));
      assert(events.length > 0, 'the guard has refused what the socket’s program took for a reply');
      for (const event of events) {
        assert.equal(REASON_NAMES.get(event.reason), 'no_rule');
        assert(event.flags & EVENT_CUT);
      }
    });
  });
}

test('frames that are no IP, and ARP for others', async () => {
  await send('pod', ethernet(0x88cc, Buffer.alloc(46)));
  await send('pod', arp({ from: '198.18.0.99', to: '198.18.0.1', operation: 2 }));
  await send('pod', ipv4({ to: '198.18.1.1' }, raw(47)));
  assert.deepEqual(reasonsOfGuard(), ['not_ip', 'spoofed_arp', 'no_rule']);
});

test('what a namespace inside the pod sends through it is the pod’s, or a stranger’s', async () => {
  const nested = `${lab.name}-nested`;
  const ip = (...args: string[]) => execFileSync('ip', args);
  ip('netns', 'add', nested);
  try {
    ip('-n', path.basename(pod.netns), 'link', 'add', 'n0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', nested);
    for (const [where, dev, address] of [
      [path.basename(pod.netns), 'n0', '198.18.7.1/24'],
      [nested, 'eth0', '198.18.7.2/24'],
    ] as const) {
      ip('-n', where, 'addr', 'add', address, 'dev', dev);
      ip('-n', where, 'link', 'set', dev, 'up');
    }
    ip('-n', nested, 'route', 'add', '198.18.1.0/24', 'via', '198.18.7.1');
    await pod.exec('sh', ['-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward']);
    const code = `
      import dgram from 'node:dgram';
      dgram.createSocket('udp4').send('x', ${ALLOWED}, '198.18.1.1', () => setTimeout(() => process.exit(0), 200));`;
    const child = lab.spawnIn(
      `/run/netns/${nested}`,
      pod.cgroup,
      process.execPath,
      ['--input-type=module', '-e', code],
      'pipe',
    );
    assert.equal((await resultOf(child, 10_000)).status, 0);
    assert(reasonsOfGuard().includes('spoofed_source'));
  } finally {
    ip('netns', 'del', nested);
  }
});
