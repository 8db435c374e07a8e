// SPDX-License-Identifier: Apache-2.0
// Are documents read as kubectl reads them, and is everything found where it stands?
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readYaml } from '../../src/yaml/documents.ts';

const values = (text: string) => readYaml(text).map(({ value }) => value);
const only = (text: string) => {
  const [document, ...more] = readYaml(text);
  assert.ok(document);
  assert.deepEqual(more, []);
  return document;
};

test('documents: one, many, empty ones left out, JSON, a byte order mark, Windows line ends', () => {
  assert.deepEqual(values(''), []);
  assert.deepEqual(values('# a comment\n---\n---\n# another\n'), []);
  assert.deepEqual(values('a: 1\n'), [{ a: 1 }]);
  assert.deepEqual(values('---\na: 1\n---\n\n---\nb: [x]\n...\n'), [{ a: 1 }, { b: ['x'] }]);
  assert.deepEqual(values('{"a": [1, "x", null, true]}'), [{ a: [1, 'x', null, true] }]);
  assert.deepEqual(values('{\n\t"a": [\n\t\t1\n\t]\n}\n'), [{ a: [1] }]);
  assert.deepEqual(values('\ufeffa: 1\r\nb: x\r\n'), [{ a: 1, b: 'x' }]);
});

test('scalars are those of YAML 1.1, as goyaml reads them', () => {
  const table: [string, unknown][] = [
    ['yes', true],
    ['Off', false],
    ['"yes"', 'yes'],
    ['y', 'y'],
    ['N', 'N'],
    ['~', null],
    ['0644', 420],
    ['0x1F', 31],
    ['1_000', 1000],
    ['1.50', 1.5],
    ['1e3', 1000],
    ['e0', 'e0'],
    ['e12', 'e12'],
    ['.', '.'],
    ['1.2.3', '1.2.3'],
    ['2001-01-01', '2001-01-01'],
    ['12:30:45', '12:30:45'],
    ['10.0.0.0/8', '10.0.0.0/8'],
    ['::1', '::1'],
    ['=', '='],
  ];
  for (const [text, value] of table) assert.deepEqual(values(`k: ${text}\n`), [{ k: value }], text);
});

test('keys are text, whatever they look like, and __proto__ is one like any other', () => {
  const { value } = only('1: a\ntrue: b\n__proto__: {x: c}\n');
  assert.deepEqual(Object.entries(value as object), [
    ['1', 'a'],
    ['true', 'b'],
    ['__proto__', { x: 'c' }],
  ]);
  assert.equal(Object.getPrototypeOf(value), Object.prototype);
});

test('anchors and merges', () => {
  const { value, problems } = only('a: &a {x: 1, y: 2}\nb: *a\nc: {<<: *a, y: 3}\nd: {<<: [{x: 9}, *a]}\n');
  assert.deepEqual(problems, []);
  assert.deepEqual(value, { a: { x: 1, y: 2 }, b: { x: 1, y: 2 }, c: { x: 1, y: 3 }, d: { x: 9, y: 2 } });
});

test('an alias is the last value before it that has its anchor', () => {
  const { value, problems } = only('a: &x 1\nb: *x\nc: [&x 2, *x]\n? &k key\n: &x 3\nd: *x\ne: *k\n');
  assert.deepEqual(problems, []);
  assert.deepEqual(value, { a: 1, b: 1, c: [2, 2], key: 3, d: 3, e: 'key' });
  // In minutes, if each were looked for in all of the document.
  const many = only(`x: &x 1\ny:\n${'- *x\n'.repeat(9_000)}`);
  assert.deepEqual(many.problems, []);
  assert.deepEqual(many.value, { x: 1, y: Array(9_000).fill(1) });
});

