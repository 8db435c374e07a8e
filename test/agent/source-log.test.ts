// SPDX-License-Identifier: Apache-2.0
// Is what a source waits for told once, and once when it is over?
import assert from 'node:assert/strict';
import test from 'node:test';
import { type SourceEvent, SourceLog } from '../../src/agent/source-log.ts';

test('what is waited for, and what stands in the way', () => {
  const told: SourceEvent[] = [];
  const log = new SourceLog((event) => told.push(event));
  const take = (...status: [kind: string, synced: boolean, problem: string | null][]): SourceEvent[] => {
    log.update(status.map(([kind, synced, problem]) => ({ kind, synced, problem })));
    return told.splice(0);
  };
  assert.deepEqual(take(['Pod', false, null], ['Node', false, null]), [
    { event: 'waiting', for: 'the first list of Pod, Node' },
  ]);
  assert.deepEqual(take(['Pod', false, null], ['Node', false, null]), []);
  const denied = 'not allowed to list nodes';
  assert.deepEqual(take(['Pod', true, null], ['Node', false, denied]), [
    { event: 'source_problem', kind: 'Node', message: denied },
    { event: 'waiting', for: 'the first list of Node' },
  ]);
  assert.deepEqual(take(['Pod', true, null], ['Node', true, null]), [
    { event: 'source_mended', kind: 'Node', message: denied },
  ]);
  assert.deepEqual(take(['Pod', true, 'a'], ['Node', true, null]), [
    { event: 'source_problem', kind: 'Pod', message: 'a' },
  ]);
  assert.deepEqual(take(['Pod', true, 'b'], ['Node', true, null]), [
    { event: 'source_problem', kind: 'Pod', message: 'b' },
  ]);
});
