// SPDX-License-Identifier: Apache-2.0
// What does Prometheus see? Counters are the kernel's own, read when Prometheus asks, so lost events change nothing in them.
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { SourceStatus } from '../source/source.ts';
import { BoundedSeries, type Count, type Labels } from './series.ts';

export interface KernelCount {
  readonly labels: Labels;
  readonly verdict: 'allow' | 'audit' | 'deny';
  readonly count: Count;
}

/** Where numbers come from, asked at each scrape. */
export interface Readings {
  /** One for each counter of a workload that is there; several of the same labels are summed. */
  counts(): readonly KernelCount[];
  /** By why: `rate`, `full`, …; totals. */
  losses(): ReadonlyMap<string, number>;
  /** Why DNS messages taught nothing: `unasked`, `late`, …; totals. */
  untaught(): ReadonlyMap<string, number>;
  maps(): readonly { readonly map: string; readonly entries: number; readonly maxEntries: number }[];
  problems(): { readonly error: number; readonly warning: number };
  /** By state: `enforced`, `open` (bound, and no policy selects it), `unbound` (no cgroup here). */
  workloads(): ReadonlyMap<string, number>;
  /** Since when programs have been attached without a gap, in ms since 1970; null: nothing is, or nothing is pinned. */
  since(): number | null;
  /** How often something was put right that somebody else had changed in the kernel, by what it was; totals. */
  drift(): ReadonlyMap<string, number>;
  source(): readonly SourceStatus[];
  /** Interfaces that are guarded, by how; workloads with a way out without a guard, by why; null: guards are not put up. */
  guards(): {
    readonly modes: ReadonlyMap<string, number>;
    readonly unguarded: ReadonlyMap<string, number>;
    readonly framesBefore: number;
  } | null;
  /** What /readyz says. */
  isReady(): boolean;
  /** The longest that the event loop has kept its timers waiting since the last scrape. */
  loopDelayMs(): number;
}

const LABELS = ['workload', 'direction', 'policy', 'reason'] as const;
/** For each of the three verdicts. A node holds some hundred pods with some ten series each. */
const MAX_SERIES = 10_000;

export class Metrics {
  readonly registry = new Registry();
  readonly #apply: Histogram;
  readonly #pod: Histogram;
  readonly #unknown: Histogram;
  readonly #guarded: Histogram;
  readonly #takeover: Gauge;

  constructor(readings: Readings) {
    const registers = [this.registry];
    const verdicts = [
      { verdict: 'deny', name: 'drop', what: 'refused' },
      { verdict: 'allow', name: 'forward', what: 'let pass' },
      { verdict: 'audit', name: 'would_drop', what: 'let pass that Audit policies would refuse (in no other counter)' },
    ] as const;
    // Each pair of counters shares one reading; the first of them to be collected takes it.
    const pairs = verdicts.map(({ verdict, name, what }) => ({
      verdict,
      series: new BoundedSeries(MAX_SERIES),
      packets: new Counter({
        name: `postern_${name}_count_total`,
        help: `Packets ${what}; a refused connect or send is one. direction is egress, or ingress-reply for what answers a connection from outside`,
        labelNames: LABELS,
        registers,
        collect: () => collect(),
      }),
      bytes: new Counter({
        name: `postern_${name}_bytes_total`,
        help: `Bytes ${what}, counted from the network header on; a refused connect or send has none`,
        labelNames: LABELS,
        registers,
      }),
    }));
    let asked = false;
    function collect(): void {
      if (asked) return;
      asked = true;
      // The registry collects all its metrics within one turn of the loop.
      queueMicrotask(() => {
        asked = false;
      });
      const counts = readings.counts();
      for (const { verdict, series, packets, bytes } of pairs) {
        packets.reset();
        bytes.reset();
        for (const { labels, count } of series.show(counts.filter((one) => one.verdict === verdict))) {
          packets.inc({ ...labels }, count.packets);
          bytes.inc({ ...labels }, count.bytes);
        }
      }
    }
    new Counter({
      name: 'postern_events_lost_total',
      help: 'What could not be told or recorded, by why; counters stay exact but for why="counters"',
      labelNames: ['why'],
      registers,
      collect() {
        this.reset();
        for (const [why, count] of readings.losses()) this.inc({ why }, count);
      },
    });
    new Counter({
      name: 'postern_dns_untaught_total',
      help: 'Questions to resolvers that were not noted, and answers of theirs that taught no name, by why',
      labelNames: ['why'],
      registers,
      collect() {
        this.reset();
        for (const [why, count] of readings.untaught()) this.inc({ why }, count);
      },
    });
    new Gauge({
      name: 'postern_map_entries',
      help: 'Entries that the agent holds in each eBPF map',
      labelNames: ['map'],
      registers,
      collect() {
        for (const { map, entries } of readings.maps()) this.set({ map }, entries);
      },
    });
    new Gauge({
      name: 'postern_map_max_entries',
      help: 'Entries that each eBPF map can hold: a change beyond it is refused whole',
      labelNames: ['map'],
      registers,
      collect() {
        for (const { map, maxEntries } of readings.maps()) this.set({ map }, maxEntries);
      },
    });
    new Gauge({
      name: 'postern_policy_problems',
      help: 'Problems in what the folder holds now, by severity',
      labelNames: ['severity'],
      registers,
      collect() {
        const { error, warning } = readings.problems();
        this.set({ severity: 'error' }, error);
        this.set({ severity: 'warning' }, warning);
      },
    });
    new Gauge({
      name: 'postern_workloads',
      help: 'Pods by state: enforced, open (bound to a cgroup, and no policy selects it), unbound (no cgroup here)',
      labelNames: ['state'],
      registers,
      collect() {
        this.reset();
        for (const [state, count] of readings.workloads()) this.set({ state }, count);
      },
    });
    new Counter({
      name: 'postern_drift_total',
      help: 'Times that something was put right that somebody else had changed: link (detached), program, pin, map (entries), guard (taken from its interface), order (a program attached before a guard)',
      labelNames: ['what'],
      registers,
      collect() {
        this.reset();
        for (const [what, count] of readings.drift()) this.inc({ what }, count);
      },
    });
    new Gauge({
      name: 'postern_attached_timestamp_seconds',
      help: 'Since when programs have been attached without a gap, whatever became of the agent; none where nothing is pinned',
      registers,
      collect() {
        this.reset();
        const ms = readings.since();
        if (ms === null) this.remove();
        else this.set(ms / 1000);
      },
    });
    this.#takeover = new Gauge({
      name: 'postern_takeover_duration_seconds',
      help: "From the agent's start until it had taken over what an earlier one enforced; 0 where there was nothing to take over",
      registers,
    });
    new Gauge({
      name: 'postern_ready',
      help: '1: everything was read whole once and is enforced, and the kernel takes changes; what /readyz says',
      registers,
      collect() {
        this.set(Number(readings.isReady()));
      },
    });
    addSource(registers, readings);
    addGuards(registers, readings);
    new Gauge({
      name: 'postern_event_loop_delay_seconds',
      help: 'The longest that anything has kept the agent from all else since the last scrape',
      registers,
      collect() {
        this.set(readings.loopDelayMs() / 1000);
      },
    });
    this.#pod = new Histogram({
      name: 'postern_pod_enforce_seconds',
      help: "From seeing a pod's cgroup, or an address that a pod got, until the kernel enforces it",
      labelNames: ['seen'],
      buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
      registers,
    });
    this.#unknown = new Histogram({
      name: 'postern_pod_unknown_seconds',
      help: "From the appearance of a pod's cgroup until the pod's policy is enforced; until then --unknown decides",
      buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
      registers,
    });
    this.#guarded = new Histogram({
      name: 'postern_pod_guard_seconds',
      help: "From seeing a pod's first process until every way out of the pod has a guard; until then the programs at its cgroup judge alone",
      buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
      registers,
    });
    this.#apply = new Histogram({
      name: 'postern_apply_duration_seconds',
      help: 'From hearing of a change until the kernel enforces it',
      buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
      registers,
    });
  }

  observeTakeover(seconds: number): void {
    this.#takeover.set(seconds);
  }

  observeApply(seconds: number): void {
    this.#apply.observe(seconds);
  }

  observeUnknown(seconds: number): void {
    this.#unknown.observe(seconds);
  }

  observeGuarded(seconds: number): void {
    this.#guarded.observe(seconds);
  }

  observePod(seen: 'cgroup' | 'address', seconds: number): void {
    this.#pod.observe({ seen }, seconds);
  }
}