test('places: of keys, of values, through aliases and merges, and of the deepest there is', () => {
  const document = only('a:\n  b:\n  - x: 1\n    y: &y {z: 2}\n  - *y\nc: {<<: *y}\n');
  const at = (path: (string | number)[], where: 'key' | 'value') => {
    const { line, column } = document.locate(path, where);
    return `${line}:${column}`;
  };
  assert.equal(at([], 'key'), '1:1');
  assert.equal(at(['a', 'b'], 'key'), '2:3');
  assert.equal(at(['a', 'b', 0, 'x'], 'key'), '3:5');
  assert.equal(at(['a', 'b', 0, 'x'], 'value'), '3:8');
  assert.equal(at(['a', 'b', 0, 'y'], 'value'), '4:5', 'a mapping is told at its key');
  assert.equal(at(['a', 'b', 1], 'value'), '5:5');
  assert.equal(at(['a', 'b', 1, 'z'], 'value'), '4:15', 'where the alias leads');
  assert.equal(at(['c', 'z'], 'value'), '4:15', 'where the merge leads');
  assert.equal(at(['a', 'b', 7, 'x'], 'value'), '2:3');
  assert.equal(at(['nothing'], 'value'), '1:1');
  assert.equal(document.source(['a', 'b', 0, 'x']), '1');
  assert.equal(document.source(['a', 'b']), null);
  assert.equal(document.source(['a', 'nothing']), null);
});

test('a broken document leaves those after it alone', () => {
  const [first, second] = readYaml('a: [1,\n---\nb: 2\n');
  assert.equal(first?.problems.length, 1);
  assert.deepEqual(second?.value, { b: 2 });
  assert.deepEqual(second?.problems, []);
  assert.deepEqual(second?.position, { line: 3, column: 1 });
});

test('what could exhaust the reader is refused', () => {
  const laughs = Array.from({ length: 9 }, (_, i) => `l${i + 1}: &l${i + 1} [${Array(9).fill(`*l${i}`).join(', ')}]`);
  const bombs: [string, RegExp][] = [
    [`l0: &l0 ha\n${laughs.join('\n')}\n`, /aliases repeat more than 10000 values/],
    ['a: &a [*a]\n', /refers to what it is a part of/],
    ['a: &a\n  b: *a\n', /refers to what it is a part of/],
    ['a: *nowhere\n', /refers to no anchor/],
    ['['.repeat(100_000), /nested/],
    [`${'['.repeat(200)}${']'.repeat(200)}`, /nested more than 100 levels deep/],
    ['a: 1\n'.repeat(3_400_000), /holds more than 250000 lines and items/],
    [`[${'{},'.repeat(130_000)}{}]`, /holds more than 250000 lines and items/],
    [`a:\n${Array.from({ length: 150 }, (_, i) => `${' '.repeat(i + 1)}- `).join('\n')}`, /nested/],
  ];
  for (const [text, message] of bombs) {
    const problems = readYaml(text).flatMap((document) => document.problems);
    assert.ok(
      problems.some((problem) => message.test(problem.message)),
      `${text.slice(0, 30)}: ${JSON.stringify(problems)}`,
    );
  }
});

test('keys that are there twice are told at the second, however spelled and wherever; a hundred are enough', () => {
  const at = (text: string) => only(text).problems.map(({ code, position }) => [code, position.line, position.column]);
  assert.deepEqual(at('a: 1\nb: 2\n"a": 3\n'), [['duplicate_key', 3, 1]]);
  assert.deepEqual(at('x:\n- {a: 1, b: {c: 1,\n    c: 2}}\nx: 3\n'), [
    ['duplicate_key', 3, 5],
    ['duplicate_key', 4, 1],
  ]);
  assert.deepEqual(at('a: &m {x: 1}\nb: {<<: *m, x: 2}\nc: {<<: *m, <<: *m}\n'), []);
  assert.equal(at('a: 1\n'.repeat(10_000)).length, 100);
});

test('errors of syntax stand where the mistake is', () => {
  const table: [string, string][] = [
    ['a:\n\tb: 1\n', '2:1 a: a tab is used for indentation'],
    ['a: 1\nb: 2\na: 3\n', '3:1 a: this key is there twice'],
    ['a: {b: 1, b: 2}\n', '1:11 a.b: this key is there twice'],
    ['a: "x\nb: 1\n', '1:4 a: this quote is not closed'],
    ['a: [x\nb: 1\n', '1:4 a: this [ is not closed'],
    ['a: !thing x\n', '1:4 a: Unresolved tag: !thing'],
  ];
  for (const [text, expected] of table) {
    const told = only(text).problems.map(
      ({ position, path, message }) => `${position.line}:${position.column} ${path.join('.')}: ${message}`,
    );
    assert.deepEqual(told, [expected], text);
  }
});
