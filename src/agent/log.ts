// SPDX-License-Identifier: Apache-2.0
// The agent's log: JSON lines on stdout, each with an `event`. A reader that is slow or gone never holds the agent up.
import pino, { type Logger } from 'pino';

/** Bytes held for a slow reader; lines beyond are lost, and counted. */
const MAX_BUFFERED_BYTES = 4 * 1024 * 1024;

export const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export type Level = (typeof LEVELS)[number];

export interface AgentLog {
  readonly log: Logger;
  /** Lines lost since the start. */
  lost(): number;
  /** Writes what is held, at once. */
  flush(): void;
}

export function openLog(level: Level): AgentLog {
  const out = pino.destination({ fd: 1, sync: false, minLength: 0, maxLength: MAX_BUFFERED_BYTES });
  let lost = 0;
  out.on('drop', () => {
    lost += 1;
  });
  out.on('error', () => {
    // Nobody reads any more; enforcement goes on.
    lost += 1;
  });
  const log = pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    out,
  );
  return {
    log,
    lost: () => lost,
    flush: () => {
      try {
        out.flushSync();
      } catch {
        // Nobody reads any more.
      }
    },
  };
}
