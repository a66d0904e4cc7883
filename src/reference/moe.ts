/** The router, the experts and their sum. */

import type { DType } from "../ir/types.js";
import { dot, product, rmsNorm, swigluInterleaved } from "./arithmetic.js";
import type { Meanings } from "./meaning.js";
import { castTo, floats, matrix, type RefTensor, refTensor, row } from "./tensor.js";

/** The k experts of one row and their weights. What decides the choice is f32, as in a kernel, so that ties are the same ties. */
function choose(
  logits: ArrayLike<number>,
  correction: RefTensor | undefined,
  k: number,
  normMin: number,
): { indices: number[]; weights: number[] } {
  const top = Array.from(logits).reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const powers = Array.from(logits, (logit) => Math.exp(logit - top));
  const sum = powers.reduce((a, b) => a + b, 0);
  const p = powers.map((power) => Math.fround(power / sum));
  const keys = p.map((value, i) => Math.fround(value + (correction ? (correction.data[i] as number) : 0)));
  const indices = keys
    .map((_, i) => i)
    .sort((a, b) => (keys[b] as number) - (keys[a] as number) || a - b)
    .slice(0, k);
  const chosen = indices.map((i) => p[i] as number);
  const norm = Math.max(
    chosen.reduce((a, b) => a + b, 0),
    normMin,
  );
  return { indices, weights: chosen.map((value) => value / norm) };
}

/** A row for each (token, choice). `x` has a row a token, or one a choice. */
function expertLinear(x: RefTensor, indices: RefTensor, weight: RefTensor, dtype: RefTensor["dtype"]): RefTensor {
  const [tokens, k] = matrix(indices);
  const [, n = 0, width = 0] = weight.shape;
  const [xs, ws] = [floats(x), floats(weight)];
  const perToken = matrix(x)[0] === tokens;
  const out = new Float64Array(tokens * k * n);
  for (let choice = 0; choice < tokens * k; choice++) {
    const xAt = (perToken ? Math.floor(choice / k) : choice) * width;
    const expertAt = (indices.data[choice] as number) * n * width;
    for (let i = 0; i < n; i++) out[choice * n + i] = dot(xs, xAt, ws, expertAt + i * width, width);
  }
  return refTensor(dtype, [tokens * k, n], out);
}

/** The weighted sum of the rows of each token, plus the addend. */
function combine(rows: RefTensor, indices: RefTensor, weights: RefTensor, addend: RefTensor | undefined): RefTensor {
  const [tokens, k] = matrix(indices);
  const [, width] = matrix(rows);
  const out = addend ? Float64Array.from(addend.data) : new Float64Array(tokens * width);
  for (let t = 0; t < tokens; t++) {
    for (let j = 0; j < k; j++) {
      const expertRow = row(rows, t * k + j);
      const weight = weights.data[t * k + j] as number;
      for (let i = 0; i < width; i++) out[t * width + i] = (out[t * width + i] as number) + weight * (expertRow[i] as number);
    }
  }
  return refTensor("f32", [tokens, width], out);
}

/** Logits, indices and weights. */
function route(
  x: RefTensor,
  gate: RefTensor,
  correction: RefTensor | undefined,
  { k, norm_min }: { readonly k: number; readonly norm_min: number },
): [RefTensor, RefTensor, RefTensor] {
  const [tokens] = matrix(x);
  const [experts] = matrix(gate);
  const logits = refTensor("f32", [tokens, experts], product(x, gate, undefined));
  const chosen = Array.from({ length: tokens }, (_, t) => choose(row(logits, t), correction, k, norm_min));
  return [
    logits,
    refTensor(
      "i32",
      [tokens, k],
      chosen.flatMap(({ indices }) => indices),
    ),
    refTensor(
      "f32",
      [tokens, k],
      chosen.flatMap(({ weights }) => weights),
    ),
  ];
}

interface FfnOperands {
  readonly x: RefTensor;
  readonly indices: RefTensor;
  readonly weights: RefTensor;
  readonly gate_up: RefTensor;
  readonly down: RefTensor;
  readonly addend?: RefTensor | undefined;
}

function moeFfn({ x, indices, weights, gate_up, down, addend }: FfnOperands, group: number, dtype: DType): RefTensor {
  const gateUp = expertLinear(x, indices, gate_up, "f32");
  const [choices, width] = matrix(gateUp);
  const hidden = refTensor(dtype, [choices, width / 2], swigluInterleaved(gateUp.data, choices, width, group));
  return combine(expertLinear(hidden, indices, down, "f32"), indices, weights, addend);
}

export const moeMeanings: Meanings<
  "moe_router" | "expert_linear" | "moe_combine" | "moe_ffn" | "moe_ffn_norm" | "norm_router" | "router_swiglu"
> = {
  moe_router: ({ x, gate, correction }, attrs) => route(x, gate, correction, attrs),

  norm_router: ({ x, norm, gate, correction }, attrs) => {
    const n = rmsNorm(x, norm, attrs.eps, "f32");
    return [castTo(attrs.dtype, n), ...route(n, gate, correction, attrs)];
  },

  router_swiglu: ({ x, norm, gate, weight, correction }, attrs) => {
    const n = rmsNorm(x, norm, attrs.eps, "f32");
    const rounded = castTo(attrs.dtype, n);
    const [rows, width] = [matrix(x)[0], matrix(weight)[0]];
    const hidden = swigluInterleaved(product(rounded, weight, undefined), rows, width, attrs.group);
    return [rounded, ...route(n, gate, correction, attrs), refTensor(attrs.dtype, [rows, width / 2], hidden)];
  },

  expert_linear: ({ x, indices, weight }, { dtype }) => [expertLinear(x, indices, weight, dtype)],

  moe_combine: ({ rows, indices, weights }) => [combine(rows, indices, weights, undefined)],

  moe_ffn: (operands, { group, dtype }) => [moeFfn(operands, group, dtype)],

  moe_ffn_norm: ({ norm, ...operands }, { group, eps, dtype }) => {
    const out = moeFfn(operands, group, dtype);
    return [out, rmsNorm(out, norm, eps, dtype)];
  },
};
