// SPDX-License-Identifier: Apache-2.0
// Which folder belongs to which pod, by table.
import assert from 'node:assert/strict';
import test from 'node:test';
import { type Bindings, bind, type CgroupFolder, type Folders, levelOf, pathBelow } from '../../src/bind/binding.ts';
import { cgroupMountIn } from '../../src/bind/mount.ts';
import { podUidOf } from '../../src/bind/pod-folder.ts';
import type { Pod } from '../../src/model/objects.ts';

function pod(name: string, over: Partial<Pod> = {}): Pod {
  return {
    namespace: 'shop',
    name,
    uid: null,
    labels: {},
    node: null,
    hostNetwork: false,
    addresses: [],
    ports: [],
    ended: false,
    isStatic: false,
    cgroup: null,
    ...over,
  };
}

/** Folders by path and id; those whose last name is a pod's are found by uid. */
function folders(paths: Record<string, bigint>): Folders {
  const at = (path: string): CgroupFolder | null => {
    const id = paths[path];
    return id === undefined ? null : { path, id };
  };
  return {
    at,
    byUid: (uid) => {
      const path = Object.keys(paths).find((one) => podUidOf(one.split('/').at(-1) ?? '') === uid);
      return path === undefined ? null : at(path);
    },
    byUnit: (unit) =>
      Object.keys(paths)
        .filter((one) => one.endsWith(`.slice/${unit}`))
        .flatMap((one) => at(one) ?? []),
  };
}

const none: Bindings = new Map();

test('a folder name is a pod uid in both spellings of kubelet, and in no other', () => {
  const table: [string, string | null][] = [
    ['pod2f4c9a1e-0d1b-4c3e-9f00-aaaaaaaaaaaa', '2f4c9a1e-0d1b-4c3e-9f00-aaaaaaaaaaaa'],
    ['kubepods-burstable-pod2f4c9a1e_0d1b_4c3e_9f00_aaaaaaaaaaaa.slice', '2f4c9a1e-0d1b-4c3e-9f00-aaaaaaaaaaaa'],
    ['kubepods-pod2f4c9a1e_0d1b.slice', '2f4c9a1e-0d1b'],
    ['kubelet-kubepods-besteffort-podabc.slice', 'abc'],
    ['pod', null],
    ['podman.service', null],
    ['kubepods.slice', null],
    ['kubepods-burstable.slice', null],
    ['cri-containerd-abc.scope', null],
  ];
  for (const [name, uid] of table) assert.equal(podUidOf(name), uid, name);
});

test('paths are plain and below the mount', () => {
  assert.equal(pathBelow('/a/b/'), 'a/b');
  for (const bad of ['', '/', '..', 'a/../b', 'a/./b', 'a//b']) assert.equal(pathBelow(bad), null, bad);
  assert.equal(levelOf('a/b'), 2);
});

test('pods are bound by annotation and by uid, with the level of their folder', () => {
  const { bindings, problems } = bind(
    [pod('web', { cgroup: '/jobs/web' }), pod('db', { uid: 'u-1' }), pod('away', { cgroup: 'jobs/not-yet' })],
    folders({ 'jobs/web': 10n, 'jobs/kubepods/burstable/podu-1': 11n }),
    'jobs',
    none,
  );
  assert.deepEqual(problems, []);
  assert.deepEqual(
    [...bindings],
    [
      ['shop/web', { path: 'jobs/web', cgroup: 10n, level: 2 }],
      ['shop/db', { path: 'jobs/kubepods/burstable/podu-1', cgroup: 11n, level: 4 }],
    ],
  );
});

test('a path outside the enforced root, the root itself and .. are refused', () => {
  for (const cgroup of ['other/web', 'jobs', 'jobs/../other', 'jobsx/web', '']) {
    const { bindings, problems } = bind([pod('web', { cgroup })], folders({ 'other/web': 1n, work: 2n }), 'jobs', none);
    assert.equal(bindings.size, 0, cgroup);
    assert.deepEqual(
      problems.map((one) => [one.code, one.object]),
      [['cgroup_refused', 'Pod/shop/web']],
      cgroup,
    );
  }
});

