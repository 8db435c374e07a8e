// SPDX-License-Identifier: Apache-2.0
// In which form does DNS know a name, and which texts are none? By RFC 1035, RFC 1123, RFC 8552 and UTS 46.
import assert from 'node:assert/strict';
import test from 'node:test';
import { asciiName, checkNames } from '../../src/validate/domain-name.ts';

test('names in the one form in which they are compared', () => {
  const forms: Record<string, string> = {
    ...{ 'API.Example.COM': 'api.example.com', 'example.com.': 'example.com', '*.Example.org.': '*.example.org' },
    ...{ localhost: 'localhost', '*.com': '*.com', '_ldap._tcp.corp.example': '_ldap._tcp.corp.example' },
    ...{
      'a-.b--c.example': 'a-.b--c.example',
      'r3---sn.googlevideo.com': 'r3---sn.googlevideo.com',
      '1.2.3.a': '1.2.3.a',
    },
    ...{ 'bücher.example': 'xn--bcher-kva.example', 'BÜCHER.example': 'xn--bcher-kva.example' },
    // Composed or not, of full width, with an ideographic dot: all the same to a user.
    ...{
      'bu\u0308cher.example': 'xn--bcher-kva.example',
      'ｅｘａｍｐｌｅ.com': 'example.com',
      'a。example': 'a.example',
    },
    ...{
      '*.中国': '*.xn--fiqs8s',
      'straße.example': 'xn--strae-oqa.example',
      'XN--BCHER-KVA.example': 'xn--bcher-kva.example',
    },
  };
  for (const [text, name] of Object.entries(forms)) assert.equal(asciiName(text), name, text);
});

test('what is no name', () => {
  const none = [
    ...['', '.', '*', '*.', '*.*.example.com', 'a.*.example.com', '.example.com', 'a..example.com', 'example.com..'],
    ...['exam ple.com', 'a,b.example', 'a/b.example', 'a:b.example', "a'.example", 'a\0.example', 'ä\0.example'],
    ...['192.0.2.1', '192.0.2', '1', '*.1.2', '１９２．０．２．１', '2001:db8::1', '0x7f.1'],
    // Percent signs that a URL's parser would decode, an A-label that is none, one that no U-label has, a code point that no name has.
    ...['ä%2eexample', 'xn--a.example', 'xn--zzzzzzzz-.example', 'xn--ASCII-.example', 'a\u2028b.example'],
  ];
  for (const text of none) assert.equal(asciiName(text), null, JSON.stringify(text));
});

test('253 bytes and 63 a label, counted as DNS has them', () => {
  const label = 'a'.repeat(63);
  const long = `${`${label}.`.repeat(3)}${'b'.repeat(61)}`;
  assert.equal(long.length, 253);
  const codes = (name: string): string[] => checkNames([name], []).map(({ message }) => message);
  for (const name of [long, `${long}.`, `*.${`${label}.`.repeat(3)}${'b'.repeat(59)}`])
    assert.deepEqual(codes(name), [], name);
  for (const name of [`${long}b`, `${label}a.example`, `${'ü'.repeat(60)}.example`]) {
    assert.match(codes(name)[0] ?? '', /longer than DNS allows/, name);
  }
});
