// SPDX-License-Identifier: Apache-2.0
// Real resolvers and real clients: dnsmasq and unbound outside, dig, glibc and Node's own resolver inside, behind a guard and without one.
// What is asked by name may be connected to at once; what nobody asked, or somebody else answers, may not.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { ROW_ISOLATED, ROW_NAMES } from '#build/generated/abi.ts';
import { loadNative } from '#src/kernel/native.ts';
import { attachPrograms } from '#src/kernel/programs.ts';
import { Lab, type Place, type Result } from '../support/lab.ts';
import { Guards } from './interface.ts';
import { LOCAL4, LOCAL6 } from './packet.ts';
import { id, Maps, on } from './programs.ts';

const DNSMASQ = ['198.18.1.53', 'fd00::1:53'] as const;
const UNBOUND = ['198.18.1.54', 'fd00::1:54'] as const;
const UNTRUSTED = '198.18.1.55';
const SITE4 = '198.18.2.1';
const SITE6 = 'fd00::2:1';
const OTHER4 = '198.18.2.2';
const PORT = 4433;
const RULESET = id(0xa);
const CLASS = id(0xc1);
const LINK = 'w1';
const ZONE: readonly [name: string, type: string, data: string][] = [
  ['api.shop.example', 'A', SITE4],
  ['api.shop.example', 'AAAA', SITE6],
  ['edge.cdn.example', 'A', SITE4],
  ['edge.cdn.example', 'AAAA', SITE6],
  ['www.shop.example', 'CNAME', 'alias.cdn.example'],
  ['alias.cdn.example', 'CNAME', 'edge.cdn.example'],
  ['other.example', 'A', OTHER4],
];

let folder: string;
let lab: Lab;
let maps: Maps;
let guards: Guards;
let pod: Place;

before(async () => {
  folder = mkdtempSync(path.join(tmpdir(), `postern-${process.pid}-`));
  lab = await Lab.create();
  await lab.addOutside(...DNSMASQ, ...UNBOUND, UNTRUSTED, SITE4, SITE6, OTHER4);
  pod = await lab.workload('w', { addresses: [LOCAL4, LOCAL6] });
  assert(pod.cgroup !== null);
  maps = new Maps(pod.cgroup);
  attachPrograms(maps.object, lab.root);
  guards = new Guards(maps, lab);
  guards.attach(LINK, pod);
  for (const address of [SITE4, SITE6, OTHER4]) await lab.outside.actor.listen('TCP', address, PORT);
  startDnsmasq(DNSMASQ);
  startDnsmasq([UNTRUSTED]);
  startUnbound();
  for (const resolver of [DNSMASQ[0], UNBOUND[0], UNTRUSTED]) await untilAnswered(resolver);
});

after(async () => {
  guards?.close();
  maps?.close();
  await lab?.close();
  rmSync(folder, { recursive: true, force: true });
});

function startDnsmasq(addresses: readonly string[]): void {
  const records = ZONE.map(([name, type, data]) =>
    type === 'CNAME' ? `--cname=${name},${data}` : `--host-record=${name},${data}`,
  );
  const listen = addresses.map((address) => `--listen-address=${address}`);
  const quiet = [
    '--keep-in-foreground',
    '--no-resolv',
    '--no-hosts',
    '--conf-file=/dev/null',
    '--pid-file',
    '--user=root',
  ];
  lab.outside.spawn('/usr/sbin/dnsmasq', [...quiet, '--bind-interfaces', ...listen, ...records], { stdio: 'ignore' });
}

function startUnbound(): void {
  const file = path.join(folder, 'unbound.conf');
  const data = ZONE.map(([name, type, value]) => `  local-data: "${name}. 300 IN ${type} ${value}"`);
  const many = Array.from({ length: 100 }, (_, n) => `  local-data: "many.shop.example. 300 IN A 198.18.3.${n}"`);
  writeFileSync(
    file,
    `server:
  do-daemonize: no
  chroot: ""
  username: ""
  directory: "${folder}"
  pidfile: ""
  use-syslog: no
  num-threads: 1
  edns-buffer-size: 4096
  max-udp-size: 4096
${UNBOUND.map((address) => `  interface: ${address}`).join('\n')}
  access-control: 198.18.0.0/15 allow
  access-control: fd00::/8 allow
  local-zone: "example." static
${[...data, ...many].join('\n')}
remote-control:
  control-enable: no
`,
  );
  lab.outside.spawn('/usr/sbin/unbound', ['-c', file], { stdio: 'ignore' });
}

/** From outside, where nobody is held. */
async function untilAnswered(resolver: string): Promise<void> {
  for (let tries = 0; ; tries += 1) {
    const { stdout } = await lab.outside.exec('dig', [
      `@${resolver}`,
      '+short',
      '+tries=1',
      '+time=1',
      'api.shop.example',
    ]);
    if (stdout.trim() === SITE4) return;
    assert(tries < 100, `${resolver} does not answer`);
  }
}

