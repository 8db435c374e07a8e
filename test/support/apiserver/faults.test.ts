// SPDX-License-Identifier: Apache-2.0
// Everything that can go wrong on purpose does, and stops when mended.
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { listAt, textAt } from './json.ts';
import { ask, get, Lines } from './raw-client.ts';
import { type ApiServer, type Fault, type Options, startApiServer } from './server.ts';

const pod = (name: string, node = 'one') => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, namespace: 'default' },
  spec: { nodeName: node, containers: [] },
});
const PODS = '/api/v1/pods';

async function withServer(options: Options, run: (server: ApiServer) => Promise<void>): Promise<void> {
  await using server = await startApiServer(options);
  await run(server);
}

suite('answers', () => {
  test('statuses, with the bodies that the real server has', () =>
    withServer({}, async (server) => {
      const rows: readonly [Fault & { kind: 'status' }, RegExp][] = [
        [{ kind: 'status', code: 401 }, /"reason":"Unauthorized"/],
        [
          { kind: 'status', code: 403 },
          /pods is forbidden: User .* cannot list resource .*pods.* at the cluster scope/,
        ],
        [{ kind: 'status', code: 429, retryAfterS: 3 }, /^Too many requests, please try again later/],
        [{ kind: 'status', code: 500 }, /"reason":"InternalError"/],
        [{ kind: 'status', code: 503 }, /"reason":"ServiceUnavailable"/],
        [{ kind: 'status', code: 502, body: '<html>' }, /^<html>$/],
      ];
      for (const [fault, body] of rows) {
        const mend = server.break({ ...fault, where: { resource: 'pods', verb: 'list' } });
        const answer = await get(server, PODS);
        assert.equal(answer.code, fault.code);
        assert.match(answer.text, body);
        if (fault.code === 429) assert.equal(answer.headers['retry-after'], '3');
        assert.equal((await get(server, '/api/v1/nodes')).code, 200);
        mend();
        assert.equal((await get(server, PODS)).code, 200);
      }
    }));

  test('a fault for so many requests', () =>
    withServer({}, async (server) => {
      server.break({ kind: 'status', code: 500, times: 2 });
      const codes = [];
      for (let i = 0; i < 3; i++) codes.push((await get(server, PODS)).code);
      assert.deepEqual(codes, [500, 500, 200]);
    }));

  test('no answer: torn down, half-open', () =>
    withServer({ objects: [pod('a')] }, async (server) => {
      server.break({ kind: 'reset', times: 1 });
      await assert.rejects(get(server, PODS), { code: 'ECONNRESET' });
      const mend = server.break({ kind: 'silence' });
      const waiting = get(server, PODS);
      await server.until(({ log }) => log.length === 2);
      mend();
      assert.equal((await get(server, PODS)).code, 200);
      assert.deepEqual(
        server.log.map(({ ended }) => ended),
        [true, false, true],
      );
      await server.refuse();
      await assert.rejects(waiting, { code: 'ECONNRESET' });
    }));

  test('a body that breaks off, torn down or as if it had ended; or comes slowly, but whole', () =>
    withServer({ objects: [pod('a'), pod('b')] }, async (server) => {
      const whole = (await get(server, PODS)).text;
      const rest = { where: { verb: 'list' }, times: 1 };
      server.break({ kind: 'cut', afterBytes: 100, how: 'reset', ...rest });
      await assert.rejects(get(server, PODS));
      server.break({ kind: 'cut', afterBytes: 100, how: 'end', ...rest });
      assert.equal((await get(server, PODS)).text, whole.slice(0, 100));
      server.break({ kind: 'slow', bytesPerSecond: 4_000, ...rest });
      assert.equal((await get(server, PODS)).text, whole);
    }));

  test('a cache behind its peers', () =>
    withServer({ objects: [pod('a')] }, async (server) => {
      const then = server.resourceVersion;
      server.put(pod('b'));
      server.break({ kind: 'stale', resourceVersion: then });
      const old = (await get(server, `${PODS}?resourceVersion=0`)).json;
      assert.equal(listAt(old, 'items').length, 1);
      assert.equal(textAt(old, 'metadata', 'resourceVersion'), String(then));
      assert.equal(listAt((await get(server, PODS)).json, 'items').length, 2);
    }));
});

