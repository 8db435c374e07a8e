// SPDX-License-Identifier: Apache-2.0
// The agent dies (SIGKILL) before each kind of step of a start, of a takeover and of a change, under traffic of both families: nothing that is
// forbidden passes, nothing that is allowed fails, and the next agent takes over whatever was left. POSTERN_EVERY_STEP=1: before every
// single step. And is one version of the programs exchanged for another the same way?
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, existsSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { loadNative } from '../../src/kernel/native.ts';
import { PinFolder } from '../../src/kernel/pins.ts';
import { seeded } from '../oracle/random.ts';
import {
  launchAgent,
  launchAgentIn,
  launchMortal,
  PolicyFolder,
  startAgent,
  type TestAgent,
} from '../support/agent.ts';
import { type Actor, Lab, type Place } from '../support/lab.ts';

const POSTERN = path.join(import.meta.dirname, '../../bin/postern');
const SERVERS = ['198.18.1.1', 'fd00:18:1::1'];

interface World {
  readonly lab: Lab;
  readonly folder: PolicyFolder;
  readonly web: Place;
  readonly actor: Actor;
  readonly log: string;
}

async function world(t: test.TestContext): Promise<World> {
  const lab = await Lab.create();
  const folder = new PolicyFolder();
  t.after(async () => {
    await lab.close();
    folder.close();
  });
  await lab.addOutside(...SERVERS);
  for (const port of [80, 81, 82]) {
    for (const address of SERVERS) await lab.outside.actor.listen('TCP', address, port);
  }
  for (const address of SERVERS) await lab.outside.actor.listen('UDP', address, 80);
  const web = await lab.workload('web', { addresses: ['198.18.2.1', 'fd00:18:2::1'] });
  return { lab, folder, web, actor: web.actor, log: path.join(path.dirname(folder.path), 'calls') };
}

