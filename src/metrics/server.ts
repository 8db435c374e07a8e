// SPDX-License-Identifier: Apache-2.0
// Serves /metrics, /healthz and /readyz. Knows what is asked, not what is counted.
import { createServer, type Server } from 'node:http';
import { isIPv6 } from 'node:net';
import type { Registry } from 'prom-client';

export interface ListenAddress {
  readonly host: string;
  readonly port: number;
}

/** `127.0.0.1:9470`, `[::1]:9470`, `:9470` (every address); port 0 is any free one. null: not an address. */
export function listenAddress(text: string): ListenAddress | null {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]*)):(\d{1,5})$/.exec(text);
  if (match === null || Number(match[3]) > 65535) return null;
  return { host: match[1] ?? (match[2] === '' || match[2] === undefined ? '::' : match[2]), port: Number(match[3]) };
}

/** A failure of the world: the address cannot be listened on. `code` is the errno's name. */
export class ListenError extends Error {
  override readonly name = 'ListenError';
  readonly code: string;
  constructor(address: ListenAddress, code: string, cause: unknown) {
    const hint = code === 'EADDRINUSE' ? 'something else listens there: choose another with --metrics-address' : code;
    super(`cannot serve metrics on ${address.host} port ${address.port}: ${hint}`, { cause });
    this.code = code;
  }
}

export interface MetricsServer {
  /** `http://127.0.0.1:9470/metrics` */
  readonly url: string;
  close(): Promise<void>;
}

/** What the probes are answered. */
export interface Health {
  isReady(): boolean;
  isAlive(): boolean;
}

/** Listens. Rejects with ListenError. */
export async function serveMetrics(address: ListenAddress, registry: Registry, health: Health): Promise<MetricsServer> {
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url ?? '/', 'http://postern');
    const answer = (status: number, body: string, type = 'text/plain; charset=utf-8') => {
      response.writeHead(status, { 'content-type': type });
      response.end(request.method === 'HEAD' ? undefined : body);
    };
    if (request.method !== 'GET' && request.method !== 'HEAD') return answer(405, 'only GET\n');
    if (pathname === '/healthz')
      return health.isAlive() ? answer(200, 'ok\n') : answer(503, 'the event loop is stuck\n');
    if (pathname === '/readyz')
      return health.isReady() ? answer(200, 'ok\n') : answer(503, 'not ready: nothing is enforced yet\n');
    if (pathname !== '/metrics') return answer(404, 'there are /metrics, /healthz and /readyz\n');
    registry.metrics().then(
      (body) => answer(200, body, registry.contentType),
      (error: unknown) => answer(500, `${error instanceof Error ? error.message : String(error)}\n`),
    );
  });
  // Scrapers are few; whoever opens more connections waits.
  server.maxConnections = 64;
  server.requestTimeout = 10_000;
  await listen(server, address);
  const bound = server.address();
  const port = typeof bound === 'object' && bound !== null ? bound.port : address.port;
  return {
    url: `http://${isIPv6(address.host) ? `[${address.host}]` : address.host}:${port}/metrics`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function listen(server: Server, address: ListenAddress): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) =>
      reject(new ListenError(address, error.code ?? 'UNKNOWN', error)),
    );
    server.listen({ host: address.host, port: address.port }, () => resolve());
  });
}
