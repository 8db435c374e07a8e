// SPDX-License-Identifier: Apache-2.0
// How does the API server say no? Status bodies of apimachinery (pkg/api/errors), by reason, with their own words.
import type { JsonObject } from './json.ts';

/** The names by which an error calls a resource. */
export interface Named {
  readonly group: string;
  readonly resource: string;
}

/** A refusal on its way to the client. */
export class Failure extends Error {
  readonly code: number;
  readonly reason: string;
  readonly details: JsonObject | null;
  readonly metadata: JsonObject;
  /** Sent as it is instead of a Status, as the filters before the API do. */
  readonly plain: string | null;
  readonly retryAfterS: number | null;

  constructor(
    code: number,
    reason: string,
    message: string,
    more: {
      readonly details?: JsonObject;
      readonly metadata?: JsonObject;
      readonly plain?: boolean;
      readonly retryAfterS?: number;
    } = {},
  ) {
    super(message);
    this.code = code;
    this.reason = reason;
    this.details = more.details ?? null;
    this.metadata = more.metadata ?? {};
    this.plain = more.plain === true ? message : null;
    this.retryAfterS = more.retryAfterS ?? null;
  }

  status(): JsonObject {
    return {
      kind: 'Status',
      apiVersion: 'v1',
      metadata: this.metadata,
      status: 'Failure',
      message: this.message,
      reason: this.reason,
      ...(this.details === null ? {} : { details: this.details }),
      code: this.code,
    };
  }
}

const details = ({ group, resource }: Named, name = ''): JsonObject => ({
  ...(name === '' ? {} : { name }),
  ...(group === '' ? {} : { group }),
  kind: resource,
});

export const qualified = ({ group, resource }: Named): string => (group === '' ? resource : `${resource}.${group}`);

/** What the mux answers to a path that nobody serves: a group that is not there, a CRD that was removed. */
export function noSuchPath(): Failure {
  return new Failure(404, 'NotFound', '404 page not found\n', { plain: true });
}

export function notFound(of: Named, name: string): Failure {
  return new Failure(404, 'NotFound', `${qualified(of)} "${name}" not found`, { details: details(of, name) });
}

export function alreadyExists(of: Named, name: string): Failure {
  return new Failure(409, 'AlreadyExists', `${qualified(of)} "${name}" already exists`, { details: details(of, name) });
}

export function conflict(of: Named, name: string, why?: string): Failure {
  const because = why ?? 'the object has been modified; please apply your changes to the latest version and try again';
  return new Failure(409, 'Conflict', `Operation cannot be fulfilled on ${qualified(of)} "${name}": ${because}`, {
    details: details(of, name),
  });
}

export function badRequest(message: string): Failure {
  return new Failure(400, 'BadRequest', message);
}

export function invalid(of: Named & { readonly kind: string }, name: string, causes: readonly Cause[]): Failure {
  const told = causes.map(({ field, message }) => `${field}: ${message}`);
  const all = told.length === 1 ? told.join() : `[${told.join(', ')}]`;
  const kind = of.group === '' ? of.kind : `${of.kind}.${of.group}`;
  return new Failure(422, 'Invalid', `${kind} "${name}" is invalid: ${all}`, {
    details: {
      ...details({ group: of.group, resource: of.kind }, name),
      causes: causes.map((cause) => ({ ...cause })),
    },
  });
}
export interface Cause {
  readonly field: string;
  readonly reason: string;
  readonly message: string;
}

export function unauthorized(): Failure {
  return new Failure(401, 'Unauthorized', 'Unauthorized');
}

export function expired(message: string, metadata: JsonObject = {}): Failure {
  return new Failure(410, 'Expired', message, { metadata });
}

/** cacher's NewTooLargeResourceVersionError: a version that this server has not reached. */
export function tooLargeResourceVersion(asked: number, current: number): Failure {
  return new Failure(504, 'Timeout', `Timeout: Too large resource version: ${asked}, current: ${current}`, {
    details: {
      causes: [{ reason: 'ResourceVersionTooLarge', message: 'Too large resource version' }],
      retryAfterSeconds: 1,
    },
    retryAfterS: 1,
  });
}

export function methodNotAllowed(): Failure {
  return new Failure(405, 'MethodNotAllowed', 'the server does not allow this method on the requested resource');
}

export function unsupportedMediaType(accepted: readonly string[]): Failure {
  return new Failure(
    415,
    'UnsupportedMediaType',
    `the body of the request was in an unknown format - accepted media types include: ${accepted.join(', ')}`,
  );
}

export function notAcceptable(): Failure {
  return new Failure(
    406,
    'NotAcceptable',
    'only the following media types are accepted: application/json, application/yaml',
  );
}

export function internal(message: string): Failure {
  return new Failure(500, 'InternalError', `Internal error occurred: ${message}`, {
    details: { causes: [{ message }] },
  });
}

/** authorizer's refusal, as kube-apiserver words it (responsewriters/errors.go). */
export function forbidden(
  user: string,
  asked: Named & {
    readonly verb: string;
    readonly namespace: string | null;
    readonly name: string | null;
    readonly subresource: string | null;
  },
): Failure {
  const resource = asked.subresource === null ? asked.resource : `${asked.resource}/${asked.subresource}`;
  const where = asked.namespace === null ? 'at the cluster scope' : `in the namespace "${asked.namespace}"`;
  const what = asked.name === null ? qualified(asked) : `${qualified(asked)} "${asked.name}"`;
  return new Failure(
    403,
    'Forbidden',
    `${what} is forbidden: User "${user}" cannot ${asked.verb} resource "${resource}" in API group "${asked.group}" ${where}`,
    { details: details(asked, asked.name ?? '') },
  );
}

/** For a path that is no resource. */
export function forbiddenPath(user: string, verb: string, path: string): Failure {
  return new Failure(403, 'Forbidden', `forbidden: User "${user}" cannot ${verb} path "${path}"`, { details: {} });
}
