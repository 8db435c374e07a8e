// SPDX-License-Identifier: Apache-2.0
// Does what is enforced stay so while the agent is away, however it went, and does the next one take over without a trace in any packet?
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import test from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { loadNative } from '../../src/kernel/native.ts';
import { PinFolder } from '../../src/kernel/pins.ts';
import { epochsOf, launchAgent, launchAgentIn, PolicyFolder, startAgent, type TestAgent } from '../support/agent.ts';
import { type Actor, Lab, type Place } from '../support/lab.ts';

const POSTERN = path.join(import.meta.dirname, '../../bin/postern');
const STUB = path.join(import.meta.dirname, '../../build/test/native/stub.bpf.o');
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
    const before = { epochs: epochsOf(folder), programs: programs(lab) };
    assert.equal(before.programs.length, 6);

    await first.stop(signal);
    if (signal === 'SIGTERM') {
      const stopped = await first.line((line) => line.event === 'stopped');
      assert.match(
        String(stopped.msg),
        new RegExp(
          `pinned in ${folder.bpffs}; postern uninstall --bpffs ${folder.bpffs} --state-dir ${folder.stateDir} --socket ${folder.socket} ends`,
        ),
      );
    }
    assert.deepEqual({ epochs: epochsOf(folder), programs: programs(lab) }, before);
    await isHeld(actor);
    assert.equal(await actor.exchange(established.socket ?? 0), 'ok');

    const second = await startAgent(lab, folder);
    const taken = await second.line((line) => line.event === 'taken_over');
    assert.equal(typeof taken.since, 'string');
    assert.deepEqual({ epochs: epochsOf(folder), programs: programs(lab) }, before, 'not a byte was written');
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

function run(...args: readonly string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(POSTERN, args, { encoding: 'utf8' });
}

function places(folder: PolicyFolder): string[] {
  return ['--bpffs', folder.bpffs, '--socket', folder.socket];
}

/** Ids of everything that is pinned there: links, programs, maps. */
function pinned(folder: PolicyFolder): {
  readonly links: number[];
  readonly programs: number[];
  readonly maps: number[];
} {
  const native = loadNative();
  const pins = PinFolder.look(native, folder.bpffs);
  const links = pins.all().map(({ info }) => info);
  const paths = Object.assign({ sockets: pins.sockets }, ...pins.sets().map(({ maps }) => maps));
  const maps = native.openMaps(paths);
  const ids = Object.values(maps.mapIds());
  maps.close();
  return { links: links.map(({ id }) => id), programs: links.map(({ program }) => program), maps: ids };
}

/** None of these is in the kernel any more. */
function assertGone({ links, programs, maps }: ReturnType<typeof pinned>): void {
  const native = loadNative();
  assert.ok(links.length > 0 && programs.length > 0 && maps.length > 10);
  const left = native.links().map(({ id }) => id);
  assert.deepEqual(
    links.filter((id) => left.includes(id)),
    [],
  );
  for (const id of programs) assert.equal(native.program(id), null);
  for (const id of maps) assert.throws(() => native.openMapsById({ map: id }), { code: 'ENOENT' });
}

