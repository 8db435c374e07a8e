// SPDX-License-Identifier: Apache-2.0
// A NativeObject that keeps its maps in memory, writes down what it is asked, and fails when told to. For questions of order.

import { KernelError, loadNative, type NativeObject, type Page } from '#src/kernel/native.ts';
import { loadPrograms } from '#src/kernel/programs.ts';

type Shapes = ReturnType<NativeObject['maps']>;
let shapes: Shapes | null = null;

/** The real object's maps, asked once. */
function realShapes(): Shapes {
  if (shapes === null) {
    const object = loadPrograms(loadNative());
    shapes = object.maps();
    object.close();
  }
  return shapes;
}

export class FakeObject implements NativeObject {
  /** `update verdicts 2`, `remove verdicts 1`, `wait`. */
  readonly calls: string[] = [];
  /** Flags of the last update, by map. */
  readonly flags = new Map<string, number>();
  readonly contents = new Map<string, Map<string, Buffer>>();
  readonly #shapes: Shapes;
  /** Called before each operation that changes something; may throw. */
  onCall: (call: string) => void = () => {};

  constructor(maxEntries: Readonly<Record<string, number>> = {}) {
    this.#shapes = Object.fromEntries(
      Object.entries(realShapes()).map(([name, shape]) => [
        name,
        { ...shape, maxEntries: maxEntries[name] ?? shape.maxEntries },
      ]),
    );
    for (const name of Object.keys(this.#shapes)) this.contents.set(name, new Map());
    this.#map('settings').set('00000000', Buffer.alloc(this.#shapes.settings?.valueSize ?? 0));
  }

  #map(name: string): Map<string, Buffer> {
    const map = this.contents.get(name);
    if (map === undefined) throw new Error(`no map ${name}`);
    return map;
  }

  #note(call: string): void {
    this.calls.push(call);
    this.onCall(call);
  }

  maps(): Shapes {
    return this.#shapes;
  }
  programs(): string[] {
    return [];
  }
  update(map: string, keys: Buffer, values: Buffer, count: number, flags: number): void {
    this.flags.set(map, flags);
    const keyBytes = keys.length / count;
    const valueBytes = values.length / count;
    const write = (index: number) =>
      this.#map(map).set(
        keys.toString('hex', index * keyBytes, (index + 1) * keyBytes),
        Buffer.from(values.subarray(index * valueBytes, (index + 1) * valueBytes)),
      );
    try {
      this.#note(`update ${map} ${count}`);
    } catch (error) {
      // As the kernel does: what came before the failure is written.
      for (let index = 0; index < count - 1; index++) write(index);
      throw error;
    }
    for (let index = 0; index < count; index++) write(index);
  }
  lookup(map: string, key: Buffer): Buffer | null {
    return this.#map(map).get(key.toString('hex')) ?? null;
  }
  remove(map: string, keys: Buffer, count: number): number {
    this.#note(`remove ${map} ${count}`);
    const keyBytes = keys.length / count;
    let removed = 0;
    for (let index = 0; index < count; index++) {
      if (this.#map(map).delete(keys.toString('hex', index * keyBytes, (index + 1) * keyBytes))) removed++;
    }
    return removed;
  }
  dump(map: string): { keys: Buffer; values: Buffer; count: number } {
    const entries = [...this.#map(map)];
    return {
      keys: Buffer.concat(entries.map(([key]) => Buffer.from(key, 'hex'))),
      values: Buffer.concat(entries.map(([, value]) => value)),
      count: entries.length,
    };
  }
  findAll(map: string, keys: Buffer, count: number): { values: Buffer; areThere: Buffer } {
    const found = this.#parts(keys, count).map((key) => this.lookup(map, key));
    const valueBytes = this.#shapes[map]?.valueSize ?? 0;
    return {
      values: Buffer.concat(found.map((value) => value ?? Buffer.alloc(valueBytes))),
      areThere: Buffer.from(found.map((value) => (value === null ? 0 : 1))),
    };
  }
  readPage(map: string, place: Buffer | null, room: number): Page {
    const after = place?.toString('hex') ?? '';
    const rest = [...this.#map(map)].filter(([key]) => key > after).sort(([a], [b]) => (a < b ? -1 : 1));
    const entries = rest.slice(0, room);
    return {
      keys: Buffer.concat(entries.map(([key]) => Buffer.from(key, 'hex'))),
      values: Buffer.concat(entries.map(([, value]) => value)),
      count: entries.length,
      next: entries.length < rest.length ? Buffer.from(entries.at(-1)?.[0] ?? '', 'hex') : null,
    };
  }
  #parts(keys: Buffer, count: number): Buffer[] {
    const size = keys.length / count;
    return Array.from({ length: count }, (_, index) => keys.subarray(index * size, (index + 1) * size));
  }
  waitForPrograms(): void {
    this.#note('wait');
  }
  async programsEnded(): Promise<void> {
    this.#note('wait');
  }
  attachCgroup(): number {
    throw new Error('nothing to attach');
  }
  attachTcx(): Promise<number> {
    throw new Error('nothing to attach');
  }
  tcxPlace(): { ifindex: number; program: number } {
    throw new Error('nothing is attached');
  }
  attachClsact(): Promise<boolean> {
    throw new Error('nothing to attach');
  }
  releaseLink(): Promise<void> {
    throw new Error('nothing is attached');
  }
  detach(): void {
    throw new Error('nothing to detach');
  }
  testRun(): { retval: number; durationNs: number } {
    throw new Error('nothing to run');
  }
  readEvents(): void {
    throw new Error('nothing to read');
  }
  stopEvents(): void {}
  drainEvents(): number {
    return 0;
  }
  close(): void {}
}

/** Fails at the first call that begins so, once. */
export function failAt(object: FakeObject, beginning: string, from = object.calls.length): void {
  object.onCall = (call) => {
    if (object.calls.length <= from || !call.startsWith(beginning)) return;
    object.onCall = () => {};
    throw new KernelError(`${call}: ENOMEM`, 'ENOMEM', call);
  };
}
