// SPDX-License-Identifier: Apache-2.0
// The little of the Kubernetes API that status, Leases and Events ask for, with failures as data: none of them may stop the agent.
import type { KubeApi as Connection, Method } from '../kube/connection.ts';
import { AnswerError, KubeError } from '../kube/errors.ts';

/** What is asked of a connection. Rejects with KubeError where it is refused. */
export type KubeApi = Pick<Connection, 'request'>;

/** Milliseconds since 1970, of this machine; other machines' clocks are never compared with it. */
export interface Clock {
  now(): number;
}

export const MACHINE: Clock = { now: () => Date.now() };

/** RFC 7386. */
export const MERGE_PATCH = 'application/merge-patch+json';

export type Reply =
  | { readonly ok: true; readonly body: Readonly<Record<string, unknown>> }
  | {
      readonly ok: false;
      /** HTTP status; 0: no answer. */
      readonly status: number;
      readonly message: string;
      /** What a 429 asks to be waited; null: nothing said. */
      readonly retryAfterMs: number | null;
    };

/** One request. Never rejects for what the world does; an answer that is no object is one without fields. */
export async function ask(
  api: KubeApi,
  method: Method,
  path: string,
  { body, query }: { readonly body?: unknown; readonly query?: Readonly<Record<string, string>> } = {},
): Promise<Reply> {
  const sent = {
    ...(body === undefined ? {} : { body }),
    ...(query === undefined ? {} : { query }),
    ...(method === 'PATCH' ? { contentType: MERGE_PATCH } : {}),
  };
  try {
    const value = await (await api.request(method, path, sent)).json();
    return { ok: true, body: isRecord(value) ? value : {} };
  } catch (error) {
    if (error instanceof AnswerError) {
      const { status, message, retryAfterMs } = error;
      return { ok: false, status, message, retryAfterMs };
    }
    if (error instanceof KubeError) return { ok: false, status: 0, message: error.message, retryAfterMs: null };
    throw error;
  }
}

export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
