// SPDX-License-Identifier: Apache-2.0
// Whatever the server does, the reflector ends up holding what the server holds, and says what stands in its way.
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { Collection } from '../../src/kube/collection.ts';
import { Connection } from '../../src/kube/connection.ts';
import { equal } from '../../src/kube/equal.ts';
import type { Pace } from '../../src/kube/pace.ts';
import { type Cut, Reflector } from '../../src/kube/reflector.ts';
import { resources } from '../../src/kube/resources.ts';
import {
  bookmark,
  event,
  expired,
  json,
  list,
  object,
  QUICK,
  type Scripted,
  type Step,
  scripted,
  silence,
  status,
  stream,
  until,
} from './scripted.ts';

const POD = resources.find(({ kind }) => kind === 'Pod');
assert.ok(POD);

interface Run {
  readonly server: Scripted;
  readonly reflector: Reflector;
  /** Color by name. */
  readonly held: () => Record<string, string>;
  readonly collection: Collection<string>;
}

async function run(t: TestContext, script: readonly Step[], pace: Partial<Pace> = {}): Promise<Run> {
  assert.ok(POD);
  const server = await scripted(script);
  const colorOf = (one: Cut) => (one.metadata as { labels: { color: string } }).labels.color;
  const collection = new Collection<string>(
    {
      keyOf: (one) => (one.metadata as { name: string }).name,
      read: (one, before) => {
        const color = colorOf(one);
        return before !== undefined && equal(before, color) ? before : color;
      },
      isExpected: () => false,
    },
    () => undefined,
  );
  const connection = new Connection(server.access);
  const reflector = new Reflector(POD, connection, collection, { ...QUICK, ...pace }, () => undefined);
  t.after(async () => {
    await reflector.stop();
    connection.close();
    server[Symbol.dispose]();
  });
  reflector.start();
  return { server, reflector, collection, held: () => Object.fromEntries([...collection.entries].sort()) };
}

const FIRST = [event('ADDED', 'a', 3), event('ADDED', 'b', 2), bookmark(5, true)];

test('a streaming list is told as a whole, goes on as a watch, and resumes where it was', async (t) => {
  const { server, reflector, held } = await run(t, [
    stream([...FIRST, event('MODIFIED', 'a', 6, 'blue'), event('ADDED', 'c', 7), bookmark(9)], 'end'),
    stream([event('DELETED', 'b', 10)], 'stay'),
  ]);
  await until('the deletion', () => 'c' in held() && !('b' in held()));
  assert.deepEqual(held(), { a: 'blue', c: 'red' });
  assert.equal(server.asked[0]?.query.sendInitialEvents, 'true');
  assert.equal(server.asked[0]?.query.resourceVersionMatch, 'NotOlderThan');
  assert.equal(server.asked[0]?.query.resourceVersion, undefined);
  assert.equal(server.asked[1]?.query.resourceVersion, '9');
  assert.equal(server.asked[1]?.query.sendInitialEvents, undefined);
  const { synced, problem, relists, watchErrors } = reflector.status();
  assert.deepEqual(
    { synced, problem, relists, watchErrors },
    { synced: true, problem: null, relists: 0, watchErrors: 0 },
  );
});

test('nothing of a streaming list counts before its end', async (t) => {
  const { reflector, collection, server } = await run(t, [
    stream(FIRST.slice(0, 2), 'end'),
    stream(FIRST.slice(0, 1), 'reset'),
    stream(FIRST.slice(0, 2), 'stay'),
  ]);
  await until('the third attempt', () => server.asked.length === 3);
  assert.equal(collection.entries.size, 0);
  assert.equal(reflector.status().synced, false);
});

test('a server that refuses streaming lists is asked for pages', async (t) => {
  const { server, held } = await run(t, [
    status(422, 'Invalid', 'sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch'),
    json(list(5, ['a', 'b'], 'next page')),
    json(list(5, ['c'])),
    stream([event('ADDED', 'd', 6)], 'stay'),
  ]);
  await until('the event', () => 'd' in held());
  assert.deepEqual(held(), { a: 'red', b: 'red', c: 'red', d: 'red' });
  assert.deepEqual(
    server.asked.slice(1).map(({ query }) => [query.limit, query.continue, query.watch, query.resourceVersion]),
    [
      ['500', undefined, undefined, undefined],
      ['500', 'next page', undefined, undefined],
      [undefined, undefined, 'true', '5'],
    ],
  );
});

