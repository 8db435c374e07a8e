// SPDX-License-Identifier: Apache-2.0
// How do bytes of an answer reach the client? Counted, no faster than it reads, and broken as a fault wants it. Knows no meaning.
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { TLSSocket } from 'node:tls';
import { createGzip, type Gzip } from 'node:zlib';
import type { Trouble } from './faults.ts';

const GARBAGE = Buffer.from('{"type":"MODIFIED","object":{"kind":"Pod","meta\n');

export class Outlet {
  /** Bytes of body handed over. */
  bytes = 0;
  code = 0;
  readonly response: ServerResponse;
  readonly closed: AbortSignal;
  readonly #troubles: readonly Trouble[];
  #gzip: Gzip | null = null;
  #stalled = false;
  #garbageDone = false;

  constructor(response: ServerResponse, troubles: readonly Trouble[]) {
    this.response = response;
    this.#troubles = troubles;
    const closed = new AbortController();
    this.closed = closed.signal;
    response.on('close', () => closed.abort());
    response.on('error', () => closed.abort());
  }

  start(code: number, headers: Readonly<Record<string, string>>, compress = false): void {
    this.code = code;
    const zip = compress && this.#troubles.length === 0;
    this.response.writeHead(code, {
      ...headers,
      ...(zip ? { 'content-encoding': 'gzip', vary: 'Accept-Encoding' } : {}),
    });
    if (zip) {
      const gzip = createGzip({ level: 1 });
      this.#gzip = gzip;
      gzip.on('data', (chunk: Buffer) => {
        this.bytes += chunk.length;
        if (this.response.write(chunk)) return;
        gzip.pause();
        this.response.once('drain', () => gzip.resume());
      });
      this.closed.addEventListener('abort', () => gzip.destroy());
    } else this.response.flushHeaders();
  }

  /** Resolves when the client can take more; at once where it is gone. */
  async write(chunk: Buffer): Promise<void> {
    if (this.#stalled) await this.#never();
    if (this.closed.aborted) return;
    if (this.#gzip !== null) {
      if (!this.#gzip.write(chunk)) await once(this.#gzip, 'drain', { signal: this.closed }).catch(() => undefined);
      return;
    }
    for (const trouble of this.#troubles) {
      if (trouble.kind === 'cut' && this.bytes + chunk.length > trouble.afterBytes) {
        await this.#send(chunk.subarray(0, Math.max(0, trouble.afterBytes - this.bytes)));
        if (trouble.how === 'end') this.response.end();
        else this.reset();
        return await this.#never();
      }
      if (trouble.kind === 'stall' && this.bytes + chunk.length > trouble.afterBytes) {
        await this.#send(chunk.subarray(0, Math.max(0, trouble.afterBytes - this.bytes)));
        return await this.#never();
      }
      if (trouble.kind === 'garbage' && this.bytes >= trouble.afterBytes && !this.#garbageDone) {
        this.#garbageDone = true;
        await this.#send(GARBAGE);
      }
      if (trouble.kind === 'slow') {
        const piece = Math.max(1, Math.ceil(trouble.bytesPerSecond / 20));
        for (let at = 0; at < chunk.length && !this.closed.aborted; at += piece) {
          await this.#send(chunk.subarray(at, at + piece));
          await sleep(50, undefined, { signal: this.closed }).catch(() => undefined);
        }
        return;
      }
    }
    await this.#send(chunk);
  }

  async end(): Promise<void> {
    if (this.#stalled) await this.#never();
    if (this.closed.aborted) return;
    if (this.#gzip !== null) {
      const ended = once(this.#gzip, 'end', { signal: this.closed });
      this.#gzip.end();
      await ended.catch(() => undefined);
    }
    this.response.end();
  }

  /** Tears the connection down. */
  reset(): void {
    const { socket } = this.response;
    // A TLS socket has no handle of its own that could send a RST.
    if (socket instanceof TLSSocket) socket.destroy();
    else socket?.resetAndDestroy();
    this.response.destroy();
  }

  /** From now on nothing is sent, and the connection stays. */
  stall(): void {
    this.#stalled = true;
  }

  /** Ends the body as if all were said. */
  finish(): void {
    this.response.end();
  }

  /** Sends bytes as they are, past every fault. */
  inject(bytes: string): void {
    this.response.write(bytes);
    this.bytes += Buffer.byteLength(bytes);
  }

  /** Until the client is gone. */
  async #never(): Promise<void> {
    if (!this.closed.aborted) await once(this.closed, 'abort');
  }

  async #send(chunk: Buffer): Promise<void> {
    if (chunk.length === 0 || this.closed.aborted) return;
    this.bytes += chunk.length;
    if (!this.response.write(chunk)) await once(this.response, 'drain', { signal: this.closed }).catch(() => undefined);
  }
}
