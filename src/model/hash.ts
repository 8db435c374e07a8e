// SPDX-License-Identifier: Apache-2.0
// Content-addressed ids: the same content has the same id on every node and after every restart.

import { hash } from 'node:crypto';
import type { Id } from './tables.ts';

/** The id of a content: the first 64 bits of its SHA-256. Two that clash are told apart by whoever keeps them (see compile). */
export function idOf(content: string): Id {
  return hash('sha256', content, 'hex').slice(0, 16);
}

/** A hash above `KIND_STRANGER` and below `KIND_NOT_WORLD`, for the few kinds of address there are. */
export function kindOf(content: string): number {
  const value = Number.parseInt(hash('sha256', content, 'hex').slice(0, 8), 16) & 0x3fffffff;
  return value > 1 ? value : value + 2;
}
