// SPDX-License-Identifier: Apache-2.0
// `postern status`: what is attached where, since when, and does the kernel hold what the policies say? Asks the agent; where none runs,
// what is pinned tells what there is.
import path from 'node:path';
import { Command, Option } from 'commander';
import type { NodeStatus } from '../agent/node-status.ts';
import { SOCKET } from '../agent/socket.ts';
import { cgroupMount } from '../bind/mount.ts';
import { folderWithId } from '../bind/root.ts';
import { guardsIn } from '../kernel/inheritance.ts';
import { KernelError, loadNative, type Native, type Side } from '../kernel/native.ts';
import { BPFFS, isOurs, PinError, PinFolder, type PinnedSet } from '../kernel/pins.ts';
import { GUARDS } from '../kernel/programs.ts';
import { ask, isNobodyThere, whyNobodyAnswers } from './ask.ts';
import { table } from './table.ts';

interface Options {
  readonly output?: 'json';
  readonly socket: string;
  readonly bpffs: string;
}

/** Exit status: 0 everything is as it should be; 1 it is not; 2 nobody could be asked. */
export function command(): Command {
  return new Command('status')
    .description('Tell what is attached where, since when, and whether the kernel holds what the policies say')
    .addOption(new Option('-o, --output <format>', 'json').choices(['json']))
    .option('--socket <path>', 'where the agent answers', SOCKET)
    .option('--bpffs <dir>', 'where programs and maps are pinned, for when no agent runs', BPFFS)
    .addHelpText(
      'after',
      `
DIGEST is the same wherever a map holds the same: of identities, networks, names, verdicts and ports on every node with the same policies and pods
for its workloads. DIFFERING counts entries of a map that are not what the agent wrote, compared byte by byte, now. Without an agent it is not known: what the last
one enforced goes on as it was, and what is pinned is told.
Exit status: 0 an agent runs, enforces what its source says, and all is as it left it; 1 not so; 2 nobody could be asked, and nothing is pinned.`,
    )
    .action(async (options: Options) => {
      process.exitCode = await run(options);
    });
}

async function run({ output, socket, bpffs }: Options): Promise<number> {
  let status: NodeStatus;
  try {
    status = JSON.parse(await ask(socket, '/status')) as NodeStatus;
  } catch (error) {
    if (!isNobodyThere(error)) return refuse(`no answer on ${socket}: ${whyNobodyAnswers(error)}`);
    try {
      status = fromPins(loadNative(), path.resolve(bpffs));
    } catch (failure) {
      if (!(failure instanceof PinError || failure instanceof KernelError)) throw failure;
      return refuse(
        `no agent answers on ${socket}, and ${failure.message}: nothing is enforced on this node, or an agent was started with another --socket and --bpffs`,
      );
    }
  }
  process.stdout.write(output === 'json' ? `${JSON.stringify(status, null, 2)}\n` : rendered(status));
  const isRight = status.ready && status.programs.length > 0 && status.drift.length === 0;
  return isRight && status.maps.every(({ differing }) => differing === 0) ? 0 : 1;
}

/** Of the newest set of maps. Throws KernelError, PinError. */
function fromPins(native: Native, folder: string): NodeStatus {
  const pins = PinFolder.look(native, folder);
  const links = pins.links();
  const guards = pins.guards();
  const interfaces = new Map(native.interfaces(null).map(({ ifindex, name }) => [ifindex, name]));
  const set = pins.sets().toSorted((a, b) => b.number - a.number)[0];
  const attached = links.filter(({ info }) => info.cgroup !== 0n);
  const names = new Set(attached.map(({ name }) => name));
  const missing = pins.programNames().filter((name) => !GUARDS.includes(name) && !names.has(name));
  const filtered = set === undefined ? [] : filteredInterfaces(native, set);
  const maps = native.openMaps(set?.maps ?? {});
  try {
    const since = links.length === 0 ? null : new Date(Math.min(...links.map(({ sinceMs }) => sinceMs))).toISOString();
    return {
      ...{ pid: null, ready: false, bpffs: folder, root: rootOf(native, attached[0]?.info.cgroup), since },
      programs: attached.map(({ name, info, program }) => ({ program: name, tag: program?.tag ?? '', link: info.id })),
      guards: [...new Set([...guards.map(({ info }) => info.ifindex), ...filtered])]
        .filter((ifindex) => ifindex !== 0)
        .map((ifindex) => {
          const links = guards.filter((one) => one.info.ifindex === ifindex);
          const since =
            links.length === 0 ? null : new Date(Math.max(...links.map((one) => one.sinceMs))).toISOString();
          const mode = links.length === 0 ? 'clsact' : 'tcx';
          return {
            ...{ workload: '<unknown>', situation: 'guarded' },
            interfaces: [{ name: interfaces.get(ifindex) ?? `interface ${ifindex}`, mode, since, first: true }],
          };
        }),
      maps: Object.entries(maps.maps())
        .filter(([map]) => POLICY_MAPS.includes(map))
        .map(([map, { maxEntries }]) => {
          const { count } = maps.dump(map);
          return { map, entries: count, wanted: count, differing: 0, digest: null, wantedDigest: null, maxEntries };
        }),
      drift: missing.map((name) => ({ what: 'link', name })),
      repaired: {},
    };
  } finally {
    maps.close();
  }
}

