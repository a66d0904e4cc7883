/**
 * One matrix for q, k and v: three products that read the same x become one with more rows, which streams better and is launched once.
 * The three are found from the attention that they feed, so gate and up, which share an x as well, are left to fuse-gate-up.
 */

import { type NodeOf, resultOf, type Value } from "../../ir/graph.js";
import { op } from "../../ir/match.js";
import type { Rebuild } from "../../ir/replace.js";
import { type Replacement, rule } from "../../ir/rule.js";
import { definePass } from "../pass.js";
import { biasesOf, canJoinBiases, canJoinRows, rowCount } from "./weights.js";

interface Projections {
  readonly q: NodeOf<"linear">;
  readonly k: NodeOf<"linear">;
  readonly v: NodeOf<"linear">;
}

const where = {
  "q, k and v are three projections": ({ q, k, v }: Projections) => new Set([q, k, v]).size === 3,
  "they are rounded to one dtype": ({ q, k, v }: Projections) => q.attrs.dtype === k.attrs.dtype && k.attrs.dtype === v.attrs.dtype,
  "their weights are of one kind": (found: Projections) => canJoinRows(weightsOf(found)),
  "all have a bias or none has": ({ q, k, v }: Projections) => canJoinBiases([q, k, v]),
};

function weightsOf({ q, k, v }: Projections): readonly Value[] {
  return [q, k, v].map(({ operands }) => operands.weight);
}

function joined(found: Projections, build: Rebuild): Replacement {
  const linears = [found.q, found.k, found.v];
  const parts = weightsOf(found);
  const weight = build.value("concat_rows", { parts }, {});
  const biases = biasesOf(linears);
  const bias = biases.length ? build.value("concat_rows", { parts: biases }, {}) : undefined;
  const qkv = build.value("linear", { x: found.q.operands.x, weight, bias }, { dtype: found.q.attrs.dtype });
  const pieces = build.node("split", { x: qkv }, { sizes: parts.map(rowCount) });
  return linears.map((node, i) => [resultOf(node), pieces.results[i] as Value] as const);
}

const projections = {
  q: op("linear", { x: "x" }),
  k: op("linear", { x: "x" }),
  v: op("linear", { x: "x" }),
  rotatedQ: op("rope", { x: "q" }),
  rotatedK: op("rope", { x: "k" }),
};

// q = x.Wq;  k = x.Wk;  v = x.Wv   =>   q, k, v = split(x.concat(Wq, Wk, Wv))
const siblings = rule({
  name: "siblings",
  match: {
    ...projections,
    append: op("kv_append", { k: "rotatedK", v: "v" }),
    attention: op("attention", { q: "rotatedQ", cache: "append" }),
  },
  keep: ["rotatedQ", "rotatedK", "append", "attention"],
  where,
  rewrite: joined,
});

// The same where v is rounded on its way into the cache.
const siblingsRounded = rule({
  name: "siblings-rounded-v",
  match: {
    ...projections,
    roundedV: op("cast", { x: "v" }),
    append: op("kv_append", { k: "rotatedK", v: "roundedV" }),
    attention: op("attention", { q: "rotatedQ", cache: "append" }),
  },
  keep: ["rotatedQ", "rotatedK", "roundedV", "append", "attention"],
  where,
  rewrite: joined,
});

export const fuseQkv = definePass({ name: "fuse-qkv", needs: "fused", leaves: "fused", rules: [siblings, siblingsRounded] });
