// SPDX-License-Identifier: Apache-2.0
// How is the API server asked? One keep-alive pool, rebuilt when certificates change; credentials read on each attempt; a 401 has
// them read anew, once. Knows nothing of what is asked for.
import { hash } from 'node:crypto';
import http, { type IncomingHttpHeaders, type IncomingMessage } from 'node:http';
import https from 'node:https';
import type { Access, Endpoint } from './access.ts';
import { answerError, KubeError, readStatus } from './errors.ts';

export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';

export interface RequestOptions {
  readonly query?: Readonly<Record<string, string | number | boolean>>;
  /** Sent as JSON. */
  readonly body?: unknown;
  /** application/json, or a patch's: `application/merge-patch+json`, `application/apply-patch+yaml`. */
  readonly contentType?: string;
  readonly signal?: AbortSignal;
  /** How long until the answer begins. */
  readonly timeoutMs?: number;
}

export interface Answer {
  /** Below 400. */
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  /** Rejects with KubeError BAD_ANSWER. */
  json(): Promise<unknown>;
}

/** What is needed to read and write single objects: status, Leases, Events. */
export interface KubeApi {
  /**
   * @param path `/apis/coordination.k8s.io/v1/namespaces/postern-system/leases/postern-a`
   * Rejects with KubeError: AnswerError for a status of 400 and more (ForbiddenError for 403), else by code. An aborted one rejects
   * with the signal's reason.
   */
  request(method: Method, path: string, options?: RequestOptions): Promise<Answer>;
  /** Where the agent is: for its Leases and Events. */
  readonly namespace: string;
}

const ANSWER_TIMEOUT_MS = 30_000;
const CONNECT_TIMEOUT_MS = 10_000;
const MAX_BODY_BYTES = 64 << 20;
/** A half-open connection is noticed by what is read from it; this only keeps middleboxes from forgetting it. */
const TCP_KEEPALIVE_MS = 30_000;

export class Connection implements KubeApi {
  readonly #access: Access;
  #agent: http.Agent | null = null;
  #fingerprint = '';
  #isClosed = false;

  constructor(access: Access) {
    this.#access = access;
  }

  get namespace(): string {
    return this.#access.namespace;
  }

  async request(method: Method, path: string, options: RequestOptions = {}): Promise<Answer> {
    const message = await this.open(method, path, options);
    const timeoutMs = options.timeoutMs ?? ANSWER_TIMEOUT_MS;
    const timer = setTimeout(
      () => message.destroy(new KubeError('UNREACHABLE', `the answer did not end in ${timeoutMs} ms`)),
      timeoutMs,
    );
    try {
      const body = await bodyOf(message);
      return {
        status: message.statusCode ?? 0,
        headers: message.headers,
        json: async () => {
          try {
            return JSON.parse(body) as unknown;
          } catch (error) {
            throw new KubeError('BAD_ANSWER', `${method} ${path}: the answer is not JSON`, error);
          }
        },
      };
    } catch (error) {
      throw options.signal?.aborted ? options.signal.reason : failure(error, path);
    } finally {
      clearTimeout(timer);
    }
  }

  /** The answer as a stream, its status below 400; whoever asks reads it to its end or destroys it. Rejects as `request` does. */
  async open(method: Method, path: string, options: RequestOptions = {}): Promise<IncomingMessage> {
    for (let isAgain = false; ; isAgain = true) {
      const endpoint = await this.#access.endpoint();
      const message = await this.#send(endpoint, method, path, options);
      const status = message.statusCode ?? 0;
      if (status < 400) return message;
      const body = await bodyOf(message).catch(() => '');
      if (status === 401) {
        this.#access.refuse(endpoint);
        if (!isAgain) continue;
      }
      throw answerError(
        readStatus(status, body, message.headers['retry-after']),
        askedFor(method, path, options.query),
      );
    }
  }

  /** Gives up what is going on. */
  close(): void {
    this.#isClosed = true;
    this.#agent?.destroy();
    this.#agent = null;
  }

