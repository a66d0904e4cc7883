/**
 * Norms the residual sum while it is still in registers, instead of writing it and reading it back. The sum is kept for its other readers.
 * Runs after the additions that fuse-moe takes, and after last-token-head, which has a simpler life with a sum and a norm.
 */

import { resultOf, type Value } from "../../ir/graph.js";
import { op } from "../../ir/match.js";
import { rule } from "../../ir/rule.js";
import { definePass } from "../pass.js";

const sumThenNorm = rule({
  name: "sum-then-norm",
  // s = a + b;  y = rms_norm(s, w)   =>   s, y = add_rms_norm(a, b, w)
  match: { s: op("add", { a: "a", b: "b" }), y: op("rms_norm", { x: "s", weight: "weight" }) },
  rewrite: ({ s, a, b, weight, y }, build, info) => {
    // Of the two, the residual is the one that has been there longer.
    const [residual, x] = info.isLater(a, b) ? [b, a] : [a, b];
    const fused = build.node("add_rms_norm", { x, residual, weight }, { eps: y.attrs.eps, dtype: y.attrs.dtype });
    return [s, y].map((old, i) => [resultOf(old), fused.results[i] as Value] as const);
  },
});

export const fuseAddRmsNorm = definePass({ name: "fuse-add-rms-norm", needs: "fused", leaves: "fused", rules: [sumThenNorm] });
