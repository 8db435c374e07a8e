// SPDX-License-Identifier: Apache-2.0
// Names, message by message: what a workload asks a resolver, what an answer teaches and what teaches nothing, and that what was learned
// decides. Messages are encoded by dns-packet, which knows nothing of ours; real resolvers and clients are resolvers.test.ts's.
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import {
  AUTHORITATIVE_ANSWER,
  type Answer as DnsAnswer,
  encode,
  type Packet,
  RECURSION_DESIRED,
  TRUNCATED_RESPONSE,
} from 'dns-packet';
import {
  ASKED_PER_WORKLOAD,
  ASKED_S,
  KIND_NOT_WORLD,
  LEARNED_PER_WORKLOAD,
  LOSS_LEARNED_CROWDED,
  LOSS_LEARNED_EVICTED,
  LOSS_QUESTIONS_EVICTED,
  LOSS_TEXTS_EVICTED,
  MAX_TTL_S,
  NAME_ANYWHERE,
  NAMES_PER_ADDRESS,
  ROW_ISOLATED,
  ROW_NAMES,
  TEXTS_PER_WORKLOAD,
} from '#build/generated/abi.ts';
import { addressKey, fragment, ipv4, ipv6, LOCAL4, LOCAL6, tcp, udp } from './packet.ts';
import { always, id, on, Programs, SLOT } from './programs.ts';

const RESOLVER4 = '198.18.1.53';
const RESOLVER6 = 'fd00::1:53';
const SITE4 = '198.18.2.1';
const SITE6 = 'fd00::2:1';
const RULESET = id(0xa);
const SHADOW = id(0xb);
const STRIPE = id(0xc1);
const BUCKETS = id(0xc2);
/** The interface that frames of test runs come through. */
const LOOPBACK = 1;
const PASSES = -1;

let programs: Programs;
before(() => {
  const sizes = {
    asked: 4096,
    asked_order: 4096,
    texts: 4096,
    told: 4096,
    told_order: 4096,
    learned: 16384,
    learned_order: 16384,
  };
  programs = new Programs(sizes);
});
after(() => programs.close());

const DNS = on(17, 53, 53, { policy: 0 });
let untaughtBefore: ReadonlyMap<string, number>;
beforeEach(() => {
  programs.reset();
  programs.row({ ruleset: RULESET, flags: ROW_ISOLATED | ROW_NAMES, entries: [DNS] });
  programs.row({ ruleset: RULESET, subject: STRIPE, entries: [on(6, 443, 443, { policy: 1 })] });
  programs.row({ ruleset: RULESET, subject: BUCKETS, entries: [on(6, 80, 80, { policy: 2 })] });
  programs.pattern('api.stripe.com', STRIPE);
  programs.pattern('*.buckets.example', BUCKETS);
  programs.resolver(RESOLVER4);
  programs.resolver(RESOLVER6);
  programs.bind(RULESET);
  programs.guard(LOOPBACK, {}, LOCAL4, LOCAL6);
  untaughtBefore = programs.untaught();
});

interface Asking {
  readonly id?: number;
  readonly type?: 'A' | 'AAAA' | 'TXT';
  readonly port?: number;
  readonly resolver?: string;
  readonly resolverPort?: number;
}

function frameBetween(resolver: string, out: boolean, ports: { from: number; to: number }, bytes: Buffer): Buffer {
  const local = resolver.includes(':') ? LOCAL6 : LOCAL4;
  const ends = out ? { from: local, to: resolver } : { from: resolver, to: local };
  return resolver.includes(':') ? ipv6(ends, udp({ ...ports, bytes })) : ipv4(ends, udp({ ...ports, bytes }));
}

/** The workload asks; true: it may. */
function ask(
  name: string,
  { id = 7, type = 'A', port = 40000, resolver = RESOLVER4, resolverPort = 53 }: Asking = {},
): boolean {
  const bytes = encode({ type: 'query', id, flags: RECURSION_DESIRED, questions: [{ type, name }] });
  const frame = frameBetween(resolver, true, { from: port, to: resolverPort }, bytes);
  const passes = (programs.object.testRun('guard_out', frame, 1).retval | 0) === PASSES;
  programs.forgetCounts();
  return passes;
}

/** These bytes come from a resolver. */
function arrive(bytes: Buffer, { port = 40000, resolver = RESOLVER4, resolverPort = 53 }: Asking = {}): void {
  const frame = frameBetween(resolver, false, { from: resolverPort, to: port }, bytes);
  assert.equal(programs.object.testRun('guard_in', frame, 1).retval | 0, PASSES, 'no message is ever stopped');
}

