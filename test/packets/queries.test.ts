// SPDX-License-Identifier: Apache-2.0
// What may be asked is asked, and nothing else reaches a resolver: dnsmasq outside, which logs what it is asked; dig, glibc, Node's own resolver and
// sockets inside, behind a guard, which answers what it refuses, and without one.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import {
  decodeEvent,
  decodeNamedEvent,
  EVENT_CUT,
  FINAL_SILENT,
  NAME_ASKED,
  NAMED_EVENT_BYTES,
  REASON_NAME_NOT_ALLOWED,
  REASON_NAMES,
  REASON_RULE,
  REASON_SEARCH_DOMAIN,
  ROW_ISOLATED,
} from '#build/generated/abi.ts';
import { loadNative } from '#src/kernel/native.ts';
import { attachPrograms } from '#src/kernel/programs.ts';
import { forwardName } from '#src/model/name.ts';
import { Lab, type Place, type Result } from '../support/lab.ts';
import { Guards } from './interface.ts';
import { LOCAL4, LOCAL6 } from './packet.ts';
import { always, id, Maps, on } from './programs.ts';

const RESOLVER = ['198.18.1.53', 'fd00::1:53'] as const;
const SITE = '198.18.2.1';
const RULESET = id(0xa);
const SHADOW = id(0xb);
const LISTED = id(0xc1);
const SEARCHED = id(0xc2);
const LINK = 'w1';
/** 253 bytes, the longest there is. */
const LONGEST = `${`${'l'.repeat(60)}.`.repeat(3)}${'l'.repeat(57)}.shop.example`;

let folder: string;
/** A client of musl's. */
let resolve: string;
let lab: Lab;
let maps: Maps;
let guards: Guards;
let pod: Place;
let marks = 0;

before(async () => {
  folder = mkdtempSync(path.join(tmpdir(), `postern-${process.pid}-`));
  resolve = path.join(folder, 'resolve');
  execFileSync('musl-gcc', ['-static', '-o', resolve, path.join(import.meta.dirname, 'resolve.c')]);
  lab = await Lab.create();
  await lab.addOutside(...RESOLVER, SITE);
  pod = await lab.workload('w', { addresses: [LOCAL4, LOCAL6] });
  assert(pod.cgroup !== null);
  maps = new Maps(pod.cgroup);
  attachPrograms(maps.object, lab.root);
  guards = new Guards(maps, lab);
  guards.attach(LINK, pod);
  lab.outside.spawn(
    '/usr/sbin/dnsmasq',
    [
      ...['--keep-in-foreground', '--no-resolv', '--no-hosts', '--conf-file=/dev/null', '--pid-file', '--user=root'],
      ...['--bind-interfaces', ...RESOLVER.map((address) => `--listen-address=${address}`)],
      ...['--log-queries', `--log-facility=${folder}/log`],
      ...['api.shop.example', LONGEST, 'evil.example'].map((name) => `--host-record=${name},${SITE},fd00::2:1`),
      '--txt-record=evil.example,command',
      '--local=/example/',
    ],
    { stdio: 'ignore' },
  );
  for (let tries = 0; (await dig(lab.outside, 'api.shop.example')).status !== 'NOERROR'; tries += 1) {
    assert(tries < 100, 'dnsmasq does not answer');
  }
});

after(async () => {
  guards?.close();
  maps?.close();
  await lab?.close();
  rmSync(folder, { recursive: true, force: true });
});

/** How dig says that it ended: a code of DNS, or what stopped it. */
async function dig(
  place: Place,
  name: string,
  ...more: readonly string[]
): Promise<{ status: string; result: Result }> {
  const server = more.some((word) => word.startsWith('@')) ? [] : [`@${RESOLVER[0]}`];
  const result = await place.exec('dig', [...server, '+tries=1', '+time=20', ...more, name], {
    timeoutMs: 60_000,
  });
  return { status: /status: (\w+)/.exec(result.stdout)?.[1] ?? `exit ${result.status}`, result };
}

/**
 * What dnsmasq was asked since the last call, as `type name`. A question from outside, where nobody is held, comes behind all of it.
 */
