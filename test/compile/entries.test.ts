// SPDX-License-Identifier: Apache-2.0
// Merged entries say of every protocol and port what the contributions say one by one, and a port set says what its entries say.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { type Contribution, entries, lookUp, merge, portSet, SILENT_ANSWER } from '../../src/compile/entries.ts';
import type { Answer, Entry, PortPrefix } from '../../src/model/tables.ts';

const PROTOCOLS = [1, 6, 17, 132];
const port = fc.oneof(
  fc.constantFrom(0, 1, 2, 79, 80, 81, 443, 1023, 1024, 65534, 65535),
  fc.integer({ min: 0, max: 65535 }),
);
const contribution: fc.Arbitrary<Contribution> = fc.oneof(
  fc
    .record({
      protocol: fc.constantFrom(...PROTOCOLS),
      range: fc.tuple(port, port),
      tier: fc.constantFrom('admin' as const, 'policy' as const, 'baseline' as const),
      value: fc.integer({ min: 0, max: 12 }),
    })
    .map(({ protocol, range: [a, b], tier, value }) => ({
      protocol,
      first: Math.min(a, b),
      last: Math.max(a, b),
      tier,
      value,
      except: [],
    })),
  fc
    .record({
      protocol: fc.constantFrom(...PROTOCOLS),
      range: fc.tuple(port, port),
      value: fc.integer({ min: 0, max: 7 }),
    })
    .map(({ protocol, range: [a, b], value }) => ({
      protocol,
      first: Math.min(a, b),
      last: Math.max(a, b),
      tier: 'limit' as const,
      value,
      except: [],
    })),
  fc
    .record({
      tier: fc.constantFrom('admin' as const, 'policy' as const, 'limit' as const),
      value: fc.integer({ min: 0, max: 7 }),
      except: fc.array(fc.tuple(fc.constantFrom(...PROTOCOLS), port), { maxLength: 3 }),
    })
    .map(({ tier, value, except }) => ({ protocol: 0, first: 0, last: 0xffff, tier, value, except })),
);

function plain(contributions: readonly Contribution[], protocol: number, at: number): Answer {
  return contributions
    .filter((each) => each.protocol === 0 || each.protocol === protocol)
    .filter((each) => each.first <= at && at <= each.last)
    .filter((each) => !each.except.some(([other, hole]) => other === protocol && hole === at))
    .map((each) =>
      each.tier === 'limit'
        ? { ...SILENT_ANSWER, limits: 1 << each.value }
        : { ...SILENT_ANSWER, [each.tier]: each.value },
    )
    .reduce(merge, SILENT_ANSWER);
}

function interesting(contributions: readonly Contribution[]): number[] {
  const edges = contributions.flatMap(({ first, last, except }) => [
    first - 1,
    first,
    last,
    last + 1,
    ...except.flatMap(([, hole]) => [hole - 1, hole, hole + 1]),
  ]);
  return [...new Set([0, 80, 65535, ...edges])].filter((at) => at >= 0 && at <= 65535);
}

test('the first entry that matches says what all contributions say together', () => {
  fc.assert(
    fc.property(fc.array(contribution, { maxLength: 12 }), (contributions) => {
      const merged = entries(contributions);
      for (const protocol of [...PROTOCOLS, 47]) {
        for (const at of interesting(contributions)) {
          assert.deepEqual(lookUp(merged, protocol, at), plain(contributions, protocol, at));
        }
      }
    }),
    { numRuns: 2000 },
  );
});

test('no two neighbours say the same, and nothing is kept that says nothing', () => {
  const rule = { protocol: 6, tier: 'policy' as const, value: 3, except: [] };
  assert.deepEqual(
    entries([
      { ...rule, first: 1, last: 5 },
      { ...rule, first: 6, last: 9 },
    ]),
    [{ protocol: 6, first: 1, last: 9, answer: { ...SILENT_ANSWER, policy: 3 } }],
  );
  assert.deepEqual(entries([]), []);
});

test('a final hides what rules say of its port, and of no other', () => {
  const rule: Contribution = { protocol: 0, first: 0, last: 0xffff, tier: 'policy', value: 0, except: [] };
  const answer = { ...SILENT_ANSWER, policy: 0xffff, final: 32 };
  const merged = entries([rule], [{ protocol: 6, port: 443, answer }]);
  assert.deepEqual(lookUp(merged, 6, 443), answer);
  assert.equal(lookUp(merged, 6, 442).policy, 0);
  assert.equal(lookUp(merged, 17, 443).policy, 0);
});

/** As an LPM trie over (protocol, port) answers: the longest prefix that holds. */
function longest(prefixes: readonly PortPrefix[], protocol: number, at: number): Answer {
  let best: PortPrefix | null = null;
  for (const each of prefixes) {
    const bits = Math.max(0, each.length - 16);
    const holds = each.length === 0 || (each.protocol === protocol && each.port >> (16 - bits) === at >> (16 - bits));
    if (holds && (best === null || each.length > best.length)) best = each;
  }
  return best?.answer ?? SILENT_ANSWER;
}

test('a port set says what its entries say', () => {
  fc.assert(
    fc.property(fc.array(contribution, { maxLength: 12 }), (contributions) => {
      const list: Entry[] = entries(contributions);
      const { prefixes } = portSet(list);
      for (const protocol of [...PROTOCOLS, 47]) {
        for (const at of interesting(contributions)) {
          assert.deepEqual(longest(prefixes, protocol, at), lookUp(list, protocol, at));
        }
      }
    }),
    { numRuns: 1000 },
  );
});
