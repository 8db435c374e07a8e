// SPDX-License-Identifier: Apache-2.0
// Is every reason that users can meet explained in docs/reasons.md, under its number, and no other?
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { REASON_DENIED, REASON_NAMES } from '#build/generated/abi.ts';

const page = readFileSync(path.join(import.meta.dirname, '../../docs/reasons.md'), 'utf8');
const entries = [...page.matchAll(/^### `([a-z_]+)` \((\d+)\)\n\n([\s\S]*?)(?=^##|$(?![\s\S]))/gm)].map(
  ([, name = '', number, text = '']) => ({ name, number: Number(number), text }),
);

test('every reason is there under its number, and no other', () => {
  assert.equal(entries.length, page.match(/^###/gm)?.length, 'each entry is headed `name` (number)');
  assert.deepEqual(
    entries.map(({ name, number }) => `${number} ${name}`).sort(),
    [...REASON_NAMES].map(([number, name]) => `${number} ${name}`).sort(),
  );
});

test('each says what it means, and each refusal what to do', () => {
  for (const { name, number, text } of entries) {
    assert.ok(text.trim().length > 40, name);
    if (number >= REASON_DENIED) assert.match(text, /^\*\*Do\*\*: \S/m, name);
  }
});

test('reasons that the page refers to exist', () => {
  const known = new Set([...REASON_NAMES.values(), 'no_address']);
  for (const [, name = ''] of page.matchAll(/\]\(#([a-z_]+)-\d+\)/g)) assert.ok(known.has(name), name);
});
