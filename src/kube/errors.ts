// SPDX-License-Identifier: Apache-2.0
// Every way in which the API server, or the road to it, can fail. `code` is stable; what an answer says of itself is kept.

export type KubeErrorCode =
  /** The kubeconfig, or the account of the pod, cannot be used. Waiting does not mend it. */
  | 'CONFIG'
  /** No credentials could be had: a plug-in failed, a token file is gone. */
  | 'CREDENTIALS'
  /** 401, after the credentials were read anew. */
  | 'UNAUTHORIZED'
  /** 403. */
  | 'FORBIDDEN'
  /** 404. */
  | 'NOT_FOUND'
  /** 409, `reason` says which: `Conflict` or `AlreadyExists`. */
  | 'CONFLICT'
  /** 410: this resourceVersion, or this page of a list, is no longer there. */
  | 'GONE'
  /** 400, 422 and every other refusal of what was asked. */
  | 'REFUSED'
  /** 429. */
  | 'TOO_MANY_REQUESTS'
  /** 5xx. */
  | 'SERVER_ERROR'
  /** No connection, or one that broke or fell silent. */
  | 'UNREACHABLE'
  /** A connection, but not to whom it should be: TLS refused. */
  | 'UNTRUSTED'
  /** What was answered is not what the API answers. */
  | 'BAD_ANSWER';

export class KubeError extends Error {
  override readonly name: string = 'KubeError';
  readonly code: KubeErrorCode;
  constructor(code: KubeErrorCode, message: string, cause?: unknown) {
    super(message, cause === undefined ? {} : { cause });
    this.code = code;
  }
}

/** meta/v1 Status, as far as it is read. */
export interface Status {
  readonly code: number;
  /** One word of meta/v1 StatusReason, such as `Expired`; '' where the answer was no Status. */
  readonly reason: string;
  readonly message: string;
  /** What is asked to be waited; null: nothing said. */
  readonly retryAfterMs: number | null;
}

/** An answer of status 400 or more, or an ERROR in a watch. */
export class AnswerError extends KubeError {
  override readonly name = 'AnswerError';
  readonly status: number;
  readonly reason: string;
  readonly retryAfterMs: number | null;
  constructor(code: KubeErrorCode, status: Status) {
    super(code, status.message);
    this.status = status.code;
    this.reason = status.reason;
    this.retryAfterMs = status.retryAfterMs;
  }
}

/** 403: says what was not allowed, so that it can be granted. */
export class ForbiddenError extends AnswerError {
  readonly verb: string;
  /** `pods`, `egresspolicies.postern.dev`, `clusternetworkpolicies.policy.networking.k8s.io/status`. */
  readonly resource: string;
  constructor(status: Status, verb: string, resource: string) {
    super('FORBIDDEN', status);
    this.verb = verb;
    this.resource = resource;
  }
}

/** The error that a Status comes to; `asked` is told where access is refused. */
export function answerError(status: Status, asked: { readonly verb: string; readonly resource: string }): AnswerError {
  if (status.code === 403) return new ForbiddenError(status, asked.verb, asked.resource);
  return new AnswerError(codeOf(status), status);
}

function codeOf({ code }: Status): KubeErrorCode {
  switch (code) {
    case 401:
      return 'UNAUTHORIZED';
    case 404:
      return 'NOT_FOUND';
    case 409:
      return 'CONFLICT';
    case 410:
      return 'GONE';
    case 429:
      return 'TOO_MANY_REQUESTS';
    default:
      return code >= 500 ? 'SERVER_ERROR' : 'REFUSED';
  }
}

/** The body of a refusal: a Status, or whatever stands in its place (a proxy's page). */
export function readStatus(httpStatus: number, body: string, retryAfter: string | undefined): Status {
  const seconds = /^\d+$/.test(retryAfter ?? '') ? Number(retryAfter) : null;
  const fallback = { code: httpStatus, reason: '', retryAfterMs: seconds === null ? null : seconds * 1000 };
  let parsed: unknown;
  try {
    parsed = JSON.parse(body);
  } catch {
    parsed = null;
  }
  const status = statusIn(parsed);
  if (status === null) {
    const text = body.trim().split('\n')[0] ?? '';
    return { ...fallback, message: `HTTP status ${httpStatus}${text === '' ? '' : `: ${text.slice(0, 200)}`}` };
  }
  return { ...status, code: httpStatus, retryAfterMs: fallback.retryAfterMs ?? status.retryAfterMs };
}

/** A decoded meta/v1 Status, else null. */
export function statusIn(value: unknown): Status | null {
  if (typeof value !== 'object' || value === null) return null;
  const { kind, code, reason, message, details } = value as Record<string, unknown>;
  if (kind !== 'Status') return null;
  const seconds = (details as { retryAfterSeconds?: unknown } | null | undefined)?.retryAfterSeconds;
  return {
    code: typeof code === 'number' ? code : 500,
    reason: typeof reason === 'string' ? reason : '',
    message: typeof message === 'string' && message !== '' ? message : 'no message',
    retryAfterMs: typeof seconds === 'number' && seconds > 0 ? seconds * 1000 : null,
  };
}
