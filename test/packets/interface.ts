// SPDX-License-Identifier: Apache-2.0
// The guard on a lab's real interface, attached as a kernel without tcx has it: a filter of clsact, in the namespace that stands for
// the host. It knows what the agent writes down of an interface, and no policy.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { GUARD_HARDWARE_ADDRESS } from '#build/generated/abi.ts';
import { loadNative } from '#src/kernel/native.ts';
import type { Lab, Place } from '../support/lab.ts';
import type { Maps } from './programs.ts';

const LOSS = fileURLToPath(new URL('../../build/test/packets/loss.bpf.o', import.meta.url));

interface Link {
  readonly ifindex: number;
  readonly link_netnsid?: number;
  readonly address: string;
  readonly addr_info?: readonly { readonly local: string }[];
}

/** What `ip` says of an interface in a namespace. */
export function linkOf(netns: string, name: string): Link {
  const [link] = JSON.parse(
    execFileSync('ip', ['-n', path.basename(netns), '-j', 'addr', 'show', name], { encoding: 'utf8' }),
  );
  return link;
}

/** Interfaces under guard. `close` takes the guards away; the lab's own end removes the interfaces. */
export class Guards {
  readonly #folder = mkdtempSync(path.join(tmpdir(), `postern-${process.pid}-`));
  readonly #maps: Maps;
  readonly #host: string;
  readonly #links: string[] = [];

  constructor(maps: Maps, lab: Lab) {
    this.#maps = maps;
    this.#host = lab.outside.netns;
    try {
      execFileSync('mount', ['-t', 'bpf', 'bpf', this.#folder]);
      for (const name of ['guard_in', 'guard_out']) {
        const { id } = maps.object.program(name);
        execFileSync('bpftool', ['prog', 'pin', 'id', `${id}`, path.join(this.#folder, name)]);
      }
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #onHost(command: string, ...args: readonly string[]): void {
    execFileSync('nsenter', [`--net=${this.#host}`, '--', command, ...args]);
  }

  /** Describes the host's end `name` of a place's eth0. Call it again after the maps were emptied. */
  describe(name: string, place: Place): void {
    const pod = linkOf(place.netns, 'eth0');
    const { ifindex, link_netnsid = -1 } = linkOf(this.#host, name);
    this.#maps.guard(
      ifindex,
      {
        netns: loadNative().netnsCookie(place.netns),
        nsid: link_netnsid,
        flags: GUARD_HARDWARE_ADDRESS,
        hardwareAddress: pod.address.replaceAll(':', ''),
      },
      ...(pod.addr_info ?? []).map(({ local }) => local),
    );
  }

  attach(name: string, place: Place): void {
    this.describe(name, place);
    this.#onHost('tc', 'qdisc', 'add', 'dev', name, 'clsact');
    this.#links.push(name);
    for (const [side, program] of [
      ['egress', 'guard_in'],
      ['ingress', 'guard_out'],
    ] as const) {
      const pin = path.join(this.#folder, program);
      this.#onHost('tc', 'filter', 'add', 'dev', name, side, 'prio', '2', 'bpf', 'direct-action', 'object-pinned', pin);
    }
  }

  /** Before the guard, on the way to the pod: runs `during` while a wire loses every fifth segment that a resolver sends. */
  async lossy(name: string, during: () => Promise<void>): Promise<void> {
    const side = ['dev', name, 'egress', 'prio', '1'];
    this.#onHost('tc', 'filter', 'add', ...side, 'bpf', 'direct-action', 'object-file', LOSS, 'section', 'tc');
    try {
      await during();
    } finally {
      this.#onHost('tc', 'filter', 'del', ...side);
    }
  }

  close(): void {
    for (const name of this.#links) this.#onHost('tc', 'qdisc', 'del', 'dev', name, 'clsact');
    // What is pinned goes with the mount; where that failed there is none.
    spawnSync('umount', [this.#folder]);
    rmdirSync(this.#folder);
  }
}
