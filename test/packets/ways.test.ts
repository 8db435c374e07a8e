// SPDX-License-Identifier: Apache-2.0
// Every way that a program has to send, by both families: to a destination that is refused, dropped, and allowed. Whatever the way,
// nothing reaches the wire that is refused, a Reject is told at once, a Drop is not, and what is allowed gets its answer.
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { isIPv6 } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import { EVENT_CUT, ROW_ISOLATED, ROW_SILENT } from '#build/generated/abi.ts';
import { loadNative } from '#src/kernel/native.ts';
import { attachPrograms } from '#src/kernel/programs.ts';
import { type Actor, Lab, type Place, type Result, resultOf } from '../support/lab.ts';
import { always, id, Maps } from './programs.ts';

const FAMILIES = [
  { name: 'IPv4', own: '198.18.0.10', good: '198.18.1.1', evil: '198.18.9.9' },
  { name: 'IPv6', own: 'fd00::10', good: 'fd00::1:1', evil: 'fd00::9:9' },
] as const;
type Family = (typeof FAMILIES)[number];
const PORT = 4000;
const RULESET = id(0xa);
const REJECT = ROW_ISOLATED;
const DROP = ROW_ISOLATED | ROW_SILENT;
/** How long an answer is waited for that must not come, and one that must. */
const BRIEFLY_MS = 100;
const PATIENTLY_MS = 10_000;

let folder: string;
let lab: Lab;
let maps: Maps;
let workload: Place;
let inside: Actor;
let watcher: ChildProcess;
let told: AsyncIterator<string>;

before(async () => {
  folder = mkdtempSync(path.join(tmpdir(), `postern-${process.pid}-`));
  const program = path.join(folder, 'ways');
  const source = path.join(import.meta.dirname, 'ways.cc');
  execFileSync('g++', ['-std=c++17', '-O2', '-Wall', '-Wextra', '-Werror', '-pthread', '-o', program, source]);
  lab = await Lab.create();
  await lab.addOutside(...FAMILIES.flatMap(({ good, evil }) => [good, evil]));
  workload = await lab.workload('w', { addresses: FAMILIES.map(({ own }) => own) });
  inside = workload.actor;
  for (const address of FAMILIES.flatMap(({ good, evil }) => [good, evil])) {
    await lab.outside.actor.listen('TCP', address, PORT);
    await lab.outside.actor.listen('UDP', address, PORT);
  }
  await workload.exec('sh', ['-c', 'echo "0 2147483647" > /proc/sys/net/ipv4/ping_group_range']);
  assert(workload.cgroup !== null);
  maps = new Maps(workload.cgroup);
  attachPrograms(maps.object, lab.root);
  const gateways = ['198.18.0.1', 'fd00:18::1'];
  watcher = lab.outside.spawn(program, ['watch', ...FAMILIES.map(({ good }) => good), ...gateways]);
  if (watcher.stdout === null) throw new Error('the watcher needs pipes');
  told = createInterface({ input: watcher.stdout })[Symbol.asyncIterator]();
  assert.equal((await told.next()).value, 'ready');
});
after(async () => {
  maps?.close();
  await lab?.close();
  rmSync(folder, { recursive: true, force: true });
});

/** All of `good` is allowed, and nothing else. */
function hold(flags: number): void {
  maps.reset();
  maps.row({ ruleset: RULESET, flags });
  maps.row({ ruleset: RULESET, subject: id(1), entries: [always({ policy: 0 })] });
  for (const { own, good } of FAMILIES) {
    maps.identity(good, { id: id(1), kind: 2 });
    maps.self(own);
  }
  maps.bind(RULESET);
  maps.bumpEpoch();
}

/** `PROTOCOL>ADDRESS` of what reached the wire, since the last call, for others than `good`; '' where nothing did. */
async function strays(): Promise<string> {
  // What was sent before this datagram has arrived when its echo has.
  assert.equal(await inside.tryUdp(FAMILIES[0].good, PORT, PATIENTLY_MS), 'ok');
  watcher.stdin?.write('\n');
  return String((await told.next()).value);
}

async function attempt(way: string, { own, good }: Family, to: string, patienceMs: number): Promise<string> {
  const args = [way, own, to, good, `${PORT}`, `${patienceMs}`];
  return outcomeOf(await workload.exec(path.join(folder, 'ways'), args, { timeoutMs: 60_000 }));
}

function outcomeOf({ status, signal, stdout, stderr }: Result): string {
  assert.deepEqual([status, signal, stderr], [0, null, ''], stdout);
  return stdout.trim();
}

