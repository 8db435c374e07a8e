// SPDX-License-Identifier: Apache-2.0
// Addresses and prefixes as strings that sort and compare: 32 lower-case hex digits in network order, IPv4 held v4-mapped,
// so that a set, a map or a sort needs no other form. Knows nothing of policies.

import ipaddr from 'ipaddr.js';
import type { AddressKey } from './tables.ts';

const MAPPED = '00000000000000000000ffff';

/** `bits` of the 128 count, so an IPv4 /8 is 104. Bits of `key` beyond them are zero. */
export interface Prefix {
  readonly key: AddressKey;
  readonly bits: number;
}

/** The prefix below which IPv4 lives; nothing is inherited across it. */
export const IPV4: Prefix = { key: `${MAPPED}00000000`, bits: 96 };

/** Every IPv6 address and, by itself, every IPv4 one would be below this. */
export const EVERYTHING: Prefix = { key: '0'.repeat(32), bits: 0 };

const V4 = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/;

/** The key of an address in text, or null where it is none (leading zeros, zones and short IPv4 forms are none). */
export function addressKey(text: string): AddressKey | null {
  const v4 = V4.exec(text);
  if (v4 !== null) {
    let hex = '';
    for (let i = 1; i <= 4; i++) {
      const part = v4[i] as string;
      const byte = Number(part);
      if (byte > 255 || (part.length > 1 && part.startsWith('0'))) return null;
      hex += byte.toString(16).padStart(2, '0');
    }
    return MAPPED + hex;
  }
  if (!text.includes(':') || text.includes('%') || !ipaddr.IPv6.isValid(text)) return null;
  return Buffer.from(ipaddr.IPv6.parse(text).toByteArray()).toString('hex');
}

export function isIPv4(key: AddressKey): boolean {
  return key.startsWith(MAPPED);
}

/** As RFC 5952 writes it; IPv4 in dots. */
export function addressText(key: AddressKey): string {
  const bytes = Buffer.from(key, 'hex');
  if (isIPv4(key)) return bytes.subarray(12).join('.');
  return new ipaddr.IPv6([...bytes]).toRFC5952String();
}

/** The prefix of a CIDR in text, host bits masked, or null where it is none. */
export function prefix(cidr: string): Prefix | null {
  const slash = cidr.lastIndexOf('/');
  if (slash < 0 || !/^\d{1,3}$/.test(cidr.slice(slash + 1))) return null;
  const key = addressKey(cidr.slice(0, slash));
  if (key === null) return null;
  const v4 = cidr.includes('.') && !cidr.includes(':');
  const length = Number(cidr.slice(slash + 1));
  if (length > (v4 ? 32 : 128)) return null;
  const bits = v4 ? 96 + length : length;
  return { key: mask(key, bits), bits };
}

/** `key` with all but its first `bits` bits zero. */
export function mask(key: AddressKey, bits: number): AddressKey {
  const digits = bits >> 2;
  const rest = bits & 3;
  if (digits >= 32) return key;
  const last = rest === 0 ? '0' : (Number.parseInt(key.charAt(digits), 16) & (0xf0 >> rest) & 0xf).toString(16);
  return key.slice(0, digits) + last + '0'.repeat(31 - digits);
}

export function contains(outer: Prefix, key: AddressKey): boolean {
  return mask(key, outer.bits) === outer.key;
}
