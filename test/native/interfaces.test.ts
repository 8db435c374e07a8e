// SPDX-License-Identifier: Apache-2.0
// Does the addon say of interfaces, addresses and namespaces what is there, of this namespace and of others, and hear of changes?
import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';
import { type Interface, KernelError, loadNative } from '../../src/kernel/native.ts';
import { addressText } from '../../src/model/address.ts';
import { Elsewhere } from '../support/elsewhere.ts';
import { Lab, type Place } from '../support/lab.ts';

const native = loadNative();
let lab: Lab;
let node: Elsewhere;
let pod: Place;

before(async () => {
  lab = await Lab.create();
  pod = await lab.workload('pod', { addresses: ['198.18.1.1', 'fd00::1:1'] });
  node = new Elsewhere(lab.outside.netns);
  lab.adopt(node.child);
});
after(() => lab.close());

function named(interfaces: readonly Interface[], name: string): Interface {
  const found = interfaces.find((one) => one.name === name);
  assert(found !== undefined, `${name} among ${interfaces.map((one) => one.name)}`);
  return found;
}

async function sh({ outside }: Lab, script: string): Promise<void> {
  const { status, stderr } = await outside.exec('sh', ['-c', script]);
  assert.equal(status, 0, stderr);
}

/** As seen from the node, by a path that some process there can read. */
function numberOf(netns: string): Promise<number> {
  return node.native('namespaceNumber', netns);
}

test('a veth of the node names its peer by the number of the namespace and the index there', async () => {
  const nsid = await numberOf(pod.netns);
  assert.equal(await numberOf(pod.netns), nsid, 'the number stays');
  const inside = named(await node.native('interfaces', nsid), 'eth0');
  const outside = (await node.native('interfaces', null)).find(({ linkNsid }) => linkNsid === nsid);
  assert.equal(outside?.kind, 'veth');
  assert.equal(outside?.hardware, 1);
  assert.equal(outside?.link, inside.ifindex);
  assert.equal(inside.link, outside?.ifindex);
  assert.equal(inside.linkNsid, await node.native('ownNamespaceNumber'), 'the peer is in the node');
  assert.equal(inside.mac.length, 6);
});

test('addresses of a pod are listed from outside, of both families, its link-local one among them', async () => {
  const nsid = await numberOf(pod.netns);
  const { ifindex } = named(await node.native('interfaces', nsid), 'eth0');
  const texts = (await node.native('interfaceAddresses', nsid))
    .filter((one) => one.ifindex === ifindex)
    .map(({ address }) => addressText(Buffer.from(address).toString('hex')));
  assert(texts.includes('198.18.1.1') && texts.includes('fd00::1:1'), texts.join());
  assert(
    texts.some((text) => text.startsWith('fe80:')),
    texts.join(),
  );
});

test('macvlan has its parent outside, and the parent names no peer', async () => {
  const place = await lab.workload('mac', { addresses: ['198.18.1.2'] });
  const name = place.netns.split('/').at(-1);
  await sh(lab, `ip link add par type veth peer name rap && ip link add link par name mvl netns ${name} type macvlan`);
  const nsid = await numberOf(place.netns);
  const macvlan = named(await node.native('interfaces', nsid), 'mvl');
  assert.equal(macvlan.kind, 'macvlan');
  assert.equal(macvlan.link, named(await node.native('interfaces', null), 'par').ifindex);
  assert.notEqual(named(await node.native('interfaces', null), 'par').linkNsid, nsid);
});

test('a number that nobody has, and a path that is no namespace, are refused', async () => {
  await assert.rejects(node.native('interfaces', 12345), KernelError);
  await assert.rejects(node.native('interfaceAddresses', 12345), KernelError);
  assert.throws(() => native.namespaceNumber('/nonexistent'), { code: 'ENOENT' });
  assert.throws(() => native.namespaceNumber('/proc/self/status'), KernelError);
  assert.throws(() => native.framesReceived(2 ** 31 - 1), { code: 'ENODEV' });
  assert.throws(() => native.interfaces(-1), TypeError);
});

test('frames that a pod sent are counted from the beginning', async () => {
  const nsid = await numberOf(pod.netns);
  const outside = (await node.native('interfaces', null)).find(({ linkNsid }) => linkNsid === nsid);
  const before = await node.native('framesReceived', outside?.ifindex ?? 0);
  await pod.exec('ping', ['-c', '3', '-i', '0.01', '-W', '1', '198.18.0.1']);
  assert((await node.native('framesReceived', outside?.ifindex ?? 0)) >= before + 3);
});

test('a thousand interfaces are one dump', async () => {
  const lines = Array.from({ length: 500 }, (_, index) => `link add many${index} type veth peer name ynam${index}`);
  await sh(lab, `ip -batch - <<'END'\n${lines.join('\n')}\nEND`);
  const all = await node.native('interfaces', null);
  assert.equal(all.filter(({ name }) => name.startsWith('many')).length, 500);
  assert.equal(all.filter(({ name }) => name.startsWith('ynam')).length, 500);
  assert.equal(new Set(all.map(({ ifindex }) => ifindex)).size, all.length);
});

test('changes are told until the end is asked for', async () => {
  const own = await Lab.create();
  const watcher = new Elsewhere(own.outside.netns);
  own.adopt(watcher.child);
  try {
    await watcher.watch();
    await sh(own, 'ip link add a1 type veth peer name a2');
    await watcher.changed();
    const { ifindex } = named(await watcher.native('interfaces', null), 'a1');
    await sh(own, 'ip link set a1 name renamed');
    await watcher.changed();
    assert(!watcher.gone.includes(ifindex));
    await sh(own, `ip link del renamed && ip link add a3 index ${ifindex} type veth peer name a4`);
    while (!watcher.gone.includes(ifindex)) await watcher.changed();
    await watcher.unwatch();
    const told = watcher.changes;
    await sh(own, 'ip link add a1 type veth peer name a2');
    await watcher.native('interfaces', null);
    assert.equal(watcher.changes, told);
  } finally {
    await own.close();
  }
});
