/**
 * Norms what the experts give where their rows are summed up: that launch has whole rows, and the norm would be one more that everybody waits for. For decode on a
 * GPU alone, and its larger buckets: with few rows the experts are summed without a launch of their own.
 */

import { resultOf, type Value } from "../../ir/graph.js";
import { op } from "../../ir/match.js";
import { rule } from "../../ir/rule.js";
import { definePass } from "../pass.js";

/** Up to here a norm goes into the product behind it (fuse-norm). */
const MOST_NORMED_INSIDE = 8;

const expertsThenNorm = rule({
  name: "experts-then-norm",
  // h = moe_ffn(x);  n = rms_norm(h, g)   =>   h, n = moe_ffn_norm(x, norm g)
  match: { h: op("moe_ffn"), n: op("rms_norm", { x: "h", weight: "norm" }) },
  where: {
    "the norm is rounded as the experts' rows are": ({ h, n }) => n.attrs.dtype === h.attrs.dtype,
    "nobody else norms the sum": ({ h, n }, info) => info.readers(resultOf(h)).every((reader) => reader === n || reader.op !== "rms_norm"),
  },
  rewrite: ({ h, n, norm }, build) => {
    const { group, dtype } = h.attrs;
    const fused = build.node("moe_ffn_norm", { ...h.operands, norm }, { group, eps: n.attrs.eps, dtype });
    return [resultOf(h), resultOf(n)].map((old, i) => [old, fused.results[i] as Value] as const);
  },
});

export const fuseSumNorm = definePass({
  name: "fuse-sum-norm",
  needs: "fused",
  leaves: "fused",
  applies: ({ name, bounds }) => /^decode(_|$)/.test(name) && (bounds.S?.max ?? 0) > MOST_NORMED_INSIDE,
  rules: [expertsThenNorm],
});
