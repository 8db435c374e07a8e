// SPDX-License-Identifier: Apache-2.0
// A process that stands where a workload stands (its namespace, its cgroup) and makes real traffic on request.
// Requests and answers are JSON lines on stdin and stdout; it knows nothing of policies. Started by lab.ts.
import dgram from 'node:dgram';
import { Resolver } from 'node:dns/promises';
import net from 'node:net';
import { createInterface } from 'node:readline';

export interface Request {
  readonly id: number;
  readonly op: 'listen' | 'connect' | 'exchange' | 'ended' | 'send' | 'reach' | 'received' | 'close';
  readonly protocol?: 'TCP' | 'UDP';
  readonly address?: string;
  readonly port?: number;
  readonly socket?: number;
  readonly text?: string;
  readonly names?: readonly string[];
  readonly timeoutMs?: number;
}

/** `outcome`: `ok`, `timeout`, `closed`, or an errno's name such as `EPERM`. */
export interface Answer {
  readonly id: number;
  readonly outcome: string;
  readonly socket?: number;
  readonly port?: number;
  readonly count?: number;
}

type Outcome = Omit<Answer, 'id'>;
const sockets = new Map<number, net.Socket>();
const ends = new Map<number, string>();
let lastSocket = 0;
let received = 0;

function codeOf(error: Error): string {
  return (error as NodeJS.ErrnoException).code ?? error.message;
}

function listenTcp(address: string, port: number): Promise<Outcome> {
  return new Promise((resolve) => {
    const server = net.createServer((socket) => {
      socket.on('data', (chunk) => {
        received += 1;
        socket.write(chunk);
      });
      socket.on('error', () => socket.destroy());
    });
    server.on('error', (error) => resolve({ outcome: codeOf(error) }));
    server.listen({ host: address, port, backlog: 512 }, () => {
      const bound = server.address();
      resolve({ outcome: 'ok', port: typeof bound === 'object' && bound !== null ? bound.port : 0 });
    });
  });
}

function listenUdp(address: string, port: number): Promise<Outcome> {
  return new Promise((resolve) => {
    const socket = dgram.createSocket({ type: net.isIPv6(address) ? 'udp6' : 'udp4', ipv6Only: net.isIPv6(address) });
    socket.on('error', (error) => resolve({ outcome: codeOf(error) }));
    socket.on('message', (message, from) => {
      received += 1;
      socket.send(message, from.port, from.address, () => undefined);
    });
    socket.bind(port, address, () => resolve({ outcome: 'ok', port: socket.address().port }));
  });
}

function connect(address: string, port: number, timeoutMs: number): Promise<Outcome> {
  return new Promise((resolve) => {
    const socket = net.connect({ host: address, port });
    const timer = setTimeout(() => {
      socket.destroy();
      resolve({ outcome: 'timeout' });
    }, timeoutMs);
    lastSocket += 1;
    const number = lastSocket;
    socket.on('connect', () => {
      clearTimeout(timer);
      sockets.set(number, socket);
      resolve({ outcome: 'ok', socket: number });
    });
    socket.on('error', (error) => {
      clearTimeout(timer);
      ends.set(number, codeOf(error));
      resolve({ outcome: codeOf(error) });
    });
    socket.on('close', () => {
      if (!ends.has(number)) ends.set(number, 'closed');
      sockets.delete(number);
    });
  });
}

function exchange(number: number, text: string, timeoutMs: number): Promise<Outcome> {
  const socket = sockets.get(number);
  if (socket === undefined) return Promise.resolve({ outcome: ends.get(number) ?? 'closed' });
  return new Promise((resolve) => {
    const timer = setTimeout(() => done('timeout'), timeoutMs);
    const onData = () => done('ok');
    const onClose = () => done(ends.get(number) ?? 'closed');
    function done(outcome: string): void {
      clearTimeout(timer);
      socket?.off('data', onData);
      socket?.off('close', onClose);
      resolve({ outcome });
    }
    socket.once('data', onData);
    socket.once('close', onClose);
    socket.write(text);
  });
}

function ended(number: number, timeoutMs: number): Promise<Outcome> {
  const socket = sockets.get(number);
  if (socket === undefined) return Promise.resolve({ outcome: ends.get(number) ?? 'closed' });
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve({ outcome: 'timeout' }), timeoutMs);
    socket.once('close', () => {
      clearTimeout(timer);
      resolve({ outcome: ends.get(number) ?? 'closed' });
    });
  });
}

function send(address: string, port: number, text: string, timeoutMs: number): Promise<Outcome> {
  return new Promise((resolve) => {
    const socket = dgram.createSocket(net.isIPv6(address) ? 'udp6' : 'udp4');
    const timer = setTimeout(() => done('timeout'), timeoutMs);
    function done(outcome: string): void {
      clearTimeout(timer);
      socket.close();
      resolve({ outcome });
    }
    socket.once('message', () => done('ok'));
    socket.on('error', (error) => done(codeOf(error)));
    socket.send(text, port, address, (error) => {
      if (error) done(codeOf(error));
    });
  });
}

/** Asks the resolver at `address` for both families of each name, all at once and each once, and connects to `port` of whatever is answered. */
async function reach(names: readonly string[], address: string, port: number, timeoutMs: number): Promise<Outcome> {
  // One resolver for several would learn how fast answers come, and give up earlier than it was told.
  const newResolver = () => {
    const resolver = new Resolver({ timeout: timeoutMs, maxTimeout: timeoutMs, tries: 1 });
    resolver.setServers([address]);
    return resolver;
  };
  const reached = names.flatMap((name) =>
    [newResolver().resolve4(name), newResolver().resolve6(name)].map(async (asked) => {
      try {
        const [to = ''] = await asked;
        const { outcome, socket = 0 } = await connect(to, port, timeoutMs);
        sockets.get(socket)?.destroy();
        return outcome === 'ok' ? [] : [`${name} ${to} ${outcome}`];
      } catch (error) {
        return [`${name} ${error instanceof Error ? codeOf(error) : String(error)}`];
      }
    }),
  );
  const wrong = (await Promise.all(reached)).flat();
  return { outcome: wrong.length === 0 ? 'ok' : wrong.join(', '), count: reached.length };
}

async function obey(request: Request): Promise<Outcome> {
  const { address = '', port = 0, socket = 0, text = 'postern', timeoutMs = 1000 } = request;
  switch (request.op) {
    case 'listen':
      return request.protocol === 'UDP' ? listenUdp(address, port) : listenTcp(address, port);
    case 'connect':
      return connect(address, port, timeoutMs);
    case 'exchange':
      return exchange(socket, text, timeoutMs);
    case 'ended':
      return ended(socket, timeoutMs);
    case 'send':
      return send(address, port, text, timeoutMs);
    case 'reach':
      return reach(request.names ?? [], address, port, timeoutMs);
    case 'received':
      return { outcome: 'ok', count: received };
    case 'close':
      sockets.get(socket)?.destroy();
      return { outcome: 'ok' };
  }
}

if (process.argv[1] === import.meta.filename) {
  const lines = createInterface({ input: process.stdin });
  lines.on('line', (line) => {
    const request = JSON.parse(line) as Request;
    void obey(request).then((outcome) => process.stdout.write(`${JSON.stringify({ id: request.id, ...outcome })}\n`));
  });
  // The lab is gone: nothing more will be asked.
  lines.on('close', () => process.exit(0));
}
