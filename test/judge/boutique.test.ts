// SPDX-License-Identifier: Apache-2.0
// Online Boutique: by explain, the calls that the shop makes pass, to pods and to Services, and every other one is refused.
import assert from 'node:assert/strict';
import test from 'node:test';
import { compile } from '../../src/compile/compile.ts';
import { explainer } from '../../src/judge/explain.ts';
import { ObjectStore } from '../../src/source/store.ts';
import { asYaml, readShop } from '../support/boutique.ts';

test('the shop makes its calls, and no other', () => {
  const shop = readShop();
  assert.equal(shop.services.length, 12);
  assert.equal(shop.calls.size, 16, [...shop.calls].join(' '));
  const text = asYaml([...shop.objects(() => null), ...shop.policies]);
  const host = { node: null, addresses: [], resolvers: [] };
  const { snapshot, problems } = new ObjectStore(null).update(
    { files: [{ path: 'shop.yaml', text, hash: '' }], unreadable: [] },
    host,
  );
  assert.deepEqual(problems, []);
  const { answer } = explainer(snapshot, compile(snapshot));

  let refused = 0;
  for (const from of shop.services) {
    for (const to of shop.services) {
      if (from === to) continue;
      for (const port of [...to.ports, 22]) {
        const called = shop.calls.has(`${from.app}->${to.app}:${port}`);
        for (const address of [to.ipv4, to.ipv6, `shop/${to.app}`]) {
          const told = answer({ from: `shop/${from.app}`, to: address, port, protocol: 'TCP' });
          const expected = called ? ['allow', 'rule'] : ['deny', 'no_rule'];
          assert.deepEqual([told.verdict, told.reason], expected, `${from.app} -> ${to.app} ${port}`);
          assert.equal(told.policy, `EgressPolicy/shop/${from.app}`);
          if (!called) refused++;
        }
      }
    }
    for (const service of snapshot.services) {
      for (const { port } of service.ports) {
        const slice = snapshot.endpointSlices.find((each) => each.service === service.name);
        const target = slice?.ports[0]?.port;
        const backend = slice?.endpoints[0]?.pod?.name;
        if (backend === from.app) continue;
        const told = answer({ from: `shop/${from.app}`, to: `service:shop/${service.name}`, port, protocol: 'TCP' });
        const called = shop.calls.has(`${from.app}->${backend}:${target}`);
        assert.equal(told.verdict, called ? 'allow' : 'deny', `${from.app} -> service ${service.name}`);
      }
    }
  }
  assert.ok(refused > 300, `${refused} refused`);
});
