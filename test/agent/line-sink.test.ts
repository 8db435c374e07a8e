// SPDX-License-Identifier: Apache-2.0
// Does a slow reader get every line in order, is what is held bounded, and is a reader that went away no obstacle?
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import path from 'node:path';
import test from 'node:test';
import { resultOf } from '../support/lab.ts';

const SINK = path.join(import.meta.dirname, '../../src/agent/line-sink.ts');

/** Runs a script with a sink on stdout; what it knows at the end is told on stderr. */
function run(maxBytes: number, script: string): ReturnType<typeof spawn> {
  const code = `import { LineSink } from ${JSON.stringify(SINK)};
    const sink = new LineSink(1, ${maxBytes});
    ${script}
    await sink.flush(60_000);
    process.stderr.write(String(sink.lost));`;
  return spawn(process.execPath, ['--input-type=module', '-e', code]);
}

test('every line arrives, in order, however much is written at once', async () => {
  const child = run(1 << 24, 'for (let i = 0; i < 50_000; i += 1) sink.write("line " + i + "\\n");');
  const result = await resultOf(child, 60_000);
  const lines = result.stdout.trimEnd().split('\n');
  assert.equal(lines.length, 50_000);
  assert.ok(lines.every((line, index) => line === `line ${index}`));
  assert.equal(result.stderr, '0');
});

test('what is held for a reader that does not read is bounded, and the rest is counted', async () => {
  const child = run(100_000, 'for (let i = 0; i < 50_000; i += 1) sink.write("line " + i + "\\n");');
  const result = await resultOf(child, 60_000);
  const arrived = result.stdout.trimEnd().split('\n').length;
  assert.ok(result.stdout.length <= 100_000);
  assert.equal(arrived + Number(result.stderr), 50_000);
});

test('a reader that went away ends the writing, not the writer', async () => {
  const child = run(1 << 24, 'for (let i = 0; i < 500_000; i += 1) sink.write("line " + i + "\\n");');
  child.stdout?.destroy();
  const result = await resultOf(child, 60_000);
  assert.equal(result.status, 0);
  assert.ok(Number(result.stderr) > 0);
});