test('a second agent is refused and told who holds the folder, or who stands at the root', async (t) => {
  const { lab, folder } = await world(t);
  const other = new PolicyFolder();
  t.after(() => other.close());
  const first = await startAgent(lab, folder);
  const places = ['--socket', other.socket, '--state-dir', other.stateDir];

  const second = launchAgent(lab, folder, ...places);
  assert.deepEqual(await second.ended(), { status: 1, signal: null });
  assert.match(second.errors, new RegExp(`process ${first.child.pid}, holds ${folder.bpffs}: stop it first`));

  const third = launchAgent(lab, folder, ...places, '--bpffs', other.bpffs);
  assert.deepEqual(await third.ended(), { status: 1, signal: null });
  assert.match(third.errors, new RegExp(`attached to ${lab.root}, and process ${first.child.pid} holds them`));
  assert.equal(existsSync(other.bpffs), false, 'it left nothing behind');

  const shared = launchAgent(lab, folder, '--socket', other.socket, '--bpffs', other.bpffs);
  assert.deepEqual(await shared.ended(), { status: 1, signal: null });
  assert.match(
    shared.errors,
    new RegExp(
      `${folder.stateDir} belongs to the agent that pins in ${folder.bpffs}: start with --bpffs ${folder.bpffs}, `,
    ),
  );

  await first.stop('SIGKILL');
  const fourth = launchAgent(lab, folder, ...places, '--bpffs', other.bpffs);
  assert.deepEqual(await fourth.ended(), { status: 1, signal: null });
  assert.match(fourth.errors, new RegExp(`pinned in ${folder.bpffs}: start with --bpffs ${folder.bpffs}`));

  const fifth = launchAgent(lab, folder, ...places, '--bpffs', path.join(folder.path, 'pins'));
  assert.deepEqual(await fifth.ended(), { status: 1, signal: null });
  assert.match(fifth.errors, /is not on a bpffs.*mount -t bpf bpf \/sys\/fs\/bpf/);
});

test('a state directory goes with one folder of pins, until that is gone', async (t) => {
  const { lab, folder } = await world(t);
  const other = new PolicyFolder();
  t.after(() => other.close());
  const elsewhere = ['--bpffs', other.bpffs];
  await (await startAgent(lab, folder)).stop();
  const refused = launchAgent(lab, folder, ...elsewhere);
  assert.deepEqual(await refused.ended(), { status: 1, signal: null });
  assert.match(refused.errors, /belongs to the agent that pins in/);
  PinFolder.take(loadNative(), folder.bpffs).removeAll();
  await (await startAgent(lab, folder, ...elsewhere)).stop();
  const places = ['--bpffs', other.bpffs, '--socket', folder.socket, '--state-dir', folder.stateDir];
  assert.equal(run('uninstall', ...places).status, 0);
  assert.equal(existsSync(folder.stateDir), false, 'nothing is left');
});

test('an agent whose root is within another one’s, or around it, is refused; one beside it is not, and neither is postern run', async (t) => {
  const { lab, folder, web, actor } = await world(t);
  const other = new PolicyFolder();
  t.after(() => other.close());
  lab.cgroup('beside');
  const launchOther = (root: string) =>
    launchAgent(lab, other, '--cgroup-root', path.join(path.basename(lab.root), root));
  const refused = async (root: string, where: RegExp): Promise<void> => {
    const agent = launchOther(root);
    assert.deepEqual(await agent.ended(), { status: 1, signal: null });
    assert.match(agent.errors, where);
    const failed = agent.lines.find((line) => line.event === 'attach_failed');
    assert.deepEqual([failed?.code, failed?.retryMs], ['FOREIGN', undefined], 'it ends, and says of no other attempt');
  };

  const command = web.spawn(POSTERN, ['run', '--audit', '--', 'sh', '-c', 'echo up; exec sleep infinity']);
  await once(command.stdout ?? command, 'data');
  const first = await startAgent(lab, folder);
  const holder = `process ${first.child.pid} holds them: stop it first`;
  await refused(
    'web',
    new RegExp(`attached to ${lab.root}, which is above this agent's root ${web.cgroup}, and ${holder}`),
  );
  await isHeld(actor);
  await first.stop('SIGKILL');
  await refused(
    'web',
    new RegExp(`and they are pinned in ${folder.bpffs}: .*postern uninstall --bpffs ${folder.bpffs}`),
  );
  assert.equal(run('uninstall', ...places(folder), '--state-dir', folder.stateDir).status, 0);
  command.kill('SIGKILL');

  const inner = await startAgent(lab, folder, '--cgroup-root', web.cgroupPath);
  await refused('', new RegExp(`attached to ${web.cgroup}, which is below this agent's root ${lab.root}, and process`));
  const beside = launchOther('beside');
  await beside.line((line) => line.event === 'ready');
  assert.equal(await beside.stop(), 0);
  assert.equal(await inner.stop(), 0);
});

