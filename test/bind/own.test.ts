// SPDX-License-Identifier: Apache-2.0
// Does a process know its own cgroup, also where a namespace hides it?
import assert from 'node:assert/strict';
import path from 'node:path';
import test from 'node:test';
import { ownCgroup, podFolderAround } from '../../src/bind/own.ts';
import { cgroupMount, Lab } from '../support/lab.ts';

test('the folder of a pod around a path', () => {
  assert.deepEqual(podFolderAround('kubepods/burstable/pod0a-1/c1/init'), {
    path: 'kubepods/burstable/pod0a-1',
    uid: '0a-1',
  });
  assert.deepEqual(podFolderAround('kubepods.slice/kubepods-pod0a_1.slice/cri-1.scope'), {
    path: 'kubepods.slice/kubepods-pod0a_1.slice',
    uid: '0a-1',
  });
  assert.equal(podFolderAround('system.slice/postern.service'), null);
  assert.equal(podFolderAround(''), null);
});

const SCRIPT = `import { ownCgroup } from ${JSON.stringify(path.join(import.meta.dirname, '../../src/bind/own.ts'))};
process.stdout.write(JSON.stringify(ownCgroup(${JSON.stringify(cgroupMount())})));`;

test('its own cgroup, told by the kernel, and found where its own namespaces hide it', async (t) => {
  assert.equal(typeof ownCgroup(cgroupMount()), 'string');
  const lab = await Lab.create();
  t.after(() => lab.close());
  const place = lab.placeIn(lab.outside.netns, lab.cgroup('kubepods/pod0a-1/c1'));
  const node = [process.execPath, '--input-type=module', '-e', SCRIPT];
  const plain = await place.exec(node[0] ?? '', node.slice(1));
  assert.equal(plain.stdout, JSON.stringify(place.cgroupPath), plain.stderr);
  // As a container runtime starts it; the host's mount is at hand, as in the DaemonSet.
  const hidden = await place.exec('unshare', ['--cgroup', '--pid', '--fork', '--mount-proc', ...node]);
  assert.equal(hidden.stdout, JSON.stringify(place.cgroupPath), hidden.stderr);
});