test('two new pods on one folder, or nested: neither is bound', () => {
  for (const second of ['jobs/a', 'jobs/a/b', 'jobs/a/b/c']) {
    const { bindings, problems } = bind(
      [pod('x', { cgroup: 'jobs/a' }), pod('y', { cgroup: second }), pod('z', { cgroup: 'jobs/a-b' })],
      folders({ 'jobs/a': 1n, 'jobs/a/b': 2n, 'jobs/a/b/c': 3n, 'jobs/a-b': 4n }),
      '',
      none,
    );
    assert.deepEqual([...bindings.keys()], ['shop/z'], second);
    assert.deepEqual(
      problems.map((one) => [one.code, one.object]),
      [
        ['cgroup_clash', 'Pod/shop/x'],
        ['cgroup_clash', 'Pod/shop/y'],
      ],
    );
  }
});

test('a clash leaves an earlier binding as it was', () => {
  const there = folders({ 'jobs/a': 1n, 'jobs/b': 2n });
  const before = bind([pod('x', { cgroup: 'jobs/a' }), pod('y', { cgroup: 'jobs/b' })], there, '', none).bindings;
  const after = bind([pod('x', { cgroup: 'jobs/a' }), pod('y', { cgroup: 'jobs/a' })], there, '', before);
  assert.deepEqual([...after.bindings.values()].map((one) => one.path).sort(), ['jobs/a', 'jobs/b']);
  assert.equal(after.problems.length, 2);
});

test('a folder that another pod still holds is not given to a third', () => {
  const there = folders({ 'jobs/a': 1n, 'jobs/b': 2n });
  const before = bind([pod('x', { cgroup: 'jobs/a' })], there, '', none).bindings;
  // x and y both want b, so x stays on a; z wants a.
  const after = bind(
    [pod('x', { cgroup: 'jobs/b' }), pod('y', { cgroup: 'jobs/b' }), pod('z', { cgroup: 'jobs/a' })],
    there,
    '',
    before,
  );
  assert.deepEqual([...after.bindings.keys()], ['shop/x']);
  assert.equal(after.bindings.get('shop/x')?.path, 'jobs/a');
  assert.equal(after.problems.length, 3);
});

test('a folder made anew is another cgroup', () => {
  const before = bind([pod('x', { cgroup: 'jobs/a' })], folders({ 'jobs/a': 1n }), '', none).bindings;
  const after = bind([pod('x', { cgroup: 'jobs/a' })], folders({ 'jobs/a': 9n }), '', before).bindings;
  assert.equal(after.get('shop/x')?.cgroup, 9n);
  assert.equal(bind([pod('x', { cgroup: 'jobs/a' })], folders({}), '', before).bindings.size, 0);
});

test('the mount of cgroup2 is found in a hybrid hierarchy, with escapes', () => {
  const text = [
    '31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw',
    '32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu',
    '41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime shared:9 - cgroup2 cgroup2 rw',
  ].join('\n');
  assert.equal(cgroupMountIn(text), '/sys/fs/cgroup/uni fied');
  assert.equal(cgroupMountIn('31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw'), null);
});

const units = (...names: readonly string[]) => ({
  selected: new Map(names.map((name) => [name, ['ClusterEgressPolicy/runtime']])),
  own: 'system.slice/postern.service',
});

test('a unit is bound under a key that no pod can have, beside the pods', () => {
  const there = folders({ 'system.slice/kubelet.service': 3n, 'system.slice/poda': 4n, 'a.slice/x.service': 5n });
  const { bindings, problems } = bind([pod('x', { uid: 'a' })], there, '', none, units('kubelet.service'));
  assert.deepEqual(problems, []);
  assert.deepEqual(
    [...bindings],
    [
      ['shop/x', { path: 'system.slice/poda', cgroup: 4n, level: 2 }],
      ['/kubelet.service', { path: 'system.slice/kubelet.service', cgroup: 3n, level: 2 }],
    ],
  );
  assert.equal(bind([], there, '', none).bindings.size, 0);
});