test('what somebody else changes in the kernel is told by status, put right, and counted', async (t) => {
  const { lab, folder, actor } = await world(t);
  const agent = await startAgent(lab, folder, '--check-interval', '1');
  await isHeld(actor);
  const native = loadNative();
  const set = readdirSync(folder.bpffs).find((name) => /^[0-9a-f]{16}-\d+$/.test(name)) ?? '';
  const maps = native.openMaps({
    verdicts: path.join(folder.bpffs, set, 'verdicts'),
    epochs: path.join(folder.bpffs, set, 'epochs'),
    settings: path.join(folder.bpffs, set, 'settings'),
  });
  t.after(() => maps.close());
  const repaired = async (what: string, name: RegExp | string, change: () => void): Promise<void> => {
    const from = agent.lines.length;
    change();
    await agent.line(
      (line) => line.event === 'drift' && line.what === what && String(line.name).match(name) !== null,
      from,
    );
    await isHeld(actor);
  };

  const healthy = run('status', ...places(folder));
  assert.equal(healthy.status, 0, healthy.stderr + healthy.stdout);
  assert.match(healthy.stdout, new RegExp(`Agent: +process ${agent.child.pid}\n`));
  assert.match(healthy.stdout, /^egress +[0-9a-f]{16} +\d+$/m);
  assert.match(healthy.stdout, /^verdicts +\d+ +\d+ +0 +[0-9a-f]{16}$/m);

  await repaired('link', 'egress', () => {
    const link = native
      .links()
      .find(({ cgroup, attachType }) => cgroup === native.cgroupId(lab.root) && attachType === 1);
    assert.ok(link !== undefined);
    execFileSync('bpftool', ['link', 'detach', 'id', String(link.id)]);
  });
  await repaired('pin', 'links/ingress', () => rmSync(path.join(folder.bpffs, 'links/ingress')));
  await repaired('pin', `${set}/identities`, () => rmSync(path.join(folder.bpffs, set, 'identities')));
  await repaired('pin', /^sockets$/, () => rmSync(path.join(folder.bpffs, 'sockets')));
  await repaired('map', 'verdicts', () => {
    const { keys, count } = maps.dump('verdicts');
    assert.ok(count > 0);
    maps.remove('verdicts', keys, count);
  });
  await repaired('map', 'verdicts', () => {
    const { keys, values, count } = maps.dump('verdicts');
    values.fill(0);
    maps.update('verdicts', keys, values, count, 0);
  });
  await repaired('map', 'epochs', () => maps.update('epochs', Buffer.from([1, 0, 0, 0]), Buffer.alloc(4), 1, 0));
  await repaired('map', 'settings', () =>
    maps.update('settings', Buffer.alloc(4), Buffer.alloc(maps.maps().settings?.valueSize ?? 0), 1, 0),
  );
  const metrics = await agent.metrics();
  assert.deepEqual(
    ['link', 'pin', 'map', 'program'].map((what) => metrics.get(`postern_drift_total{what="${what}"}`)),
    [1, 3, 4, 0],
  );
  assert.equal(programs(lab).length, 6);
  await agent.stop();
});

test('without an agent status tells where programs stand, that no change is followed, and which of them is gone', async (t) => {
  const { lab, folder, actor } = await world(t);
  const agent = await startAgent(lab, folder);
  await agent.stop('SIGKILL');
  const left = run('status', ...places(folder));
  assert.equal(left.status, 1, 'nobody follows what changes');
  assert.match(left.stdout, /^Agent: +none runs: what the last one enforced goes on, and no change is followed$/m);
  assert.match(left.stdout, new RegExp(`^Root: +${lab.root}$`, 'm'));
  assert.doesNotMatch(left.stdout, /NOT AS IT WAS LEFT/);

  rmSync(path.join(folder.bpffs, 'links/connect6'));
  const less = run('status', ...places(folder), '-o', 'json');
  assert.equal(less.status, 1);
  assert.deepEqual(JSON.parse(less.stdout).drift, [{ what: 'link', name: 'connect6' }]);

  const next = await startAgent(lab, folder);
  assert.equal(run('status', ...places(folder)).status, 0);
  await isHeld(actor);
  await next.stop();
});