let untaughtBefore: ReadonlyMap<string, number>;
function fill(guarded: boolean): void {
  maps.reset();
  untaughtBefore = maps.untaught();
  const netns = loadNative().netnsCookie(pod.netns);
  if (guarded) guards.describe(LINK, pod);
  maps.settings({ shortestTtlS: 60, hostNetns: guarded ? 1n : netns });
  maps.row({
    ruleset: RULESET,
    flags: ROW_ISOLATED | ROW_NAMES,
    entries: [on(17, 53, 53, { policy: 0 }), on(6, 53, 53, { policy: 0 })],
  });
  maps.row({ ruleset: RULESET, subject: CLASS, entries: [on(6, PORT, PORT, { policy: 1 })] });
  maps.pattern('*.shop.example', CLASS);
  for (const resolver of [...DNSMASQ, ...UNBOUND]) maps.resolver(resolver);
  maps.bind(RULESET, RULESET, guarded ? netns : 0n);
  maps.bumpEpoch();
}

/** Runs a command with these resolvers in its resolv.conf. */
function withResolver(resolver: string, command: string, ...args: readonly string[]): Promise<Result> {
  const file = path.join(folder, 'resolv.conf');
  writeFileSync(file, `nameserver ${resolver}\n`);
  const enter = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"';
  return pod.exec('unshare', ['--mount', 'sh', '-c', enter, 'sh', file, command, ...args]);
}

const connect = (address: string) => pod.actor.tryTcp(address, PORT, 5000);
const lookUp = `const dns = require('node:dns').promises; const net = require('node:net');
const [resolver, name] = process.argv.slice(1);
(async () => {
  dns.setServers([resolver.includes(':') ? '[' + resolver + ']' : resolver]);
  const [address] = await dns.resolve4(name);
  const socket = net.connect(${PORT}, address);
  socket.on('connect', () => { console.log('ok'); socket.destroy(); });
  socket.on('error', (error) => console.log(error.code));
})();`;

