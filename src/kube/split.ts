// SPDX-License-Identifier: Apache-2.0
// Where in a stream of bytes does one object end and the next begin? By lines for a watch, by items for a list. Decodes nothing, and
// copies only what a chunk's end cuts in two. A piece is lent: it is good until the callback returns.

/** etcd takes 1.5 MiB an object by default; nothing that the API sends in one piece is near this. */
const MAX_PIECE_BYTES = 32 << 20;

/** A piece larger than any object can be, or a list without its end. */
export class UnsplittableStream extends Error {
  override readonly name = 'UnsplittableStream';
}

/** The beginning of a piece whose end has not come yet. */
class Rest {
  #bytes = Buffer.alloc(0);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  add(part: Buffer): void {
    const length = this.#length + part.length;
    if (length > MAX_PIECE_BYTES) throw new UnsplittableStream(`more than ${MAX_PIECE_BYTES} bytes in one piece`);
    if (length > this.#bytes.length) {
      const grown = Buffer.allocUnsafe(Math.max(length, this.#bytes.length * 2, 1 << 14));
      this.#bytes.copy(grown, 0, 0, this.#length);
      this.#bytes = grown;
    }
    part.copy(this.#bytes, this.#length);
    this.#length = length;
  }

  /** All of it; whoever calls is done with it before the next `add`. */
  take(): Buffer {
    const taken = this.#bytes.subarray(0, this.#length);
    this.#length = 0;
    return taken;
  }
}

/** Lines that end in \n. */
export class LineSplitter {
  readonly #rest = new Rest();
  readonly #onLine: (line: Buffer) => void;

  constructor(onLine: (line: Buffer) => void) {
    this.#onLine = onLine;
  }

  /** Throws UnsplittableStream, and whatever the callback throws. */
  push(chunk: Buffer): void {
    let start = 0;
    for (;;) {
      const end = chunk.indexOf(0x0a, start);
      if (end < 0) break;
      const part = chunk.subarray(start, end);
      start = end + 1;
      if (this.#rest.length === 0) {
        if (part.length > 0) this.#onLine(part);
      } else {
        this.#rest.add(part);
        this.#onLine(this.#rest.take());
      }
    }
    if (start < chunk.length) this.#rest.add(chunk.subarray(start));
  }

  /** Whether a line has begun and not ended: it was cut off, if this is the end. */
  get isInside(): boolean {
    return this.#rest.length > 0;
  }
}

/**
 * The items of a list object (`{"metadata":…,"items":[…]}`), one by one, and the object without them. What is not JSON is noticed by
 * whoever decodes the pieces; here only strings and brackets count.
 */
export class ItemSplitter {
  readonly #onItem: (item: Buffer) => void;
  readonly #item = new Rest();
  readonly #envelope = new Rest();
  #depth = 0;
  #isString = false;
  #isEscaped = false;
  /** The name that the last string at depth 1 was, as far as it may be `items`. */
  #name = '';
  #hasItems = false;
  #isInItems = false;

  constructor(onItem: (item: Buffer) => void) {
    this.#onItem = onItem;
  }

  /** Throws UnsplittableStream, and whatever the callback throws. */
  push(chunk: Buffer): void {
    let start = 0;
    for (let i = 0; i < chunk.length; i++) {
      const byte = chunk[i] as number;
      if (this.#isString) {
        if (this.#isEscaped) this.#isEscaped = false;
        else if (byte === 0x5c) this.#isEscaped = true;
        else if (byte === 0x22) this.#isString = false;
        if (this.#depth === 1 && this.#isString) this.#name = (this.#name + String.fromCharCode(byte)).slice(0, 8);
        continue;
      }
      switch (byte) {
        case 0x22:
          this.#isString = true;
          if (this.#depth === 1) this.#name = '';
          break;
        case 0x7b:
        case 0x5b:
          this.#depth++;
          if (byte === 0x5b && this.#depth === 2 && this.#name === 'items' && !this.#hasItems) {
            this.#hasItems = true;
            this.#isInItems = true;
            this.#envelope.add(chunk.subarray(start, i + 1));
            start = i + 1;
          }
          break;
        case 0x7d:
        case 0x5d:
          this.#depth--;
          if (this.#isInItems && this.#depth === 1) {
            this.#emit(chunk.subarray(start, i));
            this.#isInItems = false;
            start = i;
          }
          if (this.#depth === 1) this.#name = '';
          break;
        case 0x2c:
          if (this.#isInItems && this.#depth === 2) {
            this.#emit(chunk.subarray(start, i));
            start = i + 1;
          }
          break;
      }
    }
    (this.#isInItems ? this.#item : this.#envelope).add(chunk.subarray(start));
  }

  /** The text of the list object, its items left out. Throws UnsplittableStream where the list has not ended. */
  end(): Buffer {
    if (this.#depth !== 0 || this.#isString || this.#isInItems) throw new UnsplittableStream('the list was cut off');
    return this.#envelope.take();
  }

  #emit(part: Buffer): void {
    let item = part;
    if (this.#item.length > 0) {
      this.#item.add(part);
      item = this.#item.take();
    }
    // `[]` has no item.
    if (!item.every((byte) => byte <= 0x20)) this.#onItem(item);
  }
}
