// SPDX-License-Identifier: Apache-2.0
// What holds, given what the files say and said: by table, over edits and restarts.
import assert from 'node:assert/strict';
import { hash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test from 'node:test';
import type { Host } from '../../src/model/objects.ts';
import type { Scan } from '../../src/source/folder.ts';
import { resolversIn, searchDomainsIn } from '../../src/source/host.ts';
import { StateDir } from '../../src/source/state.ts';
import { type Contents, ObjectStore } from '../../src/source/store.ts';

const HOST: Host = { node: null, addresses: [], resolvers: [] };

function policy(name: string, port: number | string, more = ''): string {
  return `apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: ${name}, namespace: shop}
spec: {podSelector: {}, egress: [{to: [{networks: [198.18.0.0/16]}], ports: [{port: ${port}}]}]${more}}
`;
}

/** What a policy allows, in a word: its port, or `nothing` for a stand-in. */
function holds({ snapshot }: Contents): Record<string, string> {
  return Object.fromEntries(
    snapshot.policies.map((one) => {
      const port = one.rules[0]?.ports?.[0];
      return [one.name, port !== undefined && port.protocol !== 'ICMP' ? String(port.port) : 'nothing'];
    }),
  );
}

function scan(
  files: Record<string, string>,
  unreadable: readonly string[] = [],
  unsettled: readonly string[] = [],
): Scan {
  return {
    unsettled,
    files: Object.entries(files)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, text]) => ({ path: name, text, hash: hash('sha256', text, 'hex') })),
    unreadable: unreadable.map((name) => ({ path: name, message: 'may not be read' })),
  };
}

const VALID = policy('a', 80);
const BROKEN = VALID.replace('198.18.0.0/16', '198.18.0.0/99');
const NO_YAML = 'kind: [';

const TABLE: {
  readonly what: string;
  /** One scan after the other; the last is judged. */
  readonly scans: readonly (
    | Record<string, string>
    | { readonly files: Record<string, string>; readonly unreadable: readonly string[] }
  )[];
  readonly policies: Record<string, string>;
  /** Codes of errors. */
  readonly problems?: readonly string[];
}[] = [
  { what: 'a valid object holds', scans: [{ x: VALID }], policies: { a: '80' } },
  { what: 'an edit holds', scans: [{ x: VALID }, { x: policy('a', 81) }], policies: { a: '81' } },
  { what: 'never valid: the stand-in', scans: [{ x: BROKEN }], policies: { a: 'nothing' }, problems: ['cidr'] },
  {
    what: 'edited into an invalid one: the last valid',
    scans: [{ x: VALID }, { x: BROKEN }],
    policies: { a: '80' },
    problems: ['cidr'],
  },
  {
    what: 'two edits, both invalid',
    scans: [{ x: VALID }, { x: BROKEN }, { x: policy('a', 'bad port') }],
    policies: { a: '80' },
  },
  { what: 'mended', scans: [{ x: VALID }, { x: BROKEN }, { x: policy('a', 82) }], policies: { a: '82' } },
  {
    what: 'the document is gone',
    scans: [{ x: `${VALID}---\n${policy('b', 1)}` }, { x: policy('b', 1) }],
    policies: { b: '1' },
  },
  { what: 'the file is gone', scans: [{ x: VALID, y: policy('b', 1) }, { y: policy('b', 1) }], policies: { b: '1' } },
  { what: 'an invalid document is gone: so is its object', scans: [{ x: VALID }, { x: BROKEN }, {}], policies: {} },
  {
    what: 'a file that is no YAML keeps all it held',
    scans: [{ x: `${VALID}---\n${policy('b', 1)}` }, { x: NO_YAML }],
    policies: { a: '80', b: '1' },
    problems: ['syntax'],
  },
  {
    what: 'a broken document leaves the others alive',
    scans: [{ x: `${VALID}---\n${NO_YAML}\n---\n${policy('b', 1)}` }],
    policies: { a: '80', b: '1' },
    problems: ['syntax'],
  },
  {
    what: 'a document that broke is kept, its neighbour edited',
    scans: [{ x: `${VALID}---\n${policy('b', 1)}` }, { x: `${NO_YAML}\n---\n${policy('b', 2)}` }],
    policies: { a: '80', b: '2' },
  },
  {
    what: 'a file that cannot be read keeps all it held',
    scans: [{ x: VALID }, { files: {}, unreadable: ['x'] }],
    policies: { a: '80' },
    problems: ['unreadable'],
  },
  {
    what: 'a folder that cannot be read keeps all it held',
    scans: [
      { 'd/x': VALID, y: policy('b', 1) },
      { files: {}, unreadable: ['d'] },
    ],
    policies: { a: '80' },
  },
  { what: 'moved to another file', scans: [{ x: VALID }, { y: VALID }], policies: { a: '80' } },
  { what: 'moved to another file and broken there', scans: [{ x: VALID }, { y: BROKEN }], policies: { a: '80' } },
  {
    what: 'twice in one scan: the first by path',
    scans: [{ x: VALID, y: policy('a', 90) }],
    policies: { a: '80' },
    problems: ['duplicate_object'],
  },
  {
    what: 'twice in one file: the first',
    scans: [{ x: `${VALID}---\n${policy('a', 90)}` }],
    policies: { a: '80' },
    problems: ['duplicate_object'],
  },
  {
    what: 'a second one that sorts before the first: the first stays',
    scans: [{ x: VALID }, { a: policy('a', 90), x: VALID }],
    policies: { a: '80' },
    problems: ['duplicate_object'],
  },
  {
    what: 'the first of two is removed: the second holds',
    scans: [{ x: VALID, y: policy('a', 90) }, { y: policy('a', 90) }],
    policies: { a: '90' },
  },
  {
    what: 'the first of two breaks: its last valid version, not the second',
    scans: [
      { x: VALID, y: policy('a', 90) },
      { x: BROKEN, y: policy('a', 90) },
    ],
    policies: { a: '80' },
  },
  {
    what: 'valid, broken, then again as it was',
    scans: [{ x: VALID }, { x: NO_YAML }, { x: VALID }],
    policies: { a: '80' },
    problems: [],
  },
];

