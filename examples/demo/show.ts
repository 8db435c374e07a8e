// SPDX-License-Identifier: Apache-2.0
// The demo: the agent on a copy of examples/, real clients and servers, and a table of what the clients saw beside what the
// policies say. Exit status: 0 if each saw what `postern explain` says, 1 if one did not or something failed, 130 interrupted.
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import type { Explanation } from '../../src/judge/explain.ts';
import { type LogLine, TestAgent } from '../../test/support/agent.ts';
import { cgroupMount, Lab } from '../../test/support/lab.ts';
import { curl, dig, download, type Seen } from './client.ts';
import { type Connection, expected, http, rowOf, SECTIONS, type Told } from './connections.ts';
import { checkInterruption, Interrupted, listenForInterruption, unlessInterrupted } from './interruption.ts';
import { copyObjects, type Explain, editLine, readObjects } from './objects.ts';
import { HEAD, LiveTable, say, styled } from './terminal.ts';
import {
  buildWorld,
  LARGE_FILE,
  NAME,
  type Places,
  PROVIDER,
  placeOf,
  RESOLVER,
  STRANGER,
  STRANGER6,
} from './world.ts';

const POSTERN = path.join(import.meta.dirname, '../../bin/postern');
/** The agent tells repeats of a refusal once a second; beyond this, it has told nothing. */
const LOG_WAIT_MS = 5000;
/** A download that is not cut by then goes on. */
const CUT_WAIT_MS = 10_000;
const STILL_RUNNING: Seen & { readonly atMs?: number } = { outcome: 'silence', text: 'still running' };
/** After so long an agent that was told to end is killed. */
const STOP_WAIT_MS = 5000;

/** Runs the connections, and keeps count of what differs. */
class Show {
  readonly #agent: TestAgent;
  readonly #places: Places;
  readonly #table: LiveTable;
  explain: Explain;
  rows = 0;
  readonly differences: string[] = [];
  /** Rows that were refused or would have been: workload, policy and reason, as metrics label them. */
  readonly refused: { readonly series: string; readonly labels: string }[] = [];

