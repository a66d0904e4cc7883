/**
 * Norm, rounding and router in one launch: in a decode step each of them is a launch that everybody waits for, in prefill rows are read once instead of three
 * times. The router still reads the norm in f32. For decode and prefill on a GPU.
 */

import { resultOf, type Value } from "../../ir/graph.js";
import { op } from "../../ir/match.js";
import { rule } from "../../ir/rule.js";
import { definePass } from "../pass.js";

const normThenRouter = rule({
  name: "norm-then-router",
  // n = rms_norm(h, g);  x = cast(n);  logits, indices, weights = moe_router(n)   =>   x, logits, indices, weights = norm_router(h, g)
  match: {
    n: op("rms_norm", { x: "h", weight: "g" }),
    x: op("cast", { x: "n" }),
    router: op("moe_router", { x: "n", gate: "gate" }),
    experts: op("moe_ffn", { x: "x", indices: "router.1", weights: "router.2" }),
  },
  keep: ["experts"],
  where: {
    "the norm is f32": ({ n }) => n.attrs.dtype === "f32",
    "nobody else reads the norm": ({ n, x, router }, info) =>
      !info.isReturned(resultOf(n)) && info.readers(resultOf(n)).every((reader) => reader === x || reader === router),
  },
  rewrite: ({ h, g, gate, n, x, router }, build) => {
    const { correction } = router.operands;
    const { k, norm_min } = router.attrs;
    const attrs = { k, norm_min, eps: n.attrs.eps, dtype: x.attrs.dtype };
    const fused = build.node("norm_router", { x: h, norm: g, gate, ...(correction ? { correction } : {}) }, attrs);
    return [resultOf(x), ...router.results].map((old, i) => [old, fused.results[i] as Value] as const);
  },
});

export const fuseNormRouter = definePass({
  name: "fuse-norm-router",
  needs: "fused",
  leaves: "fused",
  applies: ({ name }) => name === "decode" || name === "prefill",
  rules: [normThenRouter],
});
