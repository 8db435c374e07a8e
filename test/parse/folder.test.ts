// SPDX-License-Identifier: Apache-2.0
// Are clashes between objects found, and who keeps what?
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readDocuments } from '../../src/parse/document.ts';
import { assemble } from '../../src/parse/folder.ts';

const pod = (name: string, cgroup: string) =>
  `{apiVersion: v1, kind: Pod, metadata: {name: ${name}, annotations: {postern.dev/cgroup: ${JSON.stringify(cgroup)}}}}`;

test('the same object twice: the first stays, each later one is told', () => {
  const a = readDocuments({
    path: 'a',
    text: '{apiVersion: v1, kind: Namespace, metadata: {name: x, labels: {from: a}}}',
  });
  const b = readDocuments({
    path: 'b',
    text: '---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: x\n---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: "y"\n---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: x\n',
  });
  const { objects, problems } = assemble([...a, ...b]);
  assert.deepEqual(
    objects.map(({ key, position }) => [key, position.file]),
    [
      ['Namespace/x', 'a'],
      ['Namespace/y', 'b'],
    ],
  );
  assert.deepEqual(
    problems.map(({ file, line, column, code, severity }) => [file, line, column, code, severity]),
    [
      ['b', 5, 9, 'duplicate_object', 'error'],
      ['b', 15, 9, 'duplicate_object', 'error'],
    ],
  );
});

test('one cgroup for two pods, or one inside the other: neither is bound', () => {
  const table: [string[], number[]][] = [
    [['a', 'b', 'c'], []],
    [
      ['a', 'a'],
      [0, 1],
    ],
    [
      ['a', '/a/', 'b'],
      [0, 1],
    ],
    [
      ['a/b', 'a'],
      [0, 1],
    ],
    [['a', 'ab', 'a-b', 'a.b'], []],
    [
      ['a', 'a-b', 'a/b', 'c'],
      [0, 2],
    ],
    [
      ['a', 'a/b', 'a/b/c', 'a/d'],
      [0, 1, 2, 3],
    ],
    [
      ['x/a', 'y/a', 'x/a/b', 'y'],
      [0, 1, 2, 3],
    ],
  ];
  for (const [cgroups, expected] of table) {
    const text = cgroups.map((cgroup, i) => pod(`p${i}`, cgroup)).join('\n---\n');
    const { unbound, problems, objects } = assemble(readDocuments({ path: 'f', text }));
    const told = JSON.stringify(cgroups);
    assert.deepEqual(
      [...unbound],
      expected.map((i) => `Pod/default/p${i}`),
      told,
    );
    assert.deepEqual(
      problems.map(({ object }) => object),
      [...unbound],
      told,
    );
    assert.equal(objects.length, cgroups.length, told);
  }
});
