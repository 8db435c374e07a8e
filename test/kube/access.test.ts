// SPDX-License-Identifier: Apache-2.0
// Credentials and certificates come and go; whoever asks is known all the same, or told why not.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net, { type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import test, { type TestContext } from 'node:test';
import { loadAccess } from '../../src/kube/access.ts';
import { askedFor, Connection } from '../../src/kube/connection.ts';
import { AnswerError, ForbiddenError, KubeError } from '../../src/kube/errors.ts';
import { type ApiServer, startApiServer, type User } from '../support/apiserver/server.ts';
import { json, scripted, silence, status } from './scripted.ts';

const NODE: User = { name: 'postern', groups: ['system:masters', 'system:authenticated'] };
const PODS = '/api/v1/pods';

function folder(t: TestContext): string {
  const made = mkdtempSync(path.join(tmpdir(), `postern-access-${process.pid}-`));
  t.after(() => rmSync(made, { recursive: true, force: true }));
  return made;
}

async function secured(t: TestContext): Promise<ApiServer> {
  const server = await startApiServer({ tls: true });
  t.after(() => server.stop());
  return server;
}

async function connect(t: TestContext, kubeconfig: string, context: string | null = null): Promise<Connection> {
  const connection = new Connection(await loadAccess({ kubeconfig, context }));
  t.after(() => connection.close());
  return connection;
}

type Config = {
  clusters: { cluster: Record<string, unknown> }[];
  users: { user: Record<string, unknown> }[];
  contexts: { context: Record<string, unknown> }[];
};

/** A kubeconfig that differs. */
function changed(t: TestContext, file: string, change: (config: Config) => void): string {
  const config = JSON.parse(readFileSync(file, 'utf8')) as Config;
  change(config);
  const made = path.join(folder(t), 'config');
  writeFileSync(made, JSON.stringify(config));
  return made;
}

for (const auth of ['token', 'tokenFile', 'certificate'] as const) {
  test(`whoever has a ${auth} is known`, async (t) => {
    const server = await secured(t);
    const connection = await connect(t, server.writeKubeconfig({ user: NODE, auth }));
    for (let i = 0; i < 10; i++) assert.equal((await connection.request('GET', PODS)).status, 200);
    assert.deepEqual([...new Set(server.log.map(({ user }) => user))], ['postern']);
  });
}

test('a token that was rotated in its file is read anew when the old one is refused', async (t) => {
  const server = await secured(t);
  const kubeconfig = server.writeKubeconfig({ user: NODE, auth: 'tokenFile' });
  const connection = await connect(t, kubeconfig);
  await connection.request('GET', PODS);
  const { users } = JSON.parse(readFileSync(kubeconfig, 'utf8')) as Config;
  const file = String(users[0]?.user.tokenFile);
  server.revokeToken(readFileSync(file, 'utf8'));
  writeFileSync(file, server.issueToken(NODE));
  await connection.request('GET', PODS);
  assert.deepEqual(
    server.log.map(({ code }) => code).filter((code) => code !== 401),
    [200, 200],
  );
});

test('a kubeconfig that was rewritten is read anew', async (t) => {
  const server = await secured(t);
  const kubeconfig = server.writeKubeconfig({ user: NODE });
  const connection = await connect(t, kubeconfig);
  await connection.request('GET', PODS);
  server.writeKubeconfig({ user: { ...NODE, name: 'another' }, file: kubeconfig });
  await connection.request('GET', PODS);
  assert.deepEqual(
    server.log.map(({ user }) => user),
    ['postern', 'another'],
  );
});

test('a client certificate that was rotated is shown from then on, and the connection of the old one ends', async (t) => {
  const server = await secured(t);
  const kubeconfig = server.writeKubeconfig({ user: NODE, auth: 'certificate' });
  const connection = await connect(t, kubeconfig);
  const watch = await connection.open('GET', PODS, { query: { watch: true } });
  const ended = new Promise<void>((resolve) => {
    watch.once('error', () => resolve());
    watch.once('close', () => resolve());
  });
  watch.resume();
  const { users } = JSON.parse(readFileSync(kubeconfig, 'utf8')) as Config;
  const next = server.issueCertificate({ ...NODE, name: 'rotated' });
  writeFileSync(String(users[0]?.user['client-certificate']), next.certificate);
  writeFileSync(String(users[0]?.user['client-key']), next.key);
  await connection.request('GET', PODS);
  await ended;
  assert.deepEqual(
    server.log.map(({ user }) => user),
    ['postern', 'rotated'],
  );
});

