// SPDX-License-Identifier: Apache-2.0
// Who may do what: tokens, client certificates, RBAC, and denials on top.
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { suite, test } from 'node:test';
import { connect } from 'node:tls';
import { textAt } from './json.ts';
import { ask, get } from './raw-client.ts';
import { type ApiServer, type Options, serviceAccount, startApiServer } from './server.ts';

async function withServer(options: Options, run: (server: ApiServer) => Promise<void>): Promise<void> {
  await using server = await startApiServer(options);
  await run(server);
}

const RBAC = { apiVersion: 'rbac.authorization.k8s.io/v1' };
const role = (name: string, rules: object[]) => ({ ...RBAC, kind: 'ClusterRole', metadata: { name }, rules });
const binding = (name: string, kind: string, roleName: string, metadata: object = {}) => ({
  ...RBAC,
  kind,
  metadata: { name, ...metadata },
  roleRef: { kind: 'ClusterRole', name: roleName, apiGroup: 'rbac.authorization.k8s.io' },
  subjects: [{ kind: 'ServiceAccount', name: 'agent', namespace: 'postern' }],
});

suite('who asks', () => {
  test('over TLS: a token, a client certificate, or nobody', () =>
    withServer({ tls: true }, async (server) => {
      const where = '/api/v1/pods';
      assert.equal((await get(server, where)).code, 200);
      assert.equal((await get(server, where, { token: null })).code, 401);
      const wrong = await get(server, where, { token: 'wrong' });
      assert.deepEqual([wrong.code, wrong.json.message], [401, 'Unauthorized']);
      const { certificate: cert, key } = server.issueCertificate({ name: 'node', groups: ['system:masters'] });
      assert.equal((await get(server, where, { token: null, cert, key })).code, 200);
      assert.equal(server.log.at(-1)?.user, 'node');
      const plain = server.issueCertificate({ name: 'guest', groups: [] });
      const refused = await get(server, where, { token: null, cert: plain.certificate, key: plain.key });
      assert.equal(refused.code, 403);
      assert.equal((await get(server, '/healthz', { token: null })).text, 'ok');
    }));

  test('the server changes its certificate under way', () =>
    withServer({ tls: true }, async (server) => {
      const serial = () =>
        new Promise<string>((resolve, reject) => {
          const socket = connect(
            { port: Number(new URL(server.url).port), host: '127.0.0.1', ca: server.ca ?? '' },
            () => {
              resolve(new X509Certificate(socket.getPeerCertificate().raw).serialNumber);
              socket.destroy();
            },
          ).on('error', reject);
        });
      const before = await serial();
      server.rotateServerCertificate();
      assert.notEqual(await serial(), before);
    }));

  test('a mounted token is rotated, and the one before is worth nothing', () =>
    withServer({ tls: true }, async (server) => {
      const { root, rotate } = server.mountServiceAccount('postern', 'agent');
      const folder = path.join(root, 'var/run/secrets/kubernetes.io/serviceaccount');
      const token = () => readFileSync(path.join(folder, 'token'), 'utf8');
      const before = token();
      assert.equal((await get(server, '/api', { token: before })).code, 200);
      assert.equal(server.log.at(-1)?.user, 'system:serviceaccount:postern:agent');
      rotate();
      assert.equal((await get(server, '/api', { token: before })).code, 401);
      assert.equal((await get(server, '/api', { token: token() })).code, 200);
    }));
});

suite('may they', () => {
  test('RBAC decides from the objects stored', () =>
    withServer(
      {
        objects: [
          role('reader', [
            { apiGroups: [''], resources: ['pods', 'pods/status'], verbs: ['get', 'list', 'watch'] },
            { apiGroups: ['coordination.k8s.io'], resources: ['leases'], resourceNames: ['mine'], verbs: ['*'] },
          ]),
          binding('all', 'ClusterRoleBinding', 'reader'),
          role('writer', [{ apiGroups: [''], resources: ['configmaps'], verbs: ['create'] }]),
          binding('some', 'RoleBinding', 'writer', { namespace: 'kube-system' }),
        ],
      },
      async (server) => {
        const token = server.issueToken(serviceAccount('postern', 'agent'));
        const configMap = { body: { metadata: { name: 'x' } }, token };
        const rows: readonly [method: string, where: string, code: number][] = [
          ['GET', '/api/v1/pods', 200],
          ['GET', '/api/v1/namespaces/default/pods/x', 404],
          ['DELETE', '/api/v1/namespaces/default/pods/x', 403],
          ['GET', '/api/v1/nodes', 403],
          ['GET', '/apis/coordination.k8s.io/v1/namespaces/default/leases/mine', 404],
          ['GET', '/apis/coordination.k8s.io/v1/namespaces/default/leases/other', 403],
          ['GET', '/apis/coordination.k8s.io/v1/leases', 403],
          ['POST', '/api/v1/namespaces/kube-system/configmaps', 201],
          ['POST', '/api/v1/namespaces/default/configmaps', 403],
          ['GET', '/apis', 200],
          ['GET', '/metrics', 403],
        ];
        for (const [method, where, code] of rows) {
          const answer = await ask(server, method, where, method === 'POST' ? configMap : { token });
          assert.equal(answer.code, code, `${method} ${where}: ${answer.text}`);
        }
        const { json } = await get(server, '/api/v1/nodes', { token });
        assert.equal(
          json.message,
          'nodes is forbidden: User "system:serviceaccount:postern:agent" cannot list resource "nodes" in API group "" at the cluster scope',
        );
        assert.deepEqual(json.details, { kind: 'nodes' });
        const review = await ask(server, 'POST', '/apis/authorization.k8s.io/v1/selfsubjectaccessreviews', {
          body: { spec: { resourceAttributes: { verb: 'watch', resource: 'pods' } } },
          token,
        });
        assert.deepEqual(review.json.status, { allowed: true });
      },
    ));

  test('a denial by verb and resource, the administrator included', () =>
    withServer({}, async (server) => {
      const allow = server.deny({ verbs: ['list', 'watch'], resource: 'pods' });
      const { code, json } = await get(server, '/api/v1/namespaces/default/pods');
      assert.equal(code, 403);
      assert.match(textAt(json, 'message'), /cannot list resource "pods" in API group "" in the namespace "default"/);
      assert.equal((await get(server, '/api/v1/nodes')).code, 200);
      allow();
      assert.equal((await get(server, '/api/v1/pods')).code, 200);
    }));
});
