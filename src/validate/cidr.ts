// SPDX-License-Identifier: Apache-2.0
// Is a text a CIDR, and what is its canonical form? Host bits are masked, as upstream does; an IPv4-mapped one is refused, since it would
// be an IPv4 network that says it is IPv6 (IPv4 is held v4-mapped).
import { addressKey, addressText, isIPv4, type Prefix, prefix } from '../model/address.ts';
import type { Cidr } from '../model/objects.ts';
import type { Path } from '../yaml/documents.ts';
import { doubtful, type Finding, quote, wrong } from './finding.ts';

const MAPPED_BITS = 96;

/** Of the text that was written: `masked` where it had bits beyond the prefix length. */
export interface CidrRead {
  readonly cidr: Cidr;
  readonly prefix: Prefix;
  readonly masked: boolean;
}

export function cidrText({ key, bits }: Prefix): Cidr {
  return `${addressText(key)}/${isIPv4(key) && bits >= MAPPED_BITS ? bits - MAPPED_BITS : bits}`;
}

/** null: no CIDR that may be used. */
export function readCidr(text: string): CidrRead | null {
  const read = prefix(text);
  if (read === null || /\/0\d/.test(text) || isMapped(text, read)) return null;
  const address = addressKey(text.slice(0, text.lastIndexOf('/')));
  return { cidr: cidrText(read), prefix: read, masked: address !== read.key };
}

function isMapped(text: string, { key, bits }: Prefix): boolean {
  return text.includes(':') && isIPv4(key) && bits >= MAPPED_BITS;
}

export function checkCidr(value: unknown, path: Path): Finding[] {
  if (typeof value !== 'string') return [];
  const read = readCidr(value);
  if (read?.masked) {
    return [
      doubtful(
        'host_bits',
        path,
        `${quote(value)} has bits beyond its prefix length: they are ignored`,
        `write ${read.cidr}`,
      ),
    ];
  }
  if (read) return [];
  const loose = prefix(value);
  if (loose && isMapped(value, loose)) {
    return [wrong('cidr', path, `${quote(value)} is an IPv4-mapped IPv6 network`, `write ${cidrText(loose)}`)];
  }
  const key = addressKey(value);
  if (key !== null) {
    const advice = `write ${addressText(key)}/${isIPv4(key) ? 32 : 128}`;
    return [wrong('cidr', path, `${quote(value)} has no prefix length`, advice)];
  }
  const advice = 'write an address and a prefix length, such as 10.0.0.0/8, 2001:db8::/32 or 192.0.2.1/32';
  return [wrong('cidr', path, `${quote(value)} is no CIDR`, advice)];
}
