// SPDX-License-Identifier: Apache-2.0
// Whatever way a cluster came to be as it is, it is held alike: lists of states, lived through in many orders, in the tables and
// in the kernel. After each state its verdicts hold, and what is held is what a fresh start would hold.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import test, { after, before, describe } from 'node:test';
import { COUNTER_KEY_BYTES, decodeCounterKey, VERDICT_NAMES } from '#build/generated/abi.ts';
import { type Compiled, compile } from '../../src/compile/compile.ts';
import { transition } from '../../src/compile/transition.ts';
import { tell } from '../../src/judge/decide.ts';
import { type Answer, explainer } from '../../src/judge/explain.ts';
import { Applier, type CgroupBinding } from '../../src/kernel/apply.ts';
import { loadNative, type NativeObject } from '../../src/kernel/native.ts';
import { loadPrograms } from '../../src/kernel/programs.ts';
import { addressKey, isIPv4 } from '../../src/model/address.ts';
import type { Host, Snapshot } from '../../src/model/objects.ts';
import type { Tables } from '../../src/model/tables.ts';
import { policyName } from '../../src/resolve/order.ts';
import { ObjectStore } from '../../src/source/store.ts';
import { ipv4, ipv6, type Part, sctp, tcp, udp } from '../packets/packet.ts';
import { cgroupMount, Lab } from '../support/lab.ts';
import { LISTS } from '../support/state-lists.ts';
import { type Cluster, ORDERS, type Question, questionOf, type Visit } from '../support/states.ts';

const HOST: Host = { node: 'a', addresses: ['198.18.0.10'], resolvers: [] };
const SIZES = { workloads: 64, identities: 4096, networks: 4096, verdicts: 16384, ports: 16384, selves: 256 };

/** One store a run, as an agent has one: what it remembers must not show. */
function reader(): (cluster: Cluster) => Snapshot {
  const store = new ObjectStore(null);
  return (cluster) => {
    const files = [...cluster].map(([key, object]) => {
      const text = JSON.stringify(object);
      return { path: `${key.replaceAll('/', '.')}.json`, text, hash: text };
    });
    const { snapshot, problems } = store.update({ files, unreadable: [] }, HOST);
    assert.deepEqual(
      problems.filter(({ severity }) => severity === 'error'),
      [],
    );
    return snapshot;
  };
}

function plain(tables: Tables): unknown {
  return Object.fromEntries(
    Object.entries(tables).map(([name, map]) => [name, [...map].sort(([a], [b]) => (String(a) < String(b) ? -1 : 1))]),
  );
}

function told(question: Question, { verdict, policy }: Answer): unknown {
  return { ...question, verdict, policy };
}

describe('in the tables', () => {
  for (const list of LISTS) {
    for (const [order, visits] of Object.entries(ORDERS)) {
      test(`${list.name}: ${order}`, () => {
        const read = reader();
        let compiled: Compiled | null = null;
        for (const { at, cluster, verdicts } of visits(list)) {
          const snapshot = read(cluster);
          ({ compiled } = transition(compiled, snapshot) as { compiled: Compiled });
          assert.deepEqual(plain(compiled.tables), plain(compile(snapshot).tables), at);
          const { answer } = explainer(snapshot, compiled);
          for (const question of (verdicts ?? []).map(questionOf)) {
            assert.deepEqual(told(question, answer(question)), question, at);
          }
        }
      });
    }
  }
});

const native = loadNative();

/** Maps of a kernel, brought from one state to the next. No program is attached: packets are put to them. */
class Kernel {
  readonly object: NativeObject = loadPrograms(native, SIZES);
  readonly #applier = new Applier(this.object, { unknown: 'allow', hostNetns: 0n });
  readonly #lab: Lab;
  readonly folders = new Map<string, string>();
  #compiled: Compiled | null = null;

  constructor(lab: Lab) {
    this.#lab = lab;
  }

