// SPDX-License-Identifier: Apache-2.0
// The kernel decides as explain says: whole random clusters are compiled into the real maps, and every query is put to the
// programs as a packet, and, where its address may be used for traffic, as a real socket in the workload's cgroup.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import test, { after, before, describe } from 'node:test';
import { COUNTER_KEY_BYTES, decodeCounterKey, REASON_NAMES, VERDICT_NAMES } from '#build/generated/abi.ts';
import type { Compiled } from '../../src/compile/compile.ts';
import { transition } from '../../src/compile/transition.ts';
import { tell } from '../../src/judge/decide.ts';
import { type Answer, explainer, type Query } from '../../src/judge/explain.ts';
import { Applier, type CgroupBinding } from '../../src/kernel/apply.ts';
import { loadNative, type NativeObject } from '../../src/kernel/native.ts';
import { attachPrograms, loadPrograms } from '../../src/kernel/programs.ts';
import { addressKey, addressText, contains, isIPv4, prefix } from '../../src/model/address.ts';
import type { Snapshot } from '../../src/model/objects.ts';
import { policyName } from '../../src/resolve/order.ts';
import { ObjectStore } from '../../src/source/store.ts';
import { asciiName } from '../../src/validate/domain-name.ts';
import { generate } from '../oracle/generate.ts';
import { icmp4, icmp6, ipv4, ipv6, type Part, sctp, tcp, udp } from '../packets/packet.ts';
import { type Actor, cgroupMount, Lab } from '../support/lab.ts';
import { learn, tellName } from './teach.ts';

const SEED = Number(process.env.POSTERN_SEED ?? 101);
const PACKET_CASES = 25;
const SOCKET_CASES = 6;
const SIZES = { workloads: 64, identities: 4096, networks: 4096, verdicts: 16384, ports: 16384, selves: 256 };
const native = loadNative();

/** Compiled, enforced, and where each workload is. */
interface Enforced {
  readonly snapshot: Snapshot;
  readonly compiled: Compiled;
  readonly object: NativeObject;
  readonly applier: Applier;
  readonly folders: ReadonlyMap<string, string>;
  readonly slots: ReadonlyMap<string, number>;
  readonly queries: readonly Query[];
}

let lab: Lab;
let cgroups = 0;

function enforce(seed: number): Enforced {
  const { objects, host, queries } = generate(seed);
  const text = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects });
  const files = [{ path: 'case.json', text, hash: '' }];
  const { snapshot } = new ObjectStore(null).update({ files, unreadable: [] }, host);
  const { steps, compiled } = transition(null, snapshot);
  const folders = new Map<string, string>();
  const bindings = new Map<string, CgroupBinding>();
  for (const name of compiled.tables.workloads.keys()) {
    cgroups += 1;
    const folder = lab.cgroup(`case/${cgroups}`);
    folders.set(name, folder);
    bindings.set(name, {
      cgroup: native.cgroupId(folder),
      level: path.relative(cgroupMount(), folder).split('/').length,
    });
  }
  const object = loadPrograms(native, SIZES);
  const applier = new Applier(object, { unknown: 'allow', hostNetns: 0n });
  for (const step of steps) applier.apply(step, bindings);
  const held = applier.readBack().workloads;
  const slots = new Map([...bindings].map(([name, { cgroup }]) => [name, held.get(cgroup)?.slot ?? 0]));
  return { snapshot, compiled, object, applier, folders, slots, queries: queries as readonly Query[] };
}

const ICMP_TYPES: Readonly<Record<string, readonly [v4: number, v6: number]>> = {
  EchoRequest: [8, 128],
  EchoReply: [0, 129],
  DestinationUnreachable: [3, 1],
  PacketTooBig: [3, 2],
  TimeExceeded: [11, 3],
  ParameterProblem: [12, 4],
};

function transportOf({ protocol, port, icmpType }: Query, v4: boolean): Part {
  const to = port ?? 0;
  switch (protocol) {
    case 'TCP':
      return tcp({ to, flags: ['syn'] });
    case 'UDP':
      return udp({ to });
    case 'SCTP':
      return sctp({ to });
    case 'ICMP': {
      const [four, six] = icmpType === undefined ? [13, 200] : (ICMP_TYPES[icmpType] ?? assert.fail(icmpType));
      return v4 ? icmp4({ type: four, code: icmpType === 'PacketTooBig' ? 4 : 0 }) : icmp6({ type: six });
    }
  }
}

