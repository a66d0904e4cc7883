/**
 * Reads the header of a safetensors file: which tensors it holds, their types and where their bytes are. The bytes
 * themselves are read elsewhere (read-tensor.ts, the packer). Writing is in safetensors-write.ts.
 *
 * Layout: u64 little-endian n, then n bytes of JSON `{name: {dtype, shape, data_offsets: [begin, end]}, "__metadata__":
 * {text: text}}`, padded with spaces, then the data; offsets count from the data's start. The file is data of unknown
 * origin: every claimed size is checked in BigInt against the file's size before anything is allocated from it, and the
 * tensors must tile the data exactly, with no hole and no overlap.
 */

import { Diagnostic } from "../diagnostics.js";
import { type OpenFile, readFully, withFile } from "./file.js";
import { isStrictObject, JsonError, parseStrictJson, type StrictJson, type StrictObject } from "./strict-json.js";
import { isTensorDType, quoteName, TENSOR_DTYPES, type TensorEntry, tensorBytes } from "./tensor-type.js";

/** The format's own limit, in bytes. */
export const MAX_HEADER_BYTES = 100_000_000;
/** Nothing real comes near; it bounds the product of a shape. */
const MAX_RANK = 32;
const DAMAGED = "the file is damaged, or was written by a faulty program: fetch it again";
/** Of the length in front of the header. */
export const LENGTH_BYTES = 8;

