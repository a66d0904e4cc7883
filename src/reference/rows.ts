/** Ops that treat rows one by one, and those that pick rows. */

import { addTensors, argmaxRows, columns, product, rmsNorm, rope, silu, swigluInterleaved } from "./arithmetic.js";
import type { Meanings } from "./meaning.js";
import { castTo, matrix, type RefTensor, refTensor, row, zeros } from "./tensor.js";

function pickRows(table: RefTensor, picks: RefTensor, dtype: RefTensor["dtype"]): RefTensor {
  const [, width] = matrix(table);
  const count = picks.data.length;
  const out = zeros(table.dtype, [count, width]);
  for (let i = 0; i < count; i++) out.data.set(row(table, picks.data[i] as number), i * width);
  return castTo(dtype, out);
}

interface NormAttrs {
  readonly eps?: number | undefined;
  readonly norm_dtype?: RefTensor["dtype"] | undefined;
}

/** x as a product reads it: through the norm in front of it, if there is one. */
function normed(x: RefTensor, norm: RefTensor | undefined, { eps = 0, norm_dtype = "f32" }: NormAttrs): RefTensor {
  return norm ? rmsNorm(x, norm, eps, norm_dtype) : x;
}

export const rowMeanings: Meanings<
  | "embedding"
  | "rms_norm"
  | "linear"
  | "split"
  | "swiglu"
  | "add"
  | "cast"
  | "rope"
  | "gather_rows"
  | "argmax"
  | "add_rms_norm"
  | "projection"
  | "linear_swiglu"
  | "head_argmax"
> = {
  embedding: ({ table, ids }, { dtype }) => [pickRows(table, ids, dtype)],
  gather_rows: ({ x, rows }) => [pickRows(x, rows, x.dtype)],
  rms_norm: ({ x, weight }, { eps, dtype }) => [rmsNorm(x, weight, eps, dtype)],
  linear: ({ x, weight, bias }, { dtype }) => [refTensor(dtype, [matrix(x)[0], matrix(weight)[0]], product(x, weight, bias))],
  add: ({ a, b }) => [addTensors(a, b)],
  cast: ({ x }, { dtype }) => [castTo(dtype, x)],
  rope: ({ x, positions }, attrs) => [rope(x, positions, attrs)],
  argmax: ({ x }) => [argmaxRows(x)],

  split: ({ x }, { sizes }) => {
    let start = 0;
    return sizes.map((size) => {
      const piece = columns(x, start, size);
      start += size;
      return piece;
    });
  },

  swiglu: ({ gate, up }, { dtype }) => {
    const out = Float64Array.from(gate.data, (value, i) => silu(value) * (up.data[i] as number));
    return [refTensor(dtype, gate.shape, out)];
  },

  add_rms_norm: ({ x, residual, weight }, { eps, dtype }) => {
    const sum = addTensors(x, residual);
    return [sum, rmsNorm(sum, weight, eps, dtype)];
  },

  projection: ({ x, weight, bias, norm, residual }, attrs) => {
    const out = product(normed(x, norm, attrs), weight, bias);
    if (residual) for (const [i, value] of residual.data.entries()) out[i] = (out[i] as number) + value;
    return [refTensor(attrs.dtype, [matrix(x)[0], matrix(weight)[0]], out)];
  },

  linear_swiglu: ({ x, weight, bias, norm }, attrs) => {
    const [rows, width] = [matrix(x)[0], matrix(weight)[0]];
    const sums = product(normed(x, norm, attrs), weight, bias);
    return [refTensor(attrs.dtype, [rows, width / 2], swigluInterleaved(sums, rows, width, attrs.group))];
  },

  head_argmax: ({ x, weight, bias, norm }, attrs) => {
    const logits = refTensor("f32", [matrix(x)[0], matrix(weight)[0]], product(normed(x, norm, attrs), weight, bias));
    return [logits, argmaxRows(logits)];
  },
};
