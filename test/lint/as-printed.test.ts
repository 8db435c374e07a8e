// SPDX-License-Identifier: Apache-2.0
// Objects as a cluster prints them, whole, are right: whoever saves them into a folder is told nothing.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { lintFiles } from '../../src/lint/lint.ts';

test('what kubectl prints has no problem', () => {
  const text = readFileSync(new URL('../fixtures/as-printed.yaml', import.meta.url), 'utf8');
  const { problems, objects, passedOver } = lintFiles([{ path: 'as-printed.yaml', text }]);
  assert.deepEqual([problems, objects, passedOver], [[], 8, 0]);
});

test('a status that is no mapping is none', () => {
  const text =
    'apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {policyTypes: [Egress]}\nstatus: done\n';
  const { problems } = lintFiles([{ path: 'a.yaml', text }]);
  assert.deepEqual(
    problems.map(({ path, message, line }) => [path, message, line]),
    [['status', 'must be a mapping, not "done"', 5]],
  );
});
