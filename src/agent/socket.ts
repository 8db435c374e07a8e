// SPDX-License-Identifier: Apache-2.0
// Answers questions about the running agent, to root alone: HTTP over a Unix socket. Knows what is asked, not what is answered.
import { chmodSync, lstatSync, mkdirSync, rmSync, statSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { connect } from 'node:net';
import path from 'node:path';

export const SOCKET = '/run/postern/agent.sock';

/**
 * A failure of the world. `code`: `IN_USE` (another agent answers there), `NOT_A_SOCKET`, `UNSAFE_FOLDER` (others than root could put
 * a socket of theirs there), or the errno's name.
 */
export class SocketError extends Error {
  override readonly name = 'SocketError';
  readonly code: string;
  constructor(file: string, code: string, cause?: unknown) {
    const why =
      code === 'IN_USE'
        ? 'another agent answers there: choose another with --socket'
        : code === 'NOT_A_SOCKET'
          ? 'something else is there that is no socket'
          : code === 'UNSAFE_FOLDER'
            ? 'others may write into its folder, and answer in its stead: choose another with --socket, or chmod it to 0755'
            : code;
    super(`cannot listen on ${file}: ${why}`, { cause });
    this.code = code;
  }
}

/** Of what is asked a line is enough, and whoever asks is root: these only end what was forgotten. */
const OPTIONS = {
  maxHeaderSize: 8192,
  headersTimeout: 10_000,
  requestTimeout: 10_000,
  connectionsCheckingInterval: 1000,
};
const MAX_CONNECTIONS = 64;

const OTHERS_WRITE = 0o022;
const STICKY = 0o1000;

export interface AgentSocket {
  close(): Promise<void>;
}

/**
 * Serves each route's answer, or what it resolves with, as JSON to GET; where it throws an error with a code, that with status 500. The
 * socket of an agent that is gone is replaced; one that answers is not. Mode
 * 0600 from the beginning. Rejects with SocketError.
 */
export async function serveSocket(file: string, routes: Readonly<Record<string, () => unknown>>): Promise<AgentSocket> {
  const server = createServer(OPTIONS, (request, response) => {
    const answer = (status: number, body: unknown): void => {
      response.writeHead(status, { 'content-type': 'application/json' });
      response.end(`${JSON.stringify(body)}\n`);
    };
    const [pathname = ''] = (request.url ?? '/').split('?', 1);
    const route = Object.hasOwn(routes, pathname) ? routes[pathname] : undefined;
    if (route === undefined) answer(404, { error: `there are ${Object.keys(routes).join(', ')}` });
    else if (request.method !== 'GET') answer(405, { error: 'only GET' });
    else void answerBy(route, answer);
  });
  server.maxConnections = MAX_CONNECTIONS;
  let isSafe: boolean;
  try {
    mkdirSync(path.dirname(file), { recursive: true, mode: 0o700 });
    isSafe = isRootsAlone(path.dirname(file));
  } catch (error) {
    throw new SocketError(file, codeOf(error), error);
  }
  if (!isSafe) throw new SocketError(file, 'UNSAFE_FOLDER');
  await makeRoom(file);
  await listen(server, file);
  return {
    close: () =>
      new Promise((resolve) => {
        // Node removes the file.
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function answerBy(route: () => unknown, answer: (status: number, body: unknown) => void): Promise<void> {
  try {
    answer(200, await route());
  } catch (error) {
    // A failure of the world ends the question; a bug ends the agent.
    if (!(error instanceof Error) || codeOf(error) === 'UNKNOWN') throw error;
    answer(500, { error: error.message });
  }
}

/** Whether nobody else can take a file in this folder away and put another there. Throws as statSync does. */
function isRootsAlone(folder: string): boolean {
  const { mode, uid } = statSync(folder);
  const isOwn = uid === 0 || uid === process.getuid?.();
  return isOwn && ((mode & OTHERS_WRITE) === 0 || (mode & STICKY) !== 0);
}

async function makeRoom(file: string): Promise<void> {
  const stat = lstatSync(file, { throwIfNoEntry: false });
  if (stat === undefined) return;
  if (!stat.isSocket()) throw new SocketError(file, 'NOT_A_SOCKET');
  if (await isAnswering(file)) throw new SocketError(file, 'IN_USE');
  rmSync(file, { force: true });
}

function isAnswering(file: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(file);
    const done = (is: boolean) => () => {
      socket.destroy();
      resolve(is);
    };
    socket.on('connect', done(true));
    socket.on('error', done(false));
  });
}

function listen(server: Server, file: string): Promise<void> {
  return new Promise((resolve, reject) => {
    // The file is made within listen(): nobody else may open it for a moment, whatever the umask was.
    const before = process.umask(0o177);
    try {
      server.once('error', (error) => reject(new SocketError(file, codeOf(error), error)));
      server.listen(file, () => {
        chmodSync(file, 0o600);
        resolve();
      });
    } finally {
      process.umask(before);
    }
  });
}

function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? 'UNKNOWN';
}
