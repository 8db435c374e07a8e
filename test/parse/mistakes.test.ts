// SPDX-License-Identifier: Apache-2.0
// Is each typical mistake told at its line, in words that say what to write instead? By the table test/fixtures/mistakes.txt.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { problemLine } from '../../src/cli/lint.ts';
import { lintFiles } from '../../src/lint/lint.ts';

const table = readFileSync(new URL('../fixtures/mistakes.txt', import.meta.url), 'utf8');

const cases = table
  .split(/^=== /m)
  .slice(1)
  .map((part) => {
    const [title = '', ...lines] = part.trimEnd().split('\n');
    const expected = lines.filter((line) => line.startsWith('» ')).map((line) => line.slice(2));
    const text = lines.filter((line) => !line.startsWith('» ')).join('\n');
    return { title, text: `${text}\n`, expected };
  });

test('the table holds what it should', () => {
  assert.ok(cases.length >= 60, `${cases.length} cases`);
  assert.equal(new Set(cases.map(({ title }) => title)).size, cases.length);
  for (const { title, expected } of cases) assert.ok(expected.length > 0, title);
});

for (const { title, text, expected } of cases) {
  test(title, () => {
    const { problems } = lintFiles([{ path: 'f', text }]);
    assert.deepEqual(
      problems.map((problem) => problemLine(problem).slice('f:'.length)),
      expected,
    );
  });
}

test('mistakes do not hide each other: all of a folder are told, in the order of files and lines', () => {
  const files = cases.map(({ text }, i) => ({ path: `${String(i).padStart(3, '0')}.yaml`, text }));
  const alone = files.flatMap((file) => lintFiles([file]).problems.filter(({ code }) => !isBetween(code)));
  const together = lintFiles(files).problems;
  const rest = together.filter(({ code }) => !isBetween(code));
  assert.deepEqual(
    rest.map((problem) => problemLine(problem)),
    alone.map((problem) => problemLine(problem)),
  );
  const places = together.map(({ file, line }) => `${file}:${String(line).padStart(3, '0')}`);
  assert.deepEqual(places, places.toSorted());
});

/** Said of what stands between objects: another file changes it. */
function isBetween(code: string): boolean {
  return /^(duplicate_object|cgroup_clash|selects_nobody|no_dns_rule|service_not_\w+|unreachable_rule|same_priority|port_not_found|cluster_name|wide_name)$/.test(
    code,
  );
}