  constructor(agent: TestAgent, places: Places, explain: Explain) {
    this.#agent = agent;
    this.#places = places;
    this.explain = explain;
    this.#table = new LiveTable(
      SECTIONS.flatMap(({ connections }) => connections).map((one) => {
        const told = this.#ask(one);
        return rowOf(one, told.address ?? '', HEAD[2].padEnd('timed out (600 ms)'.length), told);
      }),
    );
  }

  async run(): Promise<void> {
    this.#table.head();
    for (const { title, connections } of SECTIONS) {
      this.#table.section(title);
      for (const connection of connections) await this.#try(connection);
    }
  }

  /** Tries once, and prints the row. */
  async #try(connection: Connection): Promise<void> {
    checkInterruption();
    const place = placeOf(this.#places, connection.from);
    const explanation = this.#ask(connection);
    const address = explanation.address ?? '';
    const from = this.#agent.lines.length;
    const seen =
      connection.client === 'dig'
        ? await dig(place, address, NAME, connection.protocol)
        : await curl(place, address, connection.port);
    await this.#tell(connection, explanation, seen, from);
  }

  /** A download is running while a line of the policy that allows it is changed. */
  async edit(folder: string): Promise<void> {
    const connection = http('shop/web', PROVIDER, 80, 'the provider');
    this.#table.section('shop-web.yaml is edited while a download from the provider runs:');
    const running = download(placeOf(this.#places, connection.from), PROVIDER, 80, LARGE_FILE);
    await unlessInterrupted(running.began);
    const from = this.#agent.lines.length;
    const editedMs = performance.now();
    const edit = editLine(folder, 'shop-web.yaml', 'name: provider', 'port: 80', 'port: 443');
    say(styled('red', `- ${edit.before}`));
    say(styled('green', `+ ${edit.after}`));
    const applied = await unlessInterrupted(this.#agent.line((line) => line.event === 'applied', from));
    say(`The agent's log: ${JSON.stringify(applied)}`);
    const { outcome, text, atMs } = await unlessInterrupted(within(CUT_WAIT_MS, running.ended, STILL_RUNNING));
    say(`The client, ${Math.round((atMs ?? performance.now()) - editedMs)} ms after the edit: ${text}`);
    this.explain = readObjects(folder).explain;
    await this.#tell(
      connection,
      this.#ask(connection),
      { outcome, text: outcome === 'refused' ? 'download cut' : text },
      from,
    );
    await this.#try(connection);
  }

  #ask({ from, to, port, protocol }: Connection): Explanation {
    return this.explain({ from, to, port, protocol });
  }

  async #tell(connection: Connection, explanation: Explanation, seen: Seen, from: number): Promise<void> {
    const address = explanation.address ?? '';
    const wrong: string[] = [];
    let told: Told = explanation;
    if (explanation.verdict !== 'allow') {
      const line = await unlessInterrupted(this.#logged(connection, address, from));
      if (line !== null) told = { ...(line as unknown as Told), verdict: line.event === 'drop' ? 'deny' : 'audit' };
      else wrong.push('the agent logged nothing of it');
      const series = explanation.verdict === 'deny' ? 'postern_drop_count_total' : 'postern_would_drop_count_total';
      const labels = `{workload="${connection.from}",direction="egress",policy="${told.policy}",reason="${told.reason}"}`;
      this.refused.push({ series, labels });
    } else if (this.#agent.lines.slice(from).some((line) => isAbout(line, connection, address))) {
      wrong.push('the agent logged a refusal, explain allows it');
    }
    if (seen.outcome !== expected(explanation)) {
      wrong.push(`the client saw "${seen.text}", explain says ${explanation.verdict}`);
    }
    for (const field of ['verdict', 'policy', 'rule', 'reason'] as const) {
      if (told[field] !== explanation[field]) {
        wrong.push(`the log says ${field} ${told[field]}, explain ${explanation[field]}`);
      }
    }
    this.rows += 1;
    this.#table.row(rowOf(connection, address, seen.text, told));
    const { from: pod, to, port } = connection;
    for (const what of wrong) {
      say(styled('red', `  DIFFERS: ${what}`));
      this.differences.push(`${pod} -> ${to} ${port}: ${what}`);
    }
  }

  /** The line of the agent's log about it, or null where there is none. */
  #logged(connection: Connection, address: string, from: number): Promise<LogLine | null> {
    return within(
      LOG_WAIT_MS,
      this.#agent.line((one) => isAbout(one, connection, address), from),
      null,
    );
  }

  /** Asks for /metrics, prints a few of its lines, and looks up every refusal in it. */
  async metrics(address: string): Promise<void> {
    const text = await unlessInterrupted(fetch(address).then((answer) => answer.text()));
    const lines = text.split('\n');
    const values = new Map(lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), line]));
    say();
    say(`${styled('bold', address)}, a few of its lines:`);
    const shown = lines.filter((line) => /^postern_(drop|would_drop|forward)_count_total\{.*EgressPolicy/.test(line));
    for (const line of shown) say(`  ${line}`);
    for (const { series, labels } of this.refused) {
      if (values.has(`${series}${labels}`)) continue;
      this.differences.push(`${series}${labels} is not in /metrics`);
    }
  }
}

/** What `waiting` gives, or `otherwise` after so long. */
function within<T, Other>(ms: number, waiting: Promise<T>, otherwise: Other): Promise<T | Other> {
  const late = new AbortController();
  const timeout = pause(ms, otherwise, { signal: late.signal });
  timeout.catch(() => undefined);
  return Promise.race([waiting, timeout]).finally(() => late.abort());
}

function isAbout(line: LogLine, { from, port, protocol }: Connection, address: string): boolean {
  return (
    (line.event === 'drop' || line.event === 'audit') &&
    line.workload === from &&
    line.address === address &&
    line.port === port &&
    line.protocol === protocol
  );
}