/** Where Postern's filters of clsact are on both sides: no pin holds them, but who is guarded is in the maps. Throws KernelError. */
function filteredInterfaces(native: Native, { maps }: PinnedSet): number[] {
  const isThere = (ifindex: number, side: Side): boolean => {
    const program = native.clsactProgram(ifindex, side);
    return program !== null && isOurs(native.program(program));
  };
  return [...guardsIn(native, { paths: maps }).keys()].filter((ifindex) =>
    (['ingress', 'egress'] as const).every((side) => isThere(ifindex, side)),
  );
}

/** Absolute path; null: it is gone, or not to be seen from here. */
function rootOf(native: Native, cgroup: bigint | undefined): string | null {
  const mount = cgroupMount();
  if (cgroup === undefined || mount === null) return null;
  const below = folderWithId(mount, cgroup, (folder) => native.cgroupId(folder));
  return below === null ? null : path.join(mount, below);
}

const POLICY_MAPS = [
  ...['workloads', 'identities', 'networks', 'names', 'resolvers', 'verdicts', 'ports', 'selves', 'guards', 'sources'],
];

export function rendered(status: NodeStatus): string {
  const { pid, ready, bpffs, root, since, programs, guards, maps, drift, repaired } = status;
  const agent =
    pid === null
      ? `none runs${programs.length === 0 ? '' : ': what the last one enforced goes on, and no change is followed'}`
      : `process ${pid}${ready ? '' : ', nothing of its source is enforced yet'}`;
  const times = Object.entries(repaired).filter(([, count]) => count > 0);
  const head = [
    ['Agent', agent],
    ['Pinned in', bpffs ?? 'nowhere: enforcement ends with the agent'],
    ...(root === null ? [] : [['Root', root]]),
    ['Attached since', programs.length === 0 ? 'nothing is attached' : (since ?? 'the agent started')],
    ...(times.length === 0 ? [] : [['Put right', times.map(([what, count]) => `${what} ${count}`).join(', ')]]),
  ];
  const sections = [
    head.map(([name, text]) => `${`${name}:`.padEnd(16)}${text}\n`).join(''),
    table(
      ['PROGRAM', 'TAG', 'LINK'],
      programs.map(({ program, tag, link }) => [program, tag, String(link)]),
    ),
    table(
      ['MAP', 'ENTRIES', 'OF', 'DIFFERING', 'DIGEST'],
      maps.map(({ map, entries, maxEntries, differing, digest, wantedDigest }) => [
        map,
        String(entries),
        String(maxEntries),
        pid === null ? '<unknown>' : String(differing),
        digest === wantedDigest ? (digest ?? '<none>') : `${digest}, should be ${wantedDigest}`,
      ]),
    ),
  ];
  if (guards.length > 0) {
    sections.push(
      table(
        ['WORKLOAD', 'INTERFACE', 'GUARD', 'SINCE', 'WHY NOT'],
        guards.flatMap(({ workload, situation, interfaces }) => {
          const why = situation === 'guarded' ? '<none>' : situation;
          if (interfaces.length === 0) return [[workload, '<none>', '<none>', '<none>', why]];
          return interfaces.map(({ name, mode, since, first }) => [
            ...[workload, name, first ? mode : `${mode}, behind another program`, since ?? '<unknown>', why],
          ]);
        }),
      ),
    );
  }
  if (drift.length > 0)
    sections.push(
      table(
        ['NOT AS IT WAS LEFT', 'NAME'],
        drift.map(({ what, name }) => [what, name]),
      ),
    );
  return sections.join('\n');
}

function refuse(message: string): number {
  process.stderr.write(`postern status: ${message}\n`);
  return 2;
}
