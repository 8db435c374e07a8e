// SPDX-License-Identifier: Apache-2.0
// Does the addon do what src/kernel/native.ts promises, on the real kernel? Knows nothing of Postern's own programs.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { KernelError, loadNative, type NativeObject } from '#src/kernel/native.ts';

const STUB = fileURLToPath(new URL('../../build/test/native/stub.bpf.o', import.meta.url));
const NOT_AN_OBJECT = fileURLToPath(import.meta.url);
const native = loadNative();

/** 20 bytes of header and nothing behind it, after the Ethernet header that a test run wants. */
const PACKET = Buffer.concat([
  Buffer.from('0200000000020200000000010800', 'hex'),
  Buffer.from('45000014000000004011000001020304c6120001', 'hex'),
]);

function withObject(body: (object: NativeObject) => void | Promise<void>): () => Promise<void> {
  return async () => {
    const object = native.load(STUB, {});
    try {
      await body(object);
    } finally {
      object.close();
    }
  };
}

function numbers(...values: number[]): Buffer {
  const buffer = Buffer.alloc(values.length * 4);
  for (const [index, value] of values.entries()) buffer.writeUInt32LE(value, index * 4);
  return buffer;
}

function longs(...values: bigint[]): Buffer {
  const buffer = Buffer.alloc(values.length * 8);
  for (const [index, value] of values.entries()) buffer.writeBigUInt64LE(value, index * 8);
  return buffer;
}

function fails(code: string, operation: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert(error instanceof KernelError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.operation, operation);
    return true;
  };
}

function cgroup2Mount(): string {
  const line = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .find((mount) => / - cgroup2 /.test(mount));
  const path = line?.split(' ')[4];
  assert(path !== undefined, 'no cgroup2 mount');
  return path;
}

test(
  'maps and programs are told with their shapes',
  withObject((object) => {
    const { hash, grace, events } = object.maps();
    assert.deepEqual(hash, { type: 1, keySize: 4, valueSize: 8, maxEntries: 16, flags: 1 });
    assert.equal(grace?.type, 12);
    assert.equal(events?.type, 27);
    assert.deepEqual(object.programs().toSorted(), ['pass_on', 'refuse', 'shoot', 'tell']);
  }),
);

test('maps are resized before they are loaded', () => {
  const object = native.load(STUB, { hash: 2 });
  try {
    assert.equal(object.maps().hash?.maxEntries, 2);
    assert.throws(
      () => object.update('hash', numbers(1, 2, 3), longs(1n, 2n, 3n), 3, 0),
      fails('E2BIG', /^update hash$/),
    );
    assert.equal(object.dump('hash').count, 2);
  } finally {
    object.close();
  }
  assert.throws(() => native.load(STUB, { nothing: 1 }), fails('ENOENT', /resize map nothing/));
});

test('constants are set before the verifier sees them', () => {
  const object = native.load(STUB, {}, { refusal: 2 });
  try {
    assert.equal(object.testRun('refuse', PACKET, 1).retval, 2);
  } finally {
    object.close();
  }
  assert.throws(() => native.load(STUB, {}, { refusal: 256 }), fails('EINVAL', /set constant refusal/));
  assert.throws(() => native.load(STUB, {}, { nothing: 1 }), fails('ENOENT', /set constant nothing/));
});

test('a file that is no object, or is not there, is refused with the reason', () => {
  assert.throws(() => native.load('/nonexistent.bpf.o', {}), fails('ENOENT', /^open /));
  assert.throws(() => native.load(NOT_AN_OBJECT, {}), fails('LIBBPF_FORMAT', /^open /));
});

for (const flags of [0, 1]) {
  test(
    `elements are written, read, dumped and removed (flags ${flags})`,
    withObject((object) => {
      object.update('hash', numbers(1, 2, 3), longs(10n, 20n, 30n), 3, flags);
      assert.deepEqual(object.lookup('hash', numbers(2)), longs(20n));
      assert.equal(object.lookup('hash', numbers(4)), null);

      const { keys, values, count } = object.dump('hash');
      const dumped = Array.from({ length: count }, (_, index) => [
        keys.readUInt32LE(index * 4),
        values.readBigUInt64LE(index * 8),
      ]);
      assert.deepEqual(
        new Map(dumped as [number, bigint][]),
        new Map([
          [1, 10n],
          [2, 20n],
          [3, 30n],
        ]),
      );

      assert.equal(object.remove('hash', numbers(9, 1, 8, 3, 7), 5), 2);
      assert.equal(object.dump('hash').count, 1);
      assert.equal(object.remove('hash', numbers(2), 1), 1);
      assert.deepEqual(object.dump('hash'), { keys: Buffer.alloc(0), values: Buffer.alloc(0), count: 0 });
    }),
  );
}