function message(
  name: string,
  answers: readonly DnsAnswer[],
  asking: Asking = {},
  fields: Partial<Packet> = {},
): Buffer {
  const { id = 7, type = 'A' } = asking;
  return encode({ type: 'response', id, questions: [{ type, name }], answers: [...answers], ...fields });
}

const a = (name: string, data: string, ttl = 300): DnsAnswer => ({ type: 'A', name, data, ttl });
const aaaa = (name: string, data: string, ttl = 300): DnsAnswer => ({ type: 'AAAA', name, data, ttl });
const cname = (name: string, data: string): DnsAnswer => ({ type: 'CNAME', name, data, ttl: 300 });

/** Asked and answered at once. */
function resolve(name: string, addresses: readonly string[], asking: Asking = {}, ttl = 300): void {
  const type = addresses[0]?.includes(':') ? 'AAAA' : 'A';
  ask(name, { type, ...asking });
  const answers = addresses.map((data) => (type === 'A' ? a(name, data, ttl) : aaaa(name, data, ttl)));
  arrive(message(name, answers, { type, ...asking }), asking);
}

/** The verdict on a new connection. */
function connect(to: string, port: number): string {
  const part = tcp({ to: port, flags: ['syn'] });
  const frame = to.includes(':') ? ipv6({ to }, part) : ipv4({ to }, part);
  return programs.run(frame, 1, 'guard_out').reason;
}
const untaught = (): Record<string, number> => Object.fromEntries(programs.untaught(untaughtBefore));
/** What leads where: name, reversed as the kernel has it, and address. */
function known(): string[] {
  const names = new Map(programs.told().map(({ number, name }) => [number, name]));
  return programs
    .learned()
    .map(({ name, address }) => `${names.get(name)} ${address}`)
    .toSorted();
}
const leads = (name: string, address: string) => `${name.split('.').toReversed().join('.')} ${addressKey(address)}`;