test('an agent with another root sets nobody free: it is refused, unless the other root holds them too or nobody is left', async (t) => {
  const { lab, folder, web, actor } = await world(t);
  const first = await startAgent(lab, folder);
  await isHeld(actor);
  await first.stop('SIGKILL');
  const below = path.relative(path.dirname(lab.root), lab.root);
  const beside = path.join(lab.root, 'beside');
  lab.cgroup('beside');

  // Beside what is held: as if somebody had mistyped the root, or forgotten --bpffs for a second agent.
  const narrow = await startAgent(lab, folder, '--cgroup-root', web.cgroupPath);
  const told = await narrow.line((line) => line.event === 'root_narrowed');
  assert.deepEqual([told.from, told.to], [lab.root, web.cgroup]);
  assert.equal(await actor.tryTcp(SERVER, 80), 'ok');
  await narrow.stop('SIGKILL');
  const wrong = launchAgent(lab, folder, '--cgroup-root', `${below}/beside`);
  assert.deepEqual(await wrong.ended(), { status: 1, signal: null });
  assert.match(
    wrong.errors,
    new RegExp(`hold what runs in ${web.cgroup}, which would be free if they were attached to ${beside} instead`),
  );
  assert.match(wrong.errors, new RegExp(`start with --cgroup-root ${web.cgroupPath} .*postern uninstall --bpffs`));
  const native = loadNative();
  const standing = () => native.links().filter(({ cgroup }) => cgroup === native.cgroupId(web.cgroup ?? '')).length;
  assert.equal(standing(), 6, 'what is held stays so');

  const wide = await startAgent(lab, folder);
  assert.equal(standing(), 0);
  await isHeld(actor);
  await wide.stop('SIGKILL');

  await (await startAgent(lab, folder, '--cgroup-root', web.cgroupPath)).stop('SIGKILL');
  const gone = new Promise((resolve) => actor.child.once('exit', resolve));
  writeFileSync(path.join(web.cgroup ?? '', 'cgroup.kill'), '1');
  await gone;
  const moved = await startAgent(lab, folder, '--cgroup-root', `${below}/beside`);
  assert.equal(standing(), 0);
  await moved.stop('SIGKILL');
  await lab.removeCgroup(path.join(lab.root, 'beside'));
});

test('what is unpinned is pinned again before the agent ends; where that cannot be, it says that nothing is enforced', async (t) => {
  const { lab, folder, actor } = await world(t);
  const first = await startAgent(lab, folder, '--check-interval', '0');
  rmSync(path.join(folder.bpffs, 'links'), { recursive: true });
  rmSync(path.join(folder.bpffs, 'programs'), { recursive: true });
  await first.stop();
  assert.match(String((await first.line((line) => line.event === 'stopped')).msg), /what was enforced stays so/);
  assert.equal(first.lines.filter((line) => line.event === 'drift').length, 12);
  await isHeld(actor);

  const second = await startAgent(lab, folder, '--check-interval', '0');
  execFileSync('umount', ['--lazy', path.dirname(folder.bpffs)]);
  const lost = run('status', ...places(folder));
  assert.equal(lost.status, 1);
  assert.match(lost.stdout, /^pin +links\/egress$/m);
  assert.equal(await second.stop(), 0, second.errors);
  const stopped = await second.line((line) => line.event === 'stopped');
  assert.equal(stopped.bpffs, null);
  assert.match(String(stopped.msg), /nothing may be enforced any more.*is not on a bpffs/);
  assert.deepEqual(programs(lab), []);
  assert.deepEqual(readdirSync(path.dirname(folder.bpffs)), [], 'nothing is made where the bpffs was');
});

