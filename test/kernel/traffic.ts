// SPDX-License-Identifier: Apache-2.0
// Traffic without pause, for replace.test.ts: connects, sends and exchanges as fast as answers come, until its input ends; then
// one line of JSON says how each kind went. Arguments: port, addresses that must answer, "--", addresses that must be refused.
import dgram from 'node:dgram';
import net from 'node:net';

const separator = process.argv.indexOf('--');
const port = Number(process.argv[2]);
const reachable = process.argv.slice(3, separator);
const forbidden = process.argv.slice(separator + 1);

/** By kind of attempt, then by outcome: `ok`, or an errno's name. */
const outcomes: Record<string, Record<string, number>> = {};
let running = true;

function note(kind: string, outcome: string): void {
  const kinds = outcomes[kind] ?? {};
  outcomes[kind] = kinds;
  kinds[outcome] = (kinds[outcome] ?? 0) + 1;
}

function codeOf(error: Error): string {
  return (error as NodeJS.ErrnoException).code ?? error.message;
}

/** A refusal comes at once, without a turn of the event loop: without a pause, nothing else would ever have its turn. */
function pause(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

function connect(host: string): Promise<string> {
  return new Promise((resolve) => {
    const socket = net.connect({ host, port });
    socket.on('connect', () => {
      socket.resetAndDestroy();
      resolve('ok');
    });
    socket.on('error', (error) => resolve(codeOf(error)));
  });
}

async function connects(kind: string, host: string): Promise<void> {
  while (running) {
    note(kind, await connect(host));
    await pause();
  }
}

function send(socket: dgram.Socket, host: string): Promise<string> {
  return new Promise((resolve) =>
    socket.send('x', port, host, (error) => resolve(error === null ? 'ok' : codeOf(error))),
  );
}

async function sends(kind: string, host: string): Promise<void> {
  const socket = dgram.createSocket(net.isIPv6(host) ? 'udp6' : 'udp4');
  socket.on('error', () => undefined);
  while (running) {
    note(kind, await send(socket, host));
    await pause();
  }
  socket.close();
}

/** One connection for the whole time: each byte sent comes back. */
async function exchanges(kind: string, host: string): Promise<void> {
  const socket = net.connect({ host, port });
  let failed: string | null = null;
  socket.on('error', (error) => {
    failed = codeOf(error);
  });
  socket.on('close', () => {
    failed ??= 'closed';
  });
  await new Promise((resolve) => socket.once('connect', resolve).once('error', resolve));
  while (running && failed === null) {
    const answered = new Promise((resolve) => socket.once('data', resolve).once('close', resolve));
    socket.write('x');
    await answered;
    note(kind, failed ?? 'ok');
  }
  socket.destroy();
}

process.stdin.resume().on('end', () => {
  running = false;
});
await Promise.all([
  ...reachable.flatMap((host) => [connects('connect', host), sends('send', host), exchanges('exchange', host)]),
  ...forbidden.flatMap((host) => [connects('forbidden connect', host), sends('forbidden send', host)]),
]);
process.stdout.write(`${JSON.stringify(outcomes)}\n`);
