// SPDX-License-Identifier: Apache-2.0
// A folder of YAML as a source of objects. Joins what the watch reads, what the store holds valid, and what the machine knows of itself.
import type { Host } from '../model/objects.ts';
import { Folder, FolderWatch, type Scan } from './folder.ts';
import { type DnsSettings, readHost } from './host.ts';
import type { ObjectSource, SourceStatus } from './source.ts';
import type { KeptObject, StateDir } from './state.ts';
import { type Contents, ObjectStore } from './store.ts';

export interface FolderSourceOptions {
  /** Absolute path. */
  readonly folder: string;
  /** The Node object that is this machine, or null. */
  readonly nodeName: string | null;
  readonly dns?: DnsSettings;
  readonly state: StateDir;
  /** What `state` kept from an earlier run. */
  readonly kept: ReadonlyMap<string, readonly KeptObject[]>;
}

export class FolderSource implements ObjectSource {
  readonly #nodeName: string | null;
  readonly #dns: DnsSettings;
  readonly #store: ObjectStore;
  readonly #watch: FolderWatch;
  #scan: Scan | null = null;
  #host: Host | null = null;
  #onContents: (contents: Contents, heardMs: number) => void = () => undefined;

  constructor({ folder, nodeName, dns = {}, state, kept }: FolderSourceOptions) {
    this.#nodeName = nodeName;
    this.#dns = dns;
    this.#store = new ObjectStore(state, kept);
    this.#watch = new FolderWatch(new Folder(folder), (scan, heardMs) => this.#take(scan, heardMs));
  }

  /** The folder is read, and called back with, before this returns. */
  start(onContents: (contents: Contents, heardMs: number) => void): void {
    this.#onContents = onContents;
    const heardMs = performance.now();
    this.#take(this.#watch.start(), heardMs);
  }

  stop(): Promise<void> {
    this.#watch.close();
    return Promise.resolve();
  }

  status(): readonly SourceStatus[] {
    // What is unreadable in it is told as problems of its contents, file by file.
    return [{ kind: 'Folder', synced: this.#scan !== null, problem: null }];
  }

  save(): void {
    this.#store.save();
  }

  /** A scan in which nothing is new is passed over. */
  #take(scan: Scan, heardMs: number): void {
    const host = readHost(this.#nodeName, this.#dns);
    const isSame =
      this.#scan !== null && equalScans(this.#scan, scan) && JSON.stringify(host) === JSON.stringify(this.#host);
    if (isSame) return;
    this.#scan = scan;
    this.#host = host;
    this.#onContents(this.#store.update(scan, host), heardMs);
  }
}

function equalScans(a: Scan, b: Scan): boolean {
  return (
    a.files.length === b.files.length &&
    a.files.every((file, index) => file.path === b.files[index]?.path && file.hash === b.files[index]?.hash) &&
    JSON.stringify([a.unreadable, a.unsettled]) === JSON.stringify([b.unreadable, b.unsettled])
  );
}
