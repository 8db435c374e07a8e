// SPDX-License-Identifier: Apache-2.0
// The last valid version of each object, on disk, so that a restart does not forget what a file that is broken now once said.
// One state file for each source file: an edit costs what it changes. Knows nothing of what the objects mean.
import { hash } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import path from 'node:path';

export const STATE = '/var/lib/postern';

/** Raise it when src/model/objects.ts changes shape: older state is then left aside, and said so. */
const STATE_VERSION = 1;

export interface KeptObject {
  /** `Kind/namespace/name`. */
  readonly key: string;
  readonly kind: string;
  /** null: valid, but nothing to do with egress. */
  readonly value: unknown;
}

/** A failure of the world: the state directory cannot be used. `code` is the errno's name, or `STATE_VERSION`, `STATE_CORRUPT`, `STATE_ELSEWHERE`. */
export class StateError extends Error {
  override readonly name = 'StateError';
  readonly code: string;
  readonly path: string;
  constructor(message: string, code: string, file: string, cause?: unknown) {
    super(message, { cause });
    this.code = code;
    this.path = file;
  }
}

export class StateDir {
  readonly #folder: string;

  /** Makes the folder (mode 0700) where it is not there. Throws StateError. */
  constructor(dir: string) {
    this.#folder = path.join(dir, 'objects');
    try {
      makeFolder(this.#folder);
    } catch (error) {
      throw stateError(this.#folder, error);
    }
  }

  /**
   * What was kept, by source path. A file that cannot be used is passed over and reported: losing one file's memory must not
   * stop the agent.
   */
  read(): { readonly kept: ReadonlyMap<string, readonly KeptObject[]>; readonly failures: readonly StateError[] } {
    const kept = new Map<string, readonly KeptObject[]>();
    const failures: StateError[] = [];
    for (const name of readdirSync(this.#folder).sort()) {
      if (!name.endsWith('.json')) continue;
      const file = path.join(this.#folder, name);
      try {
        const content = JSON.parse(readFileSync(file, 'utf8')) as {
          version?: unknown;
          source?: unknown;
          objects?: unknown;
        };
        if (content.version !== STATE_VERSION) {
          failures.push(new StateError(`${file} was written by another version`, 'STATE_VERSION', file));
        } else if (typeof content.source === 'string' && Array.isArray(content.objects)) {
          kept.set(content.source, content.objects as KeptObject[]);
        } else {
          failures.push(new StateError(`${file} is damaged`, 'STATE_CORRUPT', file));
        }
      } catch (error) {
        failures.push(
          error instanceof SyntaxError
            ? new StateError(`${file} is damaged`, 'STATE_CORRUPT', file, error)
            : stateError(file, error),
        );
      }
    }
    return { kept, failures };
  }

  /**
   * Replaces what is kept of a source file; an empty list removes it. Throws StateError; then nothing is kept of it, since what was
   * there is out of date and might allow what has been forbidden since.
   */
  write(source: string, objects: readonly KeptObject[]): void {
    const file = path.join(this.#folder, `${hash('sha256', source, 'hex').slice(0, 32)}.json`);
    try {
      if (objects.length === 0) {
        rmSync(file, { force: true });
        return;
      }
      const next = `${file}.next`;
      const descriptor = openSync(next, 'w', 0o600);
      try {
        writeSync(descriptor, JSON.stringify({ version: STATE_VERSION, source, objects }));
        fsyncSync(descriptor);
      } finally {
        closeSync(descriptor);
      }
      renameSync(next, file);
    } catch (error) {
      for (const stale of [`${file}.next`, file]) {
        try {
          rmSync(stale, { force: true });
        } catch {
          // What can't even be removed is told below.
        }
      }
      throw stateError(file, error);
    }
  }
}

/** Says to which folder of pins a state directory belongs. */
export const OWNER_FILE = 'bpffs';

/**
 * A state directory goes with what is pinned in one folder: totals of counters go on top of what is in that very kernel's maps, and of two
 * agents with one directory each would take the other's. Throws StateError, `STATE_ELSEWHERE`, where it goes with another folder than `bpffs`
 * (absolute path) that is there still.
 */
export function requireOwnState(dir: string, bpffs: string): void {
  const file = path.join(dir, OWNER_FILE);
  const owner = ownerOf(file);
  if (owner === null || owner === bpffs || !existsSync(owner)) return;
  throw new StateError(
    `the state directory ${dir} belongs to the agent that pins in ${owner}: start with --bpffs ${owner}, give this agent a --state-dir of its own, or end the other by postern uninstall --bpffs ${owner} --state-dir ${dir}`,
    'STATE_ELSEWHERE',
    file,
  );
}

/** Notes it, for an agent that holds the lock of `bpffs`. Returns what kept it from that: nothing depends on it yet. */
export function noteOwnState(dir: string, bpffs: string): StateError | null {
  const file = path.join(dir, OWNER_FILE);
  if (ownerOf(file) === bpffs) return null;
  try {
    makeFolder(dir);
    writeFileSync(`${file}.next`, `${bpffs}\n`, { mode: 0o600 });
    renameSync(`${file}.next`, file);
    return null;
  } catch (error) {
    return stateError(file, error);
  }
}

/** null: nobody's, or it cannot be read. */
function ownerOf(file: string): string | null {
  try {
    const owner = readFileSync(file, 'utf8').trim();
    return path.isAbsolute(owner) ? owner : null;
  } catch {
    return null;
  }
}

/** Not mkdir's own `recursive`: Node then goes round for ever where the file system has no such folder and takes none (/proc). */
function makeFolder(folder: string): void {
  try {
    mkdirSync(folder, { mode: 0o700 });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST' && statSync(folder).isDirectory()) return;
    const parent = path.dirname(folder);
    if (code !== 'ENOENT' || parent === folder || existsSync(parent)) throw error;
    makeFolder(parent);
    mkdirSync(folder, { mode: 0o700 });
  }
}

function stateError(file: string, error: unknown): StateError {
  const code = (error as NodeJS.ErrnoException).code ?? 'UNKNOWN';
  return new StateError(`the state directory cannot be used: ${file}: ${code}`, code, file, error);
}
