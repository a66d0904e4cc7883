/**
 * One matrix for gate and up, and the SwiGLU where the sums still are in registers: half the results are written, and none is read back.
 * Experts are fused as a whole, in fuse-moe.
 */

import { resultOf } from "../../ir/graph.js";
import { op } from "../../ir/match.js";
import { rule } from "../../ir/rule.js";
import { sameType } from "../../ir/types.js";
import { definePass } from "../pass.js";
import { biasesOf, canJoinBiases, interleave, rowCount, swigluGroup } from "./weights.js";

const gateAndUp = rule({
  name: "gate-and-up",
  // silu(x.G) * (x.U)   =>   linear_swiglu(x, interleave(G, U))
  match: {
    gate: op("linear", { x: "x", weight: "wGate" }),
    up: op("linear", { x: "x", weight: "wUp" }),
    y: op("swiglu", { gate: "gate", up: "up" }),
  },
  where: {
    "gate and up are two projections": ({ gate, up }) => resultOf(gate) !== resultOf(up),
    "gate and up are not rounded before the product": ({ gate, up }) => gate.attrs.dtype === "f32" && up.attrs.dtype === "f32",
    "nobody else reads gate or up": ({ gate, up, y }, info) => info.onlyReader(resultOf(gate), y) && info.onlyReader(resultOf(up), y),
    "the weights are of one type": ({ wGate, wUp }) => sameType(wGate.type, wUp.type),
    "both have a bias or none has": ({ gate, up }) => canJoinBiases([gate, up]),
    "the width is a multiple of 8": ({ wGate }) => swigluGroup(rowCount(wGate)) !== undefined,
  },
  rewrite: ({ x, gate, up, wGate, wUp, y }, build) => {
    const group = swigluGroup(rowCount(wGate)) as number;
    const weight = interleave(build, wGate, wUp, group);
    const [a, b] = biasesOf([gate, up]);
    const bias = a && b ? interleave(build, a, b, group) : undefined;
    return build.value("linear_swiglu", { x, weight, bias }, { group, dtype: y.attrs.dtype });
  },
});

export const fuseGateUp = definePass({ name: "fuse-gate-up", needs: "fused", leaves: "fused", rules: [gateAndUp] });