function startAgent(lab: Lab, folder: string, policies: string): TestAgent {
  const options = ['--policies', policies, '--state-dir', path.join(folder, 'state'), '--cgroup-root', lab.root];
  const child = spawn(
    POSTERN,
    ['agent', ...options, '--metrics-address', '127.0.0.1:0', '--no-socket', '--bpffs', 'none'],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  lab.adopt(child);
  return new TestAgent(child);
}

/** Stays up until interrupted, and tells what the agent logs. */
async function hold(agent: TestAgent, places: Places, policies: string): Promise<void> {
  const inside = (pod: string, command: string): string => {
    const { cgroup, netns } = placeOf(places, pod);
    return `  sh -c 'echo 0 > ${cgroup}/cgroup.procs && exec nsenter --net=${netns} ${command}'`;
  };
  say();
  say('Up until Ctrl-C. In another terminal, as a pod (its cgroup, its network namespace):');
  say(inside('shop/web', `curl -sS -m 2 http://${STRANGER}/`));
  say(inside('shop/web', `curl -sS -m 2 -g "http://[${STRANGER6}]/"`));
  say(inside('shop/cart', `curl -sS -m 2 http://198.18.2.4:5432/`));
  say(inside('batch/report', `curl -sS -m 2 http://${STRANGER}/`));
  say(inside('shop/web', `dig +tcp +time=1 +tries=1 @${RESOLVER} ${NAME}`));
  say('One command under a policy of its own, beside the pods:');
  const run = `${POSTERN} run --policy ${path.join(import.meta.dirname, '../run/internet.yaml')}`;
  say(`  nsenter --net=${placeOf(places, 'shop/web').netns} ${run} -- curl -sS -m 2 http://${STRANGER}/`);
  say(`Edit what is in ${policies}, and ask:`);
  say(`  ${POSTERN} explain --policies ${policies} --from shop/web --to ${STRANGER} --port 80`);
  say("The agent's log from here on:");
  let told = agent.lines.length;
  for (;;) {
    const from = told;
    await unlessInterrupted(agent.line(() => true, from));
    for (; told < agent.lines.length; told += 1) say(JSON.stringify(agent.lines[told]));
  }
}

async function show(holds: boolean): Promise<number> {
  const startedMs = performance.now();
  const folder = mkdtempSync(path.join(tmpdir(), `postern-demo-${process.pid}-`));
  let lab: Lab | null = null;
  let agent: TestAgent | null = null;
  let isShown = false;
  try {
    lab = await Lab.create();
    const policies = path.join(folder, 'policies');
    mkdirSync(policies);
    copyObjects(policies, path.relative(cgroupMount(), lab.root));
    const { snapshot, explain } = readObjects(policies);
    checkInterruption();
    agent = startAgent(lab, folder, policies);
    const places = await buildWorld(lab, snapshot, folder);
    checkInterruption();
    const ready = await unlessInterrupted(agent.line((line) => line.event === 'ready'));
    say(
      `${ready.workloads} workloads, ${ready.policies} policies. Refused at once is EPERM; everything below is real traffic.`,
    );
    say();
    const demo = new Show(agent, places, explain);
    await demo.run();
    await demo.edit(policies);
    await demo.metrics(String(ready.metrics));
    isShown = true;
    const seconds = ((performance.now() - startedMs) / 1000).toFixed(1);
    say();
    for (const difference of demo.differences) say(styled('red', `differs: ${difference}`));
    say(
      `${demo.rows} connections, ${demo.differences.length} differences from what postern explain says; ${seconds} s`,
    );
    process.exitCode = demo.differences.length === 0 ? 0 : 1;
    if (holds) await hold(agent, places, policies);
    return process.exitCode;
  } catch (error) {
    if (!(error instanceof Interrupted)) throw error;
    say();
    say('interrupted: removing what was made');
    return holds && isShown ? Number(process.exitCode ?? 0) : 130;
  } finally {
    // The agent goes by itself; what else runs is killed with its cgroup.
    if (agent !== null) await within(STOP_WAIT_MS, agent.stop(), null);
    await lab?.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

listenForInterruption();
try {
  process.exitCode = await show(process.argv.includes('--hold'));
} catch (error) {
  process.exitCode = 1;
  process.stderr.write(`demo: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
}
if (process.connected) process.disconnect?.();
