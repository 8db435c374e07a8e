// SPDX-License-Identifier: Apache-2.0
// Preloaded by NODE_OPTIONS, with libasan in LD_PRELOAD: this process gets the addon that watches its own memory. Whatever it starts
// gets neither, for other programs' leaks are not ours.
import path from 'node:path';

const BUILD = path.join(import.meta.dirname, '../../build');
const load = process.dlopen;

delete process.env.LD_PRELOAD;
delete process.env.NODE_OPTIONS;
process.dlopen = (module, filename, ...flags) => {
  const ours = filename === path.join(BUILD, 'postern.node');
  load(module, ours ? path.join(BUILD, 'sanitized/postern.node') : filename, ...flags);
};
