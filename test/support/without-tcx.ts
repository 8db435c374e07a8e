// SPDX-License-Identifier: Apache-2.0
// Preloaded into an agent (`node --import`): its addon answers as on kernels before Linux 6.6, which have no tcx.
import { createRequire } from 'node:module';
import path from 'node:path';
import type { KernelError, Native } from '../../src/kernel/native.ts';

const addon = createRequire(import.meta.url)(path.join(import.meta.dirname, '../../build/postern.node'));
const open: (error: typeof KernelError) => Native = addon.open;

addon.open = (error: typeof KernelError): Native => {
  const native = open(error);
  const load = native.load.bind(native);
  native.load = (...args) => {
    const object = load(...args);
    const refuse = () => Promise.reject(new error('attach by tcx: EINVAL (Invalid argument)', 'EINVAL', 'attach'));
    Object.defineProperty(object, 'attachTcx', { value: refuse });
    return object;
  };
  return native;
};
