// SPDX-License-Identifier: Apache-2.0
// What goes wrong on purpose, and with which requests? Data that tests give and the server asks; does nothing by itself.
import type { Asked } from './requests.ts';

/** Which requests: all that agree with every field given. */
export interface Where {
  readonly verb?: string;
  readonly group?: string;
  readonly resource?: string;
  readonly path?: string;
  readonly when?: (asked: Asked) => boolean;
}

export type Trouble =
  /** Answers with this status and a body as the real server words it. 429 carries Retry-After. */
  | { readonly kind: 'status'; readonly code: number; readonly retryAfterS?: number; readonly body?: string }
  /** Answers, but later. */
  | { readonly kind: 'delay'; readonly ms: number }
  /** Half-open: takes the request and never says a word. */
  | { readonly kind: 'silence' }
  /** Tears the connection down without an answer. */
  | { readonly kind: 'reset' }
  /** Breaks off after so many bytes of body: by tearing the connection down, or as if this had been the end. */
  | { readonly kind: 'cut'; readonly afterBytes: number; readonly how: 'reset' | 'end' }
  /** Stops after so many bytes of body and keeps the connection. */
  | { readonly kind: 'stall'; readonly afterBytes: number }
  /** Puts a line that is no JSON before the next line that begins after so many bytes. */
  | { readonly kind: 'garbage'; readonly afterBytes: number }
  /** Trickles. */
  | { readonly kind: 'slow'; readonly bytesPerSecond: number }
  /** A server behind its peers: what may be answered from its cache (resourceVersion=0) is as old as this. */
  | { readonly kind: 'stale'; readonly resourceVersion: number };

/** `times`: for so many requests only. */
export type Fault = Trouble & { readonly where?: Where; readonly times?: number };

export function concerns(where: Where | undefined, asked: Asked): boolean {
  if (where === undefined) return true;
  if (where.verb !== undefined && where.verb !== asked.resource?.verb) return false;
  if (where.group !== undefined && where.group !== asked.resource?.group) return false;
  if (where.resource !== undefined && where.resource !== asked.resource?.resource) return false;
  if (where.path !== undefined && where.path !== asked.path) return false;
  return where.when === undefined || where.when(asked);
}

export class Faults {
  readonly #all = new Set<{ readonly fault: Fault; left: number }>();

  /** In force until the function returned is called, or `times` is used up. */
  add(fault: Fault): () => void {
    const one = { fault, left: fault.times ?? Number.POSITIVE_INFINITY };
    this.#all.add(one);
    return () => this.#all.delete(one);
  }

  clear(): void {
    this.#all.clear();
  }

  /** Those that hit this request; each is one time used. */
  of(asked: Asked): readonly Trouble[] {
    const hit: Trouble[] = [];
    for (const one of this.#all) {
      if (!concerns(one.fault.where, asked)) continue;
      hit.push(one.fault);
      one.left--;
      if (one.left <= 0) this.#all.delete(one);
    }
    return hit;
  }
}