interface Way {
  /** Under Reject, Drop, and to who is allowed; by default EPERM, silence, echo. */
  readonly reject?: string;
  readonly drop?: string | Readonly<Record<Family['name'], string>>;
  readonly allow?: string;
}

const WAYS: Readonly<Record<string, Way>> = {
  connect: {},
  'connect-nonblocking': {},
  'connect-mapped': {},
  'connect-after-disconnect': {},
  'connect-by-another-thread': {},
  'connect-by-ring': {},
  'connect-by-ring-worker': {},
  'connect-by-ring-thread': {},
  'fastopen-sendto': {},
  'fastopen-connect': {},
  'fastopen-without-cookie': {},
  mptcp: {},
  splice: {},
  send: {},
  sendto: {},
  'sendto-mapped': {},
  'sendto-ipv4-by-ipv6-socket': {},
  'sendto-while-connected-elsewhere': {},
  'send-after-another': {},
  sendmmsg: {},
  more: {},
  'more-when-connected': {},
  segmentation: {},
  zerocopy: {},
  sendfile: {},
  'sendmsg-by-ring': {},
  'sendmsg-by-ring-worker': {},
  'sendmsg-by-ring-thread': {},
  'send-by-ring-without-copy': {},
  'socket-of-a-ring-thread': {},
  'source-by-control-message': {},
  'device-bound': {},
  'raw-with-header': {},
  'raw-fragments': {},
  'raw-later-fragment-alone': { allow: 'EPERM' },
  // The route leads to the one, the header names the other.
  'raw-header-names-loopback': { allow: 'EPERM' },
  'raw-header-names-oneself': { allow: 'EPERM' },
  // Their destination is allowed; whom they go to first is not looked at.
  'routing-header-of-a-datagram': { allow: 'EPERM' },
  // Nobody answers it outside.
  udplite: { allow: 'silence' },
  // The kernel passes on what egress answered as it likes: see "What it can't see" in docs/limits.md.
  cork: { reject: 'silence' },
  raw: { drop: { IPv4: 'silence', IPv6: 'ENOBUFS' } },
};

describe('ways out', () => {
  for (const [way, { reject = 'EPERM', drop = 'silence', allow = 'echo' }] of Object.entries(WAYS)) {
    for (const family of FAMILIES) {
      test(`${way}, ${family.name}`, async () => {
        hold(REJECT);
        assert.equal(await attempt(way, family, family.evil, BRIEFLY_MS), reject, 'Reject');
        assert.equal(await strays(), '');
        hold(DROP);
        const dropped = typeof drop === 'string' ? drop : drop[family.name];
        assert.equal(await attempt(way, family, family.evil, BRIEFLY_MS), dropped, 'Drop');
        assert.equal(await strays(), '');
        hold(REJECT);
        const patienceMs = allow === 'echo' ? PATIENTLY_MS : BRIEFLY_MS;
        assert.equal(await attempt(way, family, family.good, patienceMs), allow, 'allowed');
      });
    }
  }

  for (const family of FAMILIES) {
    test(`ping, ${family.name}`, async () => {
      hold(REJECT);
      assert.equal(
        await attempt('ping', family, family.evil, BRIEFLY_MS),
        family.name === 'IPv4' ? 'EPERM' : 'silence',
      );
      hold(DROP);
      assert.equal(
        await attempt('ping', family, family.evil, BRIEFLY_MS),
        family.name === 'IPv4' ? 'ENOBUFS' : 'silence',
      );
      assert.equal(await strays(), '');
      assert.equal(await attempt('ping', family, family.good, PATIENTLY_MS), 'echo');
    });

    test(`a stream whose options lead elsewhere is ended under Reject, ${family.name}`, async () => {
      hold(REJECT);
      const ended = start(workload, 'routing-header-of-a-stream', family, family.evil, PATIENTLY_MS);
      await until(() => endCut() > 0);
      assert.equal(outcomeOf(await ended.result), 'ECONNABORTED');
      assert.equal(await strays(), '');
      hold(DROP);
      assert.equal(await attempt('routing-header-of-a-stream', family, family.evil, BRIEFLY_MS), 'silence');
      assert.equal(await strays(), '');
    });
  }

  for (const to of ['198.18.255.255', '255.255.255.255', '224.0.0.7', '239.1.2.3']) {
    test(`to many: ${to}`, async () => {
      hold(REJECT);
      assert.equal(await attempt('to-many', FAMILIES[0], to, BRIEFLY_MS), 'EPERM');
      assert.equal(await strays(), '');
    });
  }
  for (const to of ['ff02::7', 'ff05::7', 'ff0e::7']) {
    test(`to many: ${to}`, async () => {
      hold(REJECT);
      assert.equal(await attempt('to-many', FAMILIES[1], to, BRIEFLY_MS), 'EPERM');
      assert.equal(await strays(), '');
    });
  }
  for (const family of FAMILIES) {
    test(`to loopback by another device, ${family.name}`, async () => {
      hold(REJECT);
      const loopback = family.name === 'IPv4' ? '127.0.0.1' : '::1';
      assert.match(await attempt('device-bound', family, loopback, BRIEFLY_MS), /^(EPERM|EINVAL|ENETUNREACH)$/);
      assert.equal(await strays(), '');
      // Which device its own address is on makes no difference: it is looped back, and nobody is there.
      assert.match(await attempt('device-bound', family, family.own, BRIEFLY_MS), /^(silence|ECONNREFUSED)$/);
      assert.equal(await strays(), '');
    });
  }
});

