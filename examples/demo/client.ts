// SPDX-License-Identifier: Apache-2.0
// What does a real client see when it tries? Runs curl and dig where a workload stands; knows nothing of policies.
import type { Place } from '../../test/support/lab.ts';
import { unlessInterrupted } from './interruption.ts';

/** How it went: an answer came, the socket refused at once (EPERM), nothing came, or something that nobody expects. */
export interface Seen {
  readonly outcome: 'passed' | 'refused' | 'silence' | 'failed';
  /** A few words for a table's cell. */
  readonly text: string;
}

/** Where nothing answers, a client waits so long. */
const PATIENCE_MS = 600;
const EPERM = 'Operation not permitted';

function url(address: string, port: number, path: string): string {
  return `http://${address.includes(':') ? `[${address}]` : address}:${port}/${path}`;
}

/** One HTTP request. */
export async function curl(place: Place, address: string, port: number): Promise<Seen> {
  const seconds = String(PATIENCE_MS / 1000);
  const written = '%{http_code} %{time_total}';
  const args = ['-sv', '--noproxy', '*', '-m', seconds, '-o', '/dev/null', '-w', written, url(address, port, '')];
  const { status, stdout, stderr } = await unlessInterrupted(place.exec('curl', args));
  const [code, total] = stdout.split(' ');
  const ms = Math.round(Number(total) * 1000);
  if (status === 0) return { outcome: 'passed', text: `HTTP ${code} in ${ms} ms` };
  if (stderr.includes(EPERM)) return { outcome: 'refused', text: `EPERM in ${ms} ms` };
  if (status === 28) return { outcome: 'silence', text: `timed out (${ms} ms)` };
  return { outcome: 'failed', text: `curl: status ${status}` };
}

/** One question of type A. By UDP dig keeps the EPERM of its send to itself and waits; by TCP it tells. */
export async function dig(place: Place, address: string, name: string, by: 'UDP' | 'TCP'): Promise<Seen> {
  const args = ['+tries=1', '+time=1', by === 'TCP' ? '+tcp' : '+notcp', `@${address}`, name, 'A'];
  const { status, stdout, stderr } = await unlessInterrupted(place.exec('dig', args));
  const told = stdout + stderr;
  const answer = /^[^;\s]\S*\s+\d+\s+IN\s+A\s+(\S+)/m.exec(told)?.[1];
  const ms = /Query time: (\d+) msec/.exec(told)?.[1];
  if (status === 0 && answer !== undefined) return { outcome: 'passed', text: `answer in ${ms} ms` };
  // dig's words for EPERM.
  if (/permission denied/.test(told)) return { outcome: 'refused', text: 'EPERM' };
  if (/timed out/.test(told)) return { outcome: 'silence', text: 'timed out' };
  return { outcome: 'failed', text: `dig: status ${status}` };
}

/** A download that would take minutes. */
export interface Download {
  /** Resolves once the first bytes are here. Rejects if none come. */
  readonly began: Promise<void>;
  /** How it ended; `atMs` by performance.now(). */
  readonly ended: Promise<Seen & { readonly atMs: number }>;
}

export function download(place: Place, address: string, port: number, path: string): Download {
  // Fast enough that there is always a packet on its way, slow enough to leave the machine alone.
  const args = ['-sv', '--noproxy', '*', '--limit-rate', '40M', '-o', '/dev/null', url(address, port, path)];
  const child = place.spawn('curl', args);
  const began = Promise.withResolvers<void>();
  const ended = Promise.withResolvers<Seen & { readonly atMs: number }>();
  // Who was interrupted awaits neither.
  for (const one of [began.promise, ended.promise]) one.catch(() => undefined);
  let told = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    told += text;
    if (/^< HTTP\/1\.1 200/m.test(told)) began.resolve();
  });
  child.on('error', (error) => ended.reject(error));
  child.on('close', (status) => {
    const atMs = performance.now();
    const why = /curl: \(\d+\) (.*)/.exec(told)?.[1] ?? /(Recv failure: .*)/.exec(told)?.[1] ?? `status ${status}`;
    began.reject(new Error(`the download did not begin: ${told}`));
    const isCut = status === 56;
    ended.resolve({
      outcome: isCut ? 'refused' : 'failed',
      text: isCut ? why.replace('Recv failure: ', '') : why,
      atMs,
    });
  });
  return { began: began.promise, ended: ended.promise };
}
