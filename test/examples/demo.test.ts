// SPDX-License-Identifier: Apache-2.0
// Does the demo show what it promises, and is nothing left of it, however it ends? Run as `make demo` runs it, in a session of its own.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test, { type TestContext } from 'node:test';
import { cgroupMount, resultOf } from '../support/lab.ts';

const DEMO = path.join(import.meta.dirname, '../../examples/demo.ts');
/** In the environment of every process that a run starts, and of no other. */
const MARK = 'POSTERN_DEMO_TEST';

interface Ended {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly text: string;
  readonly errors: string;
}

class DemoRun {
  readonly child: ChildProcess;
  readonly #mark: string;
  readonly #tmp: string;
  readonly #made = new Set<string>();
  text = '';
  #errors = '';
  readonly #ended: Promise<Ended>;
  readonly #waiting = new Set<() => void>();

  constructor(t: TestContext, ...args: readonly string[]) {
    this.#tmp = mkdtempSync(path.join(tmpdir(), `postern-demo-test-${process.pid}-`));
    this.#mark = `${MARK}=${path.basename(this.#tmp)}`;
    this.child = spawn(process.execPath, [DEMO, ...args], {
      // A process group as a terminal's foreground has one: Ctrl-C is a signal to all of it.
      detached: true,
      env: { ...process.env, TMPDIR: this.#tmp, [MARK]: path.basename(this.#tmp) },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.text += text;
      for (const wake of this.#waiting) wake();
    });
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#errors += text;
    });
    this.#ended = new Promise((resolve) => {
      this.child.on('close', (status, signal) => {
        for (const wake of this.#waiting) wake();
        resolve({ status, signal, text: this.text, errors: this.#errors });
      });
    });
    t.after(async () => {
      for (const pid of this.processes()) process.kill(pid, 'SIGKILL');
      await this.#ended;
      rmSync(this.#tmp, { recursive: true, force: true });
    });
  }

  /** Ids of all living processes that the run started, itself included. */
  processes(): number[] {
    return readdirSync('/proc').flatMap((name) => {
      if (!/^\d+$/.test(name)) return [];
      try {
        const isOurs = readFileSync(`/proc/${name}/environ`, 'utf8').split('\0').includes(this.#mark);
        return isOurs ? [Number(name)] : [];
      } catch {
        return []; // It has ended.
      }
    });
  }

  /** Cgroups and namespaces that carry the id of a process of the run, now or at an earlier call. */
  things(): string[] {
    const prefixes = this.processes().map((pid) => `postern-${pid}-`);
    for (const prefix of prefixes) this.#made.add(prefix);
    const names = [cgroupMount(), '/run/netns'].flatMap((folder) =>
      existsSync(folder) ? readdirSync(folder).map((name) => path.join(folder, name)) : [],
    );
    return names.filter((name) => [...this.#made].some((prefix) => path.basename(name).startsWith(prefix)));
  }

  /** The process of its agent, once there is one. */
  agent(): number | undefined {
    return this.processes().find((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('\0agent\0');
      } catch {
        return false; // It has ended.
      }
    });
  }

  /** From the copy that its agent watches. */
  removePolicy(name: string): void {
    const [copy = ''] = readdirSync(this.#tmp).filter((one) => one.startsWith('postern-demo-'));
    rmSync(path.join(this.#tmp, copy, 'policies', name));
  }

  async shows(text: RegExp): Promise<void> {
    while (!text.test(this.text)) {
      assert.equal(this.child.exitCode ?? this.child.signalCode, null, `ended early: ${this.text}${this.#errors}`);
      await new Promise<void>((resolve) => {
        const wake = () => {
          this.#waiting.delete(wake);
          resolve();
        };
        this.#waiting.add(wake);
      });
    }
  }

  /** What Ctrl-C does. */
  interrupt(): void {
    process.kill(-(this.child.pid ?? 0), 'SIGINT');
  }

  isRunning(): boolean {
    return this.child.exitCode === null && this.child.signalCode === null;
  }

  ended(): Promise<Ended> {
    return this.#ended;
  }

  assertNothingLeft(): void {
    assert.deepEqual(this.things(), [], 'cgroups and namespaces');
    assert.deepEqual(this.processes(), [], 'processes');
    assert.deepEqual(readdirSync(this.#tmp), [], 'files');
  }
}

/** The cells of each row, from FROM on. */
function rows(text: string): string[][] {
  return text
    .split('\n')
    .filter((line) => /^[a-z]+\/[a-z]+ {2}/.test(line))
    .map((line) => line.split(/ {2,}/));
}

test('the demo shows each kind of verdict with its policy, as explain says, and leaves nothing', async (t) => {
  const run = new DemoRun(t);
  await run.shows(/^FROM/m);
  assert.ok(run.things().length > 0, 'it makes cgroups and namespaces');
  const { status, text, errors } = await run.ended();
  assert.equal(status, 0, text + errors);
  assert.equal(errors, '');
  assert.match(text, /^18 connections, 0 differences/m);
  const told = rows(text).map(([from, to, saw, ...policy]) => [from, to, saw?.replace(/ (in|\().*/, ''), ...policy]);
  const web = 'EgressPolicy/shop/web';
  const expected = [
    ['data/db', 'a site 198.18.1.20:80/TCP', 'EPERM', 'DENY', 'NetworkPolicy/data/default-deny', '-', 'no_rule'],
    ['shop/cart', 'pod data/db 198.18.2.4:5432/TCP', 'HTTP 200', 'ALLOW', 'NetworkPolicy/shop/cart', '0', 'rule'],
    ['shop/web', 'the provider [fd00:18:1::10]:80/TCP', 'HTTP 200', 'ALLOW', web, '1 provider', 'rule'],
    ['shop/web', 'a site [fd00:18:1::20]:80/TCP', 'EPERM', 'DENY', web, '-', 'no_rule'],
    ['shop/web', 'service shop/cart 198.18.96.2:80/TCP', 'HTTP 200', 'ALLOW', web, '0 cart', 'rule'],
    ['shop/web', 'a resolver 198.18.1.54:53/TCP', 'EPERM', 'DENY', web, '-', 'no_rule'],
    [
      ...['ops/debug', 'metadata 198.18.169.254:80/TCP', 'EPERM', 'DENY'],
      ...['ClusterEgressPolicy/no-cloud-metadata', '-', 'limit'],
    ],
    ['batch/report', 'a site 198.18.1.20:80/TCP', 'timed out', 'DENY', 'EgressPolicy/batch/report', '-', 'no_rule'],
    ['shop/checkout', 'a site 198.18.1.20:80/TCP', 'HTTP 200', 'AUDIT', 'EgressPolicy/shop/checkout', '-', 'no_rule'],
    ['shop/web', 'the provider 198.18.1.10:80/TCP', 'download cut', 'DENY', web, '-', 'no_rule'],
  ];
  for (const row of expected) {
    assert.ok(
      told.some((one) => JSON.stringify(one) === JSON.stringify(row)),
      `${row.join('  ')}\n${text}`,
    );
  }
  assert.match(text, /"event":"applied","ms":[\d.]+,.*"changed":\["shop\/web"\]/);
  assert.match(text, /^ {2}postern_drop_count_total\{workload="shop\/web",.*\} \d+$/m);
  assert.ok(!text.includes('\x1b'), 'no colours without a terminal');
  run.assertNothingLeft();
});

test('a client that sees something else than explain says makes it fail, and is told', async (t) => {
  const run = new DemoRun(t);
  // Once the agent is started, what explain knows has been read: from then on the agent alone hears of changes.
  while (run.isRunning() && run.agent() === undefined) await new Promise((resolve) => setTimeout(resolve, 5));
  run.removePolicy('batch-report.yaml');
  const { status, text } = await run.ended();
  assert.equal(status, 1, text);
  assert.match(text, /^batch\/report .* HTTP 200 /m);
  assert.match(text, /^differs: batch\/report -> 198\.18\.1\.20 80: the client saw "HTTP 200 .*", explain says deny$/m);
  run.assertNothingLeft();
});

test('two demos at once do not disturb each other', async (t) => {
  const runs = [new DemoRun(t), new DemoRun(t)];
  for (const { status, text, errors } of await Promise.all(runs.map((run) => run.ended()))) {
    assert.equal(status, 0, text + errors);
    assert.match(text, /^18 connections, 0 differences/m);
  }
  for (const run of runs) run.assertNothingLeft();
});

test('Ctrl-C at any moment, also twice, removes everything', async (t) => {
  const moments: readonly ((run: DemoRun) => Promise<void>)[] = [
    async () => undefined,
    async (run) => {
      // The first thing that it makes.
      while (run.isRunning() && run.things().length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    },
    async (run) => {
      // In the midst of making.
      while (run.isRunning() && run.things().length < 6) await new Promise((resolve) => setTimeout(resolve, 5));
    },
    (run) => run.shows(/^FROM/m),
    (run) => run.shows(/^shop\/web /m),
    (run) => run.shows(/^batch-report/m),
    (run) => run.shows(/^- /m),
  ];
  for (const [index, moment] of moments.entries()) {
    const run = new DemoRun(t);
    await moment(run);
    run.things();
    run.interrupt();
    // Once at every third moment, else again while it is cleaning up.
    if (index % 3 !== 0) await run.shows(/^interrupted/m);
    if (index % 3 !== 0) run.interrupt();
    const { status, signal, text, errors } = await run.ended();
    // Before anything is made, the signal itself may end it.
    assert.ok(status === 130 || signal === 'SIGINT', `${status} ${signal} ${text}${errors}`);
    assert.equal(errors, '');
    run.assertNothingLeft();
  }
});

test('a terminal that goes away, a failure and a killed parent leave nothing either', async (t) => {
  const unread = new DemoRun(t);
  await unread.shows(/^FROM/m);
  unread.things();
  unread.child.stdout?.destroy();
  assert.notEqual((await unread.ended()).status, 0);
  unread.assertNothingLeft();

  const failing = new DemoRun(t);
  await failing.shows(/^FROM/m);
  failing.things();
  const agent = failing.agent();
  assert.ok(agent !== undefined);
  process.kill(agent, 'SIGKILL');
  const { status, errors } = await failing.ended();
  assert.equal(status, 1);
  assert.notEqual(errors, '');
  failing.assertNothingLeft();

  const orphan = new DemoRun(t);
  await orphan.shows(/^FROM/m);
  orphan.things();
  process.kill(orphan.child.pid ?? 0, 'SIGKILL');
  // Its pipes close when the last process that holds them has ended.
  await orphan.ended();
  while (orphan.processes().length > 0) await new Promise((resolve) => setTimeout(resolve, 10));
  orphan.assertNothingLeft();
});

test('--hold stays up, prints commands that work, tells what is refused, and ends with Ctrl-C as a success', async (t) => {
  const run = new DemoRun(t, '--hold');
  await run.shows(/^The agent's log from here on:/m);
  run.things();
  const commands = run.text.split('\n').filter((line) => /^ {2}(sh|nsenter|\/).*(198\.18|fd00)/.test(line));
  assert.equal(commands.length, 7);
  const outcomes = await Promise.all(commands.map((command) => resultOf(spawn('sh', ['-c', command]), 30_000)));
  // EPERM in both families, the database, Drop's silence, EPERM for dig, EPERM under postern run; explain.
  assert.deepEqual(
    outcomes.map(({ status }) => status),
    [7, 7, 0, 28, 9, 7, 0],
    JSON.stringify(outcomes),
  );
  await run.shows(/^\{.*"event":"drop".*"workload":"shop\/web".*"address":"198\.18\.1\.20"/m);
  run.interrupt();
  const { status } = await run.ended();
  assert.equal(status, 0);
  run.assertNothingLeft();
});
