// SPDX-License-Identifier: Apache-2.0
// A cluster in this process, as a source of objects: what is put is heard of at once, and tests say what it is short of.
import type { Host } from '../../src/model/objects.ts';
import type { ObjectSource, SourceStatus } from '../../src/source/source.ts';
import { type Contents, ObjectStore } from '../../src/source/store.ts';
import type { ClusterObjects, KubeObject } from './kubelet.ts';

export class FakeCluster implements ObjectSource, ClusterObjects {
  readonly #objects = new Map<string, KubeObject>();
  readonly #store = new ObjectStore(null);
  readonly #host: Host;
  #onContents: ((contents: Contents, heardMs: number) => void) | null = null;
  /** false: it is there, and tells nothing. */
  #isSynced: boolean;
  /** What stands in its way. */
  problem: string | null = null;

  constructor(host: Host, isSynced = true) {
    this.#host = host;
    this.#isSynced = isSynced;
  }

  put(object: KubeObject): void {
    this.#objects.set(keyOf(object), object);
    this.#tell();
  }

  delete(object: KubeObject): void {
    this.#objects.delete(keyOf(object));
    this.#tell();
  }

  /** From now on all that is there is told. */
  sync(): void {
    this.#isSynced = true;
    this.#tell();
  }

  start(onContents: (contents: Contents, heardMs: number) => void): void {
    this.#onContents = onContents;
    this.#tell();
  }

  stop(): Promise<void> {
    this.#onContents = null;
    return Promise.resolve();
  }

  status(): readonly SourceStatus[] {
    return [{ kind: 'Pod', synced: this.#isSynced, problem: this.problem }];
  }

  #tell(): void {
    if (this.#onContents === null || !this.#isSynced) return;
    const heardMs = performance.now();
    const files = [...this.#objects].map(([key, object]) => {
      const text = JSON.stringify(object);
      return { path: `${key}.json`, text, hash: text };
    });
    this.#onContents(this.#store.update({ files, unreadable: [] }, this.#host), heardMs);
  }
}

function keyOf({ kind, metadata }: KubeObject): string {
  return `${kind}.${metadata.namespace ?? ''}.${metadata.name}`;
}
