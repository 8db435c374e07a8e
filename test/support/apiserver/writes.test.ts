// SPDX-License-Identifier: Apache-2.0
// What is written: versions, conflicts, patches, server-side apply, status, CRDs, deletion.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { suite, test } from 'node:test';
import { parse as parseYaml } from 'yaml';
import { at, type JsonObject, listAt, objectAt, textAt, without } from './json.ts';
import { ask, get, Lines } from './raw-client.ts';
import { type ApiServer, type Options, startApiServer } from './server.ts';

const CRDS = path.join(import.meta.dirname, '../../../daemonset/crds');
const crd = (file: string): JsonObject => parseYaml(readFileSync(path.join(CRDS, file), 'utf8')) as JsonObject;
const EGRESS_POLICIES = crd('egresspolicies.yaml');
const PATH = '/apis/postern.dev/v1alpha1/namespaces/default/egresspolicies';

const policy = (spec: object = {}) => ({
  apiVersion: 'postern.dev/v1alpha1',
  kind: 'EgressPolicy',
  metadata: { name: 'p' },
  spec,
});
const pod = (name: string, node?: string) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, namespace: 'default' },
  spec: { ...(node === undefined ? {} : { nodeName: node }), containers: [{ name: 'c', image: 'i' }] },
});

async function withServer(options: Options, run: (server: ApiServer) => Promise<void>): Promise<void> {
  await using server = await startApiServer(options);
  await run(server);
}

const patch = (server: ApiServer, where: string, type: string, body: object) =>
  ask(server, 'PATCH', where, { body, headers: { 'content-type': type } });
const apply = (server: ApiServer, where: string, manager: string, body: object, more = '') =>
  patch(server, `${where}?fieldManager=${manager}${more}`, 'application/apply-patch+yaml', body);

suite('versions', () => {
  test('create, update, conflict; what changes nothing makes no version', () =>
    withServer({}, async (server) => {
      const where = '/api/v1/namespaces/default/configmaps';
      const made = await ask(server, 'POST', where, { body: { metadata: { name: 'a' }, data: { x: '1' } } });
      assert.equal(made.code, 201);
      assert.deepEqual([made.json.kind, made.json.apiVersion], ['ConfigMap', 'v1']);
      assert.match(textAt(made.json, 'metadata', 'uid'), /^[0-9a-f-]{36}$/);
      const again = await ask(server, 'POST', where, { body: { metadata: { name: 'a' } } });
      assert.deepEqual([again.code, again.json.reason], [409, 'AlreadyExists']);

      const changed = { ...made.json, data: { x: '2' } };
      const second = await ask(server, 'PUT', `${where}/a`, { body: changed });
      assert.equal(second.code, 200);
      assert.notEqual(
        textAt(second.json, 'metadata', 'resourceVersion'),
        textAt(made.json, 'metadata', 'resourceVersion'),
      );
      const late = await ask(server, 'PUT', `${where}/a`, { body: { ...changed, data: { x: '3' } } });
      assert.deepEqual([late.code, late.json.reason], [409, 'Conflict']);
      assert.match(textAt(late.json, 'message'), /the object has been modified; please apply your changes/);

      const before = server.resourceVersion;
      assert.equal((await ask(server, 'PUT', `${where}/a`, { body: second.json })).code, 200);
      server.put(second.json);
      assert.equal((await ask(server, 'PUT', `${where}/a?dryRun=All`, { body: { metadata: {}, data: {} } })).code, 200);
      assert.equal(server.resourceVersion, before);
      assert.deepEqual(at((await get(server, `${where}/a`)).json, 'data'), { x: '2' });

      assert.equal((await ask(server, 'PUT', `${where}/b`, { body: { metadata: { name: 'b' } } })).code, 404);
      assert.equal((await ask(server, 'POST', where, { body: { metadata: { name: 'A_' } } })).code, 422);
      const nowhere = await ask(server, 'POST', where.replace('default', 'nix'), { body: { metadata: { name: 'a' } } });
      assert.equal(nowhere.json.message, 'namespaces "nix" not found');
      const generated = await ask(server, 'POST', where, { body: { metadata: { generateName: 'g-' } } });
      assert.match(textAt(generated.json, 'metadata', 'name'), /^g-[0-9a-f]{5}$/);
    }));

  test('a Lease is created by PUT, and renewed', () =>
    withServer({}, async (server) => {
      const where = '/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/l';
      const made = await ask(server, 'PUT', where, {
        body: { metadata: { name: 'l' }, spec: { holderIdentity: 'a' } },
      });
      assert.equal(made.code, 201);
      const stolen = { ...made.json, spec: { holderIdentity: 'b' } };
      assert.equal((await ask(server, 'PUT', where, { body: stolen })).code, 200);
      assert.equal((await ask(server, 'PUT', where, { body: stolen })).code, 409);
    }));

  test('put is the cluster itself: uid and status hold, another uid is another object', () =>
    withServer({}, async (server) => {
      const from = server.resourceVersion;
      const status = { phase: 'Running', podIP: '198.18.0.1' };
      const uid = '11111111-1111-1111-1111-111111111111';
      server.put({ ...pod('a', 'n'), metadata: { name: 'a', namespace: 'default', uid }, status });
      server.put({ ...pod('a', 'n'), status: { ...status, podIP: '198.18.0.2' } });
      assert.equal(textAt(server.get('v1', 'Pod', 'a'), 'metadata', 'uid'), uid);
      server.put({
        ...pod('a', 'n'),
        metadata: { name: 'a', namespace: 'default', uid: uid.replace('1', '2') },
        status,
      });
      await using watch = await Lines.open(server, `/api/v1/pods?watch=1&resourceVersion=${from}`);
      const types = [];
      for (let i = 0; i < 4; i++) types.push((await watch.event()).type);
      assert.deepEqual(types, ['ADDED', 'MODIFIED', 'DELETED', 'ADDED']);
    }));
});