/** As if DNS had told the workload that these names lead to the address. Returns what takes it back. */
function teach(
  { object, applier, slots }: Enforced,
  from: string,
  address: string,
  names: readonly string[],
): () => void {
  const slot = slots.get(from) ?? assert.fail(from);
  for (const [index, name] of names.entries()) {
    tellName(object, slot, index + 1, asciiName(name) ?? assert.fail(name));
    learn(object, slot, index, address, index + 1, 0xffff_ffff, index);
  }
  return () => {
    for (const map of ['told', 'texts', 'told_order', 'learned', 'learned_order']) {
      const { keys, count } = object.dump(map);
      if (count > 0) object.remove(map, keys, count);
    }
    assert.deepEqual(applier.readNames(), []);
  };
}

function moveTo(folder: string): void {
  writeFileSync(path.join(folder, 'cgroup.procs'), `${process.pid}`);
}

/** What the one counter that a packet moved says. */
function counted({ object, compiled }: Enforced): Answer {
  const { keys, count } = object.dump('counters');
  assert.equal(count, 1, 'each packet is counted once');
  const { ruleset, reason, rule, verdict } = decodeCounterKey(keys.subarray(0, COUNTER_KEY_BYTES));
  object.remove('counters', keys, count);
  const told = tell(compiled.tables.rulesets.get(ruleset), { reason, rule });
  return {
    verdict: (VERDICT_NAMES.get(verdict) ?? '') as Answer['verdict'],
    policy: told.policy === null ? null : policyName(told.policy),
    rule: told.rule?.index ?? null,
    reason: REASON_NAMES.get(reason) ?? '',
  };
}

