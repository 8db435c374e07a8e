// SPDX-License-Identifier: Apache-2.0
// What does a scraper get?
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import test from 'node:test';
import { Metrics, type Readings } from '../../src/metrics/metrics.ts';
import { listenAddress, Scrapes, serveMetrics } from '../../src/metrics/server.ts';

const NO_READINGS: Readings = {
  counts: () => [],
  losses: () => new Map(),
  untaught: () => new Map(),
  maps: () => [],
  problems: () => ({ error: 0, warning: 0 }),
  workloads: () => new Map(),
  drift: () => new Map(),
  since: () => null,
  source: () => [],
  guards: () => null,
  isReady: () => false,
  loopDelayMs: () => 0,
};
const WELL = { isReady: () => true, isAlive: () => true };

test('addresses to listen on', () => {
  assert.deepEqual(listenAddress('127.0.0.1:9470'), { host: '127.0.0.1', port: 9470 });
  assert.deepEqual(listenAddress('[::1]:0'), { host: '::1', port: 0 });
  assert.deepEqual(listenAddress(':9470'), { host: '::', port: 9470 });
  for (const bad of ['', '9470', '127.0.0.1', '::1:80', '127.0.0.1:70000', 'x:y'])
    assert.equal(listenAddress(bad), null, bad);
});

test('metrics are read when asked for, and readiness is told', async () => {
  let packets = 1;
  let isReady = false;
  let isAlive = true;
  const readings: Readings = {
    counts: () => [
      {
        labels: { workload: 'shop/web', direction: 'egress', policy: 'NetworkPolicy/shop/web', reason: 'no_rule' },
        verdict: 'deny',
        count: { packets, bytes: packets * 60 },
      },
    ],
    losses: () => new Map([['rate', 4]]),
    untaught: () => new Map([['late', 5]]),
    maps: () => [{ map: 'verdicts', entries: 3, maxEntries: 100 }],
    problems: () => ({ error: 1, warning: 0 }),
    workloads: () => new Map([['enforced', 1]]),
    drift: () => new Map([['pin', 2]]),
    since: () => 1_700_000_000_500,
    source: () => [{ kind: 'Pod', synced: true, problem: null, heardMs: performance.now(), relists: 2, bytesRead: 7 }],
    guards: () => ({
      modes: new Map([['tcx', 3]]),
      unguarded: new Map([['host_network', 2]]),
      framesBefore: 5,
    }),
    isReady: () => isReady,
    loopDelayMs: () => 250,
  };
  const metrics = new Metrics(readings);
  metrics.observeApply(0.02);
  metrics.observePod('cgroup', 0.02);
  metrics.observeUnknown(0.02);
  metrics.observeGuarded(0.3);
  const server = await serveMetrics({ host: '127.0.0.1', port: 0 }, metrics.registry, {
    isReady: () => isReady,
    isAlive: () => isAlive,
  });
  try {
    const base = server.url.replace('/metrics', '');
    assert.equal((await fetch(`${base}/healthz`)).status, 200);
    assert.equal((await fetch(`${base}/readyz`)).status, 503);
    isReady = true;
    assert.equal((await fetch(`${base}/readyz`)).status, 200);
    isAlive = false;
    assert.equal((await fetch(`${base}/healthz`)).status, 503);
    assert.equal((await fetch(`${base}/other`)).status, 404);
    assert.equal((await fetch(`${base}/metrics`, { method: 'POST' })).status, 405);
    const series = 'workload="shop/web",direction="egress",policy="NetworkPolicy/shop/web",reason="no_rule"';
    for (packets of [1, 7]) {
      const text = await (await fetch(server.url)).text();
      for (const line of [
        `postern_drop_count_total{${series}} ${packets}`,
        `postern_drop_bytes_total{${series}} ${packets * 60}`,
        'postern_events_lost_total{why="rate"} 4',
        'postern_dns_untaught_total{why="late"} 5',
        'postern_map_entries{map="verdicts"} 3',
        'postern_map_max_entries{map="verdicts"} 100',
        'postern_policy_problems{severity="error"} 1',
        'postern_workloads{state="enforced"} 1',
        'postern_apply_duration_seconds_count 1',
        'postern_pod_enforce_seconds_count{seen="cgroup"} 1',
        'postern_pod_unknown_seconds_count 1',
        'postern_pod_guard_seconds_count 1',
        'postern_guards{mode="tcx"} 3',
        'postern_workloads_without_guard{why="host_network"} 2',
        'postern_frames_before_guard_total 5',
        'postern_source_synced{kind="Pod"} 1',
        'postern_source_relists_total{kind="Pod"} 2',
        'postern_source_read_bytes_total{kind="Pod"} 7',
        'postern_ready 1',
        'postern_event_loop_delay_seconds 0.25',
      ]) {
        assert.ok(text.split('\n').includes(line), `${line}\n${text}`);
      }
    }
  } finally {
    await server.close();
  }
});

