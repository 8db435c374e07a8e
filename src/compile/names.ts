// SPDX-License-Identifier: Apache-2.0
// Which patterns match a name? A class is the set of all that do, of whatever rulesets here; the longest pattern that matches a name tells
// its class, so the patterns themselves are the trie. Knows no ports and no rulesets.

import { idOf } from '../model/hash.ts';
import { type NamePattern, WILDCARD, wildcardsOver } from '../model/name.ts';
import type { Id } from '../model/tables.ts';

/** All patterns that match some name, sorted; never none. */
export interface NameClass {
  readonly id: Id;
  readonly patterns: readonly NamePattern[];
}

export interface NameTrie {
  /** The class of a name for which this is the longest pattern that matches; an exact one is longer than any wildcard. */
  readonly byPattern: ReadonlyMap<NamePattern, NameClass>;
  readonly classes: ReadonlyMap<Id, NameClass>;
  /** Two classes with one id: nothing may be written. */
  readonly clash: boolean;
  /** null: no pattern matches. */
  readonly lookUp: (name: string) => NameClass | null;
}

/** `before` is given back where it is of the same patterns. */
export function nameTrie(patterns: ReadonlySet<NamePattern>, before?: NameTrie): NameTrie {
  if (before?.byPattern.size === patterns.size && patterns.isSubsetOf(new Set(before.byPattern.keys()))) return before;
  const byPattern = new Map<NamePattern, NameClass>();
  const classes = new Map<Id, NameClass>();
  let clash = false;
  for (const pattern of patterns) {
    const below = pattern.startsWith(WILDCARD) ? pattern.slice(WILDCARD.length) : pattern;
    const covering = [pattern, ...wildcardsOver(below).filter((wildcard) => patterns.has(wildcard))].sort();
    const id = idOf(`name class ${covering.join(' ')}`);
    clash ||= classes.has(id);
    const found: NameClass = { id, patterns: covering };
    classes.set(id, found);
    byPattern.set(pattern, found);
  }
  return {
    ...{ byPattern, classes, clash },
    lookUp(name) {
      const longest = [name, ...wildcardsOver(name)].find((pattern) => byPattern.has(pattern));
      return longest === undefined ? null : (byPattern.get(longest) ?? null);
    },
  };
}
