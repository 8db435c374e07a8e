// SPDX-License-Identifier: Apache-2.0
// `postern uninstall`: ends enforcement, and takes away every trace of it on this node, and nothing else.
import { rmdirSync, rmSync, statSync } from 'node:fs';
import path from 'node:path';
import { Command } from 'commander';
import { SOCKET } from '../agent/socket.ts';
import { guardsIn } from '../kernel/inheritance.ts';
import { LEDGER_FILES } from '../kernel/ledger.ts';
import { KernelError, loadNative, type Native } from '../kernel/native.ts';
import { BPFFS, PinError, PinFolder } from '../kernel/pins.ts';
import { OWNER_FILE, STATE } from '../source/state.ts';
import { ask, isForRootAlone, isNobodyThere } from './ask.ts';

interface Options {
  readonly bpffs: string;
  readonly stateDir: string;
  readonly socket: string;
}

/** Exit status: 0 nothing is left; 1 an agent runs, or something could not be removed. */
export function command(): Command {
  return new Command('uninstall')
    .description('End enforcement on this node and remove every trace of it; refused while an agent runs')
    .option('--bpffs <dir>', 'where programs and maps are pinned', BPFFS)
    .option('--state-dir <dir>', 'where the agent kept the last valid version of each object', STATE)
    .option('--socket <path>', 'where the agent answered', SOCKET)
    .addHelpText(
      'after',
      `
Removes links, guards at interfaces (a clsact qdisc only where the agent made it and nobody else uses it), maps, the state directory's
objects and the socket. Whatever else lies in these folders is left, and told. An agent that was started with paths of its own says in its last
line how to write this. From then on every workload may do whatever nothing else forbids.`,
    )
    .action(async (options: Options) => {
      process.exitCode = await run(options);
    });
}

async function run(options: Options): Promise<number> {
  const [bpffs, stateDir, socket] = [options.bpffs, options.stateDir, options.socket].map((one) => path.resolve(one));
  if (bpffs === undefined || stateDir === undefined || socket === undefined)
    throw new Error('three paths are three paths');
  const wrong = await whyNot(socket);
  if (wrong !== null) return refuse(wrong);
  try {
    const { removed, remains } = unpin(bpffs);
    process.stdout.write(
      removed === 0
        ? `nothing was pinned in ${bpffs}\n`
        : `removed ${removed} ${removed === 1 ? 'pin' : 'pins'} in ${bpffs}\n`,
    );
    for (const file of remains) process.stdout.write(`left ${file}, which is not Postern's\n`);
    for (const file of removeFiles(stateDir, socket)) process.stdout.write(`removed ${file}\n`);
    return 0;
  } catch (error) {
    if (error instanceof PinError || error instanceof KernelError) return refuse(error.message);
    const { code, path: file } = error as NodeJS.ErrnoException;
    if (code === undefined) throw error;
    return refuse(`${file} cannot be removed: ${code}`);
  }
}

/** How many files were removed, and which are somebody else's. Throws KernelError, PinError. */
function unpin(bpffs: string): { readonly removed: number; readonly remains: readonly string[] } {
  const native = loadNative();
  let pins: PinFolder;
  try {
    pins = PinFolder.take(native, bpffs);
  } catch (error) {
    if (error instanceof PinError && ['NOT_PINNED', 'NOT_BPFFS'].includes(error.code))
      return { removed: 0, remains: [] };
    throw error;
  }
  try {
    removeFilters(native, pins);
    const removed = pins.removeAll().length;
    return { removed, remains: pins.remains() };
  } finally {
    pins.close();
  }
}

/** Where there is no tcx, the guard's programs are filters, which no pin holds. */
function removeFilters(native: Native, pins: PinFolder): void {
  for (const { maps } of pins.sets()) {
    for (const ifindex of guardsIn(native, { paths: maps }).keys()) {
      for (const side of ['ingress', 'egress'] as const) {
        const program = native.clsactProgram(ifindex, side);
        if (program !== null && native.program(program)?.maps?.guards !== undefined) native.detachClsact(ifindex, side);
      }
      if (pins.isMarked(ifindex)) native.removeEmptyClsact(ifindex);
    }
  }
}

function removeFiles(stateDir: string, socket: string): string[] {
  const removed: string[] = [];
  const objects = [path.join(stateDir, 'objects'), path.join(stateDir, 'cluster', 'objects')];
  const ledger = [...LEDGER_FILES, OWNER_FILE, `${OWNER_FILE}.next`].map((name) => path.join(stateDir, name));
  for (const file of [...objects, ...ledger, socket]) {
    if (statSync(file, { throwIfNoEntry: false }) === undefined) continue;
    rmSync(file, { recursive: true });
    removed.push(file);
  }
  for (const folder of [path.join(stateDir, 'cluster'), stateDir, path.dirname(socket)]) {
    try {
      rmdirSync(folder);
      removed.push(folder);
    } catch {
      // Not there, or something of somebody else's is in it.
    }
  }
  return removed;
}

/** null: no agent is there. */
async function whyNot(socket: string): Promise<string | null> {
  try {
    await ask(socket, '/policies');
  } catch (error) {
    if (isNobodyThere(error)) return null;
    if (isForRootAlone(error)) return `whether an agent answers on ${socket} cannot be asked: only root may uninstall`;
  }
  return `an agent answers on ${socket}: stop it first (and its DaemonSet, which would start it again), or, if that is another's, name all three paths of the one that is gone`;
}

function refuse(message: string): number {
  process.stderr.write(`postern uninstall: ${message}\n`);
  return 1;
}
