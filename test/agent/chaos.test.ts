// SPDX-License-Identifier: Apache-2.0
// Through chaos to the kernel: objects, pods' cgroups and the road to the API server change and break at random under one agent. At the
// end its maps hold what those of an agent hold that starts then, and the verdicts are those of the list's last state.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import pino from 'pino';
import { parseAllDocuments } from 'yaml';
import { Agent } from '../../src/agent/agent.ts';
import type { Standing } from '../../src/agent/hooks.ts';
import { namedRoot } from '../../src/bind/root.ts';
import { explainer } from '../../src/judge/explain.ts';
import { loadNative, type Native, type NativeObject } from '../../src/kernel/native.ts';
import { readBack } from '../../src/kernel/tables.ts';
import { KubeSource } from '../../src/kube/source.ts';
import type { Snapshot } from '../../src/model/objects.ts';
import { QUICK, until } from '../kube/scripted.ts';
import { type Random, seeded } from '../oracle/random.ts';
import { ApiServer, type JsonObject } from '../support/apiserver/server.ts';
import { cgroupMount, Lab } from '../support/lab.ts';
import { LISTS } from '../support/state-lists.ts';
import { questionOf } from '../support/states.ts';

const SEED = Number(process.env.POSTERN_SEED ?? 11);
const CRDS = [
  'egresspolicies.yaml',
  'clusteregresspolicies.yaml',
  'network-policy-api/clusternetworkpolicies.experimental.yaml',
];

function crds(): JsonObject[] {
  return CRDS.flatMap((file) =>
    parseAllDocuments(readFileSync(path.join(import.meta.dirname, '../../daemonset/crds', file), 'utf8')).flatMap(
      (document) => (document.contents === null ? [] : [document.toJS() as JsonObject]),
    ),
  );
}

interface Running {
  readonly agent: Agent;
  readonly source: KubeSource;
  /** Its maps. */
  readonly object: NativeObject;
  readonly standing: () => Standing | null;
}

async function start(api: ApiServer, lab: Lab): Promise<Running> {
  const native = loadNative();
  let object: NativeObject | null = null;
  const watched: Native = Object.assign(Object.create(native), {
    // Two stand at one root in here, to be compared: neither hears of the other.
    links: () => [],
    load: (...args: Parameters<Native['load']>) => {
      object = native.load(...args);
      return object;
    },
  });
  const pace = { ...QUICK, idleMs: 300, listIdleMs: 300, watchSeconds: [1, 2] as const };
  const source = await KubeSource.open({
    ...{ kubeconfig: api.kubeconfig, context: null, nodeName: 'a', state: null, kept: new Map(), pace },
  });
  let standing: Standing | null = null;
  const agent = new Agent(
    {
      ...{ root: namedRoot(cgroupMount(), path.join(lab.name, 'kubepods')), pods: null },
      ...{
        metrics: { host: '127.0.0.1', port: 0 },
        socket: null,
        unknown: 'deny',
        ownNode: false,
        dnsMinTtlS: 60,
        nodeName: 'a',
      },
      ...{ unscheduled: 'elsewhere', attach: 'at_once', guard: true, confine: 'not', bpffs: null, checkMs: 0 },
      uninstall: 'postern uninstall',
      hooks: {
        onApplied: (now) => {
          standing = now;
        },
      },
    },
    source,
    watched,
    { log: pino({ level: 'silent' }), lost: () => 0, flush: () => Promise.resolve() },
  );
  try {
    await agent.start();
  } catch (error) {
    await agent.stop();
    throw error;
  }
  return { agent, source, object: object ?? assert.fail('the programs are loaded'), standing: () => standing };
}

/** What the kernel holds, slots by the workloads that they stand for. */
function held({ object, standing }: Running): unknown {
  const { workloads, selves, ...others } = readBack(object);
  const byCgroup = new Map([...(standing()?.bindings ?? [])].map(([name, { cgroup }]) => [cgroup, name]));
  const names = new Map([...workloads].map(([cgroup, { slot }]) => [slot, byCgroup.get(cgroup) ?? 'nobody']));
  const sorted = (map: ReadonlyMap<unknown, unknown>) =>
    [...map].map(([key, value]) => [String(key), value] as const).sort(([a], [b]) => (a < b ? -1 : 1));
  return {
    ...Object.fromEntries(Object.entries(others).map(([map, entries]) => [map, sorted(entries)])),
    workloads: sorted(
      new Map([...workloads].map(([key, { slot, ...entry }]) => [key, { ...entry, name: names.get(slot) }])),
    ),
    selves: [...selves.keys()].map((key) => `${names.get(Number(key.split('/')[0]))} ${key.split('/')[1]}`).sort(),
  };
}

