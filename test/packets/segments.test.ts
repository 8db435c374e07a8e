// SPDX-License-Identifier: Apache-2.0
// Names over TCP, segment by segment: wherever an answer is cut, it teaches what it would in one piece; what comes before its turn waits for
// TCP to send it again; nothing is ever read where no message begins. Real connections are resolvers.test.ts's.
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import { encode } from 'dns-packet';
import { BEGUN_BYTES, BEGUN_PER_WORKLOAD, ROW_ISOLATED, ROW_NAMES } from '#build/generated/abi.ts';
import { KnownNames } from '#src/kernel/known-names.ts';
import { addressKey, fragment, ipv4, ipv6, LOCAL4, LOCAL6, tcp, udp } from './packet.ts';
import { id, on, Programs, SLOT } from './programs.ts';

const RESOLVER4 = '198.18.1.53';
const RESOLVER6 = 'fd00::1:53';
const SITE4 = '198.18.2.1';
const OTHER4 = '198.18.2.9';
const RULESET = id(0xa);
const STRIPE = id(0xc1);
const BUCKETS = id(0xc2);
/** The interface that frames of test runs come through. */
const LOOPBACK = 1;
const PASSES = -1;
const REFUSED = 2;
/** So that numbers begin again from 0 soon after. */
const FIRST = 0xffff_fff0;
const CLIENT = 40000;

let programs: Programs;
before(() => {
  programs = new Programs({ asked: 4096, asked_order: 4096, texts: 4096, told: 4096, told_order: 4096, begun: 64 });
});
after(() => programs.close());

