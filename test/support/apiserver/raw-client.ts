// SPDX-License-Identifier: Apache-2.0
// What does the test API server say on the wire? A client that adds nothing: no retries, no defaults, no meaning.
import { type ClientRequest, type IncomingHttpHeaders, type IncomingMessage, request as overHttp } from 'node:http';
import { request as overHttps } from 'node:https';
import { createInterface } from 'node:readline';
import type { JsonObject } from './json.ts';
import type { ApiServer } from './server.ts';

export interface Asking {
  readonly body?: object | string;
  readonly headers?: Readonly<Record<string, string>>;
  /** Default: the administrator's; null: none. */
  readonly token?: string | null;
  readonly cert?: string;
  readonly key?: string;
}

export interface Answer {
  readonly code: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  /** Throws where the text is no JSON. */
  readonly json: JsonObject;
}

function open(server: ApiServer, method: string, path: string, asking: Asking): ClientRequest {
  const { body, token = server.token, headers, cert, key } = asking;
  const content = body === undefined ? null : typeof body === 'string' ? body : JSON.stringify(body);
  const own = {
    ...(token === null ? {} : { authorization: `Bearer ${token}` }),
    ...(content === null
      ? {}
      : { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(content)) }),
    ...headers,
  };
  const options = { method, headers: own, agent: false, ...(cert === undefined ? {} : { cert, key }) };
  const request =
    server.ca === null
      ? overHttp(server.url + path, options)
      : overHttps(server.url + path, { ...options, ca: server.ca });
  request.end(content ?? undefined);
  return request;
}

function response(request: ClientRequest): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    request.on('response', resolve);
    request.on('error', reject);
  });
}

/** One request, one answer. Rejects where the connection breaks. */
export async function ask(server: ApiServer, method: string, path: string, asking: Asking = {}): Promise<Answer> {
  const answer = await response(open(server, method, path, asking));
  const chunks: Buffer[] = [];
  for await (const chunk of answer) chunks.push(chunk as Buffer);
  const text = Buffer.concat(chunks).toString();
  return {
    code: answer.statusCode ?? 0,
    headers: answer.headers,
    text,
    get json() {
      return JSON.parse(text) as JsonObject;
    },
  };
}

export const get = (server: ApiServer, path: string, asking: Asking = {}): Promise<Answer> =>
  ask(server, 'GET', path, asking);

/** The lines of a stream, as they come. */
export class Lines implements AsyncDisposable {
  readonly code: number;
  readonly #request: ClientRequest;
  readonly #lines: AsyncIterator<string>;

  private constructor(request: ClientRequest, answer: IncomingMessage) {
    this.code = answer.statusCode ?? 0;
    this.#request = request;
    this.#lines = createInterface({ input: answer })[Symbol.asyncIterator]();
  }

  static async open(server: ApiServer, path: string, asking: Asking = {}): Promise<Lines> {
    const request = open(server, 'GET', path, asking);
    const answer = await response(request);
    // A broken connection is told to who reads the next line.
    request.on('error', () => undefined);
    answer.on('error', () => undefined);
    return new Lines(request, answer);
  }

  /** The next line, or null at the end. Rejects with ECONNRESET where the connection was torn down. */
  async line(): Promise<string | null> {
    const { value, done } = await this.#lines.next();
    return done === true ? null : value;
  }

  /** The next event of a watch; throws at the end. */
  async event(): Promise<{ readonly type: string; readonly object: JsonObject }> {
    const line = await this.line();
    if (line === null) throw new Error('the stream has ended');
    return JSON.parse(line) as { type: string; object: JsonObject };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#request.destroy();
  }
}
