// SPDX-License-Identifier: Apache-2.0
// Who may ask the agent, and does it outlive whatever is asked?
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test, { type TestContext } from 'node:test';
import { serveSocket } from '../../src/agent/socket.ts';

function scratch(t: TestContext): string {
  const folder = mkdtempSync(path.join(tmpdir(), 'postern-socket-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

async function ask(file: string, request: string): Promise<string> {
  const socket = connect(file);
  let text = '';
  socket.on('data', (data) => {
    text += data;
  });
  socket.end(request);
  await once(socket, 'close');
  return text;
}

test('root alone may open the socket, and look into the folder that is made for it', async (t) => {
  const file = path.join(scratch(t), 'made/agent.sock');
  const socket = await serveSocket(file, { '/policies': () => ({ policies: [] }) });
  try {
    assert.equal(statSync(file).mode & 0o777, 0o600);
    assert.equal(statSync(path.dirname(file)).mode & 0o777, 0o700);
    assert.match(await ask(file, 'GET /policies HTTP/1.0\r\n\r\n'), /^HTTP\/1.1 200 [\s\S]*\{"policies":\[\]\}/);
    for (const [request, answer] of [
      ['GET // HTTP/1.0\r\n\r\n', /^HTTP\/1.1 404 /],
      ['GET /toString HTTP/1.0\r\n\r\n', /^HTTP\/1.1 404 /],
      ['PUT /policies HTTP/1.0\r\n\r\n', /^HTTP\/1.1 405 /],
      [`GET /${'a'.repeat(20_000)} HTTP/1.0\r\n\r\n`, /^HTTP\/1.1 431 /],
    ] as const) {
      assert.match(await ask(file, request), answer);
    }
  } finally {
    await socket.close();
  }
});

test('where others could put a socket of theirs, none is made', async (t) => {
  const base = scratch(t);
  const folders: [string, number, number][] = [
    ['all', 0o777, 0],
    ['group', 0o775, 0],
    ['theirs', 0o755, 65534],
  ];
  for (const [name, mode, owner] of folders) {
    const folder = path.join(base, name);
    mkdirSync(folder);
    chmodSync(folder, mode);
    chownSync(folder, owner, owner);
    await assert.rejects(serveSocket(path.join(folder, 'agent.sock'), {}), { code: 'UNSAFE_FOLDER' }, name);
  }
  // As /tmp is: nobody takes away what is another's.
  const sticky = path.join(base, 'sticky');
  mkdirSync(sticky);
  chmodSync(sticky, 0o1777);
  await (await serveSocket(path.join(sticky, 'agent.sock'), {})).close();
});

test('what is there is replaced only if it is a socket that nobody answers on', async (t) => {
  const base = scratch(t);
  const file = path.join(base, 'agent.sock');
  const first = await serveSocket(file, {});
  try {
    await assert.rejects(serveSocket(file, {}), { code: 'IN_USE' });
  } finally {
    await first.close();
  }
  writeFileSync(file, '');
  await assert.rejects(serveSocket(file, {}), { code: 'NOT_A_SOCKET' });
});