for (const { what, scans, policies, problems } of TABLE) {
  test(what, () => {
    const store = new ObjectStore(null);
    let contents: Contents | null = null;
    for (const one of scans) {
      const { files, unreadable } =
        'files' in one && typeof one.files === 'object' ? one : { files: one, unreadable: [] };
      contents = store.update(scan(files as Record<string, string>, unreadable as readonly string[]), HOST);
    }
    assert.ok(contents);
    assert.deepEqual(holds(contents), policies);
    const errors = contents.problems.filter((each) => each.severity === 'error').map((each) => each.code);
    if (problems !== undefined) assert.deepEqual(errors, problems);
  });
}

test('the state directory remembers over a restart, in files that only root reads', (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), `postern-store-${process.pid}-`));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const open = (): ObjectStore => {
    const state = new StateDir(folder);
    const { kept, failures } = state.read();
    assert.deepEqual(failures, []);
    return new ObjectStore(state, kept);
  };
  const first = open();
  first.update(scan({ x: `${VALID}---\n${policy('b', 1)}`, y: policy('c', 2) }), HOST);
  first.save();
  const files = readdirSync(path.join(folder, 'objects'));
  assert.equal(files.length, 2);
  for (const file of files) assert.equal(statSync(path.join(folder, 'objects', file)).mode & 0o777, 0o600);

  const second = open();
  assert.deepEqual(holds(second.update(scan({ x: BROKEN, y: NO_YAML }), HOST)), { a: '80', c: '2' });
  second.save();
  assert.deepEqual(holds(open().update(scan({ x: BROKEN, y: NO_YAML }), HOST)), { a: '80', c: '2' });

  const third = open();
  third.update(scan({ x: BROKEN }), HOST);
  third.save();
  assert.deepEqual(
    holds(open().update(scan({ x: BROKEN, y: NO_YAML }), HOST)),
    { a: '80' },
    'c was deleted in between',
  );
});

test('a damaged state file is told and costs only what it held', (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), `postern-store-${process.pid}-`));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const state = new StateDir(folder);
  const store = new ObjectStore(state);
  store.update(scan({ x: VALID, y: policy('b', 1) }), HOST);
  store.save();
  const [damaged = '', other = ''] = readdirSync(path.join(folder, 'objects')).sort();
  writeFileSync(path.join(folder, 'objects', damaged), '{');
  const { kept, failures } = state.read();
  assert.deepEqual(
    failures.map((one) => one.code),
    ['STATE_CORRUPT'],
  );
  assert.equal(kept.size, 1);
  const intact = JSON.parse(readFileSync(path.join(folder, 'objects', other), 'utf8')) as { source: string };
  assert.deepEqual([...kept.keys()], [intact.source]);
});

test('a file that was emptied a moment ago keeps what it held, without a problem', () => {
  const store = new ObjectStore(null);
  store.update(scan({ x: VALID }), HOST);
  const now = store.update(scan({}, [], ['x']), HOST);
  assert.deepEqual([holds(now), now.problems], [{ a: '80' }, []]);
  assert.deepEqual(holds(store.update(scan({ x: '' }), HOST)), {});
});

test('an unchanged file is parsed once, and the snapshot does not depend on the order of files', () => {
  const store = new ObjectStore(null);
  const first = store.update(scan({ x: VALID, y: policy('b', 1) }), HOST);
  const second = store.update(scan({ x: VALID, y: policy('b', 2) }), HOST);
  assert.equal(second.snapshot.policies[0], first.snapshot.policies[0]);
  const other = new ObjectStore(null).update(scan({ p: policy('b', 1), q: VALID }), HOST);
  assert.deepEqual(other.snapshot, first.snapshot);
  assert.deepEqual(
    first.snapshot.namespaces.map((one) => [one.name, one.labels]),
    [['shop', { 'kubernetes.io/metadata.name': 'shop' }]],
  );
});

test('resolvers are the nameservers of resolv.conf, in order, without zones', () => {
  const text =
    '# x\nsearch corp.example\nnameserver 198.18.0.53\n nameserver fe80::1%eth0\nnameserver 198.18.0.53\nnameserver x\n';
  assert.deepEqual(resolversIn(text), ['198.18.0.53', 'fe80::1']);
});

test('search domains are those of the last line of resolv.conf that says any, as DNS compares names', () => {
  assert.deepEqual(searchDomainsIn('domain a.example\nsearch Corp.Example. b.example corp.example\n'), [
    'corp.example',
    'b.example',
  ]);
  assert.deepEqual(searchDomainsIn('search corp.example\ndomain a.example\n'), ['a.example']);
  for (const text of ['', 'nameserver 198.18.0.53\n', 'search .\n', 'search *.example\n', '#search a.example\n']) {
    assert.deepEqual(searchDomainsIn(text), [], text);
  }
});
