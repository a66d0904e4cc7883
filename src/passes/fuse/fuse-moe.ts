/**
 * The chosen experts of all tokens as one op: a kernel can then sort tokens by expert once, keep gate, up and down of an expert together, and
 * start from what the result is added to. The router stays apart: its results are traced, and its arithmetic is f32 throughout.
 */

import { resultOf } from "../../ir/graph.js";
import { op } from "../../ir/match.js";
import { rule } from "../../ir/rule.js";
import { sameType } from "../../ir/types.js";
import { definePass } from "../pass.js";
import { interleave, rowCount, swigluGroup } from "./weights.js";

const experts = rule({
  name: "experts",
  // sum of w_j * (silu(x.G_j) * (x.U_j)).D_j over the chosen j   =>   moe_ffn(x, interleave(G, U), D)
  match: {
    gate: op("expert_linear", { x: "x", indices: "indices", weight: "wGate" }),
    up: op("expert_linear", { x: "x", indices: "indices", weight: "wUp" }),
    hidden: op("swiglu", { gate: "gate", up: "up" }),
    down: op("expert_linear", { x: "hidden", indices: "indices", weight: "wDown" }),
    y: op("moe_combine", { rows: "down", indices: "indices", weights: "weights" }),
  },
  where: {
    "gate and up are two projections": ({ gate, up }) => resultOf(gate) !== resultOf(up),
    "only the hidden rows are rounded": ({ gate, up, down }) => [gate, up, down].every(({ attrs }) => attrs.dtype === "f32"),
    "nobody else reads what lies between": ({ gate, up, hidden, down, y }, info) =>
      info.onlyReader(resultOf(gate), hidden) &&
      info.onlyReader(resultOf(up), hidden) &&
      info.onlyReader(resultOf(hidden), down) &&
      info.onlyReader(resultOf(down), y),
    "the weights are of one type": ({ wGate, wUp, wDown }) => sameType(wGate.type, wUp.type) && wDown.type.dtype === wGate.type.dtype,
    "x has a row a token": ({ x, y }) => sameRows(x.type, resultOf(y).type),
    "the width is a multiple of 8": ({ wGate }) => swigluGroup(rowCount(wGate)) !== undefined,
  },
  rewrite: ({ x, indices, weights, wGate, wUp, wDown, hidden }, build) => {
    const group = swigluGroup(rowCount(wGate)) as number;
    const gateUp = interleave(build, wGate, wUp, group);
    return build.value("moe_ffn", { x, indices, weights, gate_up: gateUp, down: wDown }, { group, dtype: hidden.attrs.dtype });
  },
});

const addToSum = rule({
  name: "add-to-sum",
  // moe_ffn(x) + b   =>   moe_ffn(x, addend b): the shared experts' output, or the residual where there are none
  match: { experts: op("moe_ffn"), sum: op("add", { a: "experts", b: "b" }) },
  when: ({ experts }) => experts.operands.addend === undefined,
  where: {
    "nobody else reads the experts' sum": ({ experts, sum }, info) => info.onlyReader(resultOf(experts), sum),
  },
  rewrite: ({ experts, b }, build) => build.value("moe_ffn", { ...experts.operands, addend: b }, experts.attrs),
});

function sameRows(a: Parameters<typeof sameType>[0], b: Parameters<typeof sameType>[0]): boolean {
  if (a.kind !== "tensor" || b.kind !== "tensor") return false;
  return sameType({ ...a, shape: a.shape.slice(0, 1) }, { ...a, shape: b.shape.slice(0, 1) });
}

export const fuseMoe = definePass({ name: "fuse-moe", needs: "fused", leaves: "fused", rules: [experts, addToSum] });
