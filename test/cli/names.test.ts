// SPDX-License-Identifier: Apache-2.0
// Does `postern names` print what an agent says of names, and what it says where nobody answers?
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test from 'node:test';
import { serveSocket } from '../../src/agent/socket.ts';
import { KernelError } from '../../src/kernel/native.ts';

const POSTERN = path.join(import.meta.dirname, '../../bin/postern');

function names(...args: readonly string[]): Promise<{ status: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(POSTERN, ['names', ...args], (error, stdout, stderr) => {
      resolve({ status: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

const KNOWN = [
  { workload: 'shop/web', name: 'b.example.com', address: '198.18.0.2', expiresInSeconds: 60 },
  { workload: 'shop/web', name: 'a.example.com', address: '2001:db8::1', expiresInSeconds: -3 },
  { workload: 'node/kubelet.service', name: 'images.example.com', address: '198.18.0.3', expiresInSeconds: 0 },
];

test('names by workload, as the agent tells them', async (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), `postern-names-${process.pid}-`));
  t.after(() => rmSync(folder, { recursive: true }));
  const socket = path.join(folder, 'agent.sock');
  let answer: () => unknown = () => ({ ready: true, names: KNOWN });
  const server = await serveSocket(socket, { '/names': () => answer() });
  try {
    const all = await names('--socket', socket);
    assert.deepEqual([all.status, all.stderr], [0, '']);
    assert.equal(
      all.stdout,
      [
        'WORKLOAD              NAME                ADDRESS      EXPIRES',
        'node/kubelet.service  images.example.com  198.18.0.3   0s',
        'shop/web              a.example.com       2001:db8::1  expired',
        'shop/web              b.example.com       198.18.0.2   60s',
        '',
      ].join('\n'),
    );
    const json = await names('--socket', socket, '--workload', 'shop/web', '-o', 'json');
    assert.deepEqual(JSON.parse(json.stdout), { names: [KNOWN[1], KNOWN[0]] });
    const none = await names('--socket', socket, '--workload', 'shop/other');
    assert.deepEqual([none.status, none.stdout, none.stderr], [0, '', 'No names found.\n']);
    answer = () => {
      throw new KernelError('dump learned: ENOMEM', 'ENOMEM', 'dump');
    };
    const failed = await names('--socket', socket);
    assert.equal(failed.status, 1);
    assert.match(failed.stderr, /500.*ENOMEM/);
  } finally {
    await server.close();
  }
  const gone = await names('--socket', socket);
  assert.equal(gone.status, 1);
  assert.match(gone.stderr, /no agent is running/);
});
