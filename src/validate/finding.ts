// SPDX-License-Identifier: Apache-2.0
// A problem of one object before it is known where in which file the object stands: places are paths.
import type { Path } from '../yaml/documents.ts';

export interface Finding {
  readonly severity: 'error' | 'warning';
  /** Stable snake_case word. */
  readonly code: string;
  readonly path: Path;
  /** Whether the key is wrong or what stands behind it. */
  readonly at: 'key' | 'value';
  readonly message: string;
  readonly advice: string;
}

export const wrong = (code: string, path: Path, message: string, advice: string): Finding => ({
  severity: 'error',
  code,
  path,
  at: 'value',
  message,
  advice,
});

export const wrongKey = (code: string, path: Path, message: string, advice: string): Finding => ({
  ...wrong(code, path, message, advice),
  at: 'key',
});

export const doubtful = (code: string, path: Path, message: string, advice: string): Finding => ({
  ...wrong(code, path, message, advice),
  severity: 'warning',
});

/** `spec.egress[0].to[1].ipBlock.cidr`; a key that is no plain word stands in brackets and quotes. */
export function pathText(path: Path): string {
  let text = '';
  for (const step of path) {
    if (typeof step === 'number') text += `[${step}]`;
    else if (!/^[A-Za-z_][\w-]*$/.test(step)) text += `[${JSON.stringify(step)}]`;
    else text += text === '' ? step : `.${step}`;
  }
  return text;
}

/** A value as it may stand in a message: short, on one line. */
export function quote(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 80 ? `${text.slice(0, 77)}…` : text;
}
