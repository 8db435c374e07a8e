// SPDX-License-Identifier: Apache-2.0
// What lies pinned below a folder of bpffs, who may write there, and which of it do attached programs still use?
// DIR/sockets for ever; DIR/LAYOUT-N/MAP a set of all other maps; DIR/links/PROGRAM what holds each program in its place;
// DIR/programs/PROGRAM-TAG for who may not ask the kernel for a program by its number (that takes CAP_SYS_ADMIN).
import {
  closeSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  type Stats,
  statfsSync,
  statSync,
} from 'node:fs';
import path from 'node:path';
import { KernelError, type LinkInfo, type LoadedObject, type Native, type ProgramInfo } from './native.ts';

export const BPFFS = '/sys/fs/bpf/postern';

/** BPF_FS_MAGIC of linux/magic.h. */
const BPF_FS_MAGIC = 0xcafe4a11;
const SET = /^([0-9a-f]{16})-(\d{1,9})$/;
const PROGRAM = /^(.+)-[0-9a-f]{16}-\d+$/;
/** The one map that outlives every layout (bpf/abi.h), since its contents can't be listed. */
export const SOCKETS = 'sockets';

/**
 * A failure of the world. `code`: `NOT_BPFFS`; `IN_USE`, another agent holds the folder; `FOREIGN`, programs of another folder's are
 * attached at the same place, or above or below it; `NOT_PINNED`, there is nothing; or the errno's name.
 */
export class PinError extends Error {
  override readonly name = 'PinError';
  readonly code: string;
  constructor(message: string, code: string, cause?: unknown) {
    super(message, { cause });
    this.code = code;
  }
}

export interface PinnedLink {
  /** Its file's name: a program's, or that and the set that it belongs to. */
  readonly name: string;
  readonly path: string;
  readonly info: LinkInfo;
  /** null: nobody pinned it, and this process may not ask for it. */
  readonly program: ProgramInfo | null;
  /** When it was pinned, in ms since 1970. */
  readonly sinceMs: number;
}

/** Maps that belong together, pinned in one folder. */
export interface PinnedSet {
  /** `LAYOUT-N` */
  readonly name: string;
  readonly layout: string;
  readonly number: number;
  /** Path by map. */
  readonly maps: Readonly<Record<string, string>>;
}

export class PinFolder {
  readonly #native: Native;
  readonly path: string;
  #lock: number | null;

  private constructor(native: Native, folder: string, lock: number | null) {
    this.#native = native;
    this.path = folder;
    this.#lock = lock;
  }

