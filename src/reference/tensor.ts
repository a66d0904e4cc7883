/** Tensors of the reference interpreter: plain arrays, whatever the layout in memory will be. Values are exactly those of the dtype. */

import { bug } from "../diagnostics.js";
import { DTYPES, type DType } from "../ir/types.js";
import { roundToBf16, roundToF16, widenBf16, widenF16 } from "../weights/half.js";

/** All floats are held as f32, which has every bf16 and f16; i64 as f64, exact up to 2^53. */
export type RefData = Float32Array | Float64Array | Int32Array | Uint8Array;

export interface RefTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Row-major. */
  readonly data: RefData;
}

export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** A tensor of `values`, each rounded to `dtype`: to nearest, ties to even, by way of f32 as hardware does. */
export function refTensor(dtype: DType, shape: readonly number[], values: ArrayLike<number>): RefTensor {
  if (values.length !== sizeOf(shape)) throw bug(`${values.length} values for the shape [${shape.join(", ")}]`);
  return { dtype, shape, data: rounded(dtype, values) };
}

/** Zeros to be filled with values that are of the dtype already: copies of rows are not rounded again. */
export function zeros(dtype: DType, shape: readonly number[]): RefTensor {
  return { dtype, shape, data: new ARRAYS[dtype](sizeOf(shape)) };
}

const ARRAYS = { f32: Float32Array, bf16: Float32Array, f16: Float32Array, i32: Int32Array, i64: Float64Array, u8: Uint8Array } as const;

/** A constructor copies an array at memory speed; `from` would go through its iterator. */
function rounded(dtype: DType, values: ArrayLike<number>): RefData {
  switch (dtype) {
    case "f32":
      return new Float32Array(values);
    case "bf16":
      return widenBf16(roundToBf16(values));
    case "f16":
      return widenF16(roundToF16(values));
    case "i32":
      return new Int32Array(values);
    case "i64":
      return new Float64Array(values).map(Math.trunc);
    case "u8":
      return new Uint8Array(values);
  }
}

/** `x` in another dtype: rounded to a float type, cut off to a whole number otherwise. */
export function castTo(dtype: DType, x: RefTensor): RefTensor {
  return dtype === x.dtype ? x : refTensor(dtype, x.shape, DTYPES[dtype].float ? x.data : x.data.map(Math.trunc));
}

/** Rows and columns of a matrix. */
export function matrix({ shape }: RefTensor): readonly [number, number] {
  const [rows, cols] = shape;
  if (rows === undefined || cols === undefined || shape.length !== 2) throw bug(`a matrix has two axes, this has [${shape.join(", ")}]`);
  return [rows, cols];
}

/** The data of a float tensor. Inner loops take nothing else: with one array type they run ten times as fast. */
export function floats({ dtype, data }: RefTensor): Float32Array {
  if (!(data instanceof Float32Array)) throw bug(`found ${dtype}, expected a float type`);
  return data;
}

/** A row of a matrix, as a view. */
export function row(x: RefTensor, i: number): RefData {
  const [, cols] = matrix(x);
  return x.data.subarray(i * cols, (i + 1) * cols);
}