test("the server's certificate may be rotated", async (t) => {
  const server = await secured(t);
  const connection = await connect(t, server.kubeconfig);
  await connection.request('GET', PODS);
  server.rotateServerCertificate();
  await server.refuse();
  await server.listen();
  assert.equal((await connection.request('GET', PODS)).status, 200);
});

test("in a pod, the pod's account is read where kubelet mounts it, and again when its token was rotated", async (t) => {
  const server = await secured(t);
  const { root, rotate } = server.mountServiceAccount('postern-system', 'postern');
  const account = 'var/run/secrets/kubernetes.io/serviceaccount';
  // In a mount namespace of its own: /run is this test's there, and nobody else's.
  const script = `mount -t tmpfs none /run && mkdir -p /${account} && mount --bind "$1" /${account} && exec "$2" "$3"`;
  const program = path.join(import.meta.dirname, 'in-cluster.ts');
  const child = spawn(
    'unshare',
    ['--mount', 'sh', '-c', script, 'sh', path.join(root, account), process.execPath, program],
    {
      env: {
        PATH: process.env.PATH,
        KUBERNETES_SERVICE_HOST: '127.0.0.1',
        KUBERNETES_SERVICE_PORT: new URL(server.url).port,
      },
      stdio: ['pipe', 'pipe', 'inherit'],
    },
  );
  t.after(() => child.kill('SIGKILL'));
  const said = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const expected = 'system:serviceaccount:postern-system:postern in postern-system';
  child.stdin.write('\n');
  assert.equal((await said.next()).value, expected);
  rotate();
  child.stdin.write('\n');
  assert.equal((await said.next()).value, expected);
  assert.ok(server.log.some(({ code }) => code === 401));
  const ended = once(child, 'exit');
  child.stdin.end();
  assert.deepEqual(await ended, [0, null]);
});

test('an exec plug-in runs once for all who ask at once, and again when its token is refused', async (t) => {
  const server = await secured(t);
  const dir = folder(t);
  const runs = path.join(dir, 'runs');
  const token = path.join(dir, 'token');
  const plugin = path.join(dir, 'plugin');
  writeFileSync(runs, '');
  writeFileSync(token, server.issueToken(NODE));
  writeFileSync(
    plugin,
    `#!/bin/sh\nprintf '%s\\n' "$KUBERNETES_EXEC_INFO" >>${runs}\nprintf '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"%s"}}' "$(cat ${token})"\n`,
  );
  chmodSync(plugin, 0o755);
  const kubeconfig = changed(t, server.kubeconfig, ({ users }) => {
    for (const one of users)
      one.user = { exec: { apiVersion: 'client.authentication.k8s.io/v1', command: plugin, provideClusterInfo: true } };
  });
  const connection = await connect(t, kubeconfig);
  const count = () => readFileSync(runs, 'utf8').split('\n').length - 1;
  await Promise.all(Array.from({ length: 8 }, () => connection.request('GET', PODS)));
  assert.equal(count(), 1);
  const { kind, spec } = JSON.parse(readFileSync(runs, 'utf8')) as {
    kind: string;
    spec: { interactive: boolean; cluster: { server: string } };
  };
  assert.deepEqual([kind, spec.interactive, spec.cluster.server], ['ExecCredential', false, server.url]);
  server.revokeToken(readFileSync(token, 'utf8'));
  writeFileSync(token, server.issueToken(NODE));
  await Promise.all(Array.from({ length: 8 }, () => connection.request('GET', PODS)));
  assert.equal(count(), 2);
});

test('a plug-in that fails is told', async (t) => {
  const server = await secured(t);
  const kubeconfig = changed(t, server.kubeconfig, ({ users }) => {
    for (const one of users) one.user = { exec: { command: 'sh', args: ['-c', 'echo no such account >&2; exit 3'] } };
  });
  const connection = await connect(t, kubeconfig);
  await assert.rejects(connection.request('GET', PODS), (error: KubeError) => {
    assert.equal(error.code, 'CREDENTIALS');
    assert.match(error.message, /^no credentials for the API server: the plug-in sh: no such account$/);
    return true;
  });
});