describe('what an answer teaches', () => {
  test('an allowed name opens its address, on its own ports, and nothing else', () => {
    assert.equal(connect(SITE4, 443), 'no_rule');
    resolve('api.stripe.com', [SITE4]);
    assert.deepEqual(known(), [leads('api.stripe.com', SITE4)]);
    assert.equal(connect(SITE4, 443), 'rule');
    assert.equal(connect(SITE4, 80), 'no_rule');
    assert.equal(connect('198.18.2.2', 443), 'no_rule');
    assert.deepEqual(untaught(), {});
  });

  test('IPv6, from a resolver of IPv6', () => {
    resolve('api.stripe.com', [SITE6], { resolver: RESOLVER6 });
    assert.equal(connect(SITE6, 443), 'rule');
    assert.equal(connect(SITE4, 443), 'no_rule');
  });

  test('the case of a name does not matter, in the question or in the answer', () => {
    ask('aPi.StRiPe.CoM');
    arrive(message('API.stripe.com', [a('api.STRIPE.com', SITE4)]));
    assert.deepEqual(known(), [leads('api.stripe.com', SITE4)]);
    assert.equal(connect(SITE4, 443), 'rule');
  });

  test('a wildcard stands for whole labels below, never for its own domain', () => {
    for (const [name, address, expected] of [
      ['a.buckets.example', '198.18.3.1', 'rule'],
      ['a.b.c.buckets.example', '198.18.3.2', 'rule'],
      ['buckets.example', '198.18.3.3', 'no_rule'],
      ['abuckets.example', '198.18.3.4', 'no_rule'],
      ['api.stripe.com.evil.example', '198.18.3.5', 'no_rule'],
      ['xapi.stripe.com', '198.18.3.6', 'no_rule'],
    ] as const) {
      resolve(name, [address]);
      assert.equal(connect(address, 80), expected, name);
      assert.equal(connect(address, 443), 'no_rule', name);
    }
  });

  test('what stands between is followed: aliases, and records of other types', () => {
    ask('api.stripe.com');
    arrive(
      message('api.stripe.com', [
        cname('api.stripe.com', 'edge.cdn.example'),
        { type: 'TXT', name: 'edge.cdn.example', data: 'a', ttl: 1 },
        cname('edge.cdn.example', 'pop7.cdn.example'),
        a('pop7.cdn.example', SITE4),
        a('pop7.cdn.example', '198.18.2.9'),
      ]),
    );
    assert.deepEqual(known(), [leads('api.stripe.com', SITE4), leads('api.stripe.com', '198.18.2.9')].toSorted());
    assert.equal(connect('198.18.2.9', 443), 'rule');
  });

  test('as many addresses as the frame of a test run holds, of both families', () => {
    const many4 = Array.from({ length: 110 }, (_, n) => `198.18.4.${n}`);
    const many6 = Array.from({ length: 80 }, (_, n) => `fd00::4:${n.toString(16)}`);
    resolve('api.stripe.com', many4);
    resolve('api.stripe.com', many6, { id: 8 });
    assert.equal(programs.learned().length, 190);
    assert.equal(programs.told().length, 1, 'one name, known once');
    for (const address of [many4[0], many4[109], many6[0], many6[79]])
      assert.equal(connect(address ?? '', 443), 'rule');
  });

  test('a name of 253 bytes, whole; one byte tells two of them apart', () => {
    const label = 'x'.repeat(63);
    const long = `${label}.${label}.${label}.${'y'.repeat(61)}`;
    const other = `z${long.slice(1)}`;
    assert.equal(long.length, 253);
    programs.pattern(long, STRIPE);
    resolve(long, [SITE4]);
    resolve(other, ['198.18.2.2']);
    assert.deepEqual(known(), [leads(long, SITE4), leads(other, '198.18.2.2')].toSorted());
    assert.equal(connect(SITE4, 443), 'rule');
    assert.equal(connect('198.18.2.2', 443), 'no_rule');
  });

  test('what a name resolves to is told also where no pattern matches it', () => {
    resolve('unknown.example', [SITE4]);
    const outcome = programs.run(ipv4({ to: SITE4 }, tcp({ to: 443, flags: ['syn'] })), 1, 'guard_out');
    const [told] = programs.told();
    assert.deepEqual([outcome.reason, told?.name, told?.class], ['no_rule', 'example.unknown', id(0)]);
    assert.equal(outcome.events[0]?.name, told?.number);
  });

  test('several names at one address each open their own ports', () => {
    resolve('api.stripe.com', [SITE4]);
    resolve('a.buckets.example', [SITE4], { id: 8 });
    assert.deepEqual([connect(SITE4, 443), connect(SITE4, 80), connect(SITE4, 22)], ['rule', 'rule', 'no_rule']);
  });

  test('eight names lead to one address; a ninth is counted, and takes the place of one that has expired', () => {
    const crowded = programs.lost(LOSS_LEARNED_CROWDED);
    for (let n = 1; n < NAMES_PER_ADDRESS; n += 1) resolve(`n${n}.example`, [SITE4]);
    resolve('api.stripe.com', [SITE4]);
    assert.equal(connect(SITE4, 443), 'rule');
    resolve('a.buckets.example', [SITE4]);
    assert.equal(programs.lost(LOSS_LEARNED_CROWDED) - crowded, 1);
    assert.equal(connect(SITE4, 80), 'no_rule');
    resolve('n1.example', [SITE4]);
    programs.ageNames(301);
    resolve('a.buckets.example', [SITE4]);
    assert.deepEqual([connect(SITE4, 80), connect(SITE4, 443)], ['rule', 'no_rule']);
    assert.equal(programs.learned().length, NAMES_PER_ADDRESS);
  });

  test('a truncated answer teaches what is in it', () => {
    ask('api.stripe.com');
    arrive(
      message('api.stripe.com', [a('api.stripe.com', SITE4)], {}, { flags: TRUNCATED_RESPONSE | AUTHORITATIVE_ANSWER }),
    );
    assert.equal(connect(SITE4, 443), 'rule');
  });

  test('a workload without any policy learns, too: a policy may come', () => {
    programs.bind(id(0));
    resolve('api.stripe.com', [SITE4]);
    programs.bind(RULESET);
    assert.equal(connect(SITE4, 443), 'rule');
  });

  test('a ruleset that has no rows of names is not asked for them', () => {
    programs.row({ ruleset: SHADOW, flags: ROW_ISOLATED, entries: [DNS] });
    programs.row({ ruleset: SHADOW, subject: STRIPE, entries: [always({ policy: 1 })] });
    programs.bind(SHADOW);
    resolve('api.stripe.com', [SITE4]);
    assert.equal(connect(SITE4, 443), 'no_rule');
  });
});

