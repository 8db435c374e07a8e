// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import * as abi from '#build/generated/abi.ts';
import { readBtf } from '#src/kernel/btf.ts';
import { generateAbi } from '#src/kernel/generate-abi.ts';
import { loadNative } from '#src/kernel/native.ts';
import { loadPrograms } from '#src/kernel/programs.ts';

const file = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const HEADER = readFileSync(file('bpf/abi.h'), 'utf8');
const object = readFileSync(file('build/postern.bpf.o'));
const btf = readBtf(object);

test('every struct and enum of abi.h is a member of struct abi, so that BTF holds it', () => {
  const declared = [...HEADER.matchAll(/^(?:struct|enum) (\w+) \{/gm)]
    .map(([, name]) => name)
    .filter((name) => name !== 'abi');
  const carried = btf.structs.get('abi')?.fields.map(({ name }) => name);
  assert.deepEqual(carried?.toSorted(), declared.toSorted());
});

test('what is generated is what is imported', () => {
  assert.equal(generateAbi(btf), readFileSync(file('build/generated/abi.ts'), 'utf8'));
});

test('the programs and their fixture see one contract', () => {
  assert.equal(generateAbi(readBtf(readFileSync(file('build/test/native/stub.bpf.o')))), generateAbi(btf));
});

test('constants and names are those of the header', () => {
  assert.equal(abi.RULE_NONE, 0xffff);
  assert.equal(abi.REASON_DENIED, 32);
  assert.equal(abi.REASON_NAMES.get(abi.REASON_NO_RULE), 'no_rule');
  assert.equal(abi.REASON_NAMES.get(abi.REASON_RULE), 'rule');
  assert(![...abi.REASON_NAMES.values()].includes('denied'));
  assert.deepEqual(
    [...abi.VERDICT_NAMES],
    [
      [0, 'allow'],
      [1, 'audit'],
      [2, 'deny'],
    ],
  );
});

test('sizes are those of the loaded maps', () => {
  const loaded = loadPrograms(loadNative());
  try {
    const maps = loaded.maps();
    const sizes = (name: string) => [maps[name]?.keySize, maps[name]?.valueSize];
    assert.deepEqual(sizes('workloads'), [8, abi.WORKLOAD_BYTES]);
    assert.deepEqual(sizes('guards'), [4, abi.GUARD_BYTES]);
    assert.deepEqual(sizes('sources'), [abi.SOURCE_KEY_BYTES, 1]);
    assert.deepEqual(sizes('identities'), [abi.ADDRESS_BYTES, abi.IDENTITY_BYTES]);
    assert.deepEqual(sizes('networks'), [abi.NETWORK_KEY_BYTES, 8]);
    assert.deepEqual(sizes('verdicts'), [abi.VERDICT_KEY_BYTES, abi.ROW_BYTES]);
    assert.deepEqual(sizes('ports'), [abi.PORT_KEY_BYTES, abi.ANSWER_BYTES]);
    assert.deepEqual(sizes('selves'), [abi.SELF_KEY_BYTES, 1]);
    assert.deepEqual(sizes('counters'), [abi.COUNTER_KEY_BYTES, abi.COUNTER_BYTES]);
    assert.deepEqual(sizes('sockets'), [4, abi.RECORD_BYTES]);
    assert.equal(abi.RECORD_BYTES, 64);
  } finally {
    loaded.close();
  }
});

test('an object without the contract, or no object, is refused', () => {
  assert.throws(() => generateAbi({ structs: new Map(), enums: new Map() }), /struct abi/);
  assert.throws(() => readBtf(Buffer.alloc(100)), /ELF64/);
  assert.throws(() => readBtf(object.subarray(0, 40)), Error);
  const damaged = Buffer.from(object);
  const at = damaged.indexOf(Buffer.from('9feb0100', 'hex'));
  assert(at > 0);
  damaged.writeUInt8(0, at);
  assert.throws(() => readBtf(damaged), /magic/);
});