describe('what is forged', () => {
  const [, ipv6] = FAMILIES;
  for (const way of ['forged-question', 'forged-question-to-loopback']) {
    test(`${way}: one's own address is no stranger's`, async () => {
      hold(REJECT);
      assert.equal(await attempt(way, ipv6, ipv6.evil, BRIEFLY_MS), 'EPERM');
      assert.deepEqual(reasons(), ['spoofed_source']);
      hold(DROP);
      assert.equal(await attempt(way, ipv6, ipv6.evil, BRIEFLY_MS), 'silence');
      assert.equal(await strays(), '');
    });
  }

  test('forged-connection', async () => {
    hold(REJECT);
    const ended = start(workload, 'forged-connection', ipv6, ipv6.evil, PATIENTLY_MS);
    await until(() => endCut() > 0);
    assert.equal(outcomeOf(await ended.result), 'ECONNABORTED');
    hold(DROP);
    assert.equal(await attempt('forged-connection', ipv6, ipv6.evil, BRIEFLY_MS), 'silence');
    assert.equal(await strays(), '');
  });

  for (const family of FAMILIES) {
    test(`forged-in-a-namespace, ${family.name}`, async () => {
      hold(REJECT);
      assert.equal(await attempt('forged-in-a-namespace', family, family.evil, BRIEFLY_MS), 'EPERM');
      hold(DROP);
      assert.equal(await attempt('forged-in-a-namespace', family, family.evil, BRIEFLY_MS), 'silence');
      assert.equal(await strays(), '');
    });

    test(`full-option-memory: no connection goes unrecorded, ${family.name}`, async () => {
      for (const flags of [REJECT, DROP]) {
        hold(flags);
        assert.equal(await attempt('full-option-memory', family, family.good, BRIEFLY_MS), 'EPERM');
        assert.deepEqual(reasons(), ['no_memory']);
      }
    });

    test(`connect-in-time-wait, ${family.name}`, async () => {
      hold(REJECT);
      assert.equal(await attempt('connect-in-time-wait', family, family.evil, PATIENTLY_MS), 'EPERM');
      assert.equal(await strays(), '');
    });

    test(`simultaneous-open: a SYN-ACK of who connects is no reply, ${family.name}`, async () => {
      hold(DROP);
      const one = start(workload, 'simultaneous-open', family, family.evil, BRIEFLY_MS * 5);
      await one.ready;
      const swapped = { ...family, own: family.evil };
      const other = start(lab.outside, 'simultaneous-open', swapped, family.own, BRIEFLY_MS * 3);
      await other.result;
      assert.equal(outcomeOf(await one.result), 'ready\nsilence');
      assert.equal(await strays(), '');
    });

    test(`Multipath TCP: no other address that the peer offers is tried, ${family.name}`, async () => {
      const out = path.basename(lab.outside.netns);
      execFileSync('ip', [
        '-n',
        path.basename(workload.netns),
        'mptcp',
        'limits',
        'set',
        'add_addr_accepted',
        '4',
        'subflows',
        '4',
      ]);
      execFileSync('ip', ['-n', out, 'mptcp', 'limits', 'set', 'add_addr_accepted', '4', 'subflows', '4']);
      // Else it offers the other family's, too.
      execFileSync('ip', ['-n', out, 'mptcp', 'endpoint', 'flush']);
      execFileSync('ip', ['-n', out, 'mptcp', 'endpoint', 'add', family.evil, 'dev', 'lo', 'signal']);
      const server = start(
        lab.outside,
        'serve-mptcp',
        { ...family, own: family.good },
        family.good,
        PATIENTLY_MS,
        PORT + 2,
      );
      await server.ready;
      const call = () => start(workload, 'mptcp-for-long', family, family.good, PATIENTLY_MS, PORT + 2).result;
      // A join of the other family's connection may be tried again meanwhile.
      const joins = async () =>
        (await strays())
          .split(' ')
          .filter((each) => each.includes(':') === isIPv6(family.evil))
          .join(' ');
      hold(REJECT);
      assert.equal(outcomeOf(await call()), 'echo');
      assert.equal(await joins(), '');
      hold(0);
      assert.equal(outcomeOf(await call()), 'echo');
      assert.equal(await joins(), `6>${family.evil}`, 'only policy stops it');
      // Its end may be under way still.
      hold(REJECT);
      await strays();
      server.child.kill('SIGKILL');
      await server.result;
      execFileSync('ip', ['-n', out, 'mptcp', 'endpoint', 'flush']);
    });
  }
});