suite('patches', () => {
  const base = { ...pod('a'), metadata: { name: 'a', namespace: 'default', labels: { x: '1', y: '2' } } };
  const rows: readonly [type: string, patch: object, read: (object: JsonObject) => unknown, expected: unknown][] = [
    [
      'merge',
      { metadata: { labels: { x: null, z: '3' } } },
      (one) => at(one, 'metadata', 'labels'),
      { y: '2', z: '3' },
    ],
    ['merge', { spec: { containers: [{ name: 'd' }] } }, (one) => listAt(one, 'spec', 'containers').length, 1],
    [
      'strategic-merge',
      { spec: { containers: [{ name: 'd', image: 'j' }] } },
      (one) => listAt(one, 'spec', 'containers').map((container) => textAt(container, 'name')),
      ['c', 'd'],
    ],
    [
      'strategic-merge',
      { spec: { containers: [{ name: 'c', image: 'k' }], $setElementOrder: undefined } },
      (one) => at(one, 'spec', 'containers'),
      [{ name: 'c', image: 'k' }],
    ],
    [
      'strategic-merge',
      { spec: { containers: [{ name: 'c', $patch: 'delete' }] } },
      (one) => listAt(one, 'spec', 'containers').length,
      0,
    ],
    [
      'json',
      [
        { op: 'test', path: '/metadata/labels/x', value: '1' },
        { op: 'replace', path: '/metadata/labels/x', value: '9' },
        { op: 'add', path: '/spec/containers/-', value: { name: 'd' } },
        { op: 'move', from: '/metadata/labels/y', path: '/metadata/labels/a~1b' },
      ],
      (one) => [at(one, 'metadata', 'labels'), listAt(one, 'spec', 'containers').length],
      [{ x: '9', 'a/b': '2' }, 2],
    ],
  ];
  for (const [type, body, read, expected] of rows) {
    test(`${type}: ${JSON.stringify(body)}`, () =>
      withServer({ objects: [base] }, async (server) => {
        const answer = await patch(server, '/api/v1/namespaces/default/pods/a', `application/${type}-patch+json`, body);
        assert.equal(answer.code, 200, answer.text);
        assert.deepEqual(read(answer.json), expected);
      }));
  }

  test('that do not fit', () =>
    withServer({ objects: [EGRESS_POLICIES, policy(), base] }, async (server) => {
      const where = '/api/v1/namespaces/default/pods/a';
      const test = [{ op: 'test', path: '/metadata/name', value: 'b' }];
      assert.equal((await patch(server, where, 'application/json-patch+json', test)).code, 422);
      assert.equal((await patch(server, where, 'text/plain', {})).code, 415);
      assert.equal((await patch(server, `${PATH}/p`, 'application/strategic-merge-patch+json', {})).code, 415);
      const stale = { metadata: { resourceVersion: '1' } };
      assert.equal((await patch(server, where, 'application/merge-patch+json', stale)).code, 409);
    }));
});

