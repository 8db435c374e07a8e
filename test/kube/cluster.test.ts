// SPDX-License-Identifier: Apache-2.0
// No object is too strange to be read; lists are replaced as a whole and shared as far as nothing in them changed.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { Cluster } from '../../src/kube/cluster.ts';
import { equal } from '../../src/kube/equal.ts';
import type { Cut } from '../../src/kube/reflector.ts';
import { resources } from '../../src/kube/resources.ts';
import { Scanner } from '../../src/kube/scan.ts';
import { SortedList } from '../../src/kube/snapshot.ts';
import { changeBetween } from '../../src/model/list-change.ts';
import type { Kind } from '../../src/validate/kind.ts';
import { seeded } from '../oracle/random.ts';

const HOST = { node: null, addresses: [], resolvers: [] };
const metadata = { namespace: 'shop', name: 'a', uid: 'u', generation: 1, resourceVersion: '1', labels: { app: 'a' } };
const selector = { matchLabels: { app: 'a' }, matchExpressions: [{ key: 'app', operator: 'In', values: ['a'] }] };
const ports = [{ name: 'http', port: 80, containerPort: 80, protocol: 'TCP', nodePort: 30080, endPort: 90 }];

/** An object that has everything that any kind has. */
const WHOLE = {
  metadata: { ...metadata, annotations: { 'kubernetes.io/config.mirror': 'x', 'postern.dev/mode': 'Audit' } },
  ports,
  endpoints: [{ addresses: ['10.0.0.1'], conditions: { ready: true }, targetRef: { kind: 'Pod', name: 'a' } }],
  spec: {
    podSelector: selector,
    subject: { namespaces: selector },
    policyTypes: ['Egress'],
    tier: 'Admin',
    priority: 1,
    egress: [{ to: [{ podSelector: selector }, { networks: ['10.0.0.0/8'] }], ports, action: 'Accept' }],
    nodeName: 'n',
    hostNetwork: true,
    containers: [{ ports }],
    initContainers: [{ ports, restartPolicy: 'Always' }],
    type: 'ClusterIP',
    clusterIP: '10.0.0.1',
    clusterIPs: ['10.0.0.1'],
    ports,
    podCIDRs: ['10.0.0.0/24'],
  },
  status: { phase: 'Running', podIP: '10.0.0.1', podIPs: [{ ip: '10.0.0.1' }], addresses: [{ address: '10.0.0.1' }] },
};

/** Every place below an object. */
function places(value: unknown, path: readonly (string | number)[] = []): (readonly (string | number)[])[] {
  if (typeof value !== 'object' || value === null) return [path];
  return [path, ...Object.entries(value).flatMap(([name, field]) => places(field, [...path, name]))];
}

function replaced(value: unknown, [step, ...rest]: readonly (string | number)[], by: unknown): unknown {
  if (step === undefined) return by;
  const copy = (Array.isArray(value) ? [...value] : { ...(value as object) }) as Record<string | number, unknown>;
  copy[step] = replaced(copy[step], rest, by);
  return copy;
}

for (const { kind, shape } of resources) {
  test(`a ${kind} with anything anywhere is read, and without a name it is none`, () => {
    const scanner = new Scanner(shape);
    const cluster = new Cluster(null, new Map(), null, () => undefined);
    const put = (of: Kind, object: unknown) => cluster.sink(of).put(object as Cut);
    put('Namespace', { metadata: { name: 'shop', resourceVersion: '1' } });
    const strange = [null, true, 0, -1, 1e9, '', 'x', 'a/b', [], [null], [[]], {}, { a: null }, { '': {} }];
    for (const place of places(WHOLE)) {
      for (const by of strange) {
        const text = JSON.stringify(replaced(WHOLE, place, by));
        const object = scanner.read(Buffer.from(text)) as Cut | undefined;
        const named = (object?.metadata as { name?: string } | undefined)?.name;
        // What has no name, the reflector refuses.
        if (object === undefined || named === undefined || named === '') continue;
        put(kind, object);
        cluster.contents(HOST);
      }
    }
    put(kind, scanner.read(Buffer.from(JSON.stringify(WHOLE))));
    const { snapshot } = cluster.contents(HOST);
    assert.ok(Object.values(snapshot).some((list) => Array.isArray(list) && list.length > 0));
  });
}