test("what lies in the folder and is not Postern's is passed over and left there", async (t) => {
  const { lab, folder, actor } = await world(t);
  const foreign = ['', 'links', 'guards', 'programs'].map((name) => path.join(folder.bpffs, name, 'foreign'));
  for (const file of foreign) {
    mkdirSync(path.dirname(file), { recursive: true });
    const shape = ['type', 'array', 'key', '4', 'value', '4', 'entries', '1', 'name', 'foreign'];
    execFileSync('bpftool', ['map', 'create', file, ...shape]);
  }
  for (let round = 0; round < 2; round += 1) {
    const agent = await startAgent(lab, folder);
    await isHeld(actor);
    const status = run('status', ...places(folder));
    assert.equal(status.status, 0, status.stdout + status.stderr);
    await agent.stop('SIGKILL');
  }
  const done = run('uninstall', ...places(folder), '--state-dir', folder.stateDir);
  assert.equal(done.status, 0, done.stderr);
  for (const file of foreign) {
    assert.ok(existsSync(file));
    assert.ok(done.stdout.includes(`left ${file}, which is not Postern's\n`), done.stdout);
  }
  assert.deepEqual(programs(lab), []);
});

test('a bpffs that is read-only is told with what to do', async (t) => {
  const { lab, folder } = await world(t);
  execFileSync('mount', ['-o', 'remount,ro', path.dirname(folder.bpffs)]);
  const agent = launchAgent(lab, folder);
  assert.deepEqual(await agent.ended(), { status: 1, signal: null });
  assert.match(agent.errors, /EROFS: it is mounted read-only; mount -o remount,rw/);
});

test('uninstall leaves nothing, takes away nothing else, and is refused while an agent runs', async (t) => {
  const { lab, folder, actor } = await world(t);
  const native = loadNative();
  const stub = native.load(STUB, {});
  t.after(() => stub.close());
  const foreign = stub.link(stub.attachCgroup('tell', lab.root)).id;
  const agent = await startAgent(lab, folder);
  await isHeld(actor);

  const all = [...places(folder), '--state-dir', folder.stateDir];
  const refused = run('uninstall', ...all);
  assert.equal(refused.status, 1);
  assert.match(refused.stderr, /an agent answers on .*: stop it first/);
  const unasked = run('uninstall', ...all, '--socket', '/nowhere');
  assert.equal(unasked.status, 1);
  assert.match(unasked.stderr, new RegExp(`process ${agent.child.pid}, holds ${folder.bpffs}`));
  await isHeld(actor);

  // Whoever may not open the socket is not told that somebody answers there.
  chownSync(folder.socket, 1, 1);
  const denied = spawnSync(
    'setpriv',
    ['--inh-caps=-all', '--bounding-set=-dac_override,-dac_read_search', POSTERN, 'uninstall', ...all],
    { encoding: 'utf8' },
  );
  assert.equal(denied.status, 1);
  assert.match(denied.stderr, /only root may uninstall/);

  await agent.stop('SIGKILL');
  const ids = pinned(folder);
  const done = run('uninstall', ...all);
  assert.equal(done.status, 0, done.stderr);
  assert.match(done.stdout, /^removed \d+ pins in /);
  assertGone(ids);
  assert.equal(existsSync(folder.bpffs) || existsSync(folder.stateDir) || existsSync(folder.socket), false);
  assert.deepEqual(
    native
      .links()
      .filter(({ cgroup }) => cgroup === native.cgroupId(lab.root))
      .map(({ id }) => id),
    [foreign],
  );
  assert.equal(await actor.tryTcp(SERVER, 81), 'ok');
  const again = run('uninstall', ...all);
  assert.equal(again.status, 0);
  assert.match(again.stdout, /nothing was pinned/);
  assert.equal(run('status', ...places(folder)).status, 2);
});

