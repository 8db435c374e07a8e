// SPDX-License-Identifier: Apache-2.0
// Does an audit of a large map let others have their turn, see what they write meanwhile, and give the same digest for the same contents?
import assert from 'node:assert/strict';
import test from 'node:test';
import { loadNative, type NativeObject } from '#src/kernel/native.ts';
import { loadPrograms } from '#src/kernel/programs.ts';
import type { MapAudit } from '#src/kernel/table.ts';
import { kernelTables } from '#src/kernel/tables.ts';
import { FakeObject } from './fake.ts';
import { id } from './fixture.ts';

const ENTRIES = 10_000;
const PER_TURN = 512;

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

test('what somebody else did is found in whichever part of the map, and by an audit amid which the agent writes', () => {
  const random = sequence(7);
  for (let round = 0; round < 40; round++) {
    const { object, identities } = filled(forwards);
    const [changed, lost] = [random(ENTRIES), random(ENTRIES)];
    const held = object.lookup('identities', bytes(changed)) ?? Buffer.alloc(0);
    object.update('identities', bytes(changed), Buffer.from(held.map((byte) => byte ^ 1)), 1, 0);
    if (lost !== changed) object.remove('identities', bytes(lost), 1);
    object.update('identities', bytes(ENTRIES + random(ENTRIES)), held, 1, 0);
    const expected = lost === changed ? 2 : 3;
    let told = 0;
    const repair = identities.audit(true, () => {
      told += 1;
    });
    const { audit } = run(repair, (turn) => {
      identities.upsert(new Map([[key(3 * ENTRIES + turn), identity(turn)]]), () => undefined);
    });
    assert.equal(audit.differing, expected, `round ${round}`);
    assert.ok(told >= 1 && told <= expected);
    const { differing, digest, wantedDigest } = run(identities.audit(false)).audit;
    assert.deepEqual([differing, digest], [0, wantedDigest]);
  }
});

test('of a trie, too, also what hides behind a shorter prefix that says the same', () => {
  withKernel({}, (object) => {
    const { networks } = kernelTables(object);
    const prefix = (length: number) => `0/${'0'.repeat(20)}ffff0a010000/${96 + length}` as const;
    const lengths = [8, 16, 24, 32];
    networks.upsert(new Map(lengths.map((length) => [prefix(length), id('1')])), () => undefined);
    const right = run(networks.audit(false)).audit;
    assert.deepEqual([right.entries, right.differing, right.digest], [4, 0, right.wantedDigest]);
    const all = object.dump('networks');
    for (let index = 0; index < all.count; index++) {
      const key = all.keys.subarray((index * all.keys.length) / all.count, ((index + 1) * all.keys.length) / all.count);
      object.remove('networks', key, 1);
      const seen = run(networks.audit(false)).audit;
      assert.deepEqual([seen.entries, seen.wanted, seen.differing], [3, 4, 1]);
      assert.equal(seen.wantedDigest, right.digest);
      assert.notEqual(seen.digest, right.digest);
      assert.equal(run(networks.audit(true)).audit.differing, 1);
      // The same prefix, by a key that is another beyond it.
      if (key.readUInt32LE(0) < 32 + 128) {
        const other = Buffer.from(key);
        other[other.length - 1] = 1;
        object.update('networks', other, Buffer.alloc(8, 1), 1, 0);
        assert.ok(run(networks.audit(true)).audit.differing > 0);
      }
      assert.deepEqual(run(networks.audit(false)).audit, right);
    }
  });
});

test('a trie that the agent changes all the time is audited all the same', () => {
  withKernel({}, (object) => {
    const { networks } = kernelTables(object);
    const prefix = (index: number) => `0/${key(index)}/128` as const;
    networks.upsert(new Map(forwards.slice(0, 2000).map((index) => [prefix(index), id('1')])), () => undefined);
    const strange = Buffer.concat([Buffer.from([32 + 128, 0, 0, 0]), Buffer.alloc(20, 0xaa)]);
    object.update('networks', strange, Buffer.alloc(8, 1), 1, 0);
    const { audit } = run(networks.audit(true), (turn) => {
      networks.upsert(new Map([[prefix(5000 + turn), id('2')]]), () => undefined);
      networks.remove(new Set([prefix(turn)]), () => undefined);
    });
    assert.equal(audit.differing, 1);
    assert.equal(run(networks.audit(false)).audit.differing, 0);
  });
});

test('a map of the kernel that holds 50,000 addresses, while addresses come and go', () => {
  const size = 50_000;
  withKernel({ identities: 2 * size }, (object) => {
    const { identities } = kernelTables(object);
    identities.upsert(
      new Map(Array.from({ length: size }, (_, index) => [key(index), identity(index)])),
      () => undefined,
    );
    const churn = (turn: number): void => {
      identities.upsert(new Map([[key(size + turn), identity(turn)]]), () => undefined);
      identities.remove(new Set([key(turn)]), () => undefined);
    };
    const quiet = run(identities.audit(true), churn);
    assert.ok(quiet.turns >= (2 * size) / PER_TURN - 2, `${quiet.turns} turns`);
    assert.deepEqual([quiet.audit.entries, quiet.audit.wanted, quiet.audit.differing], [size, size, 0]);
    assert.equal(object.dump('identities').count, size);
    // None that comes or goes again: that would put it right.
    const lost = Array.from({ length: 100 }, (_, index) => bytes(size - 1 - index));
    assert.equal(object.remove('identities', Buffer.concat(lost), 100), 100);
    object.update('identities', bytes(4 * size), Buffer.alloc(object.maps().identities?.valueSize ?? 0, 1), 1, 0);
    const seen = run(identities.audit(false)).audit;
    assert.deepEqual([seen.entries, seen.wanted, seen.differing], [size - 99, size, 101]);
    assert.equal(run(identities.audit(true), churn).audit.differing, 101);
    const after = run(identities.audit(false)).audit;
    assert.deepEqual([after.differing, after.digest], [0, after.wantedDigest]);
  });
});

function bytes(index: number): Buffer {
  return Buffer.from(key(index), 'hex');
}

/** A pseudo-random number below `bound`, the same ones for the same seed: Park and Miller's. */
function sequence(seed: number): (bound: number) => number {
  let state = seed;
  return (bound) => {
    state = (state * 48_271) % 2_147_483_647;
    return state % bound;
  };
}

function withKernel(sizes: Readonly<Record<string, number>>, use: (object: NativeObject) => void): void {
  const object = loadPrograms(loadNative(), sizes);
  try {
    use(object);
  } finally {
    object.close();
  }
}