suite('server-side apply', () => {
  const spec = (labels: object) => ({ ...policy({ podSelector: { matchLabels: labels } }) });

  test('creates, takes back what is left out, and leaves alone what others own', () =>
    withServer({ objects: [EGRESS_POLICIES] }, async (server) => {
      const labels = (one: JsonObject) => at(one, 'spec', 'podSelector', 'matchLabels');
      const made = await apply(server, `${PATH}/p`, 'a', spec({ x: '1', y: '2' }));
      assert.equal(made.code, 201, made.text);
      await apply(server, `${PATH}/p`, 'b', spec({ z: '3' }));
      const less = await apply(server, `${PATH}/p`, 'a', spec({ x: '1' }));
      assert.deepEqual(labels(less.json), { x: '1', z: '3' });
      const clash = await apply(server, `${PATH}/p`, 'b', spec({ z: '3', x: '5' }));
      assert.equal(clash.code, 409);
      assert.match(textAt(clash.json, 'message'), /conflict with "a": \.spec\.podSelector\.matchLabels\.x/);
      assert.equal(textAt(clash.json, 'details', 'causes', 0, 'reason'), 'FieldManagerConflict');
      const forced = await apply(server, `${PATH}/p`, 'b', spec({ z: '3', x: '5' }), '&force=true');
      assert.deepEqual(labels(forced.json), { x: '5', z: '3' });
      const left = await apply(server, `${PATH}/p`, 'a', policy());
      assert.deepEqual(labels(left.json), { x: '5', z: '3' });
      const before = server.resourceVersion;
      await apply(server, `${PATH}/p`, 'b', spec({ z: '3', x: '5' }));
      assert.equal(server.resourceVersion, before);
      assert.equal((await patch(server, `${PATH}/p`, 'application/apply-patch+yaml', policy())).code, 400);
    }));

  test('conditions of two writers are merged by type', () =>
    withServer({ objects: [EGRESS_POLICIES, policy()] }, async (server) => {
      const condition = (type: string, status: string) => ({
        type,
        status,
        reason: 'R',
        message: '',
        lastTransitionTime: '2026-01-01T00:00:00Z',
      });
      const status = (...conditions: object[]) => ({
        ...without(policy() as JsonObject, 'spec'),
        status: { conditions },
      });
      await apply(
        server,
        `${PATH}/p/status`,
        'a',
        status(condition('Accepted', 'True'), condition('Programmed', 'False')),
      );
      await apply(server, `${PATH}/p/status`, 'b', status(condition('DNSAllowed', 'True')));
      const { json } = await apply(server, `${PATH}/p/status`, 'a', status(condition('Programmed', 'True')));
      assert.deepEqual(
        listAt(json, 'status', 'conditions').map((one) => `${textAt(one, 'type')}=${textAt(one, 'status')}`),
        ['Programmed=True', 'DNSAllowed=True'],
      );
    }));
});