export interface SafetensorsFile {
  readonly path: string;
  readonly bytes: number;
  readonly dataStart: number;
  /** By name, in the order of their bytes. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly metadata: ReadonlyMap<string, string>;
}

/** Reads and checks the header of the file at `path`; its data is not touched. */
export async function readSafetensorsHeader(path: string): Promise<SafetensorsFile> {
  return withFile(path, async (file) => parseSafetensorsHeader(await readHeaderText(file), file.bytes, path));
}

/** The header's JSON bytes, after the checks of its length. */
async function readHeaderText(file: OpenFile): Promise<Uint8Array> {
  const { path, bytes } = file;
  if (bytes < LENGTH_BYTES) throw truncated(path, `found ${bytes} bytes, expected at least the 8 bytes of the header's length`);
  const length = Buffer.alloc(LENGTH_BYTES);
  await readFully(file, length, 0);
  const headerBytes = length.readBigUInt64LE();
  if (headerBytes > BigInt(MAX_HEADER_BYTES)) {
    throw new Diagnostic({
      code: "safetensors-header-too-large",
      message: `found a header of ${headerBytes} bytes, expected at most ${MAX_HEADER_BYTES}`,
      place: path,
      hint: "this is probably not a safetensors file",
    });
  }
  if (headerBytes > BigInt(bytes - LENGTH_BYTES)) {
    throw truncated(path, `found a header of ${headerBytes} bytes in a file of ${bytes} bytes`);
  }
  const header = new Uint8Array(Number(headerBytes));
  await readFully(file, header, LENGTH_BYTES);
  return header;
}

/**
 * Checks a header (without its length, and already known to lie within the file) against the size of its file. `path`
 * is only for messages.
 */
export function parseSafetensorsHeader(header: Uint8Array, fileBytes: number, path: string): SafetensorsFile {
  const dataStart = LENGTH_BYTES + header.length;
  const dataBytes = BigInt(fileBytes - dataStart);
  const object = parseHeaderObject(header, path);
  let metadata: ReadonlyMap<string, string> = new Map();
  const entries: TensorEntry[] = [];
  for (const [name, value] of object) {
    if (name === "__metadata__") metadata = checkMetadata(value, path);
    else entries.push(checkEntry(name, value, dataStart, dataBytes, path));
  }
  entries.sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  checkTiling(entries, dataStart, fileBytes, path);
  return { path, bytes: fileBytes, dataStart, tensors: new Map(entries.map((entry) => [entry.name, entry])), metadata };
}

function parseHeaderObject(header: Uint8Array, path: string): StrictObject {
  if (header[0] !== 0x7b) throw badHeader(path, "found a header that does not start with '{'", "this is probably not a safetensors file");
  let value: StrictJson;
  try {
    value = parseStrictJson(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(header));
  } catch (error) {
    if (error instanceof JsonError && error.duplicateKey !== undefined) {
      const name = quoteName(error.duplicateKey);
      throw new Diagnostic({
        code: "safetensors-duplicate",
        message: `found ${name} twice, expected every key once`,
        place: `${path}: header`,
        hint: DAMAGED,
      });
    }
    const reason = error instanceof JsonError ? `${error.message}, at character ${error.offset}` : "bytes that are not UTF-8";
    throw badHeader(
      path,
      `found a header that is not JSON: ${reason}`,
      "the header's length may be wrong, or the file damaged: fetch it again",
    );
  }
  if (!isStrictObject(value)) throw badHeader(path, "found a header that is not a JSON object");
  return value;
}

function checkMetadata(value: StrictJson, path: string): ReadonlyMap<string, string> {
  const metadata = new Map<string, string>();
  if (!isStrictObject(value)) throw badHeader(path, "found __metadata__ that is not an object");
  for (const [key, text] of value) {
    if (typeof text !== "string") throw badHeader(path, `found __metadata__ key ${quoteName(key)} that is not text`);
    metadata.set(key, text);
  }
  return metadata;
}

function checkEntry(name: string, value: StrictJson, dataStart: number, dataBytes: bigint, path: string): TensorEntry {
  const place = `${path}: ${quoteName(name)}`;
  const refuse = (code: string, message: string, hint = DAMAGED): Diagnostic =>
    new Diagnostic({ code: `safetensors-${code}`, message, place, hint });
  if (!isStrictObject(value)) throw refuse("bad-header", "found an entry that is not an object, expected {dtype, shape, data_offsets}");
  for (const key of value.keys()) {
    if (!["dtype", "shape", "data_offsets"].includes(key))
      throw refuse("bad-header", `found the key ${quoteName(key)}, expected dtype, shape and data_offsets`);
  }
  const dtype = value.get("dtype");
  if (typeof dtype !== "string") throw refuse("bad-header", "found no dtype, expected a text");
  if (!isTensorDType(dtype))
    throw refuse("unknown-dtype", `found dtype ${quoteName(dtype)}, expected one of ${Object.keys(TENSOR_DTYPES).join(", ")}`);
  const shape = value.get("shape");
  if (!Array.isArray(shape)) throw refuse("bad-shape", "found no shape, expected an array of sizes");
  if (shape.length > MAX_RANK) throw refuse("bad-shape", `found ${shape.length} axes, expected at most ${MAX_RANK}`);
  const dims = shape.map((dim: StrictJson) => {
    if (typeof dim !== "bigint" || dim < 0n || dim > BigInt(Number.MAX_SAFE_INTEGER)) {
      throw refuse("bad-shape", `found a size ${describe(dim)}, expected an integer from 0 to 2^53 - 1`);
    }
    return Number(dim);
  });
  const offsets = value.get("data_offsets");
  const [begin, end] = Array.isArray(offsets) && offsets.length === 2 ? (offsets as readonly StrictJson[]) : [];
  if (typeof begin !== "bigint" || typeof end !== "bigint" || begin < 0n || end < begin) {
    throw refuse("bad-offsets", `found data_offsets ${describe(offsets)}, expected [begin, end] with 0 <= begin <= end`);
  }
  if (end > dataBytes) {
    throw refuse(
      "out-of-file",
      `found the end at byte ${end} of the data, expected at most ${dataBytes}`,
      "the file is cut short: fetch it again",
    );
  }
  const bytes = tensorBytes(dtype, dims);
  if (bytes !== end - begin)
    throw refuse("size-mismatch", `found ${end - begin} bytes, expected ${bytes} for ${dtype} [${dims.join(", ")}]`);
  return Object.freeze({ name, dtype, shape: Object.freeze(dims), offset: dataStart + Number(begin), bytes: Number(bytes) });
}

/** `entries` are in the order of their bytes. */
function checkTiling(entries: readonly TensorEntry[], dataStart: number, fileBytes: number, path: string): void {
  let end = dataStart;
  let last = "the header";
  for (const { name, offset, bytes } of entries) {
    const place = `${path}: ${quoteName(name)}`;
    if (offset < end) {
      throw new Diagnostic({
        code: "safetensors-overlap",
        message: `found bytes that ${last} also claims, expected no overlap`,
        place,
        hint: DAMAGED,
      });
    }
    if (offset > end) {
      throw new Diagnostic({
        code: "safetensors-hole",
        message: `found a hole of ${offset - end} bytes after ${last}, expected none`,
        place,
        hint: DAMAGED,
      });
    }
    end = offset + bytes;
    last = quoteName(name);
  }
  if (end < fileBytes) {
    throw new Diagnostic({
      code: "safetensors-hole",
      message: `found ${fileBytes - end} bytes after the last tensor, expected none`,
      place: path,
      hint: DAMAGED,
    });
  }
}

function describe(value: StrictJson | undefined): string {
  if (Array.isArray(value)) return `[${value.slice(0, 4).map(describe).join(", ")}${value.length > 4 ? ", …" : ""}]`;
  if (typeof value === "string") return quoteName(value);
  if (value instanceof Map) return "an object";
  return value === undefined ? "nothing" : String(value);
}

function truncated(path: string, message: string): Diagnostic {
  return new Diagnostic({
    code: "safetensors-truncated",
    message,
    place: path,
    hint: "the file is cut short, or not a safetensors file: fetch it again",
  });
}

function badHeader(path: string, message: string, hint = DAMAGED): Diagnostic {
  return new Diagnostic({ code: "safetensors-bad-header", message, place: path, hint });
}
