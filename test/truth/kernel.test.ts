// SPDX-License-Identifier: Apache-2.0
// Does the kernel say what the truth tables say? Each is enforced after the other by the steps between them, as an agent would; a fixed part
// of its cells is put to the programs as packets, and some as real sockets in the senders' cgroups.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import test, { after, before, describe } from 'node:test';
import type { Compiled } from '../../src/compile/compile.ts';
import { transition } from '../../src/compile/transition.ts';
import { Applier, type CgroupBinding } from '../../src/kernel/apply.ts';
import { loadNative, type NativeObject } from '../../src/kernel/native.ts';
import { attachPrograms, loadPrograms } from '../../src/kernel/programs.ts';
import { ObjectStore } from '../../src/source/store.ts';
import { icmp4, icmp6, ipv4, ipv6, type Part, sctp, tcp, udp } from '../packets/packet.ts';
import { type Actor, cgroupMount, Lab } from '../support/lab.ts';
import { CLUSTER_NETWORK_POLICY } from './cluster-network-policy.ts';
import { NETWORK_POLICY } from './network-policy.ts';
import { type Flow, flowsOf, HOST, objectsOf, SENDERS, type TruthTable } from './table.ts';

/** Every fifth cell, from another one on in each table: five divides neither families, nor protocols and ports, nor destinations. */
const PART = 5;
const SOCKETS = 6;
const SIZES = { workloads: 64, identities: 1024, networks: 1024, verdicts: 4096, ports: 4096, selves: 256 };
const native = loadNative();

function transportOf({ protocol, port, address }: Flow): Part {
  const to = port ?? 0;
  switch (protocol) {
    case 'TCP':
      return tcp({ to, flags: ['syn'] });
    case 'UDP':
      return udp({ to });
    case 'SCTP':
      return sctp({ to });
    case 'ICMP':
      return address.includes(':') ? icmp6({ type: 128 }) : icmp4({ type: 8, code: 0 });
  }
}

function moveTo(folder: string): void {
  writeFileSync(path.join(folder, 'cgroup.procs'), `${process.pid}`);
}

describe('the kernel says what the truth tables say', () => {
  let home = '';
  let lab: Lab;
  let object: NativeObject;
  let attached: ReturnType<typeof attachPrograms> | null = null;
  let applier: Applier;
  let compiled: Compiled | null = null;
  let netns = '';
  const folders = new Map<string, string>();
  const bindings = new Map<string, CgroupBinding>();
  const actors = new Map<string, Actor>();

  before(async () => {
    const own = readFileSync('/proc/self/cgroup', 'utf8').match(/^0::(.*)$/m)?.[1] ?? '';
    home = path.join(cgroupMount(), own);
    lab = await Lab.create();
    const place = await lab.workload('any', { addresses: ['198.18.200.1', 'fd00:18:200::1'], cgroup: null });
    netns = place.netns;
    // Every address of the tables is one of this namespace's own: whatever is asked for, nothing leaves it.
    for (const range of ['198.18.0.0/15', 'fd00::/8']) {
      const added = await place.exec('ip', ['route', 'add', 'local', range, 'dev', 'lo', 'table', 'local']);
      assert.equal(added.status, 0, added.stderr);
    }
    assert.equal((await place.exec('ip', ['link', 'set', 'lo', 'up'])).status, 0);
    for (const [sender, name] of SENDERS) {
      const folder = lab.cgroup(`truth/${sender.replace('/', '-')}`);
      folders.set(sender, folder);
      const level = path.relative(cgroupMount(), folder).split('/').length;
      bindings.set(name, { cgroup: native.cgroupId(folder), level });
    }
    object = loadPrograms(native, SIZES);
    applier = new Applier(object, { unknown: 'allow', hostNetns: 0n });
  });

  after(async () => {
    moveTo(home);
    for (const actor of actors.values()) actor.child.kill('SIGKILL');
    attached?.detach();
    object.close();
    await lab.close();
  });

  function enforce(table: TruthTable): void {
    const text = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objectsOf(table) });
    const files = [{ path: 'table.json', text, hash: '' }];
    const { snapshot } = new ObjectStore(null).update({ files, unreadable: [] }, HOST);
    const next = transition(compiled, snapshot);
    for (const step of next.steps) applier.apply(step, bindings);
    compiled = next.compiled;
  }

  function told({ from, to, address, port, protocol }: Flow): string {
    return `${from} -> ${to} (${address}) ${port ?? ''}/${protocol}`;
  }

  /** What is wrong, by packets. */
  function tryPackets(flows: readonly Flow[]): string[] {
    const wrong: string[] = [];
    for (const [sender, folder] of folders) {
      moveTo(folder);
      for (const flow of flows.filter(({ from }) => from === sender)) {
        const to = flow.address;
        // To itself a pod sends from itself: from anybody else it would be spoofed.
        const ends = flow.from === flow.to ? { to, from: to } : { to };
        const packet = to.includes(':') ? ipv6(ends, transportOf(flow)) : ipv4(ends, transportOf(flow));
        const { retval } = object.testRun('egress', packet, 1);
        if ((retval === 1) !== flow.allowed)
          wrong.push(`${told(flow)} should be ${flow.allowed ? 'allowed' : 'denied'}`);
      }
    }
    moveTo(home);
    return wrong;
  }

  async function trySocket(flow: Flow): Promise<void> {
    const { from, address, port, protocol, allowed } = flow;
    let actor = actors.get(from);
    if (actor === undefined) {
      actor = lab.placeIn(netns, folders.get(from) ?? assert.fail(from)).actor;
      actors.set(from, actor);
    }
    // Nobody listens: what passes is refused by the far end, never by this one.
    const outcome =
      protocol === 'TCP' ? await actor.tryTcp(address, port ?? 0, 5000) : await actor.tryUdp(address, port ?? 0, 100);
    if (!allowed) assert.equal(outcome, 'EPERM', told(flow));
    else if (protocol === 'TCP') assert.equal(outcome, 'ECONNREFUSED', told(flow));
    else assert.notEqual(outcome, 'EPERM', told(flow));
  }

  for (const [index, table] of [...NETWORK_POLICY, ...CLUSTER_NETWORK_POLICY].entries()) {
    test(`${index}: ${table.title}`, async () => {
      enforce(table);
      const flows = flowsOf(table);
      assert.deepEqual(tryPackets(flows.filter((_, i) => i % PART === index % PART)), []);
      attached ??= attachPrograms(object, lab.root);
      // All pods' addresses are in one namespace here, so that a pod would speak to itself as another, which is refused as spoofed.
      const usable = flows.filter(
        ({ from, to, protocol }) => from !== to && (protocol === 'TCP' || protocol === 'UDP'),
      );
      for (const allowed of [true, false]) {
        const some = usable.filter((flow) => flow.allowed === allowed);
        for (let i = 0; i < Math.min(SOCKETS / 2, some.length); i++) {
          await trySocket(some[(index * 31 + i * 397) % some.length] ?? assert.fail('no flow'));
        }
      }
    });
  }
});
