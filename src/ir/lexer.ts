/** Words of the text form, each with its place. Only parse.ts reads this. */

import { Diagnostic } from "../diagnostics.js";
import type { TextPlace } from "./print.js";

export type TokenKind = "value" | "at" | "name" | "string" | "number" | "sign" | "end";

export interface Token extends TextPlace {
  readonly kind: TokenKind;
  /** A name without its mark and quotes, the number or the sign as written. */
  readonly text: string;
  /** `%"0"` is a parameter of that name, `%0` is a number of ours. */
  readonly quoted: boolean;
}

const STRING = String.raw`"(?:[^"\\\n]|\\.)*"`;
const NAME = String.raw`[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)*`;
/** In order: the first that matches at a place wins. */
const WORDS: readonly (readonly [TokenKind | "skip", RegExp])[] = [
  ["skip", /[ \t\r]+|\/\/[^\n]*/y],
  ["value", new RegExp(`%(?:${NAME}|[0-9]+|${STRING})`, "y")],
  ["at", new RegExp(`@(?:${NAME}|${STRING})`, "y")],
  ["string", new RegExp(STRING, "y")],
  ["name", new RegExp(NAME, "y")],
  ["number", /-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?|-Infinity/y],
  ["sign", /->|\.\.|[=,:(){}[\]<>*+]/y],
];

export function tokenize(text: string, file: string): Token[] {
  const tokens: Token[] = [];
  let at = 0;
  let line = 1;
  let lineStart = 0;
  while (at < text.length) {
    if (text[at] === "\n") {
      at++;
      line++;
      lineStart = at;
      continue;
    }
    const place = { line, column: at - lineStart + 1 };
    const found = wordAt(text, at);
    if (!found) throw parseError(`unexpected ${JSON.stringify(String.fromCodePoint(text.codePointAt(at) as number))}`, file, place);
    at += found.text.length;
    if (found.kind !== "skip") {
      tokens.push({ kind: found.kind, text: content(found.text, file, place), quoted: found.text.endsWith('"'), ...place });
    }
  }
  tokens.push({ kind: "end", text: "end of text", quoted: false, line, column: at - lineStart + 1 });
  return tokens;
}

function wordAt(text: string, at: number): { kind: TokenKind | "skip"; text: string } | undefined {
  for (const [kind, pattern] of WORDS) {
    pattern.lastIndex = at;
    const match = pattern.exec(text);
    if (match) return { kind, text: match[0] };
  }
  return undefined;
}

function content(word: string, file: string, place: TextPlace): string {
  const bare = /^[%@]/.test(word) ? word.slice(1) : word;
  if (!bare.startsWith('"')) return bare;
  try {
    return JSON.parse(bare) as string;
  } catch {
    throw parseError(`${bare} is not a JSON string`, file, place);
  }
}

export function parseError(message: string, file: string, { line, column }: TextPlace, hint?: string): Diagnostic {
  return new Diagnostic({ code: "ir-syntax", message, place: `${file}:${line}:${column}`, hint });
}
