// SPDX-License-Identifier: Apache-2.0
// Does the event loop turn? Everything that the agent does is done there: one that no longer comes to its timers does nothing else.

/** A list of 50,000 pods is decoded in pieces; no turn is ever so long. */
const STUCK_MS = 10_000;
const TICK_MS = 500;

export class Watchdog {
  readonly #nowMs: () => number;
  readonly #timer: NodeJS.Timeout;
  #tickedMs: number;
  #longestMs = 0;

  constructor(nowMs: () => number = () => performance.now()) {
    this.#nowMs = nowMs;
    this.#tickedMs = nowMs();
    this.#timer = setInterval(() => this.tick(), TICK_MS);
    this.#timer.unref();
  }

  tick(): void {
    this.#longestMs = Math.max(this.#longestMs, this.#lateMs());
    this.#tickedMs = this.#nowMs();
  }

  /** False: sockets are served (or this would not be asked), but timers have not been for ten seconds. */
  isAlive(): boolean {
    return this.#lateMs() < STUCK_MS;
  }

  /** The longest that the loop has kept its timers waiting since this was last asked, in ms. */
  takeLongestMs(): number {
    const longest = Math.max(this.#longestMs, this.#lateMs());
    this.#longestMs = 0;
    return longest;
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #lateMs(): number {
    return Math.max(0, this.#nowMs() - this.#tickedMs - TICK_MS);
  }
}