test('guards at interfaces outlive the agent, too: inbound flows are answered, and the next agent takes over the same links', async (t) => {
  const { lab, folder, web, actor } = await world(t);
  const [own = '', own6 = ''] = web.addresses;
  for (const address of [own, own6]) await actor.listen('UDP', address, 53);
  const native = loadNative();
  const ours = () =>
    PinFolder.look(native, folder.bpffs)
      .guards()
      .filter(({ info }) => info.ifindex !== 0 && native.links().some(({ id }) => id === info.id))
      .map(({ info: { id, program } }) => ({ id, program }));
  const place = { netns: lab.outside.netns, root: lab.root };
  const first = launchAgentIn(place, lab, folder);
  await first.line((line) => line.event === 'guarded');
  const standing = ours();
  assert.equal(standing.length, 2);
  const holds = async (): Promise<void> => {
    await isHeld(actor);
    for (const address of [own, own6]) assert.equal(await lab.outside.actor.tryUdp(address, 53), 'ok');
  };
  await holds();
  await first.stop('SIGKILL');
  await holds();
  assert.deepEqual(ours(), standing);

  const second = launchAgentIn(place, lab, folder);
  await second.line((line) => line.event === 'taken_over');
  await second.line((line) => line.event === 'guarded');
  await holds();
  assert.deepEqual(ours(), standing, 'not a link is another');
  const [path4 = ''] = readdirSync(path.join(folder.bpffs, 'guards'));
  assert.match(path4, /^\d+-in$/);
  await second.stop('SIGKILL');

  // With other networks the maps are other ones, and the guards' programs with them; the links are the same.
  folder.write('objects.yaml', objects(web, '{port: 80}', '198.18.0.0/15, "fd00::/8"'));
  const third = launchAgentIn(place, lab, folder);
  await third.line((line) => line.event === 'ready');
  await holds();
  assert.deepEqual(
    ours().map(({ id }) => id),
    standing.map(({ id }) => id),
  );
  assert.notDeepEqual(ours(), standing);
  await third.stop();
  assert.equal(run('uninstall', ...places(folder), '--state-dir', folder.stateDir).status, 0);
  const left = native.links().map(({ id }) => id);
  assert.deepEqual(
    standing.filter(({ id }) => left.includes(id)),
    [],
  );
});

/** Answers at once to `now`, and to whoever else asked whenever it is told so by a line; writes what came of each of those. */
const LATE_SERVER = `
const { createSocket } = require('node:dgram');
const asked = [];
for (const address of process.argv.slice(1)) {
  const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
  socket.on('message', (message, from) => {
    if (String(message) === 'now') return socket.send(message, from.port, from.address, () => undefined);
    asked.push({ socket, from });
    console.log('asked');
  });
  socket.bind(53, address, () => console.log('bound'));
}
process.stdin.on('data', () => {
  for (const { socket, from } of asked)
    socket.send('late', from.port, from.address, (error) => console.log((error ? error.code : 'answered') + '\\ntold'));
});`;
/** Asks once for an answer that comes late, and from other sockets, each its own all the time, for one after the other. */
const CLIENT = `
const { createSocket } = require('node:dgram');
for (const address of process.argv.slice(1)) {
  const kind = address.includes(':') ? 'udp6' : 'udp4';
  const late = createSocket(kind);
  late.on('message', () => console.log('late'));
  late.send('later', 53, address);
  const socket = createSocket(kind);
  let timer;
  const ask = () => {
    timer = setTimeout(() => { console.log('lost'); ask(); }, 5000);
    socket.send('now', 53, address);
  };
  socket.on('message', () => { clearTimeout(timer); console.log('now'); setTimeout(ask, 1); });
  ask();
}`;

/** Lines that a process writes, and a wait for so many of one kind. */
function linesOf({ stdout }: ChildProcess): {
  readonly all: string[];
  until(line: string, count: number): Promise<void>;
} {
  assert.ok(stdout !== null);
  const all: string[] = [];
  const wakes = new Set<() => void>();
  createInterface({ input: stdout }).on('line', (line) => {
    all.push(line);
    for (const wake of wakes) wake();
  });
  return {
    all,
    until: (line, count) =>
      new Promise((resolve) => {
        const wake = (): void => {
          if (all.filter((one) => one === line).length < count) return;
          wakes.delete(wake);
          resolve();
        };
        wakes.add(wake);
        wake();
      }),
  };
}

