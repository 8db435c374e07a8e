// SPDX-License-Identifier: Apache-2.0
// A client that tries each `PROTOCOL/ADDRESS/PORT` of its arguments and prints the outcomes, a word each: `ok`, or an errno.
import dgram from 'node:dgram';
import net from 'node:net';

function tryTcp(host: string, port: number): Promise<string> {
  return new Promise((resolve) => {
    const socket = net.connect({ host, port, timeout: 2000 });
    const done = (outcome: string) => {
      socket.destroy();
      resolve(outcome);
    };
    socket.on('connect', () => done('ok'));
    socket.on('timeout', () => done('timeout'));
    socket.on('error', (error: NodeJS.ErrnoException) => done(error.code ?? error.message));
  });
}

function tryUdp(host: string, port: number): Promise<string> {
  return new Promise((resolve) => {
    const socket = dgram.createSocket(net.isIPv6(host) ? 'udp6' : 'udp4');
    const done = (outcome: string) => {
      clearTimeout(timer);
      socket.close();
      resolve(outcome);
    };
    const timer = setTimeout(() => done('timeout'), 2000);
    socket.on('message', () => done('ok'));
    socket.send('postern', port, host, (error) => {
      if (error) done((error as NodeJS.ErrnoException).code ?? error.message);
    });
  });
}

const outcomes: string[] = [];
for (const one of process.argv.slice(2)) {
  const [protocol, host = '', port] = one.split('/');
  outcomes.push(await (protocol === 'UDP' ? tryUdp : tryTcp)(host, Number(port)));
}
process.stdout.write(`${outcomes.join(' ')}\n`);