suite('streams', () => {
  const watched = async (server: ApiServer, run: (watch: Lines) => Promise<void>): Promise<void> => {
    await using watch = await Lines.open(server, `${PODS}?watch=1&resourceVersion=${server.resourceVersion}`);
    await server.untilWatched({ resource: 'pods' });
    await run(watch);
  };

  test('cut in the middle of a line', () =>
    withServer({}, (server) =>
      watched(server, async (watch) => {
        server.put(pod('a'));
        assert.equal((await watch.event()).type, 'ADDED');
        server.watches()[0]?.cutLine();
        assert.equal(await watch.line(), '{"type":"MODIFIED","object":{"kind":"P');
        assert.equal(await watch.line(), null);
      }),
    ));

  test('a line that is no JSON, between lines that are', () =>
    withServer({}, (server) =>
      watched(server, async (watch) => {
        server.watches()[0]?.garbage();
        await assert.rejects(watch.event(), SyntaxError);
        server.put(pod('a'));
        assert.equal((await watch.event()).type, 'ADDED');
      }),
    ));

  test('ended, torn down, expired', () =>
    withServer({}, async (server) => {
      await watched(server, async (watch) => {
        server.watches()[0]?.end();
        assert.equal(await watch.line(), null);
      });
      await watched(server, async (watch) => {
        server.watches()[0]?.reset();
        await assert.rejects(watch.line(), { code: 'ECONNRESET' });
      });
      await watched(server, async (watch) => {
        server.watches()[0]?.expire();
        assert.equal((await watch.event()).object.code, 410);
        assert.equal(await watch.line(), null);
      });
      await server.until(({ log }) => log.every(({ ended }) => ended));
      assert.deepEqual(server.watches(), []);
    }));

  test('stalled: the connection stays, changes do not come', () =>
    withServer({}, (server) =>
      watched(server, async (watch) => {
        server.watches()[0]?.stall();
        server.put(pod('a'));
        await watched(server, async (other) => {
          server.put(pod('b'));
          assert.equal(textAt((await other.event()).object, 'metadata', 'name'), 'b');
        });
        assert.equal(server.log[0]?.responseBytes, 0);
        assert.equal(server.log[0]?.ended, false);
        server.watches()[0]?.reset();
        await assert.rejects(watch.line(), { code: 'ECONNRESET' });
      }),
    ));

  test('garbage and stalls of streams that begin later', () =>
    withServer({ objects: [pod('a'), pod('b')] }, async (server) => {
      server.break({ kind: 'garbage', afterBytes: 0, where: { verb: 'watch' }, times: 1 });
      await using watch = await Lines.open(server, `${PODS}?watch=1`);
      await assert.rejects(watch.event(), SyntaxError);
      server.break({ kind: 'stall', afterBytes: 10, where: { verb: 'watch' }, times: 1 });
      await using stalled = await Lines.open(server, `${PODS}?watch=1`);
      await server.until(({ log }) => log[1]?.responseBytes === 10);
      assert.equal(stalled.code, 200);
    }));
});

suite('the server', () => {
  test('refuses connections for a while, at the same port after', () =>
    withServer({ objects: [pod('a')] }, async (server) => {
      await using watch = await Lines.open(server, `${PODS}?watch=1`);
      assert.equal((await watch.event()).type, 'ADDED');
      const { url } = server;
      await server.refuse();
      await assert.rejects(watch.line(), { code: 'ECONNRESET' });
      await assert.rejects(get(server, PODS), { code: 'ECONNREFUSED' });
      await server.listen();
      assert.equal(server.url, url);
      assert.equal((await get(server, PODS)).code, 200);
    }));

  test('restarts into an older epoch: versions from before are too large, or say nothing', () =>
    withServer({ objects: [pod('a')], resourceVersion: 5_000 }, async (server) => {
      const before = server.resourceVersion;
      await server.restart({ resourceVersion: 100 });
      assert.equal((await get(server, `${PODS}?resourceVersion=${before}`)).code, 504);
      await using watch = await Lines.open(
        server,
        `${PODS}?watch=1&resourceVersion=${before}&allowWatchBookmarks=true`,
      );
      await server.untilWatched();
      server.put(pod('b'));
      server.bookmark();
      const { type, object } = await watch.event();
      assert.deepEqual([type, textAt(object, 'metadata', 'resourceVersion')], ['BOOKMARK', '101']);
    }));

  test('restarts into a newer epoch: what was before is gone', () =>
    withServer({ objects: [pod('a')] }, async (server) => {
      const before = server.resourceVersion;
      await server.restart({ resourceVersion: before + 1_000 });
      await using watch = await Lines.open(server, `${PODS}?watch=1&resourceVersion=${before}`);
      assert.equal((await watch.event()).object.code, 410);
    }));

  test('logs what was asked, by whom, and how much was said', () =>
    withServer({}, async (server) => {
      await ask(server, 'POST', '/api/v1/namespaces/default/configmaps?dryRun=All', {
        body: { metadata: { name: 'x' } },
        headers: { 'user-agent': 'mine/1' },
      });
      const [entry] = server.log;
      assert.ok(entry);
      const { method, verb, resource, namespace, user, userAgent, code, requestBytes, responseBytes, query } = entry;
      assert.deepEqual(
        { method, verb, resource, namespace, user, userAgent, code, requestBytes, query },
        {
          method: 'POST',
          verb: 'create',
          resource: 'configmaps',
          namespace: 'default',
          user: 'kubernetes-admin',
          userAgent: 'mine/1',
          code: 201,
          requestBytes: 25,
          query: 'dryRun=All',
        },
      );
      assert.ok(responseBytes > 100);
    }));
});