/** Some object of some state is put or taken away; a namespace only with all that is in it, which nobody does here. */
function change(api: ApiServer, random: Random, objects: readonly object[]): void {
  const one = random.pick(objects) as {
    apiVersion: string;
    kind: string;
    metadata: { name: string; namespace?: string };
  };
  const { name, namespace } = one.metadata;
  if (random.chance(0.7) || one.kind === 'Namespace') api.put(one);
  else if (api.get(one.apiVersion, one.kind, name, namespace) !== null) api.delete(one);
}

function trouble(api: ApiServer, random: Random): void | Promise<void> {
  const watch = () => {
    const open = api.watches();
    return open.length === 0 ? undefined : random.pick(open);
  };
  const all: (() => void | Promise<void>)[] = [
    () => api.compact(),
    () => api.restart(),
    () => watch()?.garbage(),
    () => watch()?.cutLine(),
    () => watch()?.reset(),
    () => watch()?.expire(),
    () => watch()?.stall(),
    () => void api.break({ kind: 'status', code: random.pick([403, 429, 500, 503]), times: 2 }),
    () => void api.break({ kind: 'cut', afterBytes: random.below(2000), how: 'reset', times: 2 }),
    async () => {
      await api.refuse();
      await sleep(random.below(40));
      await api.listen();
    },
  ];
  return random.pick(all)();
}

for (const [index, list] of LISTS.entries()) {
  test(`${list.name}: after chaos the kernel holds what a fresh start would`, async (t) => {
    const random = seeded(SEED + index);
    const lab = await Lab.create();
    const api = await ApiServer.start({
      objects: crds(),
      bookmarkMs: 20,
      history: 50,
      streamingLists: index % 2 === 0,
    });
    const running: Running[] = [];
    t.after(async () => {
      for (const { agent } of running) await agent.stop();
      await api.stop();
      await lab.close();
    });
    const last = list.states.at(-1) ?? assert.fail();
    const objects = list.states.flatMap(({ cluster }) => [...cluster.values()] as object[]);
    const uids = [...new Set(objects.flatMap((one) => (one as { metadata: { uid?: string } }).metadata.uid ?? []))];
    const namespaces = objects.filter((one) => (one as { kind: string }).kind === 'Namespace');
    for (const one of namespaces) api.put(one);
    lab.cgroup('kubepods/burstable');
    running.push(await start(api, lab));

    const here = new Map<string, string>();
    for (let round = 0; round < 40; round += 1) {
      for (let count = random.below(6); count >= 0; count -= 1) change(api, random, objects);
      const uid = random.pick(uids);
      const folder = here.get(uid);
      if (folder === undefined) here.set(uid, lab.cgroup(`kubepods/burstable/pod${uid}`));
      else {
        here.delete(uid);
        await lab.removeCgroup(folder);
      }
      if (random.chance(0.4)) await trouble(api, random);
      await sleep(random.below(15));
    }

    api.mend();
    for (const one of objects as {
      apiVersion: string;
      kind: string;
      metadata: { name: string; namespace?: string };
    }[]) {
      const { name, namespace } = one.metadata;
      if (one.kind !== 'Namespace' && api.get(one.apiVersion, one.kind, name, namespace) !== null) api.delete(one);
    }
    for (const one of last.cluster.values()) api.put(one as object);
    for (const uid of uids) if (!here.has(uid)) here.set(uid, lab.cgroup(`kubepods/burstable/pod${uid}`));

    const fresh = await start(api, lab);
    running.push(fresh);
    const [old] = running as [Running];
    const wanted = (): Snapshot | undefined => old.standing()?.enforced;
    const expected = fresh.standing()?.enforced;
    await until('the same snapshot', () => isDeepStrictEqual(wanted(), expected)).catch(() =>
      assert.deepEqual(wanted(), expected),
    );
    await until('the same in the kernel', () => isDeepStrictEqual(held(old), held(fresh))).catch(() =>
      assert.deepEqual(held(old), held(fresh)),
    );
    const standing = old.standing() ?? assert.fail();
    assert.ok(standing.bindings.size > 0);
    const { answer } = explainer(standing.enforced, standing.compiled);
    for (const question of last.verdicts.map(questionOf)) {
      const { verdict, policy } = answer(question);
      assert.deepEqual({ ...question, verdict, policy }, question, `POSTERN_SEED=${SEED}`);
    }
  });
}
