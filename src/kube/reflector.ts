// SPDX-License-Identifier: Apache-2.0
// What does one resource of the API server hold now? Lists, then watches, for ever. Where it cannot be shown that every event was
// heard, all is listed again. Knows no kind, and not what objects mean.
// The protocol: kubernetes.io/docs/reference/using-api/api-concepts (efficient detection of changes, streaming lists, bookmarks).
import type { IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import type { SourceStatus } from '../source/source.ts';
import { type Connection, failure } from './connection.ts';
import { AnswerError, answerError, type ForbiddenError, KubeError, statusIn } from './errors.ts';
import { jittered, type Pace } from './pace.ts';
import type { Resource } from './resources.ts';
import { MalformedJson, Scanner } from './scan.ts';
import { ItemSplitter, LineSplitter, UnsplittableStream } from './split.ts';

/** An object, cut to the shape of its resource. */
export type Cut = Readonly<Record<string, unknown>>;

/** Where objects go. */
export interface Sink {
  /** Everything there is, at once: what is not put before `commit` is gone after it. Forgotten without a commit. */
  replace(): Replacement;
  put(object: Cut): void;
  remove(object: Cut): void;
  /** Holds objects, or would find them missing: an answer that there is no such resource is then not believed at once. */
  readonly isExpected: boolean;
}

export interface Replacement {
  put(object: Cut): void;
  remove(object: Cut): void;
  commit(): void;
}

/** meta/v1 InitialEventsAnnotationKey. */
const INITIAL_EVENTS_END = 'k8s.io/initial-events-end';
const PAGE = 500;
/** So many answers of 404 in a row, where there were objects, are no accident: the resource was uninstalled. */
const BELIEVED_ABSENCES = 3;

const REFUSED_CREDENTIALS =
  "the API server does not take the credentials (401): look at the token or certificate of the kubeconfig's user, or at the service account: ";

export class Reflector {
  readonly #resource: Resource;
  readonly #connection: Connection;
  readonly #sink: Sink;
  readonly #pace: Pace;
  readonly #onSynced: () => void;
  readonly #lines: Scanner;
  readonly #items: Scanner;
  readonly #stopping = new AbortController();
  #running: Promise<void> | null = null;
  /** The resourceVersion up to which everything was heard; null: list. */
  #version: string | null = null;
  /** The server may have been replaced by an older self (a restored backup), whose events this version would hide. */
  #isDoubtful = false;
  #canStream = true;
  #canPage = true;
  #isSynced = false;
  #isAbsent = false;
  #problem: string | null = null;
  /** See `SourceStatus`; counts while there is a problem. */
  #common: NonNullable<SourceStatus['common']> | null = null;
  /** In a row. */
  #failures = 0;
  #absences = 0;
  #heardMs: number | null = null;
  #bytes = 0;
  #lists = 0;
  #errors = 0;

  /** @param onSynced all that there is was heard of once more, should nothing of it be new. */
  constructor(resource: Resource, connection: Connection, sink: Sink, pace: Pace, onSynced: () => void) {
    this.#resource = resource;
    this.#onSynced = onSynced;
    this.#connection = connection;
    this.#sink = sink;
    this.#pace = pace;
    this.#items = new Scanner(resource.shape);
    this.#lines = new Scanner({ fields: { type: 'text', object: resource.shape } });
  }

  start(): void {
    this.#running = this.#run();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  status(): SourceStatus {
    return {
      kind: this.#resource.kind,
      synced: this.#isSynced,
      problem: this.#problem,
      ...(this.#problem === null || this.#common === null ? {} : { common: this.#common }),
      bytesRead: this.#bytes,
      relists: Math.max(0, this.#lists - 1),
      watchErrors: this.#errors,
      ...(this.#heardMs === null ? {} : { heardMs: this.#heardMs }),
    };
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      let waitMs = 0;
      try {
        if (this.#isDoubtful) await this.#verify();
        if (this.#version === null && !this.#canStream) await this.#listPages();
        waitMs = await this.#watch();
      } catch (error) {
        if (signal.aborted) return;
        waitMs = this.#onFailure(error);
      }
      if (waitMs > 0) await sleep(waitMs, undefined, { signal }).catch(() => undefined);
    }
  }

  /**
   * Watches from the version, or from nothing, in which case the server sends all there is first; until the server ends it.
   * Gives how long to wait before the next. Rejects with KubeError, MalformedJson, UnsplittableStream.
   */
  async #watch(): Promise<number> {
    const from = this.#version;
    const [least, most] = this.#pace.watchSeconds;
    const message = await this.#connection.open('GET', this.#resource.path, {
      query: {
        watch: true,
        allowWatchBookmarks: true,
        timeoutSeconds: Math.round(least + Math.random() * (most - least)),
        ...(from === null
          ? // No resourceVersion: the most recent. A lagging server's older state could open what was closed.
            { sendInitialEvents: true, resourceVersionMatch: 'NotOlderThan' }
          : { resourceVersion: from }),
      },
      signal: this.#stopping.signal,
      timeoutMs: this.#pace.answerMs,
    });
    const startMs = performance.now();
    let isHeard = false;
    let replacement = from === null ? this.#sink.replace() : null;
    if (replacement === null) this.#problem = null;
    const splitter = new LineSplitter((line) => {
      isHeard = true;
      if (!this.#onLine(line, replacement)) return;
      replacement = null;
    });
    await this.#read(message, splitter, () => (replacement === null ? this.#pace.idleMs : this.#pace.listIdleMs));
    if (replacement !== null) throw new KubeError('BAD_ANSWER', 'the list ended before it was complete');
    // Cut off inside of a line: it comes again, since the version is that of the line before.
    if (splitter.isInside) throw new KubeError('UNREACHABLE', 'the watch was cut off');
    if (!isHeard) this.#isDoubtful = true;
    const isRushed = !isHeard && performance.now() - startMs < 1000;
    return isRushed ? this.#backoff() : 0;
  }

  /** True: with this line, all that was there at first is known. */
  #onLine(line: Buffer, replacement: Replacement | null): boolean {
    const { type, object } = (this.#lines.read(line) ?? {}) as { readonly type?: string; readonly object?: Cut };
    switch (type) {
      case 'ADDED':
      case 'MODIFIED':
      case 'DELETED': {
        const version = versionOf(object);
        if (object === undefined || version === null || nameOf(object) === null) throw unexpected(line);
        if (replacement === null) this.#advance(version, line);
        const target = replacement ?? this.#sink;
        if (type === 'DELETED') target.remove(object);
        else target.put(object);
        if (replacement === null) this.#version = version;
        return false;
      }
      case 'BOOKMARK': {
        const { object: bookmark } = JSON.parse(line.toString()) as { readonly object?: Cut };
        const version = versionOf(bookmark);
        if (version === null) throw unexpected(line);
        const metadata = bookmark?.metadata as { annotations?: Readonly<Record<string, unknown>> | null } | undefined;
        if (replacement !== null) {
          if (metadata?.annotations?.[INITIAL_EVENTS_END] !== 'true') {
            // It began a plain watch: on a busy resource, that is never silent.
            throw new KubeError('REFUSED', 'the server does not know streaming lists');
          }
          this.#commit(replacement, version);
          return true;
        }
        this.#advance(version, line);
        this.#version = version;
        return false;
      }
      case 'ERROR': {
        const { object: told } = JSON.parse(line.toString()) as { readonly object?: unknown };
        const status = statusIn(told);
        if (status === null) throw unexpected(line);
        throw answerError(status, { verb: 'watch', resource: this.#resource.name });
      }
      default:
        throw unexpected(line);
    }
  }

  /** Events of one resource come in the order of their versions: one that goes back is another history. */
  #advance(version: string, line: Buffer): void {
    this.#failures = 0;
    this.#absences = 0;
    if (this.#version !== null && isOlder(version, this.#version)) throw unexpected(line);
  }

  #commit(replacement: Replacement, version: string): void {
    replacement.commit();
    this.#version = version;
    this.#lists++;
    this.#isSynced = true;
    this.#isAbsent = false;
    this.#isDoubtful = false;
    this.#problem = null;
    this.#failures = 0;
    this.#absences = 0;
    this.#onSynced();
  }

  /** Rejects with KubeError, MalformedJson, UnsplittableStream. */
  async #listPages(): Promise<void> {
    const replacement = this.#sink.replace();
    let version: string | null = null;
    let next: string | null = null;
    do {
      const message: IncomingMessage = await this.#connection.open('GET', this.#resource.path, {
        query: {
          ...(this.#canPage ? { limit: PAGE } : {}),
          ...(next === null ? {} : { continue: next }),
        },
        signal: this.#stopping.signal,
        timeoutMs: this.#pace.answerMs,
      });
      const splitter = new ItemSplitter((item) => {
        const object = this.#items.read(item) as Cut | undefined;
        if (object === undefined || nameOf(object) === null) throw unexpected(item);
        replacement.put(object);
      });
      await this.#read(message, splitter, () => this.#pace.idleMs);
      const envelope = splitter.end();
      const { metadata } = JSON.parse(envelope.toString()) as {
        readonly metadata?: { readonly resourceVersion?: unknown; readonly continue?: unknown };
      };
      // All pages are of one version; should they not be, the watch begins where the first one was.
      version ??= typeof metadata?.resourceVersion === 'string' ? metadata.resourceVersion || null : null;
      if (version === null) throw unexpected(envelope);
      next = typeof metadata?.continue === 'string' && metadata.continue !== '' ? metadata.continue : null;
    } while (next !== null);
    this.#commit(replacement, version);
  }

  /** Reads a stream to its end. Rejects with what the splitter throws, or KubeError where it breaks or falls silent. */
  async #read(message: IncomingMessage, splitter: { push(chunk: Buffer): void }, idleMs: () => number): Promise<void> {
    const onIdle = () => {
      this.#connection.dropIdle();
      message.destroy(new SilentStream(`nothing was heard for ${idleMs()} ms`));
    };
    let timer = setTimeout(onIdle, idleMs());
    try {
      for await (const chunk of message as AsyncIterable<Buffer>) {
        this.#bytes += chunk.length;
        this.#heardMs = performance.now();
        splitter.push(chunk);
        clearTimeout(timer);
        timer = setTimeout(onIdle, idleMs());
      }
    } catch (error) {
      if (error instanceof MalformedJson || error instanceof UnsplittableStream || error instanceof SyntaxError) {
        throw error;
      }
      throw failure(error, this.#resource.path);
    } finally {
      clearTimeout(timer);
      message.destroy();
    }
  }

  /** Is the server's history still the one that this version is of? */
  async #verify(): Promise<void> {
    if (this.#version !== null) {
      const { path } = this.#resource;
      const answer = await this.#connection.request('GET', path, {
        query: { limit: 1 },
        signal: this.#stopping.signal,
        timeoutMs: this.#pace.answerMs,
      });
      const version = versionOf((await answer.json()) as Cut);
      if (version === null || isOlder(version, this.#version)) this.#version = null;
    }
    this.#isDoubtful = false;
  }

  /** Takes note of a failure; gives how long to wait. */
  #onFailure(error: unknown): number {
    if (error instanceof MalformedJson || error instanceof UnsplittableStream || error instanceof SyntaxError) {
      return this.#relist(`what the API server sent cannot be read: ${error.message}`);
    }
    // Whatever else is no failure of the world.
    if (!(error instanceof KubeError)) throw error;
    const { name } = this.#resource;
    switch (error.code) {
      case 'GONE':
        // The next list by pages is one piece: pages that expire as they are read would never end.
        if (!this.#canStream && this.#version === null) this.#canPage = false;
        return this.#relist(null);
      case 'BAD_ANSWER':
        return this.#relist(error.message);
      case 'REFUSED': {
        const isListing = this.#version === null;
        this.#version = null;
        if (isListing && this.#canStream) {
          // Before 1.32 a server may not know streaming lists; it says so by 400 or 422, or by what it does.
          this.#canStream = false;
          return 0;
        }
        this.#errors++;
        this.#fail(`${name}: ${error.message}`);
        return this.#backoff();
      }
      case 'FORBIDDEN': {
        const { verb, message } = error as ForbiddenError;
        this.#fail(`may not ${verb} ${name}: ${message}; grant list and watch on it`);
        this.#isDoubtful = this.#version !== null;
        this.#errors++;
        return jittered(this.#pace.forbiddenMs);
      }
      case 'NOT_FOUND':
        return this.#onAbsence();
      default:
        this.#errors++;
        this.#isDoubtful = true;
        this.#failFor(error.code, `${error.code === 'UNAUTHORIZED' ? REFUSED_CREDENTIALS : ''}${error.message}`);
        if (error instanceof SilentStream && this.#version === null && this.#canStream) {
          // It took the request for a watch without a beginning. Pages this time, and whenever it is listed again.
          this.#canStream = false;
          return 0;
        }
        return Math.max(this.#backoff(), error instanceof AnswerError ? jittered(error.retryAfterMs ?? 0) : 0);
    }
  }

  #fail(problem: string): void {
    this.#problem = problem;
    this.#common = null;
  }

  /** The same stands in the way of every kind: the server or the road to it. */
  #failFor(code: string, message: string): void {
    this.#problem = `${this.#resource.name}: ${message}`;
    this.#common = { code, message };
  }

  #relist(problem: string | null): number {
    this.#version = null;
    this.#errors++;
    if (problem !== null) this.#fail(`${this.#resource.name}: ${problem}`);
    return this.#backoff();
  }

  #onAbsence(): number {
    const { name } = this.#resource;
    this.#version = null;
    this.#absences++;
    this.#fail(`${name} is not installed`);
    if (this.#sink.isExpected && this.#absences < BELIEVED_ABSENCES) {
      this.#errors++;
      return this.#backoff();
    }
    if (!this.#isAbsent) {
      this.#sink.replace().commit();
      this.#isAbsent = true;
      this.#isSynced = true;
      this.#failures = 0;
      this.#onSynced();
    }
    this.#heardMs = performance.now();
    return this.#pause(this.#pace.absentMs);
  }

  #backoff(): number {
    return this.#pause(this.#pace.backoffMs);
  }

  #pause([first, most]: readonly [number, number]): number {
    return jittered(Math.min(most, first * 2 ** Math.min(this.#failures++, 16)));
  }
}

/** Nothing came: a half-open connection, or a server that waits for what we wait for. */
class SilentStream extends KubeError {
  override readonly name = 'SilentStream';
  constructor(message: string) {
    super('UNREACHABLE', message);
  }
}

function unexpected(line: Buffer): KubeError {
  const text = line.toString('utf8', 0, 200);
  return new KubeError('BAD_ANSWER', `the API server sent what was not asked for: ${text}`);
}

function versionOf(object: Cut | undefined): string | null {
  const version = (object?.metadata as { resourceVersion?: unknown } | null | undefined)?.resourceVersion;
  return typeof version === 'string' && version !== '' ? version : null;
}

function nameOf(object: Cut): string | null {
  const name = (object.metadata as { name?: unknown } | null | undefined)?.name;
  return typeof name === 'string' && name !== '' ? name : null;
}

/** Versions are decimal numbers that grow (KEP-5504); of others nothing is known. */
function isOlder(version: string, than: string): boolean {
  if (/^\d+$/.test(version) && /^\d+$/.test(than)) return BigInt(version) < BigInt(than);
  return false;
}
