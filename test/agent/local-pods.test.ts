// SPDX-License-Identifier: Apache-2.0
// Which pods are here, followed from list to list, and is a node name that nobody has told?
import assert from 'node:assert/strict';
import test from 'node:test';
import { checkNodeName, isLocal, LocalPods } from '../../src/agent/local-pods.ts';
import { noteChange } from '../../src/model/list-change.ts';
import type { Pod, Snapshot } from '../../src/model/objects.ts';
import { seeded } from '../oracle/random.ts';

function pod(name: string, over: Partial<Pod> = {}): Pod {
  return {
    ...{ namespace: 'shop', name, uid: `u-${name}`, labels: {}, node: 'a', hostNetwork: false, addresses: [] },
    ...{ ports: [], ended: false, isStatic: false, cgroup: null },
    ...over,
  };
}

test('a pod is here by its node; one that no node is named for, as is said; the own never', () => {
  const here = (over: Partial<Pod>, nodeName: string | null = 'a', unscheduled: 'here' | 'elsewhere' = 'elsewhere') =>
    isLocal({ nodeName, unscheduled }, 'u-own', pod('p', over));
  assert.equal(here({}), true);
  assert.equal(here({ node: 'b' }), false);
  assert.equal(here({ node: 'b' }, null), true, 'without a name of its own, every node is this machine');
  assert.equal(here({ node: null }), false);
  assert.equal(here({ node: null }, 'a', 'here'), true);
  assert.equal(here({ uid: 'u-own' }), false);
  assert.equal(here({ uid: 'u-own' }, null), false);
  assert.equal(here({ uid: 'u-own', cgroup: 'some/where' }), true, 'a folder says where it is, and that is elsewhere');
  assert.equal(isLocal({ nodeName: 'a', unscheduled: 'here' }, null, pod('p', { uid: null })), true);
});

test('they are those that a filter finds, in the order of their names; what did not change is not asked about again', () => {
  const random = seeded(7);
  const asked: Pod[] = [];
  const isHere = ({ node }: Pod) => node === 'a';
  const local = new LocalPods((one) => {
    asked.push(one);
    return isHere(one);
  });
  let all: readonly Pod[] = [];
  let before = local.of(all);
  for (let change = 0; change < 200; change++) {
    const gone = all.filter(() => random.chance(0.1));
    const come = Array.from({ length: random.between(0, 4) }, (_, index) =>
      pod(`p${change}-${index}`, { node: random.pick(['a', 'b']), namespace: random.pick(['shop', 'data']) }),
    );
    const next = [...come, ...all.filter((one) => !gone.includes(one))];
    // Whoever makes a list may say what changed, or not.
    if (random.chance(0.5)) noteChange(all, next, { gone, come });
    asked.length = 0;
    const now = local.of(next);
    // Of lists of one length those that moved are looked at, too.
    if (next.length !== all.length) assert.deepEqual(new Set(asked), new Set(come));
    const plain = next.filter(isHere).sort((a, b) => compare(a.namespace, b.namespace) || compare(a.name, b.name));
    assert.deepEqual(now, plain);
    const isSame = now.length === before.length && now.every((one, index) => one === before[index]);
    assert.equal(now === before, isSame, 'the same list where they are the same');
    [all, before] = [next, now];
  }
  asked.length = 0;
  assert.equal(local.of(all), before);
  assert.deepEqual(asked, []);
});

test('a pod that another stands for by the same name is looked at', () => {
  const local = new LocalPods(({ node }) => node === 'a');
  const [mine, moved] = [pod('p'), pod('p', { node: 'b' })];
  assert.deepEqual(local.of([mine]), [mine]);
  assert.deepEqual(local.of([moved]), []);
  assert.deepEqual(local.of([mine]), [mine]);
});

test('a node name that no Node has is told with those that there are', () => {
  const of = (nodeName: string | null, ...nodes: string[]) => {
    const found = nodes.map((name) => ({ name, labels: {}, addresses: [], podCidrs: [] }));
    return checkNodeName({ nodes: found } as unknown as Snapshot, nodeName).map(({ code, message, advice }) =>
      [code, message, advice].join('; '),
    );
  };
  assert.deepEqual(of('a', 'a', 'b'), []);
  assert.deepEqual(of(null, 'b'), []);
  assert.deepEqual(of('a'), [], 'nothing to compare with');
  const told =
    'node_unknown; there is no Node a: pods of other Nodes are peers, and not held here; start the agent with';
  assert.deepEqual(of('a', 'b'), [`${told} --node-name b, or add the Node`]);
  assert.deepEqual(of('a', 'b', 'c'), [`${told} --node-name and one of b, c, or add the Node`]);
});

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
