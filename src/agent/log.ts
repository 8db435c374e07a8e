// SPDX-License-Identifier: Apache-2.0
// The agent's log: JSON lines on stdout, each with an `event`. A reader that is slow or gone never holds the agent up.
import pino, { type Logger } from 'pino';
import { LineSink } from './line-sink.ts';

/** Bytes held for a slow reader; lines beyond are lost, and counted. */
const MAX_HELD_BYTES = 4 * 1024 * 1024;
/** How long the end of the agent waits for its reader. */
const FLUSH_MS = 1000;

export const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export type Level = (typeof LEVELS)[number];

export interface AgentLog {
  readonly log: Logger;
  /** Lines lost since the start. */
  lost(): number;
  /** Resolves when what is held was taken, or after a second. */
  flush(): Promise<void>;
}

export function openLog(level: Level): AgentLog {
  // Not pino's own destination: its flushSync goes round for ever where the reader is gone.
  const sink = new LineSink(1, MAX_HELD_BYTES);
  const log = pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    sink,
  );
  return { log, lost: () => sink.lost, flush: () => sink.flush(FLUSH_MS) };
}