test('an address that is taken is told as such', async () => {
  const { registry } = new Metrics(NO_READINGS);
  const first = await serveMetrics({ host: '127.0.0.1', port: 0 }, registry, WELL);
  try {
    const port = Number(new URL(first.url).port);
    await assert.rejects(serveMetrics({ host: '127.0.0.1', port }, registry, WELL), {
      name: 'ListenError',
      code: 'EADDRINUSE',
    });
  } finally {
    await first.close();
  }
});

/** All that the server says to `request` until it ends the connection. */
async function tell(port: number, request: string, from = '127.0.0.1'): Promise<string> {
  const socket = connect({ host: '127.0.0.1', port, localAddress: from });
  socket.on('error', () => undefined);
  let text = '';
  socket.on('data', (data) => {
    text += data;
  });
  socket.end(request);
  await once(socket, 'close');
  return text;
}

test('whatever is sent, the agent lives, and says no more than what is wrong', async () => {
  const server = await serveMetrics({ host: '127.0.0.1', port: 0 }, new Metrics(NO_READINGS).registry, WELL);
  const port = Number(new URL(server.url).port);
  try {
    const requests: [string, RegExp][] = [
      // No URL can be made of these.
      ['GET // HTTP/1.0\r\n\r\n', /^HTTP\/1.1 404 /],
      ['GET http:// HTTP/1.0\r\n\r\n', /^HTTP\/1.1 404 /],
      ['GET /metrics/../healthz HTTP/1.0\r\n\r\n', /^HTTP\/1.1 404 /],
      ['GET /__proto__ HTTP/1.0\r\n\r\n', /^HTTP\/1.1 404 /],
      ['GET /healthz?verbose=1 HTTP/1.0\r\n\r\n', /^HTTP\/1.1 200 /],
      ['POST /metrics HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello', /^HTTP\/1.1 405 /],
      ['\0\0\0\0\r\n\r\n', /^HTTP\/1.1 400 /],
      [`GET /${'a'.repeat(20_000)} HTTP/1.0\r\n\r\n`, /^HTTP\/1.1 431 /],
      [`GET / HTTP/1.0\r\n${'x: y\r\n'.repeat(5_000)}\r\n`, /^HTTP\/1.1 431 /],
    ];
    for (const [request, answer] of requests) assert.match(await tell(port, request), answer, request.slice(0, 60));
    assert.equal((await fetch(server.url)).status, 200);
  } finally {
    await server.close();
  }
});

test('connections that somebody holds and says nothing on keep no probe waiting', async () => {
  const server = await serveMetrics({ host: '127.0.0.1', port: 0 }, new Metrics(NO_READINGS).registry, WELL);
  const port = Number(new URL(server.url).port);
  const held: Socket[] = [];
  const ended = new Set<Socket>();
  const hold = async (from: string): Promise<Socket> => {
    const socket = connect({ host: '127.0.0.1', port, localAddress: from });
    socket.on('error', () => undefined);
    socket.on('close', () => ended.add(socket));
    held.push(socket);
    await once(socket, 'connect');
    socket.write('GET /metr');
    return socket;
  };
  const probe = 'GET /healthz HTTP/1.0\r\n\r\n';
  try {
    for (let i = 0; i < 8; i++) await hold('127.0.0.9');
    const ninth = await hold('127.0.0.9');
    if (!ended.has(ninth)) await once(ninth, 'close');
    assert.equal(ended.size, 1, 'those that were there stay');
    assert.match(await tell(port, probe), /^HTTP\/1.1 200 /, 'nobody else is kept out by it');

    for (let i = 0; i < 56; i++) await hold(`127.0.1.${10 + Math.floor(i / 8)}`);
    assert.equal(ended.size, 1, 'as many as there may be');
    assert.match(await tell(port, probe), /^HTTP\/1.1 200 /);
    const [oldest] = held;
    if (oldest !== undefined && !ended.has(oldest)) await once(oldest, 'close');
    assert.equal(ended.size, 2, 'the oldest made room');
  } finally {
    for (const socket of held) socket.destroy();
    await server.close();
  }
});

test('whoever reads metrics without end gets a tenth of the time', async () => {
  let nowMs = 0;
  let readings = 0;
  const scrapes = new Scrapes(
    async () => {
      nowMs += 50;
      return `reading ${++readings}`;
    },
    () => nowMs,
  );
  // Asked without a pause for ten seconds: those at the beginning, and one each half second.
  while (nowMs < 10_000) {
    await scrapes.text();
    nowMs += 1;
  }
  assert.ok(readings >= 40 && readings <= 62, `${readings} readings`);
  assert.equal(await scrapes.text(), `reading ${readings}`, 'all others are told the last');
  nowMs += 60_000;
  const before = readings;
  assert.equal(await scrapes.text(), `reading ${before + 1}`, 'who asks now and then is told what is so');
  const both = [scrapes.text(), scrapes.text()];
  assert.deepEqual(await Promise.all(both), [`reading ${before + 2}`, `reading ${before + 2}`]);
});

test('a reading that fails is told, and not kept', async () => {
  let isFailing = true;
  const scrapes = new Scrapes(async () => {
    if (isFailing) throw new Error('no such map');
    return 'fine';
  });
  await assert.rejects(scrapes.text(), /no such map/);
  isFailing = false;
  assert.equal(await scrapes.text(), 'fine');
});