test(
  'noexist and exist hold',
  withObject((object) => {
    object.update('hash', numbers(1), longs(1n), 1, 1);
    assert.throws(() => object.update('hash', numbers(1), longs(2n), 1, 1), fails('EEXIST', /update hash/));
    assert.throws(() => object.update('hash', numbers(2), longs(2n), 1, 2), fails('ENOENT', /update hash/));
    object.update('hash', numbers(1), longs(3n), 1, 2);
    assert.deepEqual(object.lookup('hash', numbers(1)), longs(3n));
  }),
);

test(
  'a trie is written and dumped in batches',
  withObject((object) => {
    const prefix = (length: number, ...bytes: number[]) => Buffer.concat([numbers(length), Buffer.from(bytes)]);
    const keys = Buffer.concat([prefix(8, 10, 0, 0, 0), prefix(24, 10, 1, 2, 0), prefix(32, 10, 1, 2, 3)]);
    object.update('prefixes', keys, numbers(8, 24, 32), 3, 0);
    assert.deepEqual(object.lookup('prefixes', prefix(32, 10, 9, 9, 9)), numbers(8));
    assert.deepEqual(object.lookup('prefixes', prefix(32, 10, 1, 2, 9)), numbers(24));
    assert.equal(object.dump('prefixes').count, 3);
    assert.equal(object.remove('prefixes', keys, 3), 3);
  }),
);

test('a map larger than a batch comes back whole', () => {
  const size = 10_000;
  const object = native.load(STUB, { hash: size });
  try {
    const keys = numbers(...Array.from({ length: size }, (_, index) => index));
    object.update('hash', keys, Buffer.alloc(size * 8), size, 0);
    const dump = object.dump('hash');
    assert.equal(dump.count, size);
    const seen = new Set(Array.from({ length: size }, (_, index) => dump.keys.readUInt32LE(index * 4)));
    assert.equal(seen.size, size);
    assert.equal(object.remove('hash', keys, size), size);
  } finally {
    object.close();
  }
});

test('a map is read a part at a time, each element once, whatever comes and goes meanwhile', () => {
  const size = 10_000;
  const object = native.load(STUB, { hash: 2 * size });
  try {
    const keys = numbers(...Array.from({ length: size }, (_, index) => index));
    object.update('hash', keys, Buffer.alloc(size * 8), size, 0);
    const seen: number[] = [];
    let parts = 0;
    for (let place: Buffer | null = null; parts === 0 || place !== null; parts++) {
      const page = object.readPage('hash', place, 500);
      assert.equal(page.keys.length, page.count * 4);
      assert.equal(page.values.length, page.count * 8);
      for (let index = 0; index < page.count; index++) seen.push(page.keys.readUInt32LE(index * 4));
      place = page.next;
      object.update('hash', numbers(size + parts), longs(1n), 1, 0);
      if (parts > 0) object.remove('hash', numbers(size + parts - 1), 1);
    }
    assert.ok(parts >= size / 500, `${parts} parts`);
    const stayed = seen.filter((number) => number < size);
    assert.equal(stayed.length, size);
    assert.equal(new Set(stayed).size, size);
    assert.throws(() => object.readPage('hash', Buffer.from('x'), 500), fails('EINVAL', /dump hash/));
    assert.throws(() => object.readPage('hash', null, 0), fails('EINVAL', /dump hash/));
  } finally {
    object.close();
  }
});

