// SPDX-License-Identifier: Apache-2.0
// The few verbs that status, Leases and Events use, in memory and without time: as kube-apiserver answers them, conflicts included.
import type { Answer, Method, RequestOptions } from '../../src/kube/connection.ts';
import { type AnswerError, answerError } from '../../src/kube/errors.ts';
import type { LiveObject } from '../../src/status/writer.ts';

export interface Stored {
  readonly metadata: Record<string, unknown>;
  readonly [field: string]: unknown;
}

export class FakeApi {
  readonly objects = new Map<string, Stored>();
  readonly log: { readonly method: Method; readonly path: string; readonly body: unknown }[] = [];
  /** Called before each request is carried out: throw to refuse it. */
  before: (method: Method, path: string) => void = () => undefined;
  #version = 0;

  put(path: string, object: Record<string, unknown>): Stored {
    this.#version += 1;
    const metadata = { ...(object.metadata as object), resourceVersion: String(this.#version) };
    const stored = { ...object, metadata };
    this.objects.set(path, stored);
    return stored;
  }

  /** Policies as a watch without delay would know them: by `Kind/namespace/name`. */
  policies(): Map<string, LiveObject> {
    const found = [...this.objects].flatMap(([path, { metadata, status }]): [string, LiveObject][] => {
      const name = /^\/apis\/postern.dev\/v1alpha1\/namespaces\/(.*)\/egresspolicies\/(.*)$/.exec(path);
      if (name === null) return [];
      const { uid, generation, resourceVersion } = metadata as unknown as LiveObject;
      return [[`EgressPolicy/${name[1]}/${name[2]}`, { uid, generation, resourceVersion, status }]];
    });
    return new Map(found);
  }

  /** Requests of these methods since the last call of this. */
  taken(...methods: readonly Method[]): string[] {
    const taken = this.log
      .filter(({ method }) => methods.includes(method))
      .map(({ method, path }) => `${method} ${path}`);
    this.log.length = 0;
    return taken;
  }

  async request(method: Method, path: string, { body, query, contentType }: RequestOptions = {}): Promise<Answer> {
    await Promise.resolve();
    this.log.push({ method, path, body });
    this.before(method, path);
    const value = this.#answer(method, path, body as Record<string, unknown> | undefined, query, contentType);
    return { status: 200, headers: {}, json: async () => structuredClone(value) };
  }

  #answer(
    method: Method,
    path: string,
    body: Record<string, unknown> | undefined,
    query: RequestOptions['query'],
    contentType: string | undefined,
  ): unknown {
    if (method === 'GET' && query?.labelSelector !== undefined) {
      const label = String(query.labelSelector);
      const items = [...this.objects].filter(([at, { metadata }]) => {
        const labels = metadata.labels as Record<string, string> | undefined;
        return at.startsWith(`${path}/`) && labels?.[label] !== undefined;
      });
      return { items: items.map(([, object]) => object) };
    }
    if (method === 'POST') {
      const metadata = body?.metadata as { name: string };
      const at = `${path}/${metadata.name}`;
      if (this.objects.has(at)) throw failure(409, 'AlreadyExists');
      return this.put(at, structuredClone(body ?? {}));
    }
    const isStatus = path.endsWith('/status');
    const at = isStatus ? path.slice(0, -'/status'.length) : path;
    const object = this.objects.get(at);
    if (object === undefined) throw failure(404, 'NotFound');
    if (method === 'GET') return object;
    if (method === 'DELETE') {
      this.objects.delete(at);
      return {};
    }
    const named = (body?.metadata as { resourceVersion?: string } | undefined)?.resourceVersion;
    if (named !== undefined && named !== object.metadata.resourceVersion) throw failure(409, 'Conflict');
    if (method === 'PUT') return this.put(at, structuredClone(body ?? {}));
    if (contentType !== 'application/merge-patch+json') throw failure(415, 'UnsupportedMediaType');
    const patch = isStatus ? { status: body?.status } : body;
    return this.put(at, merged(object, structuredClone(patch)) as Record<string, unknown>);
  }
}

export function failure(code: number, reason: string, retryAfterMs: number | null = null): AnswerError {
  const status = { code, reason, message: `${code} ${reason}`, retryAfterMs };
  return answerError(status, { verb: 'patch', resource: 'things' });
}

/** RFC 7386. */
function merged(target: unknown, patch: unknown): unknown {
  if (typeof patch !== 'object' || patch === null || Array.isArray(patch)) return patch;
  const result: Record<string, unknown> = typeof target === 'object' && target !== null ? { ...target } : {};
  for (const [field, value] of Object.entries(patch)) {
    if (value === null) delete result[field];
    else result[field] = merged(result[field], value);
  }
  return result;
}

export class FakeClock {
  ms = Date.UTC(2026, 0, 1);
  now(): number {
    return this.ms;
  }
  pass(seconds: number): void {
    this.ms += seconds * 1000;
  }
}
