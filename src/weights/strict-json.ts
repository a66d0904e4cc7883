/**
 * A JSON reader for files that are data of unknown origin. Unlike `JSON.parse` it refuses an object that names a key
 * twice, keeps objects as Maps (so `__proto__` is a key like any other), and keeps integers exact as bigint. It knows
 * nothing of tensors.
 */

export type StrictJson = null | boolean | string | bigint | number | readonly StrictJson[] | StrictObject;
export interface StrictObject extends ReadonlyMap<string, StrictJson> {}

/** What is wrong and at which UTF-16 offset; the caller turns it into a Diagnostic that knows the file. */
export class JsonError extends Error {
  constructor(
    message: string,
    readonly offset: number,
    /** The key that an object has twice, when that is what is wrong. */
    readonly duplicateKey?: string,
  ) {
    super(message);
    this.name = "JsonError";
  }
}

/** Nothing we read nests deeper than 4; the limit keeps a hostile file from overflowing the stack. */
const MAX_DEPTH = 64;
/**
 * So that 100 MB of `[0,0,0` cannot ask for gigabytes. A header has about 8 values a tensor; the largest model of the
 * family has about 20 000 tensors.
 */
const MAX_VALUES = 4_000_000;
/** Above 20 digits an integer is larger than any u64: it stays a (rounded) number, since parsing digits into a bigint is quadratic. */
const MAX_INTEGER_DIGITS = 20;

const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
// JSON forbids raw control characters in strings.
const PLAIN_TEXT = /[^"\\\u0000-\u001f]*/y;
const LONE_SURROGATE = /\p{Surrogate}/u;
const SPACE = /[ \t\n\r]*/y;
const ESCAPES = new Map([
  ['"', '"'],
  ["\\", "\\"],
  ["/", "/"],
  ["b", "\b"],
  ["f", "\f"],
  ["n", "\n"],
  ["r", "\r"],
  ["t", "\t"],
]);

export function isStrictObject(value: StrictJson | undefined): value is StrictObject {
  return value instanceof Map;
}

/** Parses all of `text`; throws a JsonError. */
export function parseStrictJson(text: string): StrictJson {
  const parser = new Parser(text);
  const value = parser.value(0);
  parser.skipSpace();
  if (parser.at < text.length) throw new JsonError("text after the end of the JSON value", parser.at);
  return value;
}

class Parser {
  at = 0;
  private values = 0;

  constructor(private readonly text: string) {}

  skipSpace(): void {
    SPACE.lastIndex = this.at;
    SPACE.test(this.text);
    this.at = SPACE.lastIndex;
  }

  value(depth: number): StrictJson {
    if (depth > MAX_DEPTH) throw new JsonError(`nested deeper than ${MAX_DEPTH}`, this.at);
    if (++this.values > MAX_VALUES) throw new JsonError(`more than ${MAX_VALUES} values`, this.at);
    this.skipSpace();
    switch (this.text[this.at]) {
      case "{":
        return this.object(depth);
      case "[":
        return this.array(depth);
      case '"':
        return this.string();
      case "t":
        return this.word("true", true);
      case "f":
        return this.word("false", false);
      case "n":
        return this.word("null", null);
      default:
        return this.number();
    }
  }

  private object(depth: number): StrictObject {
    const entries = new Map<string, StrictJson>();
    this.at++;
    if (this.taken("}")) return entries;
    do {
      this.skipSpace();
      const keyAt = this.at;
      if (this.text[this.at] !== '"') throw new JsonError("expected a key in quotes", this.at);
      const key = this.string();
      if (entries.has(key)) throw new JsonError("the same key twice in one object", keyAt, key);
      if (!this.taken(":")) throw new JsonError("expected ':' after a key", this.at);
      entries.set(key, this.value(depth + 1));
    } while (this.taken(","));
    if (!this.taken("}")) throw new JsonError("expected ',' or '}' in an object", this.at);
    return entries;
  }

  private array(depth: number): StrictJson[] {
    const items: StrictJson[] = [];
    this.at++;
    if (this.taken("]")) return items;
    do items.push(this.value(depth + 1));
    while (this.taken(","));
    if (!this.taken("]")) throw new JsonError("expected ',' or ']' in an array", this.at);
    return items;
  }

  private string(): string {
    const start = this.at++;
    let out = "";
    for (;;) {
      PLAIN_TEXT.lastIndex = this.at;
      PLAIN_TEXT.test(this.text);
      out += this.text.slice(this.at, PLAIN_TEXT.lastIndex);
      this.at = PLAIN_TEXT.lastIndex;
      const char = this.text[this.at];
      if (char === '"') break;
      if (char === undefined) throw new JsonError("a string without its closing quote", this.at);
      if (char !== "\\") throw new JsonError("a raw control character in a string", this.at);
      out += this.escape();
    }
    this.at++;
    // Half a surrogate pair has no UTF-8 form, so such a name could never be written back or looked up in another tool.
    if (LONE_SURROGATE.test(out)) throw new JsonError("a string with half a surrogate pair", start);
    return out;
  }

  private escape(): string {
    const letter = this.text[this.at + 1] ?? "";
    const simple = ESCAPES.get(letter);
    if (simple !== undefined) {
      this.at += 2;
      return simple;
    }
    const hex = this.text.slice(this.at + 2, this.at + 6);
    if (letter !== "u" || !/^[0-9a-fA-F]{4}$/.test(hex)) throw new JsonError("an unknown escape in a string", this.at);
    this.at += 6;
    return String.fromCharCode(Number.parseInt(hex, 16));
  }

  private number(): bigint | number {
    NUMBER.lastIndex = this.at;
    const match = NUMBER.exec(this.text);
    if (!match) throw new JsonError(this.at < this.text.length ? "expected a JSON value" : "the JSON text ends early", this.at);
    const [literal, fraction, exponent] = match;
    this.at += literal.length;
    const integer = fraction === undefined && exponent === undefined && literal.length <= MAX_INTEGER_DIGITS;
    return integer ? BigInt(literal) : Number(literal);
  }

  private word<T>(word: string, value: T): T {
    if (!this.text.startsWith(word, this.at)) throw new JsonError("expected a JSON value", this.at);
    this.at += word.length;
    return value;
  }

  private taken(char: string): boolean {
    this.skipSpace();
    if (this.text[this.at] !== char) return false;
    this.at++;
    return true;
  }
}
