/**
 * Element types of safetensors files and what an entry of such a file is. Not the element types of the graph
 * (src/ir/types.ts): a checkpoint may hold types that no kernel knows.
 */

/** The one list of element types we read, with their sizes in bytes. U16 is how Paddle writes bf16: the bits, named as integers. */
export const TENSOR_DTYPES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
} as const;
export type TensorDType = keyof typeof TENSOR_DTYPES;

export interface TensorEntry {
  readonly name: string;
  readonly dtype: TensorDType;
  readonly shape: readonly number[];
  /** Of the first element, from the start of the file. */
  readonly offset: number;
  readonly bytes: number;
}

export function isTensorDType(text: string): text is TensorDType {
  return Object.hasOwn(TENSOR_DTYPES, text);
}

/** Elements x size, exact: a shape from a file can name more bytes than a double counts. */
export function tensorBytes(dtype: TensorDType, shape: Iterable<number | bigint>): bigint {
  let bytes = BigInt(TENSOR_DTYPES[dtype]);
  for (const dim of shape) bytes *= BigInt(dim);
  return bytes;
}

/** A name from a file as it may stand in a message: quoted, escaped and not endless. */
export function quoteName(name: string): string {
  const quoted = JSON.stringify(name);
  return quoted.length <= 120 ? quoted : `${quoted.slice(0, 110)}…" (${name.length} characters)`;
}
