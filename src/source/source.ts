// SPDX-License-Identifier: Apache-2.0
// Where do objects come from? The one thing that the agent knows of a folder of YAML and of an API server alike.
import type { Contents } from './store.ts';

/** How far a kind of objects (or a folder) has been read. Asked for now and then; costs nothing. */
export interface SourceStatus {
  /** `Pod`, `NetworkPolicy`, …; `Folder` where it is not read by kinds. */
  readonly kind: string;
  /** Everything that was there has been heard of at least once; stays true while the source is away. A kind that the source does not know (its CRD is missing) is synced and empty. */
  readonly synced: boolean;
  /** What stands in the way now, as a sentence that names verb and resource where access is refused; null: nothing. */
  readonly problem: string | null;
  /** Of a problem that all kinds have alike (the API server is away): a code that is the same for each, and the sentence without the kind. */
  readonly common?: { readonly code: string; readonly message: string };
  /** When the source last showed that this is up to date (`performance.now()`); absent: not known. */
  readonly heardMs?: number;
  /** Totals since the start; absent: not counted. */
  readonly bytesRead?: number;
  readonly relists?: number;
  readonly watchErrors?: number;
}

export interface ObjectSource {
  /**
   * Calls back with everything that holds, first when all of it is known, then after each change that makes a difference, until
   * `stop`. `heardMs` is when the change was heard of (`performance.now()`). May call back before it returns. Rejects only for
   * what waiting won't mend (a kubeconfig that cannot be read): whatever may pass is waited for and told by `status`.
   */
  start(onContents: (contents: Contents, heardMs: number) => void): Promise<void> | void;
  stop(): Promise<void>;
  status(): readonly SourceStatus[];
  /** What was called back with is enforced: keep the last valid versions for the next start. Throws StateError; is called again at the next change. */
  save?(): void;
}
