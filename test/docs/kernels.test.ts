// SPDX-License-Identifier: Apache-2.0
// Does docs/kernels.md say of each thing that Postern asks of a kernel what `postern doctor` says where it is missing, and of nothing else?
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { examine, isEnforcementPossible, KERNEL_FEATURES } from '../../src/cli/examine.ts';
import { loadNative, type Native } from '../../src/kernel/native.ts';

const page = readFileSync(path.join(import.meta.dirname, '../../docs/kernels.md'), 'utf8');
const rows = [...page.matchAll(/^\| `((?:program|map|origin)\/\w+)` \| (.+?) \| (\w+) \| (.+) \|$/gm)].map((match) =>
  match.slice(1),
);

/** This machine's addon, on a kernel that refuses some of what is probed and shows no BTF. */
function without(refused: (name: string) => boolean): Native {
  const native = loadNative();
  const probe = () =>
    Object.fromEntries(
      Object.entries(native.probe()).map(([name, failure]) => [
        name,
        refused(name) ? 'EINVAL: Invalid argument' : failure,
      ]),
    );
  return { ...native, probe, memberOffsets: (members) => members.map(() => null) };
}

test('the table is what doctor knows, in its order', () => {
  assert.deepEqual(
    rows,
    Object.entries(KERNEL_FEATURES).map(([name, { since, absence, without }]) => [name, since, absence, without]),
  );
});

test('everything in the table is asked of this kernel, and is there', () => {
  const findings = examine(loadNative);
  for (const name of Object.keys(KERNEL_FEATURES))
    assert.equal(findings.find((one) => one.name === name)?.state, 'ok', name);
});

test('on a kernel without anything of it doctor says each line of the table', () => {
  const findings = examine(() => without(() => true));
  assert.equal(isEnforcementPossible(findings), false);
  for (const [name, { since, absence, without: lost }] of Object.entries(KERNEL_FEATURES)) {
    const found = findings.find((one) => one.name === name);
    assert.equal(found?.state, absence, name);
    assert.ok(found?.advice.startsWith(`${lost}; Linux has it since ${since}; `), `${name}: ${found?.advice}`);
  }
});

test('without the newer helpers a node can enforce, and only where nothing can be read instead is something lost', () => {
  const isNewer = (name: string) => /netns_cookie|current_(pid_tgid|comm)/.test(name);
  const blind = examine(() => without(isNewer));
  assert.equal(isEnforcementPossible(blind), true);
  const reading = examine(() => ({ ...without(isNewer), memberOffsets: loadNative().memberOffsets }));
  for (const name of ['origin/netns', 'origin/process']) {
    assert.equal(blind.find((one) => one.name === name)?.state, 'limited', name);
    const found = reading.find((one) => one.name === name);
    assert.deepEqual([found?.state, found?.found], ['ok', "read from the kernel's memory"], name);
  }
});
