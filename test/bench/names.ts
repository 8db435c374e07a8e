// SPDX-License-Identifier: Apache-2.0
// What measuring names might come to, by hand-made numbers.
import type { Names } from '../../bench/results.ts';
import { spread } from '../../bench/statistics.ts';

export const names: Names = {
  ns: {
    'question, asked before': 1000,
    'question, new': 2000,
    'question, new, AllowedNamesOnly': 3000,
    'answer of 1 address, told before': 4000,
    'answer of 8 addresses, told before': 5000,
    'answer of 1 address, new': 6000,
    'answer of 8 addresses, new': 7000,
    'new flow, no policy has names': 11,
    'new flow, 0 names': 12,
    'new flow, 1 name': 13,
    'new flow, 8 names': 14,
  },
  ...{ rounds: 1, repeats: 1 },
  traffic: {
    rates: [
      { names: 50, bare: spread([10]), held: spread([9]), ofBare: 0.9 },
      { names: 1000, bare: spread([10]), held: spread([8]), ofBare: 0.8 },
    ],
    memory: {
      ...{ entries: 100_000, workloads: 25, kernelMiB: 30.4, mapsMiB: { learned: 10 } },
      agentMiB: { before: 100, after: 101, peak: 120 },
    },
  },
};
