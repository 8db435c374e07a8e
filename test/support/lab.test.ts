// SPDX-License-Identifier: Apache-2.0
// Does the lab make traffic that really flows, and does it leave nothing behind?
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { Lab } from './lab.ts';

test('workloads reach the outside and one another in both families, from their own cgroups', async () => {
  const lab = await Lab.create();
  let cgroup = '';
  try {
    await lab.addOutside('198.18.1.1', 'fd00:18:1::1');
    const a = await lab.workload('a', { addresses: ['198.18.2.1', 'fd00:18:2::1'] });
    const b = await lab.workload('b', { addresses: ['198.18.2.2', 'fd00:18:2::2'], cgroup: 'kubepods/burstable/podb' });
    cgroup = a.cgroup ?? '';
    const outside = lab.outside.actor;
    for (const address of ['198.18.1.1', 'fd00:18:1::1']) {
      await outside.listen('TCP', address, 80);
      await outside.listen('UDP', address, 53);
      assert.equal(await a.actor.tryTcp(address, 80), 'ok', address);
      assert.equal(await a.actor.tryUdp(address, 53), 'ok', address);
    }
    assert.equal(await a.actor.tryTcp('198.18.1.1', 81), 'ECONNREFUSED');
    await b.actor.listen('TCP', '198.18.2.2', 8080);
    const connection = await a.actor.connect('198.18.2.2', 8080);
    assert.equal(connection.outcome, 'ok');
    assert.equal(await a.actor.exchange(connection.socket ?? 0), 'ok');
    assert.equal(await b.actor.received(), 1);
    assert.match(readFileSync(`/proc/${b.actor.child.pid}/cgroup`, 'utf8'), /\/kubepods\/burstable\/podb\n/);
    assert.equal(b.cgroupPath, `${lab.name}/kubepods/burstable/podb`);
    const shown = await a.exec('cat', ['/proc/self/cgroup']);
    assert.equal(shown.status, 0);
    assert.match(shown.stdout, new RegExp(`${path.basename(cgroup)}\n`));
  } finally {
    await lab.close();
  }
  assert.equal(existsSync(lab.root), false);
  assert.equal(existsSync(cgroup), false);
  assert.equal(existsSync(lab.outside.netns), false);
});
