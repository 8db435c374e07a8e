// SPDX-License-Identifier: Apache-2.0
// What does a scraper get?
import assert from 'node:assert/strict';
import test from 'node:test';
import { Metrics, type Readings } from '../../src/metrics/metrics.ts';
import { listenAddress, serveMetrics } from '../../src/metrics/server.ts';

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
    maps: () => [{ map: 'verdicts', entries: 3, maxEntries: 100 }],
    problems: () => ({ error: 1, warning: 0 }),
    workloads: () => new Map([['enforced', 1]]),
    since: () => 1_700_000_000_500,
    source: () => [{ kind: 'Pod', synced: true, problem: null, heardMs: performance.now(), relists: 2, bytesRead: 7 }],
    guards: () => ({
      modes: new Map([['tcx', 3]]),
      unguarded: new Map([['host_network', 2]]),
      framesBefore: 5,
    }),
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
  const metrics = new Metrics({
    counts: () => [],
    losses: () => new Map(),
    maps: () => [],
    problems: () => ({ error: 0, warning: 0 }),
    workloads: () => new Map(),
    since: () => null,
    source: () => [],
    guards: () => null,
    loopDelayMs: () => 0,
  });
  const health = { isReady: () => true, isAlive: () => true };
  const first = await serveMetrics({ host: '127.0.0.1', port: 0 }, metrics.registry, health);
  try {
    const port = Number(new URL(first.url).port);
    await assert.rejects(serveMetrics({ host: '127.0.0.1', port }, metrics.registry, health), {
      name: 'ListenError',
      code: 'EADDRINUSE',
    });
  } finally {
    await first.close();
  }
});
