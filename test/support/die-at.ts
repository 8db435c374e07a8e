// SPDX-License-Identifier: Apache-2.0
// `node --import` this: the process kills itself (SIGKILL) before its n-th call into the addon that changes something in the kernel,
// POSTERN_DIE_AT being n, counted from its start, or from SIGUSR2 on if POSTERN_DIE_WHEN is `signal`. Each call that counts is told in the
// file POSTERN_DIE_LOG. Only for tests of what a death at any moment leaves.
import { appendFileSync } from 'node:fs';

const CHANGES = new Set([
  ...['load', 'lockFolder'],
  ...['update', 'remove', 'pinMap', 'pinLink', 'pinProgram', 'attachCgroup', 'attachTcx', 'updateLink', 'detach'],
  ...['waitForPrograms', 'programsEnded', 'close'],
]);
const dieAt = Number(process.env.POSTERN_DIE_AT ?? 0);
const log = process.env.POSTERN_DIE_LOG ?? '';
let count = 0;
if (process.env.POSTERN_DIE_WHEN === 'signal') {
  count = Number.NEGATIVE_INFINITY;
  process.on('SIGUSR2', () => {
    count = 0;
  });
}

function watched<T extends object>(target: T): T {
  return new Proxy(target, {
    get(of, name) {
      const value: unknown = Reflect.get(of, name);
      if (typeof value !== 'function') return value;
      return (...args: unknown[]): unknown => {
        if (CHANGES.has(String(name))) {
          count += 1;
          const words = args.filter((arg) => typeof arg === 'string');
          if (count > 0 && log !== '') appendFileSync(log, `${String(name)} ${words.join(' ')}\n`);
          if (count > 0 && count === dieAt) process.kill(process.pid, 'SIGKILL');
        }
        const result: unknown = value.apply(of, args);
        const isObject = ['load', 'openMaps', 'openMapsById'].includes(String(name));
        return isObject ? watched(result as object) : result;
      };
    },
  });
}

const dlopen = process.dlopen;
process.dlopen = (...args: Parameters<typeof dlopen>): void => {
  dlopen.apply(process, args);
  const loaded = args[0] as { exports: { open?: (error: unknown) => object } };
  const { open } = loaded.exports;
  if (open !== undefined) loaded.exports = { open: (error: unknown) => watched(open(error)) };
};
