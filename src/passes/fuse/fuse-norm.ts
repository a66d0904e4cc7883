/**
 * Norms rows where they are read, in the product that follows: in a step of few rows a norm is a launch that everybody waits for, and the rows come
 * out of the cache anyway. For decode on a GPU alone: with many rows each block of a product would norm them again, and a CPU has no launches to save.
 */

import type { NodeOf, Value } from "../../ir/graph.js";
import { resultOf } from "../../ir/graph.js";
import { op } from "../../ir/match.js";
import { rule } from "../../ir/rule.js";
import { definePass } from "../pass.js";

/** What a product with a norm in front reads. */
function withNorm({ operands, attrs }: NodeOf<"rms_norm">): {
  readonly x: Value;
  readonly norm: Value;
  readonly eps: number;
  readonly norm_dtype: "bf16";
} {
  return { x: operands.x, norm: operands.weight, eps: attrs.eps, norm_dtype: "bf16" };
}

const where = {
  "the norm is rounded to bf16": ({ n }: { readonly n: NodeOf<"rms_norm"> }) => n.attrs.dtype === "bf16",
} as const;

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
  programs: ["decode"],
  rules: [normThenLinear, normThenSwiglu, normThenHead],
});
