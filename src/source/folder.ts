// SPDX-License-Identifier: Apache-2.0
// Which files of a folder hold objects, and when did they change? Knows nothing of what is in them.
// A file half-written at the moment of reading is read again when its writer goes on: nothing here has to be atomic.
import { hash } from 'node:crypto';
import {
  type BigIntStats,
  closeSync,
  constants,
  type FSWatcher,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  statSync,
  watch,
} from 'node:fs';
import path from 'node:path';

export interface SourceFile {
  /** As a user would type it: the folder as given, and the path below it. */
  readonly path: string;
  readonly text: string;
  /** Changes whenever the text does, and only then. */
  readonly hash: string;
}

/** What a folder held at one moment. */
export interface Scan {
  /** Sorted by path. */
  readonly files: readonly SourceFile[];
  /** What is there but could not be read, the folder itself included. What it held before must not be taken for deleted. */
  readonly unreadable: readonly { readonly path: string; readonly message: string }[];
  /** Files emptied a moment ago: whoever writes them (`command > file`) has most likely only begun. Likewise not to be taken for gone. */
  readonly unsettled?: readonly string[];
}

const EXTENSIONS = ['.yaml', '.yml', '.json'];
const MAX_FILE_BYTES = 32 * 1024 * 1024;
/** Folders below one another: enough for any layout, and an end to symbolic links that go in circles. */
const MAX_DEPTH = 16;

interface Seen {
  readonly stamp: string;
  readonly readAtMs: number;
  readonly changedMs: number;
  readonly file: SourceFile;
}

/** An empty file is taken at its word after so long. */
const EMPTY_FOR_MS = 2000;

/** A folder, read again and again; unchanged files are read once. */
export class Folder {
  readonly root: string;
  readonly emptyForMs: number;
  #seen = new Map<string, Seen>();
  /** Real folders of the last scan, by path: what to watch. */
  #folders = new Map<string, string>();

  constructor(root: string, emptyForMs = EMPTY_FOR_MS) {
    this.root = root;
    this.emptyForMs = emptyForMs;
  }

  get folders(): ReadonlyMap<string, string> {
    return this.#folders;
  }

  /**
   * Reads `*.yaml`, `*.yml` and `*.json`, in folders below too. Names that begin with a dot are passed over, so a mounted
   * ConfigMap (`file.yaml -> ..data/file.yaml`) is read once, through its links. `beforeReading` is told of each folder
   * before its entries are listed, so that a watch set there misses nothing.
   */
  scan(beforeReading: (folder: string) => void = () => undefined): Scan {
    const files: SourceFile[] = [];
    const unreadable: { path: string; message: string }[] = [];
    const unsettled: string[] = [];
    const seen = new Map<string, Seen>();
    const folders = new Map<string, string>();
    const visit = (folder: string, depth: number, above: readonly string[]): void => {
      let names: string[];
      let real: string;
      try {
        real = realpathSync(folder);
        if (above.includes(real) || depth > MAX_DEPTH) return;
        folders.set(folder, real);
        beforeReading(folder);
        names = readdirSync(folder).sort();
      } catch (error) {
        unreadable.push({ path: folder, message: messageOf(error) });
        return;
      }
      for (const name of names) {
        if (name.startsWith('.')) continue;
        const full = path.join(folder, name);
        let stat: BigIntStats | undefined;
        try {
          stat = statSync(full, { bigint: true, throwIfNoEntry: false });
        } catch (error) {
          // Links in a circle, or a file system that fails: of what is no object's file nobody needs to know.
          if (EXTENSIONS.includes(path.extname(name))) unreadable.push({ path: full, message: messageOf(error) });
          continue;
        }
        if (stat === undefined) {
          // Between listing and looking it went away, or it is a link that leads nowhere (yet).
          if (EXTENSIONS.includes(path.extname(name)) && isDangling(full)) {
            unreadable.push({ path: full, message: 'the symbolic link leads nowhere' });
          }
        } else if (stat.isDirectory()) {
          visit(full, depth + 1, [...above, real]);
        } else if (stat.isFile() && EXTENSIONS.includes(path.extname(name))) {
          if (stat.size > MAX_FILE_BYTES) {
            unreadable.push({ path: full, message: `is larger than ${MAX_FILE_BYTES} bytes` });
            continue;
          }
          if (stat.size === 0n && Date.now() - Number(stat.mtimeMs) < this.emptyForMs) {
            unsettled.push(full);
            continue;
          }
          try {
            const entry = this.#read(full, stat);
            seen.set(full, entry);
            files.push(entry.file);
          } catch (error) {
            unreadable.push({ path: full, message: messageOf(error) });
          }
        } else if (EXTENSIONS.includes(path.extname(name))) {
          unreadable.push({ path: full, message: 'is neither a file nor a folder' });
        }
      }
    };
    visit(this.root, 0, []);
    this.#seen = seen;
    this.#folders = folders;
    files.sort((a, b) => (a.path < b.path ? -1 : 1));
    return { files, unreadable, unsettled };
  }

  #read(
    full: string,
    stat: { dev: bigint; ino: bigint; size: bigint; mtimeNs: bigint; ctimeNs: bigint; ctimeMs: bigint },
  ): Seen {
    const stamp = `${stat.dev}/${stat.ino}/${stat.size}/${stat.mtimeNs}/${stat.ctimeNs}`;
    const before = this.#seen.get(full);
    // Times of files tick coarsely: a file that changed just before it was read may have changed since without a new stamp.
    if (before !== undefined && before.stamp === stamp && before.readAtMs - before.changedMs > 100) return before;
    const readAtMs = Date.now();
    const text = readNow(full);
    const file =
      before !== undefined && before.file.text === text
        ? before.file
        : Object.freeze({ path: full, text, hash: hash('sha256', text, 'hex') });
    return { stamp, readAtMs, changedMs: Number(stat.ctimeMs), file };
  }
}