test('a unit that cannot be held is told at each policy that selects it, and holds up no pod', () => {
  const there = {
    'system.slice/kubelet.service': 1n,
    'jobs/a.slice/twice.service': 2n,
    'jobs/b.slice/twice.service': 3n,
    'jobs/a.slice/host.service': 4n,
    'jobs/a.slice/host.service/poda': 5n,
    'jobs/a.slice/free.service': 6n,
  };
  const table: [string, string, string | null][] = [
    ['kubelet.service', 'error', 'unit_outside_root'],
    ['absent.service', 'warning', 'unit_not_found'],
    ['twice.service', 'error', 'unit_ambiguous'],
    ['host.service', 'error', 'cgroup_clash'],
    ['free.service', '', null],
  ];
  for (const [unit, severity, code] of table) {
    const { bindings, problems } = bind([pod('x', { uid: 'a' })], folders(there), 'jobs', none, units(unit));
    assert.equal(bindings.get('shop/x')?.cgroup, 5n, unit);
    assert.equal(bindings.has(`/${unit}`), code === null, unit);
    assert.deepEqual(
      problems.map((one) => [one.severity, one.code, one.object, one.path, one.message.startsWith(unit)]),
      code === null ? [] : [[severity, code, 'ClusterEgressPolicy/runtime', 'spec.subject.nodeServices.units', true]],
      unit,
    );
  }
});

test('a unit outside the root: told with the root that would hold it and the pods', () => {
  const table: [unit: string, root: string, wanted: string][] = [
    ['system.slice/kubelet.service', 'kubepods.slice', '/'],
    ['system.slice/kubelet.service', 'kubelet.slice/kubelet-kubepods.slice', '/'],
    ['a.slice/a-b.slice/kubelet.service', 'a.slice/kubepods', '/a.slice'],
    // kubelet's cgroups below that of the service it runs in: a root holds what is below it, never itself.
    ['system.slice/kubelet.service', 'system.slice/kubelet.service/kubepods', '/system.slice'],
    ['system.slice/kubelet.service', 'system.slice/kubelet.service', '/system.slice'],
  ];
  for (const [path, root, wanted] of table) {
    const { problems } = bind([], folders({ [path]: 1n }), root, none, units('kubelet.service'));
    assert.deepEqual(
      problems.map(({ code, advice }) => [code, advice]),
      [
        [
          'unit_outside_root',
          `start the agent with --cgroup-root ${wanted} (helm: --set agent.cgroupRoot=${wanted}), which is above both`,
        ],
      ],
      path,
    );
  }
});

test('a unit deeper than the programs look is not held, and that is what is told', () => {
  const deep = `${Array.from({ length: 40 }, (_, index) => `s${index}.slice`).join('/')}/kubelet.service`;
  const { bindings, problems } = bind([], folders({ [deep]: 1n }), '', none, units('kubelet.service'));
  assert.equal(bindings.size, 0);
  assert.deepEqual(
    problems.map(({ code, severity }) => [code, severity]),
    [['cgroup_refused', 'error']],
  );
});

test('no policy holds what the agent runs in', () => {
  const there = folders({ 'system.slice/postern.service': 1n });
  for (const own of ['system.slice/postern.service', 'system.slice/postern.service/agent']) {
    const { bindings, problems } = bind([], there, '', none, { ...units('postern.service'), own });
    assert.equal(bindings.size, 0);
    assert.deepEqual(
      problems.map(({ code }) => code),
      ['unit_is_agent'],
    );
  }
});

test('a folder deeper than the kernel looks is told, by uid as by annotation: it would be taken for held', () => {
  const deep = (levels: number, last: string) => [...Array(levels - 1).fill('d'), last].join('/');
  for (const [levels, names] of [
    [15, ['shop/x', 'shop/y']],
    [16, []],
  ] as const) {
    const paths = { [deep(levels, 'podu')]: 1n, [deep(levels, 'y')]: 2n };
    const pods = [pod('x', { uid: 'u' }), pod('y', { cgroup: deep(levels, 'y') })];
    const { bindings, problems } = bind(pods, folders(paths), '', none);
    assert.deepEqual([...bindings.keys()], names);
    assert.deepEqual(
      problems.map(({ code, object }) => [code, object]),
      levels > 15 ? ['x', 'y'].map((name) => ['cgroup_refused', `Pod/shop/${name}`]) : [],
    );
  }
});