describe('the kernel decides as explain says', () => {
  let home = '';
  let netns = '';

  before(async () => {
    const own = readFileSync('/proc/self/cgroup', 'utf8').match(/^0::(.*)$/m)?.[1] ?? '';
    home = path.join(cgroupMount(), own);
    lab = await Lab.create();
    const place = await lab.workload('any', { addresses: ['198.18.200.1', 'fd00:18:200::1'], cgroup: null });
    netns = place.netns;
    // Every address that tests may use is one of this namespace's own: whatever is asked for, nothing leaves it.
    for (const route of [['198.18.0.0/15'], ['fd00::/8']]) {
      const added = await place.exec('ip', ['route', 'add', 'local', ...route, 'dev', 'lo', 'table', 'local']);
      assert.equal(added.status, 0, added.stderr);
    }
    assert.equal((await place.exec('ip', ['link', 'set', 'lo', 'up'])).status, 0);
  });

  after(async () => {
    moveTo(home);
    await lab.close();
  });

  test('as packets', () => {
    const seen = new Map<string, number>();
    for (let seed = SEED; seed < SEED + PACKET_CASES; seed++) {
      const enforced = enforce(seed);
      const { answer } = explainer(enforced.snapshot, enforced.compiled);
      try {
        for (const [from, folder] of enforced.folders) {
          moveTo(folder);
          for (const query of enforced.queries.filter((each) => each.from === from)) {
            const expected = answer(query);
            const address = addressOf(query.to, enforced.snapshot);
            if (address === null) continue;
            const v4 = isIPv4(address);
            const to = onWire(addressText(address));
            const part = transportOf(query, v4);
            // To itself a pod sends from itself: from anybody else it would be spoofed.
            const source = to === '::1' || isOwn(from, address, enforced.snapshot) ? { from: to } : {};
            const packet = v4 ? ipv4({ to, ...source }, part) : ipv6({ to, ...source }, part);
            const forget = teach(enforced, from, address, query.names ?? []);
            const { retval } = enforced.object.testRun('egress', packet, 1);
            forget();
            const at = `POSTERN_SEED=${seed}: ${JSON.stringify(query)} (${to})`;
            assert.deepEqual(counted(enforced), expected, at);
            const nameless = query.names === undefined ? expected : answer({ ...query, names: [] });
            if (nameless.verdict !== expected.verdict || nameless.rule !== expected.rule)
              seen.set('by name', (seen.get('by name') ?? 0) + 1);
            assert.equal(retval === 1, expected.verdict !== 'deny', at);
            seen.set(expected.reason, (seen.get(expected.reason) ?? 0) + 1);
          }
        }
      } finally {
        moveTo(home);
        enforced.object.close();
      }
    }
    for (const reason of [
      ...['rule', 'no_rule', 'limit', 'not_isolated', 'loopback', 'self', 'no_ready_endpoint'],
      ...['admin_accept', 'admin_deny', 'baseline_accept', 'baseline_deny', 'by name'],
    ]) {
      assert.ok((seen.get(reason) ?? 0) > 0, `${reason} never came up`);
    }
  });

  test('as real sockets', async () => {
    const outcomes = new Map<string, number>();
    for (let seed = SEED; seed < SEED + SOCKET_CASES; seed++) {
      const enforced = enforce(seed);
      const { explain } = explainer(enforced.snapshot, enforced.compiled);
      const attached = attachPrograms(enforced.object, lab.root);
      const actors: Actor[] = [];
      try {
        for (const [from, folder] of enforced.folders) {
          const queries = enforced.queries
            .filter((query) => query.from === from && isUsable(query, enforced.snapshot))
            .map((query) => ({ ...query, names: [] }));
          if (queries.length === 0) continue;
          const actor = lab.placeIn(netns, folder).actor;
          actors.push(actor);
          for (const query of queries.slice(0, 20)) {
            const address = addressText(addressOf(query.to, enforced.snapshot) ?? assert.fail());
            const { verdict, onDeny } = explain(query);
            const at = `POSTERN_SEED=${seed}: ${JSON.stringify(query)} (${address})`;
            const drops = onDeny === 'Drop';
            // Nobody listens: what passes is refused by the far end, never by this one. A Drop is silence on both.
            const outcome =
              query.protocol === 'TCP'
                ? await actor.tryTcp(address, query.port ?? 0, drops ? 100 : 5000)
                : await actor.tryUdp(address, query.port ?? 0, 100);
            if (verdict !== 'deny') assert.notEqual(outcome, 'EPERM', at);
            else assert.equal(outcome, drops ? 'timeout' : 'EPERM', at);
            if (verdict !== 'deny' && query.protocol === 'TCP') assert.equal(outcome, 'ECONNREFUSED', at);
            outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
          }
        }
      } finally {
        for (const actor of actors) actor.child.kill('SIGKILL');
        attached.detach();
        enforced.object.close();
      }
    }
    assert.ok((outcomes.get('EPERM') ?? 0) > 20, JSON.stringify([...outcomes]));
    assert.ok((outcomes.get('ECONNREFUSED') ?? 0) > 20, JSON.stringify([...outcomes]));
  });
});

function addressOf(to: string, snapshot: Snapshot): string | null {
  if (to.startsWith('service:')) {
    const service = snapshot.services.find(({ namespace, name }) => `service:${namespace}/${name}` === to);
    return addressKey(service?.clusterIPs[0] ?? '');
  }
  if (!to.includes('/')) return addressKey(to);
  const pod = snapshot.pods.find(({ namespace, name }) => `${namespace}/${name}` === to);
  return pod === undefined || pod.ended ? null : addressKey(pod.addresses[0] ?? '');
}

const USABLE = ['198.18.0.0/15', 'fd00::/8'].map((cidr) => prefix(cidr) ?? assert.fail());

/** The kernel takes the unspecified address for loopback, before there is a packet. */
function onWire(to: string): string {
  return to === '0.0.0.0' ? '127.0.0.1' : to === '::' ? '::1' : to;
}

function isOwn(from: string, address: string, snapshot: Snapshot): boolean {
  const pod = snapshot.pods.find(({ namespace, name }) => `${namespace}/${name}` === from);
  return pod?.addresses.some((one) => addressKey(one) === address) ?? false;
}

/** TCP and UDP to addresses that tests may send to; not to an IPv6 address of its own, which this namespace's is a stranger to. */
function isUsable({ from, to, port, protocol }: Query, snapshot: Snapshot): boolean {
  const address = addressOf(to, snapshot);
  if (address === null || port === null || port === 0 || (protocol !== 'TCP' && protocol !== 'UDP')) return false;
  if (!isIPv4(address) && isOwn(from, address, snapshot)) return false;
  return USABLE.some((range) => contains(range, address));
}
