// SPDX-License-Identifier: Apache-2.0
// Does an audit of a large map let others have their turn, see what they write meanwhile, and give the same digest for the same contents?
import assert from 'node:assert/strict';
import test from 'node:test';
import type { MapAudit } from '#src/kernel/table.ts';
import { kernelTables } from '#src/kernel/tables.ts';
import { FakeObject } from './fake.ts';
import { id } from './fixture.ts';

const ENTRIES = 10_000;
const PER_TURN = 1024;

function key(index: number): string {
  return `00000000000000000000ffff${index.toString(16).padStart(8, '0')}`;
}

function identity(index: number): { id: string; network: string; kind: number } {
  return { id: index.toString(16).padStart(16, '0'), network: id('0'), kind: 1 };
}

function filled(order: readonly number[]) {
  const object = new FakeObject();
  const { identities } = kernelTables(object);
  identities.upsert(new Map(order.map((index) => [key(index), identity(index)])), () => undefined);
  return { object, identities };
}

const forwards = Array.from({ length: ENTRIES }, (_, index) => index);

/** To its end; `meanwhile` is called each time that it yields. */
function run(audit: Generator<void, MapAudit>, meanwhile: (turn: number) => void = () => undefined) {
  for (let turns = 0; ; turns++) {
    const next = audit.next();
    if (next.done === true) return { turns, audit: next.value };
    meanwhile(turns);
  }
}

test('it yields, and contents have one digest, whatever their order', () => {
  const one = run(filled(forwards).identities.audit(false));
  const other = run(filled(forwards.toReversed()).identities.audit(false));
  assert.ok(one.turns >= (2 * ENTRIES) / PER_TURN - 2, `${one.turns} turns`);
  assert.deepEqual(
    { ...one.audit, digest: '', wantedDigest: '' },
    {
      ...{ map: 'identities', entries: ENTRIES, wanted: ENTRIES, differing: 0, digest: '', wantedDigest: '' },
    },
  );
  assert.match(one.audit.digest ?? '', /^[0-9a-f]{16}$/);
  assert.equal(one.audit.digest, one.audit.wantedDigest);
  assert.equal(one.audit.digest, other.audit.digest);
  assert.notEqual(run(filled(forwards.slice(1)).identities.audit(false)).audit.digest, one.audit.digest);
});

test('what somebody else changed is counted, differs in its digest, and is put right', () => {
  const { object, identities } = filled(forwards);
  const right = run(identities.audit(false)).audit.digest;
  const { keys, values } = object.dump('identities');
  const changed = values.subarray(0, values.length / ENTRIES).map((byte) => byte ^ 1);
  object.update('identities', keys.subarray(0, 16), Buffer.from(changed), 1, 0);
  object.remove('identities', keys.subarray(16, 48), 2);
  const seen = run(identities.audit(false)).audit;
  assert.equal(seen.differing, 3);
  assert.equal(seen.wantedDigest, right);
  assert.notEqual(seen.digest, right);
  assert.equal(run(identities.audit(true)).audit.differing, 3);
  assert.equal(run(identities.audit(false)).audit.digest, right);
});

test('what the agent itself writes meanwhile is no drift, and is not undone, also where it never stops', () => {
  for (const times of [1, Number.POSITIVE_INFINITY]) {
    const { object, identities } = filled(forwards);
    let written = 0;
    const { audit } = run(identities.audit(true), (turn) => {
      if (turn >= times || turn % 7 !== 0) return;
      identities.upsert(new Map([[key(ENTRIES + written), identity(written)]]), () => undefined);
      identities.remove(new Set([key(written)]), () => undefined);
      written += 1;
    });
    assert.ok(written > 0);
    assert.equal(audit.differing, 0);
    assert.equal(object.dump('identities').count, ENTRIES);
  }
});