function addGuards(registers: Registry[], readings: Readings): void {
  new Gauge({
    name: 'postern_guards',
    help: "Interfaces at whose host's end a guard stands, by how it is attached: tcx, clsact",
    labelNames: ['mode'],
    registers,
    collect() {
      this.reset();
      for (const [mode, count] of readings.guards()?.modes ?? []) this.set({ mode }, count);
    },
  });
  new Gauge({
    name: 'postern_workloads_without_guard',
    help: 'Workloads with a way out at which no guard stands, by why; the programs at their cgroups hold them all the same',
    labelNames: ['why'],
    registers,
    collect() {
      this.reset();
      for (const [why, count] of readings.guards()?.unguarded ?? []) this.set({ why }, count);
    },
  });
  new Counter({
    name: 'postern_frames_before_guard_total',
    help: 'Frames that new pods sent before their guards stood there; those of sockets were judged by the programs at the cgroup',
    registers,
    collect() {
      this.reset();
      this.inc(readings.guards()?.framesBefore ?? 0);
    },
  });
}

/** What the source of objects says of itself, kind by kind. */
function addSource(registers: Registry[], readings: Readings): void {
  const gauge = (name: string, help: string, of: (status: SourceStatus) => number | undefined): void => {
    new Gauge({
      name: `postern_source_${name}`,
      help,
      labelNames: ['kind'],
      registers,
      collect() {
        this.reset();
        for (const status of readings.source()) {
          const value = of(status);
          if (value !== undefined) this.set({ kind: status.kind }, value);
        }
      },
    });
  };
  gauge('synced', '1: everything that there was has been heard of at least once', ({ synced }) => Number(synced));
  gauge('problem', '1: something stands in the way now; the log says what', ({ problem }) => Number(problem !== null));
  gauge('age_seconds', 'Since the source last showed that what is held is up to date', ({ heardMs }) =>
    heardMs === undefined ? undefined : (performance.now() - heardMs) / 1000,
  );
  const counter = (name: string, help: string, of: (status: SourceStatus) => number | undefined): void => {
    new Counter({
      name: `postern_source_${name}_total`,
      help,
      labelNames: ['kind'],
      registers,
      collect() {
        this.reset();
        for (const status of readings.source()) {
          const value = of(status);
          if (value !== undefined) this.inc({ kind: status.kind }, value);
        }
      },
    });
  };
  counter('read_bytes', 'Bytes of answers read from the source', ({ bytesRead }) => bytesRead);
  counter('relists', 'Times that everything was listed again', ({ relists }) => relists);
  counter('watch_errors', 'Watches that ended in an error', ({ watchErrors }) => watchErrors);
}