let untaughtBefore: ReadonlyMap<string, number>;
beforeEach(() => {
  programs.reset();
  const dns = [on(17, 53, 53, { policy: 0 }), on(6, 53, 53, { policy: 0 })];
  programs.row({ ruleset: RULESET, flags: ROW_ISOLATED | ROW_NAMES, entries: dns });
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

const untaught = () => Object.fromEntries(programs.untaught(untaughtBefore));
const learned = () =>
  programs
    .learned()
    .map(({ address }) => address)
    .toSorted();
const keys = (...addresses: readonly string[]) => addresses.map(addressKey).toSorted();
/** The verdict on a new connection. */
const connect = (to: string, port: number) =>
  programs.run(ipv4({ to }, tcp({ to: port, flags: ['syn'] })), 1, 'guard_out').reason;

const prefixed = (...messages: readonly Buffer[]) =>
  Buffer.concat(messages.flatMap((bytes) => [Buffer.from([bytes.length >> 8, bytes.length & 0xff]), bytes]));
const query = (name: string, number: number) =>
  prefixed(encode({ type: 'query', id: number, questions: [{ type: 'A', name }] }));
const answer = (name: string, number: number, ...addresses: readonly string[]) =>
  encode({
    type: 'response',
    id: number,
    questions: [{ type: 'A', name }],
    answers: addresses.map((data) => ({ type: 'A', name, data, ttl: 300 })),
  });

type Flags = ('syn' | 'ack' | 'fin' | 'rst')[];

/** A connection to a resolver, from `port`. */
class Stream {
  readonly port: number;
  readonly first: number;
  readonly resolver: string;
  /** What its next segment begins with, unless it is told otherwise. */
  next: number;

  constructor(first = FIRST, port = CLIENT, resolver = RESOLVER4) {
    this.port = port;
    this.first = first;
    this.resolver = resolver;
    this.next = (first + 1) >>> 0;
    this.#frame(first, Buffer.alloc(0), ['syn', 'ack']);
  }

  #frame(sequence: number, bytes: Buffer, flags: Flags): number {
    const part = tcp({ from: 53, to: this.port, sequence: sequence >>> 0, bytes, flags });
    const frame = this.resolver.includes(':')
      ? ipv6({ from: this.resolver, to: LOCAL6 }, part)
      : ipv4({ from: this.resolver, to: LOCAL4 }, part);
    return programs.object.testRun('guard_in', frame, 1).retval | 0;
  }

  ask(name: string, number: number): void {
    const part = tcp({ from: this.port, to: 53, bytes: query(name, number) });
    const frame = this.resolver.includes(':')
      ? ipv6({ from: LOCAL6, to: this.resolver }, part)
      : ipv4({ from: LOCAL4, to: this.resolver }, part);
    programs.object.testRun('guard_out', frame, 1);
    programs.forgetCounts();
  }

  /** A segment whose first byte is the stream's n-th; what the guard does with it. */
  at(offset: number, bytes: Buffer, flags: Flags = ['ack']): number {
    return this.#frame(this.first + 1 + offset, bytes, flags);
  }

  /** The next bytes, in their turn. */
  come(...segments: readonly Buffer[]): void {
    for (const bytes of segments) {
      assert.equal(this.#frame(this.next, bytes, ['ack']), PASSES);
      this.next = (this.next + bytes.length) >>> 0;
    }
  }
}

describe('whole messages', () => {
  test('two questions in a segment, two answers in one, and a third later', () => {
    const stream = new Stream();
    stream.ask('api.stripe.com', 1);
    stream.ask('a.buckets.example', 2);
    stream.come(prefixed(answer('api.stripe.com', 1, SITE4), answer('a.buckets.example', 2, SITE4)));
    stream.ask('b.buckets.example', 3);
    stream.come(prefixed(answer('b.buckets.example', 3, OTHER4)));
    assert.deepEqual([connect(SITE4, 443), connect(SITE4, 80), connect(OTHER4, 80)], ['rule', 'rule', 'rule']);
    assert.deepEqual(untaught(), {});
  });

  test('fifty answers in one segment, the last of them cut', () => {
    const stream = new Stream();
    const names = Array.from({ length: 50 }, (_, n) => `n${n}.buckets.example`);
    for (const [n, name] of names.entries()) stream.ask(name, n);
    const bytes = prefixed(...names.map((name, n) => answer(name, n, `198.18.5.${n}`)));
    assert(bytes.length > 2000);
    for (let at = 0; at < bytes.length; at += 1400) stream.come(bytes.subarray(at, at + 1400));
    assert.equal(programs.learned().length, 50);
    assert.deepEqual(untaught(), {});
  });

  test('a question over TCP is not answered by a datagram', () => {
    new Stream().ask('api.stripe.com', 7);
    const part = udp({ from: 53, to: CLIENT, bytes: answer('api.stripe.com', 7, SITE4) });
    programs.object.testRun('guard_in', ipv4({ from: RESOLVER4, to: LOCAL4 }, part), 1);
    assert.deepEqual([untaught(), learned()], [{ unasked: 1 }, []]);
  });
});

describe('cut', () => {
  const both = prefixed(answer('api.stripe.com', 1, SITE4), answer('a.buckets.example', 2, OTHER4, SITE4));
  /** Both questions asked on a new connection, whose answers come like this. */
  function cut(first: number, send: (stream: Stream) => void, where: string, resolver = RESOLVER4): void {
    const stream = new Stream(first, CLIENT, resolver);
    stream.ask('api.stripe.com', 1);
    stream.ask('a.buckets.example', 2);
    send(stream);
    assert.deepEqual(learned(), keys(SITE4, SITE4, OTHER4), where);
    assert.equal(programs.forgetBegun(), 0, where);
    programs.forgetNames();
  }

  test('at every byte into two segments, each byte of them once more, IPv4 and IPv6', () => {
    for (let at = 0; at <= both.length; at += 1) {
      const pieces = [both.subarray(0, at), both.subarray(at)];
      cut(at * 7919, (stream) => stream.come(...pieces), `${at}`);
      cut(at * 7919, (stream) => stream.come(...pieces), `${at}, IPv6`, RESOLVER6);
      cut(
        FIRST - at,
        (stream) => {
          stream.come(...pieces);
          for (const [offset, bytes] of [
            [0, both.subarray(0, at)],
            [at, both.subarray(at)],
            [0, both],
          ] as const)
            assert.equal(stream.at(offset, bytes), PASSES);
        },
        `${at}, again`,
      );
    }
    assert.deepEqual(untaught(), {});
  });

  test('at every two bytes into three segments', () => {
    for (let one = 1; one < both.length; one += 1) {
      for (let two = one + 1; two < both.length; two += 1) {
        const pieces = [both.subarray(0, one), both.subarray(one, two), both.subarray(two)];
        cut(FIRST - one, (stream) => stream.come(...pieces), `${one}, ${two}`);
      }
    }
    assert.deepEqual(untaught(), {});
  });

  test('into single bytes', () => {
    cut(FIRST, (stream) => stream.come(...Array.from(both, (byte) => Buffer.from([byte]))), 'bytes');
    assert.deepEqual(untaught(), {});
  });

  test('overlapping: what is known is passed over, what is new is read', () => {
    for (let at = 1; at < both.length; at += 1) {
      cut(
        FIRST,
        (stream) => {
          assert.equal(stream.at(0, both.subarray(0, at)), PASSES);
          assert.equal(stream.at(at >> 1, both.subarray(at >> 1)), PASSES);
        },
        `${at}`,
      );
    }
    assert.deepEqual(untaught(), {});
  });

  test('in any order: what comes before its turn is not let through, and is read when it comes again', () => {
    const pieces = [0, 31, 90].map((from, index) => ({ from, bytes: both.subarray(from, [31, 90][index]) }));
    let refused = 0;
    for (const order of [
      [0, 2, 1],
      [1, 0, 2],
      [1, 2, 0],
      [2, 0, 1],
      [2, 1, 0],
    ]) {
      cut(
        FIRST,
        (stream) => {
          let waiting = order;
          for (let rounds = 0; waiting.length > 0 && rounds < 3; rounds += 1) {
            waiting = waiting.filter((index) => {
              const piece = pieces[index] ?? assert.fail();
              const retval = stream.at(piece.from, piece.bytes);
              assert(retval === PASSES || retval === REFUSED);
              if (retval === REFUSED) refused += 1;
              return retval === REFUSED;
            });
          }
          assert.deepEqual(waiting, []);
        },
        order.join(),
      );
    }
    assert(refused >= 5);
    assert.deepEqual(untaught(), { out_of_order: refused });
  });

  test('110 addresses in segments of 536 bytes', () => {
    const addresses = Array.from({ length: 110 }, (_, n) => `198.18.4.${n}`);
    const bytes = prefixed(answer('api.stripe.com', 1, ...addresses));
    const stream = new Stream();
    stream.ask('api.stripe.com', 1);
    for (let at = 0; at < bytes.length; at += 536) {
      assert.deepEqual(learned(), [], 'nothing before the last byte');
      stream.come(bytes.subarray(at, at + 536));
    }
    assert.deepEqual(learned(), keys(...addresses));
    assert.equal(connect('198.18.4.109', 443), 'rule');
    assert.deepEqual(untaught(), {});
  });
});

describe('bounds', () => {
  /** An answer of this length, filled up by what teaches nothing. */
  function padded(name: string, number: number, bytes: number): Buffer {
    const good = encode({
      type: 'response',
      id: number,
      questions: [{ type: 'A', name }],
      answers: [{ type: 'A', name, data: SITE4, ttl: 300 }],
      additionals: [{ type: 'NULL', name: '.', data: Buffer.alloc(0), ttl: 0 }],
    });
    return Buffer.concat([good, Buffer.alloc(bytes - good.length)]);
  }

  test(`as long as ${BEGUN_BYTES} bytes with its length, in pieces of every size`, () => {
    for (const size of [511, 512, 513, 536, 1024, 1400]) {
      const stream = new Stream();
      stream.ask('api.stripe.com', 1);
      const bytes = prefixed(padded('api.stripe.com', 1, BEGUN_BYTES - 2));
      for (let at = 0; at < bytes.length; at += size) stream.come(bytes.subarray(at, at + size));
      assert.deepEqual([learned(), untaught()], [keys(SITE4), {}], `${size}`);
      programs.forgetNames();
    }
  });

  test('longer: counted, not learned, and passed over; the next is learned', () => {
    const stream = new Stream();
    stream.ask('api.stripe.com', 1);
    stream.ask('a.buckets.example', 2);
    const bytes = prefixed(padded('api.stripe.com', 1, BEGUN_BYTES - 1), answer('a.buckets.example', 2, OTHER4));
    for (let at = 0; at < bytes.length; at += 1400) stream.come(bytes.subarray(at, at + 1400));
    assert.deepEqual([learned(), untaught()], [keys(OTHER4), { too_long: 1 }]);
    assert.equal(programs.forgetBegun(), 0);
  });

  test('as many as there is room for, each in its own connection; one more takes the place of the oldest', () => {
    const bytes = prefixed(answer('api.stripe.com', 1, SITE4));
    const streams = Array.from({ length: BEGUN_PER_WORKLOAD + 1 }, (_, n) => new Stream(n * 1_000_003, CLIENT + n));
    for (const [n, stream] of streams.entries()) {
      stream.ask('api.stripe.com', 1);
      if (n < BEGUN_PER_WORKLOAD) stream.come(bytes.subarray(0, 20 + n));
    }
    for (const [n, stream] of streams.slice(1, 5).entries()) stream.come(bytes.subarray(21 + n));
    assert.deepEqual([learned(), untaught()], [keys(SITE4), {}]);
    programs.forgetBegun();
    programs.forgetNames();

    const again = Array.from({ length: BEGUN_PER_WORKLOAD + 1 }, (_, n) => new Stream(n * 1_000_003 + 7, CLIENT + n));
    for (const [n, stream] of again.entries()) {
      stream.ask(`n${n}.buckets.example`, 1);
      stream.come(prefixed(answer(`n${n}.buckets.example`, 1, `198.18.6.${n}`)).subarray(0, 30));
    }
    for (const [n, stream] of again.entries()) {
      stream.come(prefixed(answer(`n${n}.buckets.example`, 1, `198.18.6.${n}`)).subarray(30));
    }
    assert.deepEqual(learned(), keys(...again.slice(1).map((_, n) => `198.18.6.${n + 1}`)));
    assert.deepEqual(untaught(), { segmented: 1 });
    assert.equal(programs.forgetBegun(), 0);
  });

  test('what another workload has begun has room of its own', () => {
    const bytes = prefixed(answer('api.stripe.com', 1, SITE4));
    const stream = new Stream();
    stream.ask('api.stripe.com', 1);
    stream.come(bytes.subarray(0, 30));
    programs.guard(LOOPBACK, { cgroup: 2n, netns: 2n }, LOCAL4, LOCAL6);
    new Stream();
    assert.equal(stream.at(30, bytes.subarray(30)), PASSES);
    assert.deepEqual(learned(), []);
    programs.guard(LOOPBACK, {}, LOCAL4, LOCAL6);
    assert.equal(stream.at(30, bytes.subarray(30)), PASSES);
    assert.deepEqual(learned(), keys(SITE4));
  });

  test('a connection that ends gives the room back, and so does one that begins in its place', () => {
    const bytes = prefixed(answer('api.stripe.com', 1, SITE4));
    for (const flags of [
      ['fin', 'ack'],
      ['rst', 'ack'],
    ] satisfies Flags[]) {
      const stream = new Stream();
      stream.ask('api.stripe.com', 1);
      stream.come(bytes.subarray(0, 30));
      assert.equal(stream.at(31, Buffer.alloc(0), flags), PASSES);
      assert.equal(stream.at(30, Buffer.alloc(0), flags), PASSES);
      assert.equal(programs.forgetBegun(), 0, flags.join());
      stream.come(bytes.subarray(30));
      assert.deepEqual(learned(), []);
    }
    assert.deepEqual(untaught(), { unasked: 2 });
    new Stream().come(bytes.subarray(0, 30));
    new Stream(77).come(bytes.subarray(0, 30));
    assert.equal(programs.forgetBegun(), 1);
  });

  test('one that ends with its answer, and one whose beginning comes twice', () => {
    const bytes = prefixed(answer('api.stripe.com', 1, SITE4));
    const stream = new Stream();
    stream.ask('api.stripe.com', 1);
    stream.come(bytes.subarray(0, 30));
    stream.at(-1, Buffer.alloc(0), ['syn', 'ack']);
    assert.equal(stream.at(30, bytes.subarray(30), ['fin', 'ack']), PASSES);
    assert.deepEqual([learned(), untaught()], [keys(SITE4), {}]);
  });

  test('the agent forgets what a slot has begun', () => {
    const stream = new Stream();
    stream.come(prefixed(answer('api.stripe.com', 1, SITE4)).subarray(0, 30));
    new KnownNames(programs.object).forget([SLOT + 1]);
    stream.come(Buffer.alloc(1));
    new KnownNames(programs.object).forget([SLOT]);
    assert.equal(programs.forgetBegun(), 0);
  });
});

describe('what teaches nothing', () => {
  test('what plays an answer in the middle of another; what follows that one does', () => {
    const stream = new Stream();
    stream.ask('api.stripe.com', 1);
    stream.ask('a.buckets.example', 2);
    const forged = prefixed(answer('api.stripe.com', 1, SITE4));
    stream.come(Buffer.concat([Buffer.from([0, 100 + forged.length]), Buffer.alloc(100)]), forged);
    assert.deepEqual([learned(), untaught()], [[], { bad_header: 1 }]);
    stream.come(prefixed(answer('a.buckets.example', 2, SITE4)));
    assert.deepEqual([connect(SITE4, 443), connect(SITE4, 80)], ['no_rule', 'rule']);
  });

  test('what is too early; too often, and nothing is known of the connection any more, which goes on', () => {
    const stream = new Stream();
    stream.ask('api.stripe.com', 1);
    const bytes = prefixed(answer('api.stripe.com', 1, SITE4));
    let refused = 0;
    while (refused < 1000 && stream.at(1, bytes) === REFUSED) refused += 1;
    assert.equal(refused, 64);
    stream.come(bytes);
    assert.deepEqual([learned(), untaught()], [[], { out_of_order: 65, unasked: 1 }]);
  });

  test('what is too early for too long', () => {
    const stream = new Stream();
    stream.ask('api.stripe.com', 1);
    const bytes = prefixed(answer('api.stripe.com', 1, SITE4));
    assert.equal(stream.at(1, bytes), REFUSED);
    programs.ageNames(3 + 1);
    assert.equal(stream.at(1, bytes), PASSES);
    stream.come(bytes);
    assert.deepEqual([learned(), untaught()], [[], { out_of_order: 2, unasked: 1 }]);
  });

  test('a connection whose beginning nobody saw', () => {
    const stream = new Stream();
    programs.forgetNames();
    stream.ask('api.stripe.com', 1);
    stream.come(prefixed(answer('api.stripe.com', 1, SITE4)));
    assert.deepEqual([learned(), untaught()], [[], { unasked: 1 }]);
  });

  test('a connection of which a fragment was seen: it goes on unread', () => {
    const stream = new Stream(FIRST, CLIENT, RESOLVER6);
    stream.ask('api.stripe.com', 1);
    const bytes = prefixed(answer('api.stripe.com', 1, SITE4));
    const part = tcp({ from: 53, to: CLIENT, sequence: FIRST + 1, bytes: bytes.subarray(0, 12) });
    const frame = ipv6({ from: RESOLVER6, to: LOCAL6 }, fragment({ more: true, id: 1 }), part);
    assert.equal(programs.object.testRun('guard_in', frame, 1).retval | 0, PASSES);
    assert.equal(stream.at(20, bytes.subarray(20)), PASSES);
    assert.deepEqual([learned(), untaught()], [[], { fragment: 1, unasked: 1 }]);
  });

  test('lengths that lie: too short, too long, none', () => {
    const good = answer('api.stripe.com', 1, SITE4);
    for (const length of [0, 1, 11, 12, good.length - 1, good.length + 1, 0x3c00, 0xffff]) {
      for (const at of [1, 2, 3, 30]) {
        const stream = new Stream(FIRST - at);
        stream.ask('api.stripe.com', 1);
        const bytes = prefixed(good);
        bytes.writeUInt16BE(length, 0);
        stream.at(0, bytes.subarray(0, at));
        stream.at(at, bytes.subarray(at));
        assert.deepEqual(learned(), [], `${length} at ${at}`);
        programs.forgetNames();
      }
    }
  });
});
