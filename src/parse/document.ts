// SPDX-License-Identifier: Apache-2.0
// What does a file of YAML or JSON say, object by object, and what is wrong with it? One file in, one entry an object out.
// Knows no other file (duplicates and clashes across files: folder.ts), no kernel, and not what was valid before.
import type { EndpointSlice, Namespace, Node, Pod, Policy, Problem, Service } from '../model/objects.ts';

export interface SourceFile {
  /** As problems shall name it. */
  readonly path: string;
  readonly text: string;
}

interface Read<K, V> {
  /**
   * `Kind/namespace/name`, cluster-scoped `Kind/name`. null: not an object that Postern knows (`valid`), or one that could not
   * be told apart (not `valid`: whatever this file held before may be what is broken now).
   */
  readonly key: string | null;
  readonly kind: K;
  /** null: invalid, or nothing to do with egress (a NetworkPolicy for ingress alone, ClusterNetworkPolicy for now). */
  readonly value: V | null;
  /** No problem of severity error. */
  readonly valid: boolean;
  /** For an invalid policy whose subject can be read: isolates that subject and allows nothing. */
  readonly standIn: Policy | null;
  readonly problems: readonly Problem[];
  /** Where the object begins, 1-based. */
  readonly position: { readonly file: string; readonly line: number; readonly column: number };
  /** SHA-256 (hex) of the object's content, whatever its spelling in YAML. */
  readonly hash: string;
}

export type Parsed =
  | Read<'Namespace', Namespace>
  | Read<'Node', Node>
  | Read<'Pod', Pod>
  | Read<'Service', Service>
  | Read<'EndpointSlice', EndpointSlice>
  | Read<'NetworkPolicy' | 'EgressPolicy' | 'ClusterEgressPolicy', Policy>
  | Read<'ClusterNetworkPolicy', never>
  /** Of a kind that Postern has no part in, or unreadable. */
  | Read<null, never>;

/**
 * Every object of a file, `kind: List` unfolded, empty documents left out. Total: whatever the text, problems are data.
 */
export declare function readDocuments(file: SourceFile): Parsed[];