/** 80 is always allowed, 81 never, 82 sometimes; `networks` say the same in more or fewer entries. */
function objects(web: Place, isWide: boolean): string {
  const networks = isWide ? '198.18.0.0/15, "fd00::/8"' : SERVERS.map((one) => `"${one}"`).join(', ');
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
spec: {egress: [{to: [{networks: [${networks.replace(/"(198[^"]*)"/, '$1/32').replace(/"(fd00:[^"/]*)"/, '"$1/128"')}]}], ports: [{port: 80}, {protocol: UDP, port: 80}${isWide ? ', {port: 82}' : ''}]}]}
`;
}

/** Connects without pause until `stop`; gives what went wrong. */
function traffic(actor: Actor): { stop(): Promise<string[]> } {
  let running = true;
  const wrong: string[] = [];
  const flows = (async () => {
    const open = await Promise.all(SERVERS.map((address) => actor.connect(address, 80)));
    while (running) {
      for (const [index, address] of SERVERS.entries()) {
        const allowed = await actor.tryTcp(address, 80);
        const forbidden = await actor.tryTcp(address, 81);
        const datagram = await actor.tryUdp(address, 80);
        const known = await actor.exchange(open[index]?.socket ?? -1);
        if (allowed !== 'ok') wrong.push(`${address} 80: ${allowed}`);
        if (forbidden !== 'EPERM') wrong.push(`${address} 81: ${forbidden}`);
        if (datagram !== 'ok') wrong.push(`${address} UDP 80: ${datagram}`);
        if (known !== 'ok') wrong.push(`${address} established: ${known}`);
      }
    }
    for (const { socket } of open) if (socket !== undefined) await actor.close(socket);
  })();
  return {
    stop: async () => {
      running = false;
      await flows;
      return wrong;
    },
  };
}

/** Steps to die before: of each run of the same call the first, or every one. */
function steps(log: string): number[] {
  const calls = readFileSync(log, 'utf8').trimEnd().split('\n');
  const kind = (call: string) => call.split(' ')[0];
  const all = calls.map((_, index) => index + 1);
  if (process.env.POSTERN_EVERY_STEP === '1') return all;
  return all.filter((step) => step === 1 || kind(calls[step - 1] ?? '') !== kind(calls[step - 2] ?? ''));
}

function uninstall(folder: PolicyFolder): void {
  const places = ['--bpffs', folder.bpffs, '--socket', folder.socket, '--state-dir', folder.stateDir];
  const { status, stderr } = spawnSync(POSTERN, ['uninstall', ...places], { encoding: 'utf8' });
  assert.equal(status, 0, stderr);
  assert.equal(existsSync(folder.bpffs), false);
}

/** As uninstall leaves it, which is asked once and not at each step: a process more each time proves nothing more. */
function forget({ bpffs, stateDir }: PolicyFolder): void {
  const pins = PinFolder.take(loadNative(), bpffs);
  pins.removeAll();
  pins.close();
  rmSync(stateDir, { recursive: true });
  assert.equal(existsSync(bpffs), false);
}

/** Six links at the root, and what is pinned is one set of maps and what goes with it. */
function assertTidy({ lab, folder }: World): void {
  const native = loadNative();
  const root = native.cgroupId(lab.root);
  assert.equal(native.links().filter(({ cgroup }) => cgroup === root).length, 6);
  const names = readdirSync(folder.bpffs);
  assert.equal(names.filter((name) => /^[0-9a-f]{16}-\d+$/.test(name)).length, 1, names.join(', '));
  assert.equal(readdirSync(path.join(folder.bpffs, 'links')).length, 6);
  assert.equal(readdirSync(path.join(folder.bpffs, 'programs')).length, 6);
}

async function assertHeld({ actor }: World, is82: boolean): Promise<void> {
  for (const address of SERVERS) {
    assert.equal(await actor.tryTcp(address, 80), 'ok');
    assert.equal(await actor.tryTcp(address, 81), 'EPERM');
    assert.equal(await actor.tryTcp(address, 82), is82 ? 'ok' : 'EPERM');
  }
}

test('a start that dies at any step leaves something that the next one starts from', async (t) => {
  const here = await world(t);
  const { lab, folder, web, log } = here;
  folder.write('objects.yaml', objects(web, false));
  const whole = launchMortal({ POSTERN_DIE_LOG: log }, lab, folder);
  await whole.line((line) => line.event === 'ready');
  const all = steps(log);
  assert.ok(all.length >= 8, readFileSync(log, 'utf8'));
  await whole.stop('SIGKILL');
  uninstall(folder);
  for (const step of all) {
    const mortal = launchMortal({ POSTERN_DIE_AT: String(step) }, lab, folder);
    assert.equal((await mortal.ended()).signal, 'SIGKILL', `step ${step}`);
    const next = await startAgent(lab, folder);
    await assertHeld(here, false);
    assertTidy(here);
    await next.stop('SIGKILL');
    forget(folder);
  }
});

test('a takeover that dies at any step, with policies that changed meanwhile, lets nothing through and cuts nothing off', async (t) => {
  const here = await world(t);
  const { lab, folder, web, actor, log } = here;
  let isWide = false;
  folder.write('objects.yaml', objects(web, isWide));
  await (await startAgent(lab, folder)).stop('SIGKILL');
  const change = (): void => {
    isWide = !isWide;
    folder.write('objects.yaml', objects(web, isWide));
  };
  change();
  const whole = launchMortal({ POSTERN_DIE_LOG: log }, lab, folder);
  await whole.line((line) => line.event === 'ready');
  const all = steps(log);
  await whole.stop('SIGKILL');
  await assertHeld(here, isWide);

  const running = traffic(actor);
  for (const step of all) {
    change();
    const mortal = launchMortal({ POSTERN_DIE_AT: String(step) }, lab, folder);
    assert.equal((await mortal.ended()).signal, 'SIGKILL', `step ${step}`);
    const next = await startAgent(lab, folder);
    await assertHeld(here, isWide);
    assertTidy(here);
    await next.stop('SIGKILL');
  }
  assert.deepEqual(await running.stop(), []);
});

test('a change that dies at any step is finished by the next agent, and meanwhile it is the old or the new', async (t) => {
  const here = await world(t);
  const { lab, folder, web, actor, log } = here;
  let isWide = false;
  folder.write('objects.yaml', objects(web, isWide));
  const change = (): void => {
    isWide = !isWide;
    folder.write('objects.yaml', objects(web, isWide));
  };
  const armed = { POSTERN_DIE_WHEN: 'signal' };
  const whole = launchMortal({ ...armed, POSTERN_DIE_LOG: log }, lab, folder);
  await whole.line((line) => line.event === 'ready');
  whole.child.kill('SIGUSR2');
  await whole.applied(change);
  const all = steps(log);
  await whole.stop('SIGKILL');

  const running = traffic(actor);
  for (const step of all) {
    // Confined, it may not kill itself.
    const mortal = launchMortal({ ...armed, POSTERN_DIE_AT: String(step) }, lab, folder, '--no-confine');
    await mortal.line((line) => line.event === 'ready');
    mortal.child.kill('SIGUSR2');
    change();
    assert.equal((await mortal.ended()).signal, 'SIGKILL', `step ${step}`);
    const next = await startAgent(lab, folder);
    await assertHeld(here, isWide);
    assertTidy(here);
    await next.stop('SIGKILL');
  }
  assert.deepEqual(await running.stop(), []);
  rmSync(log);
});

/** The programs, compiled with one place of bpf/abi.h written otherwise. */
function variant(folder: string, before: RegExp, after: string): string {
  const sources = path.join(folder, 'bpf');
  cpSync(path.join(import.meta.dirname, '../../bpf'), sources, { recursive: true });
  const abi = path.join(sources, 'abi.h');
  const text = readFileSync(abi, 'utf8');
  assert.match(text, before);
  writeFileSync(abi, text.replace(before, after));
  const object = path.join(folder, `${after.replaceAll(/\W+/g, '-')}.bpf.o`);
  const headers = `/usr/include/${process.arch === 'x64' ? 'x86_64' : 'aarch64'}-linux-gnu`;
  const flags = ['-O2', '-g', '-target', 'bpf', '-mcpu=v3', '-std=gnu11', `-I${headers}`];
  execFileSync('clang', [...flags, '-c', path.join(sources, 'postern.bpf.c'), '-o', object]);
  rmSync(sources, { recursive: true });
  return object;
}

const OTHER_OBJECT = path.join(import.meta.dirname, '../support/other-object.ts');

test('another version of the programs takes the place of this one under traffic, and back again, whatever its maps are like', async (t) => {
  const here = await world(t);
  const { lab, folder, web, actor } = here;
  const base = path.dirname(folder.path);
  folder.write('objects.yaml', objects(web, false));
  const versions = {
    'other bytes': variant(base, /EVENTS_PER_SECOND = 100/, 'EVENTS_PER_SECOND = 101'),
    'a map of another size': variant(base, /MAX_SELVES = 16384/, 'MAX_SELVES = 16385'),
    'a larger value, and none of its flows known': variant(base, /struct budget \{/, 'struct budget {\n\t__u64 more;'),
  };
  const seen = (): { readonly set: string; readonly links: unknown; readonly programs: unknown } => {
    const native = loadNative();
    const pins = PinFolder.look(native, folder.bpffs);
    const links = pins.links();
    return {
      set: pins
        .sets()
        .map(({ name }) => name)
        .join(),
      links: links.map(({ info }) => info.id),
      programs: links.map(({ info }) => info.program),
    };
  };
  for (const address of web.addresses) await actor.listen('UDP', address, 53);
  await (await startAgent(lab, folder)).stop('SIGKILL');
  let before = seen();
  const running = traffic(actor);
  for (const [name, object] of Object.entries(versions)) {
    for (const env of [{ NODE_OPTIONS: `--import=${OTHER_OBJECT}`, POSTERN_OBJECT: object }, {}]) {
      let isOver = false;
      // Others ask it meanwhile, whose answers are replies.
      const asked = (async () => {
        const outcomes: string[] = [];
        while (!isOver) for (const address of web.addresses) outcomes.push(await lab.outside.actor.tryUdp(address, 53));
        return outcomes;
      })();
      const agent = launchAgentIn({ netns: null, root: lab.root, env }, lab, folder);
      await agent.line((line) => line.event === 'taken_over');
      await agent.line((line) => line.event === 'ready');
      isOver = true;
      const wrong = (await asked).filter((outcome) => outcome !== 'ok');
      if (name !== 'a larger value, and none of its flows known') assert.deepEqual(wrong, [], name);
      await assertHeld(here, false);
      assertTidy(here);
      const after = seen();
      assert.deepEqual(after.links, before.links, 'every link is the same');
      assert.notDeepEqual(after.programs, before.programs);
      assert.equal(after.set === before.set, name === 'other bytes', name);
      before = after;
      await agent.stop('SIGKILL');
    }
  }
  assert.deepEqual(await running.stop(), []);
});

/** Of links, programs and maps. */
function descriptors({ child }: TestAgent): number {
  const folder = `/proc/${child.pid}/fd`;
  return readdirSync(folder).filter((fd) => isBpf(path.join(folder, fd))).length;
}

function isBpf(fd: string): boolean {
  try {
    return readlinkSync(fd).startsWith('anon_inode:bpf-');
  } catch {
    return false;
  }
}

/** Hundreds by hand: POSTERN_KILLS=300. */
const KILLS = Number(process.env.POSTERN_KILLS ?? 12);
const SEED = Number(process.env.POSTERN_SEED ?? 7);

test('killed at random moments while policies change, it lets nothing through, cuts nothing off, and leaves nothing behind', async (t) => {
  const here = await world(t);
  const { lab, folder, web, actor } = here;
  const random = seeded(SEED);
  let isWide = false;
  folder.write('objects.yaml', objects(web, isWide));
  let agent = await startAgent(lab, folder);
  const running = traffic(actor);
  for (let kill = 0; kill < KILLS; kill++) {
    for (let changes = random.below(4); changes > 0; changes--) {
      isWide = !isWide;
      folder.write('objects.yaml', objects(web, isWide));
      await pause(random.below(60));
    }
    await agent.stop('SIGKILL');
    agent = launchAgent(lab, folder);
    // Some die before they are ready, at whatever they are doing then.
    if (random.chance(0.5)) await agent.line((line) => line.event === 'ready');
    else await pause(random.below(1500));
  }
  await agent.stop('SIGKILL');
  agent = await startAgent(lab, folder);
  await assertHeld(here, isWide);
  assertTidy(here);
  assert.deepEqual(await running.stop(), [], `seed ${SEED}`);
  const held = descriptors(agent);
  for (let changes = 0; changes < 10; changes++) {
    isWide = !isWide;
    await agent.applied(() => folder.write('objects.yaml', objects(web, isWide)));
  }
  // A file that is being written or looked at just now is closed again.
  for (let look = 0; look < 100 && descriptors(agent) > held; look += 1) await pause(100);
  assert.ok(
    descriptors(agent) <= held + 2,
    `${held} descriptors became ${descriptors(agent)}: one lost with each change would be ten`,
  );
  await agent.stop();
  uninstall(folder);
});
