/**
 * Finds the largest logit while the logits are made. Both are results: greedy decoding takes the id, the sampler the logits.
 * Runs after last-token-head, which moves the head under the gather of the last rows.
 */

import { resultOf, type Value } from "../../ir/graph.js";
import { op } from "../../ir/match.js";
import { rule } from "../../ir/rule.js";
import { definePass } from "../pass.js";

const headThenArgmax = rule({
  name: "head-then-argmax",
  // logits = x.W + b;  ids = argmax(logits)   =>   logits, ids = head_argmax(x, W, b)
  match: { logits: op("linear", { x: "x", weight: "weight" }), ids: op("argmax", { x: "logits" }) },
  where: { "logits are f32": ({ logits }) => logits.attrs.dtype === "f32" },
  rewrite: ({ x, weight, logits, ids }, build) => {
    const fused = build.node("head_argmax", { x, weight, bias: logits.operands.bias }, {});
    return [logits, ids].map((node, i) => [resultOf(node), fused.results[i] as Value] as const);
  },
});

export const fuseHeadArgmax = definePass({ name: "fuse-head-argmax", needs: "fused", leaves: "fused", rules: [headThenArgmax] });
