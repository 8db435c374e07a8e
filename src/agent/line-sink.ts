// SPDX-License-Identifier: Apache-2.0
// Writes lines to a descriptor without ever making the writer wait: what a slow reader has not taken is held, up to a bound, and
// beyond it lost and counted. A reader that is gone is an end, not an error. Knows nothing of what the lines say.
import { write } from 'node:fs';

/** So much is handed over at once. */
const CHUNK_BYTES = 64 * 1024;
const RETRY_MS = 10;

export class LineSink {
  readonly #fd: number;
  readonly #maxBytes: number;
  #lines: Buffer[] = [];
  #bytes = 0;
  #chunk: Buffer = Buffer.alloc(0);
  #isWriting = false;
  #isGone = false;
  #lost = 0;
  #onEmpty: (() => void)[] = [];

  constructor(fd: number, maxBytes: number) {
    this.#fd = fd;
    this.#maxBytes = maxBytes;
  }

  /** Lines lost since the start. */
  get lost(): number {
    return this.#lost;
  }

  write(line: string): void {
    const bytes = Buffer.from(line);
    if (this.#isGone || this.#bytes + bytes.length > this.#maxBytes) {
      this.#lost += 1;
      return;
    }
    this.#lines.push(bytes);
    this.#bytes += bytes.length;
    this.#pump();
  }

  /** Resolves once everything was taken, or the reader is gone, or `withinMs` are over. */
  flush(withinMs: number): Promise<void> {
    if (this.#bytes === 0) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, withinMs);
      this.#onEmpty.push(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  #pump(): void {
    if (this.#isWriting) return;
    if (this.#chunk.length === 0) this.#chunk = this.#next();
    if (this.#chunk.length === 0) {
      for (const resolve of this.#onEmpty) resolve();
      this.#onEmpty = [];
      return;
    }
    this.#isWriting = true;
    write(this.#fd, this.#chunk, (error, written) => {
      this.#isWriting = false;
      if (error === null) {
        this.#bytes -= written;
        this.#chunk = this.#chunk.subarray(written);
        this.#pump();
      } else if (error.code === 'EAGAIN') {
        setTimeout(() => this.#pump(), RETRY_MS);
      } else {
        this.#end();
      }
    });
  }

  #next(): Buffer {
    let count = 0;
    for (let bytes = 0; count < this.#lines.length && bytes < CHUNK_BYTES; count += 1) {
      bytes += this.#lines[count]?.length ?? 0;
    }
    return Buffer.concat(this.#lines.splice(0, count));
  }

  #end(): void {
    this.#isGone = true;
    this.#lost += this.#lines.length + (this.#chunk.length > 0 ? 1 : 0);
    this.#lines = [];
    this.#bytes = 0;
    this.#chunk = Buffer.alloc(0);
    this.#pump();
  }
}
