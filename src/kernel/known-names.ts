// SPDX-License-Identifier: Apache-2.0
// What workloads were told by DNS, as the programs keep it: which class each name has, what must be forgotten with a workload, what is known
// now. Knows the maps' layouts; neither policies nor workloads by name.

import {
  ASKED_PER_WORKLOAD,
  BEGUN_PER_WORKLOAD,
  BUDGET_BYTES,
  type Budget,
  decodeBudget,
  decodeLearned,
  decodeTold,
  encodeOrderKey,
  encodeTextKey,
  encodeTold,
  encodeToldKey,
  LEARNED_BYTES,
  LEARNED_PER_WORKLOAD,
  ORDER_KEY_BYTES,
  TEXT_KEY_BYTES,
  TEXTS_PER_WORKLOAD,
  TOLD_BYTES,
  TOLD_KEY_BYTES,
  type Told,
} from '#build/generated/abi.ts';
import { forwardName, type NamePattern, wildcardsOver } from '../model/name.ts';
import { type AddressKey, type Id, NO_ID } from '../model/tables.ts';
import { KernelError, type NativeObject } from './native.ts';

/** BPF_EXIST and BPF_F_LOCK: in place, and only where it is still there. */
const THERE_IN_PLACE = 2 | 4;

/** A name that led a workload to an address. */
export interface KnownName {
  readonly slot: number;
  readonly address: AddressKey;
  readonly name: string;
  /** From `nowS` on; 0 or less: it has expired, and counts no more for new flows. */
  readonly expiresInS: number;
}

export class KnownNames {
  readonly #object: NativeObject;

  constructor(object: NativeObject) {
    this.#object = object;
  }

  /**
   * Gives every name that was told the class that `names` has for it now. To be called once `names` is written: programs that may have read it
   * before are waited for (8 to 16 ms). Throws KernelError.
   */
  reclassify(names: ReadonlyMap<NamePattern, Id>): void {
    this.#object.waitForPrograms();
    this.mend(names);
  }

  /** The same where programs were waited for already since `names` was written. Throws KernelError. */
  mend(names: ReadonlyMap<NamePattern, Id>): void {
    const { keys, values, count } = this.#object.dump('told');
    for (let at = 0; at < count; at++) {
      const told = decodeTold(values, at * TOLD_BYTES);
      const wanted = classOf(told.name, names);
      if (told.class === wanted) continue;
      this.#rewrite(keys.subarray(at * TOLD_KEY_BYTES, (at + 1) * TOLD_KEY_BYTES), { ...told, class: wanted });
    }
  }