for (const { title, sizes } of [
  { title: 'flows', sizes: ['flows=3000', 'flows=200000'] },
  { title: 'workloads, and budgets with them', sizes: ['workloads=64', 'workloads=2000'] },
]) {
  test(`who asked before a restart with another size of ${title} is answered after it, by UDP and by TCP`, async (t) => {
    const { lab, folder, web, actor } = await world(t);
    const server = web.spawn(process.execPath, ['-e', LATE_SERVER, ...web.addresses]);
    const answers = linesOf(server);
    await answers.until('bound', 2);
    for (const address of web.addresses) await actor.listen('TCP', address, 8080);
    let agent = await startAgent(lab, folder);
    const client = linesOf(lab.outside.spawn(process.execPath, ['-e', CLIENT, ...web.addresses]));
    await answers.until('asked', 2);
    await client.until('now', 10);
    const open = await Promise.all(web.addresses.map((address) => lab.outside.actor.connect(address, 8080)));
    assert.deepEqual(
      open.map(({ outcome }) => outcome),
      ['ok', 'ok'],
    );
    let sets: readonly string[] = [];
    let turns = 0;
    for (const size of [...sizes, null]) {
      await agent.stop('SIGKILL');
      agent = await startAgent(lab, folder, ...(size === null ? [] : ['--bpf-map-max', size]));
      turns += 1;
      const now = readdirSync(folder.bpffs).filter((name) => /^[0-9a-f]{16}-\d+$/.test(name));
      assert.equal(now.length, 1);
      assert.notDeepEqual(now, sets, 'it was filled beside');
      sets = now;
      server.stdin?.write('answer\n');
      await answers.until('told', 2 * turns);
      assert.equal(answers.all.filter((line) => line === 'answered').length, 2 * turns, answers.all.join(' '));
      await client.until('late', 2 * turns);
      await client.until('now', client.all.filter((line) => line === 'now').length + 10);
      for (const { socket } of open)
        assert.equal(await lab.outside.actor.exchange(socket ?? 0), 'ok', size ?? 'as before');
      await isHeld(actor);
    }
    assert.ok(!client.all.includes('lost'), 'not one that went on asking went without');
    await agent.stop();
  });
}

