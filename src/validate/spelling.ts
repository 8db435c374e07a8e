// SPDX-License-Identifier: Apache-2.0
// Which of the words that would be right did the author mean? Knows words only.

/** Changes of one character (one lost, added, replaced, or two swapped) from `a` to `b`, case ignored; more than `most` is told as more. */
export function distance(a: string, b: string, most: number): number {
  const from = a.toLowerCase();
  const to = b.toLowerCase();
  if (Math.abs(from.length - to.length) > most) return most + 1;
  let before: number[] = [];
  let last = Array.from({ length: to.length + 1 }, (_, j) => j);
  for (let i = 1; i <= from.length; i++) {
    const row = [i];
    for (let j = 1; j <= to.length; j++) {
      const replaced = (last[j - 1] ?? 0) + (from[i - 1] === to[j - 1] ? 0 : 1);
      let least = Math.min(replaced, (last[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1);
      if (i > 1 && j > 1 && from[i - 1] === to[j - 2] && from[i - 2] === to[j - 1]) {
        least = Math.min(least, (before[j - 2] ?? 0) + 1);
      }
      row.push(least);
    }
    before = last;
    last = row;
  }
  return last[to.length] ?? 0;
}

/** The word of `words` that `word` is a likely misspelling of (a third of its letters at most, and two), or null. */
export function nearest(word: string, words: Iterable<string>): string | null {
  const most = Math.min(2, Math.floor(word.length / 3));
  let best: string | null = null;
  let least = most + 1;
  for (const candidate of words) {
    const changes = distance(word, candidate, most);
    if (changes < least) {
      least = changes;
      best = candidate;
    }
  }
  return best;
}

/** `a, b or c`. */
export function words(list: readonly string[]): string {
  return list.length > 1 ? `${list.slice(0, -1).join(', ')} or ${list.at(-1)}` : (list[0] ?? '');
}
