/**
 * Writes safetensors files: beside the target, flushed, then renamed into place, so a reader sees the old file or the whole new one.
 *
 * Alignment: the format forbids holes, so `align` puts named tensors `__pad.<n>` (U8, zeros) between the tensors and
 * pads the header with spaces. Every tensor then starts at a multiple of `align` in the file while its own shape stays
 * what it is, and any reader of the format loads the file; one that lists names sees the padding, and `isPadding` tells
 * it apart.
 */

import { randomBytes } from "node:crypto";
import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { bug } from "../diagnostics.js";
import { fileError } from "./file.js";
import { LENGTH_BYTES, MAX_HEADER_BYTES } from "./safetensors.js";
import { quoteName, TENSOR_DTYPES, type TensorDType, type TensorEntry, tensorBytes } from "./tensor-type.js";

export interface TensorSpec {
  readonly name: string;
  readonly dtype: TensorDType;
  readonly shape: readonly number[];
}

export interface TensorToWrite extends TensorSpec {
  /** The tensor's bytes, little-endian and row-major, whole or in pieces. */
  readonly data: ArrayBufferView | Iterable<Uint8Array> | AsyncIterable<Uint8Array>;
}

export interface LayoutOptions {
  /** `sorted` (the default): larger elements first, then by name, so every tensor is aligned to its own elements. */
  readonly order?: "sorted" | "given";
  /** In bytes, a multiple of 8; the default 8 aligns only the data's start and adds no padding tensors. */
  readonly align?: number;
  readonly metadata?: Readonly<Record<string, string>>;
}

export interface SafetensorsLayout {
  /** The start of the file: the header's length and the header. */
  readonly head: Uint8Array;
  /** In the order of their bytes, padding among them. */
  readonly entries: readonly TensorEntry[];
  /** Of the whole file. */
  readonly bytes: number;
}

const PADDING = /^__pad\.[0-9]+$/;

export function isPadding(name: string): boolean {
  return PADDING.test(name);
}

/** Where everything goes, without its data: what the packer's file needs, too. */
export function layOutSafetensors(
  tensors: readonly TensorSpec[],
  { order = "sorted", align = 8, metadata = {} }: LayoutOptions = {},
): SafetensorsLayout {
  const inOrder =
    order === "given"
      ? tensors
      : [...tensors].sort((a, b) => TENSOR_DTYPES[b.dtype] - TENSOR_DTYPES[a.dtype] || (a.name < b.name ? -1 : 1));
  const placed: TensorEntry[] = [];
  const names = new Set<string>();
  let end = 0;
  const place = ({ name, dtype, shape }: TensorSpec): void => {
    const bytes = Number(tensorBytes(dtype, shape));
    if (!Number.isSafeInteger(end + bytes)) throw bug(`a file of ${end + bytes} bytes`, quoteName(name));
    placed.push({ name, dtype, shape, offset: end, bytes });
    end += bytes;
  };
  for (const tensor of inOrder) {
    const gap = align === 8 ? 0 : (align - (end % align)) % align;
    if (gap > 0) place({ name: `__pad.${placed.length}`, dtype: "U8", shape: [gap] });
    if (names.has(tensor.name) || tensor.name === "__metadata__" || isPadding(tensor.name))
      throw bug("a tensor name that is taken or reserved", quoteName(tensor.name));
    names.add(tensor.name);
    place(tensor);
  }
  const head = encodeHead(placed, metadata, align);
  return { head, entries: placed.map((entry) => ({ ...entry, offset: entry.offset + head.length })), bytes: head.length + end };
}

/** The text is put together by hand because an object would give `__proto__` and names like `1` a meaning and an order of their own. */
function encodeHead(placed: readonly TensorEntry[], metadata: Readonly<Record<string, string>>, align: number): Uint8Array {
  const fields = placed.map(
    ({ name, dtype, shape, offset, bytes }) =>
      `${JSON.stringify(name)}:${JSON.stringify({ dtype, shape, data_offsets: [offset, offset + bytes] })}`,
  );
  if (Object.keys(metadata).length > 0) fields.unshift(`"__metadata__":${JSON.stringify(metadata)}`);
  const json = new TextEncoder().encode(`{${fields.join(",")}}`);
  const bytes = Math.ceil((LENGTH_BYTES + json.length) / align) * align;
  if (bytes - LENGTH_BYTES > MAX_HEADER_BYTES) throw bug(`a safetensors header of ${bytes} bytes, over the format's limit`);
  const head = new Uint8Array(bytes).fill(0x20);
  new DataView(head.buffer).setBigUint64(0, BigInt(bytes - LENGTH_BYTES), true);
  head.set(json, LENGTH_BYTES);
  return head;
}

/** Writes `tensors` to `path`; nothing is left there when it fails. */
export async function writeSafetensors(
  path: string,
  tensors: readonly TensorToWrite[],
  options: LayoutOptions = {},
): Promise<SafetensorsLayout> {
  const layout = layOutSafetensors(tensors, options);
  const sources = new Map(tensors.map((tensor) => [tensor.name, tensor.data]));
  await writeAtomically(path, async (handle) => {
    await handle.writeFile(layout.head);
    for (const { name, bytes } of layout.entries) {
      let written = 0;
      for await (const piece of pieces(sources.get(name) ?? new Uint8Array(bytes))) {
        written += piece.length;
        if (written > bytes) break;
        await handle.writeFile(piece);
      }
      if (written !== bytes) throw bug(`data of ${written} bytes or more for a tensor of ${bytes} bytes`, `${path}: ${quoteName(name)}`);
    }
  });
  return layout;
}

function pieces(data: TensorToWrite["data"]): Iterable<Uint8Array> | AsyncIterable<Uint8Array> {
  return ArrayBuffer.isView(data) ? [new Uint8Array(data.buffer, data.byteOffset, data.byteLength)] : data;
}

/** A name beside `path` that nobody else uses: renaming from it to `path` replaces the file in one step. */
export function temporaryBeside(path: string): string {
  return `${path}.tmp-${process.pid}-${randomBytes(6).toString("hex")}`;
}

async function writeAtomically(path: string, write: (handle: FileHandle) => Promise<void>): Promise<void> {
  const temporary = temporaryBeside(path);
  try {
    const handle = await open(temporary, "wx");
    try {
      await write(handle);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await commit(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw fileError(error, path);
  }
}

/** Renames a flushed file into place and flushes the folder, so that the new name survives a power cut as well. */
export async function commit(temporary: string, path: string): Promise<void> {
  await rename(temporary, path);
  const folder = await open(dirname(path), "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}
