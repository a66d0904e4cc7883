/**
 * Reads JSON files of a model folder: size, UTF-8, syntax, duplicate keys, each with a diagnostic that names the file. What the keys mean is said
 * elsewhere. Objects have no prototype, so `__proto__` is a key like any other.
 */

import { stat } from "node:fs/promises";
import { Diagnostic } from "../diagnostics.js";
import { readFully, withFile } from "../weights/file.js";
import { isStrictObject, JsonError, parseStrictJson, type StrictJson } from "../weights/strict-json.js";

export type Json = null | boolean | string | number | readonly Json[] | JsonObject;
export interface JsonObject {
  readonly [key: string]: Json | undefined;
}

const FETCH = "the file is cut short, damaged or another one: fetch it again";
/** Far above any real file of this kind: a tokenizer_config.json that lists every added token has some 200 kB. */
const MAX_BYTES = 64 * 2 ** 20;

export function isJsonObject(value: Json | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The object in the file at `path`. */
export async function readJsonObject(path: string): Promise<JsonObject> {
  const bytes = await withFile(path, async (file) => {
    if (file.bytes > MAX_BYTES) {
      throw new Diagnostic({
        code: "json-too-large",
        message: `found ${file.bytes} bytes, expected at most ${MAX_BYTES}`,
        place: path,
        hint: FETCH,
      });
    }
    const content = new Uint8Array(file.bytes);
    await readFully(file, content, 0);
    return content;
  });
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new Diagnostic({
      code: "json-not-utf8",
      message: "found bytes that are not UTF-8, expected JSON text",
      place: path,
      hint: FETCH,
    });
  }
  return parseJsonObject(text, path);
}

/** As `readJsonObject`, or undefined where there is no such file. */
export async function readOptionalJsonObject(path: string): Promise<JsonObject | undefined> {
  return (await isFile(path)) ? readJsonObject(path) : undefined;
}

export async function isFile(path: string): Promise<boolean> {
  return stat(path).then(
    (info) => info.isFile(),
    () => false,
  );
}

export async function isFolder(path: string): Promise<boolean> {
  return stat(path).then(
    (info) => info.isDirectory(),
    () => false,
  );
}

/** `place` is the file that the text came from. */
export function parseJsonObject(text: string, place: string): JsonObject {
  let value: StrictJson;
  try {
    value = parseStrictJson(text);
  } catch (error) {
    if (!(error instanceof JsonError)) throw error;
    if (error.duplicateKey !== undefined) {
      throw new Diagnostic({
        code: "json-duplicate-key",
        message: `found the key ${JSON.stringify(error.duplicateKey)} twice, expected every key once`,
        place: `${place}:${lineOf(text, error.offset)}`,
        hint: "remove one of them: readers differ in which one they take",
      });
    }
    const special = /\b(NaN|-?Infinity)\b/.exec(text.slice(error.offset, error.offset + 16))?.[1];
    throw new Diagnostic({
      code: "json-syntax",
      message:
        special === undefined ? `found text that is not JSON: ${error.message}` : `found ${special}, which is not JSON, expected a number`,
      place: `${place}:${lineOf(text, error.offset)}`,
      hint: special === undefined ? FETCH : "write null, or leave the key out",
    });
  }
  const plain = toPlain(value);
  if (!isJsonObject(plain)) {
    throw new Diagnostic({ code: "json-not-object", message: `found ${describeJson(plain)}, expected an object`, place, hint: FETCH });
  }
  return plain;
}

/** Integers beyond 2^53 become the nearest double: every field we read has a range far below. */
function toPlain(value: StrictJson): Json {
  if (typeof value === "bigint") return Number(value);
  if (isStrictObject(value)) {
    const object = Object.create(null) as { [key: string]: Json };
    for (const [key, entry] of value) object[key] = toPlain(entry);
    return object;
  }
  if (Array.isArray(value)) return (value as readonly StrictJson[]).map(toPlain);
  return value as Json;
}

function lineOf(text: string, offset: number): number {
  let line = 1;
  for (let at = text.indexOf("\n"); at >= 0 && at < offset; at = text.indexOf("\n", at + 1)) line++;
  return line;
}

/** A value as it may stand in a message: short, strings quoted. */
export function describeJson(value: Json | undefined): string {
  if (value === undefined) return "nothing";
  if (Array.isArray(value)) {
    const items = value as readonly Json[];
    return `[${items.slice(0, 4).map(describeJson).join(", ")}${items.length > 4 ? ", …" : ""}]`;
  }
  if (isJsonObject(value)) return "an object";
  if (typeof value !== "string") return String(value);
  return value.length <= 60 ? JSON.stringify(value) : `${JSON.stringify(value.slice(0, 50))}… (${value.length} characters)`;
}
