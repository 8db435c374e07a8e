// SPDX-License-Identifier: Apache-2.0
// An API server as a source of objects. Joins what each kind's reflector hears, and tells of it when all is known, a burst at a time.
// Writes nothing to the cluster; knows not what becomes of what it tells.
import { type DnsSettings, readHost } from '../source/host.ts';
import type { ObjectSource, SourceStatus } from '../source/source.ts';
import type { KeptObject, StateDir } from '../source/state.ts';
import type { Contents } from '../source/store.ts';
import { type Access, loadAccess } from './access.ts';
import { Cluster } from './cluster.ts';
import { Connection, type KubeApi } from './connection.ts';
import { PACE, type Pace } from './pace.ts';
import type { PolicyEntry } from './policy-entry.ts';
import { Reflector } from './reflector.ts';
import { resources } from './resources.ts';

export interface KubeSourceOptions {
  /** A kubeconfig file; null: $KUBECONFIG, else the account of the pod, else ~/.kube/config. */
  readonly kubeconfig: string | null;
  /** null: the current one. */
  readonly context: string | null;
  /** The Node object that is this machine. */
  readonly nodeName: string | null;
  readonly dns?: DnsSettings;
  /** A StateDir of its own: what a cluster said must not hold for a folder. null: nothing is remembered. */
  readonly state: StateDir | null;
  /** What `state` kept from an earlier run. */
  readonly kept: ReadonlyMap<string, readonly KeptObject[]>;
  readonly pace?: Pace;
}

/** The machine's own addresses and resolvers are looked at this often. */
const HOST_MS = 5000;

export class KubeSource implements ObjectSource {
  readonly #nodeName: string | null;
  readonly #dns: DnsSettings;
  readonly #pace: Pace;
  readonly #connection: Connection;
  readonly #cluster: Cluster;
  readonly #reflectors: readonly Reflector[];
  #onContents: (contents: Contents, heardMs: number) => void = () => undefined;
  #told: Contents | null = null;
  #timer: NodeJS.Timeout | null = null;
  #firstMs = 0;
  #hostTimer: NodeJS.Timeout | null = null;
  #isSynced = false;
  #isStopped = false;

  /** Rejects with KubeError CONFIG where the kubeconfig cannot be used; connects to nobody yet. */
  static async open(options: KubeSourceOptions): Promise<KubeSource> {
    return new KubeSource(options, await loadAccess(options));
  }

  /** Whether reaching the API server takes a program that is started for it. */
  readonly startsProgram: boolean;

  private constructor({ nodeName, dns = {}, state, kept, pace = PACE }: KubeSourceOptions, access: Access) {
    this.#nodeName = nodeName;
    this.#dns = dns;
    this.#pace = pace;
    this.#connection = new Connection(access);
    this.startsProgram = access.startsProgram;
    this.#cluster = new Cluster(state, kept, nodeName, () => this.#soon());
    this.#reflectors = resources.map(
      (resource) =>
        new Reflector(resource, this.#connection, this.#cluster.sink(resource.kind), pace, () => this.#soon()),
    );
  }

  /** For single objects: status, Leases, Events. Good until `stop`. */
  get api(): KubeApi {
    return this.#connection;
  }

  /** Every policy object, valid or not, with uid, generation and status as the API server has them; by `Kind/namespace/name`. */
  policies(): ReadonlyMap<string, PolicyEntry> {
    return this.#cluster.policyEntries();
  }

  start(onContents: (contents: Contents, heardMs: number) => void): void {
    this.#onContents = onContents;
    for (const reflector of this.#reflectors) reflector.start();
    this.#hostTimer = setInterval(() => this.#soon(), HOST_MS);
    this.#hostTimer.unref();
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    if (this.#hostTimer !== null) clearInterval(this.#hostTimer);
    await Promise.all(this.#reflectors.map((reflector) => reflector.stop()));
    this.#connection.close();
  }

  status(): readonly SourceStatus[] {
    return this.#reflectors.map((reflector) => reflector.status());
  }

  save(): void {
    if (this.#isSynced) this.#cluster.save();
  }

  /** A burst of changes is one: told when it has been quiet, or when the first of them has waited long enough. */
  #soon(): void {
    if (this.#isStopped) return;
    const now = performance.now();
    const [quietMs, atMostMs] = this.#pace.quietMs;
    if (this.#timer === null) this.#firstMs = now;
    else clearTimeout(this.#timer);
    const waitMs = Math.max(0, Math.min(quietMs, this.#firstMs + atMostMs - now));
    this.#timer = setTimeout(() => this.#tell(), waitMs);
  }

  #tell(): void {
    this.#timer = null;
    // Half of the objects would be another cluster: without a Deny, without a namespace's labels.
    this.#isSynced ||= this.#reflectors.every((reflector) => reflector.status().synced);
    if (!this.#isSynced) return;
    const contents = this.#cluster.contents(readHost(this.#nodeName, this.#dns));
    if (contents === this.#told) return;
    this.#told = contents;
    this.#onContents(contents, this.#firstMs);
  }
}
