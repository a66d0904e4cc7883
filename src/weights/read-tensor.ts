/** Reads whole tensors into typed arrays, for tests, goldens and small things. Weights do not come this way: the packer streams them. */

import { Diagnostic } from "../diagnostics.js";
import { readFully, withFile } from "./file.js";
import { widenBf16, widenF16 } from "./half.js";
import { readSafetensorsHeader, type SafetensorsFile } from "./safetensors.js";
import { quoteName, type TensorDType, type TensorEntry } from "./tensor-type.js";

export interface LoadedTensor<Data extends Float32Array | BigInt64Array = Float32Array | BigInt64Array> {
  readonly name: string;
  readonly dtype: TensorDType;
  readonly shape: readonly number[];
  readonly data: Data;
}

/** Floats of every kind come as f32 (F64 rounded), integers of every kind as i64 (U64 wrapped). U16 is Paddle's name for bf16 bits. */
export async function readTensor(file: SafetensorsFile | string, name: string): Promise<LoadedTensor> {
  const entry = await findEntry(file, name);
  const bytes = await readTensorBytes(typeof file === "string" ? file : file.path, entry);
  return { name, dtype: entry.dtype, shape: entry.shape, data: decode(entry.dtype, bytes) };
}

export async function readFloats(file: SafetensorsFile | string, name: string): Promise<LoadedTensor<Float32Array>> {
  const tensor = await readTensor(file, name);
  const { data } = tensor;
  if (data instanceof Float32Array) return { ...tensor, data };
  throw wrongKind(file, tensor, "a float type");
}

export async function readIntegers(file: SafetensorsFile | string, name: string): Promise<LoadedTensor<BigInt64Array>> {
  const tensor = await readTensor(file, name);
  const { data } = tensor;
  if (data instanceof BigInt64Array) return { ...tensor, data };
  throw wrongKind(file, tensor, "an integer type");
}

/** The bytes of one entry as they lie in the file. The entry's size was checked against the file's when its header was read. */
export async function readTensorBytes(path: string, entry: TensorEntry): Promise<Uint8Array> {
  return withFile(path, async (file) => {
    if (entry.offset + entry.bytes > file.bytes) {
      const message = `found a file of ${file.bytes} bytes, expected ${entry.offset + entry.bytes} or more`;
      throw new Diagnostic({
        code: "file-shrank",
        message,
        place: `${path}: ${quoteName(entry.name)}`,
        hint: "the file changed since its header was read",
      });
    }
    const bytes = new Uint8Array(entry.bytes);
    await readFully(file, bytes, entry.offset);
    return bytes;
  });
}

async function findEntry(file: SafetensorsFile | string, name: string): Promise<TensorEntry> {
  const { path, tensors } = typeof file === "string" ? await readSafetensorsHeader(file) : file;
  const entry = tensors.get(name);
  if (!entry) throw new Diagnostic({ code: "safetensors-no-tensor", message: `found no tensor ${quoteName(name)}`, place: path });
  return entry;
}

/** `bytes` starts at its buffer's start, so any element type can view it. */
function decode(dtype: TensorDType, bytes: Uint8Array): Float32Array | BigInt64Array {
  const { buffer } = bytes;
  switch (dtype) {
    case "F32":
      return new Float32Array(buffer);
    case "F64":
      return Float32Array.from(new Float64Array(buffer));
    case "BF16":
    case "U16":
      return widenBf16(new Uint16Array(buffer));
    case "F16":
      return widenF16(new Uint16Array(buffer));
    case "I64":
    case "U64":
      return new BigInt64Array(buffer);
    case "I32":
      return BigInt64Array.from(new Int32Array(buffer), BigInt);
    case "U32":
      return BigInt64Array.from(new Uint32Array(buffer), BigInt);
    case "I16":
      return BigInt64Array.from(new Int16Array(buffer), BigInt);
    case "I8":
      return BigInt64Array.from(new Int8Array(buffer), BigInt);
    case "U8":
    case "BOOL":
      return BigInt64Array.from(bytes, BigInt);
    case "F8_E4M3":
    case "F8_E5M2":
      throw new Diagnostic({
        code: "weights-dtype",
        kind: "unsupported",
        message: `reading ${dtype} as numbers`,
        hint: "use BF16, F16 or F32",
      });
  }
}

function wrongKind(file: SafetensorsFile | string, { name, dtype }: LoadedTensor, expected: string): Diagnostic {
  const place = `${typeof file === "string" ? file : file.path}: ${quoteName(name)}`;
  return new Diagnostic({ code: "safetensors-wrong-dtype", message: `found ${dtype}, expected ${expected}`, place });
}