describe('sockets and processes that change places', () => {
  for (const family of FAMILIES) {
    const move = async (from: Place, to: string, way: string, peer: string, patienceMs: number) => {
      const args = [
        `TO=${to}`,
        path.join(folder, 'ways'),
        way,
        family.own,
        peer,
        family.good,
        `${PORT}`,
        `${patienceMs}`,
      ];
      return outcomeOf(await from.exec('env', args, { timeoutMs: 60_000 }));
    };
    const inner = () => lab.placeIn(workload.netns, lab.cgroup('w/inner'));
    const elsewhere = () => lab.placeIn(workload.netns, lab.cgroup('elsewhere'));

    test(`a cgroup inside the workload's is the workload's, ${family.name}`, async () => {
      hold(REJECT);
      for (const way of ['socket-made-after-a-move', 'stream-brought-along', 'datagram-brought-along']) {
        assert.equal(await move(workload, inner().cgroup ?? '', way, family.evil, BRIEFLY_MS), 'EPERM', way);
        assert.equal(await move(inner(), workload.cgroup ?? '', way, family.evil, BRIEFLY_MS), 'EPERM', way);
      }
      assert.equal(await strays(), '');
    });

    test(`who moves in is held: by new sockets, and by what it connects, ${family.name}`, async () => {
      hold(REJECT);
      const into = workload.cgroup ?? '';
      assert.equal(await move(elsewhere(), into, 'socket-made-after-a-move', family.evil, BRIEFLY_MS), 'EPERM');
      assert.equal(await move(elsewhere(), into, 'stream-brought-along', family.evil, BRIEFLY_MS), 'EPERM');
      assert.equal(await strays(), '');
    });

    test(`sockets of who moves out stay the workload's, ${family.name}`, async () => {
      hold(REJECT);
      const out = elsewhere().cgroup ?? '';
      assert.equal(await move(workload, out, 'datagram-brought-along', family.evil, BRIEFLY_MS), 'EPERM');
      const ended = move(workload, out, 'stream-brought-along', family.evil, PATIENTLY_MS);
      await until(() => endCut() > 0);
      assert.equal(await ended, 'ECONNABORTED', 'no call refused it, so it is ended');
      assert.equal(await strays(), '');
    });
  }
});

test('every way is tried', () => {
  const there = execFileSync(path.join(folder, 'ways'), ['list'], { encoding: 'utf8' }).trim().split('\n');
  const suites = [import.meta.filename, path.join(import.meta.dirname, '../attack/ways-out.test.ts')];
  const source = suites.map((file) => readFileSync(file, 'utf8')).join('\n');
  assert.deepEqual(
    there.filter((way) => !(way in WAYS) && !new RegExp(`'${way}'|\\b${way}: \\{`).test(source)),
    [],
  );
});

function reasons(): readonly string[] {
  return maps.counted().map(({ reason }) => reason);
}

interface Started {
  readonly child: ChildProcess;
  /** It has written its first line. */
  readonly ready: Promise<unknown>;
  readonly result: Promise<Result>;
}

function start(
  place: Place,
  way: string,
  family: Omit<Family, 'own'> & { own: string },
  to: string,
  patienceMs: number,
  port = PORT,
): Started {
  const child = place.spawn(path.join(folder, 'ways'), [way, family.own, to, family.good, `${port}`, `${patienceMs}`]);
  const ready = new Promise((resolve) => {
    child.stdout?.once('data', resolve);
    child.once('close', resolve);
  });
  return { child, ready, result: resultOf(child, 60_000) };
}

async function until(holds: () => boolean): Promise<void> {
  const deadline = Date.now() + 60_000;
  while (!holds()) {
    if (Date.now() > deadline) throw new Error('it never came');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Does what an agent does with connections that were cut. Returns how many it ended. */
function endCut(): number {
  return maps
    .events()
    .filter(
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
