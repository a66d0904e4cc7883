/**
 * Rotates q and k and writes k and v to the cache in one go, straight out of the joined projection: k and v are never written twice.
 * Needs what fuse-qkv leaves: q, k and v as pieces of one value.
 */

import type { GraphInfo } from "../../ir/analysis.js";
import { type Node, type NodeOf, resultOf, type Value } from "../../ir/graph.js";
import { op } from "../../ir/match.js";
import type { Rebuild } from "../../ir/replace.js";
import { type Replacement, rule } from "../../ir/rule.js";
import type { KvType } from "../../ir/types.js";
import { definePass } from "../pass.js";

interface Found {
  readonly pieces: NodeOf<"split">;
  readonly q: NodeOf<"rope">;
  readonly k: NodeOf<"rope">;
  readonly append: NodeOf<"kv_append">;
}

const where = {
  "q, k and v are all of it": ({ pieces }: Found) => pieces.results.length === 3,
  "q and k turn alike": ({ q, k }: Found) =>
    q.attrs.theta === k.attrs.theta && q.attrs.dtype === k.attrs.dtype && q.attrs.sections.join() === k.attrs.sections.join(),
  "heads are those of the cache": ({ q, k, append }: Found) =>
    [q, k].every(({ attrs }) => kvType(append).headDim === attrs.head_dim) && kvType(append).heads === k.attrs.heads,
  "the turned k is only appended": ({ k, append }: Found, info: GraphInfo) => info.onlyReader(resultOf(k), append),
};

/** Whether each piece of the projection is read by one node only. */
function readOnceBy({ pieces }: Found, readers: readonly Node[], info: GraphInfo): boolean {
  return readers.every((reader, i) => info.onlyReader(pieces.results[i] as Value, reader));
}

function kvType({ operands }: NodeOf<"kv_append">): KvType {
  return operands.cache.type as KvType;
}

function fused({ pieces, q, append }: Found, build: Rebuild): Replacement {
  const { heads, theta, sections, dtype } = q.attrs;
  const { cache, slots } = append.operands;
  const operands = { qkv: pieces.operands.x, positions: q.operands.positions, slots, cache };
  const node = build.node("rope_kv_append", operands, { heads, theta, sections, dtype });
  return [q, append].map((old, i) => [resultOf(old), node.results[i] as Value] as const);
}

const turned = {
  pieces: op("split"),
  q: op("rope", { x: "pieces.0", positions: "positions" }),
  k: op("rope", { x: "pieces.1", positions: "positions" }),
};

// q, k, v = split(qkv);  q' = rope(q);  cache' = append(cache, rope(k), v)   =>   q', cache' = rope_kv_append(qkv, cache)
const rotateAndAppend = rule({
  name: "rotate-and-append",
  match: {
    ...turned,
    append: op("kv_append", { k: "k", v: "pieces.2" }),
    attention: op("attention", { q: "q", cache: "append" }),
  },
  keep: ["attention"],
  where: { ...where, "nobody else reads the pieces": (found, info) => readOnceBy(found, [found.q, found.k, found.append], info) },
  rewrite: fused,
});

// The same where v is rounded first to what the cache holds.
const rotateRoundAndAppend = rule({
  name: "rotate-round-and-append",
  match: {
    ...turned,
    v: op("cast", { x: "pieces.2" }),
    append: op("kv_append", { k: "k", v: "v" }),
    attention: op("attention", { q: "q", cache: "append" }),
  },
  keep: ["attention"],
  where: {
    ...where,
    "v is rounded as the cache would": ({ v, append }) => v.attrs.dtype === kvType(append).dtype,
    "the rounded v is only appended": ({ v, append }, info) => info.onlyReader(resultOf(v), append),
    "nobody else reads the pieces": (found, info) => readOnceBy(found, [found.q, found.k, found.v], info),
  },
  rewrite: fused,
});

export const fuseRopeKvAppend = definePass({
  name: "fuse-rope-kv-append",
  needs: "fused",
  leaves: "fused",
  rules: [rotateAndAppend, rotateRoundAndAppend],
});