async function heard(): Promise<string[]> {
  marks += 1;
  const mark = `mark-${marks}.example`;
  await dig(lab.outside, mark);
  const lines = readFileSync(path.join(folder, 'log'), 'utf8').split('\n');
  const asked = lines.flatMap((line) => {
    const [, type, name = ''] = /query\[([^\]]+)\] (\S+) from/.exec(line) ?? [];
    return type === undefined ? [] : [`${type} ${name}`];
  });
  const end = asked.findIndex((line) => line.endsWith(` ${mark}`));
  assert.notEqual(end, -1, 'dnsmasq logs what it is asked');
  return asked.slice(asked.findIndex((line) => line.endsWith(` mark-${marks - 1}.example`)) + 1, end);
}

interface Told {
  readonly reason: string | undefined;
  readonly name: string | null;
  readonly verdict: number;
  readonly flags: number;
}

function events(): Told[] {
  const told: Told[] = [];
  maps.object.drainEvents('events', (record) => {
    const { reason, verdict, flags } = decodeEvent(record);
    const name = record.length === NAMED_EVENT_BYTES ? forwardName(decodeNamedEvent(record).text) : null;
    told.push({ reason: REASON_NAMES.get(reason), name, verdict, flags });
  });
  return told;
}

const isTold = (expected: string): boolean => events().some(({ reason }) => reason === expected);

function asked(ruleset: string, subject: string | undefined, final: number): void {
  const entries = [always({ final })];
  maps.row({ ruleset, ...(subject === undefined ? {} : { subject }), kind: NAME_ASKED, entries });
}

async function fill(guarded: boolean, silent = false): Promise<void> {
  // What was refused is sent again, until somebody ends its socket: here nobody else does.
  await pod.exec('ss', ['--kill', 'dport', '=', '53']);
  maps.reset();
  const netns = loadNative().netnsCookie(pod.netns);
  if (guarded) guards.describe(LINK, pod);
  maps.settings({ shortestTtlS: 60, hostNetns: guarded ? 1n : netns });
  for (const ruleset of [RULESET, SHADOW]) {
    const entries = [on(17, 53, 53, { policy: 0 }), on(6, 53, 53, { policy: 0 })];
    maps.row({ ruleset, flags: ROW_ISOLATED, entries });
  }
  asked(RULESET, undefined, REASON_NAME_NOT_ALLOWED | (silent ? FINAL_SILENT : 0));
  asked(RULESET, LISTED, REASON_RULE);
  asked(RULESET, SEARCHED, REASON_SEARCH_DOMAIN);
  maps.pattern('*.shop.example', LISTED);
  maps.pattern('*.shop.example.corp.example', SEARCHED);
  for (const resolver of RESOLVER) maps.resolver(resolver);
  maps.bind(RULESET, RULESET, guarded ? netns : 0n);
  maps.bumpEpoch();
  await heard();
}

/** Runs a command with this resolv.conf. */
function withResolver(text: string, command: string, ...args: readonly string[]): Promise<Result> {
  const file = path.join(folder, 'resolv.conf');
  writeFileSync(file, text);
  const enter = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"';
  return pod.exec('unshare', ['--mount', 'sh', '-c', enter, 'sh', file, command, ...args]);
}

/** A message with these questions of type A. */
function message(names: readonly string[], { flags = 0x0100, padding = 0 } = {}): Buffer {
  const header = Buffer.alloc(12);
  header.writeUInt16BE(0x1234, 0);
  header.writeUInt16BE(flags, 2);
  header.writeUInt16BE(names.length, 4);
  const questions = names.map((name) => {
    const labels = name.split('.').map((label) => Buffer.concat([Buffer.from([label.length]), Buffer.from(label)]));
    return Buffer.concat([...labels, Buffer.from([0, 0, 1, 0, 1])]);
  });
  return Buffer.concat([header, ...questions, Buffer.alloc(padding)]);
}

const framed = (one: Buffer): Buffer => Buffer.concat([Buffer.from([one.length >> 8, one.length & 0xff]), one]);

/** Sends a datagram; `code N` of what is answered, the error, or `silence`, for which it waits so long. */
const SEND = `const [address, hex, waitMs] = process.argv.slice(1);
const socket = require('node:dgram').createSocket(address.includes(':') ? 'udp6' : 'udp4');
const end = (text) => { console.log(text); process.exit(); };
socket.on('message', (answer) => end('code ' + (answer[3] & 15)));
socket.on('error', (error) => end(error.code));
socket.connect(53, address, () => {
  socket.send(Buffer.from(hex, 'hex'), (error) => { if (error) end(error.code); });
  setTimeout(() => end('silence'), Number(waitMs));
});`;
async function send(datagram: Buffer, waitMs = 20_000): Promise<string> {
  const words = [RESOLVER[0], datagram.toString('hex'), String(waitMs)];
  return (await pod.exec(process.execPath, ['-e', SEND, ...words], { timeoutMs: 60_000 })).stdout.trim();
}

