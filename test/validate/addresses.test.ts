// SPDX-License-Identifier: Apache-2.0
// What stands where an address should and is none is told, and nothing else is.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkAddresses } from '../../src/validate/addresses.ts';
import { pathText } from '../../src/validate/finding.ts';
import type { Kind } from '../../src/validate/kind.ts';

const cases: readonly [kind: Kind, object: Record<string, unknown>, told: string[]][] = [
  ['Pod', { status: { podIP: '198.18.0.1', podIPs: [{ ip: '198.18.0.1' }, { ip: 'fd00::1' }] } }, []],
  ['Pod', { status: { podIP: '', podIPs: [] } }, []],
  ['Pod', { status: null }, []],
  ['Pod', {}, []],
  ['Pod', { status: { podIP: 7, podIPs: 'no list' } }, []],
  ['Pod', { status: { podIP: '300.1.1.1' } }, ['status.podIP']],
  ['Pod', { status: { podIP: '198.18.0.010' } }, ['status.podIP']],
  ['Pod', { status: { podIPs: [{ ip: 'fd00::1' }, { ip: '198.18.0.1/24' }] } }, ['status.podIPs[1].ip']],
  [
    'Node',
    {
      spec: { podCIDR: '198.18.2.0/24', podCIDRs: ['198.18.2.0/24', 'fd00::'] },
      status: {
        addresses: [
          { type: 'Hostname', address: 'node-a' },
          { type: 'InternalIP', address: 'node-a' },
          { type: 'ExternalIP', address: '198.18.0.1' },
        ],
      },
    },
    ['spec.podCIDRs[1]', 'status.addresses[1].address'],
  ],
  ['Service', { spec: { clusterIP: 'None', clusterIPs: ['None'] } }, []],
  ['Service', { spec: { clusterIP: '', type: 'ClusterIP' } }, []],
  ['Service', { spec: { clusterIP: 'x', clusterIPs: ['fd00::1', 'none'] } }, ['spec.clusterIP', 'spec.clusterIPs[1]']],
  ['Service', { spec: { clusterIP: 'x', type: 'ExternalName' } }, []],
  [
    'EndpointSlice',
    { addressType: 'IPv4', endpoints: [{ addresses: ['198.18.0.1'] }, { addresses: ['198.18.0.1', 'db-1'] }] },
    ['endpoints[1].addresses[1]'],
  ],
  ['EndpointSlice', { addressType: 'FQDN', endpoints: [{ addresses: ['db.example.com'] }] }, []],
  ['Namespace', { status: { podIP: 'x' } }, []],
];

for (const [kind, object, told] of cases) {
  test(`${kind} ${JSON.stringify(object)}: ${told.length === 0 ? 'nothing' : told.join(', ')}`, () => {
    const findings = checkAddresses(kind, object);
    assert.deepEqual(
      findings.map(({ path }) => pathText(path)),
      told,
    );
    for (const { severity, code } of findings) assert.deepEqual([severity, code], ['warning', 'address']);
  });
}
