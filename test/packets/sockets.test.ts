// SPDX-License-Identifier: Apache-2.0
// The programs on real sockets of a real workload: what its calls return, and what becomes of connections when policy changes.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createInterface } from 'node:readline';
import { after, before, beforeEach, describe, test } from 'node:test';
import {
  DIRECTION_EGRESS,
  EVENT_CUT,
  EVENT_PROCESS,
  type Event,
  HOOK_CONNECT,
  HOOK_EGRESS,
  HOOK_SENDMSG,
  ROW_ISOLATED,
  ROW_SILENT,
  SLOT_UNKNOWN,
  VERDICT_AUDIT,
} from '#build/generated/abi.ts';
import { loadNative } from '#src/kernel/native.ts';
import { attachPrograms } from '#src/kernel/programs.ts';
import { type Actor, Lab, type Place } from '../support/lab.ts';
import { addressKey } from './packet.ts';
import { id, Maps, on } from './programs.ts';

const RULESET = id(0xa);
const CLOSED = id(0xb);
const SILENT = id(0xc);
const ALLOWED = 4000;
const REFUSED = 4001;
const SERVED = 5000;
const FAMILIES = [
  { name: 'IPv4', own: '198.18.0.10', server: '198.18.1.1' },
  { name: 'IPv6', own: 'fd00::10', server: 'fd00::1:1' },
];

let lab: Lab;
let maps: Maps;
let workload: Place;
let inside: Actor;
let outside: Actor;
const early: { address: string; inbound: number; outbound: number; cut: number }[] = [];

before(async () => {
  lab = await Lab.create();
  await lab.addOutside(...FAMILIES.map(({ server }) => server), '198.18.1.2');
  workload = await lab.workload('w', { addresses: FAMILIES.map(({ own }) => own) });
  inside = workload.actor;
  outside = lab.outside.actor;
  for (const { own, server } of FAMILIES) {
    for (const port of [ALLOWED, REFUSED]) {
      await outside.listen('TCP', server, port);
      await outside.listen('UDP', server, port);
    }
    await inside.listen('TCP', own, SERVED);
    await inside.listen('UDP', own, SERVED);
    early.push({
      address: server,
      inbound: (await outside.connect(own, SERVED)).socket ?? 0,
      outbound: (await inside.connect(server, ALLOWED)).socket ?? 0,
      cut: (await inside.connect(server, REFUSED)).socket ?? 0,
    });
  }
  await outside.listen('UDP', '198.18.1.2', ALLOWED);
  assert(workload.cgroup !== null);
  maps = new Maps(workload.cgroup);
  fill();
  attachPrograms(maps.object, lab.root);
});

after(async () => {
  maps?.close();
  await lab?.close();
});

function fill(): void {
  maps.reset();
  maps.row({
    ruleset: RULESET,
    flags: ROW_ISOLATED,
    entries: [on(6, ALLOWED, ALLOWED, { policy: 0 }), on(17, ALLOWED, ALLOWED, { policy: 1 })],
  });
  maps.row({ ruleset: CLOSED, flags: ROW_ISOLATED });
  maps.row({ ruleset: SILENT, flags: ROW_ISOLATED | ROW_SILENT });
  maps.bind(RULESET);
  maps.bumpEpoch();
}
beforeEach(fill);

/** Does what an agent does with cut connections; they would go on sending otherwise. Returns how many it ended. */
function endCut(events: readonly Event[]): number {
  return events.filter(
    ({ flags, local, localPort, remote, remotePort, socketCookie }) =>
      flags & EVENT_CUT &&
      loadNative().destroyTcp(
        workload.netns,
        Buffer.from(local, 'hex'),
        localPort,
        Buffer.from(remote, 'hex'),
        remotePort,
        socketCookie,
      ),
  ).length;
}

describe('connections from before the programs were attached', () => {
  test('inbound ones go on as replies, allowed ones as allowed, others are cut', async () => {
    for (const { address, inbound, outbound, cut } of early) {
      assert.equal(await outside.exchange(inbound), 'ok', address);
      assert.equal(await inside.exchange(outbound), 'ok', address);
      assert.equal(await inside.exchange(cut, 'cut', 300), 'timeout', address);
    }
    assert(maps.packets('reply') > 0);
    assert(maps.packets('rule') > 0);
    assert(maps.packets('no_rule') > 0);
    assert.equal(endCut(maps.events()), early.length);
    for (const { cut } of early) assert.equal(await inside.ended(cut), 'ECONNABORTED');
  });
});