describe('what teaches nothing', () => {
  const nothing = (why: Record<string, number>) => {
    assert.deepEqual(untaught(), why);
    assert.deepEqual(programs.learned(), []);
    assert.equal(connect(SITE4, 443), 'no_rule');
  };
  const good = () => message('api.stripe.com', [a('api.stripe.com', SITE4)]);

  test('an answer that nobody asked for', () => {
    arrive(good());
    nothing({ unasked: 1 });
  });

  test('a second answer', () => {
    ask('api.stripe.com');
    arrive(message('api.stripe.com', []));
    arrive(good());
    nothing({ unasked: 1 });
  });

  test('an answer from somebody else, even if he was asked', () => {
    ask('api.stripe.com', { resolver: '198.18.1.99' });
    assert.deepEqual(programs.asked(), []);
    arrive(good(), { resolver: '198.18.1.99' });
    nothing({});
  });

  for (const [what, asking] of [
    ['number', { id: 8 }],
    ['port', { port: 40001 }],
    ['resolver', { resolver: RESOLVER6 }],
  ] as const) {
    test(`an answer with another ${what}`, () => {
      ask('api.stripe.com');
      arrive(message('api.stripe.com', [a('api.stripe.com', SITE4)], asking), asking);
      nothing({ unasked: 1 });
    });
  }

  test('an answer from another port of the resolver', () => {
    ask('api.stripe.com');
    arrive(good(), { resolverPort: 54 });
    nothing({});
  });

  test('an answer to another name or type; the true one may still come', () => {
    ask('api.stripe.com');
    arrive(message('api.stripe.co', [a('api.stripe.co', SITE4)]));
    arrive(message('api.stripe.com', [aaaa('api.stripe.com', SITE6)], { type: 'AAAA' }));
    nothing({ other_question: 2 });
    arrive(good());
    assert.equal(connect(SITE4, 443), 'rule');
  });

  test('an answer that comes late', () => {
    ask('api.stripe.com');
    programs.ageNames(ASKED_S + 1);
    arrive(good());
    nothing({ late: 1 });
  });

  test('a refused question is not kept', () => {
    programs.row({ ruleset: RULESET, flags: ROW_ISOLATED | ROW_NAMES });
    assert.equal(ask('api.stripe.com'), false);
    arrive(good());
    nothing({ unasked: 1 });
  });

  test('no such name, no address, and failures are no losses; who fails may be asked again', () => {
    ask('api.stripe.com');
    arrive(message('api.stripe.com', [], {}, { flags: 2 }));
    arrive(good());
    assert.equal(connect(SITE4, 443), 'rule');
    assert.deepEqual(untaught(), {});
    ask('no.such.example', { id: 9 });
    arrive(message('no.such.example', [], { id: 9 }, { flags: 3 }));
    arrive(message('no.such.example', [a('no.such.example', SITE4)], { id: 9 }));
    assert.deepEqual(untaught(), { unasked: 1 });
  });

  test('a question comes back as an answer', () => {
    ask('api.stripe.com');
    arrive(
      encode({
        type: 'query',
        id: 7,
        questions: [{ type: 'A', name: 'api.stripe.com' }],
        answers: [a('api.stripe.com', SITE4)],
      }),
    );
    nothing({ bad_header: 1 });
  });

  test('fragments', () => {
    ask('api.stripe.com', { resolver: RESOLVER6 });
    const ends = { from: RESOLVER6, to: LOCAL6 };
    const bytes = message('api.stripe.com', [a('api.stripe.com', SITE4)]);
    programs.object.testRun(
      'guard_in',
      ipv6(
        ends,
        fragment({ more: true, id: 1 }),
        udp({ from: 53, to: 40000, bytes: Buffer.concat([bytes, Buffer.alloc(8 - (bytes.length % 8))]) }),
      ),
      1,
    );
    nothing({ fragment: 1 });
  });

  const broken: [what: string, why: string, edit: (good: Buffer) => Buffer][] = [
    ['less than a header', 'truncated_message', (bytes) => bytes.subarray(0, 11)],
    ['two questions', 'bad_header', (bytes) => write(bytes, 4, 0, 2)],
    ['no question', 'bad_header', (bytes) => write(bytes, 4, 0, 0)],
    ['a status query', 'bad_header', (bytes) => write(bytes, 2, 0x90)],
    ['a name without an end', 'bad_name', (bytes) => bytes.subarray(0, 20)],
    ['a name in which a label is a pointer', 'bad_name', (bytes) => write(bytes, 12, 0xc0, 12)],
    ['a label of a reserved kind', 'bad_name', (bytes) => write(bytes, 12, 0x40)],
    ['a dot inside a label', 'bad_name', (bytes) => write(bytes, 14, 0x2e)],
    ['a zero inside a label', 'bad_name', (bytes) => write(bytes, 14, 0)],
    ['a space inside a label', 'bad_name', (bytes) => write(bytes, 14, 0x20)],
    [
      'the root for a name',
      'bad_name',
      (bytes) => Buffer.concat([write(bytes, 12, 0).subarray(0, 13), bytes.subarray(28)]),
    ],
    ['more records than there are', 'bad_name', (bytes) => write(bytes, 6, 0, 2)],
    ['a record that ends early', 'truncated_message', (bytes) => bytes.subarray(0, bytes.length - 1)],
    ['a record without its header', 'truncated_message', (bytes) => bytes.subarray(0, 32 + 16 + 4)],
    ['an address of 3 bytes', 'bad_record', (bytes) => write(bytes.subarray(0, bytes.length - 1), bytes.length - 5, 3)],
    ['an owner that points forward', 'bad_name', (bytes) => pointedAt(bytes, 60)],
    ['an owner that points at itself', 'bad_name', (bytes) => pointedAt(bytes, 32)],
    ['an owner that points into the header', 'bad_name', (bytes) => pointedAt(bytes, 11)],
    ['a record that is longer than the message', 'truncated_message', (bytes) => write(bytes, bytes.length - 6, 0xff)],
  ];
  function write(bytes: Buffer, at: number, ...values: readonly number[]): Buffer {
    const copy = Buffer.from(bytes);
    copy.set(values, at);
    return copy;
  }
  /** The owner of the only record as a pointer. */
  function pointedAt(bytes: Buffer, target: number): Buffer {
    return Buffer.concat([
      bytes.subarray(0, 32),
      Buffer.from([0xc0 | (target >> 8), target & 0xff]),
      bytes.subarray(32 + 16),
    ]);
  }
  for (const [what, why, edit] of broken) {
    test(`${what}: ${why}`, () => {
      ask('api.stripe.com');
      const bytes = good();
      assert.equal(bytes.length, 12 + 16 + 4 + 16 + 10 + 4, 'the name stands twice, in full');
      arrive(edit(bytes));
      nothing({ [why]: 1 });
      assert.equal(programs.asked().length, 1, 'the true one may still come');
      arrive(pointedAt(bytes, 12));
      assert.equal(connect(SITE4, 443), 'rule', 'as it does, its owner a pointer');
    });
  }

  test('one bad record behind a hundred good ones: none is learned', () => {
    ask('api.stripe.com');
    const many = Array.from({ length: 100 }, (_, n) => a('api.stripe.com', `198.18.4.${n}`));
    const bytes = message('api.stripe.com', [...many, a('api.stripe.com', SITE4)]);
    arrive(bytes.subarray(0, bytes.length - 1));
    nothing({ truncated_message: 1 });
  });

  test('a question that can not be read is counted, and passes', () => {
    for (const bytes of [Buffer.alloc(0), Buffer.alloc(12), Buffer.from('000700000001000000000000ff', 'hex')]) {
      const frame = frameBetween(RESOLVER4, true, { from: 40000, to: 53 }, bytes);
      assert.equal(programs.object.testRun('guard_out', frame, 1).retval | 0, PASSES);
    }
    programs.forgetCounts();
    nothing({ unreadable_question: 3 });
  });

  test('other types are neither kept nor counted', () => {
    ask('api.stripe.com', { type: 'TXT' });
    arrive(message('api.stripe.com', [a('api.stripe.com', SITE4)], { type: 'TXT' }));
    nothing({});
  });
});

