/**
 * Special and added tokens of a model folder: added_tokens.json, tokenizer_config.json, special_tokens_map.json, tokenizer.json and the pieces of
 * tokenizer.model, which all say a part of it, brought into one list that is checked against itself.
 */

import { join } from "node:path";
import { Diagnostic } from "../diagnostics.js";
import { describeJson, isJsonObject, type Json, type JsonObject, readOptionalJsonObject } from "./json.js";
import type { Piece } from "./sentencepiece-pieces.js";

export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** Left out of decoded text. */
  readonly special: boolean;
}

export interface SpecialTokens {
  /** In order of id. */
  readonly added: readonly AddedToken[];
  /** Pieces of tokenizer.model that are special whatever their type there says; in order of id. */
  readonly specials: readonly string[];
  /** What templates call them: `bos_token`, `cls_token`, ... */
  readonly named: Readonly<Record<string, string>>;
  readonly idOf: (content: string) => number | undefined;
}

const MISMATCH = "the tokenizer's files may be of different models, or edited: fetch them again";
/** As in the runtime: 4096 bytes of one token. */
const MAX_CONTENT_BYTES = 4096;

/** The control markers of the family's vocabularies, some of which tokenizer.model has as ordinary pieces that no file names: a user must not be able to write them. */
const MARKER = /^(<\|[\w-]+\|>|<mask:\d+>)$/;

export async function readSpecialTokens(folder: string, pieces: readonly Piece[], vocabSize: number): Promise<SpecialTokens> {
  const file = (name: string): string => join(folder, name);
  const config = (await readOptionalJsonObject(file("tokenizer_config.json"))) ?? {};
  const map = (await readOptionalJsonObject(file("special_tokens_map.json"))) ?? {};
  const named = { ...readNamed(map), ...readNamed(config) };
  const listed = new Set([
    ...Object.values(named),
    ...readList(config, file("tokenizer_config.json")),
    ...readList(map, file("special_tokens_map.json")),
  ]);

  const ids = new Map(pieces.map(({ text }, id) => [text, id]));
  const byId = new Map<number, AddedToken & { readonly from: string }>();
  for (const { token, from } of await readAdded(folder, config, listed)) {
    checkAdded(token, from, pieces, vocabSize);
    const other = byId.get(token.id);
    const same = ids.get(token.content);
    if ((other && other.content !== token.content) || (same !== undefined && same !== token.id)) {
      const clash =
        other && other.content !== token.content ? `${describeJson(other.content)} for id ${token.id} in ${other.from}` : `id ${same}`;
      throw new Diagnostic({
        code: "tokenizer-conflict",
        message: `found id ${token.id} for ${describeJson(token.content)}, and also ${clash}, expected one token for each id`,
        place: from,
        hint: MISMATCH,
      });
    }
    ids.set(token.content, token.id);
    if (!other) byId.set(token.id, { ...token, from });
  }
  const added = [...byId.values()].sort((a, b) => a.id - b.id).map(({ id, content, special }) => ({ id, content, special }));
  const specials = pieces
    .filter(({ text, type }) => type !== "byte" && type !== "unused" && (listed.has(text) || (type === "normal" && MARKER.test(text))))
    .map(({ text }) => text);
  return { added, specials, named, idOf: (content) => ids.get(content) };
}

function checkAdded({ id, content }: AddedToken, place: string, pieces: readonly Piece[], vocabSize: number): void {
  const refuse = (message: string): Diagnostic => new Diagnostic({ code: "tokenizer-added-token", message, place, hint: MISMATCH });
  if (!Number.isInteger(id) || id < 0 || id >= vocabSize) {
    throw refuse(`found id ${id} for ${describeJson(content)}, expected one from 0 to ${vocabSize - 1}, the model's vocabulary`);
  }
  const bytes = Buffer.byteLength(content);
  if (bytes === 0 || bytes > MAX_CONTENT_BYTES) throw refuse(`found a token of ${bytes} bytes, expected 1 to ${MAX_CONTENT_BYTES}`);
  const piece = pieces[id];
  if (piece && piece.text !== content) {
    throw refuse(`found ${describeJson(content)} for id ${id}, expected ${describeJson(piece.text)}, as tokenizer.model has it`);
  }
}

/** Keys that end in `_token`, with the text or the object with a `content` that transformers writes. */
function readNamed(object: JsonObject): Record<string, string> {
  const named: Record<string, string> = {};
  for (const [key, value] of Object.entries(object)) {
    const content = contentOf(value);
    if (/^[a-z_]+_token$/.test(key) && content !== undefined && content !== "") named[key] = content;
  }
  return named;
}

function readList(object: JsonObject, place: string): string[] {
  const value = object.additional_special_tokens ?? [];
  const contents = Array.isArray(value) ? (value as readonly Json[]).map(contentOf) : [undefined];
  if (contents.includes(undefined)) {
    throw new Diagnostic({
      code: "tokenizer-special-tokens",
      message: `found ${describeJson(value)}, expected a list of tokens`,
      place: `${place}: additional_special_tokens`,
      hint: MISMATCH,
    });
  }
  return contents as string[];
}

function contentOf(value: Json | undefined): string | undefined {
  if (typeof value === "string") return value;
  return isJsonObject(value) && typeof value.content === "string" ? value.content : undefined;
}

interface FoundToken {
  readonly token: AddedToken;
  readonly from: string;
}

/** The first that says anything: transformers' own list knows which are special, the older file doesn't, and tokenizer.json is large. */
async function readAdded(folder: string, config: JsonObject, listed: ReadonlySet<string>): Promise<FoundToken[]> {
  const decoder = config.added_tokens_decoder;
  const from = join(folder, "tokenizer_config.json: added_tokens_decoder");
  const found = isJsonObject(decoder) ? Object.entries(decoder).map(([id, entry]) => readEntry(Number(id), entry, listed, from)) : [];
  const addedFile = join(folder, "added_tokens.json");
  for (const [content, id] of Object.entries((await readOptionalJsonObject(addedFile)) ?? {})) {
    found.push({ token: { id: typeof id === "number" ? id : Number.NaN, content, special: listed.has(content) }, from: addedFile });
  }
  if (found.length > 0) return found;
  const fast = join(folder, "tokenizer.json");
  const list = (await readOptionalJsonObject(fast))?.added_tokens;
  if (!Array.isArray(list)) return [];
  return (list as readonly Json[]).map((entry) =>
    readEntry(isJsonObject(entry) ? Number(entry.id) : Number.NaN, entry, listed, `${fast}: added_tokens`),
  );
}

function readEntry(id: number, entry: Json | undefined, listed: ReadonlySet<string>, from: string): FoundToken {
  const content = contentOf(entry);
  if (content === undefined) {
    throw new Diagnostic({
      code: "tokenizer-added-token",
      message: `found ${describeJson(entry)}, expected a token with its content`,
      place: from,
      hint: MISMATCH,
    });
  }
  const special = isJsonObject(entry) && typeof entry.special === "boolean" ? entry.special : listed.has(content);
  return { token: { id, content, special }, from };
}