test(
  'many keys are looked up at once, also some that are absent',
  withObject((object) => {
    object.update('hash', numbers(1, 3), longs(10n, 30n), 2, 0);
    assert.deepEqual(object.findAll('hash', numbers(3, 2, 1), 3), {
      values: longs(30n, 0n, 10n),
      areThere: Buffer.from([1, 0, 1]),
    });
    assert.deepEqual(object.findAll('hash', Buffer.alloc(0), 0), {
      values: Buffer.alloc(0),
      areThere: Buffer.alloc(0),
    });
    assert.throws(() => object.findAll('hash', Buffer.alloc(3), 1), fails('EINVAL', /lookup hash/));
    assert.throws(() => object.findAll('nothing', numbers(1), 1), fails('ENOENT', /lookup nothing/));
  }),
);

test(
  'a trie is read a part at a time, too',
  withObject((object) => {
    const prefix = (index: number) => Buffer.concat([numbers(32), Buffer.from([10, 0, index, 1])]);
    object.update(
      'prefixes',
      Buffer.concat(Array.from({ length: 7 }, (_, index) => prefix(index))),
      numbers(...Array.from({ length: 7 }, () => 1)),
      7,
      0,
    );
    const counts: number[] = [];
    for (let place: Buffer | null = null; counts.length === 0 || place !== null; ) {
      const page = object.readPage('prefixes', place, 3);
      counts.push(page.count);
      place = page.next;
    }
    assert.equal(
      counts.reduce((sum, count) => sum + count),
      7,
    );
    assert.ok(counts.length >= 3);
  }),
);

test(
  'values of all CPUs cross for a per-CPU map, 8 bytes aligned',
  withObject((object) => {
    object.testRun('tell', PACKET, 5);
    const value = object.lookup('per_cpu', numbers(7));
    assert(value !== null);
    assert.equal(value.length % 8, 0);
    let sum = 0;
    for (let offset = 0; offset < value.length; offset += 8) sum += value.readUInt32LE(offset);
    assert.equal(sum, 5);
    object.update('per_cpu', numbers(1), Buffer.alloc(value.length), 1, 0);
    assert.throws(() => object.update('per_cpu', numbers(1), numbers(0), 1, 0), fails('EINVAL', /update per_cpu/));
  }),
);

test(
  'a buffer of another size than the map says is refused before anything is written',
  withObject((object) => {
    assert.throws(() => object.update('hash', Buffer.alloc(7), longs(1n), 1, 0), fails('EINVAL', /update hash/));
    assert.throws(() => object.update('hash', numbers(1, 2), longs(1n), 2, 0), fails('EINVAL', /update hash/));
    assert.throws(() => object.lookup('hash', Buffer.alloc(3)), fails('EINVAL', /lookup hash/));
    assert.throws(() => object.remove('hash', numbers(1), 2), fails('EINVAL', /remove hash/));
    assert.throws(() => object.lookup('nothing', numbers(1)), fails('ENOENT', /lookup nothing/));
    assert.equal(object.dump('hash').count, 0);
  }),
);

test(
  'arguments of another type are bugs, not failures of the kernel',
  withObject((object) => {
    const untyped = object as unknown as Record<string, (...given: unknown[]) => unknown>;
    assert.throws(() => untyped.lookup?.('hash', 'text'), TypeError);
    assert.throws(() => untyped.update?.('hash', numbers(1), longs(1n), -1, 0), TypeError);
    assert.throws(() => untyped.readEvents?.('events', null), TypeError);
  }),
);

test(
  'a test run tells what the program returned',
  withObject((object) => {
    const { retval, durationNs } = object.testRun('refuse', PACKET, 3);
    assert.equal(retval, 0);
    assert(durationNs >= 0);
    assert.equal(object.testRun('tell', PACKET, 1).retval, 1);
    assert.throws(() => object.testRun('nothing', PACKET, 1), fails('ENOENT', /test run nothing/));
    assert.throws(() => object.testRun('tell', Buffer.alloc(3), 1), fails('EINVAL', /test run tell/));
  }),
);

test(
  'waiting for programs returns, again and again',
  withObject((object) => {
    for (let round = 0; round < 3; round++) object.waitForPrograms();
    assert.equal(object.maps().grace?.maxEntries, 1);
  }),
);

test(
  'waiting for programs on another thread, also while the object is closed',
  withObject(async (object) => {
    await Promise.all([object.programsEnded(), object.programsEnded()]);
    const ended = object.programsEnded();
    object.close();
    await ended;
    assert.throws(() => object.programsEnded(), fails('EBADF', /wait for programs/));
  }),
);

