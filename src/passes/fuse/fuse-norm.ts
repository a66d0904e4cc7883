/**
 * Norms rows where they are read, in the product that follows: in a step of few rows a norm is a launch that everybody waits for, and the rows come
 * out of the cache anyway. For decode on a GPU alone, and its smaller buckets: with many rows each block of a product would norm them again, and a CPU has no launches to save.
 */

import type { GraphInfo } from "../../ir/analysis.js";
import type { NodeOf, Value } from "../../ir/graph.js";
import { resultOf } from "../../ir/graph.js";
import { op } from "../../ir/match.js";
import { rule } from "../../ir/rule.js";
import { definePass } from "../pass.js";

/** An H100 decoded 64 sequences of the 0.3B at 28.9k tok/s with norms apart, at 23.9k without; 16 at 17.9k and 20.4k (bench/NOTES-cuda.md). */
const MOST_ROWS = 16;

/**
 * More rows than these a product multiplies better with wgmma, which reads them as bf16 (runtime/device/cuda/wide.cuh), once they are so wide, and its weight has
 * so many elements, that the launch for the norm is worth it: 16 rows of the 21B-A3B, not of the 0.3B (bench/NOTES-cuda-decode.md).
 */
const MOST_BY_LANES = 8;
const WIDE_ROW = 2048;
const LONG_WEIGHT = 8_000_000;

/** What a product with a norm in front reads. */
function withNorm({ operands, attrs }: NodeOf<"rms_norm">): {
  readonly x: Value;
  readonly norm: Value;
  readonly eps: number;
  readonly norm_dtype: "bf16";
} {
  return { x: operands.x, norm: operands.weight, eps: attrs.eps, norm_dtype: "bf16" };
}

/** Elements of a row that a product keeps in registers while it norms it; of wider ones the compiler spills some. */
export const MOST_WIDTH = 4096;

const where = {
  "the norm is rounded to bf16": ({ n }: { readonly n: NodeOf<"rms_norm"> }) => n.attrs.dtype === "bf16",
  "rows are at most 4096 wide": ({ n }: { readonly n: NodeOf<"rms_norm"> }) => {
    const width = widthOf(n.operands.x);
    return width !== undefined && width <= MOST_WIDTH;
  },
  "no product of warpgroups takes the rows": ({ weight }: { readonly weight: Value }, { graph }: GraphInfo) => {
    const width = widthOf(weight) ?? 0;
    return (graph.bounds.S?.max ?? 0) <= MOST_BY_LANES || width < WIDE_ROW || width * (sizesOf(weight)[0] ?? 0) < LONG_WEIGHT;
  },
} as const;

function sizesOf({ type }: Value): readonly (number | undefined)[] {
  return type.kind === "tensor" ? type.shape.map((size) => (typeof size === "number" ? size : undefined)) : [];
}
function widthOf(value: Value): number | undefined {
  return sizesOf(value).at(-1);
}

const normThenLinear = rule({
  name: "norm-then-linear",
  // n = rms_norm(x, g);  y = n.W + b   =>   y = projection(x, W, b, norm g)
  match: { n: op("rms_norm"), y: op("linear", { x: "n", weight: "weight" }) },
  where: { ...where, "nobody else reads the norm": ({ n, y }, info) => info.onlyReader(resultOf(n), y) },
  rewrite: ({ n, y, weight }, build) => {
    const { x, norm, eps, norm_dtype } = withNorm(n);
    return build.value("projection", { x, weight, bias: y.operands.bias, norm }, { eps, norm_dtype, dtype: y.attrs.dtype });
  },
});

const normThenSwiglu = rule({
  name: "norm-then-swiglu",
  // n = rms_norm(x, g);  y = linear_swiglu(n, W)   =>   y = linear_swiglu(x, W, norm g)
  match: { n: op("rms_norm"), y: op("linear_swiglu", { x: "n", weight: "weight" }) },
  where: { ...where, "nobody else reads the norm": ({ n, y }, info) => info.onlyReader(resultOf(n), y) },
  rewrite: ({ n, y, weight }, build) => {
    const { x, norm, eps, norm_dtype } = withNorm(n);
    const { group, dtype } = y.attrs;
    return build.value("linear_swiglu", { x, weight, bias: y.operands.bias, norm }, { group, eps, norm_dtype, dtype });
  },
});

const normThenHead = rule({
  name: "norm-then-head",
  // n = rms_norm(x, g);  logits, ids = head_argmax(n, W)   =>   logits, ids = head_argmax(x, W, norm g)
  match: { n: op("rms_norm"), y: op("head_argmax", { x: "n", weight: "weight" }) },
  where: { ...where, "nobody else reads the norm": ({ n, y }, info) => info.onlyReader(resultOf(n), y) },
  rewrite: ({ n, y, weight }, build) => {
    const { x, norm, eps, norm_dtype } = withNorm(n);
    const fused = build.node("head_argmax", { x, weight, bias: y.operands.bias, norm }, { eps, norm_dtype });
    return y.results.map((old, i) => [old, fused.results[i] as Value] as const);
  },
});

export const fuseNorm = definePass({
  name: "fuse-norm",
  needs: "fused",
  leaves: "fused",
  applies: ({ name, bounds }) => /^decode(_|$)/.test(name) && (bounds.S?.max ?? 0) <= MOST_ROWS,
  rules: [normThenLinear, normThenSwiglu, normThenHead],
});