test('a server that is not whom the kubeconfig means is not spoken to', async (t) => {
  const [server, other] = [await secured(t), await secured(t)];
  const kubeconfig = changed(t, server.kubeconfig, ({ clusters }) => {
    for (const { cluster } of clusters)
      cluster['certificate-authority-data'] = Buffer.from(other.ca ?? '').toString('base64');
  });
  const connection = await connect(t, kubeconfig);
  await assert.rejects(connection.request('GET', PODS), { code: 'UNTRUSTED' });
  assert.equal(server.log.length, 0);
  const named = changed(t, server.kubeconfig, ({ clusters }) => {
    for (const { cluster } of clusters) cluster['tls-server-name'] = 'elsewhere.example';
  });
  await assert.rejects((await connect(t, named)).request('GET', PODS), { code: 'UNTRUSTED' });
  const right = changed(t, server.kubeconfig, ({ clusters }) => {
    for (const { cluster } of clusters) cluster['tls-server-name'] = 'kubernetes.default.svc';
  });
  assert.equal((await (await connect(t, right)).request('GET', PODS)).status, 200);
});

test('a proxy of the kubeconfig, or of the environment, is asked to connect', async (t) => {
  const server = await secured(t);
  const tunnels: string[] = [];
  const proxy = http.createServer().on('connect', (request, socket: net.Socket) => {
    tunnels.push(request.url ?? '');
    const [host = '', port] = (request.url ?? '').split(':');
    const onward = net.connect(Number(port), host, () => {
      socket.write('HTTP/1.1 200 Connection established\r\n\r\n');
      onward.pipe(socket).pipe(onward);
    });
    onward.on('error', () => socket.destroy());
    socket.on('error', () => onward.destroy());
    t.after(() => onward.destroy());
  });
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    proxy.closeAllConnections();
    proxy.close();
  });
  const address = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
  const kubeconfig = changed(t, server.kubeconfig, ({ clusters }) => {
    for (const { cluster } of clusters) cluster['proxy-url'] = address;
  });
  assert.equal((await (await connect(t, kubeconfig)).request('GET', PODS)).status, 200);
  const { host } = new URL(server.url);
  assert.deepEqual(tunnels, [host]);
  const { HTTPS_PROXY, NO_PROXY } = process.env;
  t.after(() => Object.assign(process.env, { HTTPS_PROXY: HTTPS_PROXY ?? '', NO_PROXY: NO_PROXY ?? '' }));
  Object.assign(process.env, { HTTPS_PROXY: address, NO_PROXY: '' });
  assert.equal((await (await connect(t, server.kubeconfig)).request('GET', PODS)).status, 200);
  assert.deepEqual(tunnels, [host, host]);
});

for (const [what, break_, expected] of [
  ['is not there', () => '/nowhere/config', /cannot be read/],
  ['has no such context', (file: string) => file, /no context "staging"; it has test/],
] as const) {
  test(`a kubeconfig that ${what} is refused at once`, async (t) => {
    const server = await secured(t);
    const kubeconfig = break_(server.kubeconfig);
    await assert.rejects(loadAccess({ kubeconfig, context: 'staging' }), (error: KubeError) => {
      assert.equal(error.code, 'CONFIG');
      assert.match(error.message, expected);
      return true;
    });
  });
}

test('without any kubeconfig, nobody is asked: what listens on this machine is no API server', async (t) => {
  const names = ['HOME', 'KUBECONFIG', 'KUBERNETES_SERVICE_HOST'];
  const before = names.map((name) => [name, process.env[name]] as const);
  t.after(() => {
    for (const [name, value] of before) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  });
  for (const name of names) delete process.env[name];
  process.env.HOME = folder(t);
  const expected = `there is no kubeconfig: --kubeconfig and $KUBECONFIG are not set, this is no pod with a service account, and ${process.env.HOME}/.kube/config cannot be read`;
  await assert.rejects(loadAccess({ kubeconfig: null, context: null }), { code: 'CONFIG', message: expected });
  // One that is there and broken is told as that.
  mkdirSync(path.join(process.env.HOME, '.kube'));
  writeFileSync(path.join(process.env.HOME, '.kube/config'), 'a: [b\n');
  await assert.rejects(loadAccess({ kubeconfig: null, context: null }), {
    code: 'CONFIG',
    message: /^the kubeconfig cannot be read: [^\n]+$/,
  });
  writeFileSync(path.join(process.env.HOME, '.kube/config'), '{"kind": "Config"}');
  await assert.rejects(loadAccess({ kubeconfig: null, context: null }), {
    message: 'the kubeconfig names no current-context; it has none',
  });
});

