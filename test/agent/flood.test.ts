// SPDX-License-Identifier: Apache-2.0
// What do one workload's floods do to the others, and what of them does the agent get to see? Counts alone are looked at, never how fast it
// went; bench/floods.ts measures what they take of the processor.
import assert from 'node:assert/strict';
import test from 'node:test';
import {
  EVENTS_BURST,
  EVENTS_PER_SECOND,
  FLOWS_PER_WORKLOAD,
  FRAGMENTS_PER_WORKLOAD,
  TEXTS_PER_WORKLOAD,
} from '#build/generated/abi.ts';
import { FloodedNode, SERVER } from '../support/flood.ts';

const REFUSED = 1_000_000;
const ALLOWED = 50_000;

async function start(t: test.TestContext): Promise<FloodedNode> {
  const node = await FloodedNode.start();
  t.after(() => node.close());
  return node;
}

test('a million refused datagrams are counted to the last; no more of them are told than its budget, and all of another that is quiet', async (t) => {
  const node = await start(t);
  const { agent, quiet } = node;
  const beganMs = performance.now();
  const flood = node.flood('refused', REFUSED);
  await agent.line(({ event, workload }) => event === 'drop' && workload === 'shop/loud');
  // As many as are told of one workload at once, and each a kind of its own.
  for (let port = 1001; port <= 1020; port += 1) {
    assert.equal(await quiet.actor.tryTcp(SERVER, 80), 'ok');
    assert.equal(await quiet.actor.tryTcp(SERVER, port), 'EPERM');
  }
  assert.equal((await flood).said, REFUSED);

  const metrics = await node.metrics();
  const refused = (name: string) =>
    metrics.get(
      `postern_drop_count_total{workload="shop/${name}",direction="egress",policy="EgressPolicy/shop/all",reason="no_rule"}`,
    );
  assert.deepEqual([refused('loud'), refused('quiet')], [REFUSED, 20]);
  const lost = (why: string) => metrics.get(`postern_events_lost_total{why="${why}"}`) ?? 0;
  const read = REFUSED - lost('events_rate') - lost('events_full');
  const seconds = (performance.now() - beganMs) / 1000;
  assert.equal(lost('events_full'), 0, 'nobody else finds the buffer full');
  assert.ok(read > 0 && read <= EVENTS_BURST + EVENTS_PER_SECOND * (seconds + 1), `${read} in ${seconds} s`);

  assert.equal(await agent.stop(), 0);
  const told = new Set(agent.lines.flatMap((line) => (line.workload === 'shop/quiet' ? [line.port] : [])));
  assert.equal(told.size, 20, 'nothing of the quiet one is missing');
});

test('of new flows and new names the agent hears nothing, however many: each is judged, and what is past a budget is counted', async (t) => {
  const node = await start(t);
  const from = node.agent.lines.length;
  assert.equal((await node.flood('flows', ALLOWED)).said, 0, 'refused');
  const passed = (metrics: ReadonlyMap<string, number>) =>
    metrics.get(
      'postern_forward_count_total{workload="shop/loud",direction="egress",policy="EgressPolicy/shop/all",reason="rule"}',
    );
  const flows = await node.metrics();
  assert.equal(passed(flows), ALLOWED);
  const flowsKept = FLOWS_PER_WORKLOAD - FRAGMENTS_PER_WORKLOAD;
  assert.equal(flows.get('postern_events_lost_total{why="flows_evicted"}'), ALLOWED - flowsKept);

  const { said } = await node.flood('names', ALLOWED);
  const names = await node.metrics();
  assert.equal(said, ALLOWED, 'answered');
  assert.equal(passed(names), 2 * ALLOWED);
  assert.equal(names.get('postern_events_lost_total{why="texts_evicted"}'), ALLOWED - TEXTS_PER_WORKLOAD);
  assert.deepEqual(node.agent.lines.slice(from), []);
});
