// SPDX-License-Identifier: Apache-2.0
// The little of the Kubernetes API that status, Leases and Events ask for, with failures as data: none of them may stop the agent.

/** What is asked of a connection; src/kube has one. Rejects (or answers a status of 400 or more) where it is refused. */
export interface KubeApi {
  request(
    method: string,
    path: string,
    options?: {
      readonly query?: Readonly<Record<string, string>>;
      readonly body?: unknown;
      readonly contentType?: string;
      readonly signal?: AbortSignal;
    },
  ): Promise<{ readonly status: number; json(): Promise<unknown> }>;
}

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
  method: string,
  path: string,
  { body, query }: { readonly body?: unknown; readonly query?: Readonly<Record<string, string>> } = {},
): Promise<Reply> {
  const sent = {
    ...(body === undefined ? {} : { body }),
    ...(query === undefined ? {} : { query }),
    ...(method === 'PATCH' ? { contentType: MERGE_PATCH } : {}),
  };
  try {
    const answer = await api.request(method, path, sent);
    const value = await answer.json();
    const fields = isRecord(value) ? value : {};
    if (answer.status < 400) return { ok: true, body: fields };
    return { ok: false, status: answer.status, message: String(fields.message ?? ''), retryAfterMs: null };
  } catch (error) {
    if (!(error instanceof Error) || !('code' in error)) throw error;
    const { status, retryAfterMs } = error as { status?: unknown; retryAfterMs?: unknown };
    return {
      ok: false,
      status: typeof status === 'number' ? status : 0,
      message: error.message,
      retryAfterMs: typeof retryAfterMs === 'number' ? retryAfterMs : null,
    };
  }
}

export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
