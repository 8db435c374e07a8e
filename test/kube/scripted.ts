// SPDX-License-Identifier: Apache-2.0
// A server that answers each request as the next line of a script says, and tells what was asked. For what no real server can be
// brought to do at will.
import http, { type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Access, Endpoint } from '../../src/kube/access.ts';
import type { Pace } from '../../src/kube/pace.ts';

export type Step = (response: ServerResponse, request: IncomingMessage) => void;

export interface Scripted extends Disposable {
  readonly access: Access;
  readonly url: URL;
  /** What was asked, in order: path and query. */
  readonly asked: { readonly path: string; readonly query: Record<string, string>; readonly atMs: number }[];
  /** How often credentials were refused. */
  refused: number;
}

/** @param script by request; the last step answers all that come after it. */
export async function scripted(script: readonly Step[]): Promise<Scripted> {
  const asked: Scripted['asked'] = [];
  const server = http.createServer((request, response) => {
    const url = new URL(request.url ?? '/', 'http://localhost');
    const step = script[Math.min(asked.length, script.length - 1)];
    asked.push({ path: url.pathname, query: Object.fromEntries(url.searchParams), atMs: performance.now() });
    step?.(response, request);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  let generation = 0;
  const self: Scripted = {
    url,
    asked,
    refused: 0,
    access: {
      namespace: 'postern-system',
      startsProgram: false,
      endpoint: (): Promise<Endpoint> =>
        Promise.resolve({ url, tls: {}, headers: { Authorization: `Bearer ${generation}` }, proxy: null, generation }),
      refuse: (endpoint) => {
        if (endpoint.generation === generation) generation++;
        self.refused++;
      },
    },
    [Symbol.dispose]() {
      server.closeAllConnections();
      server.close();
    },
  };
  return self;
}

/** As fast as a test may be; what is waited for in vain is waited for long enough to be sure. */
export const QUICK: Pace = {
  backoffMs: [1, 20],
  forbiddenMs: 5,
  absentMs: [5, 20],
  watchSeconds: [60, 60],
  answerMs: 20_000,
  idleMs: 20_000,
  listIdleMs: 20_000,
  quietMs: [1, 5],
};

export async function until(what: string, isSo: () => boolean): Promise<void> {
  const endMs = performance.now() + 60_000;
  while (!isSo()) {
    if (performance.now() > endMs) throw new Error(`it never came to be: ${what}`);
    await sleep(2);
  }
}

export const status =
  (code: number, reason: string, message: string, headers: Record<string, string> = {}): Step =>
  (response) => {
    response.writeHead(code, { 'Content-Type': 'application/json', ...headers });
    response.end(JSON.stringify({ kind: 'Status', status: 'Failure', code, reason, message }));
  };

/** A stream of lines; then `end`: as the server does after timeoutSeconds. */
export const stream =
  (lines: readonly (object | string)[], then: 'stay' | 'end' | 'reset'): Step =>
  (response) => {
    response.writeHead(200, { 'Content-Type': 'application/json' });
    for (const line of lines) response.write(typeof line === 'string' ? line : `${JSON.stringify(line)}\n`);
    response.flushHeaders();
    if (then === 'end') response.end();
    // What was written is to arrive first.
    if (then === 'reset') setTimeout(() => response.socket?.resetAndDestroy(), 20);
  };

export const json =
  (body: unknown): Step =>
  (response) => {
    response.writeHead(200, { 'Content-Type': 'application/json' });
    response.end(typeof body === 'string' ? body : JSON.stringify(body));
  };

export const silence: Step = () => undefined;

export const object = (name: string, version: number, color = 'red') => ({
  metadata: { namespace: 'shop', name, resourceVersion: String(version), labels: { color } },
});
export const event = (type: string, name: string, version: number, color?: string) => ({
  type,
  object: object(name, version, color),
});
export const bookmark = (version: number, isEnd = false) => ({
  type: 'BOOKMARK',
  object: {
    metadata: {
      resourceVersion: String(version),
      ...(isEnd ? { annotations: { 'k8s.io/initial-events-end': 'true' } } : {}),
    },
  },
});
export const expired = {
  type: 'ERROR',
  object: { kind: 'Status', code: 410, reason: 'Expired', message: 'too old resource version' },
};
export const list = (version: number, names: readonly string[], next?: string) => ({
  kind: 'PodList',
  apiVersion: 'v1',
  metadata: { resourceVersion: String(version), ...(next === undefined ? {} : { continue: next }) },
  items: names.map((name) => object(name, version)),
});
