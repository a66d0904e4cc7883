/**
 * Rotates and appends where the projection's sums still are in registers: queries leave it as they are attended with, keys and values go to the cache, and
 * the f32 rows in between are never written. What each pair turns by is computed once a step. For prefill on a GPU with wgmma: a product of few rows has
 * its own way.
 */

import { resultOf, type Value } from "../../ir/graph.js";
import { op } from "../../ir/match.js";
import { rule } from "../../ir/rule.js";
import type { KvType } from "../../ir/types.js";
import { common } from "../canonicalize/redundant.js";
import { definePass } from "../pass.js";

/** Buckets of no more rows stay as they are: their products are made for few. */
const FEW_ROWS = 64;
/** Columns that move together in the product's epilogue: all of one head. */
const RUN = 32;

const projectThenRotate = rule({
  name: "project-then-rotate",
  // qkv = x.W + b;  q, c = rope_kv_append(qkv, cache)   =>   t = rope_turns(positions);  q, c = qkv_rope_append(x, W, b, t, cache)
  match: {
    qkv: op("linear", { x: "x", weight: "weight" }),
    turned: op("rope_kv_append", { qkv: "qkv", positions: "positions", slots: "slots", cache: "cache" }),
  },
  where: {
    "nobody else reads the projection": ({ qkv, turned }, info) => info.onlyReader(resultOf(qkv), turned),
    "the projection is f32": ({ qkv }) => qkv.attrs.dtype === "f32",
    "all that is stored is bf16": ({ x, weight, turned, cache }) =>
      [x, weight, cache].every(({ type }) => type.dtype === "bf16") && turned.attrs.dtype === "bf16",
    "positions are those of text": ({ turned }) => turned.attrs.sections[0] === 0 && turned.attrs.sections[1] === 0,
    "heads are whole runs of columns": ({ cache }) => (cache.type as KvType).headDim % RUN === 0,
  },
  rewrite: ({ qkv, turned, x, weight, positions, slots, cache }, build) => {
    const { heads, theta, sections, dtype } = turned.attrs;
    const { bias } = qkv.operands;
    const turns = build.value("rope_turns", { positions }, { head_dim: (cache.type as KvType).headDim, theta, sections });
    const node = build.node("qkv_rope_append", { x, weight, bias, turns, slots, cache }, { heads, dtype });
    return turned.results.map((old, i) => [old, node.results[i] as Value] as const);
  },
});

export const fuseQkvRope = definePass({
  name: "fuse-qkv-rope",
  needs: "fused",
  leaves: "fused",
  applies: ({ name, bounds }) => /^prefill(_|$)/.test(name) && (bounds.T?.max ?? 0) > FEW_ROWS,
  // All layers turn alike.
  rules: [projectThenRotate, common],
});
