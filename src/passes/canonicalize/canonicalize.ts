/**
 * One spelling for one thing: casts that do nothing, weights cut and joined again, the same computation twice, results that nobody reads.
 * Runs before the fusions, so that they see one form, and after them, to sweep up; it is the only pass that removes dead nodes.
 */

import { resultOf, type Value } from "../../ir/graph.js";
import { op } from "../../ir/match.js";
import { type Rule, rule } from "../../ir/rule.js";
import { DTYPES, type DType, sameType } from "../../ir/types.js";
import { definePass } from "../pass.js";
import { common, dead } from "./redundant.js";
import { weightRules } from "./weights.js";

/** Whether every value of `from` is one of `to` as well, so that a rounding to `to` changes nothing. */
function holdsAll(to: DType, from: DType): boolean {
  if (to === from) return true;
  return (to === "f32" && (from === "bf16" || from === "f16")) || (to === "i64" && DTYPES[from].float === false);
}

function dtypeOf(value: Value): DType {
  return value.type.dtype;
}

/** cast(x) = x, if x has that type. */
const sameCast = rule({
  name: "cast-to-same",
  match: { y: op("cast", { x: "x" }) },
  when: ({ x, y }) => sameType(x.type, resultOf(y).type),
  rewrite: ({ x }) => x,
});

/** cast(cast(x)) = cast(x), if the inner cast rounds nothing. */
const castOfCast = rule({
  name: "cast-of-cast",
  match: { inner: op("cast", { x: "x" }), outer: op("cast", { x: "inner" }) },
  when: ({ x, inner }) => holdsAll(inner.attrs.dtype, dtypeOf(x)),
  rewrite: ({ x, outer }, build) => build.value("cast", { x }, outer.attrs),
});

/** all_reduce(x) = x over one device. */
const reduceOverOne = rule({
  name: "all-reduce-over-one",
  match: { y: op("all_reduce", { x: "x" }) },
  when: ({ y }) => y.attrs.group === 1,
  rewrite: ({ x }) => x,
});

/** all_gather(x) = x over one device. */
const gatherOverOne = rule({
  name: "all-gather-over-one",
  match: { y: op("all_gather", { x: "x" }) },
  when: ({ x, y }) => y.attrs.group === 1 && sameType(x.type, resultOf(y).type),
  rewrite: ({ x }) => x,
});

/** split(x, [all]) = x. */
const splitInOne: Rule = {
  name: "split-in-one",
  *find(info) {
    for (const root of info.nodesOf("split")) {
      const [piece, second] = root.results;
      if (piece && !second && sameType(piece.type, root.operands.x.type)) yield { root, nodes: [root], rewrite: () => root.operands.x };
    }
  },
};

export const canonicalize = definePass({
  name: "canonicalize",
  needs: "fused",
  leaves: "fused",
  // Dead nodes go first: what nobody reads needs no other rule.
  rules: [dead, sameCast, castOfCast, reduceOverOne, gatherOverOne, splitInOne, ...weightRules, common],
});
