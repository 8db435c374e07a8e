// SPDX-License-Identifier: Apache-2.0
// What values do the documents of a YAML (or JSON) text hold, and at which line and column is each? Knows nothing of Kubernetes.
// YAML is read as kubectl reads it: 1.1 (yes, on and 0644 are what they were there), without its dates and base-60 numbers. But y and n
// are text: they are honest names, and no one writes them for true and false.
import {
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  type Pair,
  parseAllDocuments,
  type Tags,
} from 'yaml';

export type Path = readonly (string | number)[];

export interface Position {
  /** 1-based, as is `column`, which counts UTF-16 units. */
  readonly line: number;
  readonly column: number;
}

export interface SyntaxProblem {
  readonly code: 'syntax' | 'duplicate_key' | 'tab' | 'alias';
  readonly position: Position;
  readonly path: Path;
  readonly message: string;
  readonly advice: string;
}

export interface YamlDocument {
  /** JSON-like: objects, arrays, strings, numbers, booleans, null. With problems: what could be read. */
  readonly value: unknown;
  readonly problems: readonly SyntaxProblem[];
  /** Of the first content. */
  readonly position: Position;
  /** Where the value at `path` is, or the key that leads to it; where there is none, the deepest ancestor that there is. */
  locate(path: Path, at: 'key' | 'value'): Position;
  /** What stands in the text for the scalar at `path` (`yes` where the value is true), or null. */
  source(path: Path): string | null;
}

/** Nodes that aliases may repeat in one document: far beyond honest use, far below what would hurt (billion laughs). */
const MAX_REPEATED_NODES = 10_000;
/**
 * Values in one text, as its lines and punctuation bound them. Each takes the parser up to 0.1 ms, in which an agent does nothing
 * else; a thousand Pods of 250 lines are as many.
 */
const MAX_VALUES = 250_000;
/** Levels of nesting; the deepest Kubernetes object has some 30. */
const MAX_DEPTH = 100;

/** Told of one document; whoever wrote so many has not meant YAML. */
const MAX_PROBLEMS = 100;

const UNWANTED = new Set(['binary', 'omap', 'pairs', 'set', 'timestamp'].map((tag) => `tag:yaml.org,2002:${tag}`));

/** goyaml.v2's yamlStyleFloat; the library's own takes `e0` and `.` for numbers that are none. */
const FLOAT = /^[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)$/;
const FLOAT_EXP = /^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$/;

const TRUE = /^(?:[Tt]rue|TRUE|[Yy]es|YES|[Oo]n|ON)$/;
const FALSE = /^(?:[Ff]alse|FALSE|[Nn]o|NO|[Oo]ff|OFF)$/;

function kubectlTags(tags: Tags): Tags {
  return tags.flatMap((tag): Tags => {
    if (typeof tag === 'string') return [tag];
    if (UNWANTED.has(tag.tag) || ('format' in tag && tag.format === 'TIME')) return [];
    if (tag.tag === 'tag:yaml.org,2002:bool' && 'test' in tag) {
      return [{ ...tag, test: tag.test?.test('true') ? TRUE : FALSE } as typeof tag];
    }
    if (tag.tag !== 'tag:yaml.org,2002:float' || !('test' in tag) || tag.test?.test('.inf')) return [tag];
    return [{ ...tag, test: 'format' in tag && tag.format === 'EXP' ? FLOAT_EXP : FLOAT } as typeof tag];
  });
}

/** No fewer than the text has values, found without parsing it. */
function countValues(text: string): number {
  let count = 1;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    // A line feed or a comma ends a value; a bracket begins one.
    if (code === 0x0a || code === 0x2c || code === 0x5b || code === 0x7b) count++;
  }
  return count;
}

/** Every document of a text that is not empty, in order. Total: what cannot be read is a problem of its document. */
export function readYaml(text: string): YamlDocument[] {
  if (countValues(text) > MAX_VALUES) {
    const [message, advice] = [`holds more than ${MAX_VALUES} lines and items`, 'write it as several files'];
    return [unreadable(message, advice)];
  }
  const lines = new LineCounter();
  let documents: Document.Parsed[];
  try {
    documents = [
      ...parseAllDocuments(text, {
        version: '1.1',
        lineCounter: lines,
        prettyErrors: false,
        // Told below: the library compares each key with every other.
        uniqueKeys: false,
        customTags: kubectlTags,
      }),
    ];
  } catch (error) {
    // The parser recurses: the stack's end is the only limit it has, and leaves no document behind.
    if (error instanceof RangeError) return [unreadable('is nested too deeply to be read', 'nest it less')];
    throw error;
  }
  return documents
    .filter((document) => document.errors.length > 0 || !isEmpty(document.contents))
    .map((document) => new ReadDocument(document, lines));
}