/** Sends a datagram many times; of each the code that is answered, or E for an error, in any order. */
const FLOOD = `const [address, hex, times] = process.argv.slice(1);
const socket = require('node:dgram').createSocket('udp4');
let told = '';
const tell = (text) => {
  told += text;
  if (told.length >= times) { console.log(told); process.exit(); }
};
socket.on('message', (answer) => tell(answer[3] & 15));
socket.connect(53, address, async () => {
  for (let n = 0; n < times; n += 1) {
    await new Promise((resolve) => socket.send(Buffer.from(hex, 'hex'), (error) => { if (error) tell('E'); resolve(); }));
  }
});`;

/** Writes pieces to one connection, 100 ms apart; how many messages were answered, if they are to be so many: else a moment later. */
const WRITE = `const [address, most, ...pieces] = process.argv.slice(1);
const socket = require('node:net').connect({ port: 53, host: address, noDelay: true });
let got = Buffer.alloc(0);
socket.on('data', (data) => { got = Buffer.concat([got, data]); });
socket.on('error', () => {});
socket.on('connect', async () => {
  for (const piece of pieces) {
    socket.write(Buffer.from(piece, 'hex'));
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  const count = () => {
    let whole = 0;
    for (let at = 0; at + 2 <= got.length; at += 2 + got.readUInt16BE(at)) whole += 1;
    return whole;
  };
  for (let n = 0; n < 1000 && count() < most; n += 1) await new Promise((resolve) => setTimeout(resolve, 20));
  await new Promise((resolve) => setTimeout(resolve, 200));
  console.log(count());
  process.exit();
});`;
async function write(answers: number, ...pieces: readonly Buffer[]): Promise<number> {
  const hex = pieces.map((piece) => piece.toString('hex'));
  const words = [RESOLVER[0], String(answers), ...hex];
  return Number((await pod.exec(process.execPath, ['-e', WRITE, ...words], { timeoutMs: 60_000 })).stdout);
}

/** Without a cookie, as the namespace's setting says. */
const FAST_OPEN = `import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
s.settimeout(20 if b'shop' in bytes.fromhex(sys.argv[2]) else 1)
try:
  s.sendto(bytes.fromhex(sys.argv[2]), socket.MSG_FASTOPEN, (sys.argv[1], 53))
  print('answer' if s.recv(1000) else 'end')
except OSError:
  print('none')`;

const NODE = `const dns = require('node:dns').promises; const [resolver, name] = process.argv.slice(1);
dns.setServers([resolver]);
dns.resolve4(name).then(([address]) => console.log(address), (error) => console.log(error.code));`;

