// SPDX-License-Identifier: Apache-2.0
// Which structs and enums does an object's BTF hold? A strict reader of the ELF section .BTF, for the build alone.
// Knows nothing of what they mean; whatever it does not expect it refuses.

/** A field whose type is a whole number, an array, or another struct. Offsets and sizes in bytes. */
export interface BtfField {
  readonly name: string;
  readonly offset: number;
  readonly type: BtfType;
}
export type BtfType =
  | {
      readonly type: 'integer';
      readonly size: number /** Name of the typedef nearest to the field, or of the integer. */;
      readonly name: string;
    }
  | { readonly type: 'array'; readonly element: BtfType; readonly count: number }
  | { readonly type: 'struct'; readonly name: string; readonly size: number };

export interface BtfStruct {
  readonly name: string;
  readonly size: number;
  readonly fields: readonly BtfField[];
}
export interface BtfEnum {
  readonly name: string;
  readonly values: readonly (readonly [name: string, value: number])[];
}
export interface Btf {
  readonly structs: ReadonlyMap<string, BtfStruct>;
  readonly enums: ReadonlyMap<string, BtfEnum>;
}

// include/uapi/linux/btf.h
const MAGIC = 0xeb9f;
const KIND = {
  INT: 1,
  PTR: 2,
  ARRAY: 3,
  STRUCT: 4,
  UNION: 5,
  ENUM: 6,
  FWD: 7,
  TYPEDEF: 8,
  VOLATILE: 9,
  CONST: 10,
  RESTRICT: 11,
  FUNC: 12,
  FUNC_PROTO: 13,
  VAR: 14,
  DATASEC: 15,
  FLOAT: 16,
  DECL_TAG: 17,
  TYPE_TAG: 18,
  ENUM64: 19,
} as const;

interface RawType {
  readonly name: string;
  readonly kind: number;
  readonly kindFlag: boolean;
  /** Size, or the id of another type. */
  readonly sizeOrType: number;
  readonly count: number;
  /** Where what follows the header of the type begins. */
  readonly tail: number;
}

/** Bytes that follow the 12 of each type's header. */
function tailBytes(kind: number, count: number): number {
  switch (kind) {
    case KIND.INT:
    case KIND.VAR:
    case KIND.DECL_TAG:
      return 4;
    case KIND.ARRAY:
      return 12;
    case KIND.STRUCT:
    case KIND.UNION:
    case KIND.DATASEC:
    case KIND.ENUM64:
      return 12 * count;
    case KIND.ENUM:
    case KIND.FUNC_PROTO:
      return 8 * count;
    case KIND.PTR:
    case KIND.FWD:
    case KIND.TYPEDEF:
    case KIND.VOLATILE:
    case KIND.CONST:
    case KIND.RESTRICT:
    case KIND.FUNC:
    case KIND.FLOAT:
    case KIND.TYPE_TAG:
      return 0;
    default:
      throw new Error(`BTF kind ${kind} is not known`);
  }
}

/** Reads a little-endian ELF64 object. Throws where it is not one, has no .BTF, or holds what this reader does not know. */
export function readBtf(object: Buffer): Btf {
  const section = elfSection(object, '.BTF');
  if (section.readUInt16LE(0) !== MAGIC || section.readUInt8(2) !== 1)
    throw new Error('.BTF has another magic or version');
  const headerBytes = section.readUInt32LE(4);
  const typesAt = headerBytes + section.readUInt32LE(8);
  const typesEnd = typesAt + section.readUInt32LE(12);
  const stringsAt = headerBytes + section.readUInt32LE(16);
  const strings = section.subarray(stringsAt, stringsAt + section.readUInt32LE(20));

  const types: RawType[] = [{ name: 'void', kind: 0, kindFlag: false, sizeOrType: 0, count: 0, tail: 0 }];
  let at = typesAt;
  while (at < typesEnd) {
    const info = section.readUInt32LE(at + 4);
    const kind = (info >>> 24) & 0x1f;
    const count = info & 0xffff;
    types.push({
      name: textAt(strings, section.readUInt32LE(at)),
      kind,
      kindFlag: info >>> 31 === 1,
      sizeOrType: section.readUInt32LE(at + 8),
      count,
      tail: at + 12,
    });
    at += 12 + tailBytes(kind, count);
  }
  if (at !== typesEnd) throw new Error('.BTF ends inside a type');

  const structs = new Map<string, BtfStruct>();
  const enums = new Map<string, BtfEnum>();
  for (const type of types) {
    if (type.name === '') continue;
    if (type.kind === KIND.STRUCT) {
      // An object may hold two structs of one name (a map's definition and a type); later ones must not replace what was read.
      if (!structs.has(type.name) && fits(types, section, type))
        structs.set(type.name, readStruct(types, section, strings, type));
    } else if (type.kind === KIND.ENUM) {
      enums.set(type.name, readEnum(section, strings, type));
    }
  }
  return { structs, enums };
}