test('a server that ignores what a streaming list is, is asked for pages', async (t) => {
  const { server, held } = await run(t, [stream(FIRST.slice(0, 2), 'stay'), json(list(5, ['a'])), stream([], 'stay')], {
    listIdleMs: 50,
  });
  await until('the watch', () => server.asked.length >= 3);
  assert.deepEqual(held(), { a: 'red' });
});

test('a server that begins a plain watch instead of a streaming list is asked for pages, however busy it is', async (t) => {
  const { server, held } = await run(t, [
    stream([...FIRST.slice(0, 2), event('MODIFIED', 'a', 6, 'blue'), bookmark(7)], 'stay'),
    json(list(8, ['a'])),
    stream([], 'stay'),
  ]);
  await until('the watch', () => server.asked.length >= 3);
  assert.deepEqual(held(), { a: 'red' });
});

test('pages that expire while they are read are read as one', async (t) => {
  const { server, held } = await run(t, [
    status(400, 'BadRequest', 'unknown parameter'),
    json(list(5, ['a'], 'next page')),
    status(410, 'Expired', 'The provided continue parameter is too old'),
    json(list(8, ['b'])),
    stream([], 'stay'),
  ]);
  await until('the watch', () => server.asked.length === 5);
  assert.deepEqual(held(), { b: 'red' });
  assert.equal(server.asked[3]?.query.limit, undefined);
  assert.equal(server.asked[4]?.query.resourceVersion, '8');
});

test('an event that is cut off comes again', async (t) => {
  const cut = JSON.stringify(event('MODIFIED', 'a', 7, 'blue'));
  const ends = ['end', 'reset'] as const;
  for (const end of ends) {
    const { server, held, reflector } = await run(t, [
      stream([...FIRST, event('ADDED', 'c', 6), cut.slice(0, -5)], end),
      json(list(7, ['a'])),
      stream([event('MODIFIED', 'a', 7, 'blue')], 'stay'),
    ]);
    await until('the event', () => held().a === 'blue');
    assert.equal(server.asked[2]?.query.resourceVersion, '6');
    assert.equal(reflector.status().relists, 0);
  }
});

for (const [what, line] of [
  ['is no JSON', '{"type":"MODIFIED","object":{"metadata":{"name":"a"}\n'],
  ['is of no known type', { type: 'RENAMED', object: object('a', 6) }],
  ['has no version', { type: 'MODIFIED', object: { metadata: { name: 'a' } } }],
  ['has no name', { type: 'MODIFIED', object: { metadata: { resourceVersion: '6' } } }],
  ['goes back in time', event('MODIFIED', 'a', 4, 'blue')],
  ['is an error of the server', { type: 'ERROR', object: { kind: 'Nothing' } }],
  ['says that the version is gone', expired],
] as const) {
  test(`after a line that ${what}, all is listed again`, async (t) => {
    const { server, held, reflector } = await run(t, [
      stream([...FIRST, line, event('ADDED', 'lost', 7)], 'stay'),
      stream([event('ADDED', 'a', 3), event('ADDED', 'd', 8), bookmark(9, true)], 'stay'),
    ]);
    await until('the second list', () => 'd' in held());
    assert.deepEqual(held(), { a: 'red', d: 'red' });
    assert.equal(server.asked[1]?.query.sendInitialEvents, 'true');
    assert.equal(reflector.status().relists, 1);
  });
}

test('a list that says what was known changes nothing', async (t) => {
  const { server, collection, reflector } = await run(t, [
    stream([...FIRST, expired], 'stay'),
    stream([event('ADDED', 'b', 20), event('ADDED', 'a', 21), bookmark(22, true)], 'stay'),
  ]);
  await until('the first list', () => reflector.status().synced);
  collection.takeChanged();
  await until('the second', () => reflector.status().relists === 1);
  assert.equal(server.asked.length, 2);
  assert.deepEqual([...collection.takeChanged()], []);
});

test('while there is nobody, all stays, and what was missed comes after', async (t) => {
  const { server, held } = await run(t, [
    stream(FIRST, 'reset'),
    (response) => response.socket?.resetAndDestroy(),
    (response) => response.socket?.resetAndDestroy(),
    status(503, 'ServiceUnavailable', 'not yet'),
    json(list(8, ['a'])),
    stream([event('DELETED', 'b', 8)], 'stay'),
  ]);
  await until('the outage', () => server.asked.length >= 4);
  assert.deepEqual(held(), { a: 'red', b: 'red' });
  await until('the deletion', () => !('b' in held()));
  assert.equal(server.asked.at(-1)?.query.resourceVersion, '5');
});

