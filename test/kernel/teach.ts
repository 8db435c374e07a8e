// SPDX-License-Identifier: Apache-2.0
// What the programs keep when DNS answers, written as they write it: for tests that are not about answers.
import * as abi from '#build/generated/abi.ts';
import type { NativeObject } from '#src/kernel/native.ts';
import { reversedName } from '#src/model/name.ts';
import { NO_ID } from '#src/model/tables.ts';

/** As the programs do: a name that was told to a slot, under this number, with the class that `names` has for it. */
export function tellName(object: NativeObject, slot: number, number: number, name: string): void {
  const reversed = reversedName(name);
  const key = Buffer.alloc(abi.NAME_KEY_BYTES);
  abi.encodeNameKey({ prefixlen: 8 * abi.NAME_BYTES, name: reversed }, key);
  const found = object.lookup('names', key);
  const told = Buffer.alloc(abi.TOLD_BYTES);
  abi.encodeTold({ class: found?.toString('hex') ?? NO_ID, slot, number, name: reversed }, told);
  const toldKey = Buffer.alloc(abi.TOLD_KEY_BYTES);
  abi.encodeToldKey({ slot, number }, toldKey);
  object.update('told', toldKey, told, 1, 0);
  const text = Buffer.alloc(abi.TEXT_BYTES);
  abi.encodeText({ number, order: number - 1, expiresS: 0, slot }, text);
  const textKey = Buffer.alloc(abi.TEXT_KEY_BYTES);
  abi.encodeTextKey({ slot, name: reversed }, textKey);
  object.update('texts', textKey, text, 1, 0);
  order(object, 'told_order', slot, number - 1, Buffer.from(Uint32Array.of(number).buffer));
}

function order(object: NativeObject, map: string, slot: number, number: number, value: Buffer): void {
  const key = Buffer.alloc(abi.ORDER_KEY_BYTES);
  abi.encodeOrderKey({ slot, number }, key);
  object.update(map, key, value, 1, 0);
}

/** That the name with this number led the slot to an address, until `expiresS`; the slot's n-th. */
export function learn(
  object: NativeObject,
  slot: number,
  n: number,
  at: string,
  name: number,
  expiresS: number,
  index = 0,
): void {
  const key = Buffer.alloc(abi.LEARNED_KEY_BYTES);
  abi.encodeLearnedKey({ slot, index, address: at }, key);
  const value = Buffer.alloc(abi.LEARNED_BYTES);
  abi.encodeLearned({ name, expiresS, order: n, slot, address: at, most: abi.NAMES_PER_ADDRESS }, value);
  object.update('learned', key, value, 1, 0);
  order(object, 'learned_order', slot, n, key);
}
