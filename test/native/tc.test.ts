// SPDX-License-Identifier: Apache-2.0
// Does a program get in front of everything on an interface, by tcx and by clsact alike, and away again without a trace?
import assert from 'node:assert/strict';
import path from 'node:path';
import test, { after, before } from 'node:test';
import { Elsewhere } from '../support/elsewhere.ts';
import { Lab, type Place } from '../support/lab.ts';

const STUB = path.join(import.meta.dirname, '../../build/test/native/stub.bpf.o');
const SIDES = ['ingress', 'egress'] as const;
let lab: Lab;
let node: Elsewhere;
let pod: Place;
let ifindex = 0;

before(async () => {
  lab = await Lab.create();
  pod = await lab.workload('pod', { addresses: ['198.18.1.1'] });
  node = new Elsewhere(lab.outside.netns);
  lab.adopt(node.child);
  await node.load(STUB);
  const nsid = await node.native('namespaceNumber', pod.netns);
  const outside = (await node.native('interfaces', null)).find(({ linkNsid }) => linkNsid === nsid);
  const inside = (await node.native('interfaces', nsid)).find(({ name }) => name === 'eth0');
  ifindex = outside?.ifindex ?? 0;
  // Neighbours that need not be asked for: one that did not answer is asked again only a second later.
  const mac = (bytes: Uint8Array | undefined) =>
    Buffer.from(bytes ?? [])
      .toString('hex')
      .replace(/..(?=.)/g, '$&:');
  await sh(`ip neigh replace 198.18.1.1 lladdr ${mac(inside?.mac)} dev w1`);
  await pod.exec('ip', ['neigh', 'replace', '198.18.0.1', 'lladdr', mac(outside?.mac), 'dev', 'eth0']);
});
after(() => lab.close());

async function reaches(): Promise<boolean> {
  return (await pod.exec('ping', ['-c', '1', '-W', '1', '198.18.0.1'])).status === 0;
}

async function sh(script: string): Promise<string> {
  const { status, stdout, stderr } = await lab.outside.exec('sh', ['-c', script]);
  assert.equal(status, 0, stderr);
  return stdout;
}

for (const side of SIDES) {
  test(`tcx, ${side}: who comes later stands before`, async () => {
    const later = await node.object('attachTcx', 'shoot', ifindex, side);
    assert.equal(await reaches(), false);
    const first = await node.object('attachTcx', 'pass_on', ifindex, side);
    assert.equal(await reaches(), false, 'allowing is no end of the chain');
    const { program } = await node.object('tcxPlace', first);
    const chain = await node.native('tcxChain', ifindex, side);
    assert.deepEqual(chain, [program, (await node.object('tcxPlace', later)).program]);
    await node.object('releaseLink', later);
    assert.equal(await reaches(), true);
    await node.object('detach', first);
    assert.deepEqual(await node.native('tcxChain', ifindex, side), []);
    await assert.rejects(node.object('releaseLink', later), { code: 'ENOENT' });
    await assert.rejects(node.object('tcxPlace', first), { code: 'ENOENT' });
  });

  test(`clsact, ${side}: before filters that were there, once however often, and away without a trace`, async () => {
    assert.equal(await node.native('clsactProgram', ifindex, side), null);
    assert.equal(await node.native('detachClsact', ifindex, side), false);
    assert.equal(await node.object('attachClsact', 'shoot', ifindex, side), true, 'clsact was not there');
    assert.equal(await reaches(), false);
    const shot = await node.native('clsactProgram', ifindex, side);
    assert.equal(await node.object('attachClsact', 'pass_on', ifindex, side), false, 'it is there now');
    assert.notEqual(await node.native('clsactProgram', ifindex, side), shot, 'ours is replaced');
    assert.equal(await reaches(), true);
    await sh(`tc filter add dev w1 ${side} prio 7 bpf da obj ${STUB} program shoot`);
    assert.equal(await reaches(), false, 'what others have there goes on to work');
    assert.equal(await node.native('removeEmptyClsact', ifindex), false);
    assert.equal(await node.native('detachClsact', ifindex, side), true);
    assert.equal(await node.native('clsactProgram', ifindex, side), null);
    assert.equal(await node.native('removeEmptyClsact', ifindex), false, "clsact holds another's filter");
    assert.match(await sh(`tc filter show dev w1 ${side}`), / bpf .*pref 7 |pref 7 bpf/);
    await sh(`tc filter del dev w1 ${side} prio 7`);
    assert.equal(await node.native('removeEmptyClsact', ifindex), true);
    assert.doesNotMatch(await sh('tc qdisc show dev w1'), /clsact/);
    assert.equal(await node.native('removeEmptyClsact', ifindex), false);
  });
}

test('a link that closes with its process, and an interface that goes', async () => {
  await sh('ip link add one type veth peer name other');
  const index = (await node.native('interfaces', null)).find(({ name }) => name === 'one')?.ifindex ?? 0;
  const link = await node.object('attachTcx', 'pass_on', index, 'ingress');
  assert.equal((await node.object('tcxPlace', link)).ifindex, index);
  await sh('ip link set one name renamed');
  assert.equal((await node.object('tcxPlace', link)).ifindex, index, 'a name is nothing to it');
  await sh(`ip link del renamed && ip link add anew index ${index} type veth peer name other`);
  assert.equal((await node.object('tcxPlace', link)).ifindex, 0, 'the same index is another interface');
  assert.deepEqual(await node.native('tcxChain', index, 'ingress'), []);
  await node.object('detach', link);
  await sh('ip link del anew');
  await assert.rejects(node.object('attachTcx', 'pass_on', index, 'ingress'), { code: 'ENODEV' });
  await assert.rejects(node.object('attachClsact', 'pass_on', index, 'ingress'), { code: 'ENODEV' });
  assert.equal(await node.native('clsactProgram', index, 'ingress'), null);
  assert.equal(await node.native('detachClsact', index, 'ingress'), false);
  assert.equal(await node.native('removeEmptyClsact', index), false);
});

test('what is no such program, or no side, is refused', async () => {
  await assert.rejects(node.object('attachTcx', 'nothing', ifindex, 'ingress'), { code: 'ENOENT' });
  await assert.rejects(node.object('attachTcx', 'refuse', ifindex, 'ingress'), { code: 'EINVAL' });
});
