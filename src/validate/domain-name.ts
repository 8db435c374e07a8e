// SPDX-License-Identifier: Apache-2.0
// Is a text a domain name as our kinds take it, and in which form does DNS know it? By RFC 1035, section 2.3.4, and UTS 46.
import { domainToASCII, domainToUnicode } from 'node:url';
import { LABEL_BYTES, NAME_BYTES, WILDCARD } from '../model/name.ts';
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
  return ascii !== null && (ascii.length > NAME_BYTES || ascii.split('.').some((label) => label.length > LABEL_BYTES));
}

/** What names of hosts and services are made of: letters, digits and hyphen (RFC 1123, 2.1), and the underscore of RFC 8552. */
const LABEL = /^[a-z0-9_-]+$/;
const NOT_ASCII = /[^ -~]/;

/**
 * In lower case, U-labels as A-labels, without the final dot; null where that cannot be. U-labels are mapped and checked by UTS 46 as
 * the URL standard's "domain to ASCII" has it, A-labels must be ones, and no top-level domain is a number (RFC 3696, section 2): that would
 * be an address with a mistake in it.
 */
export function asciiName(name: string): string | null {
  const wildcard = name.startsWith(WILDCARD) ? WILDCARD : '';
  const rest = name.slice(wildcard.length).replace(/\.$/, '').toLowerCase();
  // Percent signs, too, are decoded there.
  const ascii = NOT_ASCII.test(rest) && !rest.includes('%') ? domainToASCII(rest) : rest;
  const labels = ascii.split('.');
  if (!labels.every((label) => LABEL.test(label)) || /^\d+$/.test(labels.at(-1) ?? '')) return null;
  if (labels.some((label) => label.startsWith('xn--') && !isALabel(label))) return null;
  return wildcard + ascii;
}

/** Stands for a U-label, which is converted to it. */
function isALabel(label: string): boolean {
  const unicode = domainToUnicode(label);
  return unicode !== label && domainToASCII(unicode) === label;
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
  else if (text.slice(text.startsWith(WILDCARD) ? WILDCARD.length : 0).includes('*')) {
    advice = 'write *. at the beginning only: it stands for one or more whole labels';
  } else if (/\.\.|\.$/.test(text.replace(/\.$/, ''))) advice = 'write one dot between two labels';
  else if (/^(\*\.)?[\d.]+$/.test(text)) advice = 'write networks: [192.0.2.1/32] for an address';
  else if (/(^|\.)xn--/i.test(text)) advice = 'write the name as it is read, in its own script: it is converted';
  else if (/[^\p{L}\p{N}\p{M}._-]/u.test(text))
    advice = 'write letters, digits, - and _ between the dots, nothing else';
  return wrong('domain_name', path, `${quote(value)} is no domain name`, advice);
}
