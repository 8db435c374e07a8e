// SPDX-License-Identifier: Apache-2.0
// The addon, as a process in another network namespace has it: what it says of interfaces, and where it attaches programs, is of that one.
import { type ChildProcess, spawn } from 'node:child_process';
import { KernelError, loadNative, type Native, type NativeObject } from '#src/kernel/native.ts';

interface Call {
  readonly id: number;
  readonly on: 'native' | 'object';
  readonly method: string;
  readonly args: readonly unknown[];
}

type Reply = { readonly id: number } & (
  | { readonly result: unknown }
  | { readonly error: { readonly message: string; readonly code: string; readonly operation: string } }
);

type Methods<T> = { [K in keyof T as T[K] extends (...args: never[]) => unknown ? K : never]: T[K] };
type Arguments<T, K extends keyof T> = T[K] extends (...args: infer A) => unknown ? A : never;
type Result<T, K extends keyof T> = T[K] extends (...args: never[]) => infer R ? Awaited<R> : never;

export class Elsewhere {
  readonly child: ChildProcess;
  readonly #waiting = new Map<number, { resolve(result: unknown): void; reject(error: unknown): void }>();
  #last = 0;
  /** How often interfaces were told to have changed, since `watch`. */
  changes = 0;
  /** Indexes of those that went. */
  readonly gone: number[] = [];
  #seen = 0;
  #onChange: () => void = () => undefined;

  /** `netns`: `/run/netns/…`. */
  constructor(netns: string) {
    this.child = spawn('nsenter', [`--net=${netns}`, '--', process.execPath, import.meta.filename], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      serialization: 'advanced',
    });
    this.child.on('message', (reply: Reply | { readonly gone: readonly number[] }) => {
      if ('gone' in reply) {
        this.changes += 1;
        this.gone.push(...reply.gone);
        this.#onChange();
        return;
      }
      const waiting = this.#waiting.get(reply.id);
      this.#waiting.delete(reply.id);
      if (!('error' in reply)) waiting?.resolve(reply.result);
      else waiting?.reject(new KernelError(reply.error.message, reply.error.code, reply.error.operation));
    });
    this.child.on('exit', () => {
      for (const { reject } of this.#waiting.values()) reject(new Error('the process in the other namespace is gone'));
    });
  }

  native<K extends keyof Methods<Native>>(method: K, ...args: Arguments<Native, K>): Promise<Result<Native, K>> {
    return this.#call('native', method, args) as Promise<Result<Native, K>>;
  }

  /** Of the object that `load` has loaded there last. */
  object<K extends keyof Methods<NativeObject>>(
    method: K,
    ...args: Arguments<NativeObject, K>
  ): Promise<Result<NativeObject, K>> {
    return this.#call('object', method, args) as Promise<Result<NativeObject, K>>;
  }

  load(path: string): Promise<unknown> {
    return this.#call('native', 'load', [path, {}]);
  }

  /** Begins to count changes of interfaces. */
  watch(): Promise<unknown> {
    return this.#call('native', 'watchInterfaces', []);
  }

  /** Resolves at the next change, or at once where one was told since this was last asked. */
  async changed(): Promise<void> {
    while (this.changes === this.#seen) {
      await new Promise<void>((resolve) => {
        this.#onChange = resolve;
      });
    }
    this.#seen = this.changes;
  }

  unwatch(): Promise<unknown> {
    return this.#call('native', 'unwatchInterfaces', []);
  }

  #call(on: Call['on'], method: string, args: readonly unknown[]): Promise<unknown> {
    this.#last += 1;
    const id = this.#last;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.child.send({ id, on, method, args } satisfies Call);
    });
  }
}

if (process.argv[1] === import.meta.filename) {
  const native = loadNative();
  let object: NativeObject | null = null;
  let unwatch = (): void => undefined;
  const run = ({ on, method, args }: Call): unknown => {
    if (method === 'watchInterfaces') {
      unwatch = native.watchInterfaces((gone) => process.send?.({ gone }));
      return null;
    }
    if (method === 'unwatchInterfaces') return unwatch();
    if (method === 'load') {
      object?.close();
      object = native.load(String(args[0]), {});
      return null;
    }
    const target: object | null = on === 'native' ? native : object;
    return Reflect.apply(Reflect.get(target ?? {}, method), target, args);
  };
  const answer = async (call: Call): Promise<Reply> => {
    try {
      return { id: call.id, result: await run(call) };
    } catch (error) {
      if (!(error instanceof KernelError)) throw error;
      const { message, code, operation } = error;
      return { id: call.id, error: { message, code, operation } };
    }
  };
  process.on('message', async (call: Call) => process.send?.(await answer(call)));
  process.on('disconnect', () => process.exit());
}