test('each refusal is an error of its own', async () => {
  const table = [
    [400, 'BadRequest', 'REFUSED'],
    [403, 'Forbidden', 'FORBIDDEN'],
    [404, 'NotFound', 'NOT_FOUND'],
    [409, 'Conflict', 'CONFLICT'],
    [410, 'Expired', 'GONE'],
    [422, 'Invalid', 'REFUSED'],
    [429, 'TooManyRequests', 'TOO_MANY_REQUESTS'],
    [500, 'InternalError', 'SERVER_ERROR'],
    [503, 'ServiceUnavailable', 'SERVER_ERROR'],
  ] as const;
  using server = await scripted(
    table.map(([code, reason]) => status(code, reason, 'the message', { 'Retry-After': '7' })),
  );
  const connection = new Connection(server.access);
  for (const [code, reason, expected] of table) {
    const path = '/apis/postern.dev/v1alpha1/namespaces/shop/egresspolicies/web/status';
    await assert.rejects(connection.request('PATCH', path, { body: {} }), (error: AnswerError) => {
      const { status, message, retryAfterMs } = error;
      assert.deepEqual(
        { code: error.code, status, reason: error.reason, message, retryAfterMs },
        { code: expected, status: code, reason, message: 'the message', retryAfterMs: 7000 },
      );
      if (error instanceof ForbiddenError) {
        assert.deepEqual([error.verb, error.resource], ['patch', 'egresspolicies.postern.dev/status']);
      }
      return true;
    });
  }
  connection.close();
});

test('what is no answer of the API, or none at all, is told as that', async () => {
  using server = await scripted([
    json('<html>a login page</html>'),
    (response) => response.writeHead(502).end('<html>bad gateway</html>'),
    silence,
  ]);
  const connection = new Connection(server.access);
  const answer = await connection.request('GET', PODS);
  await assert.rejects(answer.json(), { code: 'BAD_ANSWER' });
  await assert.rejects(connection.request('GET', PODS), { code: 'SERVER_ERROR', message: /502.*bad gateway/ });
  await assert.rejects(connection.request('GET', PODS, { timeoutMs: 50 }), { code: 'UNREACHABLE' });
  const abort = new AbortController();
  const asked = connection.request('GET', PODS, { signal: abort.signal });
  setTimeout(() => abort.abort(new Error('no longer needed')), 20);
  await assert.rejects(asked, { message: 'no longer needed' });
  connection.close();
  await assert.rejects(
    connection.request('GET', PODS),
    (error) => error instanceof KubeError && !(error instanceof AnswerError),
  );
});

test('verb and resource are those of RBAC', () => {
  const table = [
    ['GET', '/api/v1/pods', {}, 'list pods'],
    ['GET', '/api/v1/pods', { watch: true }, 'watch pods'],
    ['GET', '/api/v1/namespaces/shop/pods/web', {}, 'get pods'],
    ['GET', '/api/v1/namespaces/shop', {}, 'get namespaces'],
    ['PUT', '/api/v1/namespaces/shop/status', {}, 'update namespaces/status'],
    ['POST', '/apis/events.k8s.io/v1/namespaces/shop/events', {}, 'create events.events.k8s.io'],
    [
      'PATCH',
      '/apis/postern.dev/v1alpha1/clusteregresspolicies/a/status',
      {},
      'patch clusteregresspolicies.postern.dev/status',
    ],
  ] as const;
  for (const [method, path, query, expected] of table) {
    const { verb, resource } = askedFor(method, path, query);
    assert.equal(`${verb} ${resource}`, expected);
  }
});