test('a server that comes back with an older history is listed again', async (t) => {
  const { server, held } = await run(t, [
    stream(FIRST, 'reset'),
    json(list(4, ['a'])),
    stream([event('ADDED', 'old', 3), bookmark(4, true)], 'stay'),
  ]);
  await until('the list', () => 'old' in held());
  assert.deepEqual(held(), { old: 'red' });
  assert.equal(server.asked[1]?.query.limit, '1');
});

test('a watch in which nothing was heard is doubted', async (t) => {
  const { server, held } = await run(t, [
    stream(FIRST, 'end'),
    stream([], 'end'),
    json(list(2, ['a'])),
    stream([event('ADDED', 'old', 1), bookmark(2, true)], 'stay'),
  ]);
  await until('the list', () => 'old' in held());
  assert.equal(server.asked[1]?.query.resourceVersion, '5');
});

test('a connection that fell silent is given up', async (t) => {
  const { server, held } = await run(
    t,
    [stream(FIRST, 'stay'), json(list(6, [])), stream([event('ADDED', 'c', 6), bookmark(7)], 'stay')],
    { idleMs: 100 },
  );
  await until('the event', () => 'c' in held());
  assert.equal(server.asked[2]?.query.resourceVersion, '5');
});

test('what the server asks to be waited is waited', async (t) => {
  const { server } = await run(t, [
    status(429, 'TooManyRequests', 'slow down', { 'Retry-After': '1' }),
    stream(FIRST, 'stay'),
  ]);
  await until('the second request', () => server.asked.length === 2);
  const [first, second] = server.asked;
  assert.ok(first && second && second.atMs - first.atMs >= 1000);
});

test('a refusal by RBAC is told with verb and resource, and ends by itself', async (t) => {
  let isGranted = false;
  const denied = status(403, 'Forbidden', 'pods is forbidden: User "postern" cannot watch resource "pods"');
  const { reflector } = await run(t, [
    (response, request) => (isGranted ? stream(FIRST, 'stay') : denied)(response, request),
  ]);
  await until('the refusal', () => reflector.status().problem !== null);
  assert.match(reflector.status().problem ?? '', /^may not watch pods: .*grant list and watch/);
  assert.equal(reflector.status().synced, false);
  isGranted = true;
  await until('the list', () => reflector.status().synced);
  assert.equal(reflector.status().problem, null);
});

test('a resource that is not installed is empty, and found when it is', async (t) => {
  const { reflector, held } = await run(t, [
    status(404, 'NotFound', 'the server could not find the requested resource'),
    status(404, 'NotFound', 'the server could not find the requested resource'),
    stream(FIRST, 'stay'),
  ]);
  await until('that it is synced', () => reflector.status().synced);
  await until('that it is installed', () => 'a' in held());
  assert.equal(reflector.status().problem, null);
});

test('objects are not given up for one answer that there is no such resource', async (t) => {
  const absent = status(404, 'NotFound', 'the server could not find the requested resource');
  const { server, held } = await run(t, [stream(FIRST, 'end'), absent, absent, stream([], 'stay')]);
  await until('the fourth request', () => server.asked.length === 4);
  assert.deepEqual(held(), { a: 'red', b: 'red' });
  const gone = await run(t, [stream(FIRST, 'end'), absent]);
  await until('that they are gone', () => Object.keys(gone.held()).length === 0 && gone.server.asked.length >= 4);
});

test('refused credentials are read anew, once a request', async (t) => {
  const { server, held, reflector } = await run(t, [
    status(401, 'Unauthorized', 'Unauthorized'),
    (response, request) => {
      assert.equal(request.headers.authorization, 'Bearer 1');
      stream(FIRST, 'end')(response, request);
    },
    status(401, 'Unauthorized', 'Unauthorized'),
    status(401, 'Unauthorized', 'Unauthorized'),
    silence,
  ]);
  await until('the last request', () => server.asked.length === 5);
  assert.equal(server.refused, 3);
  assert.deepEqual(held(), { a: 'red', b: 'red' });
  assert.match(
    reflector.status().problem ?? '',
    /^pods: the API server does not take the credentials \(401\): .*: Unauthorized$/,
  );
});

test('a server that ends each watch at once is not asked without a pause', async (t) => {
  const { server } = await run(t, [stream(FIRST, 'end'), stream([], 'end')], { backoffMs: [200, 200] });
  await until('the request after an empty watch', () => server.asked.length >= 3);
  const [, empty, next] = server.asked;
  assert.ok(empty && next && next.atMs - empty.atMs >= 200);
});