for (const guarded of [true, false]) {
  const where = guarded ? 'behind a guard' : 'without a guard';
  const refused = guarded ? 'REFUSED' : 'exit 9';
  /** dig does not mind EPERM, and waits. */
  const soon = guarded ? [] : ['+time=1'];

  for (const resolver of RESOLVER) {
    test(`${where}, ${resolver}: dig may ask what is listed, of any type, and nothing else`, async () => {
      await fill(guarded);
      for (const type of ['A', 'AAAA', 'TXT', 'HTTPS']) {
        assert.equal((await dig(pod, 'aPi.Shop.example', `@${resolver}`, type)).status, 'NOERROR', type);
      }
      assert.deepEqual(events(), []);
      await heard();
      for (const type of ['A', 'TXT', 'NULL', 'SRV']) {
        for (const more of [[], ['+noedns'], ['+nocookie', '+dnssec']]) {
          const { status, result } = await dig(
            pod,
            'dGhpcyBpcyBh.Evil.example',
            `@${resolver}`,
            type,
            ...soon,
            ...more,
          );
          assert.equal(status, refused, result.stdout + result.stderr);
          if (guarded) assert.doesNotMatch(result.stdout, /mismatch|malformed|WARNING/i);
        }
      }
      assert.deepEqual(await heard(), []);
      const told = events();
      assert.equal(told.length, 12);
      for (const { name, reason } of told) {
        assert.deepEqual([name, reason], ['dghpcybpcybh.evil.example', 'name_not_allowed']);
      }
      assert.equal(maps.packets('name_not_allowed'), 12);
      assert.deepEqual(maps.asked(), [], 'nothing waits for an answer');
    });
  }

  test(`${where}: the longest name, listed and not`, async () => {
    await fill(guarded);
    assert.equal(LONGEST.length, 253);
    assert.equal((await dig(pod, LONGEST)).status, 'NOERROR');
    assert.equal((await dig(pod, LONGEST.replace('shop', 'evil'), ...soon)).status, refused);
    assert.deepEqual(await heard(), [`A ${LONGEST}`]);
    assert.equal(events()[0]?.name, LONGEST.replace('shop', 'evil'));
  });

  test(`${where}: over TCP, too`, async () => {
    await fill(guarded);
    for (const resolver of RESOLVER) {
      assert.equal((await dig(pod, 'api.shop.example', `@${resolver}`, '+tcp')).status, 'NOERROR');
      assert.equal((await dig(pod, 'evil.example', `@${resolver}`, '+tcp', '+time=1', 'TXT')).status, 'exit 9');
    }
    assert.deepEqual(await heard(), ['A api.shop.example', 'A api.shop.example']);
    const [told] = events();
    assert.deepEqual([told?.name, told?.reason], ['evil.example', 'name_not_allowed']);
    assert((told?.flags ?? 0) & EVENT_CUT, 'the agent is told to end the connection');
  });

  test(`${where}: whole messages on one connection, up to the first that may not be asked`, async () => {
    await fill(guarded);
    const [good, bad] = [framed(message(['api.shop.example'])), framed(message(['evil.example']))];
    assert.equal(await write(4, good, Buffer.concat([good, good]), good), 4);
    assert.equal(await write(1, good, bad, good), 1);
    assert.equal(await write(0, Buffer.concat([good, bad])), 0);
    assert.deepEqual(await heard(), Array(5).fill('A api.shop.example'));
  });

  test(`${where}: what a segment cuts is refused, and so is all behind it`, async () => {
    await fill(guarded);
    const [good, bad] = [framed(message(['api.shop.example'])), framed(message(['evil.example']))];
    // Whole again, once TCP sends both pieces as one, it may pass.
    for (const cut of [1, 2, 20, good.length - 1]) {
      await write(0, good.subarray(0, cut), good.subarray(cut));
      assert(isTold('query_in_pieces'), String(cut));
    }
    // By itself the second piece is whole, and asks for what is listed: with the first before it, it is not.
    const hiding = framed(Buffer.concat([message(['api.shop.example']), bad]));
    const before = Buffer.concat([Buffer.from([0, 80]), message(['api.shop.example']), Buffer.alloc(80 - 34)]);
    for (const pieces of [
      [bad.subarray(0, 1), bad.subarray(1)],
      [bad.subarray(0, bad.length - 1), bad.subarray(-1)],
      [Buffer.from([0]), hiding],
      [before.subarray(0, 40), hiding],
    ]) {
      await write(0, ...pieces);
      assert(isTold('query_in_pieces'));
    }
    assert.deepEqual(
      (await heard()).filter((line) => line !== 'A api.shop.example'),
      [],
    );
  });

  test(`${where}: a question on a SYN`, async () => {
    await fill(guarded);
    await pod.exec('sh', ['-c', 'echo 5 > /proc/sys/net/ipv4/tcp_fastopen']);
    const ask = (name: string) =>
      pod.exec('python3', ['-c', FAST_OPEN, RESOLVER[0], framed(message([name])).toString('hex')], {
        timeoutMs: 60_000,
      });
    assert.match((await ask('api.shop.example')).stdout, /^answer/);
    assert.deepEqual(events(), []);
    assert.equal((await ask('evil.example')).stdout, 'none\n');
    assert(isTold('name_not_allowed'));
    assert.deepEqual(await heard(), ['A api.shop.example']);
  });

  test(`${where}: a connection that was there before may ask nothing more`, async () => {
    await fill(guarded);
    const whole = framed(message(['api.shop.example']));
    maps.bind(SHADOW, SHADOW, guarded ? loadNative().netnsCookie(pod.netns) : 0n);
    maps.bumpEpoch();
    const { socket } = await pod.actor.connect(RESOLVER[0], 53, 5000);
    assert(socket !== undefined);
    assert.notEqual(await pod.actor.exchange(socket, whole.toString('latin1'), 5000), 'timeout');
    maps.bind(RULESET, RULESET, guarded ? loadNative().netnsCookie(pod.netns) : 0n);
    maps.bumpEpoch();
    assert.equal(await pod.actor.exchange(socket, whole.toString('latin1'), 500), 'timeout');
    assert.equal(events().at(-1)?.reason, 'query_in_pieces');
    await pod.actor.close(socket);
    assert.equal((await heard()).length, 1);
  });

  test(`${where}: fragments and batches of datagrams are refused`, async () => {
    await fill(guarded);
    if (guarded) {
      // Without a guard the packet is judged before it is cut: it is whole.
      assert.equal(await send(message(['api.shop.example'], { padding: 2000 }), 300), 'silence');
      assert.equal(events()[0]?.reason, 'query_in_pieces');
    }
    const [one, other] = [message(['api.shop.example']), message(['www.evil.example'])];
    assert.equal(one.length, other.length);
    const batch = `import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_UDP if hasattr(socket, 'SOL_UDP') else 17, 103, int(sys.argv[3]))
s.connect((sys.argv[1], 53))
try:
  s.send(bytes.fromhex(sys.argv[2])); print('sent')
except OSError as error:
  print(error.errno)`;
    const hex = Buffer.concat([one, other]).toString('hex');
    const sent = await pod.exec('python3', ['-c', batch, RESOLVER[0], hex, String(one.length)]);
    assert.equal(sent.stdout.trim(), guarded ? 'sent' : '1', sent.stderr);
    assert.equal(events()[0]?.reason, 'query_in_pieces');
    assert.deepEqual(await heard(), []);
  });

  test(`${where}: what is no single question is refused`, async () => {
    await fill(guarded);
    const listed = 'api.shop.example';
    const now = guarded ? 'code 5' : 'EPERM';
    const never = guarded ? 'silence' : 'EPERM';
    for (const [datagram, expected] of [
      [message([listed, 'evil.example']), now],
      [message([]), now],
      [message([listed], { flags: 0x2800 }), now],
      [message(['a b.shop.example']), now],
      [message([listed], { flags: 0x8100 }), never],
      [message([listed]).subarray(0, 11), never],
      [message([listed]).subarray(0, 20), now],
      [Buffer.from('tunnel'), never],
      [Buffer.alloc(0), never],
    ] as const) {
      assert.equal(await send(datagram, expected === 'silence' ? 300 : undefined), expected, datagram.toString('hex'));
      assert.deepEqual(
        events().map(({ reason }) => reason),
        ['query_unreadable'],
      );
    }
    assert.deepEqual(await heard(), []);
  });

  test(`${where}: glibc finds a listed name behind search domains, and is told of others that they are none`, async () => {
    await fill(guarded);
    const conf = `nameserver ${RESOLVER[0]}\nsearch corp.example\noptions ndots:5 attempts:1 timeout:1\n`;
    const found = await withResolver(conf, 'getent', 'ahostsv4', 'api.shop.example');
    assert.match(found.stdout, new RegExp(SITE), found.stderr);
    const behind = (await heard()).filter((line) => line.endsWith('.corp.example'));
    assert.equal(behind.length === 0, guarded, 'a guard answers these itself');
    assert.deepEqual(events(), []);
    const none = await withResolver(conf, 'getent', 'ahosts', 'evil.example');
    assert.equal(none.stdout, '');
    assert.deepEqual(await heard(), []);
  });

  test(`${where}: musl, too, finds a listed name behind search domains`, async () => {
    await fill(guarded);
    const conf = `nameserver ${RESOLVER[0]}\nsearch corp.example\noptions ndots:5 attempts:1 timeout:1\n`;
    assert.equal((await withResolver(conf, resolve, 'api.shop.example')).stdout, `${SITE}\n`);
    await heard();
    // It takes REFUSED for no answer, and waits for another.
    assert.equal((await withResolver(conf, resolve, 'evil.example')).stdout, 'AGAIN\n');
    assert.deepEqual(await heard(), []);
  });

  test(`${where}: Node's own resolver`, async () => {
    await fill(guarded);
    const ask = async (name: string) =>
      (await pod.exec(process.execPath, ['-e', NODE, RESOLVER[0], name], { timeoutMs: 60_000 })).stdout.trim();
    assert.equal(await ask('api.shop.example'), SITE);
    assert.equal(await ask('evil.example'), guarded ? 'EREFUSED' : 'ECONNREFUSED');
    assert.deepEqual(await heard(), ['A api.shop.example']);
  });

  test(`${where}: silence where the policies say Drop`, async () => {
    await fill(guarded, true);
    assert.equal(await send(message(['evil.example']), 300), 'silence');
    assert.equal(events()[0]?.reason, 'name_not_allowed');
    assert.deepEqual(await heard(), []);
  });

  test(`${where}: an Audit policy is told of, and lets pass`, async () => {
    await fill(guarded);
    maps.bind(SHADOW, RULESET, guarded ? loadNative().netnsCookie(pod.netns) : 0n);
    maps.bumpEpoch();
    assert.equal((await dig(pod, 'evil.example', 'TXT')).status, 'NOERROR');
    assert.equal((await dig(pod, 'evil.example', 'TXT', '+tcp')).status, 'NOERROR');
    const told = events();
    assert.deepEqual(
      told.map(({ name, verdict }) => [name, verdict]),
      [
        ['evil.example', 1],
        ['evil.example', 1],
      ],
    );
    assert.equal(maps.packets('name_not_allowed'), 2);
    assert.deepEqual(await heard(), ['TXT evil.example', 'TXT evil.example']);
    assert.equal((await dig(pod, 'api.shop.example')).status, 'NOERROR');
    assert.deepEqual(events(), []);
  });

  test(`${where}: names longer than the node says, and more of them, are refused to whoever has a policy`, async () => {
    await fill(guarded);
    const netns = loadNative().netnsCookie(pod.netns);
    const bounds = (more: { longestQuery?: number; queriesPerSecond?: number }) =>
      maps.settings({ shortestTtlS: 60, hostNetns: guarded ? 1n : netns, ...more });
    maps.bind(SHADOW, SHADOW, guarded ? netns : 0n);
    maps.bumpEpoch();
    bounds({ longestQuery: 20 });
    const ask = async (name: string, ...more: readonly string[]) => (await dig(pod, name, ...more)).status;
    assert.equal(await ask('a.bcdefg.any.example'), 'NXDOMAIN', '20 bytes');
    assert.equal(await ask('a.bcdefgh.any.example', ...soon), refused);
    assert.equal(await ask('a.bcdefgh.any.example', '+tcp', '+time=1'), 'exit 9');
    for (const { reason, name } of events()) {
      assert.deepEqual([reason, name], ['query_too_long', 'a.bcdefgh.any.example']);
    }
    assert(maps.packets('query_too_long') >= 2);
    await pod.exec('ss', ['--kill', 'dport', '=', '53']);
    events();
    bounds({ queriesPerSecond: 1 });
    const codes = (
      await pod.exec(process.execPath, ['-e', FLOOD, RESOLVER[0], message(['any.example']).toString('hex'), '200'])
    ).stdout.trim();
    assert.match(codes, guarded ? /^[35]{200}$/ : /^[3E]{200}$/);
    const passed = codes.replaceAll(/[^3]/g, '').length;
    assert(passed >= 2 && passed < 200, `twice as many at once: ${codes}`);
    assert.equal(maps.packets('query_rate'), 200 - passed);
    assert(events().every(({ reason, name }) => reason === 'query_rate' && name === 'any.example'));
    bounds({});
    assert.equal(await send(message(['any.example'])), 'code 3');
    bounds({ longestQuery: 5, queriesPerSecond: 1 });
    maps.bind(id(0), id(0), guarded ? netns : 0n);
    maps.bumpEpoch();
    for (let n = 0; n < 5; n += 1) assert.equal(await send(message(['any.example'])), 'code 3', 'without a policy');
  });

  test(`${where}: who is no resolver may be asked anything, where a rule allows to`, async () => {
    await fill(guarded);
    const { keys, count } = maps.object.dump('resolvers');
    maps.object.remove('resolvers', keys, count);
    assert.equal((await dig(pod, 'evil.example')).status, 'NOERROR');
  });
}