/** Structs with pointers (definitions of maps, the kernel's contexts) are no layouts of data. */
function fits(types: readonly RawType[], section: Buffer, struct: RawType): boolean {
  for (let index = 0; index < struct.count; index++) {
    let type = typeAt(types, section.readUInt32LE(struct.tail + index * 12 + 4));
    while (type.kind === KIND.ARRAY) type = typeAt(types, section.readUInt32LE(type.tail));
    if (type.kind === KIND.PTR || type.kind === KIND.UNION || type.name === '' || struct.kindFlag) return false;
  }
  return true;
}

function readStruct(types: readonly RawType[], section: Buffer, strings: Buffer, struct: RawType): BtfStruct {
  const fields: BtfField[] = [];
  for (let index = 0; index < struct.count; index++) {
    const at = struct.tail + index * 12;
    const bits = section.readUInt32LE(at + 8);
    if (bits % 8 !== 0) throw new Error(`struct ${struct.name} has a bit field`);
    fields.push({
      name: textAt(strings, section.readUInt32LE(at)),
      offset: bits / 8,
      type: resolve(types, section, section.readUInt32LE(at + 4)),
    });
  }
  return { name: struct.name, size: struct.sizeOrType, fields };
}

function readEnum(section: Buffer, strings: Buffer, { name, count, tail, sizeOrType, kindFlag }: RawType): BtfEnum {
  if (sizeOrType !== 4) throw new Error(`enum ${name} has ${sizeOrType} bytes`);
  const values: [string, number][] = [];
  for (let index = 0; index < count; index++) {
    const at = tail + index * 8;
    const value = kindFlag ? section.readInt32LE(at + 4) : section.readUInt32LE(at + 4);
    values.push([textAt(strings, section.readUInt32LE(at)), value]);
  }
  return { name, values };
}

function resolve(types: readonly RawType[], section: Buffer, id: number): BtfType {
  let type = typeAt(types, id);
  const alias = type.kind === KIND.TYPEDEF ? type.name : null;
  while (type.kind === KIND.TYPEDEF || type.kind === KIND.CONST || type.kind === KIND.VOLATILE) {
    type = typeAt(types, type.sizeOrType);
  }
  switch (type.kind) {
    case KIND.INT:
    case KIND.ENUM:
      return { type: 'integer', size: type.sizeOrType, name: alias ?? type.name };
    case KIND.STRUCT:
      return { type: 'struct', name: type.name, size: type.sizeOrType };
    case KIND.ARRAY:
      return {
        type: 'array',
        element: resolve(types, section, section.readUInt32LE(type.tail)),
        count: section.readUInt32LE(type.tail + 8),
      };
    default:
      throw new Error(`BTF type ${id} of kind ${type.kind} is no plain data`);
  }
}

function typeAt(types: readonly RawType[], id: number): RawType {
  const type = types[id];
  if (type === undefined) throw new Error(`BTF has no type ${id}`);
  return type;
}

function textAt(strings: Buffer, offset: number): string {
  const end = strings.indexOf(0, offset);
  if (end < 0) throw new Error(`string at ${offset} does not end`);
  return strings.toString('latin1', offset, end);
}

function elfSection(elf: Buffer, name: string): Buffer {
  // ELF64, little-endian: System V ABI, chapter 4.
  if (elf.length < 64 || elf.toString('latin1', 0, 6) !== '\x7fELF\x02\x01')
    throw new Error('not a little-endian ELF64 object');
  const headersAt = Number(elf.readBigUInt64LE(40));
  const headerBytes = elf.readUInt16LE(58);
  const headers = Array.from({ length: elf.readUInt16LE(60) }, (_, index) => {
    const at = headersAt + index * headerBytes;
    const offset = Number(elf.readBigUInt64LE(at + 24));
    return { name: elf.readUInt32LE(at), content: elf.subarray(offset, offset + Number(elf.readBigUInt64LE(at + 32))) };
  });
  const names = headers[elf.readUInt16LE(62)]?.content;
  if (names === undefined) throw new Error('no section names');
  const found = headers.find((header) => textAt(names, header.name) === name);
  if (found === undefined) throw new Error(`no section ${name}: compiled without -g?`);
  return found.content;
}
