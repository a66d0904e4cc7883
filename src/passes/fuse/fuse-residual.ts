/**
 * Adds the residual stream where a projection's sums still are in registers. For decode on a GPU alone, as fuse-norm, after which no norm wants the sum.
 */

import { resultOf } from "../../ir/graph.js";
import { op } from "../../ir/match.js";
import { rule } from "../../ir/rule.js";
import { definePass } from "../pass.js";

const projectionThenAdd = rule({
  name: "linear-then-add",
  // s = h + (x.W + b)   =>   s = projection(x, W, b, residual h)
  match: { y: op("linear", { x: "x", weight: "weight" }), s: op("add", { a: "h", b: "y" }) },
  where: {
    "the projection is f32": ({ y }) => y.attrs.dtype === "f32",
    "nobody else reads the projection": ({ y, s }, info) => info.onlyReader(resultOf(y), s),
  },
  rewrite: ({ x, weight, y, h }, build) =>
    build.value("projection", { x, weight, bias: y.operands.bias, residual: h }, { dtype: y.attrs.dtype }),
});

export const fuseResidual = definePass({
  name: "fuse-residual",
  needs: "fused",
  leaves: "fused",
  programs: ["decode"],
  rules: [projectionThenAdd],
});
