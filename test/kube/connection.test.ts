// SPDX-License-Identifier: Apache-2.0
// Does one request stay one, whatever its connection does?
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import test from 'node:test';
import { Connection } from '../../src/kube/connection.ts';

test('a kept connection that breaks in the middle of an answer fails that request, and asks for nothing again', async (t) => {
  const asked: string[] = [];
  const server = createServer((request, response) => {
    asked.push(request.url ?? '');
    if (request.url !== '/broken') {
      response.end('{}');
      return;
    }
    response.writeHead(200, { 'content-type': 'application/json' });
    response.write('{"kind":', () => request.socket.resetAndDestroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  const endpoint = { url, tls: {}, headers: {}, proxy: null, generation: 0 };
  const connection = new Connection({
    endpoint: () => Promise.resolve(endpoint),
    refuse: () => undefined,
    namespace: 'default',
    startsProgram: false,
  });
  const orphans: unknown[] = [];
  const onOrphan = (reason: unknown) => orphans.push(reason);
  process.on('unhandledRejection', onOrphan);
  t.after(() => {
    process.off('unhandledRejection', onOrphan);
    connection.close();
    server.close();
    server.closeAllConnections();
  });
  for (let round = 0; round < 20; round += 1) {
    asked.length = 0;
    await connection.request('GET', '/first');
    await assert.rejects(connection.request('GET', '/broken'), { name: 'KubeError', code: 'UNREACHABLE' });
    await connection.request('GET', '/last');
    assert.deepEqual(asked, ['/first', '/broken', '/last']);
  }
  assert.deepEqual(orphans, []);
});
