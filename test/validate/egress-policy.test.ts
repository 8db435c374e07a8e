// SPDX-License-Identifier: Apache-2.0
// What the schema of our kinds takes and refuses beyond its CEL rules (cel.test.ts): the same ports as Kubernetes', and limits.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkEgressPolicy } from '../../src/validate/egress-policy.ts';
import { isPortName } from '../../src/validate/network-policy.ts';

const check = (spec: unknown) =>
  checkEgressPolicy('EgressPolicy', {
    ...{ apiVersion: 'postern.dev/v1alpha1', kind: 'EgressPolicy', metadata: { name: 'a' } },
    spec,
  });
const errors = (spec: unknown) =>
  check(spec)
    .findings.filter(({ severity }) => severity === 'error')
    .map(({ code }) => code);
const peer = { pods: { podSelector: {} } };

test('ports and port names are those of Kubernetes, each mistake told once', () => {
  const names = [
    'http',
    'a',
    '0a',
    '8-0-a',
    'a-b',
    'a0-0',
    'a23456789012345',
    '80',
    '',
    'A',
    'a--b',
    '-a',
    'a-',
    '8--a',
    'a_b',
  ];
  for (const name of [...names, 'a234567890123456', 'A234567890123456', '1'.repeat(60), `${'1-'.repeat(30)}!`]) {
    assert.deepEqual(
      errors({ egress: [{ to: [peer], ports: [{ port: name }] }] }),
      isPortName(name) ? [] : ['port'],
      name,
    );
  }
  for (const [number, right] of [
    [0, false],
    [-1, false],
    [1, true],
    [65535, true],
    [65536, false],
  ] as const) {
    assert.deepEqual(
      errors({ egress: [{ to: [peer], ports: [{ port: number }] }] }),
      right ? [] : ['port'],
      `${number}`,
    );
  }
  assert.deepEqual(errors({ egress: [{ to: [peer], ports: [{ port: 1.5 }] }] }), ['type']);
});

test('limits', () => {
  const many = <T>(count: number, item: (i: number) => T) => Array.from({ length: count }, (_, i) => item(i));
  const table: [unknown, string[]][] = [
    [{ egress: many(100, () => ({ to: [peer] })) }, []],
    [{ egress: many(101, () => ({ to: [peer] })) }, ['limit']],
    [{ egress: [{ to: many(25, () => peer) }] }, []],
    [{ egress: [{ to: many(26, () => peer) }] }, ['limit']],
    [{ egress: [{ to: [peer], ports: many(50, (i) => ({ port: i + 1 })) }] }, []],
    [{ egress: [{ to: [peer], ports: many(51, (i) => ({ port: i + 1 })) }] }, ['limit']],
    [{ egress: [{ to: [{ networks: many(100, (i) => `10.0.${i}.0/24`) }] }] }, []],
    [{ egress: [{ to: [{ networks: many(101, (i) => `10.0.${i}.0/24`) }] }] }, ['limit']],
    [{ egress: [{ to: [{ services: many(51, (i) => ({ name: `s${i}` })) }] }] }, ['limit']],
    [{ egress: [{ to: [{ networks: ['10.0.0.0/8'], except: many(101, (i) => `10.0.${i}.0/24`) }] }] }, ['limit']],
    [{ egress: [{ name: 'a'.repeat(100), to: [peer] }] }, []],
    [{ egress: [{ name: 'a'.repeat(101), to: [peer] }] }, ['limit']],
    [{ egress: [{ name: '', to: [peer] }] }, ['empty']],
    [{ dns: { names: [`${'a'.repeat(63)}.example`] } }, []],
    [{ dns: { names: [`${'a'.repeat(64)}.example`] } }, ['domain_name']],
    [{ dns: { names: [`${'ä'.repeat(60)}.example`] } }, ['domain_name']],
  ];
  for (const [spec, codes] of table) assert.deepEqual(errors(spec), codes, JSON.stringify(spec).slice(0, 100));
});

test('defaults are filled in, and what was read stays as it was', () => {
  const spec = { dns: {}, egress: [{ to: [peer], ports: [{}], tls: {} }] };
  const before = structuredClone(spec);
  const { defaulted, findings } = check(spec);
  assert.deepEqual(findings, []);
  assert.deepEqual(spec, before);
  assert.deepEqual(defaulted.spec, {
    ...{ podSelector: {}, hostNetwork: 'Exclude', effect: 'Isolate', mode: 'Enforce', onDeny: 'Reject' },
    dns: { queries: 'Any', answers: 'World' },
    egress: [{ to: [peer], ports: [{ protocol: 'TCP' }], tls: { serverName: 'Ignore' } }],
  });
  assert.deepEqual(errors({ podSelector: null, effect: null, mode: null, onDeny: null, hostNetwork: null }), []);
});