  /** Makes the folder (mode 0700) where it is not there, and locks it until `close`. Throws PinError. */
  static open(native: Native, folder: string): PinFolder {
    requireBpffs(folder);
    try {
      makeAll(folder);
    } catch (error) {
      throw worldly(`cannot make ${folder}`, error);
    }
    return PinFolder.#locked(
      native,
      folder,
      'stop it first, or give this one a folder and a cgroup root of its own (--bpffs, --cgroup-root)',
    );
  }

  /** The same of a folder that is there, to end what is pinned there. Throws PinError, `NOT_PINNED` where it is not. */
  static take(native: Native, folder: string): PinFolder {
    requireThere(folder);
    return PinFolder.#locked(native, folder, 'stop it first (and its DaemonSet, which would start it again)');
  }

  /** To look alone, whoever holds it. Throws PinError. */
  static look(native: Native, folder: string): PinFolder {
    requireThere(folder);
    return new PinFolder(native, folder, null);
  }

  static #locked(native: Native, folder: string, advice: string): PinFolder {
    try {
      return new PinFolder(native, folder, native.lockFolder(folder));
    } catch (error) {
      if (!(error instanceof KernelError) || error.code !== 'EAGAIN') throw worldly(`cannot lock ${folder}`, error);
      const pid = lockHolder(folder);
      const who = pid === null ? 'another agent' : `another agent, process ${pid},`;
      throw new PinError(`${who} holds ${folder}: ${advice}`, 'IN_USE', error);
    }
  }

  close(): void {
    if (this.#lock !== null) closeSync(this.#lock);
    this.#lock = null;
  }

  get sockets(): string {
    return path.join(this.path, SOCKETS);
  }

  /** Where a link of this name is pinned, or would be. */
  linkPath(name: string): string {
    return path.join(this.path, 'links', name);
  }

  setPath(name: string): string {
    return path.join(this.path, name);
  }

  /** Where a link of a guard is pinned: `7-in`. */
  guardPath(name: string): string {
    return path.join(this.path, 'guards', name);
  }

  /** At cgroups; what lies there and is not ours is passed over. Throws KernelError, PinError. */
  links(): PinnedLink[] {
    return this.#linksIn('links');
  }

  /** At interfaces, by tcx. Throws KernelError, PinError. */
  guards(): PinnedLink[] {
    return this.#linksIn('guards');
  }

  all(): PinnedLink[] {
    return [...this.links(), ...this.guards()];
  }

  #linksIn(folder: string): PinnedLink[] {
    const reader = this.#native.openMaps({});
    try {
      const names = namesIn(path.join(this.path, folder)).filter((name) => !name.endsWith('-clsact'));
      const programs = names.length === 0 ? [] : this.#programs();
      return names.flatMap((name) => this.#linkAt(reader, programs, path.join(this.path, folder, name)) ?? []);
    } finally {
      reader.close();
    }
  }

  #linkAt(reader: LoadedObject, programs: readonly ProgramInfo[], file: string): PinnedLink | null {
    const name = path.basename(file);
    try {
      const info = reader.link(reader.openLink(file));
      const program = programs.find(({ id }) => id === info.program) ?? programById(this.#native, info.program);
      if (isForeign(program)) return null;
      return { name, path: file, info, program, sinceMs: statSync(file).mtimeMs };
    } catch (error) {
      if (isAbsent(error)) return null;
      throw error;
    }
  }

  /** null: it is gone, or nobody pinned it and this process may not ask. */
  programById(id: number): ProgramInfo | null {
    return this.#programs().find((program) => program.id === id) ?? programById(this.#native, id);
  }

  #programs(): ProgramInfo[] {
    return this.#pinnedPrograms().map(({ info }) => info);
  }

  #pinnedPrograms(): { readonly file: string; readonly info: ProgramInfo }[] {
    return namesIn(path.join(this.path, 'programs')).flatMap((name) => {
      const file = this.programPath(name);
      try {
        const info = this.#native.pinnedProgram(file);
        return isForeign(info) ? [] : [{ file, info }];
      } catch (error) {
        if (isAbsent(error)) return [];
        throw error;
      }
    });
  }

  /** Names of the programs that some agent has put in place here, whether they still are or not. */
  programNames(): string[] {
    const names = namesIn(path.join(this.path, 'programs')).map((name) => PROGRAM.exec(name)?.[1] ?? []);
    return [...new Set(names.flat())].sort();
  }

  programPath(name: string): string {
    return path.join(this.path, 'programs', name);
  }

  /** Programs that no link uses any more. */
  forgetPrograms(kept: ReadonlySet<number>): void {
    for (const { file, info } of this.#pinnedPrograms()) if (!kept.has(info.id)) rmSync(file, { force: true });
  }

  /** Remembers that this interface had no clsact before ours: a folder, since a bpffs takes no other files. */
  mark(ifindex: number): void {
    this.makeFolder(path.join('guards', `${ifindex}-clsact`));
  }

  unmark(ifindex: number): void {
    if (this.isMarked(ifindex)) rmdirSync(this.guardPath(`${ifindex}-clsact`));
  }

  isMarked(ifindex: number): boolean {
    return this.isThere(this.guardPath(`${ifindex}-clsact`));
  }

  sets(): PinnedSet[] {
    return namesIn(this.path).flatMap((name) => {
      const [, layout, number] = SET.exec(name) ?? [];
      if (layout === undefined) return [];
      const folder = this.setPath(name);
      const maps = Object.fromEntries(namesIn(folder).map((map) => [map, path.join(folder, map)]));
      return [{ name, layout, number: Number(number), maps }];
    });
  }

  isThere(file: string): boolean {
    return statSync(file, { throwIfNoEntry: false }) !== undefined;
  }

  /** Makes a folder below this one. Throws PinError where the bpffs has gone from under it. */
  makeFolder(name: string): void {
    requireBpffs(this.path);
    mkdirSync(path.join(this.path, name), { recursive: true, mode: 0o700 });
  }

  removeSet(name: string): void {
    const folder = this.setPath(name);
    for (const map of namesIn(folder)) rmSync(path.join(folder, map), { force: true });
    rmdirSync(folder);
  }

  /**
   * Everything that Postern pins, links first, and the folder itself where nothing else is in it. Returns what was removed. Throws
   * KernelError, PinError.
   */
  removeAll(): string[] {
    const removed: string[] = [];
    const remove = (file: string): void => {
      rmSync(file, { force: true });
      removed.push(file);
    };
    const programs = this.#pinnedPrograms();
    for (const link of this.all()) remove(link.path);
    for (const { file } of programs) remove(file);
    for (const folder of ['links', 'guards', 'programs'].map((name) => path.join(this.path, name))) {
      const names = namesIn(folder);
      const marks = names.filter((name) => name.endsWith('-clsact'));
      for (const mark of marks) rmdirSync(path.join(folder, mark));
      if (this.isThere(folder) && names.length === marks.length) rmdirSync(folder);
    }
    for (const { name, maps } of this.sets()) {
      for (const file of Object.values(maps)) remove(file);
      rmdirSync(this.setPath(name));
    }
    if (this.isThere(this.sockets)) remove(this.sockets);
    if (this.isThere(this.path) && namesIn(this.path).length === 0) rmdirSync(this.path);
    return removed;
  }

  /** Paths of what is in the folder after `removeAll`: somebody else's. */
  remains(): string[] {
    return namesIn(this.path).flatMap((name) => {
      const file = path.join(this.path, name);
      return statSync(file).isDirectory() ? namesIn(file).map((inner) => path.join(file, inner)) : [file];
    });
  }
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder).sort();
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return [];
    throw worldly(`cannot read ${folder}`, error);
  }
}