test(
  'draining tells every record, in order',
  withObject((object) => {
    object.testRun('tell', PACKET, 100);
    const seen: number[] = [];
    assert.equal(
      object.drainEvents('events', (event) => seen.push(event.readUInt32LE(4))),
      100,
    );
    assert.deepEqual(
      seen,
      Array.from({ length: 100 }, (_, index) => index),
    );
    assert.equal(
      object.drainEvents('events', () => assert.fail()),
      0,
    );
    assert.throws(() => object.drainEvents('hash', () => {}), fails('EINVAL', /read hash/));
  }),
);

test(
  'events arrive on the loop, in order and more than a batch of them',
  withObject(async (object) => {
    const total = 5000;
    const seen: number[] = [];
    const { promise, resolve } = Promise.withResolvers<void>();
    object.readEvents('events', (event) => {
      seen.push(event.readUInt32LE(4));
      if (seen.length === total) resolve();
    });
    assert.throws(() => object.readEvents('events', () => {}), fails('EBUSY', /read events/));
    assert.throws(() => object.drainEvents('events', () => {}), fails('EBUSY', /read events/));
    object.testRun('tell', PACKET, total / 2);
    setImmediate(() => object.testRun('tell', PACKET, total / 2));
    await promise;
    object.stopEvents('events');
    assert.deepEqual(
      seen,
      Array.from({ length: total }, (_, index) => index),
    );
    object.stopEvents('events');
  }),
);

test(
  'a flood leaves the loop its turn, and nothing is lost between stop and drain',
  withObject((object) => {
    const total = 4000;
    const seen: number[] = [];
    const keep = (event: Buffer) => seen.push(event.readUInt32LE(4));
    const { promise, resolve } = Promise.withResolvers<void>();
    object.readEvents('events', (event) => {
      keep(event);
      // From within a callback, with the rest of the batch still untold.
      if (seen.length === 10) {
        object.stopEvents('events');
        resolve();
      }
    });
    object.testRun('tell', PACKET, total);
    return promise.then(() => {
      assert(seen.length < 10 + 1024, `${seen.length - 10} told after the stop`);
      object.drainEvents('events', keep);
      assert.deepEqual(
        seen,
        Array.from({ length: total }, (_, index) => index),
      );
    });
  }),
);

test('closing from within a callback ends the telling', async () => {
  const object = native.load(STUB, {});
  const { promise, resolve } = Promise.withResolvers<void>();
  let told = 0;
  object.readEvents('events', () => {
    told++;
    object.close();
    resolve();
  });
  object.testRun('tell', PACKET, 50);
  await promise;
  await new Promise(setImmediate);
  assert.equal(told, 1);
});

test('an error of a callback reaches whoever stops reading, and the reading is stopped', () => {
  const object = native.load(STUB, {});
  try {
    object.readEvents('events', () => {
      throw new Error('from the callback');
    });
    object.testRun('tell', PACKET, 1);
    // Whether the reader has fetched it by now is a race: then it is told on stopping, else it is in the buffer still.
    let thrown: unknown = null;
    try {
      object.stopEvents('events');
    } catch (error) {
      thrown = error;
    }
    if (thrown === null)
      assert.equal(
        object.drainEvents('events', () => {}),
        1,
      );
    else assert.match(String(thrown), /from the callback/);
    object.readEvents('events', () => {});
    object.stopEvents('events');
  } finally {
    object.close();
  }
});

test('an error of a callback on the loop is uncaught, as of any bug, and reading goes on for whoever catches it', async () => {
  const code = `
    const { loadNative } = await import(${JSON.stringify(import.meta.resolve('#src/kernel/native.ts'))});
    const object = loadNative().load(${JSON.stringify(STUB)}, {});
    let told = 0;
    process.on('uncaughtException', (error) => console.log(error.message));
    object.readEvents('events', () => {
      told++;
      if (told === 50) object.stopEvents('events');
      if (told === 5) throw new Error('from the callback');
    });
    object.testRun('tell', Buffer.from('${PACKET.toString('hex')}', 'hex'), 50);
    process.on('exit', () => console.log(told));`;
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', code], {
    timeout: 20_000,
  });
  assert.equal(stdout, 'from the callback\n50\n');
});

