// SPDX-License-Identifier: Apache-2.0
// Writes TypeScript's view of bpf/abi.h from the BTF of the compiled object: constants, names, and a codec for each struct.
// A build step: node generate-abi.ts OBJECT OUTPUT. Knows the members of `struct abi`, and nothing of what they mean.

import { readFileSync, writeFileSync } from 'node:fs';
import { type Btf, type BtfField, type BtfStruct, type BtfType, readBtf } from './btf.ts';

/** Enums whose numbers users see as words: the enumerator's name less the prefix, in lower case. */
const NAMED: ReadonlyMap<string, string> = new Map([
  ['reason', 'REASON_'],
  ['verdict', 'VERDICT_'],
  ['direction', 'DIRECTION_'],
  ['hook', 'HOOK_'],
  ['loss', 'LOSS_'],
  ['dns_loss', 'DNS_'],
  ['icmp_kind', 'ICMP_'],
]);
/** Enumerators that are bounds of their enum and name nothing. */
const BOUNDS: ReadonlySet<string> = new Set(['REASON_DENIED', 'LOSS_COUNT', 'DNS_LOSS_COUNT']);
const UNUSED = /^(reserved\d*|padding|zero|lock)$/;

/**
 * The module's text. Throws where the object holds no `struct abi`, or a type in it that has no form in TypeScript:
 * bytes and ids are lower-case hex, 64-bit numbers bigint, `char` arrays text, `__be16` numbers in host order.
 */
export function generateAbi(btf: Btf): string {
  const abi = btf.structs.get('abi');
  if (abi === undefined) throw new Error('the object holds no struct abi');
  const parts = [
    '// SPDX-License-Identifier: Apache-2.0',
    '// Generated from the BTF of build/postern.bpf.o by src/kernel/generate-abi.ts: what bpf/abi.h says. Do not edit.',
    '// An encode function expects zeroed bytes; both throw RangeError where the buffer ends too early.',
    '',
  ];
  for (const field of abi.fields) {
    const struct = field.type.type === 'struct' ? btf.structs.get(field.type.name) : undefined;
    const named = btf.enums.get(field.name);
    if (struct !== undefined) parts.push(...(isBytes(struct) ? bytesOf(struct) : codec(btf, struct)));
    else if (named !== undefined) parts.push(...constants(named.name, named.values));
    else throw new Error(`abi.${field.name}: neither a struct nor an enum`);
  }
  return `${parts.join('\n')}\n`;
}

function constants(name: string, values: readonly (readonly [string, number])[]): string[] {
  const lines = values.map(([constant, value]) => `export const ${constant} = ${value};`);
  const prefix = NAMED.get(name);
  if (prefix !== undefined) {
    lines.push(`/** enum ${name}, as users see it. */`);
    lines.push(`export const ${name.toUpperCase()}_NAMES: ReadonlyMap<number, string> = new Map([`);
    for (const [constant, value] of values) {
      if (!constant.startsWith(prefix)) throw new Error(`${constant} of enum ${name} does not begin with ${prefix}`);
      if (!BOUNDS.has(constant)) lines.push(`  [${value}, '${constant.slice(prefix.length).toLowerCase()}'],`);
    }
    lines.push(']);');
  }
  return [...lines, ''];
}

/** A struct that only wraps bytes is those bytes. */
function isBytes(struct: BtfStruct): boolean {
  return struct.fields.length === 1 && struct.fields[0]?.name === 'bytes';
}

function bytesOf({ name, size }: BtfStruct): string[] {
  return [`export const ${name.toUpperCase()}_BYTES = ${size};`, ''];
}

function codec(btf: Btf, struct: BtfStruct): string[] {
  const name = pascal(struct.name);
  const fields = struct.fields.filter((field) => !UNUSED.test(field.name));
  return [
    `export const ${struct.name.toUpperCase()}_BYTES = ${struct.size};`,
    `export interface ${name} {`,
    ...fields.map((field) => `  readonly ${camel(field.name)}: ${typeText(btf, field.type)};`),
    '}',
    `export function encode${name}(value: ${name}, buffer: Buffer, at = 0): void {`,
    `  if (at + ${struct.size} > buffer.length) throw new RangeError('the buffer ends inside struct ${struct.name}');`,
    ...fields.flatMap((field) => encodeField(btf, field)),
    '}',
    `export function decode${name}(buffer: Buffer, at = 0): ${name} {`,
    `  if (at + ${struct.size} > buffer.length) throw new RangeError('the buffer ends inside struct ${struct.name}');`,
    '  return {',
    ...fields.map((field) => `    ${camel(field.name)}: ${decodeText(btf, field.type, place(field.offset))},`),
    '  };',
    '}',
    '',
  ];
}

