// SPDX-License-Identifier: Apache-2.0
// How many entries may a map have, and which maps can be told so? Knows nothing of what is in them.
import {
  EVENTS_BYTES,
  MAX_COUNTERS,
  MAX_FLOWS,
  MAX_GUARDS,
  MAX_IDENTITIES,
  MAX_NETWORKS,
  MAX_PORTS,
  MAX_SELVES,
  MAX_SOURCES,
  MAX_VERDICTS,
  MAX_WORKLOADS,
} from '#build/generated/abi.ts';

/** By map, what it holds if nobody says otherwise: enough for 250 pods and 50,000 addresses on a node, and far beyond. docs/limits.md has the same. */
export const DEFAULT_SIZES: Readonly<Record<string, number>> = {
  workloads: MAX_WORKLOADS,
  identities: MAX_IDENTITIES,
  networks: MAX_NETWORKS,
  verdicts: MAX_VERDICTS,
  ports: MAX_PORTS,
  selves: MAX_SELVES,
  guards: MAX_GUARDS,
  sources: MAX_SOURCES,
  counters: MAX_COUNTERS,
  flows: MAX_FLOWS,
  events: EVENTS_BYTES,
};

/** A hash takes 16 bytes for each entry that it may have, whether it has it or not: 256 MiB. */
const MOST = 1 << 24;
/** A ring buffer is a power of two, and whole pages on every machine. */
const LEAST_EVENTS = 65536;
const MOST_EVENTS = 1 << 26;

/** `NAME=N`. What is wrong with it, and what to write instead, is a sentence. */
export function mapSize(text: string): { readonly map: string; readonly entries: number } | { readonly wrong: string } {
  const [, map = '', digits = ''] = /^([a-z]+)=(\d{1,10})$/.exec(text) ?? [];
  const usual = Object.hasOwn(DEFAULT_SIZES, map) ? DEFAULT_SIZES[map] : undefined;
  if (map === '') return { wrong: 'write NAME=N, such as identities=2000000' };
  if (usual === undefined)
    return { wrong: `there is no map ${map}: write one of ${Object.keys(DEFAULT_SIZES).join(', ')}` };
  const entries = Number(digits);
  if (map === 'events') {
    const isRight = entries >= LEAST_EVENTS && entries <= MOST_EVENTS && Number.isInteger(Math.log2(entries));
    return isRight
      ? { map, entries }
      : { wrong: `events has bytes, a power of two from ${LEAST_EVENTS} to ${MOST_EVENTS}: write events=${usual}` };
  }
  if (entries < 1 || entries > MOST) return { wrong: `${map} has 1 to ${MOST} entries: write ${map}=${usual}` };
  return { map, entries };
}
