/**
 * Adds the residual stream where a projection's sums still are in registers. For decode and prefill on a GPU, whose products of many rows fetch it beside
 * other work. A norm then reads one stream and writes none.
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

const expertsThenAdd = rule({
  name: "experts-then-add",
  // s = h + moe_ffn(x, addend b)   =>   s = moe_ffn(x, addend h + b), where b is a projection, which the rule above then takes
  match: { b: op("linear"), y: op("moe_ffn", { addend: "b" }), s: op("add", { a: "h", b: "y" }) },
  where: {
    "nobody else reads the experts' sum": ({ y, s }, info) => info.onlyReader(resultOf(y), s),
    "nobody else reads the projection": ({ b, y }, info) => info.onlyReader(resultOf(b), y),
  },
  rewrite: ({ b, y, h }, build) => {
    const addend = build.value("add", { a: h, b: resultOf(b) }, {});
    return build.value("moe_ffn", { ...y.operands, addend }, y.attrs);
  },
});

export const fuseResidual = definePass({
  name: "fuse-residual",
  needs: "fused",
  leaves: "fused",
  applies: ({ name }) => name === "decode" || name === "prefill",
  rules: [expertsThenAdd, projectionThenAdd],
});