describe('outside of World', () => {
  const LINK_LOCAL = '169.254.169.254';
  beforeEach(() => {
    programs.network(2, '169.254.0.0', 112, id(1));
    programs.identity('198.18.2.7', { id: id(0xd1), kind: KIND_NOT_WORLD | 5 });
  });

  test('a name that leads there is counted, and opens nothing', () => {
    resolve('api.stripe.com', [LINK_LOCAL, '198.18.2.7', SITE4]);
    assert.deepEqual(untaught(), { not_world: 1 });
    assert.deepEqual(
      [LINK_LOCAL, '198.18.2.7', SITE4].map((to) => connect(to, 443)),
      ['no_rule', 'no_rule', 'rule'],
    );
  });

  test('a policy that says `answers: Any` follows it', () => {
    programs.row({ ruleset: RULESET, subject: STRIPE, kind: NAME_ANYWHERE, entries: [on(6, 443, 443, { policy: 4 })] });
    resolve('api.stripe.com', [LINK_LOCAL]);
    assert.equal(connect(LINK_LOCAL, 443), 'rule');
  });
});

describe('time', () => {
  test('an answer counts for its time, and at least for the shortest; later ones prolong', () => {
    programs.settings({ shortestTtlS: 60 });
    resolve('api.stripe.com', [SITE4], {}, 5);
    programs.ageNames(59);
    assert.equal(connect(SITE4, 443), 'rule');
    programs.ageNames(2);
    assert.equal(connect(SITE4, 443), 'no_rule');
    resolve('api.stripe.com', [SITE4], {}, 300);
    resolve('api.stripe.com', [SITE4], {}, 0);
    programs.ageNames(299);
    assert.equal(connect(SITE4, 443), 'rule', 'a shorter one takes nothing away');
    assert.equal(programs.learned().length, 1);
  });

  test('a time that is negative is none, and none is longer than a week', () => {
    const now = () => Number(process.hrtime.bigint() / 1_000_000_000n);
    resolve('api.stripe.com', [SITE4], {}, 0x80000000);
    assert(Math.abs((programs.learned()[0]?.expiresS ?? 0) - now()) < 60);
    resolve('api.stripe.com', [SITE4], {}, 0x7fffffff);
    assert(Math.abs((programs.learned()[0]?.expiresS ?? 0) - now() - MAX_TTL_S) < 60);
  });
});

