/** Reads tokens one after the other; the words that every part of the grammar is made of. Only the parser uses this. */

import type { Diagnostic } from "../diagnostics.js";
import { parseError, type Token, type TokenKind } from "./lexer.js";
import type { TextPlace } from "./print.js";

export class Reader {
  #at = 0;

  constructor(
    private readonly tokens: readonly Token[],
    readonly file: string,
  ) {}

  get next(): Token {
    return this.tokens[this.#at] as Token;
  }

  peek(kind: TokenKind, text?: string): boolean {
    return this.next.kind === kind && (text === undefined || this.next.text === text);
  }

  take(kind: TokenKind, what: string, text?: string): Token {
    if (!this.peek(kind, text)) throw this.fail(`found ${describe(this.next)}, expected ${what}`);
    const token = this.next;
    if (token.kind !== "end") this.#at++;
    return token;
  }

  /** Takes a sign or a word if it comes next. */
  skip(text: string, kind: TokenKind = "sign"): boolean {
    if (!this.peek(kind, text)) return false;
    this.#at++;
    return true;
  }

  sign(text: string): void {
    this.take("sign", `"${text}"`, text);
  }

  word(text: string): void {
    this.take("name", `"${text}"`, text);
  }

  /** A plain name or a JSON string. */
  label(what: string): string {
    return this.peek("string") ? this.take("string", what).text : this.take("name", what).text;
  }

  number(what: string): number {
    for (const word of ["NaN", "Infinity"]) if (this.skip(word, "name")) return Number(word);
    return Number(this.take("number", what).text);
  }

  /** Entries between `open` and `close`, separated by commas. */
  list(open: string, close: string, entry: () => void): void {
    this.sign(open);
    if (this.skip(close)) return;
    do entry();
    while (this.skip(","));
    this.sign(close);
  }

  fail(message: string, place: TextPlace = this.next, hint?: string): Diagnostic {
    return parseError(message, this.file, place, hint);
  }
}

function describe({ kind, text }: Token): string {
  return kind === "end"
    ? "the end of the text"
    : kind === "string"
      ? JSON.stringify(text)
      : `"${kind === "value" ? "%" : kind === "at" ? "@" : ""}${text}"`;
}

/** One of a few names. */
export function readMember<T extends string>(reader: Reader, members: readonly T[], what: string): T {
  const token = reader.take("name", what);
  const member = members.find((name) => name === token.text);
  if (member === undefined) throw reader.fail(`found "${token.text}", expected ${what}: ${members.join(", ")}`, token);
  return member;
}