test('a list after any changes is that of a fresh one, the same where nothing came of them, and says what changed', () => {
  const key = fc.constantFrom('a', 'a/b', 'a-b', 'b', 'c', 'd/e', 'z');
  const steps = fc.array(fc.array(fc.tuple(key, fc.constantFrom(null, 0, 1)), { maxLength: 5 }), { maxLength: 10 });
  const objects = new Map<string, readonly [object, object]>();
  const objectOf = (name: string, which: 0 | 1): object => {
    const both = objects.get(name) ?? [{ name }, { name }];
    objects.set(name, both);
    return both[which];
  };
  fc.assert(
    fc.property(steps, (all) => {
      const list = new SortedList<object>();
      const held = new Map<string, object>();
      for (const changes of all) {
        const before = new Map(held);
        const values = list.values;
        for (const [name, which] of changes) {
          if (which === null) held.delete(name);
          else held.set(name, objectOf(name, which));
        }
        list.update(new Set(changes.map(([name]) => name)), (name) => held.get(name) ?? null);
        const expected = [...held].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, value]) => value);
        assert.ok(sameItems([...list.values], expected));
        const isSame = before.size === held.size && [...before].every(([name, one]) => held.get(name) === one);
        assert.equal(list.values === values, isSame);
        const { gone, come } = changeBetween(values, list.values);
        assert.ok(
          sameItems(
            gone,
            [...before]
              .filter(([name, one]) => held.get(name) !== one)
              .sort(byName)
              .map(second),
          ),
        );
        assert.ok(
          sameItems(
            come,
            [...held]
              .filter(([name, one]) => before.get(name) !== one)
              .sort(byName)
              .map(second),
          ),
        );
      }
    }),
    { numRuns: 1000 },
  );
});

const byName = ([a]: readonly [string, object], [b]: readonly [string, object]): number => (a < b ? -1 : 1);
const second = ([, value]: readonly [string, object]): object => value;
const sameItems = (a: readonly object[], b: readonly object[]): boolean =>
  a.length === b.length && a.every((one, index) => one === b[index]);

test('equal is what deepEqual is', () => {
  const value = fc.jsonValue({ maxDepth: 3 });
  fc.assert(
    fc.property(value, value, fc.boolean(), (a, b, isCopy) => {
      const other = isCopy ? structuredClone(a) : b;
      let isSame = true;
      try {
        assert.deepEqual(a, other);
      } catch {
        isSame = false;
      }
      assert.equal(equal(a, other), isSame);
    }),
  );
});

test('a long list, which is held in parts, is that of a fresh one after any changes', () => {
  const random = seeded(7);
  const list = new SortedList<{ readonly name: string }>();
  const held = new Map<string, { readonly name: string }>();
  for (let change = 0; change < 60; change++) {
    const changed = new Set<string>();
    // Grows past several parts, then shrinks to none.
    const isGrowing = change < 30;
    for (let index = random.between(0, 900); index-- > 0; ) {
      const name = `pod-${random.between(0, 6000)}`;
      changed.add(name);
      if (random.chance(isGrowing ? 0.1 : 0.7)) held.delete(name);
      else if (isGrowing || held.has(name)) held.set(name, { name });
    }
    if (change === 59) {
      for (const name of held.keys()) changed.add(name);
      held.clear();
    }
    const before = list.values;
    const old = [...before];
    const { gone, come } = changeBetween(
      before,
      list.update(changed, (name) => held.get(name) ?? null),
    );
    const expected = [...held].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, value]) => value);
    assert.ok(sameItems([...list.values], expected));
    assert.equal(list.values.length, expected.length);
    assert.ok(sameItems([...before], old), 'what was told stays');
    const [was, is] = [new Set(old), new Set(expected)];
    assert.deepEqual(new Set(gone), was.difference(is));
    assert.deepEqual(new Set(come), is.difference(was));
  }
  assert.equal(list.values.length, 0);
});
