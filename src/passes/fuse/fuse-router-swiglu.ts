/**
 * Routes beside the shared experts' first product: the router keeps a few multiprocessors busy for as long as a launch takes, and a product that streams has
 * them to spare. For decode on a GPU alone, and its smaller buckets, where that product norms its rows itself.
 */

import { resultOf, type Value } from "../../ir/graph.js";
import { op } from "../../ir/match.js";
import { rule } from "../../ir/rule.js";
import { definePass } from "../pass.js";
import { MOST_WIDTH } from "./fuse-norm.js";

/** Rows of x that a block of the product keeps while it norms them. */
const MOST_ROWS = 8;

const routerThenSwiglu = rule({
  name: "router-then-swiglu",
  // x, logits, indices, weights = norm_router(h, g);  y = linear_swiglu(x, W)   =>   x, logits, indices, weights, y = router_swiglu(h, g, W)
  match: { router: op("norm_router", { x: "h", norm: "g", gate: "gate" }), y: op("linear_swiglu", { x: "router.0", weight: "weight" }) },
  where: {
    "the product has no bias": ({ y }) => y.operands.bias === undefined,
    "both round alike": ({ router, y }) => router.attrs.dtype === y.attrs.dtype,
    "rows are at most 4096 wide": ({ h }) => {
      const width = h.type.kind === "tensor" ? h.type.shape.at(-1) : undefined;
      return typeof width === "number" && width <= MOST_WIDTH;
    },
  },
  rewrite: ({ h, g, gate, weight, router, y }, build) => {
    const { correction } = router.operands;
    const attrs = { ...router.attrs, group: y.attrs.group };
    const fused = build.node("router_swiglu", { x: h, norm: g, gate, weight, ...(correction ? { correction } : {}) }, attrs);
    return [...router.results, resultOf(y)].map((old, i) => [old, fused.results[i] as Value] as const);
  },
});

export const fuseRouterSwiglu = definePass({
  name: "fuse-router-swiglu",
  needs: "fused",
  leaves: "fused",
  applies: ({ name, bounds }) => /^decode(_|$)/.test(name) && (bounds.S?.max ?? 0) <= MOST_ROWS,
  rules: [routerThenSwiglu],
});
