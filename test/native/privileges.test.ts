// SPDX-License-Identifier: Apache-2.0
// Is what is given up gone, for every thread, and does what is left still work?
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test from 'node:test';

const ROOT = path.join(import.meta.dirname, '../..');

/** Each fails with this error once the filter is there, and with another, or not at all, before. */
const REFUSED: Readonly<Record<string, readonly string[]>> = {
  EPERM: [
    ...['bpf PROG_LOAD', 'bpf MAP_CREATE', 'bpf BTF_LOAD', 'bpf PROG_TEST_RUN', 'bpf PROG_ATTACH'],
    ...['socket AF_PACKET', 'socket AF_ALG', 'setns mount', 'setns any', 'unshare', 'clone process', 'clone namespace'],
    ...['execve', 'ptrace', 'process_vm_readv', 'mount', 'umount2', 'chroot', 'init_module', 'perf_event_open'],
    ...['mknodat', 'kill another', 'tgkill another'],
  ],
  ENOSYS: ['io_uring_setup', 'clone3'],
};
/** The same answer as before. */
const LEFT = ['bpf MAP_LOOKUP_ELEM', 'bpf LINK_CREATE', 'socket AF_NETLINK', 'setns net'];

interface Told {
  readonly before: Readonly<Record<string, string>>;
  readonly after: Readonly<Record<string, string>>;
  readonly permitted: string;
  readonly threads: readonly Readonly<Record<string, string>>[];
  readonly spawned: string;
  readonly worker: number;
}

function confined(
  t: test.TestContext,
  capabilities: string,
  prefix: readonly string[],
  flags: readonly string[],
): Told {
  const folder = mkdtempSync(path.join(tmpdir(), `postern-attempts-${process.pid}-`));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const addon = path.join(folder, 'attempts.node');
  const source = path.join(import.meta.dirname, 'attempts.cc');
  const headers = path.join(ROOT, 'node_modules/node-api-headers/include');
  execFileSync('g++', ['-std=c++17', '-Wall', '-Werror', '-fPIC', '-shared', '-isystem', headers, '-o', addon, source]);
  const script = path.join(import.meta.dirname, 'confined.ts');
  const attempts = [...Object.values(REFUSED).flat(), ...LEFT];
  const command = [...prefix, process.execPath, ...flags, script, addon, capabilities, ...attempts];
  return JSON.parse(execFileSync(command[0] ?? '', command.slice(1), { encoding: 'utf8' })) as Told;
}

test('system calls that an agent has no use for fail, in every thread; the others go on', (t) => {
  const { before, after, permitted, threads, spawned, worker } = confined(t, '1000', [], ['--disable-sigusr1']);
  for (const [error, attempts] of Object.entries(REFUSED)) {
    for (const attempt of attempts) {
      assert.notEqual(before[attempt], error, `${attempt}, before`);
      assert.equal(after[attempt], error, attempt);
    }
  }
  for (const attempt of LEFT) assert.equal(after[attempt], before[attempt], attempt);
  assert.equal(spawned, 'EPERM');
  assert.equal(worker, 42);

  assert.equal(permitted, '1000');
  assert.ok(threads.length >= 6, 'those of V8 and of libuv, too');
  for (const status of threads) {
    const { CapPrm, CapEff, CapInh, CapAmb, CapBnd, NoNewPrivs, Seccomp } = status;
    const sets = [CapPrm, CapEff, CapInh, CapAmb, CapBnd];
    const [one, none] = ['0000000000001000', '0000000000000000'];
    assert.deepEqual(sets, [one, one, none, none, one], JSON.stringify(status));
    assert.deepEqual([NoNewPrivs, Seccomp], ['1', '2']);
  }
});

test('nothing is gained that was not held; without CAP_SETPCAP the bounding set stays', (t) => {
  // CAP_NET_ADMIN and CAP_SYS_ADMIN are asked for, and the first is all that there is.
  const { permitted, threads } = confined(
    t,
    '201000',
    ['setpriv', '--bounding-set=-all,+net_admin,+net_raw', '--inh-caps=-all'],
    ['--disable-sigusr1'],
  );
  assert.equal(permitted, '1000');
  for (const { CapPrm, CapBnd } of threads) {
    assert.deepEqual([CapPrm, CapBnd], ['0000000000001000', '0000000000003000']);
  }
});

test('a thread that cannot be asked is told, and nothing is said to be given up', (t) => {
  // Node's, which waits for SIGUSR1.
  assert.throws(() => confined(t, '1000', [], []), /thread \d+ \(SignalInspector\) takes no signals/);
});