for (const { name, own, server } of FAMILIES) {
  describe(name, () => {
    test('a refused connect returns EPERM, once, with who called', async () => {
      assert.equal(await inside.tryTcp(server, REFUSED), 'EPERM');
      assert.deepEqual(
        maps.counted().map(({ verdict, reason, packets, bytes }) => [verdict, reason, packets, bytes]),
        [['deny', 'no_rule', 1, 0]],
      );
      const events = maps.events();
      assert.equal(events.length, 1);
      const [event] = events;
      assert.deepEqual(
        [event?.hook, event?.pid, event?.flags, event?.remotePort, event?.remote, event?.protocol, event?.length],
        [HOOK_CONNECT, inside.child.pid, EVENT_PROCESS, REFUSED, addressKey(server), 6, 0],
      );
      assert.equal(event?.cgroup, maps.cgroup);
      assert.notEqual(event?.command, '');
    });

    test('an audited connection is told with who made it, who may be gone by then', async () => {
      maps.bind(id(0), RULESET);
      // Left open: what it says at its end would be counted in the next test, under another ruleset.
      assert.equal((await inside.connect(server, REFUSED)).outcome, 'ok');
      const [event] = maps.events();
      assert.deepEqual(
        [event?.verdict, event?.hook, event?.pid, event?.flags, event?.remotePort],
        [VERDICT_AUDIT, HOOK_EGRESS, inside.child.pid, EVENT_PROCESS, REFUSED],
      );
      assert.notEqual(event?.command, '');
    });

    test('an allowed one carries data, and every packet is counted', async () => {
      const socket = (await inside.connect(server, ALLOWED)).socket ?? 0;
      assert.equal(await inside.exchange(socket), 'ok');
      await inside.close(socket);
      assert(maps.packets('rule') >= 4);
      assert.deepEqual(
        maps.counted().map(({ reason }) => reason),
        ['rule'],
      );
      assert.deepEqual(maps.events(), []);
    });

    test('a refused datagram returns EPERM, with who sent it', async () => {
      assert.equal(await inside.tryUdp(server, REFUSED), 'EPERM');
      const events = maps.events();
      assert.equal(events.length, 1);
      assert.deepEqual(
        [events[0]?.hook, events[0]?.pid, events[0]?.remotePort, events[0]?.protocol],
        [HOOK_EGRESS, inside.child.pid, REFUSED, 17],
      );
    });

    test('an allowed datagram gets its answer', async () => {
      assert.equal(await inside.tryUdp(server, ALLOWED), 'ok');
      assert.equal(maps.packets('rule'), 1);
      assert.equal(maps.object.dump('flows').count, 0, 'the answer to a question is no question');
    });

    test('who is asked from outside may answer, by TCP and UDP, whatever policy says', async () => {
      maps.bind(CLOSED);
      maps.bumpEpoch();
      const socket = (await outside.connect(own, SERVED)).socket ?? 0;
      assert.equal(await outside.exchange(socket), 'ok');
      maps.bumpEpoch();
      assert.equal(await outside.exchange(socket), 'ok', 'an inbound connection outlives a change of policy');
      await outside.close(socket);
      assert.equal(await outside.tryUdp(own, SERVED), 'ok');
      assert.deepEqual([...new Set(maps.counted().map(({ reason }) => reason))], ['reply']);
    });

    test('an established connection is judged again when its epoch ends, and not before', async () => {
      const socket = (await inside.connect(server, ALLOWED)).socket ?? 0;
      assert.equal(await inside.exchange(socket), 'ok');
      maps.bind(CLOSED);
      assert.equal(await inside.exchange(socket), 'ok');
      const received = await outside.received();
      maps.bumpEpoch();
      assert.equal(await inside.exchange(socket, 'cut', 300), 'timeout');
      assert.equal(await outside.received(), received);
      const events = maps.events();
      const cuts = events.filter(({ flags }) => flags & EVENT_CUT);
      assert.deepEqual(
        [cuts[0]?.remotePort, cuts[0]?.remote, cuts[0]?.pid],
        [ALLOWED, addressKey(server), inside.child.pid],
      );
      assert.equal(endCut(events), 1);
      assert.equal(await inside.ended(socket), 'ECONNABORTED');
    });

    test('a silent refusal is no error', async () => {
      maps.bind(SILENT);
      maps.bumpEpoch();
      assert.equal(await inside.tryTcp(server, REFUSED, 300), 'timeout');
      assert.equal(await inside.tryUdp(server, REFUSED, 300), 'timeout');
      assert(maps.events().every(({ hook }) => hook === HOOK_EGRESS));
    });
  });
}

