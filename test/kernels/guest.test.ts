// SPDX-License-Identifier: Apache-2.0
// Does Debian 12's own kernel, 6.1, take every program, and do real sockets there get the verdicts that they get here? The tests that say so
// are run as they are, by the same Node, agent and addon, in a virtual machine.
import assert from 'node:assert/strict';
import path from 'node:path';
import test from 'node:test';
import type { Finding } from '../../src/cli/examine.ts';
import { runInGuest } from '../support/guest.ts';

const HERE = path.join(import.meta.dirname, '../..');
/** Ten times what it takes on two cores that nobody else uses. */
const TIMEOUT_MS = 560_000;
const TESTS = ['test/kernels/smoke.test.ts', 'test/packets/judge.test.ts', 'test/native/tc.test.ts'];
/** That kernel has no tcx: guards are filters of clsact there. What doctor says is asked below. */
const NOT_THERE = '/^tcx,|^a link that closes|^doctor /';
/**
 * The program is the bundle that the image has: by software emulation its sources would take half a minute to be read at each start. And
 * types are stripped of each file once, not in each process: that takes Node some two seconds there.
 */
const BUNDLE = `cp -r build/bundle/dist . && sed -i s,src/cli/main.ts,dist/cli/main.js, bin/postern && export NODE_COMPILE_CACHE=/tmp/compiled`;

test('on Linux 6.1 every program loads, sockets get their verdicts, and doctor says what that kernel lacks', async () => {
  const { status, output } = await runInGuest(
    `cd '${HERE}' && uname -r && ${BUNDLE} && bin/postern doctor -o json | tr -d '\\n' && echo &&
exec node_modules/.bin/node --test --test-isolation=none --test-reporter=tap --test-skip-pattern='${NOT_THERE}' ${TESTS.join(' ')}`,
    TIMEOUT_MS,
  );
  assert.equal(status, 0, output);
  const [release = '', doctor = '', ...tap] = output.split('\n');
  assert.match(release, /^6\.1\./);
  for (const line of ['# fail 0', '# cancelled 0', '# skipped 0', '# todo 0']) assert.ok(tap.includes(line), line);
  const passed = Number(/^# pass (\d+)$/m.exec(output)?.[1]);
  assert.ok(passed >= 82, `${passed} tests passed`);
  assert.match(output, /^# guarded by clsact$/m);
  for (const side of ['ingress', 'egress']) assert.match(output, new RegExp(`^ok \\d+ - clsact, ${side}:`, 'm'));

  const { enforcement, findings } = JSON.parse(doctor) as { enforcement: boolean; findings: Finding[] };
  assert.equal(enforcement, true);
  const lacking = findings.filter((one) => one.state !== 'ok').map((one) => [one.name, one.state]);
  assert.deepEqual(lacking, [], 'what 6.1 has no helper for is read from its memory');
  for (const name of ['origin/netns', 'origin/process'])
    assert.match(findings.find((one) => one.name === name)?.found ?? '', /memory/, name);
});
