// SPDX-License-Identifier: Apache-2.0
// Which of an object's fields are wanted, and what do they hold? Reads JSON from bytes by a shape, and makes nothing of the rest:
// a Pod of 8 KB costs what the 300 bytes of it cost that are kept. What it passes over must be JSON nevertheless (RFC 8259): a
// broken line is never half of an object.

/** What to take of a value; a value of another type is left out, as if it were not there. */
export type Shape =
  | 'text'
  | 'number'
  | 'flag'
  /** Whatever it is, decoded whole. */
  | 'any'
  | { readonly fields: Readonly<Record<string, Shape>> }
  | { readonly items: Shape };

/** Not JSON, cut off, or nested more than MAX_DEPTH levels deep. */
export class MalformedJson extends Error {
  override readonly name = 'MalformedJson';
}

/** Far beyond what any Kubernetes object has; the scanner calls itself once a level. */
const MAX_DEPTH = 256;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COLON = 0x3a;
const COMMA = 0x2c;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;
const OPEN_BRACKET = 0x5b;
const CLOSE_BRACKET = 0x5d;

type Plan =
  | { readonly type: 'text' | 'number' | 'flag' | 'any' }
  /** By the length of a field's name: comparing a few bytes is cheaper than decoding every name. */
  | { readonly type: 'fields'; readonly byLength: readonly (readonly Field[])[] }
  | { readonly type: 'items'; readonly item: Plan };

interface Field {
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly plan: Plan;
}

function planOf(shape: Shape): Plan {
  if (typeof shape === 'string') return { type: shape };
  if ('items' in shape) return { type: 'items', item: planOf(shape.items) };
  const byLength: Field[][] = [];
  for (const [name, field] of Object.entries(shape.fields)) {
    const bytes = Buffer.from(name);
    while (byLength.length <= bytes.length) byLength.push([]);
    byLength[bytes.length]?.push({ name, bytes, plan: planOf(field) });
  }
  return { type: 'fields', byLength };
}

/** Reads one JSON text after the other by one shape. */
export class Scanner {
  readonly #plan: Plan;
  #bytes: Buffer = Buffer.alloc(0);
  #at = 0;

  constructor(shape: Shape) {
    this.#plan = planOf(shape);
  }

  /** What the shape asks of this text; undefined: it is of another type. Throws MalformedJson. */
  read(bytes: Buffer): unknown {
    this.#bytes = bytes;
    this.#at = 0;
    const value = this.#value(this.#plan, 0);
    this.#space();
    if (this.#at !== bytes.length) this.#fail();
    return value;
  }

  #fail(): never {
    const where = this.#bytes.toString('utf8', Math.max(0, this.#at - 20), Math.min(this.#bytes.length, this.#at + 20));
    throw new MalformedJson(`not JSON at byte ${this.#at} of ${this.#bytes.length}: …${JSON.stringify(where)}…`);
  }

