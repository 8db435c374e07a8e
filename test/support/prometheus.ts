// SPDX-License-Identifier: Apache-2.0
// A real Prometheus that scrapes what a test has running, with time in seconds where rules say minutes.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';

/** Far longer than anything takes. */
const PATIENCE_MS = 300_000;

/** Rules as they are, but that a minute is a second and an hour a minute: what takes an hour then shows in a test. */
export function hastened(rules: string): string {
  return rules.replace(/\b(\d+)m\b/g, '$1s').replace(/\b(\d+)h\b/g, '$1m');
}

export interface Alert {
  readonly state: 'pending' | 'firing';
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}

export interface Sample {
  readonly metric: Readonly<Record<string, string>>;
  /** Time in seconds since 1970, value as Prometheus writes it. */
  readonly value: readonly [number, string];
}

export class Prometheus {
  readonly #child: ChildProcess;
  readonly #folder: string;
  readonly #atExit = () => this.#child.kill('SIGKILL');
  #url = '';

  private constructor(folder: string) {
    this.#folder = folder;
    this.#child = spawn(
      'prometheus',
      [
        `--config.file=${path.join(folder, 'prometheus.yml')}`,
        `--storage.tsdb.path=${path.join(folder, 'data')}`,
        '--web.listen-address=127.0.0.1:0',
      ],
      { stdio: ['ignore', 'ignore', 'pipe'] },
    );
    process.on('exit', this.#atExit);
  }

  /** Scrapes `http://HOST:PORT/metrics` each second as job `postern-metrics`, and evaluates `rules` (the text of a file) as often. */
  static async start(target: string, rules: string): Promise<Prometheus> {
    const folder = mkdtempSync(path.join(tmpdir(), `postern-prometheus-${process.pid}-`));
    writeFileSync(path.join(folder, 'rules.yaml'), rules);
    const config = {
      global: { scrape_interval: '1s', scrape_timeout: '1s', evaluation_interval: '1s' },
      rule_files: ['rules.yaml'],
      scrape_configs: [{ job_name: 'postern-metrics', static_configs: [{ targets: [new URL(target).host] }] }],
    };
    writeFileSync(path.join(folder, 'prometheus.yml'), JSON.stringify(config));
    const prometheus = new Prometheus(folder);
    try {
      await prometheus.#listening();
    } catch (error) {
      await prometheus.close();
      throw error;
    }
    return prometheus;
  }

  async #listening(): Promise<void> {
    const lines: string[] = [];
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), PATIENCE_MS);
    try {
      if (this.#child.stderr === null) throw new Error('Prometheus needs a pipe');
      for await (const line of createInterface({ input: this.#child.stderr })) {
        lines.push(line);
        const address = /msg="Listening on" address=(\S+)/.exec(line)?.[1];
        if (address !== undefined) this.#url = `http://${address}`;
        if (line.includes('Server is ready')) break;
      }
    } finally {
      clearTimeout(timer);
    }
    if (this.#url === '') throw new Error(`Prometheus did not start:\n${lines.join('\n')}`);
    this.#child.stderr?.resume();
  }

  async #get(path: string): Promise<unknown> {
    const answer = (await (await fetch(`${this.#url}/api/v1/${path}`)).json()) as { status: string; data: unknown };
    if (answer.status !== 'success') throw new Error(`${path}: ${JSON.stringify(answer)}`);
    return answer.data;
  }

  async query(expression: string): Promise<readonly Sample[]> {
    return ((await this.#get(`query?query=${encodeURIComponent(expression)}`)) as { result: Sample[] }).result;
  }

  async alerts(): Promise<readonly Alert[]> {
    return ((await this.#get('alerts')) as { alerts: Alert[] }).alerts;
  }

  /** Waits until an alert of this name fires. */
  async firing(name: string): Promise<Alert> {
    const endMs = performance.now() + PATIENCE_MS;
    for (;;) {
      const alerts = await this.alerts();
      const found = alerts.find(({ state, labels }) => state === 'firing' && labels.alertname === name);
      if (found !== undefined) return found;
      if (performance.now() > endMs) throw new Error(`${name} does not fire; there are ${JSON.stringify(alerts)}`);
      await pause(200);
    }
  }

  async close(): Promise<void> {
    process.off('exit', this.#atExit);
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      const ended = new Promise((resolve) => this.#child.once('close', resolve));
      this.#child.stderr?.resume();
      this.#child.kill('SIGKILL');
      await ended;
    }
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
