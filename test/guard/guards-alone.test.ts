// SPDX-License-Identifier: Apache-2.0
// Guards without an agent: when is a pod looked at again though nobody says that there is a reason, and what is told of a guard that is
// gone? Real namespaces, a folder that stands for the pod's cgroup; the round of checks, which would be a reason, is kept from coming.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, mock, test } from 'node:test';
import { type GuardNews, Guards } from '../../src/guard/guards.ts';
import type { Guard } from '../../src/kernel/guards.ts';
import { type Interface, loadNative } from '../../src/kernel/native.ts';

let folder: string;
let inside: ChildProcess;
let guards: Guards;
let news: GuardNews[];
/** What stands at interfaces. */
let held: Map<number, Guard>;
let isInPlace: boolean;
/** What the host has, asked again and again; the last stays. Empty: what there really is. */
let host: (readonly Interface[])[];

beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), `postern-${process.pid}-`));
  inside = spawn('unshare', ['--net', 'sleep', '1000']);
  const own = readlinkSync('/proc/self/ns/net');
  await until(() => readlinkSync(`/proc/${inside.pid}/ns/net`) !== own, 'it has a namespace of its own');
  mock.timers.enable({ apis: ['setInterval'] });
  news = [];
  held = new Map();
  host = [];
  const native = loadNative();
  guards = new Guards({
    native: {
      ...native,
      interfaces: (nsid) => {
        const [first] = nsid === null ? host : [];
        if (host.length > 1) host.shift();
        return nsid === null && first !== undefined ? [...first] : native.interfaces(nsid);
      },
    },
    isReady: Promise.resolve(),
    posts: {
      ...{ mode: null, posts: () => new Map(), isFirst: () => true },
      get held() {
        return held;
      },
      isInPlace: () => isInPlace,
      attach: () => Promise.reject(new Error('there is nothing to guard')),
      update: () => undefined,
      detach: (ifindex) => {
        held.delete(ifindex);
        return Promise.resolve();
      },
    },
    setGuarded: () => undefined,
    guarded: new Map(),
    onNews: (one) => news.push(one),
    onGuarded: () => undefined,
  });
});
afterEach(async () => {
  await guards?.close();
  mock.timers.reset();
  mock.restoreAll();
  inside.kill('SIGKILL');
  rmSync(folder, { recursive: true });
});

/** Looks again until it holds; a minute is far longer than anything takes. */
async function until(holds: () => boolean, what: string): Promise<void> {
  for (let turn = 0; turn < 6000; turn += 1) {
    if (holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.fail(what);
}

const situation = () => guards.status()[0]?.situation;

function hold(pid: number | undefined): void {
  writeFileSync(path.join(folder, 'cgroup.procs'), `${pid}\n`);
  guards.hold([{ name: 'shop/web', folder, cgroup: 1n, addresses: [], isHeld: true }]);
}

test('a process that is still in the host’s network is on its way into its own, and that is not told', async () => {
  mock.method(performance, 'now', () => 1_000_000);
  hold(process.pid);
  await until(() => situation() === 'host_network', 'it is seen before it moves');
  hold(inside.pid);
  await until(() => situation() === 'no_interface', 'it is seen when it has moved');
  assert.deepEqual(
    news.filter((one) => one.event === 'unguarded' && one.why === 'host_network'),
    [],
  );
});

test('one that stays there belongs there', async () => {
  let now = 1_000_000;
  mock.method(performance, 'now', () => now);
  hold(process.pid);
  await until(() => situation() === 'host_network', 'it is seen');
  now += 1001;
  await until(() => news.length > 0, 'it is told');
  assert.deepEqual(news, [{ event: 'unguarded', why: 'host_network', workloads: ['shop/web'] }]);
});

const LINK = 1_000_001;
const veth: Interface = {
  ...{ ifindex: LINK, name: 'w1', kind: 'veth', hardware: 1, link: 2, linkNsid: null },
  mac: Buffer.from('020000000001', 'hex'),
};

for (const [what, later, expected] of [
  ['a guard that somebody took away is told', [veth], ['guard_lost']],
  ['one that went with its interface, just after the look, is not', [], []],
] as const) {
  test(what, async () => {
    held.set(LINK, { ifindex: LINK, mac: '020000000001', cgroup: 1n, netns: 1n, nsid: -1, sources: [] });
    isInPlace = false;
    host = [[veth], later];
    hold(inside.pid);
    await until(() => !held.has(LINK), 'it is given up');
    assert.deepEqual(
      news.map(({ event }) => event).filter((event) => event === 'guard_lost'),
      expected,
    );
  });
}