describe('one UDP socket', () => {
  const [ONE, TWO] = ['198.18.1.1', '198.18.1.2'];

  /** A socket in the workload that sends where each line of its input says, and prints `ok` for an echo, else the errno's name. */
  function sender(bind: string, bytes: number) {
    const script = `const socket = require('node:dgram').createSocket('udp4');
      let timer;
      const tell = (text) => { clearTimeout(timer); console.log(text); };
      socket.on('message', () => tell('ok'));
      socket.bind(0, '${bind}', () => require('node:readline').createInterface({ input: process.stdin })
        .on('line', (line) => {
          timer = setTimeout(tell, 1000, 'timeout');
          socket.send(Buffer.alloc(${bytes}), ${ALLOWED} + Number(line.split(' ')[1]), line.split(' ')[0], (error) => error && tell(error.code));
        })
        .on('close', () => process.exit()));`;
    const child = workload.spawn(process.execPath, ['-e', script]);
    assert(child.stdin !== null && child.stdout !== null);
    const { stdin, stdout } = child;
    const answers = createInterface({ input: stdout })[Symbol.asyncIterator]();
    return {
      async send(address: string, above = 0): Promise<string> {
        stdin.write(`${address} ${above}\n`);
        return (await answers.next()).value ?? 'gone';
      },
      end: () => new Promise((resolve) => child.once('close', resolve).stdin?.end()),
    };
  }

  test('with many peers is judged once for each, and their late answers are no questions', async () => {
    const { send, end } = sender('0.0.0.0', 100);
    for (const address of [ONE, TWO, ONE, TWO, TWO, ONE]) assert.equal(await send(address), 'ok');
    assert.deepEqual([maps.packets('rule'), maps.counted().length], [6, 1]);
    const directions = maps.flows().map(({ direction }) => direction);
    assert.deepEqual(directions, [DIRECTION_EGRESS, DIRECTION_EGRESS]);
    maps.bind(CLOSED);
    maps.bumpEpoch();
    for (const address of [ONE, TWO, ONE]) assert.equal(await send(address), 'EPERM');
    assert.equal(maps.packets('reply'), 0);
    maps.bind(RULESET);
    maps.bumpEpoch();
    for (const address of [ONE, TWO, ONE]) assert.equal(await send(address), 'ok');
    await end();
  });

  test('may send datagrams that are cut into fragments behind the programs', async () => {
    const { send, end } = sender('0.0.0.0', 5000);
    for (const address of [ONE, ONE, TWO]) assert.equal(await send(address), 'ok');
    assert.deepEqual([maps.packets('rule'), maps.counted().length], [3, 1]);
    await end();
  });

  test('that is bound to an address is refused before there is a packet', async () => {
    const { send, end } = sender('198.18.0.10', 100);
    assert.equal(await send(ONE, REFUSED - ALLOWED), 'EPERM');
    const [event] = maps.events();
    assert.deepEqual([event?.hook, event?.local, event?.length], [HOOK_SENDMSG, addressKey('198.18.0.10'), 0]);
    assert.equal(await send(ONE), 'ok');
    await end();
  });
});

test('packets of more than 65,535 bytes, which only segmentation offload makes, are read like others', async () => {
  const bytes = 8_000_000;
  const script = `let left = ${bytes};
    const socket = require('node:net').connect(${ALLOWED}, 'fd00::1:1');
    socket.on('data', (chunk) => { left -= chunk.length; if (left === 0) socket.end(() => console.log('all')); });
    socket.write(Buffer.alloc(left));`;
  for (const namespace of [workload.netns, lab.outside.netns]) {
    const links = ['nsenter', [`--net=${namespace}`, 'ip', '-o', 'link', 'show', 'type', 'veth']] as const;
    for (const [, link = ''] of execFileSync(...links, { encoding: 'utf8' }).matchAll(/^\d+: ([^@:]+)/gm))
      execFileSync('nsenter', [`--net=${namespace}`, 'ip', 'link', 'set', link, 'gso_max_size', '180000']);
  }
  const result = await workload.exec(process.execPath, ['-e', script]);
  assert.deepEqual([result.stdout, result.stderr], ['all\n', '']);
  // What could not be read would be told by its own reason.
  assert.deepEqual([...new Set(maps.counted().map(({ reason }) => reason))], ['rule']);
  assert(maps.packets('rule') > bytes / 1500, 'segments are counted, not packets');
});

test('a connect to a v4-mapped address is one to its IPv4 address', async () => {
  assert.equal(await inside.tryTcp('::ffff:198.18.1.1', REFUSED), 'EPERM');
  assert.equal(maps.events()[0]?.remote, addressKey('198.18.1.1'));
  assert.equal(await inside.tryTcp('::ffff:198.18.1.1', ALLOWED), 'ok');
});

test('loopback passes, by any of its names', async () => {
  const port = await inside.listen('TCP', '::', 0);
  for (const address of ['127.0.0.1', '::1', '0.0.0.0', '::'])
    assert.equal(await inside.tryTcp(address, port), 'ok', address);
});

test('the unknown pass unless they must not; the programs hold nobody else', async () => {
  const stranger = await lab.workload('s', { addresses: ['198.18.0.11'] });
  assert.equal(await stranger.actor.tryTcp('198.18.1.1', REFUSED), 'ok');
  maps.settings({ unknown: 1 });
  assert.equal(await stranger.actor.tryTcp('198.18.1.1', REFUSED), 'EPERM');
  assert.equal(await stranger.actor.tryUdp('198.18.1.1', REFUSED), 'EPERM');
  assert(maps.events().some(({ slot, remotePort }) => slot === SLOT_UNKNOWN && remotePort === REFUSED));
  assert.equal(await inside.tryTcp('198.18.1.1', ALLOWED), 'ok');
});
