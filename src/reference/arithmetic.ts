/** The numeric core that several ops share. Everything is f64 until a result is rounded, once, to its dtype. */

import { bug } from "../diagnostics.js";
import type { DType } from "../ir/types.js";
import { floats, matrix, type RefTensor, refTensor, row, zeros } from "./tensor.js";

/** a[aAt ..] . b[bAt ..] over `length` elements; four sums, so that additions need not wait for one another. */
export function dot(a: Float32Array, aAt: number, b: Float32Array, bAt: number, length: number): number {
  let [s0, s1, s2, s3] = [0, 0, 0, 0];
  const whole = length & ~3;
  let i = 0;
  for (; i < whole; i += 4) {
    s0 += (a[aAt + i] as number) * (b[bAt + i] as number);
    s1 += (a[aAt + i + 1] as number) * (b[bAt + i + 1] as number);
    s2 += (a[aAt + i + 2] as number) * (b[bAt + i + 2] as number);
    s3 += (a[aAt + i + 3] as number) * (b[bAt + i + 3] as number);
  }
  for (; i < length; i++) s0 += (a[aAt + i] as number) * (b[bAt + i] as number);
  return s0 + s1 + s2 + s3;
}

/** x . weight^T + bias, not rounded: [rows, N]. */
export function product(x: RefTensor, weight: RefTensor, bias: RefTensor | undefined): Float64Array {
  const [rows, width] = matrix(x);
  const [n] = matrix(weight);
  const [xs, ws] = [floats(x), floats(weight)];
  const out = new Float64Array(rows * n);
  for (let r = 0; r < rows; r++) {
    for (let i = 0; i < n; i++) out[r * n + i] = dot(xs, r * width, ws, i * width, width) + (bias ? (bias.data[i] as number) : 0);
  }
  return out;
}

export function silu(z: number): number {
  return z / (1 + Math.exp(-z));
}

/** silu(gate) * up for rows that hold both, interleaved in groups; not rounded: [rows, width / 2]. */
export function swigluInterleaved(gateUp: ArrayLike<number>, rows: number, width: number, group: number): Float64Array {
  const half = width / 2;
  const out = new Float64Array(rows * half);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < half; c++) {
      const gate = r * width + Math.floor(c / group) * 2 * group + (c % group);
      out[r * half + c] = silu(gateUp[gate] as number) * (gateUp[gate + group] as number);
    }
  }
  return out;
}

export function rmsNorm(x: RefTensor, weight: RefTensor, eps: number, dtype: DType): RefTensor {
  const [rows, width] = matrix(x);
  const xs = floats(x);
  const out = new Float64Array(rows * width);
  for (let r = 0; r < rows; r++) {
    const at = r * width;
    const scale = 1 / Math.sqrt(dot(xs, at, xs, at, width) / width + eps);
    for (let i = 0; i < width; i++) out[at + i] = (xs[at + i] as number) * scale * (weight.data[i] as number);
  }
  return refTensor(dtype, x.shape, out);
}

export function addTensors(a: RefTensor, b: RefTensor): RefTensor {
  return refTensor(
    a.dtype,
    a.shape,
    Float64Array.from(a.data, (value, i) => value + (b.data[i] as number)),
  );
}

export function argmaxRows(x: RefTensor): RefTensor {
  const [rows, width] = matrix(x);
  const out = new Int32Array(rows);
  for (let r = 0; r < rows; r++) {
    let best = Number.NEGATIVE_INFINITY;
    for (let i = 0; i < width; i++) {
      const value = x.data[r * width + i] as number;
      if (value > best) {
        best = value;
        out[r] = i;
      }
    }
  }
  return refTensor("i32", [rows], out);
}

export interface RopeAttrs {
  readonly heads: number;
  readonly head_dim: number;
  readonly theta: number;
  readonly sections: readonly number[];
  readonly dtype: DType;
}

/** Angles are products of two f32 in f32: see the op table. */
export function rope(x: RefTensor, positions: RefTensor, attrs: RopeAttrs): RefTensor {
  return turnBy(x, ropeTurns(positions, attrs), attrs);
}

/** Cosine and sine of each pair's angle in turn, a row for each of `positions`. */
export function ropeTurns(
  positions: RefTensor,
  { head_dim, theta, sections }: Pick<RopeAttrs, "head_dim" | "theta" | "sections">,
): Float64Array {
  const [rows] = matrix(positions);
  const spatial = (sections[0] ?? 0) + (sections[1] ?? 0);
  const turns = new Float64Array(rows * head_dim);
  for (let r = 0; r < rows; r++) {
    for (let p = 0; p < head_dim / 2; p++) {
      const [t, h, w] = [0, 1, 2];
      const axis = p >= spatial ? t : p % 2 === 0 ? h : w;
      const angle = Math.fround((positions.data[r * 3 + axis] as number) * Math.fround(theta ** ((-2 * p) / head_dim)));
      turns[r * head_dim + 2 * p] = Math.cos(angle);
      turns[r * head_dim + 2 * p + 1] = Math.sin(angle);
    }
  }
  return turns;
}

/** Each pair of each head of x, turned. */
export function turnBy(
  x: RefTensor,
  turns: ArrayLike<number>,
  { heads, head_dim, dtype }: Pick<RopeAttrs, "heads" | "head_dim" | "dtype">,
): RefTensor {
  const [rows, width] = matrix(x);
  if (width !== heads * head_dim) throw bug(`x has width ${width}, not ${heads} heads of ${head_dim}`);
  const out = new Float64Array(rows * width);
  for (let r = 0; r < rows; r++) {
    for (let column = 0; column < width; column += 2) {
      const at = r * width + column;
      const [a, b] = [x.data[at] as number, x.data[at + 1] as number];
      const [cos, sin] = [0, 1].map((i) => turns[r * head_dim + (column % head_dim) + i] as number) as [number, number];
      out[at] = a * cos - b * sin;
      out[at + 1] = b * cos + a * sin;
    }
  }
  return refTensor(dtype, x.shape, out);
}

/** Columns `start` .. `start + length` of a matrix. */
export function columns(x: RefTensor, start: number, length: number): RefTensor {
  const [rows] = matrix(x);
  const out = zeros(x.dtype, [rows, length]);
  for (let r = 0; r < rows; r++) out.data.set(row(x, r).subarray(start, start + length), r * length);
  return out;
}