for (const guarded of [true, false]) {
  const where = guarded ? 'behind a guard' : 'without a guard';

  for (const [server, resolvers] of [
    ['dnsmasq', DNSMASQ],
    ['unbound', UNBOUND],
  ] as const) {
    for (const resolver of resolvers) {
      test(`${where}, ${server} at ${resolver}: what dig was told opens, by both families`, async () => {
        fill(guarded);
        assert.deepEqual([await connect(SITE4), await connect(SITE6)], ['EPERM', 'EPERM']);
        const told = await pod.exec('dig', [`@${resolver}`, '+short', 'aPi.sHop.example', 'A']);
        assert.equal(told.stdout.trim(), SITE4);
        assert.deepEqual([await connect(SITE4), await connect(SITE6)], ['ok', 'EPERM']);
        await pod.exec('dig', [`@${resolver}`, '+short', '+nocookie', 'api.shop.example', 'AAAA']);
        assert.equal(await connect(SITE6), 'ok');
        assert.deepEqual(maps.untaught(untaughtBefore), new Map());
      });
    }

    // unbound does not follow aliases among its own data.
    const asked = server === 'dnsmasq' ? 'www.shop.example' : 'api.shop.example';
    test(`${where}, ${server}: glibc asks for both families of ${asked} from one socket`, async () => {
      fill(guarded);
      const told = await withResolver(resolvers[0], 'getent', 'ahosts', asked);
      assert.match(told.stdout, new RegExp(`^${SITE4} +STREAM`, 'm'), told.stderr);
      assert.deepEqual([await connect(SITE4), await connect(SITE6)], ['ok', 'ok']);
      assert.equal(maps.told().length, 1, 'aliases have no names of their own');
    });

    test(`${where}, ${server}: a name that no policy has opens nothing`, async () => {
      fill(guarded);
      const told = await withResolver(resolvers[0], 'getent', 'ahostsv4', 'other.example');
      assert.match(told.stdout, new RegExp(OTHER4), told.stderr);
      assert.equal(await connect(OTHER4), 'EPERM');
      assert.deepEqual(
        maps.told().map(({ name }) => name),
        ['example.other'],
      );
    });

    test(`${where}, ${server}: Node's own resolver, and the first connection right behind it`, async () => {
      fill(guarded);
      const { stdout, stderr } = await pod.exec(process.execPath, ['-e', lookUp, resolvers[0], 'api.shop.example']);
      assert.equal(stdout.trim(), 'ok', stderr);
    });
  }

  test(`${where}: a resolver that nobody trusts teaches nothing`, async () => {
    fill(guarded);
    const told = await pod.exec('dig', [`@${UNTRUSTED}`, '+short', 'api.shop.example']);
    assert.equal(told.stdout.trim(), SITE4);
    assert.equal(await connect(SITE4), 'EPERM');
    assert.deepEqual(maps.learned(), []);
  });

  test(`${where}: a hundred addresses in one datagram`, async () => {
    fill(guarded);
    for (const name of [null, path.basename(pod.netns)]) {
      await lab.ip(name, [`link set ${name === null ? LINK : 'eth0'} mtu 9000`]);
    }
    const told = await pod.exec('dig', [`@${UNBOUND[0]}`, '+short', '+bufsize=4096', '+ignore', 'many.shop.example']);
    assert.equal(told.stdout.trim().split('\n').length, 100);
    assert.equal(maps.learned().length, 100);
  });

  test(`${where}: an answer that does not fit a datagram comes over TCP, and so may any`, async () => {
    fill(guarded);
    const told = await pod.exec('dig', [`@${UNBOUND[0]}`, '+short', '+bufsize=512', 'many.shop.example']);
    assert.equal(told.stdout.trim().split('\n').length, 100, told.stderr);
    assert.equal(maps.learned().length, 100);
    maps.forgetNames();
    for (const resolver of [...DNSMASQ, ...UNBOUND]) {
      await pod.exec('dig', [`@${resolver}`, '+short', '+tcp', 'api.shop.example']);
      assert.equal(await connect(SITE4), 'ok', resolver);
      await pod.exec('dig', [
        `@${resolver}`,
        '+short',
        '+tcp',
        '+keepopen',
        'other.example',
        'api.shop.example',
        'AAAA',
      ]);
      assert.equal(await connect(SITE6), 'ok', `${resolver}, the second on one connection`);
      maps.forgetNames();
      maps.bumpEpoch();
      assert.deepEqual([await connect(SITE4), await connect(SITE6)], ['EPERM', 'EPERM']);
    }
    assert.deepEqual(maps.untaught(untaughtBefore), new Map());
  });

  test(`${where}: a hundred addresses over TCP in small segments, and more after them`, async () => {
    fill(guarded);
    // Neither what the pod takes nor what the resolver's device does makes one big segment of them.
    const cut = (segments: number, option: string) =>
      Promise.all([
        lab.ip(null, [`link set ${LINK} gso_max_segs ${segments}`]),
        lab.ip(path.basename(pod.netns), [
          `route change 198.18.0.0/15 via 198.18.0.1 dev eth0 ${option}`,
          `route change fd00::/8 via fd00:18::1 dev eth0 ${option}`,
        ]),
      ]);
    await cut(1, 'advmss 536');
    try {
      for (const resolver of UNBOUND) {
        const asked = [
          'many.shop.example',
          'api.shop.example',
          'many.shop.example',
          'AAAA',
          'api.shop.example',
          'AAAA',
        ];
        const before = maps.begun();
        const told = await pod.exec('dig', [`@${resolver}`, '+short', '+tcp', '+keepopen', ...asked]);
        const addresses = told.stdout.trim().split('\n');
        assert.equal(addresses.length, 102, told.stderr);
        assert.equal(maps.learned().length, 102);
        assert.deepEqual([await connect(SITE4), await connect(SITE6)], ['ok', 'ok']);
        assert(maps.begun() > before, 'none was in one piece');
        maps.forgetNames();
        maps.bumpEpoch();
      }
      assert.deepEqual(maps.untaught(untaughtBefore), new Map());
      await guards.lossy(LINK, async () => {
        for (const resolver of UNBOUND) {
          const told = await pod.exec('dig', [`@${resolver}`, '+short', '+tcp', '+time=20', 'many.shop.example']);
          assert.equal(told.stdout.trim().split('\n').length, 100, told.stderr);
          assert.equal(maps.learned().length, 100, 'also where segments were lost on the way');
          maps.forgetNames();
        }
      });
      assert.deepEqual([...maps.untaught(untaughtBefore).keys()], ['out_of_order']);
    } finally {
      await cut(65535, '');
    }
  });

  test(`${where}: a resolver of the workload's own making, in a namespace of its own, teaches nothing`, async () => {
    fill(guarded);
    const script = `ip link set lo up && ip addr add ${DNSMASQ[0]}/32 dev lo && ip addr add ${UNBOUND[0]}/32 dev lo &&
/usr/sbin/dnsmasq --no-resolv --no-hosts --conf-file=/dev/null --pid-file=${folder}/own.pid --user=root --bind-interfaces \\
  --listen-address=${DNSMASQ[0]} --host-record=api.shop.example,${OTHER4} || exit 1
for n in 1 2 3 4 5 6 7 8 9 10; do dig @${DNSMASQ[0]} +short +tries=1 +time=1 api.shop.example && break; done
kill $(cat ${folder}/own.pid)`;
    const told = await pod.exec('unshare', ['--net', 'sh', '-c', script], { timeoutMs: 30_000 });
    assert.match(told.stdout, new RegExp(OTHER4), told.stderr);
    assert.equal(await connect(OTHER4), 'EPERM');
    assert.deepEqual(maps.learned(), []);
  });
}
