// SPDX-License-Identifier: Apache-2.0
// Lists and watches as kube-apiserver's documentation has them, on the wire.
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { at, listAt, textAt } from './json.ts';
import { get, Lines } from './raw-client.ts';
import { type ApiServer, type JsonObject, type Options, startApiServer } from './server.ts';

const pod = (
  name: string,
  more: { readonly namespace?: string; readonly labels?: object; readonly node?: string; readonly phase?: string } = {},
) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, namespace: more.namespace ?? 'default', labels: more.labels ?? {} },
  spec: { nodeName: more.node ?? 'one', containers: [] },
  status: { phase: more.phase ?? 'Running' },
});

async function withServer(options: Options, run: (server: ApiServer) => Promise<void>): Promise<void> {
  await using server = await startApiServer(options);
  await run(server);
}

const names = (list: JsonObject): string[] => listAt(list, 'items').map((one) => textAt(one, 'metadata', 'name'));
const PODS = '/api/v1/pods';
const BOOKMARK = 'k8s.io/initial-events-end';

suite('lists', () => {
  test('items of a built-in kind say no kind, and come by namespace and name', () =>
    withServer(
      { objects: [pod('b'), pod('a'), pod('c', { namespace: 'a' }), pod('z', { namespace: 'a-b' })] },
      async (server) => {
        const { json } = await get(server, PODS);
        assert.equal(json.kind, 'PodList');
        assert.equal(textAt(json, 'metadata', 'resourceVersion'), String(server.resourceVersion));
        assert.deepEqual(names(json), ['z', 'c', 'a', 'b']);
        assert.deepEqual(
          listAt(json, 'items').map((one) => at(one, 'kind') ?? at(one, 'apiVersion')),
          [undefined, undefined, undefined, undefined],
        );
        assert.deepEqual(names((await get(server, '/api/v1/namespaces/a/pods')).json), ['c']);
      },
    ));

  test('selectors', () =>
    withServer(
      {
        objects: [
          pod('a', { labels: { app: 'x', tier: 'front' } }),
          pod('b', { labels: { app: 'y' }, node: 'two' }),
          pod('c', { phase: 'Succeeded' }),
        ],
      },
      async (server) => {
        const rows: readonly [query: string, expected: string[]][] = [
          ['labelSelector=app%3Dx', ['a']],
          ['labelSelector=app', ['a', 'b']],
          ['labelSelector=!app', ['c']],
          ['labelSelector=app%20in%20(x,y),tier!%3Dfront', ['b']],
          ['labelSelector=app%20notin%20(x)', ['b', 'c']],
          ['fieldSelector=spec.nodeName%3Dtwo', ['b']],
          ['fieldSelector=spec.nodeName!%3Dtwo,status.phase!%3DSucceeded', ['a']],
          ['fieldSelector=metadata.name%3Dc', ['c']],
          ['fieldSelector=metadata.namespace%3Dother', []],
        ];
        for (const [query, expected] of rows) {
          assert.deepEqual(names((await get(server, `${PODS}?${query}`)).json), expected, query);
        }
        const bad = await get(server, `${PODS}?fieldSelector=spec.foo%3Dx`);
        assert.equal(bad.code, 400);
        assert.equal(bad.json.message, 'field label not supported: spec.foo');
        assert.equal((await get(server, `${PODS}?labelSelector=%3D%3D`)).code, 400);
      },
    ));

  test('pages are of one version, and expire when it is compacted', () =>
    withServer({ objects: ['a', 'b', 'c', 'd', 'e'].map((name) => pod(name)) }, async (server) => {
      const first = (await get(server, `${PODS}?limit=2`)).json;
      assert.deepEqual(names(first), ['a', 'b']);
      assert.equal(at(first, 'metadata', 'remainingItemCount'), 3);
      server.delete(pod('c'));
      server.put(pod('bb'));
      server.put(pod('d', { node: 'moved' }));
      const next = (await get(server, `${PODS}?limit=2&continue=${textAt(first, 'metadata', 'continue')}`)).json;
      assert.deepEqual(names(next), ['c', 'd']);
      assert.equal(textAt(listAt(next, 'items')[1], 'spec', 'nodeName'), 'one');
      assert.equal(textAt(next, 'metadata', 'resourceVersion'), textAt(first, 'metadata', 'resourceVersion'));

      server.compact();
      const gone = await get(server, `${PODS}?limit=2&continue=${textAt(next, 'metadata', 'continue')}`);
      assert.equal(gone.code, 410);
      assert.equal(gone.json.reason, 'Expired');
      const inconsistent = (await get(server, `${PODS}?limit=2&continue=${textAt(gone.json, 'metadata', 'continue')}`))
        .json;
      assert.deepEqual(names(inconsistent), ['e']);
      assert.equal(textAt(inconsistent, 'metadata', 'resourceVersion'), String(server.resourceVersion));
      assert.equal((await get(server, `${PODS}?continue=nonsense`)).code, 400);
    }));

  test('resourceVersion: 0 has no pages, exact is that version, a future one is too large', () =>
    withServer({ objects: [pod('a'), pod('b')] }, async (server) => {
      const then = server.resourceVersion;
      server.put(pod('c'));
      assert.deepEqual(names((await get(server, `${PODS}?resourceVersion=0&limit=1`)).json), ['a', 'b', 'c']);
      const exact = await get(server, `${PODS}?resourceVersion=${then}&resourceVersionMatch=Exact`);
      assert.deepEqual(names(exact.json), ['a', 'b']);
      assert.equal(textAt(exact.json, 'metadata', 'resourceVersion'), String(then));
      assert.deepEqual(names((await get(server, `${PODS}?resourceVersion=${then}`)).json), ['a', 'b', 'c']);
      assert.deepEqual(names((await get(server, `${PODS}?resourceVersion=${then}&limit=9`)).json), ['a', 'b']);
      const future = await get(server, `${PODS}?resourceVersion=${then + 1000}`);
      assert.equal(future.code, 504);
      assert.equal(textAt(future.json, 'details', 'causes', 0, 'reason'), 'ResourceVersionTooLarge');
      server.compact();
      assert.equal((await get(server, `${PODS}?resourceVersion=${then}&resourceVersionMatch=Exact`)).code, 410);
      assert.equal((await get(server, `${PODS}?resourceVersionMatch=NotOlderThan`)).code, 422);
    }));

  test('a big list is compressed for who takes gzip', () =>
    withServer({ objects: Array.from({ length: 2_000 }, (_, i) => pod(`p${i}`)) }, async (server) => {
      const path = PODS;
      const plain = await get(server, path);
      assert.equal(names(plain.json).length, 2_000);
      const { request } = await import('node:http');
      const zipped = await new Promise<Buffer>((resolve, reject) => {
        const headers = { 'accept-encoding': 'gzip', authorization: `Bearer ${server.token}` };
        request(server.url + path, { headers, agent: false }, (answer) => {
          const chunks: Buffer[] = [];
          assert.equal(answer.headers['content-encoding'], 'gzip');
          answer.on('data', (chunk: Buffer) => chunks.push(chunk));
          answer.on('end', () => resolve(Buffer.concat(chunks)));
        })
          .on('error', reject)
          .end();
      });
      assert.equal(gunzipSync(zipped).toString(), plain.text);
      assert.ok(zipped.length < plain.text.length / 2);
      assert.deepEqual(
        server.log.map(({ responseBytes }) => responseBytes),
        [plain.text.length, zipped.length],
      );
    }));
});

