/**
 * Splits a T4 file into its members and results without holding it as one string or tree: a recorded run of a few hundred thousand configurations is
 * larger than the longest string, and its tree is several times its text. Every piece is parsed by `JSON.parse`; what stands between is checked here.
 */

export interface T4Pieces {
  /** Any member but `results`, parsed. */
  readonly onMember: (name: string, value: unknown) => void;
  /** `results` is a list; its entries follow. Called again if the file names it twice. */
  readonly onResults: () => void;
  readonly onResult: (value: unknown, index: number) => void;
}

/** What is no JSON, and at which byte. */
export class T4SyntaxError extends Error {
  constructor(
    message: string,
    readonly offset: number,
  ) {
    super(message);
    this.name = "T4SyntaxError";
  }
}

const [QUOTE, BACKSLASH, COMMA, COLON] = [0x22, 0x5c, 0x2c, 0x3a];
const [OPEN_OBJECT, CLOSE_OBJECT, OPEN_LIST, CLOSE_LIST] = [0x7b, 0x7d, 0x5b, 0x5d];

/** Gives undefined, or the whole value where it is no object. */
export function scanT4(bytes: Uint8Array, { onMember, onResults, onResult }: T4Pieces): { readonly other: unknown } | undefined {
  const scanner = new Scanner(bytes);
  scanner.space();
  if (scanner.peek() !== OPEN_OBJECT) {
    const other = scanner.value();
    scanner.end();
    return { other };
  }
  scanner.list(CLOSE_OBJECT, () => {
    if (scanner.peek() !== QUOTE) scanner.fail("expected a name in quotes");
    const name = scanner.value() as string;
    scanner.take(COLON);
    if (name === "results" && scanner.peek() === OPEN_LIST) {
      onResults();
      scanner.list(CLOSE_LIST, (index) => onResult(scanner.value(), index));
    } else onMember(name, scanner.value());
  });
  scanner.end();
  return undefined;
}

class Scanner {
  #at = 0;
  readonly #bytes: Uint8Array;
  readonly #decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  peek(): number | undefined {
    return this.#bytes[this.#at];
  }

  fail(message: string): never {
    throw new T4SyntaxError(message, this.#at);
  }

  space(): void {
    for (let byte = this.peek(); byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09; byte = this.peek()) this.#at++;
  }

  /** The byte, and white space around it. */
  take(byte: number): void {
    this.space();
    if (this.peek() !== byte) this.fail(`expected ${String.fromCharCode(byte)}`);
    this.#at++;
    this.space();
  }

  /** From the opening bracket to the closing one, `entry` at each entry. */
  list(close: number, entry: (index: number) => void): void {
    this.#at++;
    this.space();
    for (let index = 0; this.peek() !== close; index++) {
      if (index > 0) this.take(COMMA);
      entry(index);
      this.space();
    }
    this.#at++;
  }

  end(): void {
    this.space();
    if (this.#at < this.#bytes.length) this.fail("expected the end of the file");
  }

  /** Any JSON value. */
  value(): unknown {
    const from = this.#at;
    const to = this.#valueEnd();
    if (to === from) this.fail("expected a value");
    let text: string;
    try {
      text = this.#decoder.decode(this.#bytes.subarray(from, to));
    } catch {
      this.fail("expected UTF-8");
    }
    try {
      this.#at = to;
      return JSON.parse(text);
    } catch (cause) {
      throw new T4SyntaxError((cause as Error).message, from);
    }
  }

  /** Brackets are only counted: whether they match is seen when the piece is parsed. */
  #valueEnd(): number {
    const bytes = this.#bytes;
    let depth = 0;
    for (let at = this.#at; at < bytes.length; at++) {
      const byte = bytes[at] as number;
      if (byte === QUOTE) {
        at = this.#stringEnd(at);
        if (depth === 0) return at + 1;
      } else if (byte === OPEN_OBJECT || byte === OPEN_LIST) depth++;
      else if (byte === CLOSE_OBJECT || byte === CLOSE_LIST) {
        // Of what is around a number or a word.
        if (depth === 0) return at;
        if (--depth === 0) return at + 1;
      } else if (depth === 0 && (byte === COMMA || byte <= 0x20)) return at;
    }
    return bytes.length;
  }

  /** The position of the closing quote, or of the last byte. */
  #stringEnd(open: number): number {
    const bytes = this.#bytes;
    for (let at = open + 1; at < bytes.length; at++) {
      if (bytes[at] === BACKSLASH) at++;
      else if (bytes[at] === QUOTE) return at;
    }
    return bytes.length - 1;
  }
}
