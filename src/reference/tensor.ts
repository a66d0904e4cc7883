/** Tensors of the reference interpreter: plain arrays, whatever the layout in memory will be. Values are exactly those of the dtype. */

import { bug } from "../diagnostics.js";
import { DTYPES, type DType } from "../ir/types.js";
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from "../weights/half.js";

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

function rounded(dtype: DType, values: ArrayLike<number>): RefData {
  switch (dtype) {
    case "f32":
      return Float32Array.from(values);
    case "bf16":
      return Float32Array.from(values, (value) => bf16ToF32(f32ToBf16(value)));
    case "f16":
      return Float32Array.from(values, (value) => f16ToF32(f32ToF16(value)));
    case "i32":
      return Int32Array.from(values);
    case "i64":
      return Float64Array.from(values, Math.trunc);
    case "u8":
      return Uint8Array.from(values);
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

/** A row of a matrix, as a view. */
export function row(x: RefTensor, i: number): RefData {
  const [, cols] = matrix(x);
  return x.data.subarray(i * cols, (i + 1) * cols);
}
