// SPDX-License-Identifier: Apache-2.0
// Online Boutique on real sockets: twelve workloads, each with its own namespace, cgroup and listeners, under the policies got from
// what its authors ship. The calls that the shop makes pass, on both families; every other one is refused at once.
import assert from 'node:assert/strict';
import test from 'node:test';
import { PolicyFolder, startAgent } from '../support/agent.ts';
import { asYaml, readShop } from '../support/boutique.ts';
import { Lab, type Place } from '../support/lab.ts';

const STRANGE_PORT = 22;

test('the shop makes its calls, and no other', async (t) => {
  const lab = await Lab.create();
  const folder = new PolicyFolder();
  t.after(async () => {
    await lab.close();
    folder.close();
  });
  const shop = readShop();
  const places = new Map<string, Place>();
  for (const { app, ipv4, ipv6, ports } of shop.services) {
    const place = await lab.workload(app.slice(0, 9) + places.size, { addresses: [ipv4, ipv6] });
    places.set(app, place);
    for (const port of [...ports, STRANGE_PORT]) {
      for (const address of [ipv4, ipv6]) await place.actor.listen('TCP', address, port);
    }
  }
  folder.write('shop.yaml', asYaml(shop.objects((app) => places.get(app)?.cgroupPath ?? null)));
  folder.write('policies.yaml', asYaml(shop.policies));
  const agent = await startAgent(lab, folder, '--unknown', 'deny');
  const ready = await agent.line((line) => line.event === 'ready');
  assert.deepEqual([ready.workloads, ready.policies, ready.problems], [12, 12, 0]);

  const outcomes = new Map<string, number>();
  for (const from of shop.services) {
    const { actor } = places.get(from.app) ?? assert.fail(from.app);
    for (const to of shop.services) {
      if (from === to) continue;
      for (const port of [...to.ports, STRANGE_PORT]) {
        const called = shop.calls.has(`${from.app}->${to.app}:${port}`);
        for (const address of [to.ipv4, to.ipv6]) {
          const outcome = await actor.tryTcp(address, port, 10_000);
          assert.equal(outcome, called ? 'ok' : 'EPERM', `${from.app} -> ${to.app} ${address} ${port}`);
          outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
        }
      }
    }
  }
  assert.equal(outcomes.get('ok'), 2 * shop.calls.size);
  const refused = outcomes.get('EPERM') ?? 0;
  assert.ok(refused > 300, `${refused} refused`);

  const metrics = await agent.metrics();
  const counted = [...metrics].filter(([series]) => series.startsWith('postern_drop_count_total'));
  assert.equal(
    counted.reduce((sum, [, value]) => sum + value, 0),
    refused,
    'each refusal is counted, and nothing else',
  );
});
