// SPDX-License-Identifier: Apache-2.0
// Is a text a domain name as our kinds take it, and in which form does DNS know it? By RFC 1035, section 2.3.4, and UTS 46.
import { domainToASCII } from 'node:url';
import type { Path } from '../yaml/documents.ts';
import { type Finding, quote, wrong } from './finding.ts';

/** Names whose ASCII form is too long for DNS (RFC 1035, 2.3.4), or that have none (UTS 46). */
export function checkNames(names: unknown, path: Path): Finding[] {
  if (!Array.isArray(names)) return [];
  return names.flatMap((name: unknown, i) => {
    if (typeof name !== 'string' || name === '') return [];
    const ascii = asciiName(name);
    if (ascii === null) return [badName(name, [...path, i])];
    if (isTooLong(name)) {
      const message = `${quote(name)} is longer than DNS allows`;
      return [wrong('domain_name', [...path, i], message, 'write at most 253 bytes, 63 between two dots')];
    }
    return [];
  });
}

export function isTooLong(name: unknown): boolean {
  const ascii = typeof name === 'string' && /^[^\s/:@]+$/.test(name) ? asciiName(name) : null;
  return ascii !== null && (ascii.length > 253 || ascii.split('.').some((label) => label.length > 63));
}

/** In lower case, U-labels as A-labels, without the final dot; null where that cannot be. */
export function asciiName(name: string): string | null {
  const wildcard = name.startsWith('*.') ? '*.' : '';
  const rest = name.slice(wildcard.length).replace(/\.$/, '').toLowerCase();
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the range is what ASCII is
  if (/^[\x00-\x7f]*$/.test(rest)) return rest === '' ? null : wildcard + rest;
  const ascii = domainToASCII(rest);
  return ascii === '' ? null : wildcard + ascii;
}

/** Told with what was meant. */
export function badName(value: unknown, path: Path): Finding {
  const text = String(value);
  let advice = 'write api.example.com, or *.example.com for the names below it';
  if (/^[a-z]+:\/\//i.test(text)) {
    advice = `write the name alone: ${text.replace(/^[a-z]+:\/\//i, '').replace(/[/:].*$/, '')}`;
  } else if (/:\d+$/.test(text)) advice = `write ${text.replace(/:\d+$/, '')}, and the port in ports`;
  else if (text === '*') advice = 'write entities: [World] for every address outside, in an item of its own';
  else if (text.startsWith('**.')) advice = `write ${text.slice(1)}, which covers any number of labels`;
  else if (text.startsWith('.')) advice = `write "*${text}" for the names below it`;
  else if (text.includes('*')) advice = 'write *. at the beginning only: it stands for one or more whole labels';
  return wrong('domain_name', path, `${quote(value)} is no domain name`, advice);
}