describe('precedence', () => {
  const CLASS = id(0xe1);
  const verdict = (port = 443) => {
    const { verdict, reason, rule, events } = programs.run(
      ipv4({ to: SITE4 }, tcp({ to: port, flags: ['syn'] })),
      1,
      'guard_out',
    );
    return { verdict, reason, rule, name: events[0]?.name };
  };
  beforeEach(() => {
    programs.network(0, SITE4, 128, CLASS);
    resolve('api.stripe.com', [SITE4]);
  });

  for (const [what, name, address, expected] of [
    ['Accept by name before Deny by address', { admin: (1 << 2) | 0 }, { admin: (2 << 2) | 1 }, 'admin_accept'],
    ['Deny by address before Accept by name', { admin: (2 << 2) | 0 }, { admin: (1 << 2) | 1 }, 'admin_deny'],
    ['Pass by address before Accept by name', { admin: (2 << 2) | 0 }, { admin: (1 << 2) | 2 }, 'no_rule'],
    ['Pass by address, a policy by name', { policy: 3 }, { admin: (1 << 2) | 2 }, 'rule'],
  ] as const) {
    test(what, () => {
      programs.row({ ruleset: RULESET, subject: STRIPE, entries: [always(name)] });
      programs.row({ ruleset: RULESET, subject: CLASS, entries: [always(address)] });
      assert.equal(verdict().reason, expected);
    });
  }

  test('a Limit is satisfied by a name', () => {
    programs.row({ ruleset: RULESET, flags: ROW_ISOLATED | ROW_NAMES, limits: 1, entries: [DNS] });
    assert.equal(verdict().reason, 'limit');
    programs.row({ ruleset: RULESET, subject: STRIPE, entries: [always({ policy: 3, limits: 1 })] });
    assert.equal(verdict().reason, 'rule');
  });

  test('audited by the shadow ruleset alone, and told with the name', () => {
    programs.row({ ruleset: SHADOW, flags: ROW_ISOLATED | ROW_NAMES });
    programs.bind(RULESET, SHADOW);
    const outcome = verdict();
    assert.deepEqual([outcome.verdict, outcome.reason, outcome.name], ['audit', 'no_rule', programs.told()[0]?.number]);
  });
});

