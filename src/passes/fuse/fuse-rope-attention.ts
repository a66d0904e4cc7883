/**
 * Rotates, appends and attends in one launch: with one new token a sequence, who attends needs little more to make its query itself. For decode on a GPU.
 */

import { resultOf, type Value } from "../../ir/graph.js";
import { op } from "../../ir/match.js";
import { rule } from "../../ir/rule.js";
import { definePass } from "../pass.js";

const appendThenAttend = rule({
  name: "append-then-attend",
  // q, c = rope_kv_append(qkv, cache);  y = attention(q, c)   =>   y, c = rope_attention(qkv, cache)
  match: { turned: op("rope_kv_append"), y: op("attention", { q: "turned.0", cache: "turned.1" }) },
  where: {
    "nobody else reads the query": ({ turned, y }, info) => info.onlyReader(turned.results[0] as Value, y),
    "the query is rounded as the result is": ({ turned, y }) =>
      turned.attrs.dtype === y.attrs.dtype && turned.attrs.heads === y.attrs.heads,
  },
  rewrite: ({ turned, y }, build) => {
    const { qkv, positions, slots, cache } = turned.operands;
    const { query_start, context, block_table } = y.operands;
    const { heads, theta, sections, dtype } = turned.attrs;
    const operands = { qkv, positions, slots, cache, query_start, context, block_table };
    const node = build.node("rope_attention", operands, { heads, theta, sections, scale: y.attrs.scale, dtype });
    const out = node.results[0] as Value;
    return [
      [resultOf(y), out],
      // Read by nobody any more; an op with an effect goes away only if all of it is replaced.
      [turned.results[0] as Value, out],
      [turned.results[1] as Value, node.results[1] as Value],
    ];
  },
});

export const fuseRopeAttention = definePass({
  name: "fuse-rope-attention",
  needs: "fused",
  leaves: "fused",
  programs: ["decode"],
  rules: [appendThenAttend],
});
