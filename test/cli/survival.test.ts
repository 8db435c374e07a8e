// SPDX-License-Identifier: Apache-2.0
// Does what is enforced stay so while the agent is away, however it went, and does the next one take over without a trace in any packet?
import assert from 'node:assert/strict';
import { readdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { loadNative } from '../../src/kernel/native.ts';
import { PolicyFolder, startAgent, type TestAgent } from '../support/agent.ts';
import { type Actor, Lab, type Place } from '../support/lab.ts';

const SERVER = '198.18.1.1';
const SERVER6 = 'fd00:18:1::1';

interface World {
  readonly lab: Lab;
  readonly folder: PolicyFolder;
  readonly web: Place;
  readonly actor: Actor;
}

async function world(t: test.TestContext): Promise<World> {
  const lab = await Lab.create();
  const folder = new PolicyFolder();
  t.after(async () => {
    await lab.close();
    folder.close();
  });
  await lab.addOutside(SERVER, SERVER6);
  for (const port of [80, 81]) {
    for (const address of [SERVER, SERVER6]) await lab.outside.actor.listen('TCP', address, port);
  }
  const web = await lab.workload('web', { addresses: ['198.18.2.1', 'fd00:18:2::1'] });
  folder.write('objects.yaml', objects(web, '{port: 80}'));
  return { lab, folder, web, actor: web.actor };
}

function objects(web: Place, ports: string, networks = `${SERVER}/32, "${SERVER6}/128"`): string {
  return `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, annotations: {postern.dev/cgroup: ${web.cgroupPath}}}
status: {podIPs: [${web.addresses.map((ip) => `{ip: "${ip}"}`).join(', ')}]}
---
apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: web, namespace: shop}
spec: {egress: [{to: [{networks: [${networks}]}], ports: [${ports}]}]}
`;
}

async function isHeld(actor: Actor): Promise<void> {
  for (const address of [SERVER, SERVER6]) {
    assert.equal(await actor.tryTcp(address, 80), 'ok');
    assert.equal(await actor.tryTcp(address, 81), 'EPERM');
  }
}

/** Epochs that are not 0, by slot, from the one set that is pinned. */
function epochs(folder: PolicyFolder): Map<number, number> {
  const sets = readdirSync(folder.bpffs).filter((name) => /^[0-9a-f]{16}-\d+$/.test(name));
  assert.equal(sets.length, 1, sets.join(', '));
  const maps = loadNative().openMaps({ epochs: path.join(folder.bpffs, String(sets[0]), 'epochs') });
  try {
    const { values, count } = maps.dump('epochs');
    return new Map(
      Array.from({ length: count }, (_, slot) => [slot, values.readUInt32LE(slot * 4)] as const).filter(
        ([, at]) => at > 0,
      ),
    );
  } finally {
    maps.close();
  }
}

function programs(lab: Lab): number[] {
  const root = loadNative().cgroupId(lab.root);
  return loadNative()
    .links()
    .filter(({ cgroup }) => cgroup === root)
    .map(({ program }) => program)
    .sort();
}

for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
  test(`after ${signal} what was enforced stays so, and the next agent takes over by an empty diff`, async (t) => {
    const { lab, folder, actor } = await world(t);
    const first = await startAgent(lab, folder);
    await isHeld(actor);
    const established = await actor.connect(SERVER, 80);
    assert.equal(established.outcome, 'ok');
    const before = { epochs: epochs(folder), programs: programs(lab) };
    assert.equal(before.programs.length, 6);

    await first.stop(signal);
    if (signal === 'SIGTERM') {
      const stopped = await first.line((line) => line.event === 'stopped');
      assert.match(
        String(stopped.msg),
        new RegExp(`pinned in ${folder.bpffs}; postern uninstall --bpffs ${folder.bpffs}`),
      );
    }
    assert.deepEqual({ epochs: epochs(folder), programs: programs(lab) }, before);
    await isHeld(actor);
    assert.equal(await actor.exchange(established.socket ?? 0), 'ok');

    const second = await startAgent(lab, folder);
    const taken = await second.line((line) => line.event === 'taken_over');
    assert.equal(typeof taken.since, 'string');
    assert.deepEqual({ epochs: epochs(folder), programs: programs(lab) }, before, 'not a byte was written');
    await isHeld(actor);
    assert.equal(await actor.exchange(established.socket ?? 0), 'ok');
    await second.stop();
  });
}

async function ready(agent: TestAgent): Promise<void> {
  await agent.line((line) => line.event === 'ready');
}

test('a policy that changed while no agent ran holds as soon as the next is ready, and never less than the old', async (t) => {
  const { lab, folder, web, actor } = await world(t);
  await (await startAgent(lab, folder)).stop('SIGKILL');
  // Other ports of the same destinations change rows alone; another destination changes what addresses are.
  for (const [ports, networks] of [
    ['{port: 81}', undefined],
    ['{port: 80}', '198.18.0.0/15, "fd00::/8"'],
  ] as const) {
    folder.write('objects.yaml', objects(web, ports, networks));
    const agent = await startAgent(lab, folder);
    await ready(agent);
    for (const address of [SERVER, SERVER6]) {
      assert.equal(await actor.tryTcp(address, 80), ports === '{port: 80}' ? 'ok' : 'EPERM');
      assert.equal(await actor.tryTcp(address, 81), ports === '{port: 81}' ? 'ok' : 'EPERM');
    }
    assert.equal(programs(lab).length, 6);
    assert.equal(readdirSync(folder.bpffs).filter((name) => /-\d+$/.test(name)).length, 1);
    await agent.stop('SIGKILL');
  }
  rmSync(path.join(folder.bpffs, 'links'), { recursive: true });
  assert.deepEqual(programs(lab), []);
});