/** Not mkdir's own `recursive`: Node then takes a mount that is read-only for a folder that is not there. */
function makeAll(folder: string): void {
  try {
    mkdirSync(folder, { mode: 0o700 });
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return;
    if (codeOf(error) !== 'ENOENT' || path.dirname(folder) === folder) throw error;
    makeAll(path.dirname(folder));
    mkdirSync(folder, { mode: 0o700 });
  }
}

/** The nearest folder that is there must lie on a bpffs. */
function requireBpffs(folder: string): void {
  let there = folder;
  while (statSync(there, { throwIfNoEntry: false }) === undefined && path.dirname(there) !== there) {
    there = path.dirname(there);
  }
  if (statfsSync(there).type === BPF_FS_MAGIC) return;
  throw new PinError(
    `${folder} is not on a bpffs, where programs and maps outlive the agent: mount one (mount -t bpf bpf /sys/fs/bpf), name a folder on another with --bpffs DIR, or write --bpffs none and let enforcement end with the agent`,
    'NOT_BPFFS',
  );
}

function requireThere(folder: string): void {
  let stat: Stats | undefined;
  try {
    stat = statSync(folder, { throwIfNoEntry: false });
  } catch (error) {
    throw worldly(`cannot look into ${folder}`, error);
  }
  if (stat === undefined) throw new PinError(`nothing is pinned in ${folder}: it is not there`, 'NOT_PINNED');
  requireBpffs(folder);
}

/** `1: FLOCK  ADVISORY  WRITE 1234 00:2a:5678 0 EOF`: pid, device in hex, inode. null: not told, as in another pid namespace. */
function lockHolder(folder: string): number | null {
  const { ino } = statSync(folder, { bigint: true });
  const held = readFileSync('/proc/locks', 'utf8')
    .split('\n')
    .map((line) => / FLOCK .* (\d+) ([0-9a-f]+):([0-9a-f]+):(\d+) /.exec(line))
    .find((match) => match?.[4] === String(ino));
  const pid = Number(held?.[1] ?? 0);
  return pid > 0 ? pid : null;
}

/** Links of other Posterns to cgroups. Without CAP_SYS_ADMIN nobody can tell, and there are none. Throws KernelError. */
export function foreignLinks(native: Native, own: ReadonlySet<number>): LinkInfo[] {
  try {
    return native
      .links()
      .filter((link) => link.cgroup !== 0n && !own.has(link.id) && isOurs(native.program(link.program)));
  } catch (error) {
    if (codeOf(error) === 'EPERM') return [];
    throw error;
  }
}

