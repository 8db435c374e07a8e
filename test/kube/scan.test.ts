// SPDX-License-Identifier: Apache-2.0
// The scanner takes what JSON.parse takes, and of it what the shape asks; the splitters give each piece, however the bytes come.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { MalformedJson, Scanner, type Shape } from '../../src/kube/scan.ts';
import { ItemSplitter, LineSplitter, UnsplittableStream } from '../../src/kube/split.ts';

const SHAPE: Shape = {
  fields: { a: 'text', b: 'number', cc: { items: { fields: { a: 'text', d: 'flag' } } }, e: 'any', f: { fields: {} } },
};

/** The plain way: decode all, then cut. */
function cut(value: unknown, shape: Shape): unknown {
  if (shape === 'any') return value;
  if (shape === 'text') return typeof value === 'string' ? value : undefined;
  if (shape === 'number') return typeof value === 'number' ? value : undefined;
  if (shape === 'flag') return typeof value === 'boolean' ? value : undefined;
  if ('items' in shape) return Array.isArray(value) ? value.map((item) => cut(item, shape.items)) : undefined;
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
  const { fields } = shape;
  return Object.fromEntries(
    Object.entries(value).flatMap(([name, field]) =>
      Object.hasOwn(fields, name) ? [[name, cut(field, fields[name] as Shape)]] : [],
    ),
  );
}

const names = fc.constantFrom('a', 'b', 'cc', 'd', 'e', 'f', 'é', 'a"', '');
const { value: anything } = fc.letrec((tie) => ({
  value: fc.oneof(
    { maxDepth: 4 },
    fc.string(),
    fc.string({ unit: 'binary' }),
    fc.double({ noNaN: true, noDefaultInfinity: true }).map((number) => (Object.is(number, -0) ? 0 : number)),
    fc.integer(),
    fc.boolean(),
    fc.constant(null),
    fc.array(tie('value'), { maxLength: 4 }),
    fc.dictionary(names, tie('value'), { maxKeys: 5, noNullPrototype: true }),
  ),
}));

/** Mostly objects: scalars alone would prove little. */
const something = fc.oneof(
  { weight: 1, arbitrary: anything },
  { weight: 9, arbitrary: fc.dictionary(names, anything, { minKeys: 1, maxKeys: 7, noNullPrototype: true }) },
);

test('what is cut from bytes is what is cut from the decoded object', () => {
  const scanner = new Scanner(SHAPE);
  fc.assert(
    fc.property(something, fc.constantFrom(undefined, 1, '\t'), (value, indent) => {
      assert.deepEqual(scanner.read(Buffer.from(JSON.stringify(value, null, indent))), cut(value, SHAPE));
    }),
    { numRuns: 2000 },
  );
});

test('a text that is changed anywhere is refused exactly where JSON.parse refuses it', () => {
  const scanner = new Scanner(SHAPE);
  fc.assert(
    fc.property(
      something,
      fc.nat(),
      fc.constantFrom(...'{}[]",:\\x0 -.e1tn\u0001'),
      fc.boolean(),
      (value, at, byte, isCut) => {
        const whole = JSON.stringify(value).replaceAll(/[\u0080-\uffff]/g, '?');
        const place = at % (whole.length + 1);
        const text = isCut ? whole.slice(0, place) : whole.slice(0, place) + byte + whole.slice(place + 1);
        let expected: unknown;
        try {
          expected = cut(JSON.parse(text), SHAPE);
        } catch {
          assert.throws(() => scanner.read(Buffer.from(text)), MalformedJson);
          return;
        }
        assert.deepEqual(scanner.read(Buffer.from(text)), expected);
      },
    ),
    { numRuns: 5000 },
  );
});

test('escaped names are names, the last of two counts, and nesting has an end', () => {
  const scanner = new Scanner(SHAPE);
  assert.deepEqual(scanner.read(Buffer.from('{"\\u0061":"x\\n","b":1,"b":2}')), { a: 'x\n', b: 2 });
  assert.throws(() => scanner.read(Buffer.from(`${'['.repeat(100_000)}${']'.repeat(100_000)}`)), MalformedJson);
});

/** A text in pieces that begin and end anywhere. */
const chunked = (text: Buffer, cuts: readonly number[]): Buffer[] => {
  const places = [...new Set([0, ...cuts.map((one) => one % (text.length + 1)), text.length])].sort((a, b) => a - b);
  return places.slice(1).map((end, i) => text.subarray(places[i], end));
};

test('lines come whole, however they are cut', () => {
  fc.assert(
    fc.property(fc.array(fc.string({ minLength: 1 })), fc.array(fc.nat()), (texts, cuts) => {
      const lines = texts.map((text) => JSON.stringify(text));
      const found: string[] = [];
      const splitter = new LineSplitter((line) => found.push(line.toString()));
      for (const chunk of chunked(Buffer.from(lines.map((line) => `${line}\n`).join('')), cuts)) splitter.push(chunk);
      assert.deepEqual(found, lines);
      assert.equal(splitter.isInside, false);
    }),
  );
});

test('items come whole, and the list without them, however it is cut', () => {
  const envelope = fc.dictionary(fc.constantFrom('kind', 'metadata', 'a'), anything, { noNullPrototype: true });
  fc.assert(
    fc.property(
      envelope,
      envelope,
      fc.array(anything),
      fc.array(fc.nat()),
      fc.constantFrom(undefined, 1),
      (before, after, items, cuts, indent) => {
        const list = { ...before, items, ...after };
        const found: unknown[] = [];
        const splitter = new ItemSplitter((item) => found.push(JSON.parse(item.toString())));
        for (const chunk of chunked(Buffer.from(JSON.stringify(list, null, indent)), cuts)) splitter.push(chunk);
        assert.deepEqual(JSON.parse(splitter.end().toString()), JSON.parse(JSON.stringify({ ...list, items: [] })));
        assert.deepEqual(found, JSON.parse(JSON.stringify(items)));
      },
    ),
  );
});

test('a list that is cut off anywhere has no end', () => {
  const text = Buffer.from('{"kind":"PodList","items":[{"a":"]}"},{"b":[1]}],"metadata":{"resourceVersion":"7"}}');
  for (let length = 0; length < text.length; length++) {
    const splitter = new ItemSplitter(() => undefined);
    assert.throws(() => {
      splitter.push(text.subarray(0, length));
      JSON.parse(splitter.end().toString());
    }, /cut off|JSON/);
  }
});

test('a piece larger than any object is refused', () => {
  const splitter = new LineSplitter(() => undefined);
  const chunk = Buffer.alloc(1 << 20, 'x');
  assert.throws(() => {
    for (let i = 0; i < 64; i++) splitter.push(chunk);
  }, UnsplittableStream);
});