function place(offset: number): string {
  return offset === 0 ? 'at' : `at + ${offset}`;
}

function typeText(btf: Btf, type: BtfType): string {
  switch (type.type) {
    case 'integer':
      if (type.name === 'content_id') return 'string';
      return type.size === 8 ? 'bigint' : 'number';
    case 'struct':
      return isBytes(structOf(btf, type.name)) ? 'string' : pascal(type.name);
    case 'array':
      return byteCount(type) !== null ? 'string' : `readonly ${typeText(btf, type.element)}[]`;
  }
}

function encodeField(btf: Btf, { name, offset, type }: BtfField): string[] {
  const value = `value.${camel(name)}`;
  const at = place(offset);
  switch (type.type) {
    case 'integer':
      return type.name === 'content_id'
        ? encodeHex(name, value, at, 8)
        : [`  buffer.write${accessor(type.name, type.size)}(${value}, ${at});`];
    case 'struct':
      return isBytes(structOf(btf, type.name))
        ? encodeHex(name, value, at, type.size)
        : [`  encode${pascal(type.name)}(${value}, buffer, ${at});`];
    case 'array': {
      const bytes = byteCount(type);
      if (bytes !== null) {
        if (isText(type)) return [`  buffer.write(${value}, ${at}, ${bytes - 1}, 'latin1');`];
        return encodeHex(name, value, at, bytes);
      }
      if (type.element.type !== 'struct') throw new Error(`${name}: an array of ${type.element.type} has no form`);
      return [
        `  if (${value}.length > ${type.count}) throw new RangeError('${name} holds at most ${type.count}');`,
        `  for (const [index, element] of ${value}.entries()) encode${pascal(type.element.name)}(element, buffer, ${at} + index * ${type.element.size});`,
      ];
    }
  }
}

/** Buffer.write stops at the first digit that is none, in silence; so the count is checked. */
function encodeHex(name: string, value: string, at: string, bytes: number): string[] {
  return [
    `  if (${value}.length !== ${bytes * 2} || buffer.write(${value}, ${at}, 'hex') !== ${bytes}) throw new RangeError('${name} needs ${bytes * 2} hex digits');`,
  ];
}

function decodeText(btf: Btf, type: BtfType, at: string): string {
  switch (type.type) {
    case 'integer':
      return type.name === 'content_id'
        ? `buffer.toString('hex', ${at}, ${at} + 8)`
        : `buffer.read${accessor(type.name, type.size)}(${at})`;
    case 'struct':
      return isBytes(structOf(btf, type.name))
        ? `buffer.toString('hex', ${at}, ${at} + ${type.size})`
        : `decode${pascal(type.name)}(buffer, ${at})`;
    case 'array': {
      const bytes = byteCount(type);
      if (bytes !== null) {
        const text = `buffer.toString('${isText(type) ? 'latin1' : 'hex'}', ${at}, ${at} + ${bytes})`;
        return isText(type) ? `${text}.replace(/\\0.*$/s, '')` : text;
      }
      if (type.element.type !== 'struct') throw new Error(`an array of ${type.element.type} has no form`);
      return `Array.from({ length: ${type.count} }, (_, index) => decode${pascal(type.element.name)}(buffer, ${at} + index * ${type.element.size}))`;
    }
  }
}

function accessor(name: string, size: number): string {
  const order = name.startsWith('__be') ? 'BE' : 'LE';
  switch (size) {
    case 1:
      return 'UInt8';
    case 2:
      return `UInt16${order}`;
    case 4:
      return name.startsWith('__s') ? 'Int32LE' : `UInt32${order}`;
    case 8:
      return `BigUInt64${order}`;
    default:
      throw new Error(`an integer of ${size} bytes has no form`);
  }
}

function byteCount(type: BtfType & { readonly type: 'array' }): number | null {
  return type.element.type === 'integer' && type.element.size === 1 ? type.count : null;
}

function isText(type: BtfType & { readonly type: 'array' }): boolean {
  return type.element.type === 'integer' && type.element.name === 'char';
}

function structOf(btf: Btf, name: string): BtfStruct {
  const struct = btf.structs.get(name);
  if (struct === undefined) throw new Error(`struct ${name} is not in the object`);
  return struct;
}

function camel(name: string): string {
  return name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

function pascal(name: string): string {
  const text = camel(name);
  return text.charAt(0).toUpperCase() + text.slice(1);
}

if (import.meta.main) {
  const [object, output] = process.argv.slice(2);
  if (object === undefined || output === undefined) throw new Error('usage: generate-abi.ts OBJECT OUTPUT');
  writeFileSync(output, generateAbi(readBtf(readFileSync(object))));
}