suite('watches', () => {
  test('from a version: every change after it, an object that leaves the selection as deleted', () =>
    withServer({ objects: [pod('a', { labels: { app: 'x' } })] }, async (server) => {
      const from = server.resourceVersion;
      server.put(pod('b', { labels: { app: 'x' } }));
      await using watch = await Lines.open(server, `${PODS}?watch=1&resourceVersion=${from}&labelSelector=app%3Dx`);
      const told = async (): Promise<string> => {
        const { type, object } = await watch.event();
        assert.equal(object.kind, 'Pod');
        return `${type} ${textAt(object, 'metadata', 'name')} ${Number(textAt(object, 'metadata', 'resourceVersion')) - from}`;
      };
      assert.equal(await told(), 'ADDED b 1');
      server.put(pod('a', { labels: { app: 'x' }, node: 'two' }));
      server.put(pod('a', { labels: { app: 'x' }, node: 'two' }));
      server.put(pod('c'));
      server.put(pod('a', { labels: { app: 'y' }, node: 'two' }));
      server.put(pod('c', { labels: { app: 'x' } }));
      server.delete(pod('b'));
      assert.equal(await told(), 'MODIFIED a 2');
      assert.equal(await told(), 'DELETED a 4');
      assert.equal(await told(), 'ADDED c 5');
      assert.equal(await told(), 'DELETED b 6');
    }));

  test('without a version, or from 0: what is there first, with no bookmark behind it', () =>
    withServer({ objects: [pod('a'), pod('b')] }, async (server) => {
      for (const query of ['watch=true', 'watch=true&resourceVersion=0']) {
        await using watch = await Lines.open(server, `${PODS}?${query}&allowWatchBookmarks=true`);
        assert.deepEqual([(await watch.event()).type, (await watch.event()).type], ['ADDED', 'ADDED']);
        await server.untilWatched({ resource: 'pods' });
        server.put(pod(`c-${query.length}`));
        assert.equal(textAt((await watch.event()).object, 'metadata', 'name'), `c-${query.length}`);
        server.delete(pod(`c-${query.length}`));
      }
    }));

  test('a streaming list ends with the bookmark that says so', () =>
    withServer({ objects: [pod('b'), pod('a')] }, async (server) => {
      const query = 'watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true';
      await using watch = await Lines.open(server, `${PODS}?${query}`);
      assert.equal(textAt((await watch.event()).object, 'metadata', 'name'), 'a');
      assert.equal(textAt((await watch.event()).object, 'metadata', 'name'), 'b');
      const end = await watch.event();
      assert.equal(end.type, 'BOOKMARK');
      assert.equal(textAt(end.object, 'metadata', 'annotations', BOOKMARK), 'true');
      assert.equal(textAt(end.object, 'metadata', 'resourceVersion'), String(server.resourceVersion));
      await server.untilWatched();
      server.put({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'other' } });
      server.bookmark();
      const later = await watch.event();
      assert.equal(later.type, 'BOOKMARK');
      assert.equal(at(later.object, 'metadata', 'annotations'), undefined);
      assert.equal(textAt(later.object, 'metadata', 'resourceVersion'), String(server.resourceVersion));
    }));

  test('what is wrong with a streaming list', async () => {
    await withServer({}, async (server) => {
      assert.equal((await get(server, `${PODS}?watch=1&sendInitialEvents=true`)).code, 422);
      assert.equal((await get(server, `${PODS}?watch=1&resourceVersionMatch=NotOlderThan`)).code, 422);
      const future = `${PODS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=99999`;
      assert.equal((await get(server, future)).code, 504);
    });
    await withServer({ streamingLists: false }, async (server) => {
      const { code, json } = await get(
        server,
        `${PODS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan`,
      );
      assert.equal(code, 422);
      assert.match(textAt(json, 'message'), /forbidden for watch unless the WatchList feature gate is enabled/);
    });
  });

  test('a version that is gone is told inside the stream', () =>
    withServer({ objects: [pod('a')], history: 2 }, async (server) => {
      const from = server.resourceVersion;
      for (let i = 0; i < 5; i++) server.put(pod('a', { node: `n${i}` }));
      await using watch = await Lines.open(server, `${PODS}?watch=1&resourceVersion=${from}`);
      assert.equal(watch.code, 200);
      const { type, object } = await watch.event();
      assert.deepEqual([type, object.code, object.reason], ['ERROR', 410, 'Expired']);
      assert.equal(await watch.line(), null);
    }));

  test('a watch ends at its timeout, with a bookmark before', () =>
    withServer({}, async (server) => {
      const query = `watch=1&resourceVersion=${server.resourceVersion}&timeoutSeconds=1&allowWatchBookmarks=true`;
      await using watch = await Lines.open(server, `${PODS}?${query}`);
      assert.equal((await watch.event()).type, 'BOOKMARK');
      assert.equal(await watch.line(), null);
    }));

  test('no change is lost between a big beginning and what follows', () =>
    withServer({ objects: Array.from({ length: 3_000 }, (_, i) => pod(`p${i}`)) }, async (server) => {
      const query = 'watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true';
      await using watch = await Lines.open(server, `${PODS}?${query}`);
      server.put(pod('during'));
      server.put(pod('p7', { node: 'moved' }));
      const seen = new Map<string, string>();
      for (;;) {
        const { type, object } = await watch.event();
        if (type === 'BOOKMARK') break;
        seen.set(textAt(object, 'metadata', 'name'), textAt(object, 'spec', 'nodeName'));
      }
      assert.equal(seen.size, 3_000);
      assert.equal(seen.get('p7'), 'one');
      assert.equal(textAt((await watch.event()).object, 'metadata', 'name'), 'during');
      assert.equal(textAt((await watch.event()).object, 'spec', 'nodeName'), 'moved');
    }));

  test('events.k8s.io and core are the same Events', () =>
    withServer({}, async (server) => {
      server.put({
        apiVersion: 'events.k8s.io/v1',
        kind: 'Event',
        metadata: { name: 'e', namespace: 'default' },
        regarding: { kind: 'Pod', name: 'a' },
        note: 'said',
        reportingController: 'c',
      });
      const coreEvent = (await get(server, '/api/v1/events?fieldSelector=involvedObject.name%3Da')).json;
      assert.equal(textAt(coreEvent, 'items', 0, 'message'), 'said');
      assert.equal(textAt(coreEvent, 'items', 0, 'reportingComponent'), 'c');
      const other = (await get(server, '/apis/events.k8s.io/v1/namespaces/default/events/e')).json;
      assert.deepEqual([other.apiVersion, other.note], ['events.k8s.io/v1', 'said']);
    }));
});