/** null: it is gone, or this process may not ask. */
function programById(native: Native, id: number): ProgramInfo | null {
  try {
    return native.program(id);
  } catch (error) {
    if (codeOf(error) === 'EPERM') return null;
    throw error;
  }
}

/** Throws PinError where another Postern judges the same cgroup: each would count the other's packets, and refuse its allowed ones. */
export function requireAlone(native: Native, cgroup: bigint, where: string, own: ReadonlySet<number>): void {
  const foreign = foreignLinks(native, own).filter((link) => link.cgroup === cgroup);
  if (foreign.length === 0) return;
  throw new PinError(
    `programs of another Postern are attached to ${where}, and ${whoseLinks(native, foreign)}`,
    'FOREIGN',
  );
}

/** Who holds these links, and what to do about it; half a sentence. */
export function whoseLinks(native: Native, links: readonly LinkInfo[]): string {
  const ids = new Set(links.map(({ id }) => id));
  const pid = processHolding(ids);
  if (pid !== null) return `process ${pid} holds them: stop it first`;
  const pinned = folderHolding(native, ids);
  return pinned === null
    ? 'bpftool link tells more of them'
    : `they are pinned in ${pinned}: start with --bpffs ${pinned}, or remove them by postern uninstall --bpffs ${pinned}`;
}

/** By the maps that all of them ask: names of programs are anybody's. */
export function isOurs(program: ProgramInfo | null): boolean {
  const maps = program?.maps ?? null;
  return maps !== null && ['workloads', 'epochs', 'flows'].every((map) => maps[map] !== undefined);
}

/** Whoever may not ask which maps a program has takes what lies in our folder for ours. */
function isForeign(program: ProgramInfo | null): boolean {
  return program !== null && program.maps !== null && !isOurs(program);
}

function processHolding(links: ReadonlySet<number>): number | null {
  const holds = (file: string): boolean => {
    try {
      const id = /^link_id:\s*(\d+)$/m.exec(readFileSync(file, 'utf8'))?.[1];
      return id !== undefined && links.has(Number(id));
    } catch {
      // Closed meanwhile.
      return false;
    }
  };
  for (const pid of namesIn('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const folder = `/proc/${pid}/fdinfo`;
      if (readdirSync(folder).some((fd) => holds(path.join(folder, fd)))) return Number(pid);
    } catch {
      // It has ended, or is another's business.
    }
  }
  return null;
}

const MAX_DEPTH = 4;

function folderHolding(native: Native, links: ReadonlySet<number>): string | null {
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => line.includes(' - bpf '))
    .map((line) => line.split(' ')[4] ?? '');
  const search = (folder: string, depth: number): string | null => {
    let names: string[];
    try {
      names = readdirSync(folder, { withFileTypes: true }).flatMap((one) => (one.isDirectory() ? [one.name] : []));
    } catch {
      return null;
    }
    if (names.includes('links')) {
      const found = PinFolder.look(native, folder).all();
      if (found.some(({ info }) => links.has(info.id))) return folder;
    }
    if (depth === MAX_DEPTH) return null;
    for (const name of names) {
      const found = search(path.join(folder, name), depth + 1);
      if (found !== null) return found;
    }
    return null;
  };
  for (const mount of mounts) {
    const found = search(mount, 0);
    if (found !== null) return found;
  }
  return null;
}

const ADVICE: Readonly<Record<string, string>> = {
  EROFS: ': it is mounted read-only; mount -o remount,rw its bpffs, or name a folder on another with --bpffs DIR',
  EACCES: ': only root may',
  EPERM: ': only root may',
};

function worldly(what: string, error: unknown): PinError {
  const code = codeOf(error);
  return new PinError(`${what}: ${code}${ADVICE[code] ?? ''}`, code, error);
}

/** A file that was removed a moment ago, or is no object of this kind. */
function isAbsent(error: unknown): boolean {
  return ['ENOENT', 'EINVAL'].includes(codeOf(error));
}

function codeOf(error: unknown): string {
  return (error as { code?: string }).code ?? 'UNKNOWN';
}
