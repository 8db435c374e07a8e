// SPDX-License-Identifier: Apache-2.0
// Whose interfaces are guarded, as far as the agent knows its workloads; and how it is said where no guard stands.
// Knows nothing of how interfaces are found.
import path from 'node:path';
import type { Logger } from 'pino';
import type { Binding, Bindings } from '../bind/binding.ts';
import { type GuardNews, Guards } from '../guard/guards.ts';
import type { Guardable, Unguarded } from '../guard/pod-watch.ts';
import type { Native } from '../kernel/native.ts';
import type { Metrics } from '../metrics/metrics.ts';
import { NO_ID, type Tables } from '../model/tables.ts';
import type { Repaired } from './drift-watch.ts';
import type { Enforcement } from './enforcement.ts';
import { names } from './names.ts';

export interface GuardingOptions {
  readonly native: Native;
  readonly enforcement: Enforcement;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** Somebody took a guard away, or stood before it, and that was put right. */
  readonly onRepaired: (repaired: Repaired) => void;
  /** The cgroup2 mount. */
  readonly mount: string;
  /** What is in no bound cgroup is denied. */
  readonly deniesUnknown: boolean;
  /** Until this is resolved, guards that are there are let alone. */
  readonly isReady: Promise<void>;
}

const WHY: Readonly<Record<Unguarded, string>> = {
  host_network: "in the host's network namespace: held by the programs at its cgroup alone",
  macvlan: 'a macvlan has no end on the host where a guard could stand: held by the programs at its cgroup alone',
  ipvlan: 'an ipvlan has no end on the host where a guard could stand: held by the programs at its cgroup alone',
  device:
    'a network device of its own has no end on the host where a guard could stand: held by the programs at its cgroup alone',
  not_ethernet:
    'its interface carries no Ethernet frames, which a guard could read: held by the programs at its cgroup alone',
  peer_elsewhere:
    "its interface's other end is not in the agent's network namespace: held by the programs at its cgroup alone",
  no_interface: 'it has no interface that leads out of it: nothing to guard',
  no_process: 'no process of it is seen, so its network namespace is not known',
  refused: 'the kernel takes no guard at its interface: held by the programs at its cgroup alone',
};

export class Guarding {
  readonly #options: GuardingOptions;
  readonly #guards: Guards;
  /** From what was said last whom to hold. */
  #last: { bindings: Bindings; workloads: Tables['workloads'] | undefined; strangers: Bindings } | null = null;

  /** Throws KernelError where interfaces cannot be watched. */
  constructor(options: GuardingOptions) {
    const { native, enforcement, metrics, isReady } = options;
    this.#options = options;
    this.#guards = new Guards({
      native,
      isReady,
      posts: enforcement.guards,
      guarded: enforcement.guarded,
      setGuarded: (cgroup, netns) => enforcement.setGuarded(cgroup, netns),
      onNews: (news) => this.#tell(news),
      onGuarded: (seconds) => metrics.observeGuarded(seconds),
    });
  }

  /** `strangers`: pods' folders beside the bound, whose interfaces are guarded as well, though nobody knows whose they are. */
  hold(bindings: Bindings, tables: Tables | null, strangers: Bindings): void {
    const workloads = tables?.workloads;
    const last = this.#last;
    // A hundred times a second where pods of other nodes change: for 250 pods a third of all garbage.
    if (last?.bindings === bindings && last.workloads === workloads && isSame(last.strangers, strangers)) return;
    const held = [...bindings].map(([name, binding]) => {
      const { selves = [], enforced = NO_ID } = workloads?.get(name) ?? {};
      return this.#guardable(name, binding, selves, enforced !== NO_ID);
    });
    const known = new Set(held.map(({ cgroup }) => cgroup));
    const others = [...strangers].filter(([, { cgroup }]) => !known.has(cgroup));
    this.#guards.hold([...held, ...others.map(([name, binding]) => this.#guardable(name, binding, [], false))]);
    this.#last = { bindings, workloads, strangers };
  }

  /** To be called before policy forgets all but these: nothing leaves any more by interfaces of those of the others that are gone. */
  letGo(staying: Bindings): void {
    this.#guards.letGo(new Set([...staying.values()].map(({ cgroup }) => cgroup)));
  }

  /** How many interfaces are guarded how; how many workloads have a way out without a guard, and why; frames sent before there was one. */
  readings(): {
    readonly modes: ReadonlyMap<string, number>;
    readonly unguarded: ReadonlyMap<string, number>;
    readonly framesBefore: number;
  } {
    return {
      modes: this.#guards.modes(),
      unguarded: this.#guards.unguarded(),
      framesBefore: this.#guards.framesBefore,
    };
  }

  status(): ReturnType<Guards['status']> {
    return this.#guards.status();
  }

  close(): Promise<void> {
    return this.#guards.close();
  }

  #guardable(
    name: string,
    { path: below, cgroup }: Binding,
    addresses: Guardable['addresses'],
    isRuled: boolean,
  ): Guardable {
    const { mount, deniesUnknown } = this.#options;
    return { name, folder: path.join(mount, below), cgroup, addresses, isHeld: isRuled || deniesUnknown };
  }

  #tell(news: GuardNews): void {
    const { log } = this.#options;
    if (news.event === 'guarded') {
      const { event, workloads, interfaces, ms, frames } = news;
      const times = ms === null ? {} : { ms: Math.round(ms * 10) / 10, frames };
      log.info({ event, workloads: names(workloads), interfaces: names(interfaces), ...times });
    } else if (news.event === 'unguarded') {
      const { event, why, workloads } = news;
      const isAsWished = why === 'host_network' || why === 'no_interface' || why === 'no_process';
      log[isAsWished ? 'info' : 'warn']({ event, why, workloads: names(workloads) }, WHY[why]);
    } else if (news.event === 'guard_failed') {
      const { event, workload, code, message } = news;
      log.error({ event, workload, code }, message);
    } else if (news.event === 'guard_lost') {
      const { event, workload, interface: name } = news;
      log.warn({ event, workload, interface: name }, 'somebody took the guard away; it is put there again');
      this.#options.onRepaired({ what: 'guard', name, count: 1 });
    } else {
      const { event, workload, interface: name, isLeft } = news;
      log[isLeft ? 'error' : 'warn'](
        { event, workload, interface: name },
        isLeft
          ? 'somebody puts a program before the guard again and again: it is left there, and what it lets pass the guard does not see'
          : 'somebody attached a program before the guard; the guard is put before it again',
      );
      if (!isLeft) this.#options.onRepaired({ what: 'order', name, count: 1 });
    }
  }
}

function isSame(some: Bindings, others: Bindings): boolean {
  return (
    some.size === others.size &&
    some.entries().every(([name, { path: below, cgroup }]) => {
      const other = others.get(name);
      return other?.cgroup === cgroup && other.path === below;
    })
  );
}
