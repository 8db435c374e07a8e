// SPDX-License-Identifier: Apache-2.0
// What a workload might try so that its packets pass for replies, for another connection's, or for another thread's. Every way out
// is tried twice: under a refusal, which the call sees, and under a silent one, which only packets meet.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { ROW_ISOLATED, ROW_SILENT } from '#build/generated/abi.ts';
import { attachPrograms } from '#src/kernel/programs.ts';
import { Lab, type Place } from '../support/lab.ts';
import { id, Maps, on } from './programs.ts';

const OWN = '198.18.0.10';
const PEER = '198.18.1.1';
const OTHER = '198.18.1.2';
const ALLOWED = 4000;
const REFUSED = 4001;
const REJECTING = id(0xa);
const SILENT = id(0xb);

let folder: string;
let lab: Lab;
let maps: Maps;
let workload: Place;

before(async () => {
  folder = mkdtempSync(path.join(tmpdir(), `postern-${process.pid}-`));
  execFileSync('g++', [
    '-std=c++17',
    '-O2',
    '-Wall',
    '-Wextra',
    '-Werror',
    '-pthread',
    '-o',
    path.join(folder, 'tricks'),
    path.join(import.meta.dirname, 'tricks.cc'),
  ]);
  lab = await Lab.create();
  await lab.addOutside(PEER, OTHER);
  workload = await lab.workload('w', { addresses: [OWN] });
  for (const port of [ALLOWED, REFUSED]) await lab.outside.actor.listen('TCP', PEER, port);
  assert(workload.cgroup !== null);
  maps = new Maps(workload.cgroup);
  attachPrograms(maps.object, lab.root);
});
after(async () => {
  maps?.close();
  await lab?.close();
  rmSync(folder, { recursive: true, force: true });
});

function hold(ruleset: string): void {
  maps.reset();
  const entries = [on(6, ALLOWED, ALLOWED, { policy: 0 })];
  maps.row({ ruleset: REJECTING, flags: ROW_ISOLATED, entries });
  maps.row({ ruleset: SILENT, flags: ROW_ISOLATED | ROW_SILENT, entries });
  maps.bind(ruleset);
  maps.bumpEpoch();
}

/** Segments without a connection that reached the outside: it answers each with a reset. */
async function resets(): Promise<number> {
  const { stdout } = await lab.outside.exec('cat', ['/proc/net/snmp']);
  const [names = '', values = ''] = stdout.split('\n').filter((line) => line.startsWith('Tcp:'));
  const at = names.split(' ').indexOf('OutRsts');
  return Number(values.split(' ')[at]);
}

let port = 5000;

/** Each attempt has a port of its own, since what came of the last one may still hold the other. */
async function attempt(trick: string, ...peers: readonly (string | number)[]): Promise<string> {
  port += 1;
  return attemptFrom(port, trick, ...peers);
}

function attemptFrom(own: number, trick: string, ...peers: readonly (string | number)[]): Promise<string> {
  const child = workload.spawn(path.join(folder, 'tricks'), [trick, OWN, `${own}`, ...peers.map(String)]);
  return new Promise((resolve, reject) => {
    let told = '';
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      // Those that listen wait to be called.
      if (told === '' && text.startsWith('ready')) void lab.outside.actor.connect(OWN, own);
      told += text;
    });
    child.on('error', reject);
    child.on('close', () => resolve(told.replace('ready\n', '').trim()));
  });
}

for (const [how, ruleset, stopped] of [
  ['refused', REJECTING, 'EPERM'],
  ['dropped', SILENT, 'timeout'],
] as const) {
  describe(`${how}:`, () => {
    for (const trick of ['listener-connects', 'accepted-connects', 'connected-connects']) {
      test(trick, async () => {
        hold(ruleset);
        assert.equal(await attempt(trick, PEER, REFUSED, PEER, ALLOWED), stopped);
        assert.equal(await attempt(trick, PEER, ALLOWED, PEER, ALLOWED), 'sent', 'only the destination stops it');
      });
    }

    for (const trick of ['repair', 'repair-accepted']) {
      test(trick, async () => {
        hold(ruleset);
        const before = await resets();
        assert.equal(await attempt(trick, PEER, REFUSED), how === 'refused' ? 'EPERM' : 'sent');
        assert.equal(await resets(), before);
        assert.equal(await attempt(trick, PEER, ALLOWED), 'sent');
        assert((await resets()) > before, 'only the destination stops it');
      });
    }

    test('repair, from a port that is listened on', async () => {
      hold(ruleset);
      port += 1;
      await workload.newActor().listen('TCP', OWN, port);
      const before = await resets();
      assert.equal(await attemptFrom(port, 'repair-beside', PEER, REFUSED), how === 'refused' ? 'EPERM' : 'sent');
      assert.equal(await resets(), before);
    });

    for (const trick of ['raw-ack', 'raw-syn-ack']) {
      test(trick, async () => {
        hold(ruleset);
        const before = await resets();
        const outcome = await attempt(trick, PEER, REFUSED);
        assert.equal(outcome, how === 'refused' ? 'EPERM' : 'sent');
        assert.equal(await resets(), before);
        assert.deepEqual(
          maps.counted().map(({ reason }) => reason),
          ['no_rule'],
        );
      });
    }
  });
}

test('threads on one socket: no datagram borrows the verdict of another', async () => {
  hold(REJECTING);
  maps.identity(PEER, { id: id(1), kind: 2 });
  maps.identity(OTHER, { id: id(2), kind: 2 });
  maps.row({ ruleset: REJECTING, subject: id(1), entries: [on(17, ALLOWED, ALLOWED, { policy: 1 })] });
  maps.row({ ruleset: REJECTING, subject: id(2), entries: [on(17, REFUSED, REFUSED, { policy: 2 })] });
  assert.equal(
    await attempt('race', PEER, ALLOWED, OTHER, REFUSED, PEER, REFUSED, OTHER, ALLOWED),
    'all all none none',
  );
});