  /** Entries written and deleted. */
  take(snapshot: Snapshot): number {
    const { steps, compiled } = transition(this.#compiled, snapshot);
    this.#compiled = compiled;
    const bindings = new Map<string, CgroupBinding>();
    for (const name of compiled.tables.workloads.keys()) {
      const folder = this.#lab.cgroup(`states/${name.replace('/', '-')}`);
      this.folders.set(name, folder);
      const level = path.relative(cgroupMount(), folder).split('/').length;
      bindings.set(name, { cgroup: native.cgroupId(folder), level });
    }
    return steps
      .map((step) => this.#applier.apply(step, bindings))
      .reduce((sum, { written, deleted, leftover }) => {
        assert.equal(leftover, null);
        return sum + written + deleted;
      }, 0);
  }

  /** What the kernel holds, slots by the names that they stand for. */
  held(): unknown {
    const { workloads, selves, ...others } = this.#applier.readBack();
    const name = (slot: number) => this.#applier.names.workload(slot);
    const sorted = (map: ReadonlyMap<unknown, unknown>) =>
      [...map].map(([key, value]) => [String(key), value] as const).sort(([a], [b]) => (a < b ? -1 : 1));
    return {
      ...Object.fromEntries(Object.entries(others).map(([map, entries]) => [map, sorted(entries)])),
      workloads: sorted(
        new Map([...workloads].map(([key, { slot, ...entry }]) => [key, { ...entry, name: name(slot) }])),
      ),
      selves: [...selves.keys()].map((key) => `${name(Number(key.split('/')[0]))} ${key.split('/')[1]}`).sort(),
    };
  }

  /** Puts a packet to the program, and reads what the one counter that it moved says. */
  ask({ to, port, protocol }: Question, snapshot: Snapshot): { verdict: string; policy: string | null } {
    const address = addressOf(to, snapshot);
    const parts: Record<string, () => Part> = {
      TCP: () => tcp({ to: port, flags: ['syn'] }),
      UDP: () => udp({ to: port }),
      SCTP: () => sctp({ to: port }),
    };
    const part = parts[protocol]?.() ?? assert.fail(protocol);
    const packet = isIPv4(addressKey(address) ?? assert.fail(address))
      ? ipv4({ to: address }, part)
      : ipv6({ to: address }, part);
    const { retval } = this.object.testRun('egress', packet, 1);
    const { keys, count } = this.object.dump('counters');
    assert.equal(count, 1, 'each packet is counted once');
    const { ruleset, reason, rule, verdict } = decodeCounterKey(keys.subarray(0, COUNTER_KEY_BYTES));
    this.object.remove('counters', keys, count);
    const { policy } = tell(this.#compiled?.tables.rulesets.get(ruleset), { reason, rule });
    const said = VERDICT_NAMES.get(verdict) ?? '';
    assert.equal(retval === 1, said !== 'deny');
    return { verdict: said, policy: policy === null ? null : policyName(policy) };
  }
}

function addressOf(to: string, snapshot: Snapshot): string {
  if (to.startsWith('service:')) {
    const service = snapshot.services.find(({ namespace, name }) => `service:${namespace}/${name}` === to);
    return service?.clusterIPs[0] ?? assert.fail(to);
  }
  if (!to.includes('/')) return to;
  return snapshot.pods.find(({ namespace, name }) => `${namespace}/${name}` === to)?.addresses[0] ?? assert.fail(to);
}

describe('in the kernel', () => {
  let lab: Lab;
  let home = '';
  const moveTo = (folder: string) => writeFileSync(path.join(folder, 'cgroup.procs'), `${process.pid}`);

  before(async () => {
    home = path.join(cgroupMount(), /^0::(.*)$/m.exec(readFileSync('/proc/self/cgroup', 'utf8'))?.[1] ?? '');
    lab = await Lab.create();
  });
  after(async () => {
    moveTo(home);
    await lab.close();
  });

  function live(visits: readonly Visit[], isDuplicated: boolean): void {
    const kernel = new Kernel(lab);
    try {
      const read = reader();
      let before = '';
      for (const { at, cluster, verdicts } of visits) {
        const snapshot = read(cluster);
        const written = kernel.take(snapshot);
        if (isDuplicated && at === before) assert.equal(written, 0, `${at}, once more, is no change`);
        before = at;
        if (verdicts === null) continue;
        const fresh = new Kernel(lab);
        try {
          fresh.take(snapshot);
          assert.deepEqual(kernel.held(), fresh.held(), at);
        } finally {
          fresh.object.close();
        }
        for (const question of verdicts.map(questionOf)) {
          moveTo(kernel.folders.get(question.from) ?? assert.fail(question.from));
          assert.deepEqual({ ...question, ...kernel.ask(question, snapshot) }, question, at);
        }
      }
    } finally {
      moveTo(home);
      kernel.object.close();
    }
  }

  for (const list of LISTS) {
    for (const [order, visits] of Object.entries(ORDERS)) {
      test(`${list.name}: ${order}`, () => live(visits(list), order === 'duplicated'));
    }
  }
});
