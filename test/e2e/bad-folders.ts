/** Copies of model folders and packages with something wrong in them. */

import { randomBytes } from "node:crypto";
import { cpSync, existsSync, linkSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "vitest";
import { Diagnostic } from "../../src/diagnostics.js";
import { GOLDENS, MODELS, WORK } from "./support.js";

export const TINY = join(GOLDENS, "dense");
export const TINY_MOE = join(GOLDENS, "moe");
export const MINI = join(MODELS, "ernie-mini-dense");

/** A path of this run that nothing is at. */
export function freshPath(name = "x"): string {
  return join(WORK, `${name}-${randomBytes(4).toString("hex")}`);
}

/** The files of a model, as a folder of its own; weights that the test does not touch are linked. */
export function copyModel(model: string, ...links: readonly string[]): string {
  const folder = freshPath("model");
  mkdirSync(folder);
  for (const name of readdirSync(model)) {
    if (name.startsWith("golden.") || name.endsWith(".jsonl") || name === "expected.json") continue;
    if (links.includes(name)) symlinkSync(join(model, name), join(folder, name));
    else cpSync(join(model, name), join(folder, name));
  }
  return folder;
}

/** undefined removes a key. */
export function editJson(file: string, changes: { readonly [key: string]: unknown }): void {
  const value = existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as object) : {};
  writeFileSync(file, JSON.stringify({ ...value, ...changes }));
}

export interface TensorHeader {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}
export type Header = { [name: string]: TensorHeader };

/** Rewrites the header of a safetensors file; the data stays, or is what `edit` gives back. */
export function editSafetensors(file: string, edit: (header: Header, data: Buffer) => Buffer | undefined): void {
  const bytes = readFileSync(file);
  const length = Number(bytes.readBigUInt64LE());
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString()) as Header;
  const data = bytes.subarray(8 + length);
  const edited = edit(header, data) ?? data;
  writeFileSync(file, safetensors(JSON.stringify(header), edited));
}

export function safetensors(header: string, data: Uint8Array, claimed?: bigint): Buffer {
  const text = Buffer.from(header);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(claimed ?? BigInt(text.length));
  return Buffer.concat([length, text, data]);
}

/** A tensor of one element more, at the end of the data. */
export function addTensor(header: Header, data: Buffer, name: string): Buffer {
  header[name] = { dtype: "BF16", shape: [1], data_offsets: [data.length, data.length + 2] };
  return Buffer.concat([data, Buffer.alloc(2)]);
}

/** Where the fields of a tokenizer.model begin and end: pieces, then the specs of trainer and normalizer. */
export function protobufFields(bytes: Uint8Array): { readonly number: number; readonly start: number; readonly end: number }[] {
  const fields = [];
  for (let at = 0; at < bytes.length; ) {
    const start = at;
    const number = (bytes[at++] as number) >> 3;
    let length = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++] as number;
      length += (byte & 127) * 2 ** shift;
      if (byte < 128) break;
    }
    at += length;
    fields.push({ number, start, end: at });
  }
  return fields;
}

/** The diagnostic that `work` fails with, which says all that one has to say. */
export async function refusalOf(work: () => Promise<unknown>): Promise<Diagnostic> {
  let error: unknown;
  try {
    await work();
  } catch (thrown) {
    error = thrown;
  }
  if (!(error instanceof Diagnostic)) throw error ?? new Error("expected a refusal, and nothing was refused");
  expectWhole(error.toJSON());
  return error;
}

/** A code, a place, found against expected, a way out; and never our own bug. */
export function expectWhole(error: unknown): void {
  expect(error).toEqual({
    code: expect.stringMatching(/^[a-z0-9]+(-[a-z0-9]+)*$/),
    kind: expect.stringMatching(/^(input|unsupported|environment)$/),
    message: expect.stringMatching(/\S/),
    place: expect.stringMatching(/\S/),
    hint: expect.stringMatching(/\S/),
  });
}

/** A package as a folder of its own; its files are the same until `replaceFile` gives one other bytes. */
export function copyPackage(from: string, to = freshPath("package")): string {
  mkdirSync(to, { recursive: true });
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    const [source, target] = [join(from, entry.name), join(to, entry.name)];
    if (entry.isDirectory()) copyPackage(source, target);
    else linkSync(source, target);
  }
  return to;
}

/** Never in place: a running engine has the old bytes mapped, and copies share them. */
export function replaceFile(path: string, bytes: string | Uint8Array): void {
  rmSync(path, { force: true });
  writeFileSync(path, bytes);
}

export function flipByte(path: string, at: number): void {
  const bytes = readFileSync(path);
  bytes[at] = (bytes[at] as number) ^ 0x40;
  replaceFile(path, bytes);
}

export function buildFolder(root: string): string {
  return join(root, (JSON.parse(readFileSync(join(root, "manifest.json"), "utf8")) as { build: string }).build);
}
