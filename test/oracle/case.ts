// SPDX-License-Identifier: Apache-2.0
// How is a case of the oracle's tables written? `shop/orders -> 192.0.2.1 443/TCP => deny no_rule NetworkPolicy/shop/db`;
// `192.0.2.1(api.example.com,b.example)` is an address to which these names led.
// Knows the notation alone.
import assert from 'node:assert/strict';
import { parseAllDocuments } from 'yaml';
import { type Decision, decide, type Query } from './decide.ts';
import type { Host, Protocol } from './kubernetes.ts';

export interface Case {
  readonly text: string;
  readonly query: Query;
  /** `allow rule NetworkPolicy/shop/db 0`; policy and rule only where there are any. */
  readonly expected: string;
}

/** All documents of a YAML text as plain objects. */
export function documents(text: string): unknown[] {
  return parseAllDocuments(text)
    .map((document) => {
      assert.deepEqual(document.errors, []);
      return document.toJS() as unknown;
    })
    .filter((object) => object !== null);
}

const CASE =
  /^(?<from>\S+) -> (?<to>\S+?)(?:\((?<names>\S*)\))? (?:(?<port>\d+)\/(?<protocol>TCP|UDP|SCTP)|ICMP(?::(?<type>\w+))?) => (?<expected>.+)$/;

export function parseCase(text: string): Case {
  const match = CASE.exec(text.trim())?.groups;
  assert.ok(match, `not a case: ${text}`);
  const { from = '', to = '', names, port, protocol, type, expected = '' } = match;
  const where = { from, to, ...(names === undefined ? {} : { names: names.split(',') }) };
  const query: Query =
    port === undefined
      ? { ...where, port: null, protocol: 'ICMP', ...(type === undefined ? {} : { icmpType: type }) }
      : { ...where, port: Number(port), protocol: protocol as Protocol };
  return { text: text.trim(), query, expected: expected.trim() };
}

/** A decision in the notation of `expected`. */
export function spell({ verdict, reason, policy, rule }: Decision): string {
  return [verdict, reason, policy, rule].filter((part) => part !== null).join(' ');
}

/** Asserts that the oracle decides each line of `cases` so. */
export function checkCases(objects: readonly unknown[], host: Host, cases: string): void {
  const lines = cases.split('\n').filter((line) => line.trim() !== '');
  assert.ok(lines.length > 0, 'no cases');
  for (const { text, query, expected } of lines.map(parseCase)) {
    assert.equal(spell(decide(objects, host, query)), expected, text);
  }
}
