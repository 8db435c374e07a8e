// SPDX-License-Identifier: Apache-2.0
// Serves /metrics, /healthz and /readyz, also to whoever means ill: pods may reach a node's address. Knows what is asked, not what is counted.
import { createServer, type Server } from 'node:http';
import { isIPv6, type Socket } from 'node:net';
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

/** Scrapers are few. Of more connections the oldest is ended, so that kubelet's probe is served whoever holds the others. */
const MAX_CONNECTIONS = 64;
const MAX_CONNECTIONS_FROM_ONE = 8;
/** For a request to be read whole, and again for its answer to be taken. */
const PATIENCE_MS = 10_000;
const MAX_HEADER_BYTES = 8192;
/** What readings may take of the agent's time: a part of it, and so much at once after a pause. */
const SCRAPES_SHARE = 0.1;
const SCRAPES_BURST_MS = 2000;

/** Listens. Rejects with ListenError. */
export async function serveMetrics(address: ListenAddress, registry: Registry, health: Health): Promise<MetricsServer> {
  const scrapes = new Scrapes(() => registry.metrics());
  const options = {
    maxHeaderSize: MAX_HEADER_BYTES,
    headersTimeout: PATIENCE_MS,
    requestTimeout: PATIENCE_MS,
    connectionsCheckingInterval: 1000,
  };
  const server = createServer(options, (request, response) => {
    // The answer says nothing of what was asked for, and what is asked for need not be a URL.
    const pathname = (request.url ?? '/').split('?', 1)[0];
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
    scrapes.text().then(
      (body) => answer(200, body, registry.contentType),
      (error: unknown) => answer(500, `${error instanceof Error ? error.message : String(error)}\n`),
    );
  });
  server.timeout = PATIENCE_MS;
  boundConnections(server);
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

/** Ends whatever connection goes over a bound: of one address the new one, of all the oldest. */
function boundConnections(server: Server): void {
  const open = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    const from = socket.remoteAddress;
    const others = [...open].filter((one) => one.remoteAddress === from).length;
    if (others >= MAX_CONNECTIONS_FROM_ONE) {
      socket.destroy();
      return;
    }
    const [oldest] = open;
    if (oldest !== undefined && open.size >= MAX_CONNECTIONS) oldest.destroy();
    open.add(socket);
    socket.on('close', () => open.delete(socket));
  });
}

/**
 * Readings of all metrics. They stop the agent for as long as they take, so whoever asks without end gets a tenth of its time: beyond
 * that, and while a reading is under way, the last one's text.
 */
export class Scrapes {
  readonly #read: () => Promise<string>;
  readonly #nowMs: () => number;
  #leftMs = SCRAPES_BURST_MS;
  #filledMs: number;
  #last: string | null = null;
  #underWay: Promise<string> | null = null;

  constructor(read: () => Promise<string>, nowMs: () => number = () => performance.now()) {
    this.#read = read;
    this.#nowMs = nowMs;
    this.#filledMs = nowMs();
  }

  /** Rejects with what reading rejects with. */
  async text(): Promise<string> {
    const nowMs = this.#nowMs();
    this.#leftMs = Math.min(SCRAPES_BURST_MS, this.#leftMs + (nowMs - this.#filledMs) * SCRAPES_SHARE);
    this.#filledMs = nowMs;
    if (this.#leftMs <= 0 && this.#last !== null) return this.#last;
    this.#underWay ??= this.#take(nowMs).finally(() => {
      this.#underWay = null;
    });
    return this.#underWay;
  }

  async #take(beganMs: number): Promise<string> {
    this.#last = await this.#read();
    this.#leftMs -= this.#nowMs() - beganMs;
    return this.#last;
  }
}

function listen(server: Server, address: ListenAddress): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) =>
      reject(new ListenError(address, error.code ?? 'UNKNOWN', error)),
    );
    server.listen({ host: address.host, port: address.port }, () => resolve());
  });
}