describe('budgets', () => {
  test('questions: a flood takes the place of the oldest of its own', () => {
    const evicted = programs.lost(LOSS_QUESTIONS_EVICTED);
    for (let n = 0; n < ASKED_PER_WORKLOAD + 100; n += 1) ask('api.stripe.com', { id: n });
    assert.equal(programs.asked().length, ASKED_PER_WORKLOAD);
    assert.equal(programs.object.dump('asked_order').count, ASKED_PER_WORKLOAD);
    assert.equal(programs.lost(LOSS_QUESTIONS_EVICTED) - evicted, 100);
    arrive(message('api.stripe.com', [a('api.stripe.com', SITE4)], { id: 99 }));
    assert.equal(connect(SITE4, 443), 'no_rule');
    arrive(message('api.stripe.com', [a('api.stripe.com', SITE4)], { id: 100 }));
    assert.equal(connect(SITE4, 443), 'rule');
  });

  test('names: the oldest go first, those that are used stay', () => {
    const evicted = programs.lost(LOSS_TEXTS_EVICTED);
    resolve('a.buckets.example', ['198.18.2.9']);
    resolve('api.stripe.com', [SITE4]);
    for (let n = 0; n < TEXTS_PER_WORKLOAD + 100; n += 1) {
      resolve(`n${n}.example`, ['198.18.9.9'], {}, 0);
      if (n % 100 === 0) resolve('api.stripe.com', [SITE4]);
    }
    assert.equal(programs.told().length, programs.object.dump('texts').count);
    assert(programs.told().length <= TEXTS_PER_WORKLOAD);
    assert(programs.object.dump('told_order').count <= TEXTS_PER_WORKLOAD);
    assert.equal(connect(SITE4, 443), 'rule');
    assert.equal(connect('198.18.2.9', 80), 'no_rule');
    assert(programs.lost(LOSS_TEXTS_EVICTED) > evicted);
  });

  test('addresses: the oldest go first, those that are used stay', () => {
    const evicted = programs.lost(LOSS_LEARNED_EVICTED);
    const address = (n: number) => `198.18.${16 + Math.floor(n / 250)}.${n % 250}`;
    resolve('api.stripe.com', [SITE4]);
    resolve('api.stripe.com', ['198.18.2.9']);
    for (let n = 0; n < LEARNED_PER_WORKLOAD + 100; n += 100) {
      resolve(
        'api.stripe.com',
        Array.from({ length: 100 }, (_, at) => address(n + at)),
      );
      resolve('api.stripe.com', [SITE4]);
    }
    assert(programs.learned().length <= LEARNED_PER_WORKLOAD);
    assert(programs.object.dump('learned_order').count <= LEARNED_PER_WORKLOAD);
    assert.equal(connect(SITE4, 443), 'rule');
    assert.equal(connect('198.18.2.9', 443), 'no_rule');
    assert(programs.lost(LOSS_LEARNED_EVICTED) > evicted);
  });
});

/** Behind the name at `at`, and its labels; null: none is there. RFC 1035, 4.1.4; pointers lead back. */
function nameAt(bytes: Buffer, start: number): { readonly end: number; readonly labels: readonly string[] } | null {
  const labels: string[] = [];
  let below = start;
  let end = 0;
  for (let at = start, total = 1; ; ) {
    const length = bytes[at];
    if (length === undefined) return null;
    if (length === 0) return { end: end === 0 ? at + 1 : end, labels };
    if (length >= 0xc0) {
      const target = ((length & 0x3f) << 8) | (bytes[at + 1] ?? 0xffff);
      if (target < 12 || target >= below) return null;
      if (end === 0) end = at + 2;
      at = below = target;
      continue;
    }
    total += 1 + length;
    if (length > 63 || total > 255) return null;
    labels.push(bytes.toString('latin1', at + 1, at + 1 + length));
    at += 1 + length;
  }
}

/** Addresses that an answer to question 7, `A api.stripe.com`, teaches; null: none. The obvious way, by the RFC. */
function taughtBy(bytes: Buffer): string[] | null {
  if (bytes.length < 12 || bytes.readUInt16BE(0) !== 7 || bytes.readUInt16BE(4) !== 1) return null;
  const flags = bytes.readUInt16BE(2);
  if ((flags & 0xf80f) !== 0x8000) return null;
  const question = nameAt(bytes, 12);
  if (question === null || question.end + 4 > bytes.length || bytes[12] === undefined || bytes[12] >= 0xc0) return null;
  if (question.labels.join('.').toLowerCase() !== 'api.stripe.com' || question.labels.length !== 3) return null;
  if (bytes.readUInt32BE(question.end) !== 0x00010001) return null;
  const addresses: string[] = [];
  let at = question.end + 4;
  for (let left = bytes.readUInt16BE(6); left > 0; left -= 1) {
    const owner = nameAt(bytes, at);
    if (owner === null || owner.end + 10 > bytes.length) return null;
    const [type, isInternet] = [bytes.readUInt16BE(owner.end), bytes.readUInt16BE(owner.end + 2) === 1];
    const data = owner.end + 10;
    at = data + bytes.readUInt16BE(owner.end + 8);
    if (at > bytes.length) return null;
    if (isInternet && type === 5 && nameAt(bytes, data)?.end !== at) return null;
    if (!isInternet || (type !== 1 && type !== 28)) continue;
    if (at - data !== (type === 1 ? 4 : 16)) return null;
    addresses.push(`${type === 1 ? '00000000000000000000ffff' : ''}${bytes.toString('hex', data, at)}`);
  }
  return addresses.length === 0 ? null : [...new Set(addresses)].toSorted();
}

