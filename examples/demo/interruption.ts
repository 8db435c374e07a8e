// SPDX-License-Identifier: Apache-2.0
// Was the demo told to end? Whatever is being made is finished first, so that it can be removed; only waiting is cut short.

export class Interrupted extends Error {
  override readonly name = 'Interrupted';
  readonly code = 'INTERRUPTED';
}

const cause = Promise.withResolvers<never>();
// Nobody may be waiting at that moment.
cause.promise.catch(() => undefined);
let isOver = false;

function interrupt(): void {
  isOver = true;
  cause.reject(new Interrupted('interrupted'));
}

/** From here on signals, a terminal that goes away and the end of the parent interrupt. A second signal changes nothing. */
export function listenForInterruption(): void {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, interrupt);
  process.on('disconnect', interrupt);
  // It went while this was loading. (undefined: started without a parent that waits.)
  if (process.connected === false) interrupt();
  for (const out of [process.stdout, process.stderr]) out.on('error', interrupt);
}

/** Throws Interrupted if so. */
export function checkInterruption(): void {
  if (isOver) throw new Interrupted('interrupted');
}

/** What `waiting` gives; rejects with Interrupted as soon as that comes. For what may be abandoned only. */
export function unlessInterrupted<T>(waiting: Promise<T>): Promise<T> {
  return Promise.race([cause.promise, waiting]);
}