  #space(): void {
    for (;;) {
      const byte = this.#bytes[this.#at];
      if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return;
      this.#at++;
    }
  }

  /** Past a value. `plan` null: it is not wanted. */
  #value(plan: Plan | null, depth: number): unknown {
    this.#space();
    const start = this.#at;
    const byte = this.#bytes[start];
    if (plan !== null && plan.type === 'any') {
      this.#value(null, depth);
      return JSON.parse(this.#bytes.toString('utf8', start, this.#at));
    }
    switch (byte) {
      case OPEN_BRACE:
        return this.#object(plan !== null && plan.type === 'fields' ? plan : null, depth + 1);
      case OPEN_BRACKET:
        return this.#array(
          plan !== null && plan.type === 'items' ? plan.item : null,
          plan?.type === 'items',
          depth + 1,
        );
      case QUOTE: {
        const isPlain = this.#string();
        if (plan === null || plan.type !== 'text') return undefined;
        return this.#text(start, isPlain);
      }
      case 0x74:
        this.#literal('true');
        return plan?.type === 'flag' ? true : undefined;
      case 0x66:
        this.#literal('false');
        return plan?.type === 'flag' ? false : undefined;
      case 0x6e:
        this.#literal('null');
        return undefined;
      default:
        this.#number();
        return plan?.type === 'number' ? Number(this.#bytes.toString('latin1', start, this.#at)) : undefined;
    }
  }

  #object(plan: (Plan & { type: 'fields' }) | null, depth: number): Record<string, unknown> | undefined {
    if (depth > MAX_DEPTH) this.#fail();
    const object: Record<string, unknown> | undefined = plan === null ? undefined : {};
    this.#at++;
    this.#space();
    if (this.#bytes[this.#at] === CLOSE_BRACE) {
      this.#at++;
      return object;
    }
    for (;;) {
      this.#space();
      const start = this.#at;
      if (this.#bytes[start] !== QUOTE) this.#fail();
      const isPlain = this.#string();
      const field = plan === null ? null : this.#field(plan, start, isPlain);
      this.#space();
      if (this.#bytes[this.#at] !== COLON) this.#fail();
      this.#at++;
      const value = this.#value(field === null ? null : field.plan, depth);
      // Of a name that is there twice, the last counts (as in Go's encoding/json and JSON.parse).
      if (object !== undefined && field !== null) object[field.name] = value;
      this.#space();
      const byte = this.#bytes[this.#at];
      if (byte !== COMMA && byte !== CLOSE_BRACE) this.#fail();
      this.#at++;
      if (byte === CLOSE_BRACE) return object;
    }
  }

  #array(item: Plan | null, isWanted: boolean, depth: number): unknown[] | undefined {
    if (depth > MAX_DEPTH) this.#fail();
    const items: unknown[] | undefined = isWanted ? [] : undefined;
    this.#at++;
    this.#space();
    if (this.#bytes[this.#at] === CLOSE_BRACKET) {
      this.#at++;
      return items;
    }
    for (;;) {
      const value = this.#value(item, depth);
      if (items !== undefined) items.push(value);
      this.#space();
      const byte = this.#bytes[this.#at];
      if (byte !== COMMA && byte !== CLOSE_BRACKET) this.#fail();
      this.#at++;
      if (byte === CLOSE_BRACKET) return items;
    }
  }

  #field(
    { byLength }: { readonly byLength: readonly (readonly Field[])[] },
    quote: number,
    isPlain: boolean,
  ): Field | null {
    if (!isPlain) {
      const name = this.#text(quote, false);
      return byLength[Buffer.byteLength(name)]?.find((field) => field.name === name) ?? null;
    }
    const fields = byLength[this.#at - quote - 2];
    if (fields === undefined) return null;
    next: for (const field of fields) {
      const { bytes } = field;
      for (let i = 0; i < bytes.length; i++) if (bytes[i] !== this.#bytes[quote + 1 + i]) continue next;
      return field;
    }
    return null;
  }

  /** Past a string that begins here; whether it is plain ASCII without an escape. */
  #string(): boolean {
    const bytes = this.#bytes;
    let at = this.#at + 1;
    let isPlain = true;
    for (;;) {
      const byte = bytes[at];
      if (byte === undefined || byte < 0x20) {
        this.#at = at;
        this.#fail();
      }
      at++;
      if (byte === QUOTE) break;
      if (byte >= 0x80) isPlain = false;
      else if (byte === BACKSLASH) {
        isPlain = false;
        this.#at = at;
        at = this.#escape(at);
      }
    }
    this.#at = at;
    return isPlain;
  }

  /** Past what follows a backslash. */
  #escape(at: number): number {
    const byte = this.#bytes[at];
    if (byte !== undefined && '"\\/bfnrt'.includes(String.fromCharCode(byte))) return at + 1;
    if (
      byte !== 0x75 ||
      !/^[0-9a-fA-F]{4}$/.test(this.#bytes.toString('latin1', at + 1, Math.min(at + 5, this.#bytes.length)))
    ) {
      this.#fail();
    }
    return at + 5;
  }

  /** The string between the quote at `start` and the one before here. */
  #text(start: number, isPlain: boolean): string {
    if (isPlain) return this.#bytes.toString('latin1', start + 1, this.#at - 1);
    return JSON.parse(this.#bytes.toString('utf8', start, this.#at)) as string;
  }

  #literal(word: string): void {
    for (let i = 0; i < word.length; i++) if (this.#bytes[this.#at + i] !== word.charCodeAt(i)) this.#fail();
    this.#at += word.length;
  }

  #number(): void {
    if (this.#bytes[this.#at] === 0x2d) this.#at++;
    if (this.#bytes[this.#at] === 0x30) this.#at++;
    else this.#digits();
    if (this.#bytes[this.#at] === 0x2e) {
      this.#at++;
      this.#digits();
    }
    const exponent = this.#bytes[this.#at];
    if (exponent === 0x65 || exponent === 0x45) {
      this.#at++;
      const sign = this.#bytes[this.#at];
      if (sign === 0x2b || sign === 0x2d) this.#at++;
      this.#digits();
    }
  }

  #digits(): void {
    const start = this.#at;
    for (;;) {
      const byte = this.#bytes[this.#at];
      if (byte === undefined || byte < 0x30 || byte > 0x39) break;
      this.#at++;
    }
    if (this.#at === start) this.#fail();
  }
}
