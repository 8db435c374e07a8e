// SPDX-License-Identifier: Apache-2.0
// Which number is an IP address, and does a CIDR cover it? The oracle's own arithmetic, so that nothing is shared with the
// product. Knows neither Kubernetes nor policies.

export interface Address {
  readonly family: 4 | 6;
  readonly bits: bigint;
}
export interface Cidr {
  readonly first: Address;
  readonly length: number;
}

function width(family: 4 | 6): number {
  return family === 4 ? 32 : 128;
}

function parseIPv4(text: string): Address | null {
  const parts = text.split('.');
  if (parts.length !== 4) return null;
  let bits = 0n;
  for (const part of parts) {
    if (!/^(0|[1-9][0-9]{0,2})$/.test(part) || Number(part) > 255) return null;
    bits = (bits << 8n) | BigInt(part);
  }
  return { family: 4, bits };
}

/** The 16-bit groups on one side of `::`, or null. A last group may be an IPv4 address (RFC 4291, section 2.2). */
function parseGroups(text: string): bigint[] | null {
  if (text === '') return [];
  const groups: bigint[] = [];
  const parts = text.split(':');
  for (const [index, part] of parts.entries()) {
    if (part.includes('.')) {
      const inner = parseIPv4(part);
      if (inner === null || index !== parts.length - 1) return null;
      groups.push(inner.bits >> 16n, inner.bits & 0xffffn);
    } else {
      if (!/^[0-9a-fA-F]{1,4}$/.test(part)) return null;
      groups.push(BigInt(`0x${part}`));
    }
  }
  return groups;
}

function parseIPv6(text: string): Address | null {
  const halves = text.split('::');
  if (halves.length > 2) return null;
  const left = parseGroups(halves[0] ?? '');
  const right = halves.length === 2 ? parseGroups(halves[1] ?? '') : [];
  if (left === null || right === null) return null;
  const missing = 8 - left.length - right.length;
  if (halves.length === 2 ? missing < 1 : missing !== 0) return null;
  const groups = [...left, ...Array<bigint>(missing).fill(0n), ...right];
  return { family: 6, bits: groups.reduce((bits, group) => (bits << 16n) | group, 0n) };
}

/** An IPv4 or IPv6 address in text, or null. No zones. */
export function parseAddress(text: string): Address | null {
  return text.includes(':') ? parseIPv6(text) : parseIPv4(text);
}

/** `10.0.0.0/8`; host bits are masked (Kubernetes takes them with a warning). */
export function parseCidr(text: string): Cidr | null {
  const [base, length, ...rest] = text.split('/');
  const address = parseAddress(base ?? '');
  if (address === null || length === undefined || rest.length > 0 || !/^(0|[1-9][0-9]{0,2})$/.test(length)) return null;
  const prefix = Number(length);
  if (prefix > width(address.family)) return null;
  const host = BigInt(width(address.family) - prefix);
  return { first: { family: address.family, bits: (address.bits >> host) << host }, length: prefix };
}

/** Families never mix: `::/0` covers no IPv4 address. */
export function covers(cidr: Cidr, address: Address): boolean {
  const host = BigInt(width(address.family) - cidr.length);
  return cidr.first.family === address.family && cidr.first.bits >> host === address.bits >> host;
}

export function coversText(cidr: string, address: Address): boolean {
  const parsed = parseCidr(cidr);
  return parsed !== null && covers(parsed, address);
}

export function equal(a: Address, b: Address): boolean {
  return a.family === b.family && a.bits === b.bits;
}

export function isOneOf(address: Address, texts: readonly string[]): boolean {
  return texts.some((text) => {
    const other = parseAddress(text);
    return other !== null && equal(other, address);
  });
}

/** The order of 16 bytes where IPv4 is held as ::ffff:a.b.c.d. */
export function compareMapped(a: Address, b: Address): number {
  const mapped = (x: Address) => (x.family === 4 ? (0xffffn << 32n) | x.bits : x.bits);
  const left = mapped(a);
  const right = mapped(b);
  return left < right ? -1 : left > right ? 1 : 0;
}

export function last(cidr: Cidr): Address {
  const host = BigInt(width(cidr.first.family) - cidr.length);
  return { family: cidr.first.family, bits: cidr.first.bits | ((1n << host) - 1n) };
}

/** The address `step` further, or null past either end of the family. */
export function move(address: Address, step: bigint): Address | null {
  const bits = address.bits + step;
  return bits < 0n || bits >> BigInt(width(address.family)) !== 0n ? null : { family: address.family, bits };
}

/** Text that `parseAddress` reads back; IPv6 with its longest run of zeros as `::` (RFC 5952). */
export function format(address: Address): string {
  if (address.family === 4) {
    return [24n, 16n, 8n, 0n].map((shift) => (address.bits >> shift) & 0xffn).join('.');
  }
  const groups = Array.from({ length: 8 }, (_, i) => ((address.bits >> BigInt(112 - 16 * i)) & 0xffffn).toString(16));
  const text = groups.join(':');
  const runs = text.match(/(?<![0-9a-f])0(:0)+(?![0-9a-f])/g) ?? [];
  const longest = runs.reduce((best, run) => (run.length > best.length ? run : best), '');
  if (longest === '') return text;
  const at = text.search(new RegExp(`(?<![0-9a-f])${longest}(?![0-9a-f])`));
  return `${text.slice(0, at).replace(/:$/, '')}::${text.slice(at + longest.length).replace(/^:/, '')}`;
}
