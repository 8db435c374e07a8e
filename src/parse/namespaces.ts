// SPDX-License-Identifier: Apache-2.0
// Which namespaces are there, where a folder need not name them? One for each that an object is in, with its name as its only label.
import type { Namespace } from '../model/objects.ts';
import { namespaceOf } from './cluster-objects.ts';

/** `declared`, and a namespace for each name of `used` that is not among them, in the order of names. */
export function withImplicitNamespaces(declared: readonly Namespace[], used: Iterable<string>): Namespace[] {
  const known = new Set(declared.map(({ name }) => name));
  const implied = [...new Set(used)].filter((name) => !known.has(name)).sort();
  return [...declared, ...implied.map((name) => namespaceOf(name))];
}