/** Never waits: what was a file may be a pipe by now, and some files of /proc are read like one. Throws as readFileSync does. */
function readNow(full: string): string {
  const descriptor = openSync(full, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
  try {
    if (!fstatSync(descriptor).isFile()) throw new Error('is neither a file nor a folder');
    return readFileSync(descriptor, 'utf8');
  } finally {
    closeSync(descriptor);
  }
}

function isDangling(full: string): boolean {
  try {
    return readdirSync(path.dirname(full)).includes(path.basename(full));
  } catch {
    return false;
  }
}

function messageOf(error: unknown): string {
  const code = (error as NodeJS.ErrnoException).code;
  if (code === 'ENOENT') return 'is not there';
  if (code === 'EACCES' || code === 'EPERM') return 'may not be read';
  if (code === 'ENOTDIR') return 'is not a folder';
  if (code === 'ELOOP') return 'is a symbolic link that leads back to itself';
  return error instanceof Error ? error.message : String(error);
}

export interface WatchOptions {
  /** Editors write in several steps: wait until it has been quiet for so long. */
  readonly quietMs?: number;
  /** A writer that never rests is read this often nevertheless. */
  readonly atMostMs?: number;
  /** Where the kernel tells nothing (network file systems, lost events), look again this often. */
  readonly rescanMs?: number;
}

/**
 * Calls back with a scan whenever something may have changed, from the first `start` on until `close`. `heardMs` is when the
 * change was heard of (`performance.now()`), before waiting for quiet.
 */
export class FolderWatch {
  readonly #folder: Folder;
  readonly #onScan: (scan: Scan, heardMs: number) => void;
  readonly #quietMs: number;
  readonly #atMostMs: number;
  readonly #rescanMs: number;
  /** By path, with the real folder that it stood for: a link may lead elsewhere now. */
  readonly #watchers = new Map<string, { real: string; ino: bigint; watcher: FSWatcher }>();
  #quiet: NodeJS.Timeout | null = null;
  #settling: NodeJS.Timeout | null = null;
  #firstEventMs = 0;
  #rescan: NodeJS.Timeout | null = null;
  #closed = false;

  constructor(folder: Folder, onScan: (scan: Scan, heardMs: number) => void, options: WatchOptions = {}) {
    this.#folder = folder;
    this.#onScan = onScan;
    this.#quietMs = options.quietMs ?? 20;
    this.#atMostMs = options.atMostMs ?? 200;
    this.#rescanMs = options.rescanMs ?? 5000;
  }

  /** Scans at once, and gives that first scan. */
  start(): Scan {
    const scan = this.#scan();
    this.#rescan = setInterval(() => this.#read(performance.now()), this.#rescanMs);
    this.#rescan.unref();
    return scan;
  }

  close(): void {
    this.#closed = true;
    if (this.#quiet !== null) clearTimeout(this.#quiet);
    if (this.#settling !== null) clearTimeout(this.#settling);
    if (this.#rescan !== null) clearInterval(this.#rescan);
    for (const { watcher } of this.#watchers.values()) watcher.close();
    this.#watchers.clear();
  }

  #scan(): Scan {
    if (this.#settling !== null) clearTimeout(this.#settling);
    this.#settling = null;
    const scan = this.#scanNow();
    if (scan.unsettled !== undefined && scan.unsettled.length > 0) {
      this.#settling = setTimeout(() => this.#read(performance.now()), this.#folder.emptyForMs);
    }
    return scan;
  }

  #scanNow(): Scan {
    // The parent too: a folder that is deleted and made anew has another inode, and only its parent hears of that.
    this.#watch(path.dirname(path.resolve(this.#folder.root)));
    const scan = this.#folder.scan((folder) => this.#watch(folder));
    for (const [folder, { watcher }] of this.#watchers) {
      if (this.#folder.folders.has(folder) || folder === path.dirname(path.resolve(this.#folder.root))) continue;
      watcher.close();
      this.#watchers.delete(folder);
    }
    return scan;
  }

  #watch(folder: string): void {
    try {
      const real = realpathSync(folder);
      const { ino } = statSync(real, { bigint: true });
      const known = this.#watchers.get(folder);
      if (known?.real === real && known.ino === ino) return;
      known?.watcher.close();
      const watcher = watch(real, { persistent: true }, (_event, name) => {
        // Of the parent's entries only the folder itself matters.
        if (folder === path.dirname(path.resolve(this.#folder.root)) && name !== path.basename(this.#folder.root))
          return;
        this.#soon();
      });
      watcher.on('error', () => this.#soon());
      this.#watchers.set(folder, { real, ino, watcher });
    } catch {
      // Not there, or the kernel has no watches left: the slow rescan sees it.
      this.#watchers.get(folder)?.watcher.close();
      this.#watchers.delete(folder);
    }
  }

  #soon(): void {
    if (this.#closed) return;
    const now = performance.now();
    if (this.#quiet === null) this.#firstEventMs = now;
    else clearTimeout(this.#quiet);
    const waitMs = Math.max(0, Math.min(this.#quietMs, this.#firstEventMs + this.#atMostMs - now));
    this.#quiet = setTimeout(() => {
      this.#quiet = null;
      this.#read(this.#firstEventMs);
    }, waitMs);
  }

  #read(heardMs: number): void {
    if (!this.#closed) this.#onScan(this.#scan(), heardMs);
  }
}