suite('custom resources', () => {
  test('come with their CRD and go with it', () =>
    withServer({}, async (server) => {
      const missing = await get(server, '/apis/postern.dev/v1alpha1/egresspolicies');
      assert.deepEqual([missing.code, missing.text], [404, '404 page not found\n']);
      const made = await ask(server, 'POST', '/apis/apiextensions.k8s.io/v1/customresourcedefinitions', {
        body: EGRESS_POLICIES,
      });
      assert.equal(made.code, 201);
      assert.equal(textAt(made.json, 'status', 'conditions', 1, 'type'), 'Established');
      assert.equal((await ask(server, 'POST', PATH, { body: policy() })).code, 201);
      const { text } = await get(server, '/apis/postern.dev/v1alpha1/egresspolicies');
      // As Go writes a map: keys in order, so that metadata comes last, and each item says its kind.
      assert.match(
        text,
        /^\{"apiVersion":"postern.dev\/v1alpha1","items":\[\{"apiVersion":"postern.dev\/v1alpha1","kind":"EgressPolicy",/,
      );
      assert.match(text, /\],"kind":"EgressPolicyList","metadata":\{"resourceVersion":"\d+"\}\}\n$/);

      await using watch = await Lines.open(server, '/apis/postern.dev/v1alpha1/egresspolicies?watch=1');
      assert.equal((await watch.event()).type, 'ADDED');
      server.delete(EGRESS_POLICIES);
      assert.equal((await watch.event()).type, 'DELETED');
      assert.equal(await watch.line(), null);
      assert.equal((await get(server, PATH)).code, 404);
    }));

  test('are pruned, defaulted and checked', () =>
    withServer({ objects: [EGRESS_POLICIES] }, async (server) => {
      const made = await ask(server, 'POST', PATH, { body: policy({ unknown: 1, dns: { queries: 'Any', other: 1 } }) });
      assert.equal(made.code, 201, made.text);
      assert.equal(at(made.json, 'spec', 'unknown'), undefined);
      assert.deepEqual(at(made.json, 'spec', 'dns'), { queries: 'Any', answers: 'World' });
      assert.equal(textAt(made.json, 'spec', 'effect'), 'Isolate');
      const rows: readonly [spec: object, message: RegExp][] = [
        [
          { effect: 'Nothing' },
          /spec\.effect: Unsupported value: "Nothing": supported values: "Isolate", "Grant", "Limit"/,
        ],
        [{ egress: {} }, /spec\.egress in body must be of type array: "object"/],
        [{ egress: [{ ports: [] }] }, /spec\.egress\[0\]\.to: Required value/],
      ];
      for (const [spec, message] of rows) {
        const refused = await ask(server, 'POST', PATH, { body: { ...policy(spec), metadata: { name: 'q' } } });
        assert.deepEqual([refused.code, refused.json.reason], [422, 'Invalid']);
        assert.match(textAt(refused.json, 'message'), message);
      }
    }));

  test('status is a resource of its own; generation counts changes of spec alone', () =>
    withServer({ objects: [EGRESS_POLICIES] }, async (server) => {
      const made = await ask(server, 'POST', PATH, { body: { ...policy(), status: { workloads: 3 } } });
      assert.equal(at(made.json, 'status'), undefined);
      const generation = (one: JsonObject) => at(one, 'metadata', 'generation');
      assert.equal(generation(made.json), 1);
      const told = await ask(server, 'PUT', `${PATH}/p/status`, {
        body: { ...made.json, spec: { effect: 'Grant' }, status: { workloads: 4 } },
      });
      assert.deepEqual(
        [generation(told.json), textAt(told.json, 'spec', 'effect'), at(told.json, 'status', 'workloads')],
        [1, 'Isolate', 4],
      );
      const edited = await ask(server, 'PUT', `${PATH}/p`, {
        body: { ...told.json, spec: { effect: 'Grant' }, status: { workloads: 5 } },
      });
      assert.deepEqual([generation(edited.json), at(edited.json, 'status', 'workloads')], [2, 4]);
      const labelled = await patch(server, `${PATH}/p`, 'application/merge-patch+json', {
        metadata: { labels: { a: 'b' } },
      });
      assert.equal(generation(labelled.json), 2);
      assert.equal((await get(server, `${PATH}/p/scale`)).code, 404);
    }));
});

suite('what another version of a CRD let in', () => {
  test('gets a status all the same; its spec cannot be written as it is', () =>
    withServer({ objects: [EGRESS_POLICIES] }, async (server) => {
      const odd = server.put({ ...policy(), spec: { effect: 'Sometimes' } });
      const told = await ask(server, 'PUT', `${PATH}/p/status`, { body: { ...odd, status: { workloads: 4 } } });
      assert.deepEqual([told.code, at(told.json, 'status', 'workloads')], [200, 4]);
      const wrong = await ask(server, 'PUT', `${PATH}/p/status`, {
        body: { ...told.json, status: { workloads: 'x' } },
      });
      assert.equal(wrong.code, 422);
      const again = await ask(server, 'PUT', `${PATH}/p`, {
        body: { ...told.json, metadata: { ...(told.json.metadata as object), labels: { a: 'b' } } },
      });
      assert.equal(again.code, 422);
    }));
});

suite('deletion', () => {
  test('preconditions, finalizers', () =>
    withServer({}, async (server) => {
      const where = '/api/v1/namespaces/default/configmaps/a';
      server.put({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'a', finalizers: ['x/y'] } });
      const wrong = await ask(server, 'DELETE', where, { body: { preconditions: { uid: 'other' } } });
      assert.equal(wrong.code, 409);
      const held = await ask(server, 'DELETE', where);
      assert.equal(held.code, 200);
      assert.notEqual(textAt(held.json, 'metadata', 'deletionTimestamp'), '');
      assert.equal((await get(server, where)).code, 200);
      await patch(server, where, 'application/merge-patch+json', { metadata: { finalizers: null } });
      assert.equal((await get(server, where)).code, 404);
      assert.equal((await ask(server, 'DELETE', where)).code, 404);
    }));

  test('a namespace takes what it holds with it', () =>
    withServer({}, async (server) => {
      server.put({ apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'shop' } });
      server.put({ ...pod('a'), metadata: { name: 'a', namespace: 'shop' } });
      await using pods = await Lines.open(server, '/api/v1/pods?watch=1');
      assert.equal((await pods.event()).type, 'ADDED');
      await using namespaces = await Lines.open(
        server,
        '/api/v1/namespaces?watch=1&fieldSelector=metadata.name%3Dshop',
      );
      assert.equal((await namespaces.event()).type, 'ADDED');
      const { json } = await ask(server, 'DELETE', '/api/v1/namespaces/shop');
      assert.equal(textAt(json, 'status', 'phase'), 'Terminating');
      const late = await ask(server, 'POST', '/api/v1/namespaces/shop/configmaps', {
        body: { metadata: { name: 'x' } },
      });
      assert.equal(late.code, 403);
      assert.equal((await namespaces.event()).type, 'MODIFIED');
      assert.equal((await pods.event()).type, 'DELETED');
      assert.equal((await namespaces.event()).type, 'DELETED');
      assert.equal((await get(server, '/api/v1/namespaces/shop')).code, 404);
    }));

  test('a namespace that the cluster itself takes away is gone at once', () =>
    withServer({}, async (server) => {
      const namespace = { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'shop' } };
      server.put(namespace);
      server.put({ ...pod('a'), metadata: { name: 'a', namespace: 'shop' } });
      server.delete(namespace);
      assert.deepEqual([server.get('v1', 'Namespace', 'shop'), server.list('v1', 'Pod')], [null, []]);
    }));

  test('a pod on a node waits for its kubelet, where that is asked for', () =>
    withServer({ gracefulPods: true, objects: [pod('a', 'one'), pod('b')] }, async (server) => {
      const where = '/api/v1/namespaces/default/pods';
      const { json } = await ask(server, 'DELETE', `${where}/a`);
      assert.equal(objectAt(json, 'metadata').deletionGracePeriodSeconds, 30);
      assert.equal((await get(server, `${where}/a`)).code, 200);
      await ask(server, 'DELETE', `${where}/a`, { body: { gracePeriodSeconds: 0 } });
      assert.equal((await get(server, `${where}/a`)).code, 404);
      await ask(server, 'DELETE', `${where}/b`);
      assert.equal((await get(server, `${where}/b`)).code, 404);
    }));
});