test('a closed object is closed for good, and twice is once', () => {
  const object = native.load(STUB, {});
  object.close();
  object.close();
  assert.throws(() => object.lookup('hash', numbers(1)), fails('EBADF', /lookup hash/));
  assert.throws(() => object.attachCgroup('tell', cgroup2Mount()), fails('EBADF', /attach tell/));
  assert.throws(() => object.waitForPrograms(), fails('EBADF', /wait for programs/));
  assert.deepEqual(object.programs(), []);
});

test(
  'an attached program judges a cgroup until it is detached',
  withObject(async (object) => {
    const folder = `${cgroup2Mount()}/postern-addon-${process.pid}`;
    const home = `${cgroup2Mount()}${readFileSync('/proc/self/cgroup', 'utf8').match(/^0::(.*)$/m)?.[1] ?? ''}`;
    mkdirSync(folder);
    try {
      assert.equal(native.cgroupId(folder) > 0n, true);
      writeFileSync(`${folder}/cgroup.procs`, String(process.pid));
      const link = object.attachCgroup('tell', folder);
      const server = net.createServer().listen(0, '127.0.0.1');
      await once(server, 'listening');
      const { port } = server.address() as net.AddressInfo;
      const client = net.connect(port, '127.0.0.1');
      await once(client, 'connect');
      object.detach(link);
      assert(object.drainEvents('events', () => {}) > 0);
      client.destroy();
      server.close();
      assert.throws(() => object.detach(link), fails('ENOENT', /detach/));
      assert.throws(() => object.attachCgroup('tell', '/nonexistent'), fails('ENOENT', /attach tell/));
    } finally {
      writeFileSync(`${home}/cgroup.procs`, String(process.pid));
      rmdirSync(folder);
    }
  }),
);

test('cgroup ids are those of cgroup2 only', () => {
  assert.throws(() => native.cgroupId('/proc'), fails('EINVAL', /cgroup id of \/proc/));
  assert.throws(() => native.cgroupId(`${cgroup2Mount()}/nonexistent`), fails('ENOENT', /cgroup id/));
});

test('a network namespace has one cookie, whoever names it', () => {
  const own = native.netnsCookie('/proc/self/ns/net');
  assert(own > 0n);
  assert.equal(native.netnsCookie(`/proc/${process.pid}/ns/net`), own);
  assert.throws(() => native.netnsCookie('/proc/self/ns/uts'), fails('EINVAL', /enter network namespace/));
  assert.throws(() => native.netnsCookie('/nonexistent'), fails('ENOENT', /open network namespace/));
});

test('what Postern needs is loaded by this kernel', () => {
  const answers = native.probe();
  assert.equal(Object.keys(answers).length, 19);
  for (const [name, refusal] of Object.entries(answers)) assert.equal(refusal, null, name);
});

for (const { family, listen, host, address } of [
  { family: 'IPv4', listen: '127.0.0.1', host: '127.0.0.1', address: '00000000000000000000ffff7f000001' },
  { family: 'IPv6', listen: '::1', host: '::1', address: '00000000000000000000000000000001' },
  { family: 'v4-mapped', listen: '127.0.0.1', host: '::ffff:127.0.0.1', address: '00000000000000000000ffff7f000001' },
]) {
  test(`an established ${family} socket is destroyed, its listener never`, async () => {
    const bytes = Buffer.from(address, 'hex');
    const server = net.createServer((socket) => socket.on('error', () => {})).listen(0, listen);
    await once(server, 'listening');
    try {
      const { port } = server.address() as net.AddressInfo;
      const client = net.connect(port, host);
      await once(client, 'connect');
      const from = client.localPort ?? 0;
      const destroy = (localPort: number, remotePort: number, cookie: bigint) =>
        native.destroyTcp('/proc/self/ns/net', bytes, localPort, bytes, remotePort, cookie);

      assert.equal(destroy(port, 1, 0n), false, 'the listener');
      assert.equal(destroy(from, port, 12345678901n), false, 'another socket by its cookie');
      const failed = once(client, 'error');
      assert.equal(destroy(from, port, 0n), true);
      const [error] = await failed;
      assert.equal(error.code, 'ECONNABORTED');
      assert.equal(destroy(from, port, 0n), false);
      client.destroy();
      assert(server.listening);
    } finally {
      server.close();
    }
  });
}
