// SPDX-License-Identifier: Apache-2.0
// Is the socket of a cut flow ended in the namespace that the event names, wherever in the workload's cgroup its process is?
import assert from 'node:assert/strict';
import path from 'node:path';
import test from 'node:test';
import { FlowCutter, processesIn } from '../../src/agent/cut.ts';
import { loadNative } from '../../src/kernel/native.ts';
import { Lab } from '../support/lab.ts';

const mapped = (address: string) => Buffer.from([...Array(10).fill(0), 255, 255, ...address.split('.').map(Number)]);

test('a real connection ends at once, also of a process in a cgroup below', async (t) => {
  const lab = await Lab.create();
  t.after(() => lab.close());
  await lab.addOutside('198.18.1.1');
  await lab.outside.actor.listen('TCP', '198.18.1.1', 80);
  const web = await lab.workload('web', { addresses: ['198.18.2.1'], cgroup: 'pod/container' });
  const socket = (await web.actor.connect('198.18.1.1', 80)).socket ?? 0;
  assert.equal(await web.actor.exchange(socket), 'ok');
  const pod = path.dirname(web.cgroup ?? '');
  assert.deepEqual(processesIn(pod), [web.actor.child.pid]);

  const shown = await web.exec('sh', ['-c', 'cat /proc/net/tcp']);
  const local =
    /0102120[0-9A-F]*:([0-9A-F]{4}) 010112C6:0050 01/.exec(shown.stdout) ??
    /:([0-9A-F]{4}) 010112C6:0050 01/.exec(shown.stdout);
  const native = loadNative();
  const flow = {
    netnsCookie: native.netnsCookie(web.netns),
    socketCookie: 0n,
    local: mapped('198.18.2.1'),
    localPort: Number.parseInt(local?.[1] ?? '0', 16),
    remote: mapped('198.18.1.1'),
    remotePort: 80,
  };
  const cutter = new FlowCutter(native);
  assert.equal(cutter.cut({ ...flow, netnsCookie: 1n }, pod), false, 'no process is in that namespace');
  assert.equal(cutter.cut({ ...flow, remotePort: 81 }, pod), false, 'no such socket');
  assert.equal(cutter.cut(flow, pod), true);
  assert.equal(await web.actor.ended(socket, 10_000), 'ECONNABORTED');
  assert.deepEqual(processesIn(path.join(lab.root, 'nowhere')), []);
});
