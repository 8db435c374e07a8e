// SPDX-License-Identifier: Apache-2.0
// Do the programs and the oracle agree on whatever is sent, and does what is sent reach all that they can say of it? A short run of
// fuzz.ts; what longer ones found is in the tables of unreadable.test.ts, exempt.test.ts and guard.test.ts.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { fuzz, fuzzPrograms, Kernel, type Run } from './fuzz.ts';
import type { Programs } from './programs.ts';

const PACKETS = 100_000;
const SEED = 4;

let programs: Programs;
let kernel: Kernel;
let run: Run;
before(async () => {
  programs = fuzzPrograms();
  kernel = new Kernel(programs);
  run = await fuzz(programs, kernel, PACKETS, SEED);
});
after(async () => {
  await kernel?.close();
  programs?.close();
});

test('what programs return and count is what the oracle says', () => {
  const { difference } = run;
  const frame = difference === null ? '' : Buffer.from(difference.frame.bytes).toString('hex');
  assert.equal(difference, null, `${frame} ${JSON.stringify({ ...difference, frame: undefined })}`);
  assert.equal(run.packets, PACKETS);
  assert(run.notRun < PACKETS / 10, `${run.notRun} were too short to be run`);
});

test('and no other with the barriers that arm64 needs', async () => {
  await kernel.close();
  programs.close();
  programs = fuzzPrograms({ reorders_loads: 1 });
  kernel = new Kernel(programs);
  assert.equal((await fuzz(programs, kernel, PACKETS / 10, SEED)).difference, null);
});

const REFUSALS = [
  'bad_length',
  'bad_version',
  'fragment_tiny',
  'fragment_untracked',
  'mapped_address',
  'no_rule',
  'not_ip',
  'source_route',
  'spoofed_arp',
  'spoofed_hardware_address',
  'spoofed_neighbour',
  'spoofed_source',
  'too_many_extension_headers',
  'truncated_header',
  'unknown_extension_header',
  'vlan_tagged',
];
const PASSES = [
  'fragment',
  'icmp_error',
  'loopback',
  'neighbour_discovery',
  'not_isolated',
  'reply',
  'rule',
  'self',
  'unknown_allowed',
];

for (const said of [
  ...REFUSALS.flatMap((reason) => [`deny ${reason}`, `audit ${reason}`]),
  ...PASSES.map((reason) => `allow ${reason}`),
  'deny unknown_workload',
]) {
  test(`of some packet is said: ${said}`, () => {
    assert([...run.told.keys()].some((told) => told.startsWith(`${said} `)));
  });
}

test('each rule allows some packet', () => {
  const rules = new Set([...run.told.keys()].filter((told) => told.startsWith('allow rule ')));
  // One for a network, one for a host, eight for the ports of each of three protocols, two for ICMP.
  assert.equal(rules.size, 1 + 1 + 3 * 8 + 2);
});