test('counters go on over policy changes, kill -9 and takeover: none ever lower than before, none counted twice', async (t) => {
  const { lab, folder, web, actor } = await world(t);
  let refusals = 0;
  const refuse = async (): Promise<void> => {
    for (const address of [SERVER, SERVER6]) {
      assert.equal(await actor.tryTcp(address, 80), 'ok');
      assert.equal(await actor.tryTcp(address, 81), 'EPERM');
      refusals += 1;
    }
  };
  let before = new Map<string, number>();
  const check = async (agent: TestAgent, when: string): Promise<void> => {
    const series = [...(await agent.metrics())].filter(([name]) => /^postern_(?:drop|forward)_\w+_total\{/.test(name));
    const now = new Map(series.filter(([name]) => name.includes('workload="shop/web"')));
    for (const [name, count] of before) assert.ok((now.get(name) ?? 0) >= count, `${when}: ${name} ${now.get(name)}`);
    const dropped = [...now].filter(([name]) => name.startsWith('postern_drop_count_total'));
    assert.equal(
      dropped.reduce((sum, [, count]) => sum + count, 0),
      refusals,
      when,
    );
    before = now;
  };
  /** The first two are other rows alone, the third is other addresses too, which fills maps beside those in force. */
  const versions = [
    objects(web, '{port: 80}'),
    objects(web, '{port: 80}, {port: 82}'),
    objects(web, '{port: 80}, {port: 83}', '198.18.0.0/15, "fd00::/8"'),
  ] as const;
  let version = 0;
  const write = (): void => {
    version += 1;
    folder.write('objects.yaml', versions[version % 3] ?? versions[0]);
  };
  let agent = await startAgent(lab, folder);
  await refuse();
  for (let round = 1; round <= 6; round++) {
    await agent.applied(write);
    await refuse();
    await check(agent, `round ${round}, a change`);
    // One that it may or may not get to.
    if (round % 2 === 0) write();
    await agent.stop('SIGKILL');
    await refuse();
    // And one that nobody is there for.
    if (round > 3) write();
    agent = await startAgent(lab, folder);
    await refuse();
    await check(agent, `round ${round}, a takeover`);
  }
  assert.ok(readdirSync(folder.stateDir).includes('counters'));
  await agent.stop();
  assert.equal(run('uninstall', ...places(folder), '--state-dir', folder.stateDir).status, 0);
  assert.equal(existsSync(folder.stateDir), false);
});

test('a disk that is full stops neither the agent nor the next one', async (t) => {
  const { lab, folder, web, actor } = await world(t);
  const disk = mkdtempSync(path.join(tmpdir(), `postern-disk-${process.pid}-`));
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', `postern-${process.pid}`, disk]);
  t.after(() => {
    execFileSync('umount', ['--lazy', disk]);
    rmdirSync(disk);
  });
  assert.throws(() => writeFileSync(path.join(disk, 'filler'), Buffer.alloc(1024 * 1024)), { code: 'ENOSPC' });
  const first = await startAgent(lab, folder, '--state-dir', disk);
  assert.ok(first.lines.some(({ event }) => event === 'state_not_saved'));
  await isHeld(actor);
  await first.applied(() => folder.write('objects.yaml', objects(web, '{port: 80}', '198.18.0.0/15, "fd00::/8"')));
  await first.line(({ event }) => event === 'counters_not_saved');
  await isHeld(actor);
  await first.stop('SIGKILL');
  await isHeld(actor);
  const second = await startAgent(lab, folder, '--state-dir', disk);
  await second.line((line) => line.event === 'taken_over');
  await isHeld(actor);
  await second.stop();
});

/** A cgroup that holds memory to a limit: of cgroup2, or of cgroup1's own controller where that has it. */
function memoryCgroup(lab: Lab): { readonly folder: string; readonly limit: string; readonly told: string } {
  const old = '/sys/fs/cgroup/memory';
  if (!existsSync(path.join(old, 'memory.limit_in_bytes'))) {
    writeFileSync(path.join(path.dirname(lab.root), 'cgroup.subtree_control'), '+memory');
    writeFileSync(path.join(lab.root, 'cgroup.subtree_control'), '+memory');
    return { folder: lab.cgroup('agent'), limit: 'memory.max', told: 'memory.events' };
  }
  const folder = path.join(old, lab.name);
  mkdirSync(folder);
  return { folder, limit: 'memory.limit_in_bytes', told: 'memory.oom_control' };
}

test('an agent that the kernel kills for its memory leaves what is enforced as it is', async (t) => {
  const { lab, folder, actor } = await world(t);
  const home = memoryCgroup(lab);
  t.after(() => existsSync(home.folder) && rmdirSync(home.folder));
  writeFileSync(path.join(home.folder, home.limit), String(100 * 1024 * 1024));
  const agent = await startAgent(lab, folder);
  writeFileSync(path.join(home.folder, 'cgroup.procs'), String(agent.child.pid));
  // What it has already counts elsewhere; what it reads from now on counts here, and is more than the limit.
  const text = `# ${'x'.repeat(1_000_000)}\n`;
  const ended = agent.ended();
  for (let count = 0; count < 400 && agent.child.exitCode === null && agent.child.signalCode === null; count++) {
    folder.write(`more-${count}.yaml`, text);
    if (count % 20 === 19) await pause(50);
  }
  assert.deepEqual(await ended, { status: null, signal: 'SIGKILL' });
  assert.match(readFileSync(path.join(home.folder, home.told), 'utf8'), /^oom_kill [1-9]/m);
  await isHeld(actor);
  for (const name of readdirSync(folder.path).filter((one) => one.startsWith('more-'))) folder.remove(name);
  const next = await startAgent(lab, folder);
  await next.line((line) => line.event === 'taken_over');
  await isHeld(actor);
  await next.stop();
});
