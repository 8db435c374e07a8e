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
    { event: 'source_problem', kinds: ['Node'], message: denied },
    { event: 'waiting', for: 'the first list of Node' },
  ]);
  assert.deepEqual(take(['Pod', true, null], ['Node', true, null]), [
    { event: 'source_mended', kinds: ['Node'], message: 'Node: can be read again' },
  ]);
  assert.deepEqual(take(['Pod', true, 'a'], ['Node', true, null]), [
    { event: 'source_problem', kinds: ['Pod'], message: 'a' },
  ]);
  assert.deepEqual(take(['Pod', true, 'b'], ['Node', true, null]), [
    { event: 'source_problem', kinds: ['Pod'], message: 'b' },
  ]);
});

test('what stands in the way of all kinds is one line, and one when it is over for all', () => {
  const told: string[] = [];
  const log = new SourceLog((event) => {
    if (event.event !== 'waiting') told.push(`${event.event} ${event.kinds.join()}: ${event.message}`);
  });
  /** `a` away, with words of its own; `d` denied; else well. */
  const take = (...states: string[]): string[] => {
    const kinds = ['Node', 'Pod', 'Service'];
    log.update(
      kinds.map((kind, index) => {
        const state = states[index] ?? '';
        if (state === '') return { kind, synced: true, problem: null };
        if (state === 'd') return { kind, synced: true, problem: `may not list ${kind}` };
        const common = { code: 'UNREACHABLE', message: `away (${state})` };
        return { kind, synced: true, problem: `${kind}: ${common.message}`, common };
      }),
    );
    return told.splice(0);
  };
  assert.deepEqual(take('', 'a', 'a'), ['source_problem Pod,Service: away (a)']);
  assert.deepEqual(take('a', 'a1', 'a2'), ['source_problem Node: away (a)'], 'other words are no other problem');
  assert.deepEqual(take('a', 'a', ''), [], 'one is well before the others');
  assert.deepEqual(take('a', 'a', 'a'), [], 'and not any more');
  assert.deepEqual(take('a', 'd', ''), ['source_problem Pod: may not list Pod']);
  assert.deepEqual(take('', 'd', ''), ['source_mended Node,Service: Node, Service: can be read again']);
  assert.deepEqual(take('', '', ''), ['source_mended Pod: Pod: can be read again']);
});
