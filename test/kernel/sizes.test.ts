// SPDX-License-Identifier: Apache-2.0
// Can every map be sized, and is each default what an agent loads and docs/limits.md says?
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { loadNative } from '../../src/kernel/native.ts';
import { loadPrograms } from '../../src/kernel/programs.ts';
import { DEFAULT_SIZES, mapSize } from '../../src/kernel/sizes.ts';

/** Not for sizing: they go by another map's size, or have the one they need. */
const FIXED = ['epochs', 'budgets', 'flow_order', 'losses', 'settings', 'sockets', 'grace'];
/** Nothing is written to these yet: they become maps to be sized with what learns names. */
const NAMES = [
  'asked',
  'asked_order',
  'begun',
  'begun_blank',
  'dns_losses',
  'dns_works',
  'learned',
  'learned_order',
  'names',
  'resolvers',
  'texts',
  'told',
  'told_order',
];

test('a size is NAME=N; what is wrong with it says what to write', () => {
  assert.deepEqual(mapSize('identities=2000000'), { map: 'identities', entries: 2_000_000 });
  assert.deepEqual(mapSize('events=65536'), { map: 'events', entries: 65_536 });
  const mistakes: [string, RegExp][] = [
    ['', /write NAME=N/],
    ['identities', /write NAME=N/],
    ['identities=', /write NAME=N/],
    ['identities=-1', /write NAME=N/],
    ['identities=1e6', /write NAME=N/],
    ['identities=99999999999', /write NAME=N/],
    ['identity=5', /there is no map identity: write one of workloads, identities/],
    ['constructor=5', /there is no map constructor/],
    ['epochs=5', /there is no map epochs/],
    ['identities=0', /write identities=1048576/],
    ['identities=16777217', /1 to 16777216 entries/],
    ['events=65537', /a power of two from 65536/],
    ['events=32768', /write events=1048576/],
    ['events=134217728', /to 67108864/],
  ];
  for (const [text, wrong] of mistakes) {
    const size = mapSize(text);
    assert.ok('wrong' in size, text);
    assert.match(size.wrong, wrong, text);
  }
});

test('each map that is loaded can be sized, or goes by one that can; the defaults are those loaded, and documented', () => {
  const native = loadNative();
  const plain = loadPrograms(native);
  try {
    const loaded = plain.maps();
    assert.deepEqual(Object.keys(loaded).sort(), [...Object.keys(DEFAULT_SIZES), ...FIXED, ...NAMES].sort());
    for (const [map, entries] of Object.entries(DEFAULT_SIZES)) assert.equal(loaded[map]?.maxEntries, entries, map);
  } finally {
    plain.close();
  }
  const docs = readFileSync(path.join(import.meta.dirname, '../../docs/limits.md'), 'utf8');
  const rows = [...docs.matchAll(/^\| `([a-z]+)` \| ([\d,]+)/gm)].map(([, map, entries]) => [
    map,
    Number(entries?.replaceAll(',', '')),
  ]);
  assert.deepEqual(Object.fromEntries(rows), DEFAULT_SIZES);
});

test('maps have the sizes that were asked for, and what goes by them follows', () => {
  const sizes = Object.fromEntries(
    Object.keys(DEFAULT_SIZES).map((map, at) => [map, map === 'events' ? 65_536 : 7 + at]),
  );
  const object = loadPrograms(loadNative(), sizes);
  try {
    const loaded = object.maps();
    for (const [map, entries] of Object.entries(sizes)) assert.equal(loaded[map]?.maxEntries, entries, map);
    const of = (map: string) => loaded[map]?.maxEntries;
    assert.equal(of('flow_order'), of('flows'));
    assert.deepEqual([of('epochs'), of('budgets')], [8, 8], 'one more than workloads: the unknown');
  } finally {
    object.close();
  }
});
