// SPDX-License-Identifier: Apache-2.0
// Does native/ touch memory that is not its own, leak, rely on undefined behaviour, or race? The addon's own tests again, with an addon
// under AddressSanitizer and UndefinedBehaviorSanitizer; and its plain C++ without Node, under these and under ThreadSanitizer.
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { describe, test } from 'node:test';

const HERE = import.meta.dirname;
const ROOT = path.join(HERE, '../..');
const STUB = path.join(ROOT, 'build/test/native/stub.bpf.o');

const library = (name: string) => execFileSync('gcc', [`-print-file-name=${name}`], { encoding: 'utf8' }).trim();

/** Without random addresses: ThreadSanitizer of GCC 12 finds no room where the kernel shuffles more than 28 bits of them. */
function run(command: string, args: readonly string[], env: NodeJS.ProcessEnv = {}) {
  const { NODE_TEST_CONTEXT, ...own } = process.env;
  const options = { encoding: 'utf8', env: { ...own, ...env }, timeout: 300_000 } as const;
  const { status, stdout, stderr } = spawnSync('setarch', ['-R', command, ...args], options);
  return { status, output: stdout + stderr };
}

const WATCHED = {
  LD_PRELOAD: `${library('libasan.so')}:${library('libubsan.so')}`,
  NODE_OPTIONS: `--import=${path.join(ROOT, 'test/support/sanitized.ts')}`,
  ASAN_OPTIONS: 'detect_stack_use_after_return=1',
  LSAN_OPTIONS: `suppressions=${path.join(HERE, 'leaks.supp')}:print_suppressions=0`,
  UBSAN_OPTIONS: 'print_stacktrace=1',
};

describe('the addon in Node', () => {
  test('is the one that is watched', () => {
    const code = `
      const { loadNative } = await import(${JSON.stringify(path.join(ROOT, 'src/kernel/native.ts'))});
      loadNative().probe();
      const loaded = (await import('node:fs')).readFileSync('/proc/self/maps', 'utf8');
      console.log(['/libasan.so', '/libubsan.so', '/build/sanitized/postern.node', '/build/postern.node']
        .map((file) => loaded.includes(file)).join());`;
    const { status, output } = run(process.execPath, ['--input-type=module', '-e', code], WATCHED);
    assert.deepEqual([output, status], ['true,true,true,false\n', 0]);
  });
  const own = path.basename(import.meta.filename);
  for (const file of readdirSync(HERE).filter((name) => name.endsWith('.test.ts') && name !== own)) {
    test(`passes ${file}`, () => {
      const args = ['--test', '--test-isolation=none', '--test-reporter=tap', path.join(HERE, file)];
      const { status, output } = run(process.execPath, args, WATCHED);
      assert.equal(status, 0, output);
      assert.match(output, /^# pass [1-9]/m);
      assert.doesNotMatch(output, /Sanitizer|runtime error/);
    });
  }
});

describe('its plain C++, whose threads read, wait and destroy while others stop and close', () => {
  const address = path.join(ROOT, 'build/sanitized/threads-address');
  const thread = path.join(ROOT, 'build/sanitized/threads-thread');
  for (const program of [address, thread]) {
    test(`${path.basename(program)} finds nothing`, () => {
      assert.deepEqual(run(program, [STUB]), { status: 0, output: 'whole\n' });
    });
  }
  for (const [program, fault, found] of [
    [address, 'overflow', /heap-buffer-overflow/],
    [address, 'signed', /signed integer overflow/],
    [address, 'leak', /detected memory leaks/],
    [thread, 'race', /data race/],
  ] as const) {
    test(`${path.basename(program)} would find: ${fault}`, () => {
      const { status, output } = run(program, [STUB, fault]);
      assert.notEqual(status, 0);
      assert.match(output, found);
    });
  }
});