  #rewrite(key: Buffer, told: Told): void {
    const value = Buffer.alloc(TOLD_BYTES);
    encodeTold(told, value);
    try {
      this.#object.update('told', key, value, 1, THERE_IN_PLACE);
    } catch (error) {
      // Newer names of its workload have taken its room meanwhile.
      if (!(error instanceof KernelError) || error.code !== 'ENOENT') throw error;
    }
  }

  /**
   * Forgets all that these workloads asked, were told and have learned, so that who gets a slot of theirs knows nothing of it. No program
   * may run any more that could keep something for them. Throws KernelError.
   */
  forget(slots: Iterable<number>): void {
    for (const slot of slots) {
      const key = Buffer.alloc(4);
      key.writeUInt32LE(slot);
      const value = this.#object.lookup('budgets', key);
      if (value !== null) this.#forget(slot, decodeBudget(value));
    }
  }

  /** The same for every slot that is not one of these, where it ever had something. Throws KernelError. */
  forgetOthers(used: ReadonlySet<number>): void {
    const { keys, values, count } = this.#object.dump('budgets');
    for (let at = 0; at < count; at++) {
      const slot = keys.readUInt32LE(at * 4);
      if (!used.has(slot)) this.#forget(slot, decodeBudget(values, at * BUDGET_BYTES));
    }
  }

  #forget(slot: number, { asked, told, learned, begun }: Budget): void {
    if (begun > 0) this.#forgetBegun(slot);
    this.#forgetOrdered('asked', slot, asked, ASKED_PER_WORKLOAD);
    this.#forgetOrdered('learned', slot, learned, LEARNED_PER_WORKLOAD);
    const numbers = this.#ordered('told_order', slot, told, TEXTS_PER_WORKLOAD);
    for (const { order, value } of numbers) {
      const key = toldKey(slot, value.readUInt32LE());
      const name = this.nameOf(slot, value.readUInt32LE());
      if (name !== null) {
        const text = Buffer.alloc(TEXT_KEY_BYTES);
        encodeTextKey({ slot, name: name.reversed }, text);
        this.#object.remove('texts', text, 1);
        this.#object.remove('told', key, 1);
      }
      this.#object.remove('told_order', order, 1);
    }
  }

  #forgetBegun(slot: number): void {
    const places = Buffer.alloc(ORDER_KEY_BYTES * BEGUN_PER_WORKLOAD);
    for (let number = 0; number < BEGUN_PER_WORKLOAD; number++) {
      encodeOrderKey({ slot, number }, places, number * ORDER_KEY_BYTES);
    }
    this.#object.remove('begun', places, BEGUN_PER_WORKLOAD);
  }

  #forgetOrdered(map: 'asked' | 'learned', slot: number, count: number, budget: number): void {
    for (const { order, value } of this.#ordered(`${map}_order`, slot, count, budget)) {
      this.#object.remove(map, value, 1);
      this.#object.remove(`${map}_order`, order, 1);
    }
  }

  /** A workload's last `budget` entries of an order of which `count` were kept so far; what is older has made room. */
  #ordered(map: string, slot: number, count: number, budget: number): { order: Buffer; value: Buffer }[] {
    const found: { order: Buffer; value: Buffer }[] = [];
    for (let back = 1; back <= Math.min(count, budget); back++) {
      const order = Buffer.alloc(ORDER_KEY_BYTES);
      encodeOrderKey({ slot, number: (count - back) >>> 0 }, order);
      const value = this.#object.lookup(map, order);
      if (value !== null) found.push({ order, value });
    }
    return found;
  }

  /** The name with this number, as users write it and as the kernel holds it; null: it is not known (any more). Throws KernelError. */
  nameOf(slot: number, number: number): { readonly name: string; readonly reversed: string } | null {
    const value = number === 0 ? null : this.#object.lookup('told', toldKey(slot, number));
    if (value === null) return null;
    const { name } = decodeTold(value);
    return { name: forwardName(name), reversed: name };
  }

  /** All that workloads know, in no order. @param nowS monotonic, as the kernel counts. Throws KernelError. */
  read(nowS: number): KnownName[] {
    const names = new Map<string, string>();
    const told = this.#object.dump('told');
    for (let at = 0; at < told.count; at++) {
      const { slot, number, name } = decodeTold(told.values, at * TOLD_BYTES);
      names.set(`${slot}/${number}`, forwardName(name));
    }
    const { values, count } = this.#object.dump('learned');
    const known: KnownName[] = [];
    for (let at = 0; at < count; at++) {
      const { slot, name: number, address, expiresS } = decodeLearned(values, at * LEARNED_BYTES);
      const name = names.get(`${slot}/${number}`);
      if (name !== undefined) known.push({ slot, address, name, expiresInS: expiresS - nowS });
    }
    return known;
  }
}

function toldKey(slot: number, number: number): Buffer {
  const key = Buffer.alloc(TOLD_KEY_BYTES);
  encodeToldKey({ slot, number }, key);
  return key;
}

/** As the kernel's own lookup in `names`. */
function classOf(reversed: string, names: ReadonlyMap<NamePattern, Id>): Id {
  const name = forwardName(reversed);
  for (const pattern of [name, ...wildcardsOver(name)]) {
    const found = names.get(pattern);
    if (found !== undefined) return found;
  }
  return NO_ID;
}