function unreadable(message: string, advice: string): YamlDocument {
  const position = { line: 1, column: 1 };
  return {
    value: null,
    problems: [{ code: 'syntax', position, path: [], message, advice }],
    position,
    locate: () => position,
    source: () => null,
  };
}

function isEmpty(contents: Node | null): boolean {
  return contents === null || (isScalar(contents) && contents.value === null);
}

class ReadDocument implements YamlDocument {
  readonly value: unknown;
  readonly problems: readonly SyntaxProblem[];
  readonly position: Position;
  readonly #document: Document.Parsed;
  readonly #lines: LineCounter;
  readonly #anchors: Anchors;

  constructor(document: Document.Parsed, lines: LineCounter) {
    this.#document = document;
    this.#anchors = new Anchors(document.contents);
    this.#lines = lines;
    this.position = this.#at(document.contents?.range?.[0] ?? document.errors[0]?.pos[0] ?? document.range[0]);
    const problems: SyntaxProblem[] = [];
    const unclosed = document.errors.find(isUnclosedQuote);
    // What a quote that is not closed swallows makes errors that are none.
    const errors: readonly Fault[] = unclosed
      ? [unclosed]
      : [...document.errors, ...document.warnings, ...duplicates(document.contents)].sort(
          (a, b) => a.pos[0] - b.pos[0],
        );
    for (const { code, message, pos } of errors) {
      if (problems.length >= MAX_PROBLEMS) break;
      // An unclosed bracket or quote makes a second error of the same place.
      if (problems.some(({ position }) => position.line === this.#at(pos[0]).line)) continue;
      problems.push(this.#told(code, message, pos[0]));
    }
    const reading = new Reading(this.#anchors);
    this.value = reading.value(document.contents, 0);
    for (const { node, message, advice } of reading.problems) {
      const offset = node.range?.[0] ?? 0;
      problems.push({ code: 'alias', position: this.#at(offset), path: this.#pathAt(offset), message, advice });
    }
    this.problems = problems;
  }

  #told(code: string, message: string, offset: number): SyntaxProblem {
    const path = this.#pathAt(offset);
    // Noticed far behind what was left open: told where that begins.
    if (isUnclosedQuote({ code, message })) {
      const position = path.length > 0 ? this.locate(path, 'value') : this.#at(offset);
      return { code: 'syntax', position, path, message: 'this quote is not closed', advice: 'write the closing quote' };
    }
    const open = /^Flow (map|sequence)/.test(message) ? this.#openAt(offset) : null;
    if (open) {
      const [bracket, closing] = isMap(open.node) ? ['{', '}'] : ['[', ']'];
      return {
        ...{ code: 'syntax', position: this.#at(open.node.range?.[0] ?? offset), path: open.path },
        ...{ message: `this ${bracket} is not closed`, advice: `write ${closing} after its last item` },
      };
    }
    return { ...told(code, message), position: this.#at(offset), path };
  }

  /** The innermost bracket that is open right before this offset. */
  #openAt(offset: number): { node: Node; path: Path } | null {
    const path = this.#pathAt(offset - 1);
    for (let length = path.length; length >= 0; length--) {
      const { node } = this.#find(path.slice(0, length));
      if ((isMap(node) || isSeq(node)) && node.flow) return { node, path: path.slice(0, length) };
    }
    return null;
  }

  #at(offset: number): Position {
    const { line, col } = this.#lines.linePos(offset);
    return { line: Math.max(line, 1), column: Math.max(col, 1) };
  }

  locate(path: Path, at: 'key' | 'value'): Position {
    const { key, node } = this.#find(path);
    const found = at === 'key' ? (key ?? node) : isScalar(node) || isAlias(node) ? node : (key ?? node);
    return found?.range ? this.#at(found.range[0]) : this.position;
  }

  source(path: Path): string | null {
    const { node, whole } = this.#find(path);
    return whole && isScalar(node) ? (node.source ?? null) : null;
  }

  #find(path: Path): { key: Node | null; node: Node | null; whole: boolean } {
    let key: Node | null = null;
    let node: Node | null = this.#document.contents;
    for (const step of path) {
      const target = isAlias(node) ? this.#anchors.target(node) : node;
      if (isMap(target)) {
        const pair = findPair(this.#anchors, target.items as Pair<Node, Node | null>[], step);
        if (!pair) return { key, node, whole: false };
        key = pair.key;
        node = pair.value ?? pair.key;
      } else if (isSeq(target) && typeof step === 'number' && step < target.items.length) {
        key = null;
        node = target.items[step] as Node;
      } else return { key, node, whole: false };
    }
    return { key, node, whole: true };
  }

  /** The path of the deepest node that holds this offset. */
  #pathAt(offset: number): Path {
    const path: (string | number)[] = [];
    let node: unknown = this.#document.contents;
    while (path.length < MAX_DEPTH) {
      if (isMap(node)) {
        const items = node.items as Pair<Node, Node | null>[];
        const pair = items.findLast(({ key }) => (key.range?.[0] ?? Number.POSITIVE_INFINITY) <= offset);
        if (!pair) return path;
        path.push(keyText(pair.key));
        if (offset <= (pair.key.range?.[1] ?? 0)) return path;
        node = pair.value;
      } else if (isSeq(node)) {
        const index = node.items.findLastIndex(
          (item) => ((item as Node).range?.[0] ?? Number.POSITIVE_INFINITY) <= offset,
        );
        if (index < 0) return path;
        path.push(index);
        node = node.items[index];
      } else break;
    }
    return path;
  }
}

interface Fault {
  readonly code: string;
  readonly message: string;
  readonly pos: readonly [number, number];
}

/** Keys that a map holds already, wherever it is. */
function duplicates(root: Node | null): Fault[] {
  const found: Fault[] = [];
  const open: unknown[] = [root];
  for (let node = open.pop(); node !== undefined; node = open.pop()) {
    if (isSeq(node)) for (const item of node.items) open.push(item ?? null);
    if (!isMap(node)) continue;
    const keys = new Set<string>();
    for (const { key, value } of node.items as Pair<Node, Node | null>[]) {
      open.push(value ?? null);
      if (isMerge(key)) continue;
      const text = keyText(key);
      const [from = 0, to = 0] = key.range ?? [];
      if (keys.has(text)) found.push({ code: 'DUPLICATE_KEY', message: 'Map keys must be unique', pos: [from, to] });
      keys.add(text);
    }
  }
  return found;
}

function isUnclosedQuote({ code, message }: { code: string; message: string }): boolean {
  return code === 'MISSING_CHAR' && message.startsWith('Missing closing');
}

/** What aliases stand for: the last value before each that has its anchor. The library goes through the document for each of them. */
class Anchors {
  readonly #root: Node | null;
  #targets: Map<Node, Node | null> | null = null;

  constructor(root: Node | null) {
    this.#root = root;
  }

  target(alias: Node): Node | null {
    this.#targets ??= this.#resolve();
    return this.#targets.get(alias) ?? null;
  }

  #resolve(): Map<Node, Node | null> {
    const anchors = new Map<string, Node>();
    const targets = new Map<Node, Node | null>();
    const open: unknown[] = [this.#root];
    for (let node = open.pop(); node !== undefined; node = open.pop()) {
      if (isAlias(node)) targets.set(node, anchors.get(node.source) ?? null);
      else if (isScalar(node) || isMap(node) || isSeq(node)) {
        if (node.anchor !== undefined) anchors.set(node.anchor, node as Node);
        if (isSeq(node)) for (const item of node.items.toReversed()) open.push(item ?? null);
        // The key is looked at before its value, and each pair before the next.
        if (isMap(node)) for (const { key, value } of node.items.toReversed()) open.push(value ?? null, key ?? null);
      }
    }
    return targets;
  }
}

function findPair(
  anchors: Anchors,
  items: Pair<Node, Node | null>[],
  step: string | number,
): Pair<Node, Node | null> | undefined {
  const own = items.findLast(({ key }) => !isMerge(key) && keyText(key) === String(step));
  if (own) return own;
  for (const { key, value } of items) {
    if (!isMerge(key)) continue;
    for (const source of isSeq(value) ? (value.items as Node[]) : [value]) {
      const merged = isAlias(source) ? anchors.target(source) : source;
      const pair = isMap(merged) && findPair(anchors, merged.items as Pair<Node, Node | null>[], step);
      if (pair) return pair;
    }
  }
  return undefined;
}

function isMerge(key: Node | null): boolean {
  return isScalar(key) && (typeof key.value === 'symbol' || (key.value === '<<' && key.type === 'PLAIN'));
}

function keyText(key: Node | null): string {
  if (!isScalar(key)) return String(key);
  // As JSON has it: a key is a string, however it is spelled.
  return typeof key.value === 'string' ? key.value : (key.source ?? String(key.value));
}

/** Nodes to values, with a bound on what aliases may repeat. */
class Reading {
  readonly problems: { node: Node; message: string; advice: string }[] = [];
  readonly #anchors: Anchors;
  readonly #open = new Set<unknown>();
  #repeated = 0;
  #aliases = 0;

  constructor(anchors: Anchors) {
    this.#anchors = anchors;
  }

  value(node: unknown, depth: number): unknown {
    if (this.#aliases > 0 && ++this.#repeated > MAX_REPEATED_NODES) return null;
    if (depth > MAX_DEPTH) {
      this.#tell(node as Node, `is nested more than ${MAX_DEPTH} levels deep`, 'nest it less');
      return null;
    }
    if (isAlias(node)) return this.#alias(node, depth);
    if (isScalar(node)) return typeof node.value === 'bigint' ? Number(node.value) : node.value;
    if (isSeq(node)) return node.items.map((item) => this.value(item, depth + 1));
    if (isMap(node)) return this.#map(node.items as Pair<Node, Node | null>[], depth);
    return null;
  }

  #map(items: Pair<Node, Node | null>[], depth: number): Record<string, unknown> {
    const merged: Record<string, unknown> = {};
    const own: Record<string, unknown> = {};
    for (const { key, value } of items) {
      if (!isMerge(key)) define(own, keyText(key), this.value(value, depth + 1));
      else {
        for (const source of isSeq(value) ? value.items : [value]) {
          const read = this.value(source, depth + 1);
          if (read === null || typeof read !== 'object') continue;
          // The first of several merged maps wins.
          for (const [name, field] of Object.entries(read))
            if (!Object.hasOwn(merged, name)) define(merged, name, field);
        }
      }
    }
    for (const [name, field] of Object.entries(own)) define(merged, name, field);
    return merged;
  }

  #alias(alias: Node & { source: string }, depth: number): unknown {
    const target = this.#anchors.target(alias);
    if (!target) {
      this.#tell(
        alias,
        `*${alias.source} refers to no anchor`,
        `write "*${alias.source}" in quotes if it is text, else &${alias.source} before the value that is meant`,
      );
      return null;
    }
    if (this.#open.has(target)) {
      this.#tell(alias, `*${alias.source} refers to what it is a part of`, 'write the value out');
      return null;
    }
    this.#open.add(target);
    this.#aliases++;
    const value = this.value(target, depth + 1);
    this.#aliases--;
    this.#open.delete(target);
    if (this.#repeated > MAX_REPEATED_NODES) {
      this.#tell(alias, `aliases repeat more than ${MAX_REPEATED_NODES} values`, 'write the values out');
    }
    return value;
  }

  #tell(node: Node, message: string, advice: string): void {
    if (!this.problems.some((problem) => problem.message === message)) this.problems.push({ node, message, advice });
  }
}

/** A key may be `__proto__`: it is a field like any other. */
function define(object: Record<string, unknown>, name: string, value: unknown): void {
  Object.defineProperty(object, name, { value, enumerable: true, configurable: true, writable: true });
}

function told(code: string, message: string): Pick<SyntaxProblem, 'code' | 'message' | 'advice'> {
  switch (message.startsWith('Maximum call stack') ? 'IMPOSSIBLE' : code) {
    case 'DUPLICATE_KEY':
      return { code: 'duplicate_key', message: 'this key is there twice', advice: 'keep one of the two' };
    case 'TAB_AS_INDENT':
      return { code: 'tab', message: 'a tab is used for indentation', advice: 'write spaces instead of the tab' };
    case 'BAD_INDENT':
      return {
        code: 'syntax',
        message,
        advice: 'indent every line of a mapping or a list alike, and close each bracket',
      };
    case 'MISSING_CHAR':
      return {
        code: 'syntax',
        message,
        advice: 'write the character that is missing; quote text that holds : # or quotes',
      };
    case 'IMPOSSIBLE': // the parser ran out of stack
      return { code: 'syntax', message: 'is nested too deeply to be read', advice: 'nest it less' };
    case 'BAD_ALIAS':
      return { code: 'alias', message, advice: 'quote a value that begins with * or &' };
    default:
      return { code: 'syntax', message, advice: 'write YAML 1.1 or JSON; quote text that holds : # { } [ ] or quotes' };
  }
}