/** The same question over TCP, on a connection of its own; its answer, in as many segments as there are cuts, and one. */
function arriveInSegments(bytes: Buffer, first: number, cuts: readonly number[]): void {
  const send = (program: string, sequence: number, flags: ('syn' | 'ack')[], carried: Buffer) => {
    const part = tcp({ from: 53, to: 40000, sequence: sequence >>> 0, flags, bytes: carried });
    const frame = ipv4({ from: RESOLVER4, to: LOCAL4 }, part);
    assert.equal(programs.object.testRun(program, frame, 1).retval | 0, PASSES);
  };
  const prefixed = (of: Buffer) => Buffer.concat([Buffer.from([of.length >> 8, of.length & 0xff]), of]);
  send('guard_in', first - 1, ['syn', 'ack'], Buffer.alloc(0));
  const question = encode({ type: 'query', id: 7, questions: [{ type: 'A', name: 'api.stripe.com' }] });
  programs.object.testRun('guard_out', ipv4({ to: RESOLVER4 }, tcp({ to: 53, bytes: prefixed(question) })), 1);
  programs.forgetCounts();
  const stream = prefixed(bytes);
  const ends = [...cuts.filter((at) => at < stream.length), stream.length].toSorted((a, b) => a - b);
  for (const [index, end] of ends.entries()) {
    const from = ends[index - 1] ?? 0;
    send('guard_in', first + from, ['ack'], stream.subarray(from, end));
  }
}

test('20,000 mutated answers teach what the obvious reading of them says, or nothing, in a datagram and in segments', () => {
  programs.row({ ruleset: RULESET, flags: ROW_ISOLATED | ROW_NAMES, entries: [DNS, on(6, 53, 53, { policy: 0 })] });
  const good = message('api.stripe.com', [
    cname('api.stripe.com', 'edge.cdn.example'),
    a('edge.cdn.example', SITE4),
    aaaa('edge.cdn.example', SITE6),
    a('edge.cdn.example', '198.18.2.9'),
  ]);
  // Its second name of each kind as a pointer to the first.
  const alias = good.indexOf('\x04edge', 0, 'latin1');
  const pointed = Buffer.from(
    good
      .toString('latin1')
      .replaceAll('\x03api\x06stripe\x03com\x00\x00\x05', '\xc0\x0c\x00\x05')
      .replaceAll('\x04edge\x03cdn\x07example\x00\x00', `\xc0${String.fromCharCode(alias - 14)}\x00`),
    'latin1',
  );
  assert.deepEqual(taughtBy(good), taughtBy(pointed));
  let state = 20_261_125;
  const random = (below: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  let taught = 0;
  for (let round = 0; round < 20_000; round += 1) {
    const whole = round % 2 === 0 ? good : pointed;
    const bytes = Buffer.from(whole.subarray(0, random(8) === 0 ? random(whole.length + 1) : whole.length));
    const begin = random(2) === 0 ? 0 : 32;
    for (let edits = random(3); edits >= 0 && bytes.length > begin; edits -= 1) {
      const at = begin + random(bytes.length - begin);
      bytes[at] = random(2) === 0 ? random(256) : (bytes[at] ?? 0) ^ (1 << random(8));
    }
    if (round % 4 < 2) {
      ask('api.stripe.com');
      arrive(bytes);
    } else {
      const cuts = Array.from({ length: random(4) }, () => random(bytes.length + 2));
      arriveInSegments(bytes, random(2 ** 32), cuts);
    }
    const addresses = programs.learned().map(({ address }) => address);
    assert.deepEqual(addresses.length === 0 ? null : addresses.toSorted(), taughtBy(bytes), bytes.toString('hex'));
    if (addresses.length === 0) continue;
    taught += 1;
    assert.deepEqual(
      programs.told().map(({ name }) => name),
      ['com.stripe.api'],
    );
    programs.forgetNames();
  }
  assert(taught > 1000 && taught < 19_000, `${taught} taught something`);
});

test('what one workload was told is nothing to another', () => {
  resolve('api.stripe.com', [SITE4]);
  assert.deepEqual(
    programs.learned().map(({ slot }) => slot),
    [SLOT],
  );
  programs.guard(LOOPBACK, { cgroup: 2n, netns: 2n }, LOCAL4, LOCAL6);
  arrive(message('api.stripe.com', [a('api.stripe.com', '198.18.2.2')]));
  programs.guard(LOOPBACK, {}, LOCAL4, LOCAL6);
  assert.equal(connect('198.18.2.2', 443), 'no_rule');
});
