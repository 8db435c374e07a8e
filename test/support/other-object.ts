// SPDX-License-Identifier: Apache-2.0
// `node --import` this: the process loads the object file POSTERN_OBJECT in place of its own, as another version of it would. Only for tests
// of upgrades.
const other = process.env.POSTERN_OBJECT;
const dlopen = process.dlopen;

process.dlopen = (...args: Parameters<typeof dlopen>): void => {
  dlopen.apply(process, args);
  const loaded = args[0] as { exports: { open?: (error: unknown) => object } };
  const { open } = loaded.exports;
  if (open === undefined || other === undefined) return;
  loaded.exports = {
    open: (error: unknown) =>
      new Proxy(open(error), {
        get(native, name) {
          const value: unknown = Reflect.get(native, name);
          if (name !== 'load' && name !== 'layouts') return value;
          return (_path: string, ...more: unknown[]): unknown =>
            (value as (...all: unknown[]) => unknown)(other, ...more);
        },
      }),
  };
};
