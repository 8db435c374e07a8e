// SPDX-License-Identifier: Apache-2.0
// Asks the running agent something, over its socket. Knows no question.
import { request } from 'node:http';

/** The answer to GET, as text. Rejects where nobody answers, or not within ten seconds, or with another status than 200. */
export function ask(socketPath: string, path: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const asking = request({ socketPath, path, timeout: 10_000 }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => {
        text += chunk;
      });
      response.on('end', () =>
        response.statusCode === 200
          ? resolve(text)
          : reject(new Error(`the agent answered ${response.statusCode}: ${text}`)),
      );
      response.on('error', reject);
    });
    asking.on('timeout', () => asking.destroy(new Error('the agent did not answer within ten seconds')));
    asking.on('error', reject);
    asking.end();
  });
}

/** `ENOENT` or `ECONNREFUSED`: nobody listens there. */
export function isNobodyThere(error: unknown): boolean {
  return ['ENOENT', 'ECONNREFUSED'].includes((error as NodeJS.ErrnoException).code ?? '');
}

/** Somebody answers, and this process may not ask. */
export function isForRootAlone(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === 'EACCES';
}

/** In a sentence, why `ask` has failed. */
export function whyNobodyAnswers(error: unknown): string {
  if (isNobodyThere(error)) return 'no agent is running on this node, or it was started with another --socket';
  const { code, message } = error as NodeJS.ErrnoException;
  return isForRootAlone(error) ? 'only root may ask' : (code ?? message);
}