  /** Idle connections may have died unnoticed with the one that did: the next request opens a new one. */
  dropIdle(): void {
    for (const sockets of Object.values(this.#agent?.freeSockets ?? {}))
      for (const socket of sockets ?? []) socket.destroy();
  }

  #agentFor({ url, tls, proxy }: Endpoint): http.Agent {
    const fingerprint = hash('sha256', JSON.stringify([url.protocol, url.host, tls, proxy]), 'hex');
    if (this.#agent !== null && this.#fingerprint === fingerprint) return this.#agent;
    // What was opened with an old certificate ends with it; a watch goes on where it was.
    this.#agent?.destroy();
    const proxyEnv = proxy === null ? process.env : { HTTP_PROXY: proxy, HTTPS_PROXY: proxy };
    const options = { keepAlive: true, keepAliveMsecs: TCP_KEEPALIVE_MS, scheduling: 'fifo' as const, proxyEnv };
    this.#agent = url.protocol === 'http:' ? new http.Agent(options) : new https.Agent({ ...options, ...tls });
    this.#fingerprint = fingerprint;
    return this.#agent;
  }

  #send(endpoint: Endpoint, method: Method, path: string, options: RequestOptions): Promise<IncomingMessage> {
    if (this.#isClosed) return Promise.reject(new KubeError('UNREACHABLE', 'the connection was closed'));
    options.signal?.throwIfAborted();
    const { url } = endpoint;
    const target = new URL(url.pathname.replace(/\/$/, '') + path, url);
    for (const [name, value] of Object.entries(options.query ?? {})) target.searchParams.set(name, String(value));
    const body = options.body === undefined ? null : Buffer.from(JSON.stringify(options.body));
    const headers: Record<string, string> = {
      'User-Agent': 'postern',
      Accept: 'application/json',
      ...endpoint.headers,
    };
    if (body !== null) {
      headers['Content-Type'] = options.contentType ?? 'application/json';
      headers['Content-Length'] = String(body.length);
    }
    const timeoutMs = options.timeoutMs ?? ANSWER_TIMEOUT_MS;
    return new Promise((resolve, reject) => {
      const send = url.protocol === 'http:' ? http.request : https.request;
      const request = send(target, { method, headers, agent: this.#agentFor(endpoint) });
      let timer = setTimeout(() => request.destroy(silent(timeoutMs)), timeoutMs);
      const onAbort = () => request.destroy(options.signal?.reason);
      options.signal?.addEventListener('abort', onAbort, { once: true });
      // A connection that breaks tells its request so twice, or when it is answered already: that must not ask again.
      let isSettled = false;
      const settle = () => {
        clearTimeout(timer);
        isSettled = true;
      };
      request.on('socket', (socket) => {
        if (!socket.connecting) return;
        clearTimeout(timer);
        timer = setTimeout(() => request.destroy(silent(CONNECT_TIMEOUT_MS)), CONNECT_TIMEOUT_MS);
        socket.once(url.protocol === 'http:' ? 'connect' : 'secureConnect', () => {
          clearTimeout(timer);
          timer = setTimeout(() => request.destroy(silent(timeoutMs)), timeoutMs);
        });
      });
      request.on('response', (message) => {
        settle();
        message.once('close', () => options.signal?.removeEventListener('abort', onAbort));
        resolve(message);
      });
      request.on('error', (error) => {
        if (isSettled) return;
        settle();
        options.signal?.removeEventListener('abort', onAbort);
        // Reading can be asked again; the server had closed this connection as we took it up.
        const isStale = request.reusedSocket && (error as NodeJS.ErrnoException).code === 'ECONNRESET';
        if (isStale && method === 'GET' && !options.signal?.aborted) {
          this.dropIdle();
          resolve(this.#send(endpoint, method, path, options));
          return;
        }
        reject(options.signal?.aborted ? options.signal.reason : failure(error, `${url.host}${path}`));
      });
      request.end(body ?? undefined);
    });
  }
}

function silent(timeoutMs: number): KubeError {
  return new KubeError('UNREACHABLE', `the API server did not answer in ${timeoutMs} ms`);
}

async function bodyOf(message: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of message as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > MAX_BODY_BYTES) throw new KubeError('BAD_ANSWER', `the answer is larger than ${MAX_BODY_BYTES} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** Codes of Node's TLS: X509_V_ERR of OpenSSL, and its own. */
const TLS_ERROR =
  /^(ERR_TLS_|ERR_SSL_|CERT_|CRL_|UNABLE_TO_|DEPTH_ZERO_|SELF_SIGNED_|INVALID_CA|INVALID_PURPOSE|HOSTNAME_|EPROTO)/;

/** A failure of the road, as a KubeError. */
export function failure(error: unknown, where: string): KubeError {
  if (error instanceof KubeError) return error;
  const { code = '', message } = error as NodeJS.ErrnoException;
  if (TLS_ERROR.test(code)) {
    return new KubeError('UNTRUSTED', `the API server is not trusted: ${message} (${code})`, error);
  }
  return new KubeError('UNREACHABLE', `the API server cannot be reached at ${where}: ${message || code}`, error);
}

const VERBS: Readonly<Record<Method, string>> = {
  GET: 'get',
  POST: 'create',
  PUT: 'update',
  PATCH: 'patch',
  DELETE: 'delete',
};

/** What RBAC calls this request: verb and `resource[.group][/subresource]` (k8s.io/apiserver RequestInfoFactory). */
export function askedFor(
  method: Method,
  path: string,
  query: RequestOptions['query'] = {},
): { readonly verb: string; readonly resource: string } {
  const parts = path.split('/').filter((part) => part !== '');
  const group = parts[0] === 'apis' ? (parts[1] ?? '') : '';
  const below = parts.slice(parts[0] === 'apis' ? 3 : 2);
  const isInside = below[0] === 'namespaces' && below.length > 2 && below[2] !== 'status' && below[2] !== 'finalize';
  const [resource = '', name, subresource] = isInside ? below.slice(2) : below;
  const verb = name !== undefined || method !== 'GET' ? VERBS[method] : query.watch === undefined ? 'list' : 'watch';
  const suffix = `${group === '' ? '' : `.${group}`}${subresource === undefined ? '' : `/${subresource}`}`;
  return { verb, resource: `${resource}${suffix}` };
}
